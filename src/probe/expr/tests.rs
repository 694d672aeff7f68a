// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Operations mean what the text says: an interpreter in Rust runs them here. The end-to-end tests show that
//! the kernel's interpreter agrees.

mod interpreter;

use std::rc::Rc;

use super::code::{FetchedValue, FunctionPlan, PlanError, PlanRequest};
use super::ir::TextLiteral;
use super::op::{MOST_OPS, OpCode};
use super::parse::{parse, parse_list};
use super::*;
use crate::find::debug::types::{
    FunctionParameter, FunctionResult, FunctionSignature, LocationPiece, StructMember, TypeKind,
    ValueLocation, ValueType,
};
use crate::find::usdt::operands::UsdtIndex;
use crate::find::usdt::{NumberKind, UsdtArgument, UsdtOperand, UsdtProbe};
use interpreter::{Call, Interpreter, Outcome};

const UNKNOWN: NameScope = NameScope {
    function: "f",
    signature: None,
    probe: None,
    is_go: false,
};

fn plan_for(scope: NameScope<'_>, text: &str) -> Result<(FunctionPlan, Vec<TextLiteral>), ExprError> {
    let condition = parse(text)?;
    let mut literals = Vec::new();
    let request = PlanRequest {
        condition: Some(&condition),
        args: Some(&[]),
        returns: condition.needs_return(),
        result: false,
    };
    match FunctionPlan::new(scope, &request, &mut literals) {
        Ok(plan) => Ok((plan, literals)),
        Err(PlanError::Condition(error)) => Err(error),
        Err(PlanError::Args(error)) => panic!("no --args: {error:?}"),
    }
}

fn decide_in(scope: NameScope<'_>, text: &str, call: &Call) -> Outcome {
    let (plan, literals) = plan_for(scope, text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
    let mut slots = vec![None; plan.slots.into()];
    match Interpreter::new(call, &literals, false, &mut slots).run(&plan.entry) {
        Outcome::Yes => Interpreter::new(call, &literals, true, &mut slots).run(&plan.at_return),
        other => other,
    }
}

fn decide(text: &str, call: &Call) -> Outcome {
    decide_in(UNKNOWN, text, call)
}

#[track_caller]
fn assert_all(outcome: Outcome, call: &Call, texts: &[&str]) {
    for text in texts {
        assert_eq!(decide(text, call), outcome, "{text}");
    }
}

#[test]
fn units_scale_numbers_and_precedence_is_that_of_c() {
    let call = Call {
        comm: "python3",
        ..Call::with(&[1 << 20, 7])
    };
    assert_all(
        Outcome::Yes,
        &call,
        &[
            "arg0 == 1M",
            "arg0 == 1024K && arg1 < 8",
            "arg0 >= 0x100000",
            "arg1 + 2 * 3 == 13",
            "(arg1 + 2) * 3 == 27",
            "arg1 - 2 - 1 == 4",
            "arg1 << 2 == 28",
            "arg1 & 3 | 8",
            "arg1 ^ 1 ^ 2",
            "arg1 / 2 == 3 && arg1 % 4 == 3",
            "~arg1 == 0xfffffffffffffff8",
            "-arg1 + 7 == 0",
            "arg1 == '\\x07'",
            "5us == 5000 && 10ms == 10000us && 1s == 1000ms",
            "arg1 == 1 || arg1 == 7",
            "true || arg1 / 0",
            "!(arg1 == 1) && !!arg1",
            "pid == 4099",
            "comm == \"python3\" && comm ^= \"pyth\" && comm != \"python\" && \"python3\" == comm",
            "comm ^= \"\"",
        ],
    );
    assert_all(
        Outcome::No,
        &call,
        &[
            "arg0 > 1M",
            "arg1 == 1 || arg1 == 8",
            "comm == \"python\"",
            "comm ^= \"ython\"",
            "comm == \"\"",
            "arg0 == 1M && !arg1",
            "false",
        ],
    );
}

#[test]
fn values_are_unsigned_unless_typed_or_cast() {
    let call = Call::with(&[u64::MAX, 0xffff_fffe]);
    assert_all(
        Outcome::Yes,
        &call,
        &[
            "arg0 > 0",
            "arg0 == -1",
            "arg0 > -2 && arg0 < -0 + 1",
            "(i32)arg1 == -2",
            "(i32)arg1 < 0",
            "(u8)arg1 == 254",
            "(i64)arg0 >> 60 == -1",
            "arg0 >> 60 == 15",
            "(i64)arg0 / 2 == 0 && arg0 / 2 > 1M",
        ],
    );
    assert_all(Outcome::No, &call, &["(i64)arg0 > 0", "arg1 == -2"]);
}

#[test]
fn logical_operators_short_circuit() {
    let call = Call::with(&[0, 0x1000]).memory(0x1000, &[5, 0, 0, 0]);
    assert_all(
        Outcome::No,
        &call,
        &["arg0 != 0 && *(u32*)arg0 == 5", "(arg0 != 0 && *(u32*)arg0) | 0"],
    );
    assert_all(
        Outcome::Yes,
        &call,
        &[
            "arg0 == 0 || *(u32*)arg0 == 5",
            "*(u32*)arg1 == 5",
            "*((u8*)arg1 + 1) == 0",
        ],
    );
    assert_all(
        Outcome::Fault,
        &call,
        &[
            "*(u32*)arg0 == 5",
            "*(u64*)arg1 == 5",
            "arg1 / arg0 == 1",
            "str(arg0) == \"\"",
            "!*(u8*)arg0",
        ],
    );
}

#[test]
fn text_in_memory_is_compared() {
    let call = Call::with(&[0x1000, 0x2000, 4])
        .memory(0x1000, b"/tmp/x\0")
        .memory(0x2000, b"GET /");
    assert_all(
        Outcome::Yes,
        &call,
        &[
            "str(arg0) == \"/tmp/x\"",
            "str(arg0) ^= \"/tmp/\"",
            "str(arg0) != \"/tmp\"",
            "buf(arg1, 4) == \"GET \"",
            "buf(arg1, arg2) ^= \"GE\"",
            "buf(arg1, 3) != \"GET \"",
            "buf(arg1, 0) == \"\"",
        ],
    );
    assert_all(
        Outcome::No,
        &call,
        &[
            "str(arg0) == \"/tmp\"",
            "str(arg0) ^= \"tmp\"",
            "buf(arg1, 2) ^= \"GET\"",
        ],
    );
}

#[test]
fn text_literals_of_all_lengths_are_compared_to_their_end() {
    for length in [0, 1, 7, 8, 125, 126, 127] {
        let literal = "q".repeat(length);
        for more in 0..3 {
            let text = format!("{literal}{}\0", "q".repeat(more));
            let call = Call::with(&[0x1000]).memory(0x1000, text.as_bytes());
            let expected = if more == 0 { Outcome::Yes } else { Outcome::No };
            let equal = format!("str(arg0) == \"{literal}\"");
            assert_eq!(decide(&equal, &call), expected, "{length} + {more}");
            let different = format!("!(str(arg0) != \"{literal}\")");
            assert_eq!(decide(&different, &call), expected, "{length} + {more}");
            assert_eq!(
                decide(&format!("str(arg0) ^= \"{literal}\""), &call),
                Outcome::Yes
            );
        }
    }
}

#[test]
fn comparisons_that_do_not_depend_on_the_value_are_errors() {
    let of = |bytes, signed| FunctionSignature {
        params: vec![FunctionParameter {
            name: Some("a".into()),
            ty: ty("number", bytes, TypeKind::Int { signed }),
            location: ValueLocation::Pieces(vec![LocationPiece::Argument(0)]),
        }],
        ..FunctionSignature::default()
    };
    let check = |bytes, signed, text: &str, expected: &[&str]| {
        let signature = of(bytes, signed);
        let scope = NameScope {
            signature: Some(&signature),
            ..UNKNOWN
        };
        match plan_for(scope, text) {
            Ok(_) => assert!(expected.is_empty(), "{bytes} {signed} {text}"),
            Err(error) => {
                let all = format!("{} {}", error.message, error.hint.unwrap_or_default());
                assert!(!expected.is_empty(), "{bytes} {signed} {text}: {all}");
                assert!(expected.iter().all(|part| all.contains(part)), "{text}: {all}");
            }
        }
    };
    check(4, false, "a == -1", &["never true", "unsigned", "(i32)"]);
    check(4, false, "-1 == a", &["never true", "unsigned", "(i32)"]);
    check(4, false, "a != -1", &["always true", "(i32)"]);
    check(4, false, "a > -1", &["always true", "(i32)"]);
    check(4, false, "-1 < a", &["always true", "(i32)"]);
    check(4, false, "a <= 0xffffffff", &["always true", "32 bits"]);
    check(2, false, "a == 65536", &["never true", "16 bits"]);
    check(1, true, "a == 200", &["never true", "signed", "(u8)"]);
    check(4, true, "a == 0xffffffff", &["never true", "signed", "(u32)"]);
    check(4, true, "a > 4G", &["never true"]);
    check(8, false, "a >= 0", &["always true", "unsigned"]);
    for text in ["a == 0", "a == 1 && a != 255", "a > 0 && a < 255", "a == 0xff"] {
        check(1, false, text, &[]);
    }
    for text in [
        "a == -1",
        "a > -1",
        "a < 0",
        "a >= -128 || a == 127",
        "(u32)a == 0xffffffff",
    ] {
        check(4, true, text, &[]);
    }
    for text in ["a == -1", "a != -1", "a > -2", "a == 0xffffffffffffffff"] {
        check(8, false, text, &[]);
        check(8, true, text, &[]);
    }
    check(4, false, "(i32)a == -1", &[]);
}

#[test]
fn arguments_past_the_registers_are_read_from_the_stack() {
    let call = Call {
        stack: (100..150).collect(),
        ..Call::default()
    };
    let (first, skipped) = if cfg!(target_arch = "x86_64") {
        (6, 1)
    } else {
        (8, 0)
    };
    assert_eq!(
        decide(&format!("arg{first} == {}", 100 + skipped), &call),
        Outcome::Yes
    );
    assert_eq!(
        decide(&format!("arg31 == {}", 131 - first + skipped), &call),
        Outcome::Yes
    );
    let error = plan_for(UNKNOWN, "arg32").expect_err("too far");
    assert!(
        error.hint.is_some_and(|hint| hint.contains("arg31")),
        "{}",
        error.message
    );
}

#[test]
fn conditions_are_split_between_entry_and_return() {
    let call = Call {
        result: 0,
        lat_ns: 10_000_001,
        ..Call::with(&[0, 9])
    };
    assert_all(
        Outcome::Yes,
        &call,
        &[
            "lat > 10ms",
            "retval == 0 && arg1 == 9",
            "arg1 > retval",
            "arg1 == 9 && lat >= 10ms || retval",
            "retval + arg1 * 2 == 18",
        ],
    );
    assert_all(
        Outcome::No,
        &call,
        // Unreadable memory is not a fault if the left side decides.
        &[
            "retval != 0 && *(u8*)arg0 == 1",
            "retval != 0 && retval < *(u8*)arg0",
            "lat > 1s",
        ],
    );
    assert_all(
        Outcome::Fault,
        &call,
        &["retval == 0 && *(u8*)arg0 == 1", "retval < *(u8*)arg0"],
    );
    let (plan, _) = plan_for(UNKNOWN, "retval == 0 && arg0 > 1M").expect("a plan");
    assert_eq!(decide("retval == 0 && arg0 > 1M", &call), Outcome::No);
    assert!(
        plan.entry.iter().any(|op| op.code == OpCode::Test),
        "the entry can tell already"
    );
    let request = PlanRequest {
        condition: Some(&parse("retval").expect("an expression")),
        ..PlanRequest::default()
    };
    assert!(
        FunctionPlan::new(UNKNOWN, &request, &mut Vec::new()).is_err(),
        "nothing waits for it"
    );
}

fn ty(name: &str, bytes: u64, kind: TypeKind) -> ValueType {
    ValueType {
        name: name.into(),
        bytes,
        kind,
    }
}

/// Parameters in argument registers, in order.
fn with_parameters<'n>(types: impl IntoIterator<Item = (&'n str, ValueType)>) -> FunctionSignature {
    let params = (0..).zip(types).map(|(number, (name, ty))| FunctionParameter {
        name: Some(name.into()),
        ty,
        location: ValueLocation::Pieces(vec![LocationPiece::Argument(number)]),
    });
    FunctionSignature {
        params: params.collect(),
        ..FunctionSignature::default()
    }
}

fn signature() -> FunctionSignature {
    let int = ty("int", 4, TypeKind::Int { signed: true });
    let member = |name: &str, offset, ty: &ValueType| StructMember {
        name: name.into(),
        offset,
        ty: ty.clone(),
        bits: None,
    };
    let request = ty(
        "request",
        16,
        TypeKind::Struct(Rc::new([
            member("fd", 0, &int),
            member("len", 4, &int),
            member("next", 8, &ty("void*", 8, TypeKind::Pointer(None))),
        ])),
    );
    let mode = TypeKind::Enum {
        signed: false,
        values: Rc::new([(1, "READ".into()), (2, "WRITE".into())]),
    };
    let string = TypeKind::Text {
        pointer_at: 0,
        length_at: 8,
    };
    let param = |name: &str, ty: ValueType, place| FunctionParameter {
        name: Some(name.into()),
        ty,
        location: place,
    };
    let at = |number| ValueLocation::Pieces(vec![LocationPiece::Argument(number)]);
    FunctionSignature {
        params: vec![
            param("fd", int.clone(), at(0)),
            param(
                "req",
                ty("request*", 8, TypeKind::Pointer(Some(Rc::new(request.clone())))),
                at(1),
            ),
            param("mode", ty("mode", 4, mode), at(2)),
            param("path", ty("const char*", 8, TypeKind::CString), at(3)),
            param(
                "both",
                request,
                ValueLocation::Pieces(vec![LocationPiece::Argument(4), LocationPiece::Argument(5)]),
            ),
            param(
                "name",
                ty("std::string", 32, string),
                ValueLocation::Indirect(LocationPiece::Argument(1)),
            ),
            param(
                "ratio",
                ty("double", 8, TypeKind::Float),
                ValueLocation::Unavailable("in a floating-point register"),
            ),
        ],
        returns: Some(FunctionResult {
            ty: int,
            location: ValueLocation::Pieces(vec![LocationPiece::Register(0)]),
        }),
        variadic: false,
    }
}

#[test]
fn parameters_and_members_are_found_by_name() {
    let signature = signature();
    let scope = NameScope {
        function: "serve",
        signature: Some(&signature),
        probe: None,
        is_go: false,
    };
    let request = [
        &3_u32.to_le_bytes()[..],
        &(-7_i32).to_le_bytes(),
        &0x3000_u64.to_le_bytes(),
    ]
    .concat();
    let call = Call {
        result: 0xffff_ffff,
        ..Call::with(&[
            0xdead_beef_ffff_ffff,
            0x2000,
            0x5555_0000_0002,
            0x1000,
            5 << 32 | 4,
            6,
        ])
    }
    .memory(0x1000, b"/etc/passwd\0")
    .memory(0x2000, &request);
    for text in [
        "fd < 0 && fd == -1",
        "arg0 == -1",
        "(u64)arg0 > 1M",
        "req->fd == 3 && req->len == -7 && (*req).len < 0",
        "mode == WRITE && READ != mode",
        "path ^= \"/etc/\" && *path == '/' && *(path + 1) == 'e'",
        "both.fd == 4 && both.len == 5 && both.next == 6",
        "retval == -1 && retval < 0",
        "req + 1 == 0x2001 && req + 4 - 4 == req && *(i32*)(req + 4) == -7",
        "arg1 + 8 == 0x2008 && *(u64*)(arg1 + 8) == 0x3000 && 8 + arg1 == 0x2008",
        "(u64*)arg1 + 1 == 0x2008 && (u64*)req - 1 == 0x1ff8 && *((u32*)arg1 + 1 + 1) == 0x3000",
        "retval < req->fd",
    ] {
        assert_eq!(decide_in(scope, text, &call), Outcome::Yes, "{text}");
    }
    // A std::string whose bytes are 3 at 0x3000.
    let text = [0x3000_u64.to_le_bytes(), 3_u64.to_le_bytes()].concat();
    let call = call.memory(0x2000, &text).memory(0x3000, b"abcd");
    assert_eq!(
        decide_in(scope, "name == \"abc\" && name ^= \"ab\"", &call),
        Outcome::Yes
    );
    assert_eq!(decide_in(scope, "name == \"abcd\"", &call), Outcome::No);
    for (text, part) in [
        ("size > 1", "fd req mode path"),
        ("req->size > 1", "its members are fd len next"),
        ("req.len > 1", "use ->len"),
        ("both > 1", "its members are fd len next"),
        ("ratio > 1", "floating-point register"),
        ("fd->len > 1", "not known to point"),
        ("mode == EXECUTE", "no `EXECUTE`"),
        ("*fd == 1", "point to anything"),
        ("*(req + 8) == 1", "point to anything"),
        ("path > 1 && path", ""),
    ] {
        match plan_for(scope, text) {
            Ok(_) => assert!(part.is_empty(), "{text}"),
            Err(error) => {
                let text_of_error = format!("{} {}", error.message, error.hint.unwrap_or_default());
                assert!(text_of_error.contains(part), "{text}: {text_of_error}");
            }
        }
    }
}

#[test]
fn elements_of_arrays_and_pointers_are_indexed() {
    let known = signature();
    let int = &known.params[0].ty;
    let TypeKind::Pointer(Some(request)) = &known.params[1].ty.kind else {
        panic!("{:?}", known.params[1]);
    };
    let pointer = |to: &ValueType| ty("pointer", 8, TypeKind::Pointer(Some(Rc::new(to.clone()))));
    let array = |of: &ValueType, count: u64| {
        let of = Rc::new(of.clone());
        ty("int [4]", of.bytes * count, TypeKind::Array { of, count })
    };
    let member = |name: &str, offset, ty| StructMember {
        name: name.into(),
        offset,
        ty,
        bits: None,
    };
    let table = TypeKind::Struct(Rc::new([
        member("numbers", 0, array(int, 4)),
        member("requests", 16, array(request, 2)),
    ]));
    let at = |number| ValueLocation::Pieces(vec![LocationPiece::Argument(number)]);
    let param = |name: &str, ty: ValueType, location| FunctionParameter {
        name: Some(name.into()),
        ty,
        location,
    };
    let both = ValueLocation::Pieces(vec![LocationPiece::Argument(4), LocationPiece::Argument(5)]);
    let signature = FunctionSignature {
        params: vec![
            param("n", int.clone(), at(0)),
            param("p", pointer(int), at(1)),
            param("s", pointer(&ty("table", 48, table)), at(2)),
            param("path", ty("const char*", 8, TypeKind::CString), at(3)),
            param("both", array(int, 4), both),
        ],
        ..FunctionSignature::default()
    };
    let scope = NameScope {
        signature: Some(&signature),
        ..UNKNOWN
    };
    let numbers: Vec<u8> = (-1..11_i32).flat_map(i32::to_le_bytes).collect();
    let call = Call::with(&[2, 0x1004, 0x1004, 0x2000, 3 << 32 | 2, 5 << 32 | 4])
        .memory(0x1000, &numbers)
        .memory(0x2000, b"/tmp\0");
    for text in [
        "p[0] == 0 && p[2] == 2 && p[-1] == -1 && p[n] == 2 && p[p[n] + 1] == 3",
        "s->numbers[3] == 3 && s->numbers[n] == 2 && (*s).numbers[n - 1] == 1",
        "s->requests[1].len == 9 && s->requests[n - 1].fd == 8 && s[0].numbers[1] == 1",
        "path[0] == '/' && path[n] == 'm'",
        "both[0] == 2 && both[3] == 5",
        "((u32*)arg1)[1] == 1 && ((u64*)arg1)[0] == 4G",
    ] {
        assert_eq!(decide_in(scope, text, &call), Outcome::Yes, "{text}");
    }
    assert_eq!(decide_in(scope, "p[100] == 0", &call), Outcome::Fault);
    for (text, part) in [
        ("s->numbers[4] == 0", "the last element of int [4] is [3]"),
        ("both[n] == 0", "in registers"),
        ("arg0[1] == 0", "((u32*)arg0)[2]"),
        ("(u32*)arg0[1] == 0", "((u32*)arg0)[2]"),
        ("(*s)[1] == 0", "table has no elements"),
        ("comm[1] == 'a'", "this is text"),
        ("p[1 == 0", "expected `]`"),
        ("p[] == 0", "expected a value"),
    ] {
        let error = plan_for(scope, text).expect_err(text);
        let all = format!("{} {}", error.message, error.hint.unwrap_or_default());
        assert!(all.contains(part), "{text}: {all}");
    }
}

#[test]
fn text_that_fills_its_array_is_compared_to_the_end_of_the_array() {
    let char = ty("char", 1, TypeKind::Char { signed: true });
    let array = TypeKind::Array {
        of: Rc::new(char.clone()),
        count: 4,
    };
    let tag = StructMember {
        name: "tag".into(),
        offset: 0,
        ty: ty("char [4]", 4, array.clone()),
        bits: None,
    };
    let node = ty("node", 8, TypeKind::Struct(Rc::new([tag])));
    let pointer = |name: &str, to: ValueType| ty(name, 8, TypeKind::Pointer(Some(Rc::new(to))));
    let signature = with_parameters([
        ("n", pointer("node*", node)),
        ("c", char),
        ("r", pointer("&[u8; 4]", ty("[u8; 4]", 4, array))),
    ]);
    let scope = NameScope {
        signature: Some(&signature),
        ..UNKNOWN
    };
    let call = Call::with(&[0x1000, 0xfe, 0x1000]).memory(0x1000, b"tagXmore\0");
    for (text, outcome) in [
        ("n->tag == \"tagX\" && n->tag != \"tagY\"", Outcome::Yes),
        ("n->tag ^= \"tag\" && n->tag ^= \"tagX\"", Outcome::Yes),
        ("n->tag == \"tagXm\"", Outcome::No),
        ("n->tag ^= \"tagXm\"", Outcome::No),
        ("n->tag == \"tag\"", Outcome::No),
        ("str(n, 4) == \"tagX\" && str(n, 5) == \"tagXm\"", Outcome::Yes),
        ("c == -2 && c < 0 && c + 2 == 0", Outcome::Yes),
        ("r[3] == 'X' && r[0] == 't'", Outcome::Yes),
    ] {
        assert_eq!(decide_in(scope, text, &call), outcome, "{text}");
    }
}

#[test]
fn enumerators_may_have_their_scope_and_null_is_zero() {
    let of = |name: &str| {
        let values = Rc::new([(3, "Read".into()), (7, "Write".into())]);
        ty(name, 4, TypeKind::Enum { signed: true, values })
    };
    let types = [
        ("mode", of("const net::Mode")),
        ("file", ty("FILE *", 8, TypeKind::Pointer(None))),
        ("path", ty("const char*", 8, TypeKind::CString)),
    ];
    let signature = with_parameters(types);
    let scope = NameScope {
        signature: Some(&signature),
        ..UNKNOWN
    };
    for text in [
        "mode == Write && Mode::Write == mode && mode == net::Mode::Write && mode == net::Write",
        "mode != Mode::Read && file == NULL && nullptr == file && path != NULL",
    ] {
        assert_eq!(
            decide_in(scope, text, &Call::with(&[7, 0, 1])),
            Outcome::Yes,
            "{text}"
        );
    }
    for name in ["ode::Write", "Other::Write", "other::Mode::Write", "Mode::None"] {
        let error = plan_for(scope, &format!("mode == {name}")).expect_err(name);
        assert_eq!(error.message, format!("f has no `{name}`"));
        assert!(
            error
                .hint
                .is_some_and(|hint| hint.ends_with("and the values Read Write"))
        );
    }
    assert!(plan_for(scope, "mode == Mode::").is_err_and(|error| error.message.contains("found `:`")));
}

#[test]
fn references_mean_what_they_refer_to() {
    let reference = |to: &ValueType| {
        let name = format!("{} &", to.name);
        ty(&name, 8, TypeKind::Reference(Rc::new(to.clone())))
    };
    let known = signature();
    let kind = |index: usize| &known.params[index].ty;
    let TypeKind::Pointer(Some(request)) = &kind(1).kind else {
        panic!("{:?}", kind(1));
    };
    let owner = StructMember {
        name: "inner".into(),
        offset: 8,
        ty: reference(kind(0)),
        bits: None,
    };
    let types = [
        ("a", reference(kind(0))),
        ("s", reference(request)),
        ("mode", reference(kind(2))),
        ("path", reference(kind(3))),
        ("name", reference(kind(5))),
        (
            "owner",
            reference(&ty("owner", 16, TypeKind::Struct(Rc::new([owner])))),
        ),
    ];
    let signature = with_parameters(types);
    let scope = NameScope {
        signature: Some(&signature),
        ..UNKNOWN
    };
    let number = |number: u64| number.to_le_bytes();
    let call = Call::with(&[0x1000, 0x1100, 0x1200, 0x1300, 0x1400, 0x1500])
        .memory(0x1000, &(-5_i32).to_le_bytes())
        .memory(0x1100, &number(7 << 32 | 3))
        .memory(0x1200, &2_u32.to_le_bytes())
        .memory(0x1300, &number(0x2000))
        .memory(0x1400, &[number(0x2000), number(5)].concat())
        .memory(0x1500, &[number(0), number(0x1000)].concat())
        .memory(0x2000, b"/tmp/\0");
    for text in [
        "a == -5 && a < 0 && a + 6 == 1",
        "s.fd == 3 && s.len == 7 && s->len == 7",
        "mode == WRITE",
        "path == \"/tmp/\" && *path == '/' && name ^= \"/tm\"",
        "owner.inner == -5",
        "arg0 == 0x1000 && *arg0 == -5 && arg1->len == 7 && arg1 + 4 == 0x1104",
    ] {
        assert_eq!(decide_in(scope, text, &call), Outcome::Yes, "{text}");
    }
    assert_eq!(decide_in(scope, "a == 0x1000", &call), Outcome::No);
    assert!(plan_for(scope, "s == 1").is_err_and(|error| error.message.contains("expected a number")));
    let plan = FunctionPlan::new(scope, &PlanRequest::default(), &mut Vec::new()).expect("a plan");
    let fetched: Vec<&FetchedValue> = plan.shown.iter().map(|shown| &shown.fetched).collect();
    assert!(
        matches!(
            fetched[..],
            [
                FetchedValue::Number(..),
                FetchedValue::Bytes(..),
                FetchedValue::Number(..),
                FetchedValue::Text(_),
                FetchedValue::TypedText(_),
                FetchedValue::Bytes(..),
            ]
        ),
        "{fetched:?}"
    );
}

#[test]
fn usdt_arguments_come_from_the_note() {
    let argument = |bytes, number, operand| UsdtArgument {
        bytes,
        number,
        operand,
        text: "".into(),
    };
    let (first, second) = if cfg!(target_arch = "x86_64") {
        (5, 4)
    } else {
        (0, 1)
    };
    // The lower half of the register is -0xd6 or 0xffffff2a.
    let low_index = |signed, offset| {
        let index = UsdtIndex {
            register: second,
            scale: 4,
            bytes: 4,
            signed,
        };
        let operand = UsdtOperand::Memory {
            base: None,
            index: Some(index),
            offset,
        };
        argument(2, NumberKind::Signed, operand)
    };
    let probe = UsdtProbe {
        provider: "p".into(),
        name: "n".into(),
        offset: 0,
        addr: 0,
        semaphore: None,
        arguments: vec![
            argument(
                4,
                NumberKind::Signed,
                UsdtOperand::Register {
                    register: second,
                    shift: 0,
                },
            ),
            argument(
                1,
                NumberKind::Unsigned,
                UsdtOperand::Register {
                    register: second,
                    shift: 8,
                },
            ),
            argument(
                2,
                NumberKind::Signed,
                UsdtOperand::Memory {
                    base: Some(first),
                    index: Some(UsdtIndex::whole(second, 2)),
                    offset: -0x1_ffff_fffe,
                },
            ),
            argument(8, NumberKind::Signed, UsdtOperand::Constant(-7)),
            argument(8, NumberKind::Unsigned, UsdtOperand::Unknown),
            argument(1, NumberKind::Unsigned, UsdtOperand::Constant(-6)),
            argument(2, NumberKind::Unsigned, UsdtOperand::Constant(-3600)),
            argument(4, NumberKind::Unsigned, UsdtOperand::Constant(-202182160)),
            argument(8, NumberKind::Unsigned, UsdtOperand::Constant(-1)),
            argument(1, NumberKind::Signed, UsdtOperand::Constant(250)),
            low_index(true, 0xe56 + 4 * 0xd6),
            low_index(false, 0xe56 - 4 * 0xffff_ff2a),
        ],
    };
    let scope = NameScope {
        function: "p:n",
        signature: None,
        probe: Some(&probe),
        is_go: false,
    };
    // 0x1000 + 0xffffff2a * 2 - 0x1fffffffe
    let call = Call::with(&[0x1000, 0xffff_ff2a]).memory(0xe56, &[0xfe, 0xff]);
    for text in [
        "arg0 == -214",
        "arg1 == 0xff",
        "arg2 == -2",
        "arg3 == -7",
        "arg5 == 250",
        "arg6 == 61936",
        "arg7 == 4092785136",
        "arg8 == -1",
        "arg9 == -6",
        "arg10 == -2 && arg11 == -2",
    ] {
        assert_eq!(decide_in(scope, text, &call), Outcome::Yes, "{text}");
    }
    assert!(plan_for(scope, "arg4 == 1").is_err_and(|error| error.message.contains("not understood")));
    assert!(plan_for(scope, "arg12 == 1").is_err_and(|error| error.message.contains("has 12 arguments")));
    let plan = FunctionPlan::new(scope, &PlanRequest::default(), &mut Vec::new()).expect("a plan");
    let names: Vec<&str> = plan.shown.iter().map(|shown| &*shown.name).collect();
    assert_eq!(names[..2], ["arg0", "arg1"]);
    assert_eq!(names.len(), 12);
}

#[test]
fn parameters_are_fetched_by_type() {
    let signature = signature();
    let scope = NameScope {
        function: "serve",
        signature: Some(&signature),
        probe: None,
        is_go: false,
    };
    let request = PlanRequest {
        returns: true,
        result: true,
        ..PlanRequest::default()
    };
    let plan = FunctionPlan::new(scope, &request, &mut Vec::new()).expect("a plan");
    let names: Vec<&str> = plan.shown.iter().map(|shown| &*shown.name).collect();
    assert_eq!(names, ["fd", "req", "mode", "path", "both", "name", "ratio"]);
    let kinds: Vec<String> = plan
        .shown
        .iter()
        .map(|shown| format!("{:?}", shown.fetched))
        .collect();
    for (kind, start) in kinds.iter().zip([
        "Number(0",
        "Bytes(1",
        "Number(2",
        "Text(3",
        "Slots(4, 2",
        "TypedText(6",
        "Nowhere",
    ]) {
        assert!(kind.starts_with(start), "{kind} is no {start}");
    }
    assert!(
        matches!(plan.result, Some(FetchedValue::Number(7, _))),
        "{:?}",
        plan.result
    );
    assert!(plan.has_text && plan.reads && plan.slots == 8);
    let ends: Vec<usize> = [&plan.entry, &plan.at_return].map(Vec::len).to_vec();
    assert!(ends.iter().all(|length| *length < MOST_OPS), "{ends:?}");
}

#[test]
fn errors_point_at_their_column() {
    for (text, column, part) in [
        ("arg0 >", 7, "expected a value, found the end"),
        ("arg0 > && 1", 8, "found `&`"),
        ("", 1, "a value"),
        ("arg0 = 1", 6, "does not compare"),
        ("arg0 1", 6, "found `1`"),
        ("(arg0 > 1", 10, "`)`"),
        ("1 < arg0 < 5", 10, "do not chain"),
        ("arg0 == 1Q", 9, "unknown unit"),
        ("arg0 == 99999999999999999999", 9, "64 bits"),
        ("*(float*)arg0 == 1", 3, "unknown type `float`"),
        ("comm == \"bash", 9, "closing \" is missing"),
        ("comm == \"\\q\"", 10, "escape"),
        ("comm > \"a\"", 1, "text can only be compared"),
        ("arg0 == \"a\"", 1, "is compared with text"),
        ("comm == 1", 1, "this is text"),
        ("comm", 1, "neither true nor false"),
        ("arg0 ^= 1", 1, "prefix"),
        ("é == 1", 1, "has no `é`"),
        ("comm == \"é\" && x", 16, "has no `x`"),
        ("comm == python3", 9, "quote text to compare with: \"python3\""),
        ("comm ^= python3", 9, "quote text to compare with: \"python3\""),
        ("foo(1)", 1, "unknown function `foo`"),
        ("str() == \"\"", 1, "str(ADDRESS)"),
        ("arg0 < 0", 1, "never true"),
        ("arg0 == 'ab'", 9, "one character"),
        ("arg0->x == 1", 1, "not known to point"),
        ("arg0. == 1", 7, "member name"),
        ("#", 1, "found `#`"),
    ] {
        let error = plan_for(UNKNOWN, text).expect_err(text);
        assert!(
            error.message.contains(part) || error.hint.as_ref().is_some_and(|hint| hint.contains(part)),
            "{text}: {error:?}"
        );
        assert_eq!(error.column(text), column, "{text}: {error:?}");
        let [shown, caret] = error.excerpt(text);
        assert_eq!((shown.as_str(), caret.len()), (text, column), "{text}");
    }
}

#[test]
fn limits_are_errors() {
    let nested = format!("{}1{}", "(".repeat(40), ")".repeat(40));
    let chain = format!("arg0{}", " + arg0".repeat(200));
    let deep = (0..20).fold("arg0".to_owned(), |text, _| format!("arg0 + ({text})"));
    let long = format!("comm == \"{}\"", "a".repeat(128));
    let many = "1 + ".repeat(600) + "1";
    let huge = " ".repeat(5000);
    for (text, part) in [
        (nested, "32 levels"),
        (chain, "256 operations"),
        (deep, "too many nested values"),
        (long, "127 bytes"),
        (many, "512 names"),
        (huge, "4096 bytes"),
    ] {
        let error = plan_for(UNKNOWN, &text).expect_err(part);
        assert!(error.message.contains(part), "{part}: {error:?}");
    }
}

#[test]
fn lists_are_comma_separated() {
    let text = "arg0, str(arg1), buf(arg2, arg3), *(u32*)(arg0+8), retval";
    let list = parse_list(text).expect("a list");
    let parts: Vec<&str> = list.iter().map(|expr| &text[expr.at.clone()]).collect();
    assert_eq!(
        parts,
        [
            "arg0",
            "str(arg1)",
            "buf(arg2, arg3)",
            "*(u32*)(arg0+8)",
            "retval"
        ]
    );
    for (text, column) in [("arg0,", 6), ("arg0 arg1", 6), (",", 1), ("arg0,,arg1", 6)] {
        assert_eq!(parse_list(text).expect_err(text).column(text), column, "{text}");
    }
}

/// No input panics, and valid expressions run.
#[test]
fn mutated_texts_never_panic() {
    const SEEDS: [&str; 7] = [
        "arg0 > 1M && comm == \"python3\"",
        "arg0 != 0 && *(u32*)(arg0+8) == 5 || !(retval < -1)",
        "str(arg0, 16) ^= \"/t\\x6dp\" && buf(arg2, arg3) != \"a\"",
        "(i8)fd % 3 << 2 >= lat / 10ms | ~both.len ^ req->fd",
        "mode == WRITE && path == \"/etc\" && name ^= \"x\" && -ratio",
        "((arg6 & 0xff) - 'c') * 7 <= pid + tid",
        "((u8*)arg1)[arg0] == path[1] && mode != mode::READ",
    ];
    const PARTS: [&str; 27] = [
        "(", ")", "*", "&&", "||", "!", "-", "\"", "'", "\\", "arg1", "retval", "(u8*)", "str(", "buf(", ",",
        ".", "->", "0x", "9", "K", "\u{202e}", "^=", " ", "[", "]", "::",
    ];
    let signature = signature();
    let scope = NameScope {
        function: "serve",
        signature: Some(&signature),
        probe: None,
        is_go: false,
    };
    let call = Call::with(&[1, 0x1000, 2, 0x1000, 4, 5]).memory(0x1000, &[7; 64]);
    let mut state: u64 = 0x2545_f491_4f6c_dd1d;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut accepted = 0;
    for round in 0..20_000 {
        let mut text: Vec<char> = SEEDS[round % SEEDS.len()].chars().collect();
        for _ in 0..=random(4) {
            let at = random(text.len() + 1);
            match random(3) {
                0 => _ = text.splice(at..at, PARTS[random(PARTS.len())].chars()),
                1 => _ = text.drain(at..(at + random(4)).min(text.len())),
                _ => {
                    let from = random(text.len() + 1);
                    let copied: Vec<char> = text[from..(from + random(12)).min(text.len())].to_vec();
                    text.splice(at..at, copied);
                }
            }
        }
        let text: String = text.into_iter().collect();
        let _ = parse_list(&text);
        match plan_for(scope, &text) {
            Ok(_) => {
                accepted += 1;
                decide_in(scope, &text, &call);
            }
            Err(error) => assert!(error.column(&text) <= text.chars().count() + 1, "{text}"),
        }
    }
    assert!(accepted > 500, "{accepted} of the texts were right");
}
