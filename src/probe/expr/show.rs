// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Records to values: decodes what the kernel fetched of a call, by its types.

use std::rc::Rc;

use super::code::{FetchedValue, FunctionPlan, MOST_NESTED};
use super::operand::is_signed;
use crate::find::debug::types::{BitField, MAX_SHOWN_ELEMENTS, TypeKind, ValueType};
use crate::output::Datum;

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
#[derive(Debug)]
pub struct ShownCall<'a> {
    pub args: Vec<(&'a str, Datum<'a>)>,
    pub result: Option<Datum<'a>>,
}

/// Decodes calls, in buffers that it keeps from one call to the next.
#[derive(Debug, Default)]
pub struct CallValues {
    /// Names of values that could not be read.
    pub faults: Vec<Rc<str>>,
    /// Names of truncated texts.
    pub truncated: Vec<Rc<str>>,
    /// Empty: the memory for the arguments of the next call.
    spare: Vec<(&'static str, Datum<'static>)>,
}

impl CallValues {
    /// Decodes a call. `faults` and `truncated` are about this one from then on.
    pub fn read<'a>(&mut self, plan: &'a FunctionPlan, record: &CallRecord<'a>) -> ShownCall<'a> {
        self.faults.clear();
        self.truncated.clear();
        let mut args: Vec<(&'a str, Datum<'a>)> = emptied(std::mem::take(&mut self.spare));
        for shown in &plan.shown {
            let datum = record.value(&shown.fetched);
            self.note(&datum, &shown.name);
            args.push((&shown.name, datum));
        }
        let result = plan.result.as_ref().map(|fetched| match record.no_result {
            true => Datum::Unknown("of the function it jumped to"),
            false => record.value(fetched),
        });
        if let Some(result) = &result {
            self.note(result, "retval");
        }
        ShownCall { args, result }
    }

    /// Takes back the memory of a call that was shown.
    pub fn reuse(&mut self, shown: ShownCall<'_>) {
        self.spare = emptied(shown.args);
    }

    fn note(&mut self, datum: &Datum<'_>, name: &str) {
        match datum {
            Datum::Fault => push_once(&mut self.faults, name),
            Datum::Text { truncated: true, .. } => push_once(&mut self.truncated, name),
            Datum::Fields(fields) => fields.iter().for_each(|(_, datum)| self.note(datum, name)),
            _ => {}
        }
    }
}

fn push_once(names: &mut Vec<Rc<str>>, name: &str) {
    if names.last().is_none_or(|last| **last != *name) {
        names.push(name.into());
    }
}

/// The same memory without its values, for values with another lifetime: a collected iterator over a vector stays in
/// the allocation of the vector if the items have the same layout.
fn emptied<'a>(mut args: Vec<(&str, Datum<'_>)>) -> Vec<(&'a str, Datum<'a>)> {
    args.clear();
    args.into_iter().map_while(|_| None).collect()
}

impl<'a> CallRecord<'a> {
    fn value(&self, fetched: &'a FetchedValue) -> Datum<'a> {
        match fetched {
            FetchedValue::Number(slot, ty) => {
                self.slot(*slot).map_or(Datum::Fault, |number| scalar(number, ty))
            }
            FetchedValue::Text(slot) => self.text(*slot),
            FetchedValue::TypedText(slot) => self.typed_text(*slot),
            FetchedValue::Bytes(slot, ty, texts) => {
                self.indirect(*slot, |bytes| self.object(texts, bytes, 0, ty, 0))
            }
            FetchedValue::Slots(first, count, ty, texts) => self
                .slots(*first, *count)
                .map_or(Datum::Fault, |bytes| self.object(texts, bytes, 0, ty, 0)),
            FetchedValue::Comm => Datum::Text {
                bytes: self.comm,
                truncated: false,
            },
            FetchedValue::Nowhere(why) => Datum::Unknown(why),
        }
    }

    fn text(&self, slot: u8) -> Datum<'a> {
        self.indirect(slot, |bytes| Datum::Text {
            bytes,
            truncated: self.truncated & bit(slot) != 0,
        })
    }

    fn typed_text(&self, slot: u8) -> Datum<'a> {
        match self.text(slot) {
            Datum::NullPointer => Datum::Text {
                bytes: &[],
                truncated: false,
            },
            text => text,
        }
    }

    /// A structure or an array that begins `start` bytes into `bytes`. Members whose bytes were not read are unknown.
    fn object(
        &self,
        texts: &'a [(u64, u8)],
        bytes: &'a [u8],
        start: u64,
        ty: &'a ValueType,
        nested: usize,
    ) -> Datum<'a> {
        let part = |offset: u64, ty| {
            let at = start.saturating_add(offset);
            self.object(texts, bytes, at, ty, nested + 1)
        };
        match &ty.kind {
            TypeKind::Struct(members) if nested < MOST_NESTED => {
                let fields = members.iter().map(|member| {
                    let value = match member.bits {
                        Some(bits) => bit_field(bytes, start.saturating_add(member.offset), &member.ty, bits),
                        None => part(member.offset, &member.ty),
                    };
                    (&*member.name, value)
                });
                Datum::Fields(fields.collect())
            }
            TypeKind::Array { count, .. } if ty.text_array().is_some() => array_text(bytes, start, *count),
            TypeKind::Array { of, count } if nested < MOST_NESTED => {
                let read = (bytes.len() as u64).saturating_sub(start) / of.bytes.max(1);
                let shown = read.min(*count).min(MAX_SHOWN_ELEMENTS as u64);
                let items = (0..shown).map(|index| part(index * of.bytes, of));
                let rest = (shown < *count).then_some(Datum::Unknown("more"));
                Datum::List(items.chain(rest).collect())
            }
            TypeKind::Struct(_) | TypeKind::Array { .. } | TypeKind::Other => Datum::Unknown("not shown"),
            TypeKind::Text { pointer_at, .. } => match texts.iter().find(|(at, _)| *at == start) {
                Some((_, slot)) => self.typed_text(*slot),
                // The pointer only: the text was not read.
                None => word(bytes, start.saturating_add(*pointer_at), 8).map_or(NOT_READ, Datum::Hex),
            },
            _ if ty.bytes > 8 => Datum::Unknown("more than 8 bytes"),
            _ => word(bytes, start, ty.bytes).map_or(NOT_READ, |number| scalar(number, ty)),
        }
    }

    /// A value whose bytes a slot refers to.
    fn indirect(&self, slot: u8, decode: impl FnOnce(&'a [u8]) -> Datum<'a>) -> Datum<'a> {
        match self.slot(slot) {
            Some(NO_TEXT) => Datum::NullPointer,
            Some(at) => self.bytes(at).map_or(Datum::Fault, decode),
            None => Datum::Fault,
        }
    }

    /// The number in a slot; None if it could not be read.
    fn slot(&self, slot: u8) -> Option<u64> {
        let number = word(self.words, u64::from(slot) * 8, 8)?;
        (self.faulted & bit(slot) == 0).then_some(number)
    }

    /// The bytes of consecutive slots; None if one of them could not be read.
    fn slots(&self, first: u8, count: u8) -> Option<&'a [u8]> {
        let end = first.saturating_add(count);
        let readable = (first..end).all(|slot| self.faulted & bit(slot) == 0);
        let bytes = self.words.get(usize::from(first) * 8..usize::from(end) * 8)?;
        readable.then_some(bytes)
    }

    /// The bytes that a slot refers to: offset in the upper half, length in the lower (`TEXT_AT`).
    fn bytes(&self, at: u64) -> Option<&'a [u8]> {
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
fn scalar(number: u64, ty: &ValueType) -> Datum<'_> {
    match &ty.kind {
        TypeKind::Int { signed: true } => Datum::I64(extended(number, ty.bytes)),
        TypeKind::Int { signed: false } => Datum::U64(number),
        TypeKind::Bool => match number {
            0 | 1 => Datum::Bool(number == 1),
            odd => Datum::U64(odd),
        },
        TypeKind::Char { .. } => character(number, ty.bytes),
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
                Some((_, name)) => Datum::Name(name),
                None => Datum::I64(number),
            }
        }
        TypeKind::CString | TypeKind::Pointer(_) | TypeKind::Reference(_) if number == 0 => {
            Datum::NullPointer
        }
        _ => Datum::Hex(number),
    }
}

/// C's `char` is a byte; Rust's `char`, `char16_t` and `char32_t` are code points.
fn character(number: u64, bytes: u64) -> Datum<'static> {
    let wide = u32::try_from(number).ok().and_then(char::from_u32);
    match wide.filter(|_| bytes > 1) {
        Some(char) => Datum::Char(char),
        None => Datum::Byte(number as u8),
    }
}

/// Sign-extended from this many bytes.
fn extended(number: u64, bytes: u64) -> i64 {
    let shift = 64 - 8 * bytes.clamp(1, 8);
    (number << shift) as i64 >> shift
}

/// The text in an array of `char`, up to a NUL.
fn array_text(bytes: &[u8], start: u64, count: u64) -> Datum<'_> {
    let rest = usize::try_from(start).ok().and_then(|start| bytes.get(start..));
    let Some(rest) = rest.filter(|_| count > 0) else {
        return NOT_READ;
    };
    let whole = usize::try_from(count).ok().and_then(|count| rest.get(..count));
    let text = whole.unwrap_or(rest);
    match text.iter().position(|&byte| byte == 0) {
        Some(end) => Datum::Text {
            bytes: text.get(..end).unwrap_or_default(),
            truncated: false,
        },
        None => Datum::Text {
            bytes: text,
            truncated: whole.is_none(),
        },
    }
}

/// A part of the number at `start`.
fn bit_field<'a>(bytes: &[u8], start: u64, ty: &'a ValueType, bits: BitField) -> Datum<'a> {
    let number = word(bytes, start, ty.bytes.min(8));
    number.map_or(NOT_READ, |number| scalar(bits.of(number, is_signed(ty)), ty))
}

const NOT_READ: Datum<'static> = Datum::Unknown("not read");

#[cfg(test)]
mod tests;
