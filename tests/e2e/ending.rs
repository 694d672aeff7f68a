// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! How runs end before they begin, and what becomes of the command when a signal ends a run.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::harness::{
    AttachMode, Folder, Owned, Run, TOOLS, Target, Tool, in_guest, is_in_state, program, run_to_end, skip,
    tool_command, wait_until,
};
use crate::pty::Terminal;

/// Counts the SIGTERMs that it gets. It ends half a second after the first, with a status that has the number.
const COUNTS_SIGNALS: &str = "
import os, signal, sys, time
got = []
signal.signal(signal.SIGTERM, lambda *_: got.append(time.monotonic()))
open(sys.argv[1], 'w').write(str(os.getpid()))
while not got or time.monotonic() < got[0] + 0.5: time.sleep(0.01)
sys.exit(40 + len(got))
";

fn counting_command(folder: &Folder) -> (Vec<String>, std::path::PathBuf) {
    let ready = folder.path.join("ready");
    let main = format!("{}:main", program("calls").display());
    let words = [
        &main,
        "--",
        "python3",
        "-c",
        COUNTS_SIGNALS,
        &ready.display().to_string(),
    ]
    .map(str::to_owned);
    (words.to_vec(), ready)
}

/// Makes more calls than a pipe has room for rows, and then waits for a SIGTERM.
const CALLS_AND_WAITS: &str = "
import os, signal, sys, time
got = []
signal.signal(signal.SIGTERM, lambda *_: got.append(1))
for _ in range(20011): os.getppid()
open(sys.argv[1], 'w').write(str(os.getpid()))
while not got: time.sleep(0.01)
open(sys.argv[2], 'w').write(str(len(got)))
";

#[test]
fn command_gets_the_signal_although_the_reader_is_blocked() {
    let folder = Folder::new();
    let [ready, got] = ["ready", "got"].map(|name| folder.path.join(name));
    let files = [&ready, &got].map(|file| file.display().to_string());
    let args = ["libc:getppid", "--", "python3", "-c", CALLS_AND_WAITS];
    let mut command = tool_command("functrace", AttachMode::best(), args);
    command.args(&files).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut tool = Owned(command.spawn().expect("a tool"));
    wait_for_pid(&ready);
    tool.signal(Signal::SIGTERM);
    assert_eq!(tool.wait().code(), Some(1));
    assert_eq!(fs::read_to_string(&got).expect("a signal"), "1");
}

/// The terminal echoes `^C` to the line that the cursor is in.
#[test]
fn ctrl_c_does_not_shift_the_table() {
    let mut target = Target::start(Command::new(program("flow")));
    let counted = format!("{}:counted", program("flow").display());
    let pid = target.pid().to_string();
    let mut command = Command::new(&*TOOLS);
    let mut terminal = Terminal::run(command.args(["funccount", &counted, "-p", &pid]));
    terminal.wait_for("Hit Ctrl-C to end.");
    target.ask("count 1009");
    terminal.press(b"\x03");
    assert!(terminal.wait_for_end().success());
    let shown = terminal.shown();
    assert!(shown.contains("^C\r\nFUNC"), "{shown:?}");
    assert!(shown.contains("1009"), "{shown:?}");
}

/// The PID that the command writes once it is ready.
fn wait_for_pid(file: &Path) -> i32 {
    wait_until("the command", || fs::read_to_string(file).ok()?.parse().ok())
}

#[test]
fn signal_for_the_tool_alone_reaches_the_command_once() {
    let folder = Folder::new();
    let (args, ready) = counting_command(&folder);
    let tool = Tool::start("functrace", AttachMode::best(), &args);
    wait_for_pid(&ready);
    tool.signal(Signal::SIGTERM);
    let run = tool.finish();
    assert_eq!(run.status.code(), Some(41), "{}", run.stderr);
    assert_eq!(run.summary["type"], "summary");
}

#[test]
fn signal_for_the_group_reaches_the_command_once() {
    use std::os::unix::process::CommandExt;
    let folder = Folder::new();
    let (args, ready) = counting_command(&folder);
    let mut command = tool_command("functrace", AttachMode::best(), &args);
    command.process_group(0);
    let tool = Tool::start_as(command);
    wait_for_pid(&ready);
    killpg(Pid::from_raw(tool.pid() as i32), Signal::SIGTERM).expect("a process group");
    let run = tool.finish();
    assert_eq!(run.status.code(), Some(41), "{}", run.stderr);
}

#[test]
fn timeout_ends_the_command_once() {
    let folder = Folder::new();
    let (args, _) = counting_command(&folder);
    // More than the start takes: the command has to be ready.
    let mut command = Command::new("timeout");
    command.args(["--preserve-status", if in_guest() { "60" } else { "3" }]);
    let tool = tool_command("functrace", AttachMode::best(), &args);
    let ended = run_to_end(command.arg(tool.get_program()).args(tool.get_args()));
    assert_eq!(ended.status.code(), Some(41), "{ended:?}");
}

#[test]
fn status_is_that_of_a_command_killed_by_the_signal() {
    let main = format!("{}:main", program("calls").display());
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let folder = Folder::new();
        let ready = folder.path.join("ready");
        let script = format!("echo $$ >{}; exec sleep 1000", ready.display());
        let tool = Tool::start(
            "functrace",
            AttachMode::best(),
            [&main, "--", "sh", "-c", &script],
        );
        let pid = wait_until("the command", || {
            fs::read_to_string(&ready).ok()?.trim().parse().ok()
        });
        tool.signal(signal);
        let run = tool.finish();
        assert_eq!(run.status.code(), Some(128 + signal as i32), "{}", run.stderr);
        assert!(
            kill(Pid::from_raw(pid), None).is_err(),
            "PID {pid} is left behind"
        );
    }
}

#[test]
fn command_that_ignores_the_signal_is_not_waited_for() {
    let main = format!("{}:main", program("calls").display());
    let folder = Folder::new();
    let ready = folder.path.join("ready");
    let script = format!("trap '' TERM; echo $$ >{}; exec sleep 1000", ready.display());
    let tool = Tool::start(
        "functrace",
        AttachMode::best(),
        [&main, "--", "sh", "-c", &script],
    );
    let pid = wait_until("the command", || {
        fs::read_to_string(&ready).ok()?.trim().parse().ok()
    });
    tool.signal(Signal::SIGTERM);
    // Its standard output is still open: only the tool is waited for.
    wait_until("the tool to end", || {
        (!Path::new(&format!("/proc/{}/exe", tool.pid())).exists()).then_some(())
    });
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("the command to continue");
    let run = tool.finish();
    assert_eq!(run.status.code(), Some(0), "{}", run.stderr);
    assert!(
        run.stderr
            .contains(&format!("the command continues as PID {pid}\n")),
        "{}",
        run.stderr
    );
}

/// The kernel removes perf events one after the other.
#[test]
fn results_do_not_wait_for_perf_events_to_be_removed() {
    AttachMode::Single.run(|mode| {
        let mut tool = Tool::start("funccount", mode, ["libc:/^is[a-z]*$/"]);
        let probes = tool.attached["probes"].as_u64().expect("a number");
        assert!(probes >= 11, "removed in less than a second: {probes} probes");
        let start = Instant::now();
        tool.signal(Signal::SIGINT);
        tool.wait_for(|record| record["type"] == "summary");
        let shown = start.elapsed();
        let run = tool.finish();
        assert!(run.status.success(), "{}", run.stderr);
        let ended = start.elapsed();
        assert!(
            shown < ended - shown,
            "results after {shown:?}, end after {ended:?}"
        );
    });
}

#[test]
fn too_many_perf_events_are_refused() {
    for mode in [AttachMode::Single, AttachMode::Plain] {
        mode.run(|mode| {
            let start = Instant::now();
            let ended = run_to_end(&mut tool_command("funccount", mode, ["libc:*"]));
            assert_eq!(ended.status.code(), Some(1), "{ended:?}");
            assert!(
                ended.stderr.contains(" probes exceed the limit of 256: "),
                "{ended:?}"
            );
            // Had some been placed, their removal would take half a minute.
            assert!(in_guest() || start.elapsed().as_secs() < 10);
        });
    }
}

fn unread_fifo(folder: &Folder) -> std::path::PathBuf {
    let fifo = folder.path.join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).expect("a FIFO");
    fifo
}

#[test]
fn fifo_without_a_reader_ends_with_the_duration() {
    let folder = Folder::new();
    let fifo = unread_fifo(&folder);
    let start = Instant::now();
    let ended = run_to_end(
        tool_command(
            "functrace",
            AttachMode::best(),
            ["libc:malloc", "-d", "50ms", "-o"],
        )
        .arg(&fifo),
    );
    assert!(start.elapsed().as_millis() >= 50);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let expected = format!(
        "error: failed to create {}: no process reads it\n",
        fifo.display()
    );
    assert_eq!(ended.stderr, expected);
}

#[test]
fn fifo_without_a_reader_ends_with_a_signal() {
    let folder = Folder::new();
    let fifo = unread_fifo(&folder);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut command = tool_command("functrace", AttachMode::best(), ["libc:malloc", "-o"]);
        let mut tool = Owned(
            command
                .arg(&fifo)
                .stdout(Stdio::null())
                .spawn()
                .expect("the tool"),
        );
        // Blocked only while it waits.
        wait_until("the tool to wait for a reader", || {
            let status = fs::read_to_string(format!("/proc/{}/status", tool.0.id())).ok()?;
            let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"))?;
            (u64::from_str_radix(blocked.trim(), 16).ok()? != 0).then_some(())
        });
        tool.signal(signal);
        let status = tool.wait();
        assert_eq!((status.code(), status.signal()), (Some(0), None));
    }
}

#[test]
fn closed_standard_output_is_an_error() {
    for args in [
        "--list",
        "--help",
        "functrace --help",
        "funclist libc:malloc",
        "functrace libc:malloc -d 1",
    ] {
        let script = format!("exec {} {args} >&-", TOOLS.display());
        let ended = run_to_end(Command::new("sh").args(["-c", &script]));
        assert_eq!(ended.status.code(), Some(1), "{args}: {ended:?}");
        assert!(
            ended
                .stderr
                .starts_with("error: failed to write to standard output: Bad file descriptor"),
            "{ended:?}"
        );
    }
    let folder = Folder::new();
    let script = format!(
        "exec {} funclist libc:malloc -o {}/out >&-",
        TOOLS.display(),
        folder.path.display()
    );
    let ended = run_to_end(Command::new("sh").args(["-c", &script]));
    assert!(ended.status.success(), "{ended:?}");
}

/// `ulimit OPTION`, and the tool with these arguments.
fn run_limited(option: &str, args: &str) -> crate::harness::Ended {
    let script = format!("ulimit {option}; exec {} {args}", TOOLS.display());
    run_to_end(Command::new("bash").args(["-c", &script]))
}

#[test]
fn file_that_may_not_grow_is_an_error() {
    let folder = Folder::new();
    let ended = run_limited("-f 1", &format!("funclist libc -o {}/out", folder.path.display()));
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(
        ended
            .stderr
            .starts_with("error: failed to write to the output file: File too large"),
        "{ended:?}"
    );
    // The command may die of the signal, as it would alone.
    let script = "head -c 9999 /dev/zero >$0/big; test $? = 153";
    let args = format!(
        "functrace libc:malloc -q -o /dev/null -- sh -c '{script}' {}",
        folder.path.display()
    );
    let ended = run_limited("-f 1", &args);
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

#[test]
fn too_little_memory_is_an_error() {
    let mut errors = 0;
    for kilobytes in (4000..200_000).step_by(100) {
        let ended = run_limited(&format!("-v {kilobytes}"), "funclist libc");
        if ended.status.success() || errors == 30 {
            break;
        }
        // With less, neither the C library nor that of Rust can even start the program.
        let is_started = ended.status.signal() != Some(Signal::SIGSEGV as i32)
            && !ended.stderr.contains("failed to allocate an alternative stack")
            && !ended.stderr.contains("Fatal glibc error");
        if is_started {
            assert_eq!(ended.status.code(), Some(1), "{kilobytes} KB: {ended:?}");
            assert_eq!(ended.stderr, "error: out of memory\n");
            errors += 1;
        }
    }
    assert!(errors > 0);
}

#[test]
fn process_of_32_bits_is_refused() {
    let folder = Folder::new();
    let source = folder.path.join("loop.c");
    fs::write(
        &source,
        "void _start(void) { for (;;) __asm__ volatile(\"int $0x80\" : : \"a\"(29)); }",
    )
    .expect("a file");
    let program = folder.path.join("loop");
    let built = Command::new("gcc")
        .args(["-m32", "-nostdlib", "-static", "-fno-pic", "-no-pie", "-o"])
        .args([&program, &source])
        .output();
    if !built.is_ok_and(|built| built.status.success()) {
        return skip("gcc cannot build 32-bit programs");
    }
    let Ok(process) = Command::new(&program).spawn() else {
        return skip("this kernel runs no 32-bit programs");
    };
    let process = Owned(process);
    let pid = process.0.id().to_string();
    for args in [
        ["funccount", "libc:malloc"],
        ["functrace", ":main"],
        ["mallocsnoop", "-q"],
        ["funclist", "libc"],
    ] {
        let ended = run_to_end(Command::new(&*TOOLS).args(args).args(["-p", &pid]));
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        let expected = format!("error: failed to trace PID {pid}: a 32-bit program\n");
        assert!(ended.stderr.starts_with(&expected), "{ended:?}");
    }
}

#[test]
fn run_ends_with_a_process_whose_main_thread_has_exited_before() {
    // Only the calling thread exits.
    let script = "import ctypes, platform, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
ctypes.CDLL(None).syscall(60 if platform.machine() == 'x86_64' else 93, 0)";
    let process = Command::new("python3").args(["-c", script]).spawn();
    let process = Owned(process.expect("python3"));
    let pid = process.0.id();
    wait_until("the main thread to exit", || is_in_state(pid, 'Z'));
    let args = ["libc:malloc", "-p", &pid.to_string()];
    let tool = Tool::start("funccount", AttachMode::best(), args);
    process.signal(Signal::SIGKILL);
    let run = tool.finish();
    assert!(run.stderr.contains("have exited"), "{}", run.stderr);
}

fn counted(run: &Run) -> u64 {
    run.rows.iter().filter_map(|row| row["count"].as_u64()).sum()
}

#[test]
fn run_ends_with_the_last_process() {
    for options in [&[][..], &["--follow"]] {
        let flow = program("flow");
        let [first, mut second] = [0, 1].map(|_| Target::start(Command::new(&flow)));
        let pids = format!("{},{}", first.pid(), second.pid());
        let spec = format!("{}:counted", flow.display());
        let args = [&[&*spec, "-p", &pids], options].concat();
        let tool = Tool::start("funccount", AttachMode::best(), args);
        first.end();
        second.ask("count 7");
        second.end();
        let run = tool.finish();
        assert!(run.status.success(), "{}", run.stderr);
        assert_eq!(counted(&run), 7);
        assert!(
            run.stderr.contains("the traced processes have exited\n"),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn followed_processes_are_traced_after_the_command() {
    let folder = Folder::new();
    let (fifo, ready) = (folder.path.join("orders"), folder.path.join("ready"));
    mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).expect("a new FIFO");
    let flow = program("flow").display().to_string();
    // The grandchild outlives its parent, too.
    let script = format!(
        "(({flow} <{} >/dev/null) & exit 0) & echo $$ >{}; exit 3",
        fifo.display(),
        ready.display()
    );
    let spec = format!("{flow}:counted");
    let args = [&spec, "--follow", "--", "sh", "-c", &script];
    let tool = Tool::start("funccount", AttachMode::best(), args);
    let pid = wait_until("the command", || {
        fs::read_to_string(&ready).ok()?.trim().parse::<u32>().ok()
    });
    wait_until("its end", || {
        (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    fs::write(&fifo, "count 7\n").expect("an order");
    let run = tool.finish();
    assert_eq!(run.status.code(), Some(3), "{}", run.stderr);
    assert_eq!(counted(&run), 7);
    assert!(
        run.stderr
            .contains("the command has exited; tracing its descendants"),
        "{}",
        run.stderr
    );
}
