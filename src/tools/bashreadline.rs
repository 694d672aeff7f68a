// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Command lines entered in bash; lines of all programs that use readline with `--readline`.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Result;
use clap::Parser;
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, fstatfs};
use plain::Plain;

use crate::bpf::bashreadline::{BashreadlineSkelBuilder, types};
use crate::cli::{CommandArgs, CommonArgs};
use crate::find::code::placement::Needs;
use crate::find::elf::ElfFile;
use crate::find::host::cgroups::Cgroups;
use crate::find::host::containers::container_id;
use crate::find::host::loader;
use crate::find::host::object_file::ObjectFile;
use crate::find::host::proc::Proc;
use crate::find::host::users::UserNames;
use crate::find::returns::{EntryMatching, ReturnMethod, ReturnPolicy, ReturnWatcher};
use crate::output::{Column, Output, Table, Value};
use crate::privileges::require_btf;
use crate::probe::event::{Header, decode, until_nul};
use crate::probe::point::{Cookie, Ends, ProbePoint};
use crate::probe::search::finder::{
    Finder, SearchPlace, SearchPlan, SearchRequest, SearchSubject, WatchedEnds,
};
use crate::probe::search::spec_target::find_file;
use crate::run::{Event, EventHandler, Run, SessionNeeds};

const EXAMPLES: &str = "\
EXAMPLES:
    bashreadline                        # command lines of every bash, containers included
    bashreadline -u alice -j            # those of one user, as JSON
    bashreadline --readline             # also psql, gdb, python3 and others that use libreadline";

const LONG_HELP: &str = "\
EXAMPLES:
    bashreadline                        # command lines of every bash, containers included
    bashreadline -u alice -j            # those of one user, as JSON
    bashreadline --container web        # those of one container
    bashreadline --readline             # also psql, gdb, python3 and others that use libreadline
    bashreadline -s /opt/lib/libreadline.so.8   # a libreadline in an unusual place";

/// Trace command lines entered in bash.
#[derive(Parser, Debug)]
#[command(after_help = EXAMPLES, after_long_help = LONG_HELP)]
pub struct Args {
    /// Show lines of all programs that use libreadline
    #[arg(long)]
    readline: bool,
    /// Trace this libreadline, or program with readline in it
    #[arg(short, long, value_name = "PATH")]
    shared: Option<PathBuf>,
    #[command(flatten)]
    pub common: CommonArgs,
    /// It traces no command.
    #[arg(skip)]
    pub command: CommandArgs,
}

/// The first one found is probed. Both return the line. `readline_internal_teardown` is entered when the line is
/// complete, so its return probe also catches a shell that already waits at its prompt, and the callback interface.
/// libedit has only `readline`.
const FUNCTIONS: [&str; 2] = ["readline_internal_teardown", "readline"];

/// Functions by which bash is recognized, whatever its name.
const BASH_FUNCTIONS: [&str; 2] = ["execute_command", "pre_process_line"];

/// Cookies: the probe is in bash itself, or in a library that other programs use too.
const IN_BASH: u32 = 1;
const IN_LIBRARY: u32 = 0;

const COLUMNS: &[Column] = &[
    Column::left("TIME", "time", 8),
    Column::right("PID", "pid", 7),
    Column::right("TID", "tid", 7).data_only(),
    Column::right("UID", "uid", 5).data_only(),
    Column::left("COMM", "comm", 15).data_only(),
    Column::left("USER", "user", 8),
    Column::left("TTY", "tty", 7),
    Column::left("COMMAND", "command", 0).text_only(),
    Column::left("COMMAND", "command", 0).data_only(),
    Column::left("", "truncated", 0).data_only(),
    Column::right("LOGINUID", "login_uid", 0).data_only(),
    Column::right("PPID", "ppid", 0).data_only(),
    Column::left("CGROUP", "cgroup", 0).data_only(),
    Column::left("CONTAINER", "container", 0).data_only(),
    Column::left("EXE", "exe", 0).data_only(),
];

// SAFETY: integers and arrays of integers; the BPF program writes all bytes before the text.
unsafe impl Plain for types::line_event {}

pub fn run(run: Run, args: Args) -> Result<u8> {
    require_btf("bashreadline")?;
    let found = run.search(LineReaders::new(&args))?;
    let open = found.open::<BashreadlineSkelBuilder>()?;
    open.run(|_| LinePrinter::new(&args))
}

/// Finds the functions that return lines, and remembers which programs are a bash.
struct LineReaders {
    library: Option<PathBuf>,
    readline: bool,
    /// Show only lines of bash.
    bash_only: bool,
    returns: ReturnPolicy,
    programs: KnownPrograms,
    warnings: Vec<String>,
}

impl LineReaders {
    fn new(args: &Args) -> Self {
        Self {
            library: args.shared.clone(),
            readline: args.readline,
            bash_only: false,
            returns: ReturnPolicy::default(),
            programs: KnownPrograms::default(),
            warnings: Vec::new(),
        }
    }
}

impl Finder for LineReaders {
    fn plan(&mut self, request: &SearchRequest<'_>) -> Result<SearchPlan> {
        self.returns = request.returns;
        let plan = match &self.library {
            Some(path) => SearchPlan::file(&find_file(path, &request.filter.pids)?)?,
            None => SearchPlan::new(request.place()),
        };
        self.bash_only = !self.readline && matches!(plan.place, SearchPlace::Everywhere);
        let shells = ["bash", "sh"].into_iter().filter_map(loader::find_program);
        Ok(plan.likely(shells.chain(loader::find_library("libreadline"))))
    }

    fn may_hold(&self, path: &Path) -> bool {
        may_read_lines(path)
    }

    /// Without `--readline`, only bash is probed, or a library that bash may use.
    fn points(&mut self, object: &ObjectFile, elf: &ElfFile) -> Result<Vec<ProbePoint>> {
        self.programs.learn(object, elf);
        let bash = is_bash(elf);
        if self.bash_only && !bash && !(elf.soname().is_some() && elf.defines(FUNCTIONS[0])) {
            if is_called_bash(&object.path) {
                let path = object.path.display();
                self.warnings
                    .push(format!("skipped {path}: it has no symbols of bash"));
            }
            return Ok(Vec::new());
        }
        let found = elf.lookup(&FUNCTIONS)?.into_iter().flatten().next();
        let cookie = if bash { IN_BASH } else { IN_LIBRARY };
        let Some(function) = found else {
            return Ok(Vec::new());
        };
        let returns =
            ReturnWatcher::new(object, elf, self.returns).method(&function, EntryMatching::ReturnsAlone)?;
        // readline_internal_teardown ends with a jump to strcpy, before which its result is unknown. It runs no code of
        // the program, so a return probe is safe.
        let returns = match returns.has_results() {
            true => returns,
            false => ReturnMethod::ReturnProbe,
        };
        let point = ProbePoint {
            ends: Ends::Return,
            ..ProbePoint::function(&function, Cookie::of_function(cookie), Needs::STACK)
        };
        Ok(point.with_returns(&returns))
    }

    fn name(&self, _: Cookie) -> Rc<str> {
        "readline".into()
    }

    fn ends(&self) -> WatchedEnds {
        WatchedEnds {
            at_return: true,
            ..WatchedEnds::default()
        }
    }

    fn sought(&self) -> Option<SearchSubject> {
        Some(SearchSubject {
            what: "readline",
            functions: FUNCTIONS.to_vec(),
        })
    }

    fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }
}

/// Programs under any name, and the libraries that read lines.
fn may_read_lines(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    !name.contains(".so") || name.starts_with("libreadline.so") || name.starts_with("libedit.so")
}

/// bash exports its functions, for builtins that are loaded at run time. A static one cannot load any.
fn is_bash(elf: &ElfFile) -> bool {
    match elf.is_static() {
        true => {
            let found = elf.lookup(&BASH_FUNCTIONS);
            found.is_ok_and(|found| found.iter().all(Option::is_some))
        }
        false => BASH_FUNCTIONS.iter().all(|name| elf.defines(name)),
    }
}

/// Whether the name is that of a bash: `bash`, `bash-static`, `bash5`.
fn is_called_bash(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let rest = name.and_then(|name| name.strip_prefix("bash"));
    rest.is_some_and(|rest| {
        rest.is_empty() || rest == "-static" || rest.starts_with(|c: char| c.is_ascii_digit())
    })
}

/// Turns records into rows.
struct LinePrinter {
    table: Table,
    users: UserNames,
    cgroups: Option<Cgroups>,
    shown: Vec<u8>,
}

impl LinePrinter {
    fn new(args: &Args) -> Self {
        Self {
            table: Table::new("event", COLUMNS).in_text("comm", args.readline),
            users: UserNames::load(),
            cgroups: Cgroups::open().ok(),
            shown: Vec::new(),
        }
    }
}

impl EventHandler<LineReaders> for LinePrinter {
    fn needs(&self) -> SessionNeeds {
        SessionNeeds {
            inspects: true,
            ..SessionNeeds::default()
        }
    }

    fn begin(&mut self, out: &mut Output) {
        out.header(&self.table);
    }

    fn event(&mut self, event: Event<'_, LineReaders>) {
        let Some((header, line, text)) = line_of(event.record) else {
            return;
        };
        let finder = event.finder;
        let program = finder
            .programs
            .look_up(header.pid, (line.exe_dev, line.exe_inode));
        if finder.bash_only && u32::from(header.func) != IN_BASH && program.is_bash == Some(false) {
            return;
        }
        let cgroup = self
            .cgroups
            .as_mut()
            .and_then(|cgroups| cgroups.path_of(line.cgroup, header.pid));
        let user = self
            .users
            .name(header.uid)
            .map_or_else(|| header.uid.to_string(), str::to_owned);
        let tty = terminal(&line.tty.map(|byte| byte as u8));
        mark(&mut self.shown, text, line);
        let known = |pid: u32, unknown: u32| match pid == unknown {
            true => Value::Null,
            false => Value::U64(pid.into()),
        };
        let container = cgroup.as_deref().and_then(container_id);
        let out = event.out;
        out.row(
            &self.table,
            &[
                Value::Time(out.wall(header.time_ns)),
                Value::U64(header.pid.into()),
                Value::U64(header.tid.into()),
                Value::U64(header.uid.into()),
                Value::Bytes(header.comm()),
                Value::Bytes(user.as_bytes()),
                text_or_null(tty.as_deref()),
                Value::Bytes(&self.shown),
                text.map_or(Value::Null, Value::Bytes),
                Value::Bool(line.truncated != 0),
                known(line.login_uid, u32::MAX),
                known(line.parent, 0),
                text_or_null(cgroup.as_deref()),
                text_or_null(container),
                text_or_null(program.path.as_deref()),
            ],
        );
    }
}

fn text_or_null(text: Option<&str>) -> Value<'_> {
    text.map_or(Value::Null, |text| Value::Bytes(text.as_bytes()))
}

/// The parts of a record. The text is None if it could not be read.
fn line_of(record: &[u8]) -> Option<(&Header, &types::line_event, Option<&[u8]>)> {
    let header = decode::<Header>(record)?;
    let line = decode::<types::line_event>(record)?;
    let rest = record.get(size_of::<types::line_event>()..)?;
    let text = usize::try_from(line.len).ok().and_then(|len| rest.get(..len));
    Some((header, line, text))
}

/// The line as shown in text, with a mark if it is truncated or unreadable.
fn mark(shown: &mut Vec<u8>, text: Option<&[u8]>, line: &types::line_event) {
    shown.clear();
    shown.extend_from_slice(text.unwrap_or(b"[unreadable line]"));
    if line.truncated != 0 {
        shown.extend_from_slice(format!(" [truncated after {} bytes]", line.len).as_bytes());
    }
}

/// `pts/3` for the kernel's `pts3`; None without a terminal.
fn terminal(tty: &[u8]) -> Option<String> {
    let name = String::from_utf8_lossy(until_nul(tty)).into_owned();
    match name.strip_prefix("pts") {
        Some(number) if !number.is_empty() => Some(format!("pts/{number}")),
        _ if name.is_empty() => None,
        _ => Some(name),
    }
}

/// Executables, remembered for processes that have exited or run another program when their line is read.
#[derive(Default)]
struct KnownPrograms {
    /// By device and inode, as the kernel numbers them.
    known: HashMap<(u32, u64), KnownProgram>,
}

#[derive(Default, Clone)]
struct KnownProgram {
    path: Option<String>,
    /// None if the process exited before it was looked at.
    is_bash: Option<bool>,
}

impl KnownPrograms {
    /// Remembers an executable.
    fn learn(&mut self, object: &ObjectFile, elf: &ElfFile) {
        if elf.soname().is_none()
            && let Some(key) = kernel_key(object)
        {
            self.known.insert(key, KnownProgram::of(object, is_bash(elf)));
        }
    }

    /// `exe`: device and inode in the kernel's numbering.
    fn look_up(&mut self, pid: u32, exe: (u32, u64)) -> KnownProgram {
        let known = self.known.get(&exe);
        // The process first: a file can have several names.
        let Some(object) = Proc::host()
            .executable(pid)
            .ok()
            .filter(|object| is_same(object, exe))
        else {
            return known.cloned().unwrap_or_default();
        };
        let Ok(elf) = object
            .file
            .try_clone()
            .map_err(Into::into)
            .and_then(|file| ElfFile::open(file, &object.path))
        else {
            return known.cloned().unwrap_or_default();
        };
        let executable = KnownProgram::of(&object, is_bash(&elf));
        self.known.insert(exe, executable.clone());
        executable
    }
}

impl KnownProgram {
    fn of(object: &ObjectFile, is_bash: bool) -> Self {
        Self {
            path: Some(object.path.to_string_lossy().into_owned()),
            is_bash: Some(is_bash),
        }
    }
}

/// Device, in the kernel's encoding, and inode of a file.
fn kernel_key(object: &ObjectFile) -> Option<(u32, u64)> {
    let meta = object.file.metadata().ok()?;
    Some((
        libc::major(meta.dev()) << 20 | libc::minor(meta.dev()),
        meta.ino(),
    ))
}

/// Whether the kernel identifies this file as `exe`.
fn is_same(object: &ObjectFile, exe: (u32, u64)) -> bool {
    kernel_key(object).is_some_and(|key| key == exe || (key.1 == exe.1 && reports_other_device(object)))
}

/// On overlayfs and btrfs, stat(2) reports another device than the kernel uses for the file. The inode is the same.
fn reports_other_device(object: &ObjectFile) -> bool {
    fstatfs(&object.file)
        .is_ok_and(|statfs| [OVERLAYFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC].contains(&statfs.filesystem_type()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_name_gets_its_slash() {
        assert_eq!(terminal(b"pts12\0\0"), Some("pts/12".to_owned()));
        assert_eq!(terminal(b"tty1\0"), Some("tty1".to_owned()));
        assert_eq!(terminal(b"\0"), None);
    }

    #[test]
    fn truncated_or_unreadable_line_is_marked() {
        let mut shown = Vec::new();
        mark(
            &mut shown,
            Some(b"ls"),
            &types::line_event {
                len: 2,
                ..Default::default()
            },
        );
        assert_eq!(shown, b"ls");
        mark(
            &mut shown,
            Some(b"ls"),
            &types::line_event {
                len: 2,
                truncated: 1,
                ..Default::default()
            },
        );
        assert_eq!(shown, b"ls [truncated after 2 bytes]");
        mark(
            &mut shown,
            None,
            &types::line_event {
                len: -14,
                ..Default::default()
            },
        );
        assert_eq!(shown, b"[unreadable line]");
    }

    #[test]
    fn names_of_bash() {
        let is_bash = |path: &str| is_called_bash(Path::new(path));
        assert!(
            ["/bin/bash", "/usr/bin/bash-static", "bash5.2"]
                .into_iter()
                .all(is_bash)
        );
        let others = [
            "/bin/dash",
            "/bin/sh",
            "bashbug",
            "bash-language-server",
            "/bash/x",
        ];
        assert!(!others.into_iter().any(is_bash));
    }

    #[test]
    fn record_shorter_than_its_length_is_unreadable() {
        let mut record = vec![0u64; size_of::<types::line_event>() / 8 + 1];
        let event = types::line_event {
            len: 9,
            ..Default::default()
        };
        // SAFETY: the vector is aligned and longer than the event.
        unsafe { record.as_mut_ptr().cast::<types::line_event>().write(event) };
        // SAFETY: plain integers seen as bytes.
        let bytes = unsafe { std::slice::from_raw_parts(record.as_ptr().cast::<u8>(), record.len() * 8) };
        assert!(line_of(bytes).is_some_and(|(_, _, text)| text.is_none()));
        assert!(line_of(&bytes[..40]).is_none());
    }
}
