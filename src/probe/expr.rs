//! The language of `--where` and `--args`: what a person may ask of a call, decided and fetched in the kernel.
//!
//! ```text
//! arg0 > 1M && comm == "python3"
//! arg0, str(arg1), buf(arg2, arg3), *(u32*)(arg0+8), retval
//! ```
//!
//! [`parse`] makes a tree of the text, once. For each function, whose parameters have names and types of their own,
//! [`lower`] finds out what the names mean and [`code`] makes operations of it, for the interpreter of
//! `src/bpf/expr.bpf.h`. Nothing is compiled to BPF at run time: one program that was verified at build time's shape
//! reads operations from a map.
//!
//! What does not mention the result of the call is evaluated when the call begins, as its callee may change or free what
//! it was given; the rest when it returns.

mod code;
mod lower;
mod mistake;
mod parse;
pub mod programs;
mod show;

pub use code::{LITERAL_BYTES, MOST_SLOTS, Op, Plan, PlanError, Request};
pub use lower::{Literal, Scope};
pub use mistake::Mistake;
pub use parse::{Expr, parse, parse_list};
pub use show::{Record, Values};

#[cfg(test)]
mod tests;
