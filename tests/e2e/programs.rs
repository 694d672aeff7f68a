// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! What a run loads and attaches: no program that it does not need.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use libbpf_rs::query::ProgInfoIter;

use crate::harness::{AttachMode, Folder, Target, Tool, each_mode_with_session, program, skip};

/// The tool's programs: those that it holds, and of these the ones that links run.
struct Programs {
    loaded: BTreeSet<String>,
    linked: BTreeSet<String>,
}

fn programs_of(tool: &Tool) -> Programs {
    let names: Vec<(u32, String)> = ProgInfoIter::default()
        .map(|info| (info.id, info.name.to_string_lossy().into_owned()))
        .collect();
    let name = |id: &str| {
        let id: u32 = id.trim().parse().expect("a program's number");
        let known = names.iter().find(|(known, _)| *known == id);
        known
            .map(|(_, name)| name.clone())
            .expect("a program of that number")
    };
    let mut programs = Programs {
        loaded: BTreeSet::new(),
        linked: BTreeSet::new(),
    };
    let folder = format!("/proc/{}/fdinfo", tool.pid());
    for entry in fs::read_dir(folder).expect("the tool's descriptors").flatten() {
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        let field = |key: &str| info.lines().find_map(|line| line.strip_prefix(key));
        if let Some(id) = field("prog_id:\t") {
            programs.loaded.insert(name(id));
            if field("link_id:\t").is_some() {
                programs.linked.insert(name(id));
            }
        }
    }
    programs
}

/// How a run of functrace, funccount, funclatency or mallocsnoop is attached to a function that is called once.
fn attached(tool: &str, mode: AttachMode, options: &[&str]) -> Programs {
    let mut target = Target::start(Command::new(program("flow")));
    let pid = target.pid().to_string();
    let tool = Tool::start(tool, mode, [&["-p", &pid][..], options].concat());
    let programs = programs_of(&tool);
    target.ask("count 7");
    tool.stop().assert_clean();
    programs
}

each_mode_with_session! { returns_are_probed_only_for_what_they_tell only_wanted_calls_have_another_return_address }

/// A return probe puts the kernel's address in the place of the return address, where the function can see it.
fn only_wanted_calls_have_another_return_address(mode: AttachMode) {
    // A file of its own: the kernel replaces the address for everybody's return probes, whatever process they are for.
    let folder = Folder::new();
    let flow = folder.copy_of(program("flow"), "flow");
    let replaced = |tool: &str, options: &[&str], order: &str| -> u64 {
        let mut target = Target::start(Command::new(&flow));
        target.ask("look 1 0");
        let pid = target.pid().to_string();
        let spec = format!("{}:looking", flow.display());
        let tool = Tool::start(tool, mode, [&[&spec, "-p", &pid], options].concat());
        let number = target.ask(order)[0].addresses[0].parse().expect("a number");
        tool.stop().assert_clean();
        number
    };
    assert_eq!(replaced("funccount", &[], "look 97 7"), 0);
    assert_eq!(replaced("functrace", &["--where", "arg0 == 7"], "look 97 7"), 0);
    assert_eq!(replaced("functrace", &["--ret"], "look 97 7"), 97);
    assert_eq!(replaced("funclatency", &[], "look 97 7"), 97);
    let condition = ["--ret", "--where", "arg0 == 7"];
    assert_eq!(replaced("functrace", &condition, "look 97 7"), 97);
    // Elsewhere what is not wanted has its return probe all the same.
    let unwanted = if mode == AttachMode::Session { 0 } else { 89 };
    assert_eq!(replaced("functrace", &condition, "look 89 3"), unwanted);
}

fn returns_are_probed_only_for_what_they_tell(mode: AttachMode) {
    if mode == AttachMode::Plain {
        return skip("probes without links do not name their programs");
    }
    let spec = format!("{}:counted", program("flow").display());
    let entries: [(&str, &[&str], &str); 5] = [
        ("mallocsnoop", &[], "alloc_entry"),
        ("mallocsnoop", &["--free", "--stack"], "alloc_entry"),
        ("mallocsnoop", &["--summary"], "alloc_entry"),
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
            &["--ret"],
            ["alloc_entry", "alloc_return"],
            "alloc_session",
        ),
        (
            "funclatency",
            &[&spec],
            ["latency_entry", "latency_return"],
            "latency_session",
        ),
        (
            "functrace",
            &[&spec, "--ret"],
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
