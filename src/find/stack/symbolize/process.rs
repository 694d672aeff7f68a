// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! A process whose stacks are symbolized: its memory map, and when that has to be read again.

use std::fs;
use std::mem;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::memory::CodeMap;

/// The smallest page size.
pub const PAGE_BYTES: u64 = 0x1000;
/// How often it is checked whether a PID still belongs to the same program. PIDs are assigned in turn, so none is
/// reused within such a time.
pub const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// How many times in a row the map of a process is read for addresses that are not in it, ...
pub const MAX_READS: u32 = 16;
/// ... and then once per this interval: a stack walked without frame pointers is full of addresses that are in no map.
pub const READ_INTERVAL: Duration = Duration::from_millis(50);
/// Programs that a process has executed before the last one, of which the code is kept.
const MAX_EARLIER: usize = 4;

/// What is cached about a process.
pub struct CachedProcess {
    /// Shared with forked processes until one of them changes.
    pub memory: Rc<CodeMap>,
    /// `None` until the process was seen in `/proc`.
    pub identity: Option<ProcessIdentity>,
    pub checked: Instant,
    /// How many more times the map may be read, and since when.
    reads: u32,
    pub refilled: Instant,
    /// For a process that has exited: how many had exited before it.
    pub exited: Option<u64>,
    /// When the map was first read; 0 if it is known from its parent or the kernel's records. CLOCK_MONOTONIC
    /// nanoseconds, as below.
    pub read_ns: u64,
    /// Oldest first.
    earlier: Vec<EarlierProgram>,
}

/// The code of a program that the process has executed, for events that are read late.
struct EarlierProgram {
    /// When the process executed the next one.
    until_ns: u64,
    /// Empty if it is not known.
    memory: Rc<CodeMap>,
}

impl Default for CachedProcess {
    fn default() -> CachedProcess {
        let now = Instant::now();
        CachedProcess {
            memory: Rc::default(),
            identity: None,
            checked: now,
            reads: MAX_READS,
            refilled: now,
            exited: None,
            read_ns: 0,
            earlier: Vec::new(),
        }
    }
}

impl CachedProcess {
    /// A new process with the memory of its parent.
    pub fn with_memory(memory: Rc<CodeMap>) -> CachedProcess {
        CachedProcess {
            memory,
            ..CachedProcess::default()
        }
    }

    /// The process has executed another program.
    pub fn exec(&mut self, time_ns: u64) {
        let ended = mem::take(self);
        self.earlier = ended.earlier;
        match self.earlier.last_mut() {
            // The other program was seen before the kernel's record of it was read.
            Some(last) if last.until_ns > time_ns => last.until_ns = time_ns,
            _ => self.earlier.push(EarlierProgram {
                until_ns: time_ns,
                memory: match ended.read_ns > time_ns {
                    true => Rc::default(),
                    false => ended.memory,
                },
            }),
        }
        if self.earlier.len() > MAX_EARLIER {
            self.earlier.remove(0);
            // Now this is the first, also for what came before it.
            if let Some(first) = self.earlier.first_mut() {
                first.memory = Rc::default();
            }
        }
    }

    /// The code of the program that the process had executed before the present one, if it still ran that at this time.
    pub fn earlier_memory(&self, time_ns: u64) -> Option<Rc<CodeMap>> {
        let program = self.earlier.iter().find(|program| time_ns < program.until_ns)?;
        Some(Rc::clone(&program.memory))
    }

    /// Whether a plausible address is in none of the mappings.
    pub fn is_unknown(&self, address: u64, is_return: bool) -> bool {
        address > PAGE_BYTES && self.memory.find_called(address, is_return).is_none()
    }

    /// Whether it is time to check in `/proc` that the process runs the same program.
    pub fn is_check_due(&mut self, now: Instant) -> bool {
        let due = self.exited.is_none() && now.duration_since(self.checked) >= CHECK_INTERVAL;
        if due {
            self.checked = now;
        }
        due
    }

    /// Whether `/proc` now shows another program than the cached one.
    pub fn is_other(&self, seen: Option<ProcessIdentity>) -> bool {
        self.identity.is_some() && seen.is_some() && self.identity != seen
    }

    /// Whether `/proc` now shows another program of the same process.
    pub fn has_executed(&self, seen: Option<ProcessIdentity>) -> bool {
        let started = |identity: Option<ProcessIdentity>| identity.map(|identity| identity.started);
        self.exited.is_none() && self.is_other(seen) && started(self.identity) == started(seen)
    }

    /// Counts a read of the map; false if there were too many.
    pub fn may_read(&mut self, now: Instant) -> bool {
        let refill = now.duration_since(self.refilled).as_millis() / READ_INTERVAL.as_millis();
        if refill > 0 {
            self.reads = MAX_READS.min(self.reads.saturating_add(refill as u32));
            self.refilled = now;
        }
        let may = self.reads > 0;
        self.reads = self.reads.saturating_sub(1);
        may
    }
}

/// Tells a program from a later one with the same PID: when the process began, and where the kernel put its code and
/// its stack, which changes with each exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessIdentity {
    started: u64,
    code: u64,
    stack: u64,
}

impl ProcessIdentity {
    /// `None` for a process that has exited or is exiting, and if the kernel hides the addresses.
    pub fn read(proc_root: &Path, pid: u32) -> Option<ProcessIdentity> {
        let stat = fs::read(proc_root.join(pid.to_string()).join("stat")).ok()?;
        // The name of the program is in parentheses, and may contain spaces and parentheses.
        let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
        let text = std::str::from_utf8(&stat[after_name..]).ok()?;
        // proc(5) counts fields from 1; the first one after the name is the third.
        let field = |number: usize| text.split_ascii_whitespace().nth(number - 3)?.parse().ok();
        let identity = ProcessIdentity {
            started: field(22)?,
            code: field(26)?,
            stack: field(28)?,
        };
        (identity.stack != 0).then_some(identity)
    }
}
