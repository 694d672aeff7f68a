// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
use super::*;
use crate::find::debug::types::{FunctionParameter, FunctionSignature, LocationPiece, ValueLocation};
use crate::probe::expr::operand::int;

const SCOPE: NameScope = NameScope {
    function: "f",
    signature: None,
    probe: None,
    is_go: false,
};

fn programs(condition: &str, args: &str) -> FunctionPrograms {
    let request = TraceRequest::parse(Some(condition), Some(args)).expect("valid expressions");
    FunctionPrograms::new(request)
}

fn fixed_bytes() -> u32 {
    let fixed = size_of::<types::expr_machine>() + size_of::<types::stack>();
    fixed as u32 + expr_limit::EXPR_TEXT_SLACK.0
}

#[test]
fn functions_share_operations() {
    let mut programs = programs("arg0 > 1", "arg1");
    for ends in [Ends::Entry, Ends::Entry, Ends::Both] {
        programs.add(SCOPE, ends, true);
    }
    assert_eq!(
        programs.entries,
        [[3, 0, 1, 0], [3, 0, 1, 0], [3, 0, 1, ROW_AT_RETURN]]
    );
    let sizes = programs.sizes(4096, 4096, false);
    assert_eq!(
        (sizes.ops as usize, sizes.most_text, sizes.text_starts),
        (programs.ops.len(), 0, 512)
    );
    assert_eq!(sizes.machine_bytes, fixed_bytes() + 512);
    assert!(programs.take_problem().is_ok_and(|problem| problem.is_none()));
    assert!(!programs.reads());
}

#[test]
fn machines_have_room_for_texts() {
    let mut programs = programs("true", "str(arg1)");
    programs.add(SCOPE, Ends::Entry, true);
    let sizes = programs.sizes(64 << 10, 8 << 20, true);
    assert_eq!(
        (sizes.most_text, sizes.machine_bytes),
        (64 << 10, fixed_bytes() + 512 + (256 << 10))
    );
    assert!((32..=128).contains(&sizes.machines), "{sizes:?}");
    assert!(programs.reads());
}

#[test]
fn comparisons_that_depend_on_an_unknown_type_are_remarked() {
    let remark = |condition: &str, scope| {
        let mut programs = programs(condition, "arg1");
        programs.add(scope, Ends::Both, true);
        programs.take_remark()
    };
    for condition in [
        "arg0 == -1",
        "arg0 != -1",
        "arg0 > -1",
        "-1 < arg0",
        "pid > 1 && !(arg3 == -2 || false)",
        "retval == -1",
        "retval < 0",
        "retval >= 0",
        "0 > retval",
        "arg0 + 1 == 0",
        "2 + arg0 - 1 == 0",
        "arg0 - 5 != -6",
        "arg0 - 1 > 5",
        "retval + 1 == 0",
    ] {
        let remark = remark(condition, SCOPE).unwrap_or_else(|| panic!("{condition}"));
        let name = if condition.contains("retval") {
            "retval"
        } else {
            "arg"
        };
        assert!(
            remark.contains(&format!("write (i32){name}")),
            "{condition}: {remark}"
        );
    }
    for condition in [
        "(i32)arg0 == -1",
        "(i64)arg0 == -1",
        "arg0 == 0xffffffffffffffff",
        "arg0 > 5",
        "retval == 0",
        "retval != 0",
        "(i64)retval < 0",
        "pid != -1",
        "arg0 + 1 == 2",
        "arg0 - 1 == 0",
        "arg0 - 5 == -3",
        "arg0 + 1 > 5",
        "arg0 + 8 == 0xffff888000000000",
        "arg0 - 0x7f0000000000 < 4096",
    ] {
        assert_eq!(remark(condition, SCOPE), None, "{condition}");
    }
    let known = FunctionSignature {
        returns: None,
        params: vec![FunctionParameter {
            name: Some("fd".into()),
            ty: int(4, true),
            location: ValueLocation::Pieces(vec![LocationPiece::Argument(0)]),
        }],
        ..FunctionSignature::default()
    };
    let typed = NameScope {
        signature: Some(&known),
        ..SCOPE
    };
    assert_eq!(remark("arg0 == -1", typed), None);
}

#[test]
fn a_request_that_fits_no_function_is_an_error() {
    let mut programs = programs("size > 1", "arg1");
    programs.add(SCOPE, Ends::Entry, true);
    let failure = programs.take_problem().expect_err("no such name");
    assert_eq!(failure.to_string(), "--where, column 1: f has no `size`");
    let other = NameScope {
        function: "g",
        ..SCOPE
    };
    programs.add(other, Ends::Entry, true);
    programs.plans.push(FunctionPlan::default().into());
    let warning = programs
        .take_problem()
        .expect("another function is traced")
        .expect("a warning");
    assert!(
        warning.starts_with("calls of 2 functions (f, g) are not shown: --where"),
        "{warning}"
    );
    let error = TraceRequest::parse(Some("a >"), None)
        .err()
        .expect("a usage error");
    assert!(error.to_string().contains("column 4"), "{error}");
}

#[test]
fn returns_need_no_entry_if_everything_is_known_there() {
    let no_entry = |condition: Option<&str>, args: Option<&str>| {
        TraceRequest::parse(condition, args)
            .expect("valid expressions")
            .needs_no_entry()
    };
    assert!(no_entry(None, Some("str(retval), comm")));
    assert!(no_entry(Some("retval && pid == 1"), Some("*(u8*)retval")));
    assert!(!no_entry(None, None));
    assert!(!no_entry(None, Some("arg0")));
    assert!(!no_entry(Some("lat > 1"), Some("retval")));
}

#[test]
fn literals_are_compared_with_or_without_their_nul() {
    let literal = |whole| {
        pattern(&TextLiteral {
            bytes: b"ab"[..].into(),
            whole,
        })
    };
    let [begin, whole] = [false, true].map(literal);
    assert_eq!(begin[..3], *b"ab\0");
    assert_eq!(begin[LITERAL_BYTES..LITERAL_BYTES + 3], [0xff, 0xff, 0]);
    assert_eq!(whole[LITERAL_BYTES..LITERAL_BYTES + 4], [0xff, 0xff, 0xff, 0]);
}
