// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Where to look: the ELF files of programs and processes, and the functions in them.

pub mod aliases;
pub mod code;
pub mod debug;
pub mod demangle;
pub mod elf;
pub mod functions;
pub mod host;
pub mod ifunc;
pub mod inner;
pub mod resolve;
pub mod returns;
pub mod similar;
pub mod spec;
pub mod stack;
pub mod starts;
pub mod usdt;
