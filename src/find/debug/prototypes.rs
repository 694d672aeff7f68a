// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Prototypes of well-known functions, with and without debug information: the C library, OpenSSL, libpq, SQLite and
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
mod tests;
