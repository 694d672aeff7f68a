// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! IFUNC symbols, whose function the dynamic loader chooses when the program starts.

use crate::harness::{AttachMode, each_mode, program, skip};
use crate::real::{calls, count_in_command, spec, start, trace_orders};

/// The implementation of memcpy is also that of memmove on x86-64.
const COPY: &str = match cfg!(target_arch = "x86_64") {
    true => "memcpy/memmove",
    false => "memcpy",
};

each_mode! {
    ifunc_symbols_are_counted
    ifunc_symbols_with_one_implementation_are_named
    ifunc_symbols_are_counted_before_a_process_uses_them
}

/// strlen and memcpy are IFUNC symbols: the dynamic loader chooses their implementation at program start.
fn ifunc_symbols_are_counted(mode: AttachMode) {
    let specs = ["libc:strlen", "libc:memcpy", "libc:getpgid"];
    let orders = ["strlen 1009", "memcpy 503", "getpgid 13", "strlen 4"];
    let run = trace_orders("funccount", mode, &specs, &mut start(&program("plt")), &orders);
    let found = ["strlen", COPY, "getpgid"].map(|name| calls(&run, name));
    assert_eq!(found, [1013, 503, 13], "{:?}", run.rows);
}

/// A row of either name has the calls by both.
fn ifunc_symbols_with_one_implementation_are_named(mode: AttachMode) {
    if !cfg!(target_arch = "x86_64") {
        return skip("memcpy and memmove have implementations of their own");
    }
    for (spec, name) in [("libc:memcpy", COPY), ("libc:memmove", "memmove/memcpy")] {
        let run = trace_orders(
            "funccount",
            mode,
            &[spec],
            &mut start(&program("plt")),
            &["memcpy 211"],
        );
        assert_eq!(calls(&run, name), 211, "{:?}", run.rows);
    }
}

/// A file that nothing runs yet does not say which implementation it will use, nor does a static program.
fn ifunc_symbols_are_counted_before_a_process_uses_them(mode: AttachMode) {
    let (plt, fixed) = (program("plt"), program("plt-static"));
    for (spec, program) in [("libc:strlen", &plt), (&spec(&fixed, "strlen"), &fixed)] {
        let command = [program.to_str().expect("UTF-8"), "strlen 1009"];
        let run = count_in_command(mode, &[spec], command);
        let count = calls(&run, "strlen");
        // The start of a program calls it, too.
        assert!((1009..1109).contains(&count), "{spec}: {:?}", run.rows);
    }
}
