// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! One frame of a stack.

use std::rc::Rc;

/// One frame of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackFrame {
    /// `symbol+0x1f [object]`, `symbol [inlined]`, `0x1234 [object]` with an address in that file if there is no
    /// symbol, `[vdso]`, `[uprobes]`, or the bare address. Names are untrusted and not escaped. Symbols longer than
    /// 4096 bytes end in `...`.
    pub text: Rc<str>,
    /// The compiler inlined the function into that of the next frame.
    pub inlined: bool,
    /// In a file or a part of the kernel that the process has mapped. If not, the stack walk went wrong, and the frames
    /// after this one mean nothing.
    pub mapped: bool,
    /// The function's frame pointer is set here, so the next frame is its caller. If not, the caller may be missing.
    pub(super) leads_on: bool,
    /// Threads begin in this function, so a stack that reaches it is complete.
    pub(super) bottom: bool,
}

impl StackFrame {
    pub(super) fn new(text: impl Into<Rc<str>>) -> StackFrame {
        StackFrame {
            text: text.into(),
            inlined: false,
            mapped: true,
            leads_on: false,
            bottom: false,
        }
    }
}

/// How many of these frames of a stack, from the innermost one on, are certain to be its frames.
pub fn certain(frames: &[StackFrame]) -> usize {
    let last = frames.iter().position(|frame| !frame.leads_on);
    last.map_or(frames.len(), |last| last + 1)
}

/// Whether a stack reaches the function where its thread began. If not, the walk was cut short, usually by a function
/// without frame pointer.
pub fn is_complete(frames: &[StackFrame]) -> bool {
    // Frames after the bottom are leftovers of registers, so it need not be the last.
    frames.iter().any(|frame| frame.bottom)
}
