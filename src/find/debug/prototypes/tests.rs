// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
use std::collections::HashSet;

use super::*;
use crate::find::debug::abi::{IN_FLOAT, MachineAbi};
use crate::find::debug::types::{LocationPiece, ValueLocation};

/// Each parameter as `type name @ location`.
fn shown(library: &str, function: &str) -> Vec<String> {
    let signature = signature(library, function).unwrap_or_default();
    let location = |location: &ValueLocation| match location {
        ValueLocation::Pieces(pieces) => match pieces[..] {
            [LocationPiece::Argument(number)] => format!("register {number}"),
            [LocationPiece::Stack(offset)] => format!("stack {offset}"),
            _ => format!("{pieces:?}"),
        },
        other => format!("{other:?}"),
    };
    let param = |param: &FunctionParameter| {
        let name = param.name.as_deref().unwrap_or("?");
        format!("{} {name} @ {}", param.ty.name, location(&param.location))
    };
    signature.params.iter().map(param).collect()
}

#[test]
fn every_declaration_parses_and_is_unique() {
    for (file, table) in LIBRARIES {
        let mut names = HashSet::new();
        for line in table.lines().filter(|line| !line.is_empty()) {
            let signature = parse(line).unwrap_or_else(|| panic!("{file}: {line}"));
            let is_void = line.starts_with("void ") && !line.starts_with("void *");
            assert_eq!(signature.returns.is_none(), is_void, "{file}: {line}");
            assert_eq!(
                signature.params.len() + usize::from(signature.variadic),
                count_arguments(line),
                "{line}"
            );
            assert!(names.insert(function_name(line)), "{file}: duplicate {line}");
        }
        assert!(names.len() > 30, "{file}");
    }
}

fn count_arguments(line: &str) -> usize {
    if line.contains("()") {
        0
    } else {
        line.matches(", ").count() + 1
    }
}

#[test]
fn known_functions_have_prototypes() {
    assert_eq!(shown("libc.so.6", "malloc"), ["size_t size @ register 0"]);
    assert_eq!(
        shown("/usr/lib/libc.so.6", "open64"),
        ["const char * pathname @ register 0", "int flags @ register 1"]
    );
    assert_eq!(
        shown("libssl.so.3", "SSL_write"),
        [
            "SSL * ssl @ register 0",
            "const void * buf @ register 1",
            "int num @ register 2"
        ]
    );
    assert!(signature("libc.so.6", "printf").is_some_and(|signature| signature.variadic));
    let getenv = signature("libc.so.6", "getenv").and_then(|signature| signature.returns);
    assert!(getenv.is_some_and(|result| result.ty.kind == TypeKind::CString && &*result.ty.name == "char *"));
}

#[test]
fn arguments_beyond_the_registers_are_on_the_stack() {
    let (seventh, eighth) = match NATIVE {
        MachineAbi::X86_64 => ("stack 8", "stack 16"),
        MachineAbi::Aarch64 => ("register 6", "register 7"),
    };
    let params = shown("libpq.so.5", "PQexecParams");
    assert_eq!(params[6], format!("const int * paramFormats @ {seventh}"));
    assert_eq!(params[7], format!("int resultFormat @ {eighth}"));
    let bind = signature("libsqlite3.so.0", "sqlite3_bind_double").unwrap_or_default();
    assert_eq!(bind.params[2].location, ValueLocation::Unavailable(IN_FLOAT));
}

#[test]
fn functions_are_found_only_in_their_library() {
    assert!(signature("libc.so.6", "read").is_some());
    for (library, function) in [
        ("libfoo.so", "read"),
        ("libz.so.1", "read"),
        ("libcurl.so.4", "read"),
        ("libc.so.6", "SSL_read"),
        ("libc.so.6", "malloc("),
        ("libc.so.6", ""),
        ("libc.so.6", "64"),
        ("", "read"),
    ] {
        assert_eq!(signature(library, function), None, "{library}: {function}");
    }
}
