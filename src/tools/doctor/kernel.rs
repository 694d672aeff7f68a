// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! What the kernel has, and what it lets this process do.

use std::io::ErrorKind;

use anyhow::{Error, Result, anyhow};
use nix::sys::utsname::uname;

use super::check::{Check, Verdict};
use crate::cli::{DEFAULT_BUFFER_SIZE, parse_size};
use crate::privileges;
use crate::probe::attach::{AttachMode, features};
use crate::probe::point::Ends;
use crate::probe::prices::TrapPrices;
use crate::probe::self_test::{
    ConfinedChild, DetachThreads, SeccompOutcome, SeenCalls, TEST_COOKIE, test_attach_mode,
};

/// What the checks of the kernel have found.
pub struct KernelChecks {
    pub checks: Vec<Check>,
    /// The best attach mode that works; None if no tool can trace.
    pub mode: Option<AttachMode>,
    pub has_btf: bool,
    /// The prices of traps can be measured, for `--cost` and `--max-overhead`.
    pub measures_cost: bool,
    /// Return probes kill processes under a strict seccomp filter.
    pub kills_confined: bool,
}

impl KernelChecks {
    /// `confined` must have been forked while this process had a single thread.
    pub fn test(confined: Result<ConfinedChild>, threads: &mut DetachThreads) -> Self {
        let load = features::try_load().map_err(Error::new);
        let load = Check::from_result("BPF programs", load, |()| "can be loaded".to_owned());
        // If no BPF program can be loaded, the other checks would blame the kernel.
        let refused = (load.verdict == Verdict::No).then(|| load.detail.clone());
        let refused = refused.as_deref();
        let ring = ring_buffer(refused);
        let has_ring = ring.verdict == Verdict::Ok;
        let mut checks = vec![load, ring];
        let mode = attach_modes(refused, threads, &mut checks);
        checks.extend(optional_features(mode, refused));
        let btf = privileges::require_btf("--follow");
        let has_btf = btf.is_ok();
        checks.push(Check::from_result("kernel BTF", btf, |()| "present".to_owned()));
        let outcome = confined.and_then(|confined| match mode {
            Some(mode) => confined.test_return_probe(mode, threads),
            None => Err(anyhow!("not tested: no probe can be attached")),
        });
        let kills_confined = matches!(outcome, Ok(SeccompOutcome::Killed));
        checks.push(seccomp(outcome));
        let prices = match mode {
            Some(mode) => TrapPrices::measure(mode),
            None => Err(anyhow!("not measured: no probe can be attached")),
        };
        let measures_cost = prices.is_ok();
        checks.push(cost(prices));
        Self {
            checks,
            // No tool works without a ring buffer.
            mode: mode.filter(|_| has_ring),
            has_btf,
            measures_cost,
            kills_confined,
        }
    }
}

/// Name and release of the kernel, and the machine.
pub fn release() -> Check {
    let text = uname().map(|name| {
        let parts = [name.sysname(), name.release(), name.machine()];
        parts.map(|part| part.to_string_lossy().into_owned()).join(" ")
    });
    Check::from_result("kernel", text.map_err(Error::new), |text| text)
}

/// A ring buffer of the default size. Before 5.11 it counts towards the locked memory of the user.
fn ring_buffer(refused: Option<&str>) -> Check {
    let name = "ring buffer";
    let size = DEFAULT_BUFFER_SIZE;
    if let Some(reason) = refused {
        return Check::no(name, reason);
    }
    let bytes = parse_size(size).map_err(Error::msg);
    match bytes.map(|bytes| features::try_ring(bytes as u32)) {
        Ok(Ok(())) => Check::ok(name, format!("{size} can be allocated")),
        Ok(Err(error)) if error.kind() == ErrorKind::PermissionDenied => {
            Check::no(name, format!("{size} exceeds the limit of locked memory"))
                .hint("raise it with `ulimit -l unlimited`, or grant CAP_SYS_RESOURCE")
        }
        Ok(Err(error)) => Check::failed(name, &Error::new(error)),
        Err(error) => Check::failed(name, &error),
    }
}

/// The best one first.
const ATTACH_MODES: [(&str, AttachMode); 3] = [
    ("uprobes: multi links", AttachMode::Multi),
    ("uprobes: perf links", AttachMode::Single),
    ("uprobes: perf events", AttachMode::Plain),
];

/// Tests each mode, and returns the best one that works.
fn attach_modes(
    refused: Option<&str>,
    threads: &mut DetachThreads,
    checks: &mut Vec<Check>,
) -> Option<AttachMode> {
    let mut best = None;
    for (name, mode) in ATTACH_MODES {
        // Returns are tested once: they work alike in all modes, and the kernel takes 0.1 s to remove each
        // perf event.
        let ends = if best.is_none() { Ends::Both } else { Ends::Entry };
        let check = match refused {
            Some(reason) => Check::no(name, reason),
            None => attach_mode(name, mode, ends, threads),
        };
        if check.verdict == Verdict::Ok {
            best.get_or_insert(mode);
        }
        checks.push(check);
    }
    best
}

fn attach_mode(name: &'static str, mode: AttachMode, ends: Ends, threads: &mut DetachThreads) -> Check {
    let expected = SeenCalls {
        entered: 1,
        returned: u64::from(ends == Ends::Both),
        cookie: TEST_COOKIE.into(),
    };
    let mode = AttachMode::choose(Some(mode));
    match mode.and_then(|mode| test_attach_mode(mode, ends, threads)) {
        Ok(seen) if seen == expected => Check::ok(name, "a test call was seen, with its cookie"),
        Ok(SeenCalls {
            entered,
            returned,
            cookie,
        }) => Check::no(
            name,
            format!("wrong result of a test call: entered {entered}, returned {returned}, cookie {cookie}"),
        ),
        Err(error) => Check::failed(name, &error),
    }
}

fn optional_features(mode: Option<AttachMode>, refused: Option<&str>) -> [Check; 4] {
    let check = |name, is_there: bool, present: &str, absent: &str| match (refused, is_there) {
        (Some(reason), _) => Check::no(name, reason),
        (None, true) => Check::ok(name, present),
        (None, false) => Check::no(name, absent),
    };
    [
        check(
            "multi links' filter",
            features::has_multi(),
            "-p does not slow down other processes",
            "perf events are used, which filter by process as well",
        ),
        check(
            "session links",
            features::has_sessions(),
            "filtered calls are spared the return probe",
            "every call pays for its return probe",
        ),
        check(
            "cookies",
            features::has_cookies(),
            "one program serves all functions",
            "each function needs a copy of the programs",
        ),
        check(
            "sleepable programs",
            mode.is_some_and(AttachMode::can_sleep),
            "functrace can read strings that are paged out",
            "strings that are paged out are shown as <fault>",
        ),
    ]
}

fn seccomp(outcome: Result<SeccompOutcome>) -> Check {
    let name = "return probes and seccomp";
    match outcome {
        Ok(SeccompOutcome::Survives) => Check::ok(name, "a test process under a strict filter survives"),
        Ok(SeccompOutcome::Killed) => Check::limit(name, "a test process under a strict filter is killed")
            .hint("do not trace returns of sandboxed programs, such as browsers; Linux 6.14 fixes this"),
        Err(error) => Check::failed(name, &error),
    }
}

fn cost(prices: Result<TrapPrices>) -> Check {
    Check::from_result("cost of a probe", prices, |prices| {
        format!(
            "{:.0} ns emulated, {:.0} ns single-stepped, {:.0} ns more for a return",
            prices.emulated, prices.stepped, prices.returning
        )
    })
}
