// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Attaches programs to probe points and detaches them.
//!
//! There are four [modes](mode::AttachMode). The best one that the kernel supports is chosen once, before the
//! programs are loaded. tracefs is never used: uprobes that are registered there outlive a tracer that is
//! killed.

use std::collections::{BTreeSet, HashSet};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Error, Result};

use self::program::HeldProgram;
use self::rejected::find_rejected;
use self::target::{AttachTarget, ProbeKind, RefusedPoints, is_rejection};
use self::watched_files::{WatchedFile, WatchedFiles};
use crate::find::host::clock::monotonic_ns;
use crate::find::host::object_file::ObjectFile;
use crate::privileges;
use crate::probe::hits::TrapKind;
use crate::probe::links::{ProbeLink, ProbedFileKey, close_all, close_in_background};
use crate::probe::point::{Ends, ProbePoint};
use crate::probe::scope::breakpoints::Breakpoints;
use crate::probe::scope::filter::ProcessFilter;
use crate::probe::scope::members::{FilePoints, Members};

mod bpf_sys;
pub mod features;
mod mode;
mod multi;
mod perf;
mod program;
mod rejected;
mod target;
mod warm_up;
mod watched_files;
pub mod write_watch;

pub use self::mode::AttachMode;
pub use self::program::ProbeProgram;
pub use self::warm_up::warm_up;

/// Attaches one set of programs to points of any number of files.
pub struct Attacher {
    mode: AttachMode,
    breakpoints: Breakpoints,
    programs: Vec<HeldProgram>,
    /// Hits are counted per kind of trap.
    marks_traps: bool,
    links: Vec<ProbeLink>,
    watched: WatchedFiles,
    /// With `Breakpoints::Matching`: the processes that match, each with separate links.
    members: Members,
    untried: usize,
}

impl Attacher {
    /// `programs` are attached in this order. Programs for returns have to come first: an entry that is seen
    /// without its return would look like a call that never ends.
    ///
    /// # Errors
    /// The filter contradicts itself, or the kernel lacks what it needs.
    pub fn new(mode: AttachMode, filter: &ProcessFilter, programs: Vec<ProbeProgram<'_>>) -> Result<Self> {
        let breakpoints = Breakpoints::choose(filter)?;
        if matches!(breakpoints, Breakpoints::Matching(_)) {
            privileges::raise_file_limit();
        }
        let mut attacher = Self {
            mode,
            breakpoints,
            programs: Vec::new(),
            marks_traps: false,
            links: Vec::new(),
            watched: WatchedFiles::default(),
            members: Members::default(),
            untried: 0,
        };
        attacher.add_programs(&programs)?;
        Ok(attacher)
    }

    /// Adds programs for points that are attached from now on, in the order of [`Attacher::new`].
    ///
    /// # Errors
    /// There are too many open files.
    pub fn add_programs(&mut self, programs: &[ProbeProgram<'_>]) -> Result<()> {
        for program in programs {
            self.programs.push(HeldProgram::new(program, self.mode)?);
        }
        Ok(())
    }

    /// Which processes get breakpoints.
    pub fn breakpoints(&self) -> &Breakpoints {
        &self.breakpoints
    }

    /// Points since the last call that the kernel may have refused without a word.
    pub fn take_untried(&mut self) -> usize {
        std::mem::take(&mut self.untried)
    }

    /// How probes are attached.
    pub fn mode(&self) -> AttachMode {
        self.mode
    }

    /// Attaches every program to the points of `file` that it serves, in every process that gets breakpoints.
    /// Returns the indices of functions of which the kernel refused points, because it cannot step over their
    /// instruction.
    ///
    /// # Errors
    /// Attaching failed for another reason.
    pub fn attach(&mut self, file: &File, points: &[ProbePoint]) -> Result<BTreeSet<u32>> {
        let key = self.watched.new_key();
        self.attach_file(key, file, points)
    }

    /// Like [`Attacher::attach`], for a file that can change: [`Attacher::take_written`] returns it then.
    ///
    /// # Errors
    /// The file was changed since it was opened; or those of [`Attacher::attach`].
    pub fn attach_watched(&mut self, object: &ObjectFile, points: &[ProbePoint]) -> Result<BTreeSet<u32>> {
        let key = self.watched.add(object)?;
        self.attach_file(key, &object.file, points)
    }

    fn attach_file(
        &mut self,
        key: ProbedFileKey,
        file: &File,
        points: &[ProbePoint],
    ) -> Result<BTreeSet<u32>> {
        match self.breakpoints {
            Breakpoints::AllProcesses => self.attach_for(None, key, file, points),
            Breakpoints::Process(pid) => self.attach_for(Some(pid), key, file, points),
            Breakpoints::Matching(_) => self.attach_for_members(key, file, points),
        }
    }

    /// Checks before the first probe is placed that there are not too many.
    ///
    /// # Errors
    /// There are too many.
    pub fn require_few<'a>(&self, points: impl Iterator<Item = &'a ProbePoint> + Clone) -> Result<()> {
        if self.mode.has_multi_links() {
            return Ok(());
        }
        let sessions = self.has_session_program();
        let served = |program: &HeldProgram| {
            let points = points.clone();
            points
                .filter(|point| program.serves(point.ends, sessions))
                .count()
        };
        perf::require_few(self.count_links() + self.programs.iter().map(served).sum::<usize>())
    }

    fn has_session_program(&self) -> bool {
        self.programs.iter().any(|program| program.runs == Ends::Both)
    }

    fn count_links(&self) -> usize {
        self.links.len() + self.members.count_links()
    }

    /// Takes a file out that was written, or that a process waits to write. The caller closes the links, and then drops
    /// the file, so that the writer can go on.
    pub fn take_written(&mut self) -> Option<(WatchedFile, Vec<ProbeLink>)> {
        let file = self.watched.take_written()?;
        let mut links = self.members.take_file(file.key);
        links.extend(self.links.extract_if(.., |link| link.file == file.key));
        Some((file, links))
    }

    /// Whether probes are attached, or are attached to processes that start to match.
    pub fn has_files(&self) -> bool {
        !self.links.is_empty() || !self.members.files.is_empty()
    }

    /// The PID of the one process that gets breakpoints. None if all processes or all that match do.
    pub fn only_pid(&self) -> Option<u32> {
        match self.breakpoints {
            Breakpoints::Process(pid) => Some(pid),
            Breakpoints::AllProcesses | Breakpoints::Matching(_) => None,
        }
    }

    /// Counts the hits of points that are attached from now on per kind of trap.
    pub fn mark_traps(&mut self) {
        self.marks_traps = true;
    }

    /// How often the programs ran, and for how many nanoseconds in total. The kernel counts only while
    /// `bpf_enable_stats` is in effect.
    ///
    /// # Errors
    /// The kernel does not report a program's counts.
    pub fn runs(&self) -> Result<(u64, u64)> {
        let mut sum = (0, 0);
        for program in self.programs.iter().flat_map(HeldProgram::fds) {
            let info =
                bpf_sys::program_info(program).context("failed to read the run count of a BPF program")?;
            sum = (sum.0 + info.run_cnt, sum.1 + info.run_time_ns);
        }
        Ok(sum)
    }

    /// Attaches to the points of a file in all members, and remembers them for future members.
    fn attach_for_members(
        &mut self,
        key: ProbedFileKey,
        file: &File,
        points: &[ProbePoint],
    ) -> Result<BTreeSet<u32>> {
        let mut of_file = FilePoints {
            key,
            file: file
                .try_clone()
                .context("failed to duplicate the descriptor of a file")?,
            points: points.to_vec(),
        };
        let mut refused = BTreeSet::new();
        for pid in self.members.pids() {
            let links = self.links_for(pid, std::slice::from_mut(&mut of_file), &mut refused)?;
            self.members.add(pid, links.unwrap_or_default(), monotonic_ns());
        }
        self.members.files.push(of_file);
        Ok(refused)
    }

    /// Makes a process a member and attaches to all points that were found so far. False if the process has
    /// exited.
    ///
    /// # Errors
    /// Attaching failed, other than because the process has exited or a point was refused.
    pub fn join(&mut self, pid: u32) -> Result<bool> {
        self.members.wait_removed(pid);
        let mut files = std::mem::take(&mut self.members.files);
        let mut refused = std::mem::take(&mut self.members.refused);
        let start_ns = monotonic_ns();
        let links = self.links_for(pid, &mut files, &mut refused);
        self.members.refused = refused;
        self.members.files = files;
        let Some(links) = links? else {
            return Ok(false);
        };
        self.members.add(pid, links, start_ns);
        Ok(true)
    }

    /// Gives breakpoints to all processes, in place of the members. Returns the indices of functions of which the
    /// kernel refused points.
    ///
    /// # Errors
    /// Attaching failed for another reason.
    pub fn widen(&mut self) -> Result<BTreeSet<u32>> {
        self.breakpoints = Breakpoints::AllProcesses;
        close_all(self.members.take_links());
        let mut refused = BTreeSet::new();
        for of_file in std::mem::take(&mut self.members.files) {
            refused.extend(self.attach_for(None, of_file.key, &of_file.file, &of_file.points)?);
        }
        Ok(refused)
    }

    /// Removes the probes of a member in the background.
    pub fn leave(&mut self, pid: u32) {
        self.members.remove(pid);
    }

    /// The processes that have links of their own.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Attaches to these points in one process and returns the links. Points that the kernel refuses are
    /// removed from `files`, and their functions added to `refused`. None if the process has exited.
    fn links_for(
        &mut self,
        pid: u32,
        files: &mut [FilePoints],
        refused: &mut BTreeSet<u32>,
    ) -> Result<Option<Vec<ProbeLink>>> {
        let mut links = Vec::new();
        let result = files.iter_mut().try_for_each(|of_file| {
            let new =
                self.attach_points(Some(pid), of_file.key, &of_file.file, &of_file.points, &mut links)?;
            of_file.points.retain(|point| !new.contains(point));
            refused.extend(new.functions);
            Ok(())
        });
        let Err(error): Result<()> = result else {
            return Ok(Some(links));
        };
        close_all(links);
        let cause = error.downcast_ref::<io::Error>();
        match cause.and_then(io::Error::raw_os_error) {
            Some(libc::ESRCH) => Ok(None),
            _ => Err(error),
        }
    }

    fn attach_for(
        &mut self,
        pid: Option<u32>,
        key: ProbedFileKey,
        file: &File,
        points: &[ProbePoint],
    ) -> Result<BTreeSet<u32>> {
        let mut links = std::mem::take(&mut self.links);
        let result = self.attach_points(pid, key, file, points, &mut links);
        self.links = links;
        let refused = result?;
        match refused.first_error {
            Some(error) if !is_rejection(&error) && points.iter().all(|point| refused.contains(point)) => {
                Err(Error::new(error).context("failed to attach"))
            }
            _ => Ok(refused.functions),
        }
    }

    fn attach_points(
        &mut self,
        pid: Option<u32>,
        key: ProbedFileKey,
        file: &File,
        points: &[ProbePoint],
        links: &mut Vec<ProbeLink>,
    ) -> Result<RefusedPoints> {
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let mut refused = find_rejected(self.mode.has_multi_links(), file, &path, points)?;
        self.untried += refused.untried;
        let sessions = self.has_session_program();
        let entered = self.marks_traps.then(|| self.entered(points, sessions));
        for index in 0..self.programs.len() {
            let program = &self.programs[index];
            // Points whose return probe was refused get no entry probe either.
            let served = points
                .iter()
                .filter(|point| program.serves(point.ends, sessions) && !refused.contains(point));
            let (instructions, others): (Vec<ProbePoint>, Vec<ProbePoint>) =
                served.partition(|point| point.ends == Ends::ReturnInstruction);
            let kind = match program.runs {
                Ends::Both => ProbeKind::Session,
                Ends::Return => ProbeKind::ReturnProbe,
                Ends::Entry | Ends::ReturnInstruction => ProbeKind::Probe,
            };
            for (mut points, kind) in [(instructions, ProbeKind::Probe), (others, kind)] {
                let to = AttachTarget {
                    file,
                    path: &path,
                    kind,
                    pid,
                };
                self.complete_cookies(to, &mut points, entered.as_ref());
                let mut fds = Vec::new();
                let result = self.attach_program(index, to, points, links.len(), &mut fds, &mut refused);
                links.extend(fds.into_iter().map(|fd| ProbeLink::new(key, fd)));
                result?;
            }
        }
        Ok(refused)
    }

    fn attach_program(
        &mut self,
        index: usize,
        to: AttachTarget<'_>,
        points: Vec<ProbePoint>,
        more_links: usize,
        links: &mut Vec<OwnedFd>,
        refused: &mut RefusedPoints,
    ) -> Result<()> {
        if self.mode.has_multi_links() {
            let program = self.programs[index].as_fd();
            return multi::attach(program, to, points, links, refused);
        }
        let copies = self.programs.iter().map(HeldProgram::count_copies).sum::<usize>();
        let placed = self.count_links() + more_links;
        let program = &mut self.programs[index];
        perf::require_few(placed + points.len())?;
        perf::require_files(points.len(), program.needs_copies(), placed + copies)?;
        perf::attach(program, to, &points, links, refused)
    }

    /// Offsets at which a program runs when the instruction there is executed.
    fn entered(&self, points: &[ProbePoint], sessions: bool) -> HashSet<u64> {
        let is_entered = |point: &&ProbePoint| {
            let mut programs = self.programs.iter();
            programs.any(|program| program.runs != Ends::Return && program.serves(point.ends, sessions))
        };
        points
            .iter()
            .filter(is_entered)
            .map(|point| point.offset)
            .collect()
    }

    /// Adds to the cookies the kind of trap, if hits are counted per kind, and the process, where only the
    /// cookie identifies it: return probes of perf events run in every process that has one at that function,
    /// and no program runs at the entry that would distinguish them.
    fn complete_cookies(
        &self,
        to: AttachTarget<'_>,
        points: &mut [ProbePoint],
        entered: Option<&HashSet<u64>>,
    ) {
        let is_return = to.kind == ProbeKind::ReturnProbe;
        let return_only = self.programs.iter().all(|program| program.runs == Ends::Return);
        for point in points {
            if let Some(entered) = entered {
                let is_entered = entered.contains(&point.offset);
                let trap = TrapKind::at(to.file, point.offset, is_return, is_entered);
                point.cookie = trap.mark(point.cookie);
            }
            if let Some(pid) = to.pid
                && is_return
                && !self.mode.has_multi_links()
                && (return_only || point.ends == Ends::Return)
            {
                point.cookie = point.cookie.for_process(pid);
            }
        }
    }

    /// About how long it takes to remove all probes.
    pub fn removal_time(&self) -> Duration {
        match self.mode.has_multi_links() {
            // They are removed at the same time.
            true => perf::REMOVAL,
            false => perf::REMOVAL * self.count_links() as u32,
        }
    }

    /// Removes all probes.
    pub fn detach(&mut self) {
        close_all(self.take_links());
        self.watched.take_all();
    }

    fn take_links(&mut self) -> Vec<ProbeLink> {
        let mut links = self.members.take_links();
        links.append(&mut self.links);
        links
    }

    /// Removes all probes in a background thread. None if it could not be spawned: then they are removed
    /// already.
    pub fn detach_in_background(&mut self) -> Option<JoinHandle<()>> {
        let links = self.take_links();
        close_in_background(links, self.watched.take_all())
    }
}

impl Drop for Attacher {
    /// Closes the links in parallel. Dropping them one by one takes seconds.
    fn drop(&mut self) {
        self.detach();
    }
}
