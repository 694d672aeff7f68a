//! Records to values: what was fetched of a call, as its types say.

use std::rc::Rc;

use super::code::{Fetched, Plan};
use crate::find::debug::types::{TypeKind, ValueType};
use crate::output::Datum;

/// Structures inside each other that are shown.
const MOST_NESTED: usize = 4;
/// `NO_TEXT` of src/bpf/expr.bpf.h.
const NO_TEXT: u64 = u64::MAX;

/// What the kernel has found out about a call: `struct expr_record` of src/bpf/expr.bpf.h.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The slots, and behind them what they lead to.
    pub words: &'a [u8],
    /// Bit n: slot n could not be read.
    pub faulted: u64,
    /// Bit n: slot n leads to less text than there is.
    pub cut: u64,
    pub comm: &'a [u8],
    /// The function has jumped to another one, whose result will be its own.
    pub no_result: bool,
}

/// What is shown of a call, and which of it is not all.
#[derive(Debug, Default)]
pub struct Values {
    pub args: Vec<(Rc<str>, Datum)>,
    pub result: Option<Datum>,
    pub faults: Vec<Rc<str>>,
    pub cut: Vec<Rc<str>>,
}

impl Values {
    /// Reads the values of a call, in place of those of the last one.
    pub fn read(&mut self, plan: &Plan, record: &Record<'_>) {
        self.args.clear();
        self.faults.clear();
        self.cut.clear();
        for shown in &plan.shown {
            let datum = self.value(&shown.name, &shown.fetched, record);
            self.args.push((Rc::clone(&shown.name), datum));
        }
        self.result = plan.result.as_ref().map(|fetched| match record.no_result {
            true => Datum::Unknown("of the function it jumped to"),
            false => self.value(&"retval".into(), fetched, record),
        });
    }

    fn value(&mut self, name: &Rc<str>, fetched: &Fetched, record: &Record<'_>) -> Datum {
        let datum = record.value(fetched);
        if datum == Datum::Fault {
            self.faults.push(Rc::clone(name));
        }
        if matches!(datum, Datum::Text { cut: true, .. }) {
            self.cut.push(Rc::clone(name));
        }
        datum
    }
}

impl Record<'_> {
    fn value(&self, fetched: &Fetched) -> Datum {
        match fetched {
            Fetched::Number(slot, ty) => self.slot(*slot).map_or(Datum::Fault, |number| scalar(number, ty)),
            Fetched::Text(slot) => match self.slot(*slot) {
                Some(NO_TEXT) => Datum::Nothing,
                Some(at) => self.bytes(at).map_or(Datum::Fault, |bytes| Datum::Text {
                    bytes: bytes.to_vec(),
                    cut: self.cut & bit(*slot) != 0,
                }),
                None => Datum::Fault,
            },
            Fetched::Bytes(slot, ty) => match self.slot(*slot) {
                Some(NO_TEXT) => Datum::Nothing,
                Some(at) => self.bytes(at).map_or(Datum::Fault, |bytes| object(bytes, ty, 0)),
                None => Datum::Fault,
            },
            Fetched::Slots(first, count, ty) => {
                let numbers = (*first..first.saturating_add(*count)).map(|slot| self.slot(slot));
                let bytes: Option<Vec<[u8; 8]>> = numbers.map(|number| Some(number?.to_ne_bytes())).collect();
                bytes.map_or(Datum::Fault, |bytes| object(bytes.as_flattened(), ty, 0))
            }
            Fetched::Comm => Datum::Text {
                bytes: self.comm.to_vec(),
                cut: false,
            },
            Fetched::Nowhere(why) => Datum::Unknown(why),
        }
    }

    /// The number in a slot; None when it could not be read.
    fn slot(&self, slot: u8) -> Option<u64> {
        let number = word(self.words, u64::from(slot) * 8, 8)?;
        (self.faulted & bit(slot) == 0).then_some(number)
    }

    /// What `TEXT_AT` of the header leads to.
    fn bytes(&self, at: u64) -> Option<&[u8]> {
        let (start, length) = ((at >> 32) as usize, at as u32 as usize);
        self.words.get(start..start.checked_add(length)?)
    }
}

fn bit(slot: u8) -> u64 {
    1_u64.checked_shl(slot.into()).unwrap_or(0)
}

/// A number of up to eight bytes.
fn word(bytes: &[u8], offset: u64, length: u64) -> Option<u64> {
    let start = usize::try_from(offset).ok()?;
    let part = bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)?;
    let mut whole = [0; 8];
    // Both kernels' architectures have the low bytes first.
    whole.get_mut(..part.len())?.copy_from_slice(part);
    Some(u64::from_le_bytes(whole))
}

/// A number as its type says.
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

/// A `char` of C is a byte of text; those of Rust, and `char16_t` and `char32_t`, are numbers of Unicode.
fn character(number: u64, bytes: u64) -> Vec<u8> {
    let wide = u32::try_from(number).ok().and_then(char::from_u32);
    match wide.filter(|_| bytes > 1) {
        Some(char) => char.to_string().into_bytes(),
        None => vec![number as u8],
    }
}

/// With the sign of its highest bit.
fn extended(number: u64, bytes: u64) -> i64 {
    let shift = 64 - 8 * bytes.clamp(1, 8);
    (number << shift) as i64 >> shift
}

/// A structure, as far as its bytes are there.
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
        // Its bytes are elsewhere.
        TypeKind::Text { pointer_at, .. } => word(bytes, *pointer_at, 8).map_or(NOT_READ, Datum::Hex),
        _ => word(bytes, 0, ty.bytes.min(8)).map_or(NOT_READ, |number| scalar(number, ty)),
    }
}

const NOT_READ: Datum = Datum::Unknown("not read");

#[cfg(test)]
mod tests {
    use super::super::code::Shown;
    use super::*;
    use crate::find::debug::types::StructMember;

    fn ty(bytes: u64, kind: TypeKind) -> ValueType {
        ValueType {
            name: "t".into(),
            bytes,
            kind,
        }
    }

    fn read(fetched: Fetched, words: &[u8], faulted: u64, cut: u64) -> Values {
        let plan = Plan {
            shown: vec![Shown {
                name: "x".into(),
                fetched,
            }],
            ..Plan::default()
        };
        let mut values = Values::default();
        let record = Record {
            words,
            faulted,
            cut,
            comm: b"bash",
            no_result: false,
        };
        values.read(&plan, &record);
        values
    }

    fn one(fetched: Fetched, words: &[u8]) -> Datum {
        read(fetched, words, 0, 0).args.remove(0).1
    }

    #[test]
    fn numbers_are_shown_as_their_types_say() {
        let int = |bytes, signed| ty(bytes, TypeKind::Int { signed });
        let character = |bytes: &[u8]| Datum::Text {
            bytes: bytes.to_vec(),
            cut: false,
        };
        let names = TypeKind::Enum {
            signed: true,
            values: Rc::new([(-1, "NONE".into())]),
        };
        for (number, ty, expected) in [
            (u64::MAX, int(8, true), Datum::I64(-1)),
            (0xffff_ffff, int(4, true), Datum::I64(-1)),
            (u64::MAX, int(8, false), Datum::U64(u64::MAX)),
            (1, ty(1, TypeKind::Bool), Datum::Bool(true)),
            (2, ty(1, TypeKind::Bool), Datum::U64(2)),
            (0xdf, ty(1, TypeKind::Char), character(b"\xdf")),
            (0xdf, ty(4, TypeKind::Char), character("ß".as_bytes())),
            (0x2603, ty(2, TypeKind::Char), character("☃".as_bytes())),
            (0xffff_ffff, ty(4, names.clone()), Datum::Name("NONE".into())),
            (7, ty(4, names), Datum::I64(7)),
            (0, ty(8, TypeKind::Pointer(None)), Datum::Nothing),
            (16, ty(8, TypeKind::Pointer(None)), Datum::Hex(16)),
            (1.5_f64.to_bits(), ty(8, TypeKind::Float), Datum::F64(1.5)),
            (1.5_f32.to_bits().into(), ty(4, TypeKind::Float), Datum::F64(1.5)),
        ] {
            assert_eq!(
                one(Fetched::Number(0, ty.clone()), &number.to_le_bytes()),
                expected,
                "{ty:?}"
            );
        }
    }

    #[test]
    fn text_is_found_cut_or_faulted() {
        let words = [&(16_u64 << 32 | 3).to_le_bytes()[..], &[0; 8], b"abcdefgh"].concat();
        let text = |cut| Datum::Text {
            bytes: b"abc".to_vec(),
            cut,
        };
        assert_eq!(one(Fetched::Text(0), &words), text(false));
        let cut = read(Fetched::Text(0), &words, 0, 1);
        assert_eq!(
            (&cut.args[0].1, cut.cut.len(), cut.faults.len()),
            (&text(true), 1, 0)
        );
        let faulted = read(Fetched::Text(0), &words, 1, 0);
        assert_eq!(
            (&faulted.args[0].1, faulted.cut.len(), faulted.faults.len()),
            (&Datum::Fault, 0, 1)
        );
        assert_eq!(one(Fetched::Text(0), &u64::MAX.to_le_bytes()), Datum::Nothing);
        // Records that are too short, or lead elsewhere.
        for words in [&b""[..], &words[..12], &(u64::MAX - 1).to_le_bytes()] {
            assert_eq!(one(Fetched::Text(0), words), Datum::Fault);
        }
        assert_eq!(one(Fetched::Text(255), &words), Datum::Fault);
    }

    #[test]
    fn structures_have_their_members() {
        let int = ty(4, TypeKind::Int { signed: true });
        let member = |name: &str, offset, ty: &ValueType| StructMember {
            name: name.into(),
            offset,
            ty: ty.clone(),
        };
        let inner = ty(4, TypeKind::Struct(Rc::new([member("b", 0, &int)])));
        let outer = ty(
            64,
            TypeKind::Struct(Rc::new([
                member("a", 0, &int),
                member("in", 4, &inner),
                member("far", 60, &int),
            ])),
        );
        let bytes = [&1_u32.to_le_bytes()[..], &2_u32.to_le_bytes()].concat();
        let expected = Datum::Fields(vec![
            ("a".into(), Datum::I64(1)),
            ("in".into(), Datum::Fields(vec![("b".into(), Datum::I64(2))])),
            ("far".into(), NOT_READ),
        ]);
        assert_eq!(one(Fetched::Slots(0, 1, outer.clone()), &bytes), expected);
        let words = [&(8_u64 << 32 | 8).to_le_bytes()[..], &bytes].concat();
        assert_eq!(one(Fetched::Bytes(0, outer), &words), expected);
    }
}
