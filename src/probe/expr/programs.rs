//! What is done at each function of a run: its plan, and the operations that the kernel has of it.

use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Context, Result};
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::bpf::functrace::types;
use crate::error::{FAILED, Failure, USAGE};
use crate::find::code::placement::Needs;
use crate::probe::attach::Ends;
use crate::probe::expr::{
    Expr, LITERAL_BYTES, Literal, MOST_SLOTS, Mistake, Op, Plan, PlanError, Request, Scope, parse, parse_list,
};

/// Operations of functions that are found later.
const LATER_OPS: usize = 16384;
/// Memory that the machines may take beside a ring of the usual size or less, bytes. A larger ring brings more of them,
/// as those that find none count as lost for want of room.
const MACHINES_BYTES: usize = 32 << 20;
const USUAL_RING_BYTES: usize = 8 << 20;
/// Texts of the full length that a record has room for beside the first.
const MORE_TEXTS: u32 = 3;

/// `struct trace_function` of src/bpf/functrace.bpf.c: entry, return, slots, flags.
type FunctionEntry = [u32; 4];
const ROW_AT_RETURN: u32 = 1;
const HAS_DEPTH: u32 = 2;
const RETURN_ALONE: u32 = 4;

/// Expressions and what their values are called.
type NamedExprs = Vec<(Rc<str>, Expr)>;

/// Where the operations begin that do nothing, and those of functions that are never shown.
const NOTHING: u32 = 0;
const NEVER: u32 = 1;

/// What a person asked for, the same of every function.
pub struct Asked {
    condition: Option<(String, Expr)>,
    args: Option<(String, NamedExprs)>,
    /// Rows come when calls return.
    pub returns: bool,
    /// The result is shown.
    pub result: bool,
    /// Calls are followed to know which are nested in which.
    pub depth: bool,
}

impl Asked {
    /// Reads `--where` and `--args`. What they say of the return makes rows come then.
    ///
    /// # Errors
    /// A text is not understood, and where.
    pub fn parse(condition: Option<&str>, args: Option<&str>) -> Result<Asked> {
        let condition = match condition {
            Some(text) => Some((
                text.to_owned(),
                parse(text).map_err(|mistake| told(&mistake, "--where", text))?,
            )),
            None => None,
        };
        let args = match args {
            Some(text) => Some((text.to_owned(), named(text)?)),
            None => None,
        };
        let returns = |(_, expr): &(_, Expr)| expr.needs_return();
        Ok(Asked {
            returns: condition.as_ref().is_some_and(|(_, expr)| expr.needs_return())
                || args.as_ref().is_some_and(|(_, args)| args.iter().any(returns)),
            condition,
            args,
            result: false,
            depth: false,
        })
    }

    /// Is everything that was asked for known at the return, without a look at the entry?
    pub fn needs_no_entry(&self) -> bool {
        let at_entry = |expr: &Expr| expr.needs_entry();
        !self.result
            && !self.depth
            && !self.condition.as_ref().is_some_and(|(_, expr)| at_entry(expr))
            && self
                .args
                .as_ref()
                .is_some_and(|(_, args)| !args.iter().any(|(_, expr)| at_entry(expr)))
    }

    fn failure(&self, error: &PlanError) -> anyhow::Error {
        let text = |asked: Option<&String>| asked.cloned().unwrap_or_default();
        match error {
            PlanError::Condition(mistake) => told(
                mistake,
                "--where",
                &text(self.condition.as_ref().map(|(text, _)| text)),
            ),
            PlanError::Args(mistake) => {
                told(mistake, "--args", &text(self.args.as_ref().map(|(text, _)| text)))
            }
        }
    }
}

/// Expressions with their texts as their names.
fn named(text: &str) -> Result<NamedExprs> {
    let list = parse_list(text).map_err(|mistake| told(&mistake, "--args", text))?;
    let name = |expr: &Expr| Rc::from(text.get(expr.at.clone()).unwrap_or_default());
    Ok(list.into_iter().map(|expr| (name(&expr), expr)).collect())
}

fn told(mistake: &Mistake, option: &str, text: &str) -> anyhow::Error {
    let message = format!("{option}, column {}: {mistake}", mistake.column(text));
    let failure = Failure::new(USAGE, message).show(mistake.picture(text));
    match &mistake.hint {
        Some(hint) => failure.hint(hint.clone()).into(),
        None => failure.into(),
    }
}

/// Maps that the plans are written to.
pub struct Maps {
    pub functions: MapHandle,
    pub ops: MapHandle,
    pub literals: MapHandle,
    pub free: MapHandle,
}

/// How much room the interpreter needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Operations of all functions.
    pub ops: u32,
    /// Calls that can be worked on at a time.
    pub machines: u32,
    /// Bytes of a machine beside `struct expr_machine`, for slots and texts.
    pub bytes: u32,
    /// Of these, where a text may begin.
    pub begin: u32,
    /// The longest text.
    pub text: u32,
}

impl Room {
    /// What the interpreter has to know of it.
    pub fn config(&self) -> types::expr_config {
        types::expr_config {
            text_starts: self.begin,
            most_text: self.text,
        }
    }
}

/// The plans of a run, by cookie.
pub struct Plans {
    asked: Asked,
    plans: Vec<Plan>,
    entries: Vec<FunctionEntry>,
    literals: Vec<Literal>,
    ops: Vec<Op>,
    /// Where operations that another function has too begin.
    starts: HashMap<Vec<Op>, u32>,
    capacity: usize,
    maps: Option<Maps>,
    /// Operations that the kernel has.
    written: usize,
    /// Why functions are not traced, and how many.
    problem: Option<anyhow::Error>,
    refused: usize,
}

impl Plans {
    pub fn new(asked: Asked) -> Plans {
        Plans {
            asked,
            plans: Vec::new(),
            entries: Vec::new(),
            literals: Vec::new(),
            ops: [vec![Op::END], Plan::never().entry].concat(),
            starts: HashMap::new(),
            capacity: usize::MAX,
            maps: None,
            written: 0,
            problem: None,
            refused: 0,
        }
    }

    /// The plan of a function.
    pub fn get(&self, cookie: usize) -> Option<&Plan> {
        self.plans.get(cookie)
    }

    /// Plans the next function; tells what has to be read when it is called. One for which what was asked makes no sense
    /// is never shown.
    pub fn add(&mut self, scope: Scope<'_>, ends: Ends) -> Needs {
        let flags = match ends {
            Ends::Entry => 0,
            Ends::Return | Ends::Leaving => ROW_AT_RETURN | RETURN_ALONE,
            Ends::Both if self.asked.depth && !self.asked.returns => HAS_DEPTH,
            Ends::Both => ROW_AT_RETURN,
        };
        let request = Request {
            condition: self.asked.condition.as_ref().map(|(_, expr)| expr),
            args: self.asked.args.as_ref().map(|(_, args)| &args[..]),
            returns: flags & ROW_AT_RETURN != 0,
            result: self.asked.result,
        };
        let known = self.literals.len();
        let plan = match Plan::new(scope, &request, &mut self.literals) {
            Ok(plan) => plan,
            Err(error) => {
                let error = self.asked.failure(&error);
                self.problem.get_or_insert(error);
                self.refused += 1;
                Plan::never()
            }
        };
        let entry_pc = self.place(&plan.entry);
        let return_pc = self.place(&plan.at_return);
        let entry = [entry_pc, return_pc, plan.slots.into(), flags];
        let needs = plan.needs();
        self.plans.push(plan);
        self.entries.push(entry);
        if let Err(error) = self.write(known, self.entries.len() - 1) {
            self.problem.get_or_insert(error);
        }
        needs
    }

    /// The index of the first of these operations.
    fn place(&mut self, ops: &[Op]) -> u32 {
        if ops.is_empty() {
            return NOTHING;
        }
        if let Some(&start) = self.starts.get(ops) {
            return start;
        }
        let start = self.ops.len();
        if start + ops.len() >= self.capacity {
            let problem = || Failure::new(FAILED, "there are too many").into();
            self.problem.get_or_insert_with(problem);
            self.refused += 1;
            return NEVER;
        }
        self.ops.extend_from_slice(ops);
        self.ops.push(Op::END);
        self.starts.insert(ops.to_vec(), start as u32);
        start as u32
    }

    /// Fails when none of the functions can be traced as asked. What to say when it is some.
    pub fn take_problem(&mut self) -> Result<Option<String>> {
        let Some(problem) = self.problem.take() else {
            return Ok(None);
        };
        match self.refused < self.plans.len() {
            true => Ok(Some(format!(
                "{} functions are not shown: {problem:#}",
                self.refused
            ))),
            false => Err(problem),
        }
    }

    /// Does any plan read the memory of processes?
    pub fn reads(&self) -> bool {
        self.plans.iter().any(|plan| plan.reads)
    }

    /// The room for these plans, and for others if more functions may come. `most_text` is the longest text that is
    /// wanted, bytes; `machine` the size of `struct expr_machine`; `tail` what follows the texts; `ring` the size of the
    /// ring.
    pub fn room(&mut self, most_text: u32, machine: usize, tail: usize, ring: u32, may_grow: bool) -> Room {
        self.capacity = self.ops.len() + if may_grow { LATER_OPS } else { 0 };
        let slots = 8 * MOST_SLOTS as u32;
        let text = if self.plans.iter().any(|plan| plan.has_text) {
            most_text
        } else {
            0
        };
        let begin = slots + MORE_TEXTS * text;
        let bytes = begin + text + tail as u32;
        let times = (ring as usize).div_ceil(USUAL_RING_BYTES);
        let most = times * MACHINES_BYTES / (machine + bytes as usize);
        let machines = match self.entries.iter().any(|[.., flags]| flags & ROW_AT_RETURN != 0) {
            // One for each call that is under way.
            true => most.min(times * 4096),
            // One for each thread that is in a program, most of which the scheduler has stopped there.
            false => most.min(times * 512),
        };
        Room {
            ops: self.capacity as u32,
            machines: machines as u32,
            bytes,
            begin,
            text,
        }
    }

    /// Writes all plans so far, and from now on each that is added.
    pub fn load(&mut self, maps: Maps, machines: u32) -> Result<()> {
        for index in 0..machines {
            maps.free
                .update(&[], &index.to_ne_bytes(), MapFlags::ANY)
                .context("failed to fill a map")?;
        }
        self.maps = Some(maps);
        self.write(0, 0)
    }

    /// Writes what is new: operations and literals before the functions that refer to them.
    fn write(&mut self, literals: usize, functions: usize) -> Result<()> {
        let Some(maps) = &self.maps else { return Ok(()) };
        let put = |map: &MapHandle, index: usize, value: &[u8]| {
            map.update(&(index as u32).to_ne_bytes(), value, MapFlags::ANY)
                .context("failed to fill a map")
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

/// `struct expr_literal` of src/bpf/expr.bpf.h: value and mask.
fn pattern(literal: &Literal) -> [u8; 2 * LITERAL_BYTES] {
    let mut bytes = [0; 2 * LITERAL_BYTES];
    let (value, mask) = bytes.split_at_mut(LITERAL_BYTES);
    // At most LITERAL_BYTES - 1, so that the NUL has room.
    let length = literal.bytes.len().min(LITERAL_BYTES - 1);
    value[..length].copy_from_slice(&literal.bytes[..length]);
    mask[..length + usize::from(literal.whole)].fill(0xff);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOPE: Scope = Scope {
        function: "f",
        signature: None,
        probe: None,
        is_go: false,
    };

    fn plans(condition: &str, args: &str) -> Plans {
        Plans::new(Asked::parse(Some(condition), Some(args)).expect("texts that are right"))
    }

    #[test]
    fn functions_share_their_operations() {
        let mut plans = plans("arg0 > 1", "arg1");
        for ends in [Ends::Entry, Ends::Entry, Ends::Both] {
            plans.add(SCOPE, ends);
        }
        assert_eq!(
            plans.entries,
            [[3, 0, 1, 0], [3, 0, 1, 0], [3, 0, 1, ROW_AT_RETURN]]
        );
        let room = plans.room(4096, 1000, 100, 4096, false);
        assert_eq!(
            (room.ops as usize, room.text, room.begin, room.bytes),
            (plans.ops.len(), 0, 512, 612)
        );
        assert!(plans.take_problem().is_ok_and(|problem| problem.is_none()));
        assert!(!plans.reads());
    }

    #[test]
    fn texts_have_room() {
        let mut plans = plans("true", "str(arg1)");
        plans.add(SCOPE, Ends::Entry);
        let room = plans.room(64 << 10, 1000, 0, 8 << 20, true);
        assert_eq!((room.text, room.bytes), (64 << 10, 512 + (256 << 10)));
        assert!((64..=128).contains(&room.machines), "{room:?}");
        assert!(plans.reads());
    }

    #[test]
    fn what_makes_no_sense_for_any_function_is_a_mistake() {
        let mut plans = plans("size > 1", "arg1");
        plans.add(SCOPE, Ends::Entry);
        let failure = plans.take_problem().expect_err("no such name");
        assert_eq!(failure.to_string(), "--where, column 1: f has no `size`");
        plans.add(SCOPE, Ends::Entry);
        plans.plans.push(Plan::default());
        let told = plans
            .take_problem()
            .expect("another function is traced")
            .expect("a remark");
        assert!(told.starts_with("2 functions"), "{told}");
        assert!(Asked::parse(Some("a >"), None).is_err_and(|error| error.to_string().contains("column 4")));
    }

    #[test]
    fn a_return_that_needs_nothing_of_the_entry_is_known_by_its_words() {
        let alone = |condition: Option<&str>, args: Option<&str>| {
            Asked::parse(condition, args).expect("texts").needs_no_entry()
        };
        assert!(alone(None, Some("str(retval), comm")));
        assert!(alone(Some("retval && pid == 1"), Some("*(u8*)retval")));
        assert!(!alone(None, None) && !alone(None, Some("arg0")) && !alone(Some("lat > 1"), Some("retval")));
    }

    #[test]
    fn literals_are_compared_with_their_nul_or_without() {
        let literal = |whole| {
            pattern(&Literal {
                bytes: b"ab"[..].into(),
                whole,
            })
        };
        let [begin, whole] = [false, true].map(literal);
        assert_eq!(begin[..3], *b"ab\0");
        assert_eq!(begin[LITERAL_BYTES..LITERAL_BYTES + 3], [0xff, 0xff, 0]);
        assert_eq!(whole[LITERAL_BYTES..LITERAL_BYTES + 4], [0xff, 0xff, 0xff, 0]);
    }
}
