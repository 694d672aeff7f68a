// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Arguments of USDT probes that are constants: tests/targets/probes.c.

use crate::harness::{AttachMode, Tool, best_mode, program};

best_mode! { constants_have_the_sign_of_their_type }

/// Compilers write an unsigned byte of 250 as -6.
fn constants_have_the_sign_of_their_type(mode: AttachMode) {
    let probes = program("probes").display().to_string();
    let spec = format!("usdt:{probes}:counters:nop");
    for (condition, rows) in [("arg2 == 250", 13), ("arg2 != 250", 0)] {
        let args = [&*spec, "--where", condition, "--", &*probes];
        let run = Tool::start("functrace", mode, args).finish();
        assert_eq!(run.assert_clean().rows.len(), rows, "{condition}");
        assert!(
            run.rows.iter().all(|row| row["args"]["arg2"] == 250),
            "{:?}",
            run.rows
        );
    }
}
