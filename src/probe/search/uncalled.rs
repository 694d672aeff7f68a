// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! What was not called of that which the user named: a misspelled or inlined function looks like one that is not used.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use super::finder::Uncalled;
use super::traced::TracedFunction;
use crate::find::spec::{ProbeSpec, ProbeSubject};
use crate::probe::called::CalledFunctions;

/// A pattern for at most as many names is taken for a list, whose members are of interest one by one.
const MAX_LISTED: usize = 8;

/// Indices of functions, which are mostly consecutive.
#[derive(Default)]
pub struct FunctionSet(Vec<Range<u32>>);

impl FunctionSet {
    pub fn add(&mut self, function: u32) {
        match self.0.last_mut() {
            Some(last) if last.contains(&function) => {}
            Some(last) if last.end == function => last.end += 1,
            _ => self.0.push(function..function.saturating_add(1)),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().cloned().flatten()
    }
}

/// Specs of which no function was called, and uncalled functions of patterns for a few. Nothing is said of functions
/// without a probe, as warnings have named them, nor of others with their names: those are implementations of one
/// function. `skipped`: of the functions of the spec, some were skipped.
pub fn uncalled<'s>(
    specs: impl Iterator<Item = (&'s ProbeSpec, &'s FunctionSet, bool)>,
    all: &[TracedFunction],
    called: &CalledFunctions<'_>,
    refused: &BTreeSet<u32>,
) -> Uncalled {
    let mut found = Uncalled::default();
    for (spec, functions, skipped) in specs {
        let probed = functions.iter().filter_map(|index| {
            let function = all.get(index as usize)?;
            let is_probed = function.is_probed && !refused.contains(&index);
            Some((&function.name, is_probed.then(|| called.may_contain(index))))
        });
        let spec_found = uncalled_of(spec, skipped, probed);
        found.others_called |= spec_found.others_called;
        for name in spec_found.names {
            if !found.names.contains(&name) {
                found.names.push(name);
            }
        }
    }
    found
}

/// `functions`: the names of its functions, and whether each was called; None without a probe.
fn uncalled_of<'f>(
    spec: &ProbeSpec,
    skipped: bool,
    functions: impl Iterator<Item = (&'f Rc<str>, Option<bool>)>,
) -> Uncalled {
    let mut names: BTreeMap<&Rc<str>, bool> = BTreeMap::new();
    let (mut is_known, mut others_called) = (!skipped, false);
    let mut is_probed = false;
    for (name, is_called) in functions {
        is_probed |= is_called.is_some();
        is_known &= is_called.is_some();
        others_called |= is_called == Some(true);
        // Files can have functions of the same name.
        if names.len() <= MAX_LISTED {
            *names.entry(name).or_default() |= is_called != Some(false);
        }
    }
    let names = match (is_probed && is_known, others_called) {
        (true, false) => vec![Rc::from(&*spec.text)],
        (_, false) => Vec::new(),
        (_, true) if is_pattern(spec) && names.len() <= MAX_LISTED => {
            let uncalled = names.into_iter().filter(|(_, is_called)| !is_called);
            uncalled.map(|(name, _)| Rc::clone(name)).collect()
        }
        (_, true) => Vec::new(),
    };
    Uncalled { names, others_called }
}

fn is_pattern(spec: &ProbeSpec) -> bool {
    match &spec.subject {
        ProbeSubject::Function { name, .. } | ProbeSubject::Usdt { name, .. } => name.exact().is_none(),
        ProbeSubject::Address(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find::spec::parse;

    fn names_of(spec: &str, functions: &[(&str, bool)]) -> Vec<String> {
        let probed = functions.iter().map(|&(name, called)| (name, Some(called)));
        names_with_unprobed(spec, false, &probed.collect::<Vec<_>>())
    }

    fn names_with_unprobed(spec: &str, skipped: bool, functions: &[(&str, Option<bool>)]) -> Vec<String> {
        let functions: Vec<(Rc<str>, Option<bool>)> = functions
            .iter()
            .map(|&(name, called)| (name.into(), called))
            .collect();
        let probed = functions.iter().map(|(name, called)| (name, *called));
        let found = uncalled_of(&parse(spec).unwrap(), skipped, probed);
        found.names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_are_those_of_specs_or_of_members_of_short_patterns() {
        assert_eq!(names_of("libc:malloc", &[("malloc", false)]), ["libc:malloc"]);
        assert_eq!(names_of("libc:malloc", &[("malloc", true)]), [""; 0]);
        // One of several copies of the library, or of the function.
        assert_eq!(
            names_of("libc:malloc", &[("malloc", true), ("malloc", false)]),
            [""; 0]
        );
        let list = "libc:{malloc,free,calloc}";
        let some = [
            ("malloc", true),
            ("free", false),
            ("malloc", false),
            ("calloc", false),
        ];
        assert_eq!(names_of(list, &some), ["calloc", "free"]);
        assert_eq!(names_of(list, &[("malloc", false), ("free", false)]), [list]);
        assert_eq!(names_of(list, &[]), [""; 0]);
    }

    #[test]
    fn uncalled_functions_of_long_patterns_are_not_listed() {
        let names: Vec<String> = (0..MAX_LISTED + 1).map(|number| format!("f{number}")).collect();
        let functions: Vec<(&str, bool)> = names.iter().map(|name| (&**name, name == "f0")).collect();
        assert_eq!(names_of("app:f*", &functions), [""; 0]);
        assert_eq!(names_of("app:f*", &functions[..MAX_LISTED]).len(), MAX_LISTED - 1);
        assert_eq!(names_of("app:f*", &functions[1..]), ["app:f*"]);
    }

    #[test]
    fn functions_without_a_probe_do_not_count() {
        let function = |is_probed| TracedFunction {
            name: "f".into(),
            file_name: "app".into(),
            ends: crate::probe::point::Ends::Entry,
            at_instructions: false,
            repeats: false,
            needs: crate::find::code::placement::Needs::NOTHING,
            is_probed,
            is_inside: false,
        };
        let all = [function(false), function(true), function(true)];
        let specs = ["app:a", "app:b", "app:c"].map(|spec| parse(spec).unwrap());
        let sets = [0, 1, 2].map(|index| {
            let mut set = FunctionSet::default();
            set.add(index);
            set
        });
        let found = uncalled(
            specs.iter().zip(&sets).map(|(spec, set)| (spec, set, false)),
            &all,
            &CalledFunctions::new(&[0; 4]),
            &BTreeSet::from([1]),
        );
        assert_eq!(
            (&found.names[..], found.others_called),
            (&["app:c".into()][..], false)
        );
    }

    #[test]
    fn nothing_is_said_of_functions_with_implementations_that_have_no_probe() {
        let both = [("strcmp", Some(false)), ("strcmp", None)];
        assert_eq!(names_with_unprobed("libc:strcmp", false, &both), [""; 0]);
        assert_eq!(names_with_unprobed("libc:strcmp", true, &both[..1]), [""; 0]);
        assert_eq!(
            names_with_unprobed("libc:strcmp", false, &both[..1]),
            ["libc:strcmp"]
        );
        let list = [both[0], both[1], ("strlen", Some(true)), ("strchr", Some(false))];
        assert_eq!(
            names_with_unprobed("libc:str{cmp,len,chr}", false, &list),
            ["strchr"]
        );
    }

    #[test]
    fn sets_join_neighbours() {
        let mut set = FunctionSet::default();
        [0, 1, 2, 2, 7, 8].into_iter().for_each(|index| set.add(index));
        assert_eq!(
            (set.0.len(), set.iter().collect::<Vec<_>>()),
            (2, vec![0, 1, 2, 7, 8])
        );
    }
}
