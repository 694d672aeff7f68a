//! Where a parameter is at the first instruction of its function, by its location description.

use gimli::constants as dw;
use gimli::{AttributeValue, Encoding, Expression, Operation};

use super::entries::{Bytes, Entries, Entry};
use crate::find::debug::abi::{IN_FLOAT, MAX_ON_STACK, NATIVE, SCATTERED, TOO_LARGE};
use crate::find::debug::types::{Piece, Place};

/// Entries of a location list that are read in search of the one for the first instruction.
const MAX_ENTRIES: usize = 64;
/// Operations of one description.
const MAX_OPERATIONS: usize = 32;
pub const OPTIMIZED_OUT: &str = "optimized out";
/// The compiler put some arguments elsewhere than the calling convention does, and does not say where this one is.
pub const MOVED: &str = "moved by the optimizer";
/// Its type, or one before it, is not in the debug information.
pub const UNKNOWN_TYPE: &str = "behind an unknown type";

/// Whether anything is said of the place of a parameter, for the first instruction or another.
pub fn is_placed(parameter: &Entry<'_, '_>) -> bool {
    let value = parameter.value(dw::DW_AT_location);
    value.or_else(|| parameter.value(dw::DW_AT_const_value)).is_some()
}

/// The function around a parameter.
pub struct Frame {
    /// The address of its first instruction.
    pub addr: u64,
    /// Offsets into its frame count from the stack pointer as it was before the call.
    pub from_caller: bool,
}

impl Frame {
    pub fn new(function: &Entry<'_, '_>, addr: u64) -> Frame {
        let base = function.value(dw::DW_AT_frame_base);
        let from_caller = base.and_then(|base| base.exprloc_value());
        Frame {
            addr,
            from_caller: from_caller.is_some_and(|base| base.0.slice() == [dw::DW_OP_call_frame_cfa.0]),
        }
    }
}

/// The place of a parameter of `bytes` bytes; `None` if that is not said for the first instruction.
pub fn place(entries: &Entries<'_>, parameter: &Entry<'_, '_>, frame: &Frame, bytes: u64) -> Option<Place> {
    if let Some(value) = parameter.value(dw::DW_AT_const_value) {
        return Some(constant(value));
    }
    let value = parameter.value(dw::DW_AT_location)?;
    let encoding = parameter.unit.encoding();
    if let Some(expression) = value.exprloc_value() {
        return combine(&parts(expression, encoding, frame, true)?, bytes);
    }
    let mut list = entries.dwarf.attr_locations(parameter.unit, value).ok()??;
    let mut all = (0..MAX_ENTRIES).map_while(|_| list.next().ok()?);
    let first = all.find(|entry| entry.range.begin <= frame.addr && frame.addr < entry.range.end)?;
    combine(&parts(first.data, encoding, frame, false)?, bytes)
}

fn constant(value: AttributeValue<Bytes<'_>>) -> Place {
    let number = value.sdata_value().map(i64::cast_unsigned);
    match number.or_else(|| value.udata_value()) {
        Some(number) => Place::Pieces(vec![Piece::Constant(number)]),
        None => Place::Nowhere(OPTIMIZED_OUT),
    }
}

/// Where a part of a parameter is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    Register(u16),
    Constant(u64),
    /// In memory, that far from the address in a register.
    Memory(u16, i64),
    /// In memory, that far from the stack pointer before the call.
    Caller(i64),
    /// The content of a register, and over it a mask of its low bytes.
    Masked(u16),
    /// A number that is not yet said to be the value and not its address.
    Number(u64),
    /// Where it is put by instructions after the first one.
    Later,
    /// Not there, or not to be found in a simple way.
    Lost,
}

/// The parts of a parameter with their bits, 0 bits for all of it. `everywhere`: the description is not for this place in
/// the function alone, and so tells of the first instruction only if it names what a caller fills in. `None` if it
/// is damaged.
fn parts(
    expression: Expression<Bytes<'_>>,
    encoding: Encoding,
    frame: &Frame,
    everywhere: bool,
) -> Option<Vec<(Value, u64)>> {
    let mut operations = expression.operations(encoding);
    let mut parts = Vec::new();
    let mut value = Value::Lost;
    for _ in 0..MAX_OPERATIONS {
        match operations.next().ok()? {
            Some(Operation::Piece { size_in_bits, .. }) => {
                parts.push((value, size_in_bits));
                value = Value::Lost;
            }
            Some(operation) => value = step(value, &operation, encoding, frame, everywhere),
            None if parts.is_empty() => return Some(vec![(value, 0)]),
            None => return Some(parts),
        }
    }
    None
}

fn step(
    value: Value,
    operation: &Operation<Bytes<'_>>,
    encoding: Encoding,
    frame: &Frame,
    everywhere: bool,
) -> Value {
    let is_later = |register| everywhere && NATIVE.argument_register(register).is_none();
    match (operation, value) {
        // The type changes, the lowest bytes do not.
        (Operation::Nop | Operation::Convert { .. } | Operation::Reinterpret { .. }, value) => value,
        (Operation::Register { register }, _) if NATIVE.is_float(register.0) => Value::Register(register.0),
        (Operation::Register { register }, _) if is_later(register.0) => Value::Later,
        (Operation::Register { register }, _) => Value::Register(register.0),
        (Operation::RegisterOffset { register, .. }, _) if is_later(register.0) => Value::Later,
        (Operation::RegisterOffset { register, offset, .. }, _) => Value::Memory(register.0, *offset),
        (Operation::EntryValue { expression }, _) => entry_value(*expression, encoding),
        (Operation::FrameOffset { offset }, _) if frame.from_caller && *offset >= 0 => Value::Caller(*offset),
        (Operation::FrameOffset { .. }, _) => Value::Later,
        (Operation::CallFrameCFA, _) => Value::Caller(0),
        (Operation::UnsignedConstant { value }, Value::Memory(register, 0))
            if value.wrapping_add(1).is_power_of_two() =>
        {
            Value::Masked(register)
        }
        (Operation::And, Value::Masked(register)) => Value::Memory(register, 0),
        (Operation::UnsignedConstant { value }, _) => Value::Number(*value),
        (Operation::SignedConstant { value }, _) => Value::Number(value.cast_unsigned()),
        (Operation::ImplicitValue { data }, _) => little_endian(data.slice()),
        (Operation::StackValue, Value::Memory(register, 0)) => Value::Register(register),
        (Operation::StackValue, Value::Number(number)) => Value::Constant(number),
        (Operation::Deref { .. } | Operation::PlusConstant { .. } | Operation::StackValue, Value::Later) => {
            Value::Later
        }
        _ => Value::Lost,
    }
}

/// What a register held when the function was entered, ready for the operation that says that this is the value.
fn entry_value(expression: Bytes<'_>, encoding: Encoding) -> Value {
    match Expression(expression).operations(encoding).next() {
        Ok(Some(Operation::Register { register })) => Value::Memory(register.0, 0),
        _ => Value::Lost,
    }
}

fn little_endian(bytes: &[u8]) -> Value {
    let mut number = [0; 8];
    match number.get_mut(..bytes.len()) {
        Some(low) => low.copy_from_slice(bytes),
        None => return Value::Lost,
    }
    Value::Constant(u64::from_le_bytes(number))
}

fn combine(parts: &[(Value, u64)], bytes: u64) -> Option<Place> {
    if parts.iter().any(|(value, _)| *value == Value::Later) {
        return None;
    }
    let is_float = |value: &Value| matches!(value, Value::Register(number) if NATIVE.is_float(*number));
    if parts.iter().any(|(value, _)| is_float(value)) {
        return Some(Place::Nowhere(IN_FLOAT));
    }
    if let [(value, 0)] = parts {
        return Some(whole(*value, bytes));
    }
    let (_, all_but_last) = parts.split_last()?;
    if all_but_last.iter().any(|(_, bits)| *bits != 64) || parts.iter().any(|(_, bits)| *bits > 64) {
        return Some(Place::Nowhere(SCATTERED));
    }
    let pieces: Option<Vec<Piece>> = parts.iter().map(|(value, _)| piece(*value)).collect();
    Some(pieces.map_or(Place::Nowhere(OPTIMIZED_OUT), Place::Pieces))
}

fn whole(value: Value, bytes: u64) -> Place {
    if let Value::Memory(number, 0) = value
        && number != NATIVE.stack_pointer()
    {
        return Place::Behind(register(number));
    }
    match piece(value) {
        Some(Piece::Stack(start)) if bytes > MAX_ON_STACK || start > u64::MAX - bytes => {
            Place::Nowhere(TOO_LARGE)
        }
        Some(Piece::Stack(start)) => {
            let words = bytes.div_ceil(8).max(1);
            Place::Pieces((0..words).map(|word| Piece::Stack(start + word * 8)).collect())
        }
        Some(piece) => Place::Pieces(vec![piece]),
        None => Place::Nowhere(OPTIMIZED_OUT),
    }
}

fn piece(value: Value) -> Option<Piece> {
    match value {
        Value::Register(number) => Some(register(number)),
        Value::Constant(number) => Some(Piece::Constant(number)),
        Value::Caller(offset) => {
            let offset = u64::try_from(offset).ok()?;
            NATIVE.stack_arguments().checked_add(offset).map(Piece::Stack)
        }
        Value::Memory(number, offset) if number == NATIVE.stack_pointer() => {
            u64::try_from(offset).ok().map(Piece::Stack)
        }
        _ => None,
    }
}

fn register(number: u16) -> Piece {
    NATIVE
        .argument_register(number)
        .map_or(Piece::Register(number), Piece::Argument)
}
