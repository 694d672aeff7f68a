// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! CPU time of the processes that hit the probes.

use std::fs;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// A clock that counts CPU time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuClock {
    /// CPU time of one process.
    Process(u32),
    /// Time that the CPUs of this machine were busy, in ticks of USER_HZ.
    Machine,
}

impl CpuClock {
    /// CPU time up to now, nanoseconds. None when the process has exited.
    pub fn now_ns(self) -> Option<u64> {
        match self {
            CpuClock::Process(pid) => {
                let clock = clock_getcpuclockid(Pid::from_raw(pid as i32)).ok()?;
                let time = clock_gettime(clock).ok()?;
                Some(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
            }
            CpuClock::Machine => busy_ns(&fs::read_to_string("/proc/stat").ok()?, tick_ns()),
        }
    }

    /// The smallest difference that the clock shows, nanoseconds.
    pub fn resolution_ns(self) -> u64 {
        match self {
            CpuClock::Process(_) => 1,
            CpuClock::Machine => tick_ns(),
        }
    }
}

/// Time that the CPUs were neither idle nor waiting for I/O, from the first line of /proc/stat.
fn busy_ns(stat: &str, tick_ns: u64) -> Option<u64> {
    let ticks: Vec<u64> = stat
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .map_while(|word| word.parse().ok())
        .collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else {
        return None;
    };
    Some((user + nice + system + irq + softirq) * tick_ns)
}

fn tick_ns() -> u64 {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    1_000_000_000 / ticks.max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_excludes_idle_iowait_and_guests() {
        let stat = "cpu  10 2 30 4000 500 6 7 800 9 10\ncpu0 1 2 3\n";
        assert_eq!(busy_ns(stat, 1000), Some(55_000));
        assert_eq!(busy_ns("cpu 1 2", 1000), None);
        assert_eq!(busy_ns("", 1000), None);
    }

    #[test]
    fn a_process_uses_less_than_the_machine() {
        let own = CpuClock::Process(std::process::id()).now_ns();
        let all = CpuClock::Machine.now_ns();
        assert!(own < all, "{own:?} {all:?}");
        assert!(own > Some(0));
    }

    #[test]
    fn an_exited_process_has_no_time() {
        // Above the largest PID that the kernel assigns.
        assert_eq!(CpuClock::Process(1 << 23).now_ns(), None);
    }
}
