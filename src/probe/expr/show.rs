// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Records to values: decodes what the kernel fetched of a call, by its types.

use std::rc::Rc;

use super::code::{FetchedValue, FunctionPlan};
use crate::find::debug::types::{TypeKind, ValueType};
use crate::output::Datum;

/// Depth of nested structures that are shown.
const MOST_NESTED: usize = 4;
/// The content of a slot whose address was 0, to distinguish it from empty text.
const NO_TEXT: u64 = u64::MAX;

/// What the kernel fetched of a call: the C `struct expr_record`, checked and decoded.
#[derive(Clone, Copy, Debug)]
pub struct CallRecord<'a> {
    /// The slots, then the texts that they refer to.
    pub words: &'a [u8],
    /// Bit n: slot n could not be read.
    pub faulted: u64,
    /// Bit n: the text of slot n is truncated.
    pub truncated: u64,
    pub comm: &'a [u8],
    /// The function ended in a tail call, whose result is not known.
    pub no_result: bool,
}

/// The values to show of a call.
#[derive(Debug, Default)]
pub struct CallValues {
    pub args: Vec<(Rc<str>, Datum)>,
    pub result: Option<Datum>,
    /// Names of values that could not be read.
    pub faults: Vec<Rc<str>>,
    /// Names of truncated texts.
    pub truncated: Vec<Rc<str>>,
}

impl CallValues {
    /// Decodes a call, in place of the last one.
    pub fn read(&mut self, plan: &FunctionPlan, record: &CallRecord<'_>) {
        self.args.clear();
        self.faults.clear();
        self.truncated.clear();
        for shown in &plan.shown {
            let datum = self.value(&shown.name, &shown.fetched, record);
            self.args.push((Rc::clone(&shown.name), datum));
        }
        self.result = plan.result.as_ref().map(|fetched| match record.no_result {
            true => Datum::Unknown("of the function it jumped to"),
            false => self.value(&"retval".into(), fetched, record),
        });
    }

    fn value(&mut self, name: &Rc<str>, fetched: &FetchedValue, record: &CallRecord<'_>) -> Datum {
        let datum = record.value(fetched);
        if datum == Datum::Fault {
            self.faults.push(Rc::clone(name));
        }
        if matches!(datum, Datum::Text { cut: true, .. }) {
            self.truncated.push(Rc::clone(name));
        }
        datum
    }
}

impl CallRecord<'_> {
    fn value(&self, fetched: &FetchedValue) -> Datum {
        match fetched {
            FetchedValue::Number(slot, ty) => {
                self.slot(*slot).map_or(Datum::Fault, |number| scalar(number, ty))
            }
            FetchedValue::Text(slot) => match self.slot(*slot) {
                Some(NO_TEXT) => Datum::Nothing,
                Some(at) => self.bytes(at).map_or(Datum::Fault, |bytes| Datum::Text {
                    bytes: bytes.to_vec(),
                    cut: self.truncated & bit(*slot) != 0,
                }),
                None => Datum::Fault,
            },
            FetchedValue::Bytes(slot, ty) => match self.slot(*slot) {
                Some(NO_TEXT) => Datum::Nothing,
                Some(at) => self.bytes(at).map_or(Datum::Fault, |bytes| object(bytes, ty, 0)),
                None => Datum::Fault,
            },
            FetchedValue::Slots(first, count, ty) => {
                let numbers = (*first..first.saturating_add(*count)).map(|slot| self.slot(slot));
                let bytes: Option<Vec<[u8; 8]>> = numbers.map(|number| Some(number?.to_ne_bytes())).collect();
                bytes.map_or(Datum::Fault, |bytes| object(bytes.as_flattened(), ty, 0))
            }
            FetchedValue::Comm => Datum::Text {
                bytes: self.comm.to_vec(),
                cut: false,
            },
            FetchedValue::Nowhere(why) => Datum::Unknown(why),
        }
    }

    /// The number in a slot; None when it could not be read.
    fn slot(&self, slot: u8) -> Option<u64> {
        let number = word(self.words, u64::from(slot) * 8, 8)?;
        (self.faulted & bit(slot) == 0).then_some(number)
    }

    /// The bytes that a slot refers to: offset in the upper half, length in the lower (`TEXT_AT`).
    fn bytes(&self, at: u64) -> Option<&[u8]> {
        let (start, length) = ((at >> 32) as usize, at as u32 as usize);
        self.words.get(start..start.checked_add(length)?)
    }
}

fn bit(slot: u8) -> u64 {
    1_u64.checked_shl(slot.into()).unwrap_or(0)
}

/// A little-endian number of up to eight bytes. None if it is out of bounds.
fn word(bytes: &[u8], offset: u64, length: u64) -> Option<u64> {
    let start = usize::try_from(offset).ok()?;
    let part = bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)?;
    let mut whole = [0; 8];
    whole.get_mut(..part.len())?.copy_from_slice(part);
    Some(u64::from_le_bytes(whole))
}

/// A number by its type.
fn scalar(number: u64, ty: &ValueType) -> Datum {
    match &ty.kind {
        TypeKind::Int { signed: true } => Datum::I64(extended(number, ty.bytes)),
        TypeKind::Int { signed: false } => Datum::U64(number),
        TypeKind::Bool => match number {
            0 | 1 => Datum::Bool(number == 1),
            odd => Datum::U64(odd),
        },
        TypeKind::Char => Datum::Text {
            bytes: character(number, ty.bytes),
            cut: false,
        },
        TypeKind::Float => match ty.bytes {
            4 => Datum::F64(f32::from_bits(number as u32).into()),
            _ => Datum::F64(f64::from_bits(number)),
        },
        TypeKind::Enum { signed, values } => {
            let number = if *signed {
                extended(number, ty.bytes)
            } else {
                number as i64
            };
            match values.iter().find(|(value, _)| *value == number) {
                Some((_, name)) => Datum::Name(Rc::clone(name)),
                None => Datum::I64(number),
            }
        }
        TypeKind::CString | TypeKind::Pointer(_) if number == 0 => Datum::Nothing,
        _ => Datum::Hex(number),
    }
}

/// C's `char` is a byte; Rust's `char`, `char16_t` and `char32_t` are code points.
fn character(number: u64, bytes: u64) -> Vec<u8> {
    let wide = u32::try_from(number).ok().and_then(char::from_u32);
    match wide.filter(|_| bytes > 1) {
        Some(char) => char.to_string().into_bytes(),
        None => vec![number as u8],
    }
}

/// Sign-extended from this many bytes.
fn extended(number: u64, bytes: u64) -> i64 {
    let shift = 64 - 8 * bytes.clamp(1, 8);
    (number << shift) as i64 >> shift
}

/// A structure. Members whose bytes were not read are unknown.
fn object(bytes: &[u8], ty: &ValueType, nested: usize) -> Datum {
    match &ty.kind {
        TypeKind::Struct(members) if nested < MOST_NESTED => Datum::Fields(
            members
                .iter()
                .map(|member| {
                    let rest = usize::try_from(member.offset).ok().and_then(|at| bytes.get(at..));
                    let value = rest.map_or(NOT_READ, |rest| object(rest, &member.ty, nested + 1));
                    (Rc::clone(&member.name), value)
                })
                .collect(),
        ),
        TypeKind::Struct(_) | TypeKind::Other => Datum::Unknown("not shown"),
        // The pointer only: the text was not read.
        TypeKind::Text { pointer_at, .. } => word(bytes, *pointer_at, 8).map_or(NOT_READ, Datum::Hex),
        _ => word(bytes, 0, ty.bytes.min(8)).map_or(NOT_READ, |number| scalar(number, ty)),
    }
}

const NOT_READ: Datum = Datum::Unknown("not read");

#[cfg(test)]
mod tests;
