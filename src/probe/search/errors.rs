// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Errors of a search that found nothing, with what the user may have meant.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::finder::{Finder, SearchSubject};
use crate::error::Failure;
use crate::find::code::instructions::MISDECODED;
use crate::find::elf::ElfFile;
use crate::find::functions;
use crate::find::host::loader;
use crate::find::host::proc::Proc;
use crate::find::similar::similar;
use crate::find::starts::UnknownStart;
use crate::probe::point::{Cookie, ProbePoint};
use crate::wording::first_names;

/// How many similar names a hint lists.
pub const MAX_SIMILAR: usize = 3;

/// Why the files of a process cannot be found.
pub fn no_process(proc: &Proc, pid: u32, error: std::io::Error) -> anyhow::Error {
    if !proc.exists(pid) {
        return Failure::failed(format!("failed to trace PID {pid}: no such process")).into();
    }
    if error.kind() == std::io::ErrorKind::NotFound {
        let message = format!("PID {pid} has no executable (a kernel thread, or it has exited)");
        return Failure::failed(message).into();
    }
    anyhow::Error::new(error).context(format!("failed to read the memory map of PID {pid}"))
}

/// Warnings about a process that is not traced as others are.
pub fn process_warnings(proc: &Proc, pid: u32) -> Vec<String> {
    let mut warnings = Vec::new();
    if proc.has_lost_main_thread(pid) {
        warnings.push(format!(
            "the main thread of PID {pid} has exited, so the kernel cannot probe this process alone: all processes with \
             its files are probed, and only its calls are shown"
        ));
    }
    let unreadable = proc.unreadable_files(pid).into_iter();
    warnings.extend(unreadable.map(|path| {
        format!(
            "failed to read {}, which PID {pid} runs: permission denied; its functions are not traced",
            path.display()
        )
    }));
    warnings
}

/// A warning about a file that has very long names.
pub fn skipped_names(path: &Path) -> String {
    format!(
        "{}: functions whose names are longer than 64 KiB are skipped",
        path.display()
    )
}

/// Neither a library nor a program has this name.
pub fn no_such_file(name: &str) -> anyhow::Error {
    const VDSO: [&str; 4] = ["vdso", "[vdso]", "linux-vdso", "linux-vdso.so.1"];
    if VDSO.contains(&name) {
        let message =
            format!("failed to find {name}: the vDSO is memory of the kernel, which cannot be probed");
        let hint = "trace a function that calls it, such as libc:clock_gettime";
        return Failure::failed(message).hint(hint).into();
    }
    let message =
        format!("failed to find {name}: no such library in the loader's cache, no such program in PATH");
    let hint = match similar(name, loader::names(), MAX_SIMILAR).as_slice() {
        [] => "give its path; `cat /proc/PID/maps` lists the files of a process".to_owned(),
        names => format!("similar names: {}; or give its path", names.join(", ")),
    };
    Failure::failed(message).hint(hint).into()
}

/// The command is not in PATH.
/// `name` is not an executable file, nor the name of one in PATH.
pub fn no_such_program(name: &OsStr) -> anyhow::Error {
    let shown = name.display();
    match Path::new(name).exists() {
        true => Failure::failed(format!("failed to run {shown}: not an executable file")),
        false => Failure::failed(format!("failed to run {shown}: no such program"))
            .hint("give its path, or check PATH: sudo changes it"),
    }
    .into()
}

/// The file has none of the functions.
pub fn nothing_in_file(sought: &SearchSubject, path: &Path) -> anyhow::Error {
    let SearchSubject { what, functions } = sought;
    let message = format!(
        "failed to find {what} in {}: no function {}",
        path.display(),
        functions.join(", ")
    );
    Failure::failed(message)
        .hint(similar_functions(path, sought))
        .into()
}

/// No file of the process has any of the functions. `files` were searched.
pub fn nothing_in_process(sought: &SearchSubject, proc: &Proc, pid: u32, files: &[PathBuf]) -> anyhow::Error {
    const LISTED: usize = 4;
    let listed: Vec<String> = files
        .iter()
        .take(LISTED)
        .map(|path| path.display().to_string())
        .collect();
    let place = match (listed.is_empty(), files.len().saturating_sub(LISTED)) {
        (true, _) => "any file".to_owned(),
        (false, 0) => listed.join(", "),
        (false, more) => format!("{} and {more} more", listed.join(", ")),
    };
    let SearchSubject { what, functions } = sought;
    let message = format!(
        "failed to find {what} in PID {pid}: no function {} in {place}",
        functions.join(", ")
    );
    let hint = match proc.executable(pid) {
        Err(_) => "a kernel thread, or a process that has just exited".to_owned(),
        Ok(object) => match ElfFile::open(object.file, &object.path) {
            Ok(elf) if elf.is_static() => {
                "the program is linked statically, and its symbols are stripped or have other names"
                    .to_owned()
            }
            _ => similar_functions(&object.path, sought),
        },
    };
    Failure::failed(message).hint(hint).into()
}

/// It is not shown that an instruction starts at the address.
pub fn unknown_start(function: &str, path: &Path, addr: u64, reason: UnknownStart) -> Failure {
    Failure::failed(format!(
        "failed to trace {function} in {}: {addr:#x} is not known to be the start of an instruction: {reason}",
        path.display()
    ))
    .hint("the symbols or USDT notes may belong to another version of the file")
}

pub fn own_program(path: &Path) -> Failure {
    Failure::failed(format!(
        "failed to trace {}: it is the program of this tool",
        path.display()
    ))
    .hint("trace a copy of it")
}

/// The kernel would mistake the instruction for another one.
pub fn mistaken(function: &str, path: &Path) -> Failure {
    let message = format!("failed to trace {function} in {}: {MISDECODED}", path.display());
    Failure::failed(message).hint("trace a function that calls it")
}

/// A warning if programs may write to the code of functions: the kernel does not probe it.
pub fn writable_code(
    finder: &impl Finder,
    path: &Path,
    elf: &ElfFile,
    points: &[ProbePoint],
) -> Option<String> {
    let in_writable = |point: &&ProbePoint| !point.cookie.is_jumped() && elf.is_writable_code(point.offset);
    let functions: BTreeSet<u32> = points
        .iter()
        .filter(in_writable)
        .map(|point| point.cookie.function())
        .collect();
    let names: Vec<Rc<str>> = functions
        .iter()
        .map(|&function| finder.name(Cookie::of_function(function)))
        .collect();
    (!names.is_empty()).then(|| {
        format!(
            "calls of {} in {} are not shown: the kernel does not probe code that programs may write to",
            first_names(&names),
            path.display()
        )
    })
}

fn similar_functions(path: &Path, sought: &SearchSubject) -> String {
    let elf = crate::find::host::object_file::ObjectFile::at(path)
        .ok()
        .and_then(|object| ElfFile::open(object.file, path).ok());
    let names = match (elf, sought.functions.first()) {
        (Some(elf), Some(name)) => functions::nearest(&elf, path, name, MAX_SIMILAR),
        _ => Vec::new(),
    };
    match names.is_empty() {
        true => "no function in that file has a similar name".to_owned(),
        false => format!("similar functions there: {}", names.join(", ")),
    }
}
