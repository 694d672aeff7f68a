// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! funclist: its output is compared with the symbol table, the loader and the documentation of the traced program.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use object::{Object, ObjectSymbol, SymbolKind};
use serde_json::{Value, json};

use crate::harness::{Ended, TOOLS, Target, program, program_if_built, run_to_end, skip};

/// Runs funclist.
pub fn funclist<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Ended {
    run_to_end(Command::new(&*TOOLS).arg("funclist").args(args))
}

/// Runs funclist with `-j`, which has to succeed, and returns its rows.
pub fn rows(args: &[&str]) -> Vec<Value> {
    let ended = funclist(["-j"].iter().chain(args));
    assert!(ended.status.success(), "{ended:?}");
    let rows = ended.stdout.lines().map(serde_json::from_str);
    rows.collect::<Result<_, _>>().expect("JSON")
}

fn hex(value: &Value) -> u64 {
    let text = value.as_str().and_then(|text| text.strip_prefix("0x"));
    u64::from_str_radix(text.expect("an address"), 16).expect("a number")
}

/// The output of a Python script, or `None` if there is no /usr/bin/python3. By its path, not a wrapper from PATH.
fn python(script: &str) -> Option<String> {
    let output = Command::new("/usr/bin/python3")
        .args(["-c", script])
        .output()
        .ok()?;
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).expect("UTF-8"))
}

#[test]
fn every_function_symbol_is_listed_with_address_and_size() {
    let path = program("calls-static");
    let bytes = std::fs::read(&path).expect("the program");
    let file = object::File::parse(&bytes[..]).expect("ELF");
    let expected: BTreeSet<(u64, u64)> = file
        .symbols()
        .filter(|symbol| symbol.is_definition() && symbol.kind() == SymbolKind::Text && symbol.size() > 0)
        // Cold parts of other functions, which are not called.
        .filter(|symbol| !symbol.name().is_ok_and(|name| name.ends_with(".cold")))
        .map(|symbol| (symbol.address(), symbol.size()))
        .collect();
    let listed: BTreeSet<(u64, u64)> = rows(&[path.to_str().expect("UTF-8")])
        .iter()
        .filter_map(|row| Some((hex(&row["addr"]), row["size_bytes"].as_u64()?)))
        .collect();
    let missing: Vec<_> = expected.difference(&listed).collect();
    assert!(expected.len() > 100 && missing.is_empty(), "{missing:x?}");
}

#[test]
fn ifunc_target_is_the_function_that_the_loader_binds() {
    const NAMES: [&str; 6] = ["strlen", "memcpy", "memset", "strchr", "memchr", "strcmp"];
    let script = "
import ctypes
libc = ctypes.CDLL('libc.so.6')
with open('/proc/self/maps') as maps:
    mapped = [line.split() for line in maps if line.rstrip().endswith('/libc.so.6')]
print(mapped[0][-1])
base = int(mapped[0][0].split('-')[0], 16)
for name in NAMES:
    print(name, ctypes.cast(getattr(libc, name), ctypes.c_void_p).value - base)";
    let Some(output) = python(&script.replace("NAMES", &format!("{NAMES:?}"))) else {
        return skip("there is no /usr/bin/python3");
    };
    let mut lines = output.lines();
    let path = lines.next().expect("the path of libc");
    for line in lines {
        let (name, addr) = line.split_once(' ').expect("name and address");
        let row = rows(&[&format!("{path}:{name}")]).remove(0);
        let target = match row["ifunc"].as_bool() {
            Some(true) => hex(&row["ifunc_target"]),
            _ => hex(&row["addr"]),
        };
        assert_eq!(target.to_string(), addr, "{row}");
    }
}

#[test]
fn usdt_probes_of_python_match_its_documentation() {
    let path = "/usr/bin/python3";
    if !Path::new(path).exists() {
        return skip("there is no /usr/bin/python3");
    }
    let ended = funclist(["-j", "--usdt", path]);
    if !ended.status.success() {
        assert!(
            ended.stderr.contains("failed to find any USDT probe"),
            "{ended:?}"
        );
        return skip("/usr/bin/python3 was built without USDT probes");
    }
    // Python 3.12 removed the function probes; `audit` exists in all versions.
    let audit = rows(&["--usdt", &format!("{path}:python:a?dit")]).remove(0);
    assert_eq!(audit["args"].as_array().map(Vec::len), Some(2));
    let first = audit["args"][0].as_str().expect("text");
    assert!(first.starts_with("uint64 "), "{first}");
    assert!(audit["semaphore"].is_string());
    assert_eq!(rows(&[&format!("usdt:{path}:audit")])[0], audit);
}

#[test]
fn functions_of_all_files_of_a_process_are_listed() {
    let target = Target::start(Command::new(program("calls")));
    let pid = target.pid().to_string();
    let files: BTreeSet<String> = rows(&["-p", &pid])
        .iter()
        .map(|row| row["file"].as_str().expect("a file").to_owned())
        .collect();
    let has = |end: &str| files.iter().any(|file| file.ends_with(end));
    assert!(has("/calls") && has("/libc.so.6"), "{files:?}");
    let malloc = rows(&["-p", &pid, ":malloc"]);
    assert!(malloc.iter().any(|row| {
        row["file"]
            .as_str()
            .is_some_and(|file| file.ends_with("/libc.so.6"))
    }));
    let named = rows(&["-p", &pid, "libc:malloc"]);
    assert_eq!(named.len(), 1);
    let text = funclist(["-p", &pid, ":malloc"]).stdout;
    assert!(text.starts_with("      ADDR    SIZE FILE"), "{text}");
    target.end();
}

#[test]
fn parameters_come_from_debug_information() {
    let Some(path) = program_if_built("stack-rust") else {
        return skip("stack-rust was not built, as there is no rustc");
    };
    let leaf = rows(&[&format!("{}:stack::orchard::leaf", path.display())]).remove(0);
    assert_eq!(
        (&leaf["params"], &leaf["returns"]),
        (&json!(["u64 bytes"]), &json!("usize"))
    );
    let text = funclist([format!("{}:stack::orchard::leaf", path.display())]).stdout;
    assert!(
        text.ends_with(" stack::orchard::leaf(u64 bytes) -> usize\n"),
        "{text}"
    );
}

#[test]
fn offset_inside_an_instruction_is_refused() {
    let path = program("calls");
    let spec = |offset: u64| format!("{}:main+{offset}", path.display());
    let ended: Vec<Ended> = (1..24).map(|offset| funclist([spec(offset)])).collect();
    let (valid, invalid): (Vec<&Ended>, Vec<&Ended>) = ended.iter().partition(|ended| ended.status.success());
    assert!(!valid.is_empty());
    for ended in &invalid {
        let is_explained = ended
            .stderr
            .contains("not the start of an instruction: the nearest are +0x");
        assert!(is_explained && ended.status.code() == Some(1), "{ended:?}");
    }
    // On arm64 three of four offsets are invalid, on x86-64 only some.
    assert!(invalid.len() > 4);
}

#[test]
fn missing_targets_are_explained_with_similar_names() {
    for (args, error, hint) in [
        (
            &["libc:mallok"][..],
            "failed to find function mallok in ",
            "hint: similar names there: malloc, ",
        ),
        (
            &["libcc:malloc"],
            "failed to find libcc: ",
            "hint: similar names: libc, ",
        ),
        (&["libc:0x1"], "failed to find function at 0x1 in ", "hint: "),
        (
            &["-p", "4194304"],
            "failed to trace PID 4194304: no such process",
            "",
        ),
        (&["/proc/self/cmdline"], "not an ELF file", ""),
        (&["/proc"], "failed to open /proc: not a regular file", ""),
        (&["--container", "no-such-container"], "no-such-container", ""),
    ] {
        let ended = funclist(args);
        assert_eq!(
            (ended.status.code(), ended.stdout.as_str()),
            (Some(1), ""),
            "{args:?}"
        );
        assert!(
            ended.stderr.contains(error) && ended.stderr.contains(hint),
            "{ended:?}"
        );
    }
}

#[test]
fn kernel_thread_has_no_executable() {
    if !std::fs::read_to_string("/proc/2/comm").is_ok_and(|comm| comm == "kthreadd\n") {
        return skip("PID 2 is not a kernel thread here");
    }
    let ended = funclist(["-p", "2"]);
    let is_explained = ended
        .stderr
        .starts_with("error: PID 2 has no executable (a kernel thread, or it has exited)");
    assert!(is_explained && ended.status.code() == Some(1), "{ended:?}");
}

#[test]
fn full_disk_is_an_error() {
    let full = std::fs::File::create("/dev/full").expect("/dev/full");
    let mut command = Command::new(&*TOOLS);
    let status = command
        .args(["funclist", "libc"])
        .stdout(full)
        .stderr(Stdio::null())
        .status();
    assert_eq!(status.expect("the tool").code(), Some(1));
}

#[test]
fn closed_pipe_is_not_an_error() {
    let mut child = Command::new(&*TOOLS)
        .args(["funclist", "libc"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool");
    drop(child.stdout.take());
    let status = child.wait().expect("an exit status");
    let mut errors = String::new();
    child
        .stderr
        .take()
        .expect("a pipe")
        .read_to_string(&mut errors)
        .expect("text");
    assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
}

#[test]
fn an_address_is_its_function() {
    let named = rows(&["libc:getpgid"]);
    let address = named[0]["addr"].as_str().expect("an address");
    let found = rows(&[&format!("libc:{address}")]);
    assert_eq!((found.len(), &found[0]["function"]), (1, &named[0]["function"]));
}
