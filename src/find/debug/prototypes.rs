//! The parameters of well-known functions, for libraries without debug information: the C library, OpenSSL, libpq, SQLite
//! and zlib.
//!
//! The tables are C declarations, one a line. `function *` stands for a pointer to a function of any type. A `char *`
//! that the function fills in is a plain pointer, since there is no text in it yet; so is text without a NUL, which
//! the tables call `const void *`.

use super::abi::{Arguments, NATIVE, Shape};
use super::types::{Kind, Param, Returned, Signature, Type};

/// How the names of the files of a library begin, and its functions.
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
    // They offer the allocation functions of the C library.
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

/// The parameters of a function of a library, which is known by its soname or by the name of its file, with or without
/// a path. `None` for other libraries and functions. Looks through a few tens of kilobytes.
pub fn signature(library: &str, function: &str) -> Option<Signature> {
    let file = library.rsplit('/').next()?;
    let (_, table) = LIBRARIES.iter().find(|(start, _)| file.starts_with(start))?;
    let line = line(table, function).or_else(|| line(table, function.strip_suffix("64")?))?;
    parse(line)
}

/// The declaration of `function`.
fn line<'a>(table: &'a str, function: &str) -> Option<&'a str> {
    table.lines().find(|line| name(line) == Some(function))
}

fn name(line: &str) -> Option<&str> {
    let (before, _) = line.split_once('(')?;
    before.rsplit([' ', '*']).next()
}

fn parse(line: &str) -> Option<Signature> {
    let (result, parameters) = line.strip_suffix(");")?.split_once('(')?;
    let (result, _) = split_name(result)?;
    let mut arguments = Arguments::new(NATIVE);
    let mut signature = Signature {
        returns: returned(result).map(|ty| Returned {
            place: arguments.result(&shape(&ty)),
            ty,
        }),
        ..Signature::default()
    };
    for parameter in parameters.split(", ").filter(|parameter| !parameter.is_empty()) {
        if parameter == "..." {
            signature.variadic = true;
            continue;
        }
        let (ty, name) = split_name(parameter)?;
        let ty = typed(ty)?;
        signature.params.push(Param {
            name: Some(name.into()),
            place: arguments.next(&shape(&ty)),
            ty,
        });
    }
    Some(signature)
}

fn shape(ty: &Type) -> Shape {
    Shape::scalar(ty.bytes, ty.kind == Kind::Float)
}

/// `("const char *", "path")` of `const char *path`.
fn split_name(declaration: &str) -> Option<(&str, &str)> {
    let start = declaration.rfind([' ', '*'])? + 1;
    let (ty, name) = declaration.split_at(start);
    Some((ty.trim_end(), name))
}

/// None for `void`. Text that a function returns is there.
fn returned(name: &str) -> Option<Type> {
    let mut ty = typed(name)?;
    if name == "char *" {
        ty.kind = Kind::CString;
    }
    Some(ty)
}

fn typed(name: &str) -> Option<Type> {
    let (bytes, kind) = match name {
        "const char *" => (8, Kind::CString),
        _ if name.ends_with('*') => (8, Kind::Pointer(None)),
        "va_list" | "iconv_t" | "gzFile" => (8, Kind::Pointer(None)),
        "double" => (8, Kind::Float),
        "int" | "pid_t" | "clockid_t" => (4, Kind::Int { signed: true }),
        "unsigned int" | "mode_t" | "uid_t" | "gid_t" | "id_t" | "socklen_t" | "in_addr_t" | "uint32_t"
        | "useconds_t" | "pthread_key_t" | "Oid" | "uInt" => (4, Kind::Int { signed: false }),
        "long" | "long long" | "ssize_t" | "off_t" | "intptr_t" | "time_t" | "clock_t" | "sqlite3_int64" => {
            (8, Kind::Int { signed: true })
        }
        "unsigned long" | "unsigned long long" | "size_t" | "dev_t" | "nfds_t" | "uint64_t" | "pthread_t"
        | "uLong" | "sqlite3_uint64" => (8, Kind::Int { signed: false }),
        _ => return None,
    };
    Some(Type {
        name: name.into(),
        bytes,
        kind,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::find::debug::abi::{IN_FLOAT, Machine};
    use crate::find::debug::types::{Piece, Place};

    /// Each parameter as `type name @ place`.
    fn shown(library: &str, function: &str) -> Vec<String> {
        let signature = signature(library, function).unwrap_or_default();
        let place = |place: &Place| match place {
            Place::Pieces(pieces) => match pieces[..] {
                [Piece::Argument(number)] => format!("register {number}"),
                [Piece::Stack(offset)] => format!("stack {offset}"),
                _ => format!("{pieces:?}"),
            },
            other => format!("{other:?}"),
        };
        let param = |param: &Param| {
            let name = param.name.as_deref().unwrap_or("?");
            format!("{} {name} @ {}", param.ty.name, place(&param.place))
        };
        signature.params.iter().map(param).collect()
    }

    #[test]
    fn every_line_is_understood_and_there_once() {
        for (file, table) in LIBRARIES {
            let mut names = HashSet::new();
            for line in table.lines().filter(|line| !line.is_empty()) {
                let signature = parse(line).unwrap_or_else(|| panic!("{file}: {line}"));
                let is_void = line.starts_with("void ") && !line.starts_with("void *");
                assert_eq!(signature.returns.is_none(), is_void, "{file}: {line}");
                assert_eq!(
                    signature.params.len() + usize::from(signature.variadic),
                    arguments(line),
                    "{line}"
                );
                assert!(names.insert(name(line)), "{file}: {line} is there twice");
            }
            assert!(names.len() > 30, "{file}");
        }
    }

    fn arguments(line: &str) -> usize {
        if line.contains("()") {
            0
        } else {
            line.matches(", ").count() + 1
        }
    }

    #[test]
    fn known_functions() {
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
        assert!(getenv.is_some_and(|result| result.ty.kind == Kind::CString && &*result.ty.name == "char *"));
    }

    #[test]
    fn arguments_past_the_registers() {
        let (seventh, eighth) = match NATIVE {
            Machine::X86_64 => ("stack 8", "stack 16"),
            Machine::Aarch64 => ("register 6", "register 7"),
        };
        let params = shown("libpq.so.5", "PQexecParams");
        assert_eq!(params[6], format!("const int * paramFormats @ {seventh}"));
        assert_eq!(params[7], format!("int resultFormat @ {eighth}"));
        let bind = signature("libsqlite3.so.0", "sqlite3_bind_double").unwrap_or_default();
        assert_eq!(bind.params[2].place, Place::Nowhere(IN_FLOAT));
    }

    #[test]
    fn only_of_the_library_itself() {
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
