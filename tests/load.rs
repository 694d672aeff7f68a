// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Every BPF object passes the verifier of this kernel, for each way of attaching it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use libbpf_rs::{ObjectBuilder, OpenObject, OpenProgramMut, ProgramAttachType, ProgramType, libbpf_sys};
use object::{Object, ObjectSymbol};

const OBJECTS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/objects.rs"));

#[test]
fn every_object_loads() {
    if !kernel_has_cookies() {
        return;
    }
    for (name, object) in OBJECTS {
        load(name, open(name, object));
    }
}

#[test]
fn every_object_loads_for_multi_uprobe_links() {
    if !kernel_has_cookies() {
        return;
    }
    for (name, object) in OBJECTS {
        let mut open = open(name, object);
        for mut program in open
            .progs_mut()
            .filter(|program| program.prog_type() == ProgramType::Kprobe && !is_for_sessions(program))
        {
            program.set_attach_type(ProgramAttachType::TraceUprobeMulti);
        }
        load(name, open);
    }
}

#[test]
fn every_object_loads_for_kernels_without_cookies() {
    for (name, object) in OBJECTS {
        let mut open = open(name, object);
        without_cookies(name, object, &mut open);
        load(name, open);
    }
}

fn open(name: &str, object: &[u8]) -> OpenObject {
    assert!(
        nix::unistd::geteuid().is_root(),
        "loading BPF programs needs root"
    );
    let mut open = ObjectBuilder::default()
        .open_memory(object)
        .unwrap_or_else(|error| panic!("failed to open {name}: {error}"));
    with_task_offsets(name, object, &mut open);
    open
}

/// libbpf prints the verifier's log to stderr.
fn load(name: &str, mut open: OpenObject) {
    skip_unsupported(name, &mut open);
    let object = open
        .load()
        .unwrap_or_else(|error| panic!("failed to load {name}: {error}"));
    assert!(object.progs().count() > 0, "{name} has no program");
    // Older kernels follow global functions that are never called.
    if kernel_version() < (6, 8) {
        return;
    }
    for program in object.progs().filter(|program| program.autoload()) {
        let instructions = verified_instructions(program.as_fd());
        assert!(
            instructions < MOST_INSTRUCTIONS,
            "the verifier followed {instructions} instructions of {:?} in {name}, which delays every start",
            program.name()
        );
    }
}

/// Instructions that the verifier may follow in a program: about 1 us each.
const MOST_INSTRUCTIONS: u32 = 10_000;

fn verified_instructions(program: BorrowedFd<'_>) -> u32 {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut bytes = size_of_val(&info) as u32;
    // SAFETY: `info` has room for `bytes`, and asks for none of the arrays that it can point to.
    let error =
        unsafe { libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut info, &raw mut bytes) };
    assert_eq!(error, 0, "no information about a loaded program");
    info.verified_insns
}

/// Skips the programs that the tools do not load on this kernel: of --hold before 6.16, of session links before 6.13,
/// and sleepable uprobe programs, which pop free indices from a map, before 6.9.
fn skip_unsupported(name: &str, open: &mut OpenObject) {
    for mut program in open.progs_mut() {
        let section = program.section().to_string_lossy().into_owned();
        let since = match section.ends_with(".s") {
            _ if section.starts_with("tp_btf/") => (6, 16),
            _ if is_for_sessions(&program) => (6, 13),
            true => (6, 9),
            false => (0, 0),
        };
        if kernel_version() < since {
            eprintln!(
                "skipped: {section} of {name}, for kernels from {}.{} on",
                since.0, since.1
            );
            program.set_autoload(false);
        }
    }
}

fn is_for_sessions(program: &OpenProgramMut<'_>) -> bool {
    program.section().to_string_lossy().starts_with("uprobe.session")
}

/// Major and minor version of the running kernel.
fn kernel_version() -> (u32, u32) {
    let release = nix::sys::utsname::uname().expect("uname");
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Clears the constant `has_cookies`, if the object has it.
fn without_cookies(name: &str, object: &[u8], open: &mut OpenObject) {
    change_constant(name, object, open, "has_cookies", |bytes| {
        assert_eq!(bytes[0], 1, "{name}: has_cookies is not true by default");
        bytes[0] = 0;
    });
}

/// Sets offsets in kernel structs, as user space does where the kernel has BTF. Their values do not matter to the
/// verifier.
fn with_task_offsets(name: &str, object: &[u8], open: &mut OpenObject) {
    change_constant(name, object, open, "task_offsets", |bytes| {
        bytes[..TASK_OFFSETS * size_of::<u32>()].fill(1);
    });
}

/// Members of `struct task_offsets`.
const TASK_OFFSETS: usize = 5;

/// Changes the initial value of a constant, if the object has it. Its offset is that of the symbol.
fn change_constant(
    name: &str,
    object: &[u8],
    open: &mut OpenObject,
    constant: &str,
    change: impl FnOnce(&mut [u8]),
) {
    // Copied to the heap for its alignment.
    let copy = object.to_vec();
    let elf = object::File::parse(&copy[..]).unwrap_or_else(|error| panic!("{name}: {error}"));
    let symbol = elf.symbols().find(|symbol| symbol.name() == Ok(constant));
    let Some(offset) = symbol.map(|symbol| symbol.address() as usize) else {
        return;
    };
    let mut constants = open
        .maps_mut()
        .find(|map| map.name().to_string_lossy().ends_with(".rodata"))
        .unwrap_or_else(|| panic!("{name} has no constants"));
    let constants = constants
        .initial_value_mut()
        .unwrap_or_else(|| panic!("{name} has no constants"));
    change(&mut constants[offset..]);
}

/// Since 5.15. libbpf loads a program that calls the helper.
fn kernel_has_cookies() -> bool {
    // SAFETY: no options are passed.
    let has = unsafe {
        libbpf_sys::libbpf_probe_bpf_helper(
            libbpf_sys::BPF_PROG_TYPE_KPROBE,
            libbpf_sys::BPF_FUNC_get_attach_cookie,
            std::ptr::null(),
        )
    };
    assert!(has >= 0, "loading BPF programs needs root");
    if has == 0 {
        eprintln!("skipped: this kernel has no bpf_get_attach_cookie (since 5.15), as libbpf's probe shows");
    }
    has == 1
}
