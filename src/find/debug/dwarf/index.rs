// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The functions of a unit by address, its namespaces, and whether it describes types.

/// The functions and namespaces of a unit. Offsets count from the start of the debug information.
#[derive(Default)]
pub struct UnitIndex {
    /// The address of each function's first instruction, and the offset of its entry; sorted.
    pub functions: Vec<(u64, usize)>,
    /// Functions that were inlined into their callers.
    pub inlined: Vec<usize>,
    /// By start.
    pub namespaces: Vec<NamespaceSpan>,
    /// Some entry is a type or a parameter. Without any, as with `-g1`, `-gline-tables-only` or Rust's `debuginfo=1`,
    /// functions without parameters and results may have some.
    pub has_types: bool,
}

/// A namespace, which has all entries between `start` and `end`.
pub struct NamespaceSpan {
    pub start: usize,
    pub end: usize,
    /// The index of the enclosing namespace.
    pub parent: Option<usize>,
}

impl UnitIndex {
    /// The offset of the function whose first instruction is at `addr`.
    pub fn function_at(&self, addr: u64) -> Option<usize> {
        let first = self.functions.partition_point(|function| function.0 < addr);
        let function = self.functions.get(first).filter(|function| function.0 == addr);
        function.map(|&(_, at)| at)
    }

    /// The namespaces around an offset, innermost first.
    pub fn namespaces(&self, at: usize) -> impl Iterator<Item = &NamespaceSpan> {
        let all = &self.namespaces;
        let after = all.partition_point(|namespace| namespace.start <= at);
        let nearest = after.checked_sub(1).and_then(|index| all.get(index));
        let parent = |namespace: &&NamespaceSpan| namespace.parent.and_then(|parent| all.get(parent));
        std::iter::successors(nearest, parent).filter(move |namespace| at < namespace.end)
    }
}
