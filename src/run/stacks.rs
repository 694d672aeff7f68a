// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Stacks as lines of text.

use std::rc::Rc;

use crate::find::stack::symbolize::{ProcessAt, StackFrame, Symbolizer, certain, is_complete};
use crate::output::StackLines;
use crate::probe::event::{Header, RawStack, StackMoment};
use crate::probe::mmap_events::MmapEvent;

/// The last line of a stack whose walk did not reach the function where the thread started.
const TRUNCATED: &str = "[truncated: a function without frame pointer]";
/// The last line of a stack whose addresses cannot be named, as the code that the process had then is not known.
const UNKNOWN: &str = "[the process has exited or executed another program]";
/// The only line of a stack for which `bpf_get_stack` returned an error.
const UNREADABLE: &str = "[the kernel could not read the stack]";

/// Names the return addresses of stacks.
pub struct StackNamer {
    /// None if the run shows no stacks.
    symbolizer: Option<Symbolizer>,
    addresses: Vec<u64>,
    frames: Vec<StackFrame>,
    named: StackLines,
    truncated: Rc<str>,
    unknown: Rc<str>,
    unreadable: Rc<str>,
}

impl StackNamer {
    pub fn new(enabled: bool) -> Self {
        Self {
            symbolizer: enabled.then(Symbolizer::new),
            addresses: Vec::new(),
            frames: Vec::new(),
            named: StackLines::default(),
            truncated: TRUNCATED.into(),
            unknown: UNKNOWN.into(),
            unreadable: UNREADABLE.into(),
        }
    }

    pub fn enabled(&self) -> bool {
        self.symbolizer.is_some()
    }

    /// The stack of an event as lines, innermost first. A stack that ends too early says so in its last line.
    /// Frames that are not certain are marked: the walk follows frame pointers, and a function without one came before.
    pub fn name(&mut self, event: &Header, stack: &RawStack<'_>) -> &StackLines {
        self.named.lines.clear();
        self.named.uncertain = 0..0;
        let Some(symbolizer) = &mut self.symbolizer else {
            return &self.named;
        };
        let at = ProcessAt {
            pid: event.pid,
            time_ns: event.time_ns,
        };
        stack.addresses(&mut self.addresses, |probed| symbolizer.begins_frame(at, probed));
        let starts_exact = stack.moment == StackMoment::Inside;
        let is_known = symbolizer.frames(at, &self.addresses, starts_exact, &mut self.frames);
        if is_known {
            // What follows an address that is in no code means nothing.
            let walked = self.frames.iter().take_while(|frame| frame.mapped).count();
            self.frames.truncate(walked);
        }
        let is_complete = is_complete(&self.frames);
        self.named.uncertain = certain(&self.frames)..self.frames.len();
        let lines = &mut self.named.lines;
        lines.extend(self.frames.drain(..).map(|frame| frame.text));
        if self.addresses.is_empty() {
            lines.push(Rc::clone(&self.unreadable));
        } else if !is_known {
            lines.push(Rc::clone(&self.unknown));
        } else if !is_complete {
            lines.push(Rc::clone(&self.truncated));
        }
        &self.named
    }

    /// Reads the memory map of a process now, since it may have exited when its first event is read.
    pub fn observe_process(&mut self, pid: u32) {
        if let Some(symbolizer) = &mut self.symbolizer {
            symbolizer.observe(pid);
        }
    }

    /// Keeps the memory maps of processes current, so that stacks of exited processes still have names.
    pub fn observe(&mut self, change: &MmapEvent) {
        let Some(symbolizer) = &mut self.symbolizer else {
            return;
        };
        match change {
            MmapEvent::Mapped(m) => {
                let (major, minor) = m.dev;
                let file = (libc::makedev(major, minor), m.inode);
                symbolizer.mapped(m.pid, m.start, m.end, m.offset, &m.path, file);
            }
            &MmapEvent::Exec { time_ns, pid } => symbolizer.exec(ProcessAt { pid, time_ns }),
            MmapEvent::Forked { parent, child } => symbolizer.forked(*parent, *child),
            MmapEvent::Exited { pid } => symbolizer.exited(*pid),
            MmapEvent::Lost(_) => {}
        }
    }
}
