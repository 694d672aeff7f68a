// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The language of `--where` and `--args`, evaluated in the kernel.
//!
//! ```text
//! arg0 > 1M && comm == "python3"
//! arg0, str(arg1), buf(arg2, arg3), *(u32*)(arg0+8), retval
//! ```
//!
//! [`parse`] makes a syntax [`tree`] of the text, once per run. For each function, whose parameters have
//! names and types, [`lower`] resolves the names and [`code`] emits operations for an interpreter in the BPF programs.
//! [`programs`] writes these to a map; no BPF is compiled at run time. [`show`] decodes the records of the calls.
//!
//! What does not depend on the return is evaluated at the entry, since the callee may change or free its
//! arguments. The rest is evaluated at the return.

mod code;
mod error;
mod ir;
mod lower;
mod op;
mod operand;
mod parse;
pub mod programs;
mod request;
mod show;
mod tree;

pub use error::ExprError;
pub use lower::NameScope;
pub use request::TraceRequest;
pub use show::{CallRecord, CallValues};

#[cfg(test)]
mod tests;
