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
        (0xdf, ty(1, TypeKind::Char), Datum::Byte(0xdf)),
        (0xdf, ty(4, TypeKind::Char), Datum::Char('ß')),
        (0x2603, ty(2, TypeKind::Char), Datum::Char('☃')),
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
    assert_shown(FetchedValue::Slots(0, 1, outer.clone()), &bytes, &expected);
    let words = [&(8_u64 << 32 | 8).to_le_bytes()[..], &bytes].concat();
    assert_shown(FetchedValue::Bytes(0, outer), &words, &expected);
}
