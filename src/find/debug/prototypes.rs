// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Prototypes of well-known functions, for libraries without debug information: the C library, OpenSSL, libpq, SQLite and
//! zlib.
//!
//! The tables have one C declaration per line. `function *` is a pointer to a function of any type. A `char *` that the
//! function fills in is a plain pointer, because it points to no text yet. Text without a NUL is `const void *`.

use super::abi::{ArgumentAllocator, NATIVE, TypeLayout};
use super::types::{FunctionParameter, FunctionResult, FunctionSignature, TypeKind, ValueType};

/// Prefixes of library file names, and the prototypes of the library's functions.
const LIBRARIES: [(&str, &str); 16] = [
    ("libc.so", LIBC),
    ("libc-2.", LIBC),
    ("libc.musl-", LIBC),
    ("ld-musl-", LIBC),
    // Parts of older C libraries.
    ("libpthread", LIBC),
    ("libdl.so", LIBC),
    ("librt.so", LIBC),
    ("libresolv", LIBC),
    // Replacements for the allocation functions of the C library.
    ("libjemalloc", LIBC),
    ("libtcmalloc", LIBC),
    ("libmimalloc", LIBC),
    ("libssl.so", include_str!("prototypes/libssl.h")),
    ("libcrypto.so", include_str!("prototypes/libcrypto.h")),
    ("libpq.so", include_str!("prototypes/libpq.h")),
    ("libsqlite3.so", include_str!("prototypes/libsqlite3.h")),
    ("libz.so", include_str!("prototypes/libz.h")),
];
const LIBC: &str = include_str!("prototypes/libc.h");

/// The signature of a library function. `library` is the soname or the file name, with or without a path. `None` for an
/// unknown library or function. Scans up to a few tens of kilobytes.
pub fn signature(library: &str, function: &str) -> Option<FunctionSignature> {
    let file = library.rsplit('/').next()?;
    let (_, table) = LIBRARIES.iter().find(|(start, _)| file.starts_with(start))?;
    let exact = declaration(table, function);
    parse(exact.or_else(|| declaration(table, function.strip_suffix("64")?))?)
}

/// The declaration of `function`.
fn declaration<'a>(table: &'a str, function: &str) -> Option<&'a str> {
    table.lines().find(|line| function_name(line) == Some(function))
}

fn function_name(line: &str) -> Option<&str> {
    let (before, _) = line.split_once('(')?;
    before.rsplit([' ', '*']).next()
}

fn parse(line: &str) -> Option<FunctionSignature> {
    let (result, parameters) = line.strip_suffix(");")?.split_once('(')?;
    let (result, _) = split_name(result)?;
    let mut arguments = ArgumentAllocator::new(NATIVE);
    let mut signature = FunctionSignature {
        returns: result_type(result).map(|ty| FunctionResult {
            location: arguments.result(&layout(&ty)),
            ty,
        }),
        ..FunctionSignature::default()
    };
    for parameter in parameters.split(", ").filter(|parameter| !parameter.is_empty()) {
        if parameter == "..." {
            signature.variadic = true;
            continue;
        }
        let (ty, name) = split_name(parameter)?;
        let ty = c_type(ty)?;
        signature.params.push(FunctionParameter {
            name: Some(name.into()),
            location: arguments.next(&layout(&ty)),
            ty,
        });
    }
    Some(signature)
}

fn layout(ty: &ValueType) -> TypeLayout {
    TypeLayout::scalar(ty.bytes, ty.kind == TypeKind::Float)
}

/// `("const char *", "path")` of `const char *path`.
fn split_name(declaration: &str) -> Option<(&str, &str)> {
    let start = declaration.rfind([' ', '*'])? + 1;
    let (ty, name) = declaration.split_at(start);
    Some((ty.trim_end(), name))
}

/// `None` for `void`. A `char *` that a function returns points to text.
fn result_type(name: &str) -> Option<ValueType> {
    let mut ty = c_type(name)?;
    if name == "char *" {
        ty.kind = TypeKind::CString;
    }
    Some(ty)
}

fn c_type(name: &str) -> Option<ValueType> {
    let (bytes, kind) = match name {
        "const char *" => (8, TypeKind::CString),
        _ if name.ends_with('*') => (8, TypeKind::Pointer(None)),
        "va_list" | "iconv_t" | "gzFile" => (8, TypeKind::Pointer(None)),
        "double" => (8, TypeKind::Float),
        "int" | "pid_t" | "clockid_t" => (4, TypeKind::Int { signed: true }),
        "unsigned int" | "mode_t" | "uid_t" | "gid_t" | "id_t" | "socklen_t" | "in_addr_t" | "uint32_t"
        | "useconds_t" | "pthread_key_t" | "Oid" | "uInt" => (4, TypeKind::Int { signed: false }),
        "long" | "long long" | "ssize_t" | "off_t" | "intptr_t" | "time_t" | "clock_t" | "sqlite3_int64" => {
            (8, TypeKind::Int { signed: true })
        }
        "unsigned long" | "unsigned long long" | "size_t" | "dev_t" | "nfds_t" | "uint64_t" | "pthread_t"
        | "uLong" | "sqlite3_uint64" => (8, TypeKind::Int { signed: false }),
        _ => return None,
    };
    Some(ValueType {
        name: name.into(),
        bytes,
        kind,
    })
}

#[cfg(test)]
mod tests {
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
        assert!(
            getenv.is_some_and(|result| result.ty.kind == TypeKind::CString && &*result.ty.name == "char *")
        );
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
}
