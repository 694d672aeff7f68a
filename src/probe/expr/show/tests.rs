// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
use super::super::code::ShownValue;
use super::*;
use crate::find::debug::types::StructMember;

fn ty(bytes: u64, kind: TypeKind) -> ValueType {
    ValueType {
        name: "t".into(),
        bytes,
        kind,
    }
}

/// A plan that shows one value, named `x`.
fn plan(fetched: FetchedValue) -> FunctionPlan {
    FunctionPlan {
        shown: vec![ShownValue {
            name: "x".into(),
            fetched,
        }],
        ..FunctionPlan::default()
    }
}

fn record(words: &[u8], faulted: u64, truncated: u64) -> CallRecord<'_> {
    CallRecord {
        words,
        faulted,
        truncated,
        comm: b"bash",
        no_result: false,
    }
}

fn assert_shown(fetched: FetchedValue, words: &[u8], expected: &Datum<'_>) {
    let plan = plan(fetched);
    let shown = CallValues::default().read(&plan, &record(words, 0, 0));
    assert_eq!(shown.args, [("x", expected.clone())], "{plan:?}");
}

#[test]
fn numbers_are_decoded_by_type() {
    let int = |bytes, signed| ty(bytes, TypeKind::Int { signed });
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
        (0xdf, ty(1, TypeKind::Char { signed: true }), Datum::Byte(0xdf)),
        (0xdf, ty(4, TypeKind::Char { signed: true }), Datum::Char('ß')),
        (0x2603, ty(2, TypeKind::Char { signed: true }), Datum::Char('☃')),
        (0xffff_ffff, ty(4, names.clone()), Datum::Name("NONE")),
        (7, ty(4, names), Datum::I64(7)),
        (0, ty(8, TypeKind::Pointer(None)), Datum::NullPointer),
        (16, ty(8, TypeKind::Pointer(None)), Datum::Hex(16)),
        (1.5_f64.to_bits(), ty(8, TypeKind::Float), Datum::F64(1.5)),
        (1.5_f32.to_bits().into(), ty(4, TypeKind::Float), Datum::F64(1.5)),
    ] {
        assert_shown(FetchedValue::Number(0, ty), &number.to_le_bytes(), &expected);
    }
}

#[test]
fn arrays_are_lists_or_text() {
    let array = |of: ValueType, count| {
        let bytes = of.bytes.saturating_mul(count);
        ty(
            bytes,
            TypeKind::Array {
                of: Rc::new(of),
                count,
            },
        )
    };
    let short = ty(2, TypeKind::Int { signed: true });
    let char = ty(1, TypeKind::Char { signed: true });
    let list = |numbers: &[i64]| Datum::List(numbers.iter().map(|&number| Datum::I64(number)).collect());
    let text = |bytes, truncated| Datum::Text { bytes, truncated };
    let words = [1_u16, 0xffff, 3, 4].map(u16::to_le_bytes).concat();
    let slots = |ty| FetchedValue::Slots(0, 1, ty, Vec::new());
    assert_shown(slots(array(short.clone(), 3)), &words, &list(&[1, -1, 3]));
    let pairs = array(array(short.clone(), 2), 2);
    assert_shown(
        slots(pairs),
        &words,
        &Datum::List(vec![list(&[1, -1]), list(&[3, 4])]),
    );
    assert_shown(slots(array(short.clone(), 0)), &words, &list(&[]));
    let mut cut = vec![Datum::I64(1), Datum::I64(-1), Datum::I64(3), Datum::I64(4)];
    cut.push(Datum::Unknown("more"));
    assert_shown(slots(array(short, u64::MAX)), &words, &Datum::List(cut));
    for (bytes, count, expected) in [
        (b"abc\0efgh", 8, text(b"abc", false)),
        (b"abcdefgh", 8, text(b"abcdefgh", false)),
        (b"abcdefgh", 3, text(b"abc", false)),
        (b"abcdefgh", 9, text(b"abcdefgh", true)),
        (b"abcdefgh", u64::MAX, text(b"abcdefgh", true)),
        (b"abcdefgh", 0, NOT_READ),
    ] {
        let of = Rc::new(char.clone());
        assert_shown(slots(ty(8, TypeKind::Array { of, count })), bytes, &expected);
    }
}

/// The lower half alone would be another number.
#[test]
fn numbers_of_more_than_eight_bytes_are_not_shown() {
    let wide = [ty(16, TypeKind::Int { signed: false }), ty(16, TypeKind::Float)];
    for of in wide {
        let members = [StructMember {
            name: "m".into(),
            offset: 0,
            ty: of,
            bits: None,
        }];
        let of = ty(16, TypeKind::Struct(members.into()));
        let expected = Datum::Fields(vec![("m", Datum::Unknown("more than 8 bytes"))]);
        assert_shown(FetchedValue::Slots(0, 2, of, Vec::new()), &[1; 16], &expected);
    }
}

/// Go's empty string has no address.
#[test]
fn empty_text_of_a_type_is_not_null() {
    let null = u64::MAX.to_le_bytes();
    assert_shown(FetchedValue::Text(0), &null, &Datum::NullPointer);
    let empty = Datum::Text {
        bytes: &[],
        truncated: false,
    };
    assert_shown(FetchedValue::TypedText(0), &null, &empty);
    let string = TypeKind::Text {
        pointer_at: 0,
        length_at: 8,
    };
    let member = |name: &str, offset| StructMember {
        name: name.into(),
        offset,
        ty: ty(16, string.clone()),
        bits: None,
    };
    let pair = ty(32, TypeKind::Struct(Rc::new([member("a", 0), member("b", 16)])));
    let words = [&[0; 32][..], &null, &(48_u64 << 32 | 2).to_le_bytes(), b"xy"].concat();
    let text = |bytes| Datum::Text {
        bytes,
        truncated: false,
    };
    let expected = Datum::Fields(vec![("a", text(b"")), ("b", text(b"xy"))]);
    let fetched = FetchedValue::Slots(0, 4, pair, vec![(0, 4), (16, 5)]);
    assert_shown(fetched, &words, &expected);
}

#[test]
fn text_is_whole_truncated_or_a_fault() {
    let words = [&(16_u64 << 32 | 3).to_le_bytes()[..], &[0; 8], b"abcdefgh"].concat();
    let text = |truncated| Datum::Text {
        bytes: b"abc",
        truncated,
    };
    let plan = plan(FetchedValue::Text(0));
    let mut values = CallValues::default();
    for (faulted, truncated, expected, names) in [
        (0, 0, text(false), (0, 0)),
        (0, 1, text(true), (0, 1)),
        (1, 0, Datum::Fault, (1, 0)),
    ] {
        let shown = values.read(&plan, &record(&words, faulted, truncated));
        assert_eq!(shown.args, [("x", expected)]);
        assert_eq!((values.faults.len(), values.truncated.len()), names);
        values.reuse(shown);
    }
    assert_shown(
        FetchedValue::Text(0),
        &u64::MAX.to_le_bytes(),
        &Datum::NullPointer,
    );
    // Records that are too short, or refer to bytes out of bounds.
    for words in [&b""[..], &words[..12], &(u64::MAX - 1).to_le_bytes()] {
        assert_shown(FetchedValue::Text(0), words, &Datum::Fault);
    }
    assert_shown(FetchedValue::Text(255), &words, &Datum::Fault);
}

#[test]
fn memory_of_arguments_is_reused() {
    let plan = plan(FetchedValue::Comm);
    let mut values = CallValues::default();
    let first = values.read(&plan, &record(b"", 0, 0));
    let memory = first.args.as_ptr();
    values.reuse(first);
    let second = values.read(&plan, &record(b"", 0, 0));
    assert_eq!(second.args.as_ptr(), memory);
}

#[test]
fn structures_are_decoded_by_member() {
    let int = ty(4, TypeKind::Int { signed: true });
    let member = |name: &str, offset, ty: &ValueType| StructMember {
        name: name.into(),
        offset,
        ty: ty.clone(),
        bits: None,
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
        ("a", Datum::I64(1)),
        ("in", Datum::Fields(vec![("b", Datum::I64(2))])),
        ("far", NOT_READ),
    ]);
    assert_shown(
        FetchedValue::Slots(0, 1, outer.clone(), Vec::new()),
        &bytes,
        &expected,
    );
    let words = [&(8_u64 << 32 | 8).to_le_bytes()[..], &bytes].concat();
    assert_shown(FetchedValue::Bytes(0, outer, Vec::new()), &words, &expected);
}
