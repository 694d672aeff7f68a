// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! A run loads and attaches only the BPF programs that it needs.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use libbpf_rs::query::ProgInfoIter;

use crate::harness::{AttachMode, Folder, Target, Tool, each_mode_with_session, program, skip};

/// The name of programs that the tools load to try what the kernel supports.
const EMPTY_PROGRAM: &str = "ubpf_tools";

/// Names of the BPF programs of a tool.
struct Programs {
    /// The tool has a descriptor of each.
    loaded: BTreeSet<String>,
    /// Those attached by a link.
    linked: BTreeSet<String>,
}

fn programs_of(tool: &Tool) -> Programs {
    let names: Vec<(u32, String)> = ProgInfoIter::default()
        .map(|info| (info.id, info.name.to_string_lossy().into_owned()))
        .collect();
    let name = |id: &str| {
        let id: u32 = id.trim().parse().expect("a program ID");
        let known = names.iter().find(|(known, _)| *known == id);
        known
            .map(|(_, name)| name.clone())
            .expect("a program with this ID")
    };
    let mut programs = Programs {
        loaded: BTreeSet::new(),
        linked: BTreeSet::new(),
    };
    let folder = format!("/proc/{}/fdinfo", tool.pid());
    for entry in fs::read_dir(folder).expect("the tool's descriptors").flatten() {
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        let field = |key: &str| info.lines().find_map(|line| line.strip_prefix(key));
        // An empty program is loaded for a moment, which saves the wait of the first probe.
        if let Some(id) = field("prog_id:\t").filter(|id| name(id) != EMPTY_PROGRAM) {
            programs.loaded.insert(name(id));
            if field("link_id:\t").is_some() {
                programs.linked.insert(name(id));
            }
        }
    }
    programs
}

/// The BPF programs of a run, which also has to work: the target makes a few calls.
fn attached(tool: &str, mode: AttachMode, options: &[&str]) -> Programs {
    let mut target = Target::start(Command::new(program("flow")));
    let pid = target.pid().to_string();
    let tool = Tool::start(tool, mode, [&["-p", &pid][..], options].concat());
    let programs = programs_of(&tool);
    target.ask("count 7");
    tool.stop().assert_clean();
    programs
}

each_mode_with_session! {
    return_programs_are_loaded_only_when_needed
    return_address_is_replaced_only_for_traced_returns
}

/// A return probe replaces the return address on the stack, which the function can see.
fn return_address_is_replaced_only_for_traced_returns(mode: AttachMode) {
    // A copy of the program: return probes of other tests would replace the address in this process too.
    let folder = Folder::new();
    let flow = folder.copy_of(program("flow"), "flow");
    let replaced = |tool: &str, options: &[&str], order: &str| -> u64 {
        let mut target = Target::start(Command::new(&flow));
        target.ask("look 1 0");
        let pid = target.pid().to_string();
        let spec = format!("{}:looking", flow.display());
        let tool = Tool::start(tool, mode, [&[&spec, "-p", &pid], options].concat());
        let count = target.ask(order)[0].addresses[0].parse().expect("a number");
        tool.stop().assert_clean();
        count
    };
    assert_eq!(replaced("funccount", &[], "look 97 7"), 0);
    assert_eq!(replaced("functrace", &["--where", "arg0 == 7"], "look 97 7"), 0);
    // By default, arm64 has no return probes.
    let kernel = ["--returns", "kernel"];
    assert_eq!(
        replaced("functrace", &["--ret", kernel[0], kernel[1]], "look 97 7"),
        97
    );
    assert_eq!(replaced("funclatency", &kernel, "look 97 7"), 97);
    assert_eq!(
        replaced("funclatency", &["--returns", "instructions"], "look 97 7"),
        0
    );
    let condition = ["--ret", "--where", "arg0 == 7", "--returns", "kernel"];
    assert_eq!(replaced("functrace", &condition, "look 97 7"), 97);
    // Only a session program can skip the return of a call whose condition is false.
    let unwanted = if mode == AttachMode::Session { 0 } else { 89 };
    assert_eq!(replaced("functrace", &condition, "look 89 3"), unwanted);
}

fn return_programs_are_loaded_only_when_needed(mode: AttachMode) {
    if mode == AttachMode::Plain {
        return skip("the programs of probes without links are not listed in fdinfo");
    }
    let spec = format!("{}:counted", program("flow").display());
    let entries: [(&str, &[&str], &str); 5] = [
        ("mallocsnoop", &["--nested"], "alloc_entry"),
        ("mallocsnoop", &["--nested", "--free", "--stack"], "alloc_entry"),
        ("mallocsnoop", &["--nested", "--summary"], "alloc_entry"),
        ("funccount", &[&spec], "count_entry"),
        ("functrace", &[&spec], "trace_entry"),
    ];
    for (tool, options, expected) in entries {
        let programs = attached(tool, mode, options);
        assert!(
            programs.linked.iter().eq([expected]),
            "{tool} {:?}",
            programs.linked
        );
        assert_eq!(programs.loaded, programs.linked, "{tool}");
    }
    let returns: [(&str, &[&str], [&str; 2], &str); 3] = [
        (
            "mallocsnoop",
            &[
                "--nested",
                "--ret",
                "--calls",
                "malloc,free",
                "--returns",
                "kernel",
            ],
            ["alloc_entry", "alloc_return"],
            "alloc_session",
        ),
        (
            "funclatency",
            &[&spec, "--returns", "kernel"],
            ["latency_entry", "latency_return"],
            "latency_session",
        ),
        (
            "functrace",
            &[&spec, "--ret", "--returns", "kernel"],
            ["trace_entry", "trace_return"],
            "trace_session",
        ),
    ];
    for (tool, options, two, one) in returns {
        let programs = attached(tool, mode, options);
        let ends: BTreeSet<&str> = match mode {
            AttachMode::Session => [one].into(),
            _ => two.into(),
        };
        let expected: BTreeSet<String> = ends
            .union(&["thread_exit", "thread_exec"].into())
            .map(|name| (*name).to_owned())
            .collect();
        assert_eq!(
            (&programs.linked, &programs.loaded),
            (&expected, &expected),
            "{tool}"
        );
    }
}
