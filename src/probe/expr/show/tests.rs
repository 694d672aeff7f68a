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

fn read(fetched: FetchedValue, words: &[u8], faulted: u64, cut: u64) -> CallValues {
    let plan = FunctionPlan {
        shown: vec![ShownValue {
            name: "x".into(),
            fetched,
        }],
        ..FunctionPlan::default()
    };
    let mut values = CallValues::default();
    let record = CallRecord {
        words,
        faulted,
        truncated: cut,
        comm: b"bash",
        no_result: false,
    };
    values.read(&plan, &record);
    values
}

fn one(fetched: FetchedValue, words: &[u8]) -> Datum {
    read(fetched, words, 0, 0).args.remove(0).1
}

#[test]
fn numbers_are_decoded_by_type() {
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
            one(FetchedValue::Number(0, ty.clone()), &number.to_le_bytes()),
            expected,
            "{ty:?}"
        );
    }
}

#[test]
fn text_is_whole_truncated_or_a_fault() {
    let words = [&(16_u64 << 32 | 3).to_le_bytes()[..], &[0; 8], b"abcdefgh"].concat();
    let text = |cut| Datum::Text {
        bytes: b"abc".to_vec(),
        cut,
    };
    assert_eq!(one(FetchedValue::Text(0), &words), text(false));
    let cut = read(FetchedValue::Text(0), &words, 0, 1);
    assert_eq!(
        (&cut.args[0].1, cut.truncated.len(), cut.faults.len()),
        (&text(true), 1, 0)
    );
    let faulted = read(FetchedValue::Text(0), &words, 1, 0);
    assert_eq!(
        (&faulted.args[0].1, faulted.truncated.len(), faulted.faults.len()),
        (&Datum::Fault, 0, 1)
    );
    assert_eq!(
        one(FetchedValue::Text(0), &u64::MAX.to_le_bytes()),
        Datum::Nothing
    );
    // Records that are too short, or refer to bytes out of bounds.
    for words in [&b""[..], &words[..12], &(u64::MAX - 1).to_le_bytes()] {
        assert_eq!(one(FetchedValue::Text(0), words), Datum::Fault);
    }
    assert_eq!(one(FetchedValue::Text(255), &words), Datum::Fault);
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
        ("a".into(), Datum::I64(1)),
        ("in".into(), Datum::Fields(vec![("b".into(), Datum::I64(2))])),
        ("far".into(), NOT_READ),
    ]);
    assert_eq!(one(FetchedValue::Slots(0, 1, outer.clone()), &bytes), expected);
    let words = [&(8_u64 << 32 | 8).to_le_bytes()[..], &bytes].concat();
    assert_eq!(one(FetchedValue::Bytes(0, outer), &words), expected);
}
