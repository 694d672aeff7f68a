// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Drives a program on a pseudo-terminal: presses keys, and waits for output.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::harness::{DEADLINE, Owned, wait_until};

/// A process on a new pseudo-terminal, which is its controlling terminal.
pub struct Terminal {
    child: Owned,
    master: File,
    number: u32,
    /// All output of the process.
    screen: Vec<u8>,
    /// The end, in `screen`, of the last text waited for.
    seen: usize,
}

impl Terminal {
    /// Runs `command` in a new session on a new terminal.
    pub fn run(command: &mut Command) -> Self {
        let (master, slave, number) = open_pty().expect("a pseudo-terminal");
        let share = || slave.try_clone().expect("a descriptor");
        command.stdin(share()).stdout(share()).stderr(share());
        // Independent of the user's environment: a UTF-8 locale, no key bindings, no history. Without HISTFILE, bash
        // would use ~/.bash_history.
        command
            .env("TERM", "xterm")
            .env("LC_ALL", "C.UTF-8")
            .env("INPUTRC", "/dev/null")
            .env("HISTFILE", "");
        // SAFETY: `take_terminal` makes two system calls, and does not allocate between fork and exec.
        unsafe { command.pre_exec(take_terminal) };
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("failed to run {command:?}: {error}"));
        Self {
            child: Owned(child),
            master,
            number,
            screen: Vec::new(),
            seen: 0,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// The name of the terminal, such as `pts/3`.
    pub fn tty(&self) -> String {
        format!("pts/{}", self.number)
    }

    /// Presses keys, and reads the output meanwhile: the program blocks if the terminal's buffer is full.
    pub fn press(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        let deadline = Instant::now() + DEADLINE;
        while !rest.is_empty() {
            let ready = self.ready(PollFlags::POLLIN | PollFlags::POLLOUT, deadline, "room for input");
            if ready.contains(PollFlags::POLLIN) {
                self.read();
            }
            if ready.contains(PollFlags::POLLOUT) {
                match self.master.write(rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => panic!("failed to press keys: {error}\n{}", self.shown()),
                }
            }
        }
    }

    /// Waits until `text` has appeared since the last wait.
    pub fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = find(&self.screen[self.seen..], text.as_bytes()) {
                self.seen += at + text.len();
                return;
            }
            let ready = self.ready(PollFlags::POLLIN, deadline, text);
            let ended = !self.read() && ready.contains(PollFlags::POLLHUP);
            assert!(!ended, "the program ended before {text:?}\n{}", self.shown());
        }
    }

    /// Waits until the program sleeps. readline checks for signals and then sleeps, so a Ctrl-C between the two would
    /// have no effect until the next key.
    pub fn wait_for_sleep(&mut self) {
        wait_until("the program to sleep", || {
            (state_of(self.pid()) == 'S').then_some(())
        });
    }

    /// Waits until the program exits.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        wait_until(&format!("PID {} to exit", self.pid()), || {
            self.read();
            self.child.0.try_wait().expect("failed to wait")
        })
    }

    /// All output so far.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.screen).into_owned()
    }

    fn ready(&self, wanted: PollFlags, deadline: Instant, what: &str) -> PollFlags {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "timed out waiting for {what:?}\n{}",
                self.shown()
            );
            let mut files = [PollFd::new(self.master.as_fd(), wanted)];
            match poll(
                &mut files,
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
            ) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return files[0].revents().unwrap_or(PollFlags::empty()),
                Err(error) => panic!("failed to wait for the terminal: {error}"),
            }
        }
    }

    /// Reads available output. Returns false if there was none.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        match self.master.read(&mut buffer) {
            Ok(count) => {
                self.screen.extend_from_slice(&buffer[..count]);
                count > 0
            }
            Err(_) => false, // EAGAIN, or EIO after the program has closed the terminal
        }
    }
}

/// The state of a process in the letters of ps.
pub fn state_of(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.expect("a state")
}

/// A program on a terminal with numbered prompts, so that a redrawn prompt does not count as a new one.
pub struct Shell {
    pub terminal: Terminal,
    prompts: usize,
}

impl Shell {
    /// Starts /bin/bash and waits for its first prompt.
    pub fn bash() -> Self {
        Self::at("/bin/bash")
    }

    /// Starts the bash at this path and waits for its first prompt.
    pub fn at(path: impl AsRef<OsStr>) -> Self {
        Self::run(Command::new(path).args(BASH_ARGUMENTS))
    }

    /// Starts a command that runs bash, such as `setpriv ... bash BASH_ARGUMENTS...`, or tests/targets/lines.c.
    pub fn run(command: &mut Command) -> Self {
        command
            .env("PS1", "prompt-$((++prompts))> ")
            .env_remove("PROMPT_COMMAND")
            .env_remove("prompts");
        let mut shell = Self {
            terminal: Terminal::run(command),
            prompts: 0,
        };
        shell.wait_for_prompt();
        shell
    }

    pub fn pid(&self) -> u32 {
        self.terminal.pid()
    }

    pub fn tty(&self) -> String {
        self.terminal.tty()
    }

    /// Types a line and Enter, and waits for the next prompt.
    pub fn enter(&mut self, line: impl AsRef<[u8]>) {
        self.press([line.as_ref(), b"\n"].concat());
    }

    /// Like [`Shell::enter`], as a bracketed paste: readline does not interpret control characters in it as keys.
    pub fn paste(&mut self, line: impl AsRef<[u8]>) {
        self.press([b"\x1b[200~", line.as_ref(), b"\x1b[201~\n"].concat());
    }

    /// Presses keys, and waits for the next prompt.
    pub fn press(&mut self, keys: impl AsRef<[u8]>) {
        self.terminal.press(keys.as_ref());
        self.wait_for_prompt();
    }

    /// Types several lines at once, and waits for the prompt after the last.
    pub fn enter_all(&mut self, lines: &[String]) {
        let keys: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.terminal.press(keys.as_bytes());
        for _ in lines {
            self.wait_for_prompt();
        }
    }

    /// Presses keys, and waits until the program exits.
    pub fn end_with(&mut self, keys: impl AsRef<[u8]>) -> ExitStatus {
        self.terminal.press(keys.as_ref());
        self.terminal.wait_for_end()
    }

    fn wait_for_prompt(&mut self) {
        self.prompts += 1;
        self.terminal.wait_for(&format!("prompt-{}> ", self.prompts));
    }
}

/// Without startup files; `-i` for copies of bash that are named `sh`.
pub const BASH_ARGUMENTS: [&str; 3] = ["--norc", "--noprofile", "-i"];

/// Opens a new pseudo-terminal: its master, its slave and its number.
fn open_pty() -> io::Result<(File, OwnedFd, u32)> {
    let master = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
        .open("/dev/ptmx")?;
    let fd = master.as_raw_fd();
    let mut number: libc::c_uint = 0;
    let unlocked: libc::c_int = 0;
    let size = libc::winsize {
        ws_row: 24,
        ws_col: 30000,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the arguments have the types given in ioctl_tty(2), and the last request returns a new descriptor.
    let slave = unsafe {
        checked(libc::ioctl(fd, libc::TIOCGPTN, &raw mut number))?;
        checked(libc::ioctl(fd, libc::TIOCSPTLCK, &raw const unlocked))?;
        checked(libc::ioctl(fd, libc::TIOCSWINSZ, &raw const size))?;
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        OwnedFd::from_raw_fd(checked(libc::ioctl(fd, libc::TIOCGPTPEER, flags))?)
    };
    disable_flush_on_interrupt(&slave)?;
    Ok((master, slave, number))
}

/// By default Ctrl-C discards unread output, which could be the program's response to it.
fn disable_flush_on_interrupt(terminal: &OwnedFd) -> io::Result<()> {
    let fd = terminal.as_raw_fd();
    // SAFETY: termios consists of integers, so all zeroes are a valid value; it outlives both calls.
    unsafe {
        let mut settings: libc::termios = std::mem::zeroed();
        checked(libc::tcgetattr(fd, &raw mut settings))?;
        settings.c_lflag |= libc::NOFLSH;
        checked(libc::tcsetattr(fd, libc::TCSANOW, &raw const settings))?;
    }
    Ok(())
}

/// Makes standard input the controlling terminal of this process.
fn take_terminal() -> io::Result<()> {
    // SAFETY: neither call touches memory.
    unsafe {
        checked(libc::setsid())?;
        checked(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
    }
    Ok(())
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
