// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The plans of a run's functions, and the maps from which the interpreter reads their operations.

use std::collections::HashMap;
use std::mem::offset_of;
use std::rc::Rc;

use anyhow::{Context, Result};
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::code::FunctionPlan;
use super::ir::{LITERAL_BYTES, TextLiteral};
use super::op::{MOST_SLOTS, Op};
use super::{NameScope, TraceRequest};
use crate::bpf::functrace::types::{self, expr_limit, trace_flags};
use crate::error::Failure;
use crate::find::code::placement::Needs;
use crate::probe::point::Ends;
use crate::wording::FunctionNames;

/// Room for operations of functions that are found later.
const LATER_OPS: usize = 16384;
/// Memory for machines, bytes, for each 8 MiB of the ring. Calls that find no free machine are lost, as they
/// are when the ring is full, so a larger ring brings more of both.
const MACHINES_BYTES: usize = 16 << 20;
const USUAL_RING_BYTES: usize = 8 << 20;
/// Texts of full length that a record has room for, besides the last one.
const MORE_TEXTS: u32 = 3;

/// The fields of a `struct trace_function`, in order: entry, return, slots, flags.
type FunctionEntry = [u32; 4];
const _: () = {
    assert!(size_of::<FunctionEntry>() == size_of::<types::trace_function>());
    assert!(offset_of!(types::trace_function, return_pc) == size_of::<u32>());
    assert!(offset_of!(types::trace_function, slots) == 2 * size_of::<u32>());
    assert!(offset_of!(types::trace_function, flags) == 3 * size_of::<u32>());
    assert!(size_of::<types::expr_literal>() == 2 * LITERAL_BYTES);
    assert!(offset_of!(types::expr_literal, mask) == LITERAL_BYTES);
};
const ROW_AT_RETURN: u32 = trace_flags::ROW_AT_RETURN.0;
const HAS_DEPTH: u32 = trace_flags::HAS_DEPTH.0;
const RETURN_ALONE: u32 = trace_flags::RETURN_ALONE.0;
const RETURN_UNSEEN: u32 = trace_flags::RETURN_UNSEEN.0;

/// The indices of operations that do nothing, and of operations that never show a call.
const NOTHING: u32 = 0;
const NEVER: u32 = 1;

/// The maps that operations are written to.
pub struct ProgramMaps {
    pub functions: MapHandle,
    pub ops: MapHandle,
    pub literals: MapHandle,
    pub free: MapHandle,
}

/// The sizes of the interpreter's maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Entries of `expr_ops`.
    pub ops: u32,
    /// Entries of `expr_machines` and `expr_free`: calls that can be in progress at a time.
    pub machines: u32,
    /// Bytes of a machine: the value size of `expr_machines`.
    pub machine_bytes: u32,
    /// Bytes of a record's slots and texts in which a text may start.
    pub text_starts: u32,
    /// Bytes of the longest text.
    pub most_text: u32,
}

impl MapSizes {
    /// The constants of the interpreter.
    pub fn config(&self) -> types::expr_config {
        types::expr_config {
            text_starts: self.text_starts,
            most_text: self.most_text,
        }
    }
}

/// The plans of a run's functions, by cookie.
pub struct FunctionPrograms {
    request: TraceRequest,
    /// Functions of which nothing is known share one.
    plans: Vec<Rc<FunctionPlan>>,
    entries: Vec<FunctionEntry>,
    literals: Vec<TextLiteral>,
    ops: Vec<Op>,
    /// Where operations start that functions share.
    starts: HashMap<Vec<Op>, u32>,
    /// Operations that the map has room for.
    capacity: usize,
    maps: Option<ProgramMaps>,
    /// Operations that were written to the map.
    written: usize,
    /// The first reason for not tracing a function, and the functions that are not traced.
    problem: Option<anyhow::Error>,
    refused: FunctionNames,
    /// What is doubtful about `--where`.
    remark: Option<String>,
}

impl FunctionPrograms {
    pub fn new(request: TraceRequest) -> FunctionPrograms {
        FunctionPrograms {
            request,
            plans: Vec::new(),
            entries: Vec::new(),
            literals: Vec::new(),
            ops: [vec![Op::END], FunctionPlan::never().entry].concat(),
            starts: HashMap::new(),
            capacity: usize::MAX,
            maps: None,
            written: 0,
            problem: None,
            refused: FunctionNames::default(),
            remark: None,
        }
    }

    /// The plan of a function.
    pub fn get(&self, cookie: usize) -> Option<&FunctionPlan> {
        self.plans.get(cookie).map(Rc::as_ref)
    }

    /// Whether all names in the request are known in this scope.
    pub fn has_names_of(&self, scope: &NameScope<'_>) -> bool {
        self.request.exprs().all(|expr| scope.value(expr).is_ok())
    }

    /// Plans the next function and returns what its entry reads. `returns_seen`: its returns are observed. A function
    /// that does not fit the request is never shown; `take_problem` says why.
    pub fn add(&mut self, scope: NameScope<'_>, ends: Ends, returns_seen: bool) -> Needs {
        let flags = match ends {
            Ends::Entry => 0,
            Ends::Return | Ends::ReturnInstruction => ROW_AT_RETURN | RETURN_ALONE,
            Ends::Both if self.request.is_nesting() => match returns_seen {
                true => HAS_DEPTH,
                false => HAS_DEPTH | RETURN_UNSEEN,
            },
            Ends::Both => ROW_AT_RETURN,
        };
        let request = self.request.plan(flags & ROW_AT_RETURN != 0);
        if self.remark.is_none() {
            self.remark = self.request.remark(&scope);
        }
        let function = scope.function;
        let known = self.literals.len();
        let plan = match FunctionPlan::new(scope, &request, &mut self.literals) {
            Ok(plan) => plan,
            Err(error) => {
                let error = self.request.usage_error(&error);
                self.refuse(function, error);
                FunctionPlan::never()
            }
        };
        let entry_pc = self.start_of(function, &plan.entry);
        let return_pc = self.start_of(function, &plan.at_return);
        let needs = plan.needs();
        self.entries.push([entry_pc, return_pc, plan.slots.into(), flags]);
        self.plans.push(match self.plans.last() {
            Some(last) if **last == plan => Rc::clone(last),
            _ => Rc::new(plan),
        });
        if let Err(error) = self.write(known, self.entries.len() - 1) {
            self.problem.get_or_insert(error);
        }
        needs
    }

    fn refuse(&mut self, function: &str, error: anyhow::Error) {
        self.problem.get_or_insert(error);
        self.refused.add(function);
    }

    /// The index of the first of these operations, which are added unless another function has them.
    fn start_of(&mut self, function: &str, ops: &[Op]) -> u32 {
        if ops.is_empty() {
            return NOTHING;
        }
        if let Some(&start) = self.starts.get(ops) {
            return start;
        }
        let start = self.ops.len();
        if start + ops.len() >= self.capacity {
            let message = format!("more than {} operations for all functions", self.capacity);
            self.refuse(function, Failure::failed(message).into());
            return NEVER;
        }
        self.ops.extend_from_slice(ops);
        self.ops.push(Op::END);
        self.starts.insert(ops.to_vec(), start as u32);
        start as u32
    }

    /// A warning if some functions cannot be traced as requested.
    ///
    /// # Errors
    /// None of them can.
    pub fn take_problem(&mut self) -> Result<Option<String>> {
        let Some(problem) = self.problem.take() else {
            return Ok(None);
        };
        let refused = &self.refused;
        match refused.count {
            count if count >= self.plans.len() => Err(problem),
            // The plan of a function could not be written.
            0 => Ok(Some(format!("{problem:#}"))),
            1 => Ok(Some(format!("calls of {refused} are not shown: {problem:#}"))),
            count => Ok(Some(format!(
                "calls of {count} functions ({refused}) are not shown: {problem:#}"
            ))),
        }
    }

    /// A warning if the condition may not mean what it seems to.
    pub fn take_remark(&mut self) -> Option<String> {
        self.remark.take()
    }

    /// True if any plan reads the memory of processes.
    pub fn reads(&self) -> bool {
        self.plans.iter().any(|plan| plan.reads)
    }

    /// The sizes of the maps for the plans so far, and for more if `may_grow`. `most_text` is the limit of
    /// texts and `ring_bytes` the size of the ring, bytes.
    pub fn sizes(&mut self, most_text: u32, ring_bytes: u32, may_grow: bool) -> MapSizes {
        self.capacity = self.ops.len() + if may_grow { LATER_OPS } else { 0 };
        let has_text = self.plans.iter().any(|plan| plan.has_text);
        let most_text = if has_text { most_text } else { 0 };
        let text_starts = 8 * MOST_SLOTS as u32 + MORE_TEXTS * most_text;
        let fixed = size_of::<types::expr_machine>() + size_of::<types::stack>();
        let bytes = fixed as u32 + text_starts + most_text + expr_limit::EXPR_TEXT_SLACK.0;
        let machine_bytes = bytes.next_multiple_of(8);
        let times = (ring_bytes as usize).div_ceil(USUAL_RING_BYTES);
        // One for each call in progress; without returns, one for each thread that was preempted in a
        // program.
        let wanted = match self.entries.iter().any(|[.., flags]| flags & ROW_AT_RETURN != 0) {
            true => 4096,
            false => 256,
        };
        let machines = times * wanted.min(MACHINES_BYTES / machine_bytes as usize);
        MapSizes {
            ops: self.capacity as u32,
            machines: machines as u32,
            machine_bytes,
            text_starts,
            most_text,
        }
    }

    /// Writes all plans to the maps, and from now on each plan that is added.
    ///
    /// # Errors
    /// A map cannot be written.
    pub fn load(&mut self, maps: ProgramMaps, machines: u32) -> Result<()> {
        for index in 0..machines {
            maps.free
                .update(&[], &index.to_ne_bytes(), MapFlags::ANY)
                .context("failed to fill the map of free machines")?;
        }
        self.maps = Some(maps);
        self.write(0, 0)
    }

    /// Writes new operations, and literals and functions from these on: the functions last, as they refer to
    /// the others.
    fn write(&mut self, literals: usize, functions: usize) -> Result<()> {
        let Some(maps) = &self.maps else { return Ok(()) };
        let put = |map: &MapHandle, index: usize, value: &[u8]| {
            map.update(&(index as u32).to_ne_bytes(), value, MapFlags::ANY)
                .context("failed to write operations to a map")
        };
        for (index, op) in self.ops.iter().enumerate().skip(self.written) {
            put(&maps.ops, index, &op.to_bytes())?;
        }
        for (index, literal) in self.literals.iter().enumerate().skip(literals) {
            put(&maps.literals, index, &pattern(literal))?;
        }
        for (index, entry) in self.entries.iter().enumerate().skip(functions) {
            put(&maps.functions, index, entry.map(u32::to_ne_bytes).as_flattened())?;
        }
        self.written = self.ops.len();
        Ok(())
    }
}

/// The bytes of a `struct expr_literal`: value and mask.
fn pattern(literal: &TextLiteral) -> [u8; 2 * LITERAL_BYTES] {
    let mut bytes = [0; 2 * LITERAL_BYTES];
    let (value, mask) = bytes.split_at_mut(LITERAL_BYTES);
    // One byte less, so that the NUL has room.
    let length = literal.bytes.len().min(LITERAL_BYTES - 1);
    value[..length].copy_from_slice(&literal.bytes[..length]);
    mask[..length + usize::from(literal.whole)].fill(0xff);
    bytes
}

#[cfg(test)]
mod tests;
