//! Each command line entered in any bash; with `--readline`, each line entered in any program that uses readline.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result};
use clap::Parser;
use libbpf_rs::skel::SkelBuilder;
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, fstatfs};
use plain::Plain;

use crate::bpf::bashreadline::{BashreadlineSkelBuilder, types};
use crate::cli::{FilterArgs, OutputArgs, RunArgs, named_file};
use crate::find::code::placement::Needs;
use crate::find::elf::ElfFile;
use crate::find::host::cgroups::Cgroups;
use crate::find::host::containers::container_id;
use crate::find::host::loader;
use crate::find::host::object_file::ObjectFile;
use crate::find::host::proc::Proc;
use crate::find::host::users::UserNames;
use crate::output::{Column, Output, Table, Value};
use crate::privileges;
use crate::probe::attach::{AttachMode, Attacher, Ends, ProbePoint, Program};
use crate::probe::event::{Header, decode, until_nul};
use crate::probe::scope::filter::Filter;
use crate::probe::search::files::{Place, Targets, Wanted};
use crate::run::session::{Parts, Session, Step, configure, load};

const EXAMPLES: &str = "\
EXAMPLES:
    bashreadline                        # what is typed into every bash, in containers too
    bashreadline -u alice -j            # one user's commands, as JSON
    bashreadline --container web        # in one container
    bashreadline --readline             # also psql, gdb, python3 and whatever else uses libreadline
    bashreadline -s /opt/lib/libreadline.so.8   # a copy of libreadline in an unusual place";

/// Show each command line entered in any bash.
#[derive(Parser, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Lines of every program that reads them through libreadline, with its name
    #[arg(long)]
    readline: bool,
    /// Only this libreadline, or program that has readline in it
    #[arg(short, long, value_name = "PATH")]
    shared: Option<PathBuf>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// readline_internal_teardown is entered when the line is complete, so its return probe also catches a shell that
/// already waited at its prompt; that of readline, which was entered before, would not. Both return the line. It
/// serves the callback interface as well. libedit has only the second.
const FUNCTIONS: [&str; 2] = ["readline_internal_teardown", "readline"];

/// What makes a program a bash, whatever it is called.
const BASH_FUNCTIONS: [&str; 2] = ["execute_command", "pre_process_line"];

/// Cookie: the probe is in a bash itself, and not in a library that others use as well.
const IN_BASH: u64 = 1;
const IN_LIBRARY: u64 = 0;

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

// SAFETY: integers and arrays of integers; the part in front of the text is written whole by the BPF program.
unsafe impl Plain for types::line_event {}

pub fn run(args: Args) -> Result<u8> {
    privileges::require_privileges()?;
    privileges::require_btf("bashreadline")?;
    let mut out = args.output.open()?;
    let filter = args.filter.resolve()?;
    let way = AttachMode::choose(args.run.attach)?;
    let place = place(&args, &filter)?;

    let mut storage = MaybeUninit::uninit();
    let mut open = BashreadlineSkelBuilder::default().open(&mut storage)?;
    if let Some(rodata) = open.maps.rodata_data.as_mut() {
        configure!(rodata, &filter, args.run.ring_bytes(), way);
    }
    open.maps.events.set_max_entries(args.run.ring_bytes())?;
    open.maps.pids.set_max_entries(filter.map_entries())?;
    way.prepare([&mut open.progs.line_return]);
    let skel = load(open)?;
    filter.fill(&skel.maps.pids, &skel.maps.cgroups)?;

    let programs = Rc::new(RefCell::new(Programs::default()));
    let bash_only = !args.readline && matches!(place, Place::Everywhere);
    let program = Program {
        program: &skel.progs.line_return,
        runs: Ends::Return,
    };
    let attacher = Attacher::new(way, &filter, vec![program])?;
    let bss = skel
        .maps
        .bss_data
        .as_ref()
        .context("the BPF object has no counters")?;
    let mut session = Session::start(
        Parts {
            events: skel.maps.events.as_fd(),
            ring_bytes: args.run.ring_bytes(),
            lost: &bss.lost,
            unmatched: &bss.unmatched,
            hits: &bss.hits,
            targets: Targets::new(
                wanted(bash_only, Rc::clone(&programs)),
                place,
                args.run.placement,
                false,
            ),
            attacher,
            command: None,
            follow: None,
            symbolizer: None,
            inspects: true,
            reads_maps: false,
            limits: args.run.limits(&args.output, None),
        },
        &mut out,
    )?;
    list(&args, bash_only, &programs, &mut session, &mut out)?;
    session.finish(&mut out)
}

fn place(args: &Args, filter: &Filter) -> Result<Place> {
    Ok(match &args.shared {
        Some(path) => Place::Files(vec![named_file(path, &filter.pids)?]),
        None if !filter.pids.is_empty() => Place::Processes(filter.pids.clone()),
        None => Place::Everywhere,
    })
}

fn wanted(bash_only: bool, programs: Rc<RefCell<Programs>>) -> Wanted {
    let shells = ["bash", "sh"].into_iter().filter_map(loader::find_program);
    Wanted {
        what: "readline",
        names: FUNCTIONS.to_vec(),
        may_hold: Box::new(may_read_lines),
        points: Box::new(move |object, elf| {
            programs.borrow_mut().learn(object, elf);
            line_points(elf, bash_only)
        }),
        first_only: false,
        likely: shells.chain(loader::find_library("libreadline")).collect(),
        named: Vec::new(),
        name: Box::new(|_| "readline".into()),
    }
}

/// Programs, under any name, and the libraries that read lines.
fn may_read_lines(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    !name.contains(".so") || name.starts_with("libreadline.so") || name.starts_with("libedit.so")
}

/// Where a file returns lines. Without `--readline` only a bash does, and the library that a bash may use.
fn line_points(elf: &ElfFile, bash_only: bool) -> Result<Vec<ProbePoint>> {
    let bash = is_bash(elf);
    if bash_only && !bash && !(elf.soname().is_some() && elf.defines(FUNCTIONS[0])) {
        return Ok(Vec::new());
    }
    let found = elf.lookup(&FUNCTIONS)?.into_iter().flatten().next();
    let cookie = if bash { IN_BASH } else { IN_LIBRARY };
    Ok(found
        .map(|function| ProbePoint::function(&function, cookie, Needs::STACK))
        .into_iter()
        .collect())
}

/// bash exports its functions, for builtins that are loaded at run time.
fn is_bash(elf: &ElfFile) -> bool {
    BASH_FUNCTIONS.iter().all(|name| elf.defines(name))
}

fn list(
    args: &Args,
    bash_only: bool,
    programs: &RefCell<Programs>,
    session: &mut Session<'_>,
    out: &mut Output,
) -> Result<()> {
    let table = Table::new("event", COLUMNS).in_text("comm", args.readline);
    let users = UserNames::load();
    let mut cgroups = Cgroups::open().ok();
    let mut shown = Vec::new();
    out.header(&table);
    while let Some(step) = session.next(out)? {
        let Step::Event(record) = step else { continue };
        let Some((header, line, text)) = line_of(record) else {
            continue;
        };
        let program = programs
            .borrow_mut()
            .look_up(header.pid, (line.exe_dev, line.exe_inode));
        if bash_only && u64::from(header.func) != IN_BASH && program.is_bash == Some(false) {
            continue;
        }
        let cgroup = cgroups
            .as_mut()
            .and_then(|cgroups| cgroups.path_of(line.cgroup, header.pid));
        let user = users
            .name(header.uid)
            .map_or_else(|| header.uid.to_string(), str::to_owned);
        let tty = line.tty.map(|byte| byte as u8);
        mark(&mut shown, text, line);
        out.row(
            &table,
            &[
                Value::Time(out.wall(header.time_ns)),
                Value::U64(header.pid.into()),
                Value::U64(header.tid.into()),
                Value::U64(header.uid.into()),
                Value::Bytes(header.comm()),
                Value::Bytes(user.as_bytes()),
                terminal(&tty)
                    .as_deref()
                    .map_or(Value::Null, |tty| Value::Bytes(tty.as_bytes())),
                Value::Bytes(&shown),
                text.map_or(Value::Null, Value::Bytes),
                Value::Bool(line.truncated != 0),
                if line.login_uid == u32::MAX {
                    Value::Null
                } else {
                    Value::U64(line.login_uid.into())
                },
                Some(line.parent)
                    .filter(|&pid| pid != 0)
                    .map_or(Value::Null, |pid| Value::U64(pid.into())),
                cgroup
                    .as_deref()
                    .map_or(Value::Null, |path| Value::Bytes(path.as_bytes())),
                cgroup
                    .as_deref()
                    .and_then(container_id)
                    .map_or(Value::Null, |id| Value::Bytes(id.as_bytes())),
                program
                    .path
                    .as_deref()
                    .map_or(Value::Null, |path| Value::Bytes(path.as_bytes())),
            ],
        );
    }
    Ok(())
}

/// The parts of a record. The text is None when it could not be read.
fn line_of(record: &[u8]) -> Option<(&Header, &types::line_event, Option<&[u8]>)> {
    let header = decode::<Header>(record)?;
    let line = decode::<types::line_event>(record)?;
    let rest = record.get(size_of::<types::line_event>()..)?;
    let text = usize::try_from(line.len).ok().and_then(|len| rest.get(..len));
    Some((header, line, text))
}

/// The line as text shows it: what is missing is said.
fn mark(shown: &mut Vec<u8>, text: Option<&[u8]>, line: &types::line_event) {
    shown.clear();
    shown.extend_from_slice(text.unwrap_or(b"[the line could not be read]"));
    if line.truncated != 0 {
        shown.extend_from_slice(format!(" [cut after {} bytes]", line.len).as_bytes());
    }
}

/// `pts/3` for `pts3`, as people write it; None without a terminal.
fn terminal(tty: &[u8]) -> Option<String> {
    let name = String::from_utf8_lossy(until_nul(tty)).into_owned();
    match name.strip_prefix("pts") {
        Some(number) if !number.is_empty() => Some(format!("pts/{number}")),
        _ if name.is_empty() => None,
        _ => Some(name),
    }
}

/// What the programs of lines are. Kept for processes that are gone, or run another program, when their line is read.
#[derive(Default)]
struct Programs {
    /// By the device and inode that the kernel has for the file.
    known: HashMap<(u32, u64), Executable>,
}

#[derive(Default, Clone)]
struct Executable {
    path: Option<String>,
    /// None when the process was gone before it could be looked at.
    is_bash: Option<bool>,
}

impl Programs {
    /// A file that some process runs, perhaps.
    fn learn(&mut self, object: &ObjectFile, elf: &ElfFile) {
        if elf.soname().is_none()
            && let Some(key) = kernel_key(object)
        {
            self.known.insert(key, Executable::of(object, is_bash(elf)));
        }
    }

    /// `exe` is the device and inode that the kernel had for it.
    fn look_up(&mut self, pid: u32, exe: (u32, u64)) -> Executable {
        let known = self.known.get(&exe);
        // The process first: one file can have several names.
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
        let executable = Executable::of(&object, is_bash(&elf));
        self.known.insert(exe, executable.clone());
        executable
    }
}

impl Executable {
    fn of(object: &ObjectFile, is_bash: bool) -> Self {
        Self {
            path: Some(object.path.to_string_lossy().into_owned()),
            is_bash: Some(is_bash),
        }
    }
}

/// Device, as the kernel writes it, and inode of a file.
fn kernel_key(object: &ObjectFile) -> Option<(u32, u64)> {
    let meta = object.file.metadata().ok()?;
    Some((
        libc::major(meta.dev()) << 20 | libc::minor(meta.dev()),
        meta.ino(),
    ))
}

/// Is that the file that the kernel calls `exe`?
fn is_same(object: &ObjectFile, exe: (u32, u64)) -> bool {
    kernel_key(object).is_some_and(|key| key == exe || (key.1 == exe.1 && has_devices_of_its_own(object)))
}

/// Overlayfs and btrfs have another device for stat than the kernel has for the file; the inode is the same.
fn has_devices_of_its_own(object: &ObjectFile) -> bool {
    fstatfs(&object.file)
        .is_ok_and(|statfs| [OVERLAYFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC].contains(&statfs.filesystem_type()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_written_as_people_write_them() {
        assert_eq!(terminal(b"pts12\0\0"), Some("pts/12".to_owned()));
        assert_eq!(terminal(b"tty1\0"), Some("tty1".to_owned()));
        assert_eq!(terminal(b"\0"), None);
    }

    #[test]
    fn a_cut_or_unreadable_line_says_so() {
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
        assert_eq!(shown, b"ls [cut after 2 bytes]");
        mark(
            &mut shown,
            None,
            &types::line_event {
                len: -14,
                ..Default::default()
            },
        );
        assert_eq!(shown, b"[the line could not be read]");
    }

    #[test]
    fn a_record_shorter_than_its_length_says_is_unreadable() {
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
