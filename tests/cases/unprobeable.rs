// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Functions that the kernel cannot probe are named.

use crate::harness::{
    AttachMode, best_mode, each_mode, program, program_if_built, run_to_end, skip, tool_command,
};

each_mode! { functions_that_the_kernel_rejects_are_named }

/// The kernel only looks at the instructions of files that are mapped, and nothing maps this one.
fn functions_that_the_kernel_rejects_are_named(mode: AttachMode) {
    let Some(library) = program_if_built("libbump-locked.so") else {
        return skip("instructions that cannot be probed are known for x86-64 only");
    };
    let of_library = |function: &str| format!("{}:{function}", library.display());
    let count = |functions: &[&str]| {
        let specs = functions.iter().map(|function| of_library(function));
        let args: Vec<String> = specs.chain(["--", "true"].map(str::to_owned)).collect();
        run_to_end(&mut tool_command("funccount", mode, &args))
    };
    let expected = "warning: the kernel cannot probe malloc: calls may be missing\n";
    let both = count(&["malloc", "bump_calls"]);
    assert!(both.stderr.contains(expected), "{both:?}");
    let alone = count(&["malloc"]);
    assert!(alone.stderr.contains(expected), "{alone:?}");
    let other = count(&["bump_calls"]);
    assert!(!other.stderr.contains("warning"), "{other:?}");
}

best_mode! { functions_in_writable_code_are_named }

/// The kernel places probes only where the program may not write.
fn functions_in_writable_code_are_named(mode: AttachMode) {
    let writable = program("writable");
    let spec = format!("{}:increase", writable.display());
    let ended = run_to_end(tool_command("funccount", mode, [&spec, "--"]).arg(&writable));
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.stdout.contains("sum 101\n"), "{ended:?}");
    let expected = "are not shown: the kernel does not probe code that programs may write to\n";
    assert!(ended.stderr.contains(expected), "{ended:?}");
}
