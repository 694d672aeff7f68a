// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! bashreadline: every line entered in a bash, whole and in order, and nothing else.
//!
//! Other tests type into shells of their own meanwhile, so rows are told apart by their process.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdout, Command, Stdio};

use chrono::{DateTime, Utc};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{
    self, Ended, Folder, Owned, Run, TOOLS, Tool, Way, build_dir, copy, each_way, run_to_end, skip,
    wait_until,
};
use crate::pty::{BASH_ARGUMENTS, Shell, Terminal, state_of};

const TOOL: &str = "bashreadline";
const NOTHING: [&str; 0] = [];

each_way! {
    lines_come_out_as_they_went_in
    lines_typed_ahead_keep_their_order
    the_first_line_of_a_waiting_bash_is_seen
    a_copy_of_bash_that_starts_later_is_seen
    with_one_pid_the_neighbour_is_not_seen
    a_bash_that_uses_the_library_is_seen
    the_end_takes_the_probes_out
}

fn lines_come_out_as_they_went_in(way: Way) {
    let tool = Tool::start(TOOL, way, NOTHING);
    let mut bash = Shell::bash();
    let lines: Vec<String> = (0..13)
        .map(|number| format!(": 'line {number}' | cat; cd /"))
        .collect();
    let before = Utc::now();
    lines.iter().for_each(|line| bash.enter(line));
    let after = Utc::now();
    let exe = fs::read_link(format!("/proc/{}/exe", bash.pid())).expect("a program");
    let run = tool.stop();

    assert_eq!(run.lines_of(bash.pid()), lines);
    for (row, line) in run.with("pid", bash.pid()).into_iter().zip(&lines) {
        let mut row = row.clone();
        let time = row["time"].take();
        let time = DateTime::parse_from_rfc3339(time.as_str().expect("a time")).expect("RFC 3339");
        assert!(time >= before && time <= after, "{before} <= {time} <= {after}");
        assert_eq!(row, facts(&bash, line, &exe));
    }
    run.assert_clean();
}

/// The whole row of a line in a shell that this process started, without its time.
fn facts(shell: &Shell, line: &str, exe: &Path) -> Value {
    let login_uid: u32 = fs::read_to_string("/proc/self/loginuid")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(u32::MAX);
    let cgroup = own_cgroup();
    let is_id = |part: &&str| part.len() == 64;
    let container = cgroup
        .as_deref()
        .and_then(|path| path.rsplit(|c: char| !c.is_ascii_hexdigit()).find(is_id));
    json!({
        "type": "event",
        "time": null,
        "pid": shell.pid(),
        "tid": shell.pid(),
        "uid": 0,
        "comm": exe.file_name().and_then(OsStr::to_str),
        "user": "root",
        "tty": shell.tty(),
        "command": line,
        "truncated": false,
        "login_uid": (login_uid != u32::MAX).then_some(login_uid),
        "ppid": std::process::id(),
        "cgroup": cgroup,
        "container": container,
        "exe": exe,
    })
}

/// The path in cgroup2 that tests, and the shells they start, are in.
fn own_cgroup() -> Option<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").expect("control groups");
    groups
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(str::to_owned)
}

fn lines_typed_ahead_keep_their_order(way: Way) {
    let mut bash = Shell::bash();
    let tool = Tool::start(TOOL, way, ["-p", &bash.pid().to_string()]);
    let lines: Vec<String> = (1..=500).map(|number| format!(": line {number}")).collect();
    bash.enter_all(&lines);
    let run = tool.stop();
    assert_eq!(run.lines_of(bash.pid()), lines);
    run.assert_clean();
}

fn the_first_line_of_a_waiting_bash_is_seen(way: Way) {
    let mut bash = Shell::bash();
    let tool = Tool::start(TOOL, way, NOTHING);
    bash.enter(": first");
    let run = tool.stop();
    assert_eq!(run.lines_of(bash.pid()), [": first"]);
}

#[test]
fn an_empty_line_is_a_row_and_keys_that_enter_nothing_are_none() {
    let mut bash = Shell::bash();
    let tool = start(["-p", &bash.pid().to_string()]);
    bash.enter("");
    bash.terminal.press(b": given up");
    bash.terminal.wait_for(": given up");
    bash.terminal.wait_for_sleep();
    bash.press(b"\x03"); // Ctrl-C
    bash.enter(": entered");
    let status = bash.end_with(b"\x04"); // Ctrl-D
    let run = tool.stop();
    assert!(status.success());
    assert_eq!(run.lines_of(bash.pid()), ["", ": entered"]);
}

/// The tool stands still until the process is gone, so that it has nothing left to look at.
#[test]
fn the_last_line_has_its_facts_although_the_process_is_gone() {
    let folder = Folder::new();
    let copy = folder.copy_of("/bin/bash", "last-words");
    let mut bash = Shell::at(&copy);
    let tool = start(NOTHING);
    let halted = Halted::new(&tool);
    assert_eq!(bash.end_with(b"exit 7\n").code(), Some(7));
    drop(halted);
    let run = tool.stop();
    let mut rows = run.with("pid", bash.pid()).into_iter().cloned();
    let mut row = rows.next().expect("a row");
    row["time"].take();
    assert_eq!(row, facts(&bash, "exit 7", &copy));
    assert_eq!(rows.next(), None);
}

#[test]
fn a_line_that_replaces_the_shell_is_still_one_of_the_shell() {
    let folder = Folder::new();
    let copy = folder.copy_of("/bin/bash", "replaced");
    let mut bash = Shell::at(&copy);
    let tool = start(NOTHING);
    let halted = Halted::new(&tool);
    bash.terminal.press(b"exec cat\n");
    wait_until("the shell to be replaced", || {
        let comm = fs::read_to_string(format!("/proc/{}/comm", bash.pid())).expect("a process");
        (comm == "cat\n").then_some(())
    });
    drop(halted);
    let run = tool.stop();
    assert_eq!(run.lines_of(bash.pid()), ["exec cat"]);
    assert_eq!(run.with("pid", bash.pid())[0]["exe"], json!(copy));
}

fn a_copy_of_bash_that_starts_later_is_seen(way: Way) {
    let folder = Folder::new();
    let copy = folder.copy_of("/bin/bash", &format!("later-{}", way.name()));
    // Only this bash has the name, so that any row is its row.
    let mut tool = Tool::start(TOOL, way, ["--comm", &format!("later-{}", way.name())]);
    let mut bash = Shell::at(&copy);
    let mut entered = 0;
    tool.until_row(|| {
        bash.enter(": again");
        entered += 1;
    });
    bash.enter(": and again");
    let run = tool.stop();
    let lines = run.lines_of(bash.pid());
    assert_eq!(lines.last(), Some(&": and again"));
    assert!(
        lines.len() >= 2 && lines.len() <= entered + 1,
        "{lines:?} of {entered}"
    );
    assert!(
        run.rows.iter().all(|row| row["exe"] == json!(copy)),
        "{:?}",
        run.rows
    );
}

/// As after an upgrade of bash.
#[test]
fn a_bash_whose_file_was_removed_is_seen() {
    let folder = Folder::new();
    let copy = folder.copy_of("/bin/bash", "removed");
    let mut bash = Shell::at(&copy);
    fs::remove_file(&copy).expect("the copy is there");
    let tool = start(NOTHING);
    bash.enter(": still here");
    let run = tool.stop();
    assert_eq!(run.lines_of(bash.pid()), [": still here"]);
    assert_eq!(run.with("pid", bash.pid())[0]["exe"], json!(copy));
}

/// The inode is known as that of another program by then.
#[test]
fn a_bash_written_over_another_program_is_seen() {
    let folder = Folder::new();
    let file = folder.path.join("overwritten");
    copy(Path::new("/bin/true"), &file);
    let mut tool = start(["--comm", "overwritten"]);
    assert!(run_to_end(&mut Command::new(&file)).status.success());
    copy(Path::new("/bin/bash"), &file);
    let mut bash = Shell::at(&file);
    tool.until_row(|| bash.enter(": new content"));
    assert!(tool.stop().rows.iter().all(|row| row["exe"] == json!(file)));
}

#[test]
fn one_file_under_two_names_is_named_as_each_process_names_it() {
    let folder = Folder::new();
    let first = folder.copy_of("/bin/bash", "first-name");
    let second = folder.path.join("second-name");
    fs::hard_link(&first, &second).expect("a hard link");
    let mut shells = [Shell::at(&first), Shell::at(&second)];
    let tool = start(["--comm", "first-name,second-name"]);
    shells.iter_mut().for_each(|bash| bash.enter(": which one"));
    let run = tool.stop();
    let exe_of = |bash: &Shell| run.with("pid", bash.pid())[0]["exe"].clone();
    assert_eq!(
        [exe_of(&shells[0]), exe_of(&shells[1])],
        [json!(first), json!(second)]
    );
}

/// What `su` and `sudo` leave as it is.
#[test]
fn the_one_who_logged_in_is_known() {
    let script = "echo 12345 >/proc/self/loginuid; exec /bin/bash \"$@\"";
    let mut bash = Shell::run(Command::new("sh").args(["-c", script, "sh"]).args(BASH_ARGUMENTS));
    let logged_in = fs::read_to_string(format!("/proc/{}/loginuid", bash.pid())).unwrap_or_default();
    if logged_in.trim() != "12345" {
        return skip(&format!("this kernel takes no login user: it has {logged_in:?}"));
    }
    let tool = start(["-p", &bash.pid().to_string()]);
    bash.enter(": who am i");
    let run = tool.stop();
    assert_eq!(
        (&run.rows[0]["login_uid"], &run.rows[0]["uid"]),
        (&json!(12345), &json!(0))
    );
}

#[test]
fn a_bash_called_sh_is_seen_and_dash_is_not() {
    let folder = Folder::new();
    let link = folder.path.join("sh");
    std::os::unix::fs::symlink("/bin/bash", &link).expect("a link");
    let tool = start(NOTHING);
    let mut sh = Shell::at(&link);
    let mut dash = Terminal::run(Command::new("/bin/dash").arg("-i").env("PS1", "> "));
    dash.press(b"echo $((40 + 2))\n");
    dash.wait_for("42\r\n");
    sh.enter(": posix");
    let run = tool.stop();
    assert_eq!(run.lines_of(sh.pid()), [": posix"]);
    assert_eq!(run.with("pid", sh.pid())[0]["comm"], "sh");
    assert_eq!(run.lines_of(dash.pid()), NOTHING);
}

/// A mount namespace with another root, where the shell is a file that the host cannot name.
#[test]
fn a_bash_in_a_container_is_seen() {
    let folder = Folder::new();
    let mut bash = in_container(&folder, "inside-before");
    let tool = start(NOTHING);
    bash.enter(": inside");
    let run = tool.stop();
    assert_eq!(run.lines_of(bash.pid()), [": inside"]);
    assert_eq!(run.with("pid", bash.pid())[0]["exe"], "/mnt/inside-before");
    assert!(!Path::new("/mnt/inside-before").exists(), "visible from outside");
}

#[test]
fn a_bash_in_a_container_that_starts_later_is_seen() {
    let folder = Folder::new();
    let mut tool = start(["--comm", "inside-later"]);
    let mut bash = in_container(&folder, "inside-later");
    tool.until_row(|| bash.enter(": inside"));
    let run = tool.stop();
    assert!(
        run.rows
            .iter()
            .all(|row| row["exe"] == "/mnt/inside-later" && row["pid"] == bash.pid()),
        "{:?}",
        run.rows
    );
}

fn in_container(folder: &Folder, name: &str) -> Shell {
    // An initramfs cannot be pivoted away from, only covered.
    let script = r#"
        mount --rbind / "$1" && cd "$1" && mount -t tmpfs inside mnt && cp /bin/bash "mnt/$2" && mkdir mnt/old || exit
        { pivot_root . mnt/old && umount -l mnt/old; } || mount --move . / || exit
        bash=$2 && shift 2 && exec chroot . "/mnt/$bash" "$@"
    "#;
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(&folder.path)
        .arg(name)
        .args(BASH_ARGUMENTS);
    Shell::run(&mut command)
}

fn a_bash_that_uses_the_library_is_seen(way: Way) {
    let mut bash = Shell::run(&mut Command::new(bash_with_library()));
    let mut other = Shell::run(&mut Command::new(user_of_library()));
    let tool = Tool::start(TOOL, way, NOTHING);
    bash.enter("one");
    other.enter("not a shell's");
    bash.enter("two");
    let run = tool.stop();
    assert_eq!(run.lines_of(bash.pid()), ["one", "two"]);
    assert_eq!(run.lines_of(other.pid()), NOTHING);
}

#[test]
fn another_user_of_the_library_is_not_shown_even_when_it_is_gone() {
    let mut other = Shell::run(&mut Command::new(user_of_library()));
    let tool = start(NOTHING);
    let halted = Halted::new(&tool);
    assert!(other.end_with(b"exit\n").success());
    drop(halted);
    let run = tool.stop();
    assert_eq!(run.lines_of(other.pid()), NOTHING);
}

/// With -DBASH it has the functions that only bash has, and uses the library as the bash of other distributions does.
fn bash_with_library() -> PathBuf {
    harness::program("lines-bash")
}

fn user_of_library() -> PathBuf {
    harness::program("lines-library")
}

#[test]
fn with_readline_every_user_of_the_library_is_seen() {
    let tool = start(["--readline"]);
    let mut other = Shell::run(&mut Command::new(user_of_library()));
    let mut bash = Shell::bash();
    other.enter("any line");
    bash.enter(": of a shell");
    let run = tool.stop();
    assert_eq!(run.lines_of(other.pid()), ["any line"]);
    assert_eq!(run.with("pid", other.pid())[0]["comm"], "lines-library");
    assert_eq!(run.lines_of(bash.pid()), [": of a shell"]);
}

/// gdb and python3 use the callback interface, sqlite3 the simple one.
#[test]
fn with_readline_real_programs_are_seen() {
    let tool = start(["--readline"]);
    let seen: Vec<(u32, &str, &str)> = [
        (&["gdb", "-q", "-nx"][..], "(gdb) ", "print 40 + 2", "42"),
        (&["/usr/bin/python3", "-q", "-E"], ">>> ", "40 + 2", "42"),
        (&["sqlite3", "-interactive"], "sqlite> ", "select 40 + 2;", "42"),
    ]
    .into_iter()
    .filter_map(|(program, prompt, line, answer)| {
        let path = program_in_path(program[0])?;
        let mut terminal = Terminal::run(Command::new(path).args(&program[1..]));
        terminal.wait_for(prompt);
        terminal.press(format!("{line}\n").as_bytes());
        terminal.wait_for(&format!("{answer}\r\n"));
        Some((terminal.pid(), program[0], line))
    })
    .collect();
    let run = tool.stop();
    for (pid, program, line) in seen {
        assert_eq!(run.lines_of(pid), [line], "{program}");
    }
}

/// None, and a word about it, when it is not installed.
fn program_in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    if found.is_none() {
        skip(&format!(
            "{name} is not installed: it is nowhere in {}",
            path.display()
        ));
    }
    found
}

#[test]
fn text_has_the_name_of_the_program_only_with_readline() {
    let mut other = Shell::run(&mut Command::new(user_of_library()));
    let pid = other.pid().to_string();
    let with = Plain::start(["--readline", "-p", &pid]);
    other.enter("any line");
    let text = with.stop().stdout;
    let [header, row] = text.lines().collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(header), ["TIME", "PID", "COMM", "USER", "TTY", "COMMAND"]);
    assert_eq!(
        words(row)[1..],
        [&pid, "lines-library", "root", &other.tty(), "any", "line"]
    );

    let mut bash = Shell::bash();
    let without = Plain::start(["-p", &bash.pid().to_string()]);
    bash.enter(": of bash");
    let text = without.stop().stdout;
    let [header, row] = text.lines().collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    assert_eq!(words(header), ["TIME", "PID", "USER", "TTY", "COMMAND"]);
    assert_eq!(
        words(row)[1..],
        [&bash.pid().to_string(), "root", &bash.tty(), ":", "of", "bash"]
    );
}

#[test]
fn a_named_file_is_the_only_one() {
    let folder = Folder::new();
    let copy = folder.copy_of("/bin/bash", "named");
    let (mut named, mut neighbour) = (Shell::at(&copy), Shell::bash());
    let tool = start([OsStr::new("-s"), copy.as_os_str()]);
    assert_eq!(tool.attached["files"], json!([copy]));
    named.enter(": named");
    neighbour.enter(": not named");
    let run = tool.stop();
    assert_eq!(
        (run.lines_of(named.pid()), run.lines_of(neighbour.pid())),
        (vec![": named"], vec![])
    );
    assert_eq!(run.rows[0]["exe"], json!(copy));
}

#[test]
fn a_named_library_shows_each_of_its_users() {
    let mut other = Shell::run(&mut Command::new(user_of_library()));
    let maps = fs::read_to_string(format!("/proc/{}/maps", other.pid())).expect("a memory map");
    let library = maps.lines().find_map(|line| {
        line.find("/")
            .map(|at| &line[at..])
            .filter(|path| path.contains("readline.so"))
    });
    for name in [library.expect("libreadline in the map"), "libreadline"] {
        let tool = start(["-s", name]);
        other.enter(name);
        let run = tool.stop();
        assert_eq!(run.lines_of(other.pid()), [name]);
    }
}

#[test]
fn files_and_processes_that_read_no_lines_are_refused_in_one_line() {
    let pid = std::process::id().to_string();
    for (args, said) in [
        (
            ["-s", "/bin/dash"],
            "no function readline_internal_teardown, readline",
        ),
        (["-s", "/etc/passwd"], "/etc/passwd"),
        (["-s", "/no/such/file"], "failed to open /no/such/file"),
        (["-s", "nosuchlibrary"], "failed to find nosuchlibrary"),
        (["-p", &pid], "no function readline_internal_teardown, readline"),
        (["-u", "nobody-of-this-name"], "no user"),
        (["--cgroup", "/no/such/group"], "no control group"),
        (["--container", "no-such-container"], "no running container"),
    ] {
        let ended = run_to_end(Command::new(&*TOOLS).arg(TOOL).args(args));
        ended.assert_refused(1, said);
    }
}

#[test]
fn any_text_arrives_intact() {
    let lines = [
        ": naïve Grüße 日本語",
        ": e\u{301} n\u{303}\u{323}",
        ": 🦀 👩\u{200d}👩\u{200d}👧 \u{10ffff}",
        ": \"a\\b\" 'c'\tend",
    ];
    let mut bash = Shell::bash();
    let tool = start(["-p", &bash.pid().to_string()]);
    lines.iter().for_each(|line| bash.paste(line));
    let run = tool.stop();
    assert_eq!(run.lines_of(bash.pid()), lines);
    assert!(
        run.rows.iter().all(|row| row.get("command_hex").is_none()),
        "{:?}",
        run.rows
    );
}

#[test]
fn several_lines_that_are_entered_at_once_are_one_row() {
    let mut bash = Shell::bash();
    let pid = bash.pid().to_string();
    let (tool, text) = (start(["-p", &pid]), Plain::start(["-p", &pid]));
    bash.terminal
        .press(b"\x1b[200~: one\necho $((40 + 2))\x1b[201~\n");
    bash.terminal.wait_for("42\r\n");
    assert_eq!(tool.stop().all_lines(), [": one\necho $((40 + 2))"]);
    let shown = text.stop().stdout;
    assert!(
        shown.ends_with(" : one\\necho $((40 + 2))\n") && shown.lines().count() == 2,
        "{shown}"
    );
}

#[test]
fn broken_utf8_is_marked_and_kept_in_hexadecimal() {
    let line = b": \xff\xfe cut \xe2\x82 end";
    let mut bash = Shell::bash();
    let tool = start(["-p", &bash.pid().to_string()]);
    bash.paste(line);
    let run = tool.stop();
    assert_eq!(run.lines_of(bash.pid()), [": \u{fffd}\u{fffd} cut \u{fffd} end"]);
    let hex: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(run.rows[0]["command_hex"], hex);
}

#[test]
fn a_line_cannot_touch_the_terminal_of_the_one_who_watches() {
    let line = "# \x1b]0;title\x07 \x1b[2J\x1b[31m \u{9b}2J \u{202e}txt.exe\u{2066} \x7f\x08 end";
    for format in ["text", "csv"] {
        let mut bash = Shell::bash();
        let tool = Plain::start(["--format", format, "-p", &bash.pid().to_string()]);
        bash.paste(line);
        let shown = tool.stop().stdout;
        let risky = |c: char| (c.is_control() && c != '\n') || ('\u{2000}'..'\u{2070}').contains(&c);
        assert!(!shown.contains(risky), "{shown:?}");
        assert!(shown.contains(r"# \x1b]0;title\x07 \x1b[2J"), "{shown:?}");
    }
    let mut bash = Shell::bash();
    let tool = start(["-p", &bash.pid().to_string()]);
    bash.paste(line);
    assert_eq!(tool.stop().lines_of(bash.pid()), [line]);
}

/// The sizes of the buffers that the BPF program has, and their neighbours.
#[test]
fn lines_up_to_16_kib_are_whole_and_longer_ones_say_that_they_are_cut() {
    const MOST: usize = 16384;
    let line = |len: usize| -> String { ": ".chars().chain(('a'..='z').cycle()).take(len).collect() };
    let lens = [
        254,
        255,
        256,
        257,
        4095,
        4096,
        4097,
        MOST - 1,
        MOST,
        MOST + 1,
        20000,
    ];
    let mut bash = Shell::bash();
    let pid = bash.pid().to_string();
    let tool = start(["-p", &pid]);
    let text = Plain::start(["-p", &pid]);
    lens.iter().for_each(|&len| bash.enter(line(len)));
    let run = tool.stop();
    let shown = text.stop().stdout;

    assert_eq!(run.rows.len(), lens.len());
    for ((row, shown), len) in run.rows.iter().zip(shown.lines().skip(1)).zip(lens) {
        assert!(row["command"] == line(len.min(MOST)), "{len} bytes became {row}");
        assert_eq!(row["truncated"], len > MOST, "{len} bytes");
        assert_eq!(
            shown.ends_with(" [truncated after 16384 bytes]"),
            len > MOST,
            "{len} bytes"
        );
        assert!(shown.contains(&line(len.min(MOST))), "{len} bytes");
    }
}

fn with_one_pid_the_neighbour_is_not_seen(way: Way) {
    let (mut bash, mut neighbour) = (Shell::bash(), Shell::bash());
    let tool = Tool::start(TOOL, way, ["-p", &bash.pid().to_string()]);
    neighbour.enter(": not mine");
    bash.enter(": mine");
    neighbour.enter(": not mine");
    let run = tool.stop();
    assert_eq!(run.all_lines(), [": mine"]);
    run.assert_clean();
}

#[test]
fn with_several_pids_only_they_are_seen() {
    let mut shells = [Shell::bash(), Shell::bash(), Shell::bash()];
    let tool = start(["-p", &format!("{},{}", shells[0].pid(), shells[2].pid())]);
    for (number, bash) in shells.iter_mut().enumerate() {
        bash.enter(format!(": {number}"));
    }
    assert_eq!(tool.stop().all_lines(), [": 0", ": 2"]);
}

#[test]
fn with_a_user_only_that_user_is_seen() {
    let of_user = |uid: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", uid, "--regid", uid, "--clear-groups", "/bin/bash"]);
        Shell::run(command.args(BASH_ARGUMENTS))
    };
    // No other test has a shell of these users, one with a name and one without.
    for (number, asked, shown) in [("65534", "nobody", "nobody"), ("54321", "54321", "54321")] {
        let (mut user, mut root) = (of_user(number), Shell::bash());
        let tool = start(["-u", asked]);
        root.enter(": not mine");
        user.enter(": mine");
        let run = tool.stop();
        assert_eq!(run.all_lines(), [": mine"], "{asked}");
        assert_eq!(run.rows[0]["user"], shown);
        assert_eq!(run.rows[0]["uid"].to_string(), number);
    }
}

#[test]
fn with_a_name_only_threads_of_that_name_are_seen() {
    let folder = Folder::new();
    let (mut named, mut neighbour) = (
        Shell::at(folder.copy_of("/bin/bash", "a-name-of-its-own")),
        Shell::bash(),
    );
    for name in ["a-name-of-its-own", "a-name-of*", "other,a-name-of*"] {
        let tool = start(["--comm", name]);
        neighbour.enter(": not mine");
        named.enter(": mine");
        assert_eq!(tool.stop().all_lines(), [": mine"], "{name}");
    }
}

#[test]
fn with_a_control_group_it_and_those_below_are_seen() {
    let Some(group) = Group::new("ubpf-tools-test") else {
        return;
    };
    let below = group.below("below");
    let (mut inside, mut deeper, mut outside) = (Shell::bash(), Shell::bash(), Shell::bash());
    group.add(&inside);
    below.add(&deeper);
    let tool = start(["--cgroup", &group.path]);
    outside.enter(": not mine");
    inside.enter(": inside");
    deeper.enter(": deeper");
    let run = tool.stop();
    assert_eq!(run.all_lines(), [": inside", ": deeper"]);
    assert_eq!(
        (&run.rows[0]["cgroup"], &run.rows[1]["cgroup"]),
        (&json!(group.path), &json!(below.path))
    );
}

#[test]
fn with_a_container_only_its_shells_are_seen() {
    let id = format!("{:064x}", u128::from(std::process::id()) << 64 | 0xfeed);
    let Some(group) = Group::new(&format!("docker-{id}.scope")) else {
        return;
    };
    let (mut inside, mut outside) = (Shell::bash(), Shell::bash());
    group.add(&inside);
    let tool = start(["--container", &id]);
    outside.enter(": not mine");
    inside.enter(": mine");
    let run = tool.stop();
    assert_eq!(run.all_lines(), [": mine"]);
    assert_eq!(
        (&run.rows[0]["container"], &run.rows[0]["cgroup"]),
        (&json!(id), &json!(group.path))
    );
}

#[test]
fn a_control_group_made_during_the_run_is_known_from_its_first_line_on() {
    let mut bash = Shell::bash();
    let mut tool = start(["-p", &bash.pid().to_string()]);
    bash.enter(": before");
    tool.wait_rows(1);
    let Some(group) = Group::new("ubpf-tools-test-later") else {
        return;
    };
    group.add(&bash);
    bash.enter(": after");
    let run = tool.stop();
    drop(bash);
    assert_eq!(run.rows[1]["cgroup"], group.path);
}

#[test]
fn csv_gives_each_line_back() {
    let lines = [": \"one, two\"", ": 'three'", "", ": four"];
    let mut bash = Shell::bash();
    let tool = Plain::start(["--format", "csv", "-p", &bash.pid().to_string()]);
    lines.iter().for_each(|line| bash.enter(line));
    let records = parse_csv(&tool.stop().stdout);
    let column = |name: &str| records[0].iter().position(|key| key == name).expect("a column");
    let (command, pid) = (column("command"), column("pid"));
    assert_eq!(
        records[1..]
            .iter()
            .map(|record| record[command].as_str())
            .collect::<Vec<_>>(),
        lines
    );
    assert!(
        records[1..]
            .iter()
            .all(|record| record[pid] == bash.pid().to_string())
    );
    assert!(
        records.iter().all(|record| record.len() == records[0].len()),
        "{records:?}"
    );
}

/// RFC 4180, by hand: what the tool writes is not read back with the code that wrote it.
fn parse_csv(text: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut field, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => field.extend(rest.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => record.push(std::mem::take(&mut field)),
            '\n' if !quoted => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            c => field.push(c),
        }
    }
    assert!(
        field.is_empty() && record.is_empty() && !quoted,
        "the last line has no end"
    );
    records
}

#[test]
fn quiet_leaves_nothing_but_the_rows() {
    let mut bash = Shell::bash();
    let mut tool = Plain::spawn(["-q", "-M", "1", "-p", &bash.pid().to_string()]);
    wait_until("the first row", || {
        bash.enter(": quiet");
        tool.child.0.try_wait().expect("failed to wait")
    });
    let ended = tool.finish();
    assert_eq!((ended.stdout.lines().count(), ended.stderr.as_str()), (1, ""));
    assert!(ended.stdout.ends_with(": quiet\n"), "{}", ended.stdout);
}

#[test]
fn rows_go_to_the_named_file() {
    let folder = Folder::new();
    let file = folder.path.join("rows");
    let mut bash = Shell::bash();
    let pid = bash.pid().to_string();
    let tool = Plain::start([
        OsStr::new("-o"),
        file.as_os_str(),
        OsStr::new("-p"),
        OsStr::new(&pid),
    ]);
    bash.enter(": to a file");
    let ended = tool.stop();
    let text = fs::read_to_string(&file).expect("a file");
    assert_eq!((ended.stdout.as_str(), text.lines().count()), ("", 2));
    assert!(text.ends_with(": to a file\n"), "{text}");
}

#[test]
fn a_full_disk_behind_the_file_is_one_clear_line() {
    let bash = Shell::bash();
    let ended = run_to_end(
        Command::new(&*TOOLS)
            .args([TOOL, "-q", "-j", "-o", "/dev/full", "-p"])
            .arg(bash.pid().to_string()),
    );
    ended.assert_refused(1, "No space left on device");
}

#[test]
fn a_number_of_rows_ends_the_run() {
    let mut bash = Shell::bash();
    let tool = start(["-M", "7", "-p", &bash.pid().to_string()]);
    let lines: Vec<String> = (0..11).map(|number| format!(": {number}")).collect();
    lines.iter().for_each(|line| bash.enter(line));
    let run = tool.finish();
    assert_eq!(run.all_lines(), lines[..7]);
    run.assert_clean();
}

#[test]
fn a_time_ends_the_run() {
    let run = start(["-d", "300ms"]).finish();
    run.assert_clean();
    assert!(
        run.summary["duration_ns"].as_u64() >= Some(300_000_000),
        "{}",
        run.summary
    );
}

#[test]
fn a_reader_that_goes_away_ends_the_run_quietly_although_no_line_comes() {
    let bash = Shell::bash();
    for format in ["text", "json", "csv"] {
        let mut tool = Plain::start(["--format", format, "-p", &bash.pid().to_string()]);
        drop(tool.stdout.take());
        let ended = tool.finish();
        assert_eq!(
            (ended.status.code(), ended.stderr.as_str()),
            (Some(0), ""),
            "{format}"
        );
    }
}

/// A line that may be long is sent in a record of its size, and 4 KiB have no room for the larger ones.
#[test]
fn lines_that_find_no_room_are_counted_and_said() {
    let mut bash = Shell::bash();
    let tool = start(["--buffer-size", "4K", "-p", &bash.pid().to_string()]);
    bash.enter(": fits");
    bash.enter(format!(": {:05000}", 0));
    bash.enter(": fits again");
    let run = tool.stop();
    assert_eq!(run.all_lines(), [": fits", ": fits again"]);
    assert_eq!((&run.summary["lost"], run.lost.len()), (&json!(1), 1));
    assert!(
        run.stderr.contains("lost 1 events") && run.stderr.contains("--buffer-size"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_burst_that_overflows_the_ring_adds_up() {
    let mut bash = Shell::bash();
    let tool = start(["--buffer-size", "4K", "-p", &bash.pid().to_string()]);
    let halted = Halted::new(&tool);
    (0..37).for_each(|number| bash.enter(format!(": {number}")));
    drop(halted);
    let run = tool.stop();
    let lost = run.summary["lost"].as_u64().expect("a number");
    assert!(
        lost > 0 && !run.rows.is_empty(),
        "{} rows, {lost} lost",
        run.rows.len()
    );
    assert_eq!(run.rows.len() as u64 + lost, 37);
}

/// Whatever ends the tool, the instructions of the traced program are again those of its file, and it goes on.
fn the_end_takes_the_probes_out(way: Way) {
    // A file of its own, which no other test's tool attaches to.
    let program = build_dir().join(format!("lines-own-{}", way.name()));
    copy(&harness::program("lines-own"), &program);
    let mut shell = Shell::run(&mut Command::new(&program));
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGKILL] {
        assert!(is_untouched(&shell, &program), "before {signal}");
        let tool = Tool::start(TOOL, way, [OsStr::new("-s"), program.as_os_str()]);
        assert!(!is_untouched(&shell, &program), "there is a probe");
        tool.signal(signal);
        let status = tool.finish().status;
        assert_eq!(status.success(), signal != Signal::SIGKILL, "{signal}: {status}");
        wait_until("the probes to be out", || {
            is_untouched(&shell, &program).then_some(())
        });
        shell.enter("on it goes");
    }
}

/// Is the code in memory that of the file?
fn is_untouched(shell: &Shell, program: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{}", shell.pid()));
    let maps = fs::read_to_string(process.join("maps")).expect("a memory map");
    let code = maps
        .lines()
        .find(|line| line.contains(" r-xp ") && line.ends_with(program.to_str().expect("UTF-8")))
        .expect("the program's code");
    let words: Vec<&str> = code.split_whitespace().collect();
    let hex = |text: &str| u64::from_str_radix(text, 16).expect("a hexadecimal number");
    let (start, end) = words[0].split_once('-').expect("a range");
    let (start, end, offset) = (hex(start), hex(end), hex(words[2]));

    let mut memory = vec![0; (end - start) as usize];
    let mem = fs::File::open(process.join("mem")).expect("a process");
    mem.read_exact_at(&mut memory, start).expect("its memory");
    // The last page goes on after the end of what the file has for it.
    let file = fs::read(program).expect("a program");
    let file = &file[offset as usize..];
    let len = memory.len().min(file.len());
    memory[..len] == file[..len]
}

#[test]
fn without_root_it_is_refused_with_a_hint() {
    let folder = Folder::new();
    // The build may lie where others cannot go.
    let tools = folder.path.join("ubpf-tools");
    copy(&TOOLS, &tools);
    let user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let ended = run_to_end(Command::new("setpriv").args(user).arg(&tools).arg(TOOL));
    ended.assert_refused(3, "root");
    assert!(ended.stderr.contains("sudo"), "{}", ended.stderr);
}

#[test]
fn without_the_kernels_types_it_is_refused_with_a_hint() {
    let folder = Folder::new();
    let empty = folder.path.join("empty");
    fs::write(&empty, "").expect("a file");
    let script = "mount --bind \"$1\" /sys/kernel/btf/vmlinux && exec \"$2\" \"$3\"";
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(&empty)
        .arg(&*TOOLS)
        .arg(TOOL);
    let ended = run_to_end(&mut command);
    ended.assert_refused(3, "/sys/kernel/btf/vmlinux");
    assert!(ended.stderr.contains("CONFIG_DEBUG_INFO_BTF"), "{}", ended.stderr);
}

impl Run {
    /// What was entered in one process, in order.
    fn lines_of(&self, pid: u32) -> Vec<&str> {
        self.with("pid", pid)
            .iter()
            .map(|row| row["command"].as_str().expect("a line"))
            .collect()
    }

    /// What was entered in all that the filter let through.
    fn all_lines(&self) -> Vec<&str> {
        self.rows
            .iter()
            .map(|row| row["command"].as_str().expect("a line"))
            .collect()
    }
}

impl Ended {
    /// One line that says what is wrong, at most one of advice, and nothing else.
    #[track_caller]
    fn assert_refused(&self, status: i32, said: &str) {
        let lines: Vec<&str> = self.stderr.lines().collect();
        let as_expected = match lines[..] {
            [error] => error.starts_with("error: ") && error.contains(said),
            [error, hint] => {
                error.starts_with("error: ") && error.contains(said) && hint.starts_with("hint: ")
            }
            _ => false,
        };
        assert!(as_expected, "expected {said:?} in:\n{}", self.stderr);
        assert_eq!(
            (self.status.code(), self.stdout.as_str()),
            (Some(status), ""),
            "{}",
            self.stderr
        );
    }
}

/// The tool with `-j` in the way that it chooses itself, attached.
fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Tool {
    let mut command = Command::new(&*TOOLS);
    command.args([TOOL, "-j"]).args(args);
    Tool::start_as(command)
}

/// The tool in a format without records; that it is attached is said on stderr.
struct Plain {
    child: Owned,
    stdout: Option<ChildStdout>,
    stderr: BufReader<ChildStderr>,
}

impl Plain {
    fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        let mut tool = Self::spawn(args);
        let mut line = String::new();
        tool.stderr.read_line(&mut line).expect("UTF-8");
        assert!(line.starts_with("Tracing "), "{line}");
        tool
    }

    fn spawn<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        let mut command = Command::new(&*TOOLS);
        command
            .arg(TOOL)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the tool runs");
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take().expect("a pipe"));
        Self {
            child: Owned(child),
            stdout,
            stderr: BufReader::new(stderr),
        }
    }

    fn stop(self) -> Ended {
        self.child.signal(Signal::SIGINT);
        self.finish()
    }

    fn finish(mut self) -> Ended {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        if let Some(mut pipe) = self.stdout {
            pipe.read_to_string(&mut stdout).expect("UTF-8");
        }
        self.stderr.read_to_string(&mut stderr).expect("UTF-8");
        Ended {
            stdout,
            stderr,
            status: self.child.wait(),
        }
    }
}

/// A tool that stands still as long as this is there.
struct Halted<'a>(&'a Tool);

impl<'a> Halted<'a> {
    fn new(tool: &'a Tool) -> Self {
        tool.signal(Signal::SIGSTOP);
        wait_until("the tool to stand still", || {
            (state_of(tool.pid()) == 'T').then_some(())
        });
        Self(tool)
    }
}

impl Drop for Halted<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::SIGCONT);
    }
}

/// A new control group, removed at the end. Declared before the shells that it gets, which have to end first.
struct Group {
    folder: PathBuf,
    /// From the root of cgroup2.
    path: String,
}

impl Group {
    /// None, and a word about it, where there is no cgroup2.
    fn new(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let root = mounts
            .lines()
            .find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
                [_, root, "cgroup2", ..] => Some(root),
                _ => None,
            });
        let Some(root) = root else {
            skip("cgroup2 is not mounted: /proc/self/mounts has none");
            return None;
        };
        let path = format!("/{name}");
        Some(Self::create(PathBuf::from(format!("{root}{path}")), path))
    }

    fn below(&self, name: &str) -> Self {
        Self::create(self.folder.join(name), format!("{}/{name}", self.path))
    }

    fn create(folder: PathBuf, path: String) -> Self {
        fs::create_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        Self { folder, path }
    }

    fn add(&self, shell: &Shell) {
        fs::write(self.folder.join("cgroup.procs"), shell.pid().to_string())
            .expect("the group takes a process");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}
