// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The functions of allocators, by the names of their symbols.

use clap::ValueEnum;

use crate::bpf::mallocsnoop::types::alloc_shape;
use crate::find::code::placement::Needs;

/// A function, as `--calls` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum AllocCall {
    Malloc,
    Calloc,
    Realloc,
    Reallocarray,
    PosixMemalign,
    Memalign,
    AlignedAlloc,
    Valloc,
    Pvalloc,
    New,
    Mallocx,
    Rallocx,
    Xallocx,
    Free,
}

/// A symbol, without the prefix of its family.
#[derive(Debug)]
pub struct AllocSymbol {
    pub symbol: &'static str,
    /// The name to show.
    pub name: &'static str,
    pub call: AllocCall,
    pub shape: alloc_shape,
}

/// An allocator's functions.
pub struct Family {
    pub prefix: &'static str,
    pub symbols: &'static [&'static [AllocSymbol]],
}

/// Allocators, those for unprefixed names first. Copies with a prefix are linked into programs: of jemalloc, jemalloc
/// in Rust programs, tcmalloc, mimalloc.
pub const FAMILIES: [Family; 5] = [
    Family {
        prefix: "",
        symbols: &[C, CPP, JEMALLOC],
    },
    Family {
        prefix: "je_",
        symbols: &[C, JEMALLOC],
    },
    Family {
        prefix: "_rjem_",
        symbols: &[C, JEMALLOC],
    },
    Family {
        prefix: "tc_",
        symbols: &[C, TCMALLOC],
    },
    Family {
        prefix: "mi_",
        symbols: &[C, MIMALLOC],
    },
];

const fn symbol(
    symbol_name: &'static str,
    name: &'static str,
    call: AllocCall,
    shape: alloc_shape,
) -> AllocSymbol {
    AllocSymbol {
        symbol: symbol_name,
        name,
        call,
        shape,
    }
}

/// A function that frees a block.
const fn frees(name: &'static str) -> AllocSymbol {
    symbol(name, "free", AllocCall::Free, FREE)
}

const ARG1: alloc_shape = alloc_shape::SHAPE_ARG1;
const ARG2: alloc_shape = alloc_shape::SHAPE_ARG2;
const ARG3: alloc_shape = alloc_shape::SHAPE_ARG3;
const ARG1_ARG2: alloc_shape = alloc_shape::SHAPE_ARG1_ARG2;
const ARG2_ARG3: alloc_shape = alloc_shape::SHAPE_ARG2_ARG3;
const ARG3_ARG4: alloc_shape = alloc_shape::SHAPE_ARG3_ARG4;
const STORED: alloc_shape = alloc_shape::SHAPE_STORED;
const IN_PLACE: alloc_shape = alloc_shape::SHAPE_IN_PLACE;
const FREE: alloc_shape = alloc_shape::SHAPE_FREE;

const C: &[AllocSymbol] = &[
    symbol("malloc", "malloc", AllocCall::Malloc, ARG1),
    symbol("calloc", "calloc", AllocCall::Calloc, ARG1_ARG2),
    symbol("realloc", "realloc", AllocCall::Realloc, ARG2),
    symbol("reallocarray", "reallocarray", AllocCall::Reallocarray, ARG2_ARG3),
    symbol(
        "posix_memalign",
        "posix_memalign",
        AllocCall::PosixMemalign,
        STORED,
    ),
    symbol("memalign", "memalign", AllocCall::Memalign, ARG2),
    symbol("aligned_alloc", "aligned_alloc", AllocCall::AlignedAlloc, ARG2),
    symbol("valloc", "valloc", AllocCall::Valloc, ARG1),
    symbol("pvalloc", "pvalloc", AllocCall::Pvalloc, ARG1),
    frees("free"),
    frees("cfree"),
];

/// Mangled as on machines with a `size_t` of 64 bits: plain, nothrow, aligned, sized.
const CPP: &[AllocSymbol] = &[
    symbol("_Znwm", "new", AllocCall::New, ARG1),
    symbol("_ZnwmRKSt9nothrow_t", "new", AllocCall::New, ARG1),
    symbol("_ZnwmSt11align_val_t", "new", AllocCall::New, ARG1),
    symbol("_ZnwmSt11align_val_tRKSt9nothrow_t", "new", AllocCall::New, ARG1),
    symbol("_Znam", "new[]", AllocCall::New, ARG1),
    symbol("_ZnamRKSt9nothrow_t", "new[]", AllocCall::New, ARG1),
    symbol("_ZnamSt11align_val_t", "new[]", AllocCall::New, ARG1),
    symbol(
        "_ZnamSt11align_val_tRKSt9nothrow_t",
        "new[]",
        AllocCall::New,
        ARG1,
    ),
    frees("_ZdlPv"),
    frees("_ZdlPvRKSt9nothrow_t"),
    frees("_ZdlPvSt11align_val_t"),
    frees("_ZdlPvSt11align_val_tRKSt9nothrow_t"),
    frees("_ZdlPvm"),
    frees("_ZdlPvmSt11align_val_t"),
    frees("_ZdaPv"),
    frees("_ZdaPvRKSt9nothrow_t"),
    frees("_ZdaPvSt11align_val_t"),
    frees("_ZdaPvSt11align_val_tRKSt9nothrow_t"),
    frees("_ZdaPvm"),
    frees("_ZdaPvmSt11align_val_t"),
];

const JEMALLOC: &[AllocSymbol] = &[
    symbol("mallocx", "mallocx", AllocCall::Mallocx, ARG1),
    symbol("rallocx", "rallocx", AllocCall::Rallocx, ARG2),
    symbol("xallocx", "xallocx", AllocCall::Xallocx, IN_PLACE),
    symbol("dallocx", "dallocx", AllocCall::Free, FREE),
    symbol("sdallocx", "sdallocx", AllocCall::Free, FREE),
];

const TCMALLOC: &[AllocSymbol] = &[
    symbol("new", "new", AllocCall::New, ARG1),
    symbol("new_nothrow", "new", AllocCall::New, ARG1),
    symbol("new_aligned", "new", AllocCall::New, ARG1),
    symbol("new_aligned_nothrow", "new", AllocCall::New, ARG1),
    symbol("newarray", "new[]", AllocCall::New, ARG1),
    symbol("newarray_nothrow", "new[]", AllocCall::New, ARG1),
    symbol("newarray_aligned", "new[]", AllocCall::New, ARG1),
    symbol("newarray_aligned_nothrow", "new[]", AllocCall::New, ARG1),
    frees("free_sized"),
    frees("delete"),
    frees("delete_nothrow"),
    frees("delete_sized"),
    frees("delete_aligned"),
    frees("delete_aligned_nothrow"),
    frees("delete_sized_aligned"),
    frees("deletearray"),
    frees("deletearray_nothrow"),
    frees("deletearray_sized"),
    frees("deletearray_aligned"),
    frees("deletearray_aligned_nothrow"),
    frees("deletearray_sized_aligned"),
];

const MIMALLOC: &[AllocSymbol] = &[
    symbol("malloc_small", "malloc", AllocCall::Malloc, ARG1),
    symbol("mallocn", "mallocn", AllocCall::Malloc, ARG1_ARG2),
    symbol("malloc_aligned", "malloc_aligned", AllocCall::Malloc, ARG1),
    symbol("malloc_aligned_at", "malloc_aligned", AllocCall::Malloc, ARG1),
    symbol("zalloc", "zalloc", AllocCall::Calloc, ARG1),
    symbol("zalloc_small", "zalloc", AllocCall::Calloc, ARG1),
    symbol("zalloc_aligned", "zalloc_aligned", AllocCall::Calloc, ARG1),
    symbol("zalloc_aligned_at", "zalloc_aligned", AllocCall::Calloc, ARG1),
    symbol("calloc_aligned", "calloc_aligned", AllocCall::Calloc, ARG1_ARG2),
    symbol(
        "calloc_aligned_at",
        "calloc_aligned",
        AllocCall::Calloc,
        ARG1_ARG2,
    ),
    symbol("reallocn", "reallocn", AllocCall::Reallocarray, ARG2_ARG3),
    symbol("reallocf", "reallocf", AllocCall::Realloc, ARG2),
    symbol("rezalloc", "rezalloc", AllocCall::Realloc, ARG2),
    symbol("recalloc", "recalloc", AllocCall::Reallocarray, ARG2_ARG3),
    symbol("realloc_aligned", "realloc_aligned", AllocCall::Realloc, ARG2),
    symbol("realloc_aligned_at", "realloc_aligned", AllocCall::Realloc, ARG2),
    symbol("rezalloc_aligned", "rezalloc_aligned", AllocCall::Realloc, ARG2),
    symbol(
        "rezalloc_aligned_at",
        "rezalloc_aligned",
        AllocCall::Realloc,
        ARG2,
    ),
    symbol(
        "recalloc_aligned",
        "recalloc_aligned",
        AllocCall::Reallocarray,
        ARG2_ARG3,
    ),
    symbol("heap_malloc", "malloc", AllocCall::Malloc, ARG2),
    symbol("heap_malloc_small", "malloc", AllocCall::Malloc, ARG2),
    symbol("heap_malloc_aligned", "malloc_aligned", AllocCall::Malloc, ARG2),
    symbol(
        "heap_malloc_aligned_at",
        "malloc_aligned",
        AllocCall::Malloc,
        ARG2,
    ),
    symbol("heap_mallocn", "mallocn", AllocCall::Malloc, ARG2_ARG3),
    symbol("heap_zalloc", "zalloc", AllocCall::Calloc, ARG2),
    symbol("heap_zalloc_aligned", "zalloc_aligned", AllocCall::Calloc, ARG2),
    symbol(
        "heap_zalloc_aligned_at",
        "zalloc_aligned",
        AllocCall::Calloc,
        ARG2,
    ),
    symbol("heap_calloc", "calloc", AllocCall::Calloc, ARG2_ARG3),
    symbol(
        "heap_calloc_aligned",
        "calloc_aligned",
        AllocCall::Calloc,
        ARG2_ARG3,
    ),
    symbol(
        "heap_calloc_aligned_at",
        "calloc_aligned",
        AllocCall::Calloc,
        ARG2_ARG3,
    ),
    symbol("heap_realloc", "realloc", AllocCall::Realloc, ARG3),
    symbol(
        "heap_realloc_aligned",
        "realloc_aligned",
        AllocCall::Realloc,
        ARG3,
    ),
    symbol(
        "heap_realloc_aligned_at",
        "realloc_aligned",
        AllocCall::Realloc,
        ARG3,
    ),
    symbol("heap_reallocf", "reallocf", AllocCall::Realloc, ARG3),
    symbol("heap_reallocn", "reallocn", AllocCall::Reallocarray, ARG3_ARG4),
    symbol("heap_rezalloc", "rezalloc", AllocCall::Realloc, ARG3),
    symbol("heap_recalloc", "recalloc", AllocCall::Reallocarray, ARG3_ARG4),
    symbol("new", "new", AllocCall::New, ARG1),
    symbol("new_nothrow", "new", AllocCall::New, ARG1),
    symbol("new_aligned", "new", AllocCall::New, ARG1),
    symbol("new_aligned_nothrow", "new", AllocCall::New, ARG1),
    symbol("new_n", "new[]", AllocCall::New, ARG1_ARG2),
    frees("free_size"),
    frees("free_size_aligned"),
    frees("free_aligned"),
];

/// What a probe reads to know the size and the pointer.
pub fn needs(shape: alloc_shape) -> Needs {
    Needs::arguments(match shape {
        ARG1 | FREE => 1,
        ARG2 | ARG1_ARG2 | IN_PLACE => 2,
        ARG3_ARG4 => 4,
        _ => 3,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_functions_have_the_names_of_the_option() {
        for symbol in C.iter().chain(JEMALLOC) {
            let value = symbol.call.to_possible_value().expect("a value");
            if symbol.call != AllocCall::Free {
                assert_eq!((symbol.symbol, symbol.name), (value.get_name(), value.get_name()));
            }
            assert_eq!(symbol.call == AllocCall::Free, symbol.shape == FREE);
        }
    }

    #[test]
    fn symbol_is_listed_once_in_its_family() {
        for family in FAMILIES {
            let mut names: Vec<&str> = family
                .symbols
                .iter()
                .copied()
                .flatten()
                .map(|symbol| symbol.symbol)
                .collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{}", family.prefix);
        }
    }
}
