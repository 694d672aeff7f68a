// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! One allocation is one row, also if allocator functions call one another, in C++, and in programs with two
//! allocators.

use std::process::Command;

use crate::harness::{
    AttachMode, Target, best_mode, each_mode_with_session, program, program_if_built, skip,
};
use crate::mallocsnoop::discovery::installed;
use crate::mallocsnoop::{bump_library, count, trace_pid, with_call};

each_mode_with_session! {
    one_allocation_is_one_row
    one_free_is_one_row
    nested_option_shows_inner_calls
    size_of_the_outermost_call_is_compared
    call_that_never_returns_hides_no_others
    musl_functions_count_once
    mimalloc_functions_that_jump_count_once
}

best_mode! {
    allocation_counts_once_in_the_summary
    calls_option_leaves_out_nested_calls
    prefixed_allocator_is_traced_beside_the_c_library
}

/// Orders of tests/targets/news.cc, with how often each is carried out.
const FORMS: [(&str, usize); 21] = [
    ("malloc", 31),
    ("calloc", 29),
    ("realloc", 23),
    ("reallocarray", 19),
    ("posix_memalign", 17),
    ("memalign", 13),
    ("aligned_alloc", 11),
    ("either-malloc", 7),
    ("either-realloc", 5),
    ("new", 31),
    ("new-sized", 29),
    ("new-nothrow", 23),
    ("new-aligned", 19),
    ("new-aligned-sized", 17),
    ("new[]", 13),
    ("new[]-sized", 11),
    ("new[]-nothrow", 7),
    ("new[]-aligned", 5),
    ("mallocx", 31),
    ("rallocx", 29),
    ("xallocx", 23),
];
/// Aligned blocks are freed with larger ones between them, so that no two forms have one size.
const FIRST_SIZE: u64 = 40_064;

fn size_of(form: usize) -> u64 {
    FIRST_SIZE + 64 * form as u64
}

/// tests/targets/news.cc with the C library and with each installed allocator.
fn targets() -> Vec<(&'static str, Target)> {
    let names = ["libjemalloc.so", "libtcmalloc_minimal.so", "libmimalloc.so"];
    let mut found = vec![("libc", Target::start(Command::new(program("news"))))];
    for name in names {
        let Some(library) = installed(name) else {
            skip(&format!("{name} is not installed in /usr/lib"));
            continue;
        };
        let mut command = Command::new(program("news"));
        command.env("LD_PRELOAD", library);
        found.push((name, Target::start(command)));
    }
    found
}

fn news_target() -> Target {
    Target::start(Command::new(program("news")))
}

fn bump_news_target() -> Target {
    let mut command = Command::new(program("news"));
    command.env("LD_PRELOAD", bump_library());
    Target::start(command)
}

/// Has the target allocate in every way that it can. Returns the size and count of each.
fn allocate_in_each_form(target: &mut Target) -> Vec<(&'static str, u64, usize)> {
    let mut done = Vec::new();
    for (index, (form, times)) in FORMS.into_iter().enumerate() {
        if target
            .ask(&format!("{form} {times} {}", size_of(index)))
            .is_empty()
        {
            done.push((form, size_of(index), times));
        }
    }
    done
}

fn one_allocation_is_one_row(mode: AttachMode) {
    for options in [&["--min-size", "40000"][..], &["--ret", "--min-size", "40000"]] {
        for (library, mut target) in targets() {
            let tool = trace_pid(mode, &target, options);
            let done = allocate_in_each_form(&mut target);
            let run = tool.stop();
            run.assert_clean();
            assert_eq!(run.summary["unmatched"], 0, "{library} {options:?}");
            let skipped = run.stderr.contains("skipped");
            let wrong: Vec<_> = done
                .iter()
                .map(|&(form, size, times)| (form, times, count(&run, size)))
                // In a file that unwinds, a function may have no safe way to see all returns.
                .filter(|&(_, times, shown)| shown != times && (shown > 0 || !skipped))
                .collect();
            assert!(wrong.is_empty(), "{library} {options:?}: {wrong:?}");
            assert!(done.len() >= 18);
        }
    }
}

fn one_free_is_one_row(mode: AttachMode) {
    for options in [&["--calls", "free"][..], &["--ret", "--calls", "free"]] {
        for (library, mut target) in targets() {
            let tool = trace_pid(mode, &target, options);
            let forms = FORMS
                .iter()
                .take(18)
                .filter(|(form, _)| *form != "either-realloc");
            let mut freed = 0;
            for (form, times) in forms {
                target.ask(&format!("{form} {times} {FIRST_SIZE}"));
                freed += times;
            }
            let run = tool.stop();
            // tcmalloc's functions jump to hooks, so that their returns are not watched.
            if !run.stderr.contains("skipped") {
                assert_eq!(run.with("call", "free").len(), freed, "{library} {options:?}");
            }
        }
    }
}

fn nested_option_shows_inner_calls(mode: AttachMode) {
    for options in [&["--nested"][..], &["--nested", "--ret"]] {
        let mut target = news_target();
        let tool = trace_pid(mode, &target, options);
        target.ask("realloc 97 40009");
        let run = tool.stop();
        run.assert_clean();
        for call in ["malloc", "realloc"] {
            assert_eq!(with_call(&run, &[call], 40009).len(), 97, "{call} {options:?}");
        }
    }
}

fn size_of_the_outermost_call_is_compared(mode: AttachMode) {
    // tests/targets/bump.c: malloc of 7004 bytes calls malloc of 7003, 7002 and 7001.
    for ret in [&[][..], &["--ret"]] {
        for (limits, shown) in [(["--max-size", "7003"], 0), (["--min-size", "7004"], 97)] {
            let mut target = bump_news_target();
            let tool = trace_pid(mode, &target, &[&limits[..], ret].concat());
            target.ask("malloc 97 7004");
            let run = tool.stop();
            run.assert_clean();
            assert_eq!(run.rows.len(), shown, "{limits:?} {ret:?}");
        }
    }
}

fn call_that_never_returns_hides_no_others(mode: AttachMode) {
    for options in [&["--min-size", "7919"][..], &["--ret", "--min-size", "7919"]] {
        let mut target = bump_news_target();
        let tool = trace_pid(mode, &target, options);
        // A handler interrupts malloc, allocates, and leaves with longjmp. Others return.
        target.ask("escape 31 9001");
        target.ask("handler 29 9002");
        target.ask("fork 23 9004");
        target.ask("malloc 97 9007");
        let run = tool.stop();
        run.assert_clean();
        for (size, times) in [(9001, 31), (9002, 29), (9007, 97)] {
            assert_eq!(count(&run, size), times, "{size} {options:?}");
        }
    }
}

fn musl_functions_count_once(mode: AttachMode) {
    let orders = [
        ("calloc 89 7 601", "calloc", 4207, 89),
        ("reallocarray 79 11 379", "reallocarray", 4169, 79),
        ("posix_memalign 73 64 4127", "posix_memalign", 4127, 73),
        ("memalign 67 64 4133", "memalign", 4133, 67),
    ];
    for name in ["calls-musl", "calls-musl-static"] {
        let Some(program) = program_if_built(name) else {
            skip("musl-gcc is not installed");
            continue;
        };
        for options in [&[][..], &["--ret"]] {
            let mut target = Target::start(Command::new(&program));
            let tool = trace_pid(mode, &target, options);
            for (order, ..) in orders {
                target.ask(order);
            }
            let run = tool.stop();
            run.assert_clean();
            for (order, call, size, times) in orders {
                assert_eq!(count(&run, size), times, "{name} {options:?}: {order}");
                assert_eq!(with_call(&run, &[call], size).len(), times, "{name}: {order}");
            }
        }
    }
}

fn mimalloc_functions_that_jump_count_once(mode: AttachMode) {
    // mi_reallocn jumps to mi_heap_reallocn, and that to mi_heap_realloc.
    const CALLS: [(&str, &str, usize); 5] = [
        ("mi_recalloc", "recalloc", 19),
        ("mi_reallocn", "reallocn", 53),
        ("mi_calloc_aligned", "calloc_aligned", 67),
        ("mi_heap_reallocn", "reallocn", 37),
        ("mi_heap_recalloc", "recalloc", 41),
    ];
    let Some(library) = installed("libmimalloc.so") else {
        return skip("libmimalloc.so is not installed in /usr/lib");
    };
    for options in [&["--min-size", "40000"][..], &["--ret", "--min-size", "40000"]] {
        let mut command = Command::new(program("news"));
        command.env("LD_PRELOAD", &library);
        let mut target = Target::start(command);
        let tool = trace_pid(mode, &target, options);
        for (form, (function, _, times)) in CALLS.into_iter().enumerate() {
            let answer = target.ask(&format!("{function} {times} {}", size_of(form)));
            assert!(answer.is_empty(), "{function}: {answer:?}");
        }
        let run = tool.stop();
        run.assert_clean();
        for (form, (function, call, times)) in CALLS.into_iter().enumerate() {
            let shown = (
                count(&run, size_of(form)),
                with_call(&run, &[call], size_of(form)).len(),
            );
            assert_eq!(shown, (times, times), "{function} {options:?}");
        }
    }
}

fn allocation_counts_once_in_the_summary(mode: AttachMode) {
    let mut target = news_target();
    let tool = trace_pid(mode, &target, &["--summary", "--min-size", "40000"]);
    target.ask("realloc 97 40009");
    target.ask("reallocarray 89 40013");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(run.rows.len(), 1);
    assert_eq!(run.rows[0]["calls"], 97 + 89);
}

fn calls_option_leaves_out_nested_calls(mode: AttachMode) {
    let mut target = news_target();
    let tool = trace_pid(mode, &target, &["--calls", "malloc"]);
    target.ask("realloc 97 40009");
    target.ask("malloc 89 40009");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(run.rows.len(), 89);
}

fn prefixed_allocator_is_traced_beside_the_c_library(mode: AttachMode) {
    let mut target = news_target();
    let tool = trace_pid(mode, &target, &[]);
    target.ask("je_malloc 97 40009");
    target.ask("malloc 89 40013");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!((count(&run, 40009), count(&run, 40013)), (97, 89));
    assert_eq!(run.rows.len(), 97 + 89);
}
