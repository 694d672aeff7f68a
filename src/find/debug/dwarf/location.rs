// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Where a parameter is at the first instruction of its function, by its DWARF location description.

use gimli::constants as dw;
use gimli::{Encoding, EndianSlice, Expression, LittleEndian, Operation};

use super::entries::DebugEntry;
use super::sections::DebugSections;
use super::unit::EntryValue;
use crate::find::debug::abi::{IN_FLOAT, MAX_ON_STACK, MachineAbi, NATIVE, SCATTERED, TOO_LARGE};
use crate::find::debug::types::{LocationPiece, ValueLocation};

type ExpressionBytes<'e> = EndianSlice<'e, LittleEndian>;

/// Operations of one description.
const MAX_OPERATIONS: usize = 32;
pub const OPTIMIZED_OUT: &str = "optimized out";
/// The compiler moved some arguments away from where the calling convention has them, and gives no location
/// for this one.
pub const MOVED: &str = "moved by the optimizer";
/// The optimizer removed or changed parameters or the result.
pub const CHANGED: &str = "changed by the optimizer";
pub const OTHER_CONVENTION: &str = "passed by another calling convention";
/// The debug information lacks its type, or that of a parameter before it, or does not tell how it is passed.
pub const UNKNOWN_TYPE: &str = "behind an unknown type";

/// Whether a parameter has a location anywhere in the function.
pub fn has_location(parameter: &DebugEntry) -> bool {
    let value = parameter.value(dw::DW_AT_location);
    value.or_else(|| parameter.value(dw::DW_AT_const_value)).is_some()
}

/// Whether the description of a parameter is for the whole function.
pub fn is_for_all(parameter: &DebugEntry) -> bool {
    let value = parameter.value(dw::DW_AT_location);
    value.is_some_and(|value| value.exprloc_value().is_some())
}

/// The function that a parameter belongs to.
pub struct FunctionFrame {
    /// The address of its first instruction.
    pub addr: u64,
    /// The frame offset of the stack pointer before the call, if it is known.
    caller: Option<i64>,
}

impl FunctionFrame {
    pub fn new(function: &DebugEntry, addr: u64) -> FunctionFrame {
        let base = function.value(dw::DW_AT_frame_base);
        let base = base.and_then(|base| base.exprloc_value());
        let caller = match base.as_ref().map(|base| base.0.bytes()) {
            Some([operation]) if *operation == dw::DW_OP_call_frame_cfa.0 => Some(0),
            // The frame pointer of x86-64: the caller's and the return address are behind it.
            Some([operation]) if *operation == dw::DW_OP_reg6.0 && NATIVE == MachineAbi::X86_64 => Some(16),
            _ => None,
        };
        FunctionFrame { addr, caller }
    }
}

/// The location of a parameter of `bytes` bytes; `None` if the debug information has none for the first instruction.
pub fn at_entry(
    sections: &DebugSections,
    parameter: &DebugEntry,
    frame: &FunctionFrame,
    bytes: u64,
) -> Option<ValueLocation> {
    if let Some(value) = parameter.value(dw::DW_AT_const_value) {
        return Some(constant(&value));
    }
    let value = parameter.value(dw::DW_AT_location)?;
    let mut context = ExpressionContext {
        encoding: parameter.unit.encoding(),
        frame,
        is_for_all: true,
    };
    if let Some(expression) = value.exprloc_value() {
        return combine(&context.parts(expression.0.bytes())?, bytes);
    }
    context.is_for_all = false;
    let expression = sections.location(&parameter.unit, &value, frame.addr)?;
    combine(&context.parts(&expression)?, bytes)
}

/// GCC stores a positive number in as few bytes as possible, whatever the sign of its type.
fn constant(value: &EntryValue) -> ValueLocation {
    let negative = || value.sdata_value().map(i64::cast_unsigned);
    match value.udata_value().or_else(negative) {
        Some(number) => ValueLocation::Pieces(vec![LocationPiece::Constant(number)]),
        None => ValueLocation::Unavailable(OPTIMIZED_OUT),
    }
}

/// Where a part of a parameter is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum PartLocation {
    Register(u16),
    Constant(u64),
    /// In memory, at this offset from the address in a register.
    Memory(u16, i64),
    /// In memory, at this offset from the stack pointer before the call.
    Caller(i64),
    /// In memory, at the address that is at this offset from the stack pointer before the call.
    BehindCaller(i64),
    /// The content of a register with a mask for its low bytes.
    Masked(u16),
    /// A number that is the value if `DW_OP_stack_value` follows, and else its address.
    Number(u64),
    /// Where instructions after the first one put it.
    Later,
    /// Optimized out, or not in a form that is supported.
    Lost,
}

/// A part and its size in bits; 0 bits for the whole parameter.
type SizedPart = (PartLocation, u64);

/// What the operations of a description refer to.
struct ExpressionContext<'f> {
    encoding: Encoding,
    frame: &'f FunctionFrame,
    /// The description is for the whole function, so it applies to the first instruction only if it names a
    /// location that the caller fills in.
    is_for_all: bool,
}

impl ExpressionContext<'_> {
    /// The parts of a parameter; `None` if the description is damaged.
    fn parts(&self, expression: &[u8]) -> Option<Vec<SizedPart>> {
        let expression = Expression(EndianSlice::new(expression, LittleEndian));
        let mut operations = expression.operations(self.encoding);
        let mut parts = Vec::new();
        let mut part = PartLocation::Lost;
        for _ in 0..MAX_OPERATIONS {
            match operations.next().ok()? {
                Some(Operation::Piece { size_in_bits, .. }) => {
                    parts.push((part, size_in_bits));
                    part = PartLocation::Lost;
                }
                Some(operation) => part = self.step(part, &operation),
                None if parts.is_empty() => return Some(vec![(part, 0)]),
                None => return Some(parts),
            }
        }
        None
    }

    /// The part after one more operation.
    fn step(&self, part: PartLocation, operation: &Operation<ExpressionBytes<'_>>) -> PartLocation {
        match (operation, part) {
            // Conversions keep the lowest bytes.
            (Operation::Nop | Operation::Convert { .. } | Operation::Reinterpret { .. }, part) => part,
            (Operation::Register { register }, _) if self.is_later(register.0) => PartLocation::Later,
            (Operation::Register { register }, _) => PartLocation::Register(register.0),
            (Operation::RegisterOffset { register, .. }, _) if self.is_set_later(register.0) => {
                PartLocation::Later
            }
            (Operation::RegisterOffset { register, offset, .. }, _) => {
                PartLocation::Memory(register.0, *offset)
            }
            (Operation::EntryValue { expression }, _) => self.entry_value(*expression),
            (Operation::FrameOffset { offset }, _) => match self.frame.caller {
                Some(caller) if *offset >= caller => PartLocation::Caller(*offset - caller),
                _ => PartLocation::Later,
            },
            (Operation::CallFrameCFA, _) => PartLocation::Caller(0),
            (Operation::Deref { .. }, PartLocation::Caller(offset)) => PartLocation::BehindCaller(offset),
            (Operation::UnsignedConstant { value }, PartLocation::Memory(register, 0))
                if value.wrapping_add(1).is_power_of_two() =>
            {
                PartLocation::Masked(register)
            }
            (Operation::And, PartLocation::Masked(register)) => PartLocation::Memory(register, 0),
            (Operation::UnsignedConstant { value }, _) => PartLocation::Number(*value),
            (Operation::SignedConstant { value }, _) => PartLocation::Number(value.cast_unsigned()),
            (Operation::ImplicitValue { data }, _) => little_endian(data.slice()),
            (Operation::StackValue, PartLocation::Memory(register, 0)) => PartLocation::Register(register),
            (Operation::StackValue, PartLocation::Number(number)) => PartLocation::Constant(number),
            (
                Operation::Deref { .. } | Operation::PlusConstant { .. } | Operation::StackValue,
                PartLocation::Later,
            ) => PartLocation::Later,
            _ => PartLocation::Lost,
        }
    }

    /// Whether the function itself sets the register, in a description for the whole function.
    fn is_set_later(&self, register: u16) -> bool {
        self.is_for_all && NATIVE.argument_register(register).is_none()
    }

    fn is_later(&self, register: u16) -> bool {
        self.is_set_later(register) && !NATIVE.is_float(register)
    }

    /// What a register held when the function was entered. `DW_OP_stack_value` follows and makes it the value.
    fn entry_value(&self, expression: ExpressionBytes<'_>) -> PartLocation {
        match Expression(expression).operations(self.encoding).next() {
            Ok(Some(Operation::Register { register })) => PartLocation::Memory(register.0, 0),
            _ => PartLocation::Lost,
        }
    }
}

fn little_endian(bytes: &[u8]) -> PartLocation {
    let mut number = [0; 8];
    match number.get_mut(..bytes.len()) {
        Some(low) => low.copy_from_slice(bytes),
        None => return PartLocation::Lost,
    }
    PartLocation::Constant(u64::from_le_bytes(number))
}

fn combine(parts: &[SizedPart], bytes: u64) -> Option<ValueLocation> {
    if parts.iter().any(|(part, _)| *part == PartLocation::Later) {
        return None;
    }
    let is_float =
        |part: &PartLocation| matches!(part, PartLocation::Register(number) if NATIVE.is_float(*number));
    if parts.iter().any(|(part, _)| is_float(part)) {
        return Some(ValueLocation::Unavailable(IN_FLOAT));
    }
    if let [(part, 0)] = parts {
        return Some(whole(*part, bytes));
    }
    let (_, all_but_last) = parts.split_last()?;
    if all_but_last.iter().any(|(_, bits)| *bits != 64) || parts.iter().any(|(_, bits)| *bits > 64) {
        return Some(ValueLocation::Unavailable(SCATTERED));
    }
    let pieces: Option<Vec<LocationPiece>> = parts.iter().map(|(part, _)| piece(*part)).collect();
    Some(pieces.map_or(ValueLocation::Unavailable(OPTIMIZED_OUT), ValueLocation::Pieces))
}

fn whole(part: PartLocation, bytes: u64) -> ValueLocation {
    if let PartLocation::Memory(number, 0) = part
        && number != NATIVE.stack_pointer()
    {
        return ValueLocation::Indirect(register(number));
    }
    if let PartLocation::BehindCaller(offset) = part {
        let address = piece(PartLocation::Caller(offset));
        return address.map_or(ValueLocation::Unavailable(OPTIMIZED_OUT), ValueLocation::Indirect);
    }
    match piece(part) {
        Some(LocationPiece::Stack(start)) if bytes > MAX_ON_STACK || start > u64::MAX - bytes => {
            ValueLocation::Unavailable(TOO_LARGE)
        }
        Some(LocationPiece::Stack(start)) => {
            let words = bytes.div_ceil(8).max(1);
            let pieces = (0..words).map(|word| LocationPiece::Stack(start + word * 8));
            ValueLocation::Pieces(pieces.collect())
        }
        Some(piece) => ValueLocation::Pieces(vec![piece]),
        None => ValueLocation::Unavailable(OPTIMIZED_OUT),
    }
}

fn piece(part: PartLocation) -> Option<LocationPiece> {
    match part {
        PartLocation::Register(number) => Some(register(number)),
        PartLocation::Constant(number) => Some(LocationPiece::Constant(number)),
        PartLocation::Caller(offset) => {
            let offset = u64::try_from(offset).ok()?;
            NATIVE
                .stack_arguments()
                .checked_add(offset)
                .map(LocationPiece::Stack)
        }
        PartLocation::Memory(number, offset) if number == NATIVE.stack_pointer() => {
            u64::try_from(offset).ok().map(LocationPiece::Stack)
        }
        _ => None,
    }
}

fn register(number: u16) -> LocationPiece {
    NATIVE
        .argument_register(number)
        .map_or(LocationPiece::Register(number), LocationPiece::Argument)
}
