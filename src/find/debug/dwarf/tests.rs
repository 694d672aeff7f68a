// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! With programs from the compilers of this machine. A test without its compiler reports that it was skipped.

mod classes;
mod members;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use std::rc::Rc;

use super::unit::Unit;
use crate::find::debug::abi::{MachineAbi, NATIVE};
use crate::find::debug::signatures::SignatureSource;
use crate::find::debug::types::{LocationPiece, TypeKind, ValueLocation, ValueType};
use crate::find::elf::ElfFile;
use crate::find::functions;
use crate::find::spec::NamePattern;

/// A directory that is removed after the test.
struct TestDir(PathBuf);

impl TestDir {
    fn new(test: &str) -> TestDir {
        let path = std::env::temp_dir().join(format!("ubpf-tools-dwarf-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        TestDir(path)
    }

    /// Compiles `source` with a compiler and its options; `None` if there is no such compiler.
    fn compile(&self, compiler: &str, options: &[&str], source: &str) -> Option<PathBuf> {
        let extension = match compiler {
            "rustc" => "rs",
            "g++" | "clang++" => "cc",
            _ => "c",
        };
        let (from, to) = (
            self.0.join("source").with_extension(extension),
            self.0.join("program"),
        );
        fs::write(&from, source).unwrap();
        let output = Command::new(compiler)
            .args(options)
            .arg("-o")
            .args([&to, &from])
            .current_dir(&self.0)
            .output();
        let Ok(output) = output else {
            eprintln!("skipped: no {compiler}");
            return None;
        };
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Some(to)
    }

    fn run(&self, command: &str, arguments: &[&str]) -> bool {
        let status = Command::new(command)
            .args(arguments)
            .current_dir(&self.0)
            .status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(path: &Path) -> DebugInfo {
    DebugInfo::open(&File::open(path).unwrap(), None)
        .unwrap()
        .expect("debug information")
}

/// The signature of the function whose symbol starts with `symbol`.
fn signature(info: &DebugInfo, program: &Path, symbol: &str) -> FunctionSignature {
    info.signature(address(program, symbol))
        .unwrap_or_else(|| panic!("no signature of {symbol}"))
}

fn address(program: &Path, symbol: &str) -> u64 {
    let elf = ElfFile::open(File::open(program).unwrap(), program).unwrap();
    let functions = crate::find::functions::all(&elf, program).unwrap();
    let function = functions
        .iter()
        .find(|function| function.name.starts_with(symbol));
    function.unwrap_or_else(|| panic!("no {symbol}")).addr
}

/// Each parameter as `type name @ location`.
fn shown(signature: &FunctionSignature) -> Vec<String> {
    let params = signature.params.iter();
    params
        .map(|param| {
            let name = param.name.as_deref().unwrap_or("?");
            format!("{} {name} @ {}", param.ty.name, location_text(&param.location))
        })
        .collect()
}

fn location_text(location: &ValueLocation) -> String {
    let piece = |piece: &LocationPiece| match piece {
        LocationPiece::Argument(number) => format!("arg{number}"),
        LocationPiece::Register(number) => format!("reg{number}"),
        LocationPiece::Stack(offset) => format!("sp+{offset}"),
        LocationPiece::Constant(value) => format!("={value}"),
    };
    match location {
        ValueLocation::Pieces(pieces) => pieces.iter().map(piece).collect::<Vec<_>>().join(" "),
        ValueLocation::Indirect(at) => format!("*{}", piece(at)),
        ValueLocation::Unavailable(why) => (*why).to_owned(),
    }
}

/// The location of a stack argument.
fn stack(number: u64) -> String {
    format!("sp+{}", NATIVE.stack_arguments() + 8 * number)
}

const C: &str = r#"
#include <stdio.h>
struct pair { long a; int b; };
struct large { long a, b, c; };
struct node { struct node *next; const char *name; union { int number; float real; }; unsigned flag : 1;
              struct pair inner; };
enum color { RED, GREEN = 3, BLUE = -1 };
typedef enum color color_t;
#define NOINLINE __attribute__((noinline))
NOINLINE int numbers(int a, unsigned char b, long c, size_t d, _Bool e, char f, short g, double h, long i, int j) {
    return printf("%d%d%ld%zu%d%c%d%f%ld%d", a, b, c, d, e, f, g, h, i, j);
}
NOINLINE int mixed(const char *text, struct node *node, color_t color, struct pair pair, float real,
                   int (*callback)(int, const char *), char **list, ...) {
    return printf("%s%p%d%ld%f%p%p", text, (void *)node, color, pair.a, real, (void *)callback, (void *)list);
}
NOINLINE struct large result(int a, struct large large, int b) {
    struct large copy = {a + printf("%ld", large.a), b, 0};
    return copy;
}
static NOINLINE int clone(int a, int b, int c) { return printf("%d%d%d", a, b, c) + c; }
static inline __attribute__((always_inline)) int everywhere(int a) { return a * 7 + printf("%d", a); }
int main(int argc, char **argv) {
    struct node node = {0};
    struct pair pair = {1, 2};
    struct large large = {1, 2, argc};
    numbers(argc, 2, 3, 4, 1, 'x', 6, 7.0, 8, 9);
    mixed(argv[0], &node, RED, pair, 1.5f, 0, argv);
    return (int)result(1, large, 2).a + clone(argc, 23, argc) + everywhere(argc);
}
"#;

#[test]
fn c_functions_at_all_optimization_levels() {
    let dir = TestDir::new("c");
    for compiler in ["gcc", "clang"] {
        for options in [
            ["-O0", "-gdwarf-5"],
            ["-O2", "-gdwarf-5"],
            ["-O0", "-gdwarf-4"],
            ["-O2", "-gdwarf-4"],
        ] {
            let Some(program) = dir.compile(compiler, &options, C) else {
                continue;
            };
            check_c(&program);
        }
    }
}

fn check_c(program: &Path) {
    let info = open(program);
    let numbers = signature(&info, program, "numbers");
    let (g, i, j) = match NATIVE {
        MachineAbi::X86_64 => (stack(0), stack(1), stack(2)),
        MachineAbi::Aarch64 => ("arg6".to_owned(), "arg7".to_owned(), stack(0)),
    };
    assert_eq!(
        shown(&numbers),
        [
            "int a @ arg0",
            "unsigned char b @ arg1",
            "long c @ arg2",
            "size_t d @ arg3",
            "bool e @ arg4",
            "char f @ arg5",
            &format!("short g @ {g}"),
            "double h @ in a floating-point register",
            &format!("long i @ {i}"),
            &format!("int j @ {j}"),
        ]
    );
    assert!(
        !numbers.variadic
            && numbers
                .returns
                .is_some_and(|result| &*result.ty.name == "int" && result.ty.bytes == 4)
    );

    check_mixed(&signature(&info, program, "mixed"));

    let result = signature(&info, program, "result");
    let expected = match NATIVE {
        // The address of the result is the first argument.
        MachineAbi::X86_64 => ["arg1", "sp+8 sp+16 sp+24", "arg2"],
        MachineAbi::Aarch64 => ["arg0", "*arg1", "arg2"],
    };
    let locations: Vec<String> = result
        .params
        .iter()
        .map(|param| location_text(&param.location))
        .collect();
    assert_eq!(locations, expected);

    assert!(info.signature(1).is_none());
    assert!(!info.inlined("mixed") && !info.inlined("nothing"));
    assert!(info.inlined("everywhere") || has(program, "everywhere"));
}

fn check_mixed(mixed: &FunctionSignature) {
    let list = if NATIVE == MachineAbi::X86_64 {
        stack(0)
    } else {
        "arg6".to_owned()
    };
    let shown_mixed = shown(mixed);
    assert_eq!(
        shown_mixed[..4],
        [
            "const char * text @ arg0",
            "struct node * node @ arg1",
            "color_t color @ arg2",
            "struct pair pair @ arg3 arg4",
        ]
    );
    assert_eq!(shown_mixed[5], "int (*)(int, const char *) callback @ arg5");
    assert_eq!(shown_mixed[6], format!("char ** list @ {list}"));
    assert!(mixed.variadic);
    check_kinds(mixed);
}

fn has(program: &Path, symbol: &str) -> bool {
    let elf = ElfFile::open(File::open(program).unwrap(), program).unwrap();
    elf.lookup(&[symbol]).unwrap()[0].is_some()
}

fn check_kinds(mixed: &FunctionSignature) {
    let kind = |index: usize| &mixed.params[index].ty.kind;
    assert_eq!(*kind(0), TypeKind::CString);
    let TypeKind::Pointer(Some(node)) = kind(1) else {
        panic!("{:?}", kind(1));
    };
    assert_eq!(
        members(node),
        ["0 next", "8 name", "16 number", "16 real", "20 flag", "24 inner"]
    );
    let TypeKind::Enum { signed: true, values } = kind(2) else {
        panic!("{:?}", kind(2));
    };
    let values: Vec<(i64, &str)> = values.iter().map(|(value, name)| (*value, &**name)).collect();
    assert_eq!(values, [(0, "RED"), (3, "GREEN"), (-1, "BLUE")]);
    assert_eq!(members(&mixed.params[3].ty), ["0 a", "8 b"]);
    assert_eq!(*kind(4), TypeKind::Float);
    assert_eq!(*kind(5), TypeKind::Pointer(None));
    assert!(matches!(kind(6), TypeKind::Pointer(Some(to)) if to.kind == TypeKind::CString));
}

/// `offset name` of each.
fn members(ty: &ValueType) -> Vec<String> {
    let TypeKind::Struct(members) = &ty.kind else {
        panic!("{ty:?}");
    };
    let shown =
        |member: &crate::find::debug::types::StructMember| format!("{} {}", member.offset, member.name);
    members.iter().map(shown).collect()
}

#[test]
fn clone_has_moved_arguments() {
    let dir = TestDir::new("clone");
    let Some(program) = dir.compile("gcc", &["-O2", "-g"], C) else {
        return;
    };
    if has(&program, "clone") {
        eprintln!("skipped: this compiler does not clone the function");
        return;
    }
    let clone = signature(&open(&program), &program, "clone.");
    let locations: Vec<String> = clone
        .params
        .iter()
        .map(|param| location_text(&param.location))
        .collect();
    assert_eq!(locations[1], "=23");
    assert!(
        locations[0] == "arg0" && (locations[2] == "arg1" || locations[2] == "arg2"),
        "{locations:?}"
    );
}

const CPP: &str = r#"
#include <cstdio>
#include <string>
#include <string_view>
namespace net {
enum class Mode { Off, On = 5 };
struct Owner { int *p; Owner(int *p) : p(p) {} ~Owner() { puts("x"); } Owner(const Owner &o) : p(o.p) {} };
class Proxy { public: int port = 1; std::string host; __attribute__((noinline)) int read(int n) const; };
__attribute__((noinline)) int Proxy::read(int n) const { return printf("%d%d", n, port); }
__attribute__((noinline)) int all(const std::string &a, std::string b, std::string_view c, Mode d, Owner e, Proxy *f) {
    return printf("%s%s%d%d%d%d", a.c_str(), b.c_str(), (int)c.size(), (int)d, *e.p, f->port);
}
__attribute__((noinline)) std::string make(int n) { return std::string(n, 'x'); }
__attribute__((always_inline)) inline int gone(int n) { return n + printf("%d", n); }
}
int main(int argc, char **) {
    net::Proxy proxy;
    return proxy.read(argc) + net::all("a", "b", "c", net::Mode::On, net::Owner(&argc), &proxy) + net::make(3).size()
        + net::gone(argc);
}
"#;

#[test]
fn cpp_functions() {
    let dir = TestDir::new("cpp");
    for options in [["-O0", "-gdwarf-5"], ["-O2", "-gdwarf-5"], ["-O1", "-gdwarf-4"]] {
        let Some(program) = dir.compile("g++", &options, CPP) else {
            return;
        };
        let info = open(&program);
        let all = signature(&info, &program, "_ZN3net3all");
        assert_eq!(
            shown(&all),
            [
                "const std::string & a @ arg0",
                "std::string b @ *arg1",
                "std::string_view c @ arg2 arg3",
                "net::Mode d @ arg4",
                "net::Owner e @ *arg5",
                &format!(
                    "net::Proxy * f @ {}",
                    if NATIVE == MachineAbi::X86_64 {
                        stack(0)
                    } else {
                        "arg6".to_owned()
                    }
                ),
            ]
        );
        let string = TypeKind::Text {
            pointer_at: 0,
            length_at: 8,
        };
        assert!(matches!(&all.params[0].ty.kind, TypeKind::Reference(to) if to.kind == string));
        assert_eq!(all.params[1].ty.kind, string);
        let view = TypeKind::Text {
            pointer_at: 8,
            length_at: 0,
        };
        assert_eq!(all.params[2].ty.kind, view);
        assert!(
            matches!(&all.params[5].ty.kind, TypeKind::Pointer(Some(to)) if members(to) == ["0 port", "8 host"])
        );

        let read = signature(&info, &program, "_ZNK3net5Proxy4read");
        assert_eq!(shown(&read), ["const net::Proxy * this @ arg0", "int n @ arg1"]);
        let make = signature(&info, &program, "_ZN3net4make");
        let first = if NATIVE == MachineAbi::X86_64 {
            "arg1"
        } else {
            "arg0"
        };
        assert_eq!(shown(&make), [format!("int n @ {first}")]);
        assert!(
            make.returns
                .is_some_and(|result| &*result.ty.name == "std::string")
        );

        check_inlined(&info, &program);
    }
}

fn check_inlined(info: &DebugInfo, program: &Path) {
    for name in ["gone", "net::gone", "_ZN3net4goneEi"] {
        assert!(info.inlined(name) || has(program, "_ZN3net4goneEi"), "{name}");
    }
    assert!(!info.inlined("net::all"));
}

const RUST: &str = r#"
pub enum Color { Red, Green = 5 }
pub struct Point { pub x: i32, pub name: String }
#[no_mangle] #[inline(never)]
pub fn texts(a: &str, b: String, c: &String, d: Option<u64>) -> usize { println!("{a}{b}{c}{d:?}"); a.len() }
#[no_mangle] #[inline(never)]
pub fn others(a: Color, b: bool, c: char, d: &Point, e: f64, f: [u8; 4], g: Point) -> u32 {
    println!("{}{b}{c}{}{e}{f:?}{}", a as i32, d.name, g.x);
    1
}
#[no_mangle] #[inline(never)]
pub fn make(a: u8) -> String { println!("{a}"); String::new() }
fn main() {
    let n = std::env::args().count();
    let point = Point { x: n as i32, name: String::new() };
    texts("a", "b".into(), &"c".into(), Some(n as u64));
    others(if n > 9 { Color::Red } else { Color::Green }, n > 1, 'x', &point, 1.5, [n as u8; 4], Point { x: 1, name: "z".into() });
    make(n as u8);
    call(move |a, b| { println!("{a}{b}{n}"); });
    call(|c, d| { println!("{c}{d}"); });
}
#[inline(never)]
fn call(f: impl Fn(i32, u8)) { f(1, 2); }
"#;

/// rustc describes no parameter for what a closure captures, but one without a name if it captures nothing.
#[test]
fn arguments_of_rust_closures_are_not_those_before() {
    let dir = TestDir::new("rust-closures");
    let Some(program) = dir.compile("rustc", &["-g"], RUST) else {
        return;
    };
    let info = open(&program);
    let elf = ElfFile::open(fs::File::open(&program).unwrap(), &program).unwrap();
    let named = |first: &str| {
        let pattern = NamePattern::any();
        let found = functions::select(&elf, &program, &pattern).unwrap();
        let mut closures = found.iter().filter(|function| function.name.contains("closure"));
        closures
            .find_map(|function| {
                let signature = info.signature(function.addr)?;
                let param = signature
                    .params
                    .iter()
                    .find(|param| param.name.as_deref() == Some(first))?;
                Some(location_text(&param.location))
            })
            .unwrap_or_else(|| panic!("no closure with {first}"))
    };
    assert_eq!(named("a"), "behind an unknown type");
    assert_eq!(named("c"), "arg1");
}

#[test]
fn rust_functions() {
    let dir = TestDir::new("rust");
    let Some(program) = dir.compile("rustc", &["-g"], RUST) else {
        return;
    };
    let info = open(&program);
    let texts = signature(&info, &program, "texts");
    let expected = [
        "&str a @ arg0 arg1",
        "String b @ *arg2",
        "&alloc::string::String c @ arg3",
        "Option<u64> d @ arg4 arg5",
    ];
    assert_eq!(shown(&texts), expected);
    let text = TypeKind::Text {
        pointer_at: 0,
        length_at: 8,
    };
    assert_eq!(texts.params[0].ty.kind, text);
    let TypeKind::Text {
        pointer_at,
        length_at,
    } = texts.params[1].ty.kind
    else {
        panic!("{:?}", texts.params[1]);
    };
    assert!(pointer_at != length_at && pointer_at <= 16 && length_at <= 16);
    assert!(
        matches!(&texts.params[2].ty.kind, TypeKind::Pointer(Some(to)) if to.kind == texts.params[1].ty.kind)
    );

    let others = signature(&info, &program, "others");
    let expected = [
        "Color a @ arg0",
        "bool b @ arg1",
        "char c @ arg2",
        "&source::Point d @ arg3",
        "f64 e @ in a floating-point register",
        "[u8; 4] f @ arg4",
        "Point g @ *arg5",
    ];
    assert_eq!(shown(&others), expected);
    assert!(matches!(&others.params[0].ty.kind, TypeKind::Enum { values, .. } if &*values[1].1 == "Green"));
    assert_eq!(others.params[2].ty.kind, TypeKind::Char { signed: false });

    let make = signature(&info, &program, "make");
    let first = if NATIVE == MachineAbi::X86_64 {
        "arg1"
    } else {
        "arg0"
    };
    assert_eq!(shown(&make), [format!("u8 a @ {first}")]);
}

#[test]
fn compressed_sections_and_separate_debug_file() {
    let dir = TestDir::new("separate");
    let Some(program) = dir.compile("gcc", &["-O2", "-g"], C) else {
        return;
    };
    for format in ["none", "zlib", "zlib-gnu", "zstd"] {
        let option = format!("--compress-debug-sections={format}");
        match dir.run("objcopy", &[&option, "program"]) {
            true => check_c(&program),
            false => eprintln!("skipped: objcopy {option}"),
        }
    }
    if dir.run("objcopy", &["--only-keep-debug", "program", "debug"])
        && dir.run("objcopy", &["--strip-debug", "program"])
    {
        let file = File::open(&program).unwrap();
        assert!(DebugInfo::open(&file, None).unwrap().is_none());
        let info = open(&dir.0.join("debug"));
        assert_eq!(signature(&info, &program, "mixed").params.len(), 7);
    } else {
        eprintln!("skipped: no objcopy");
    }
}

/// Whether the signature of `numbers` is known, and why not.
fn reason(program: &Path) -> (bool, Option<String>) {
    let file = File::open(program).unwrap();
    let elf = ElfFile::open(file.try_clone().unwrap(), program).unwrap();
    let functions = crate::find::functions::all(&elf, program).unwrap();
    let numbers = functions
        .iter()
        .find(|function| &*function.name == "numbers")
        .unwrap();
    let signatures = SignatureSource::open(&file, &elf, program);
    let signature = signatures.of(numbers);
    let unread = signatures.unread(numbers.addr, signature.as_ref());
    (signature.is_some(), unread)
}

/// Debug information that is not read is not the same as none.
#[test]
fn unread_debug_information_has_a_reason() {
    let dir = TestDir::new("unread");
    for version in ["-gdwarf-5", "-gdwarf-4"] {
        if let Some(program) = dir.compile("gcc", &["-O1", version, "-gsplit-dwarf"], C) {
            assert_eq!(reason(&program), (true, None), "{version}");
            let split = open(&program).with_split_files(&program);
            check_mixed(&signature(&split, &program, "mixed"));
            let files = fs::read_dir(&dir.0).unwrap().map(|file| file.unwrap().path());
            let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "dwo"));
            files.for_each(|path| fs::remove_file(path).unwrap());
            let (known, reason) = reason(&program);
            assert!(
                !known && reason.as_ref().is_some_and(|reason| reason.ends_with(".dwo")),
                "{reason:?}"
            );
        }
    }
    if let Some(program) = dir.compile("gcc", &["-O1", "-g", "-gz=zlib"], C) {
        assert_eq!(reason(&program), (true, None));
        let file = File::options().read(true).write(true).open(&program).unwrap();
        let header = section_start(&program, ".debug_info") - 24;
        file.write_all_at(&77_u32.to_le_bytes(), header).unwrap();
        let (known, reason) = reason(&program);
        assert!(!known && reason.is_some_and(|reason| reason.ends_with("unknown compression 77")));
    }
    if let Some(program) = dir.compile("gcc", &["-O1", "-g0"], C) {
        assert_eq!(reason(&program), (false, None));
    }
}

/// Arguments that damage hides are not the same as none.
#[test]
fn damage_is_a_reason() {
    let dir = TestDir::new("damaged-units");
    let has_reason = |program: &Path| {
        let (known, reason) = reason(program);
        (known, reason.is_some_and(|reason| reason.contains("is damaged")))
    };
    for options in [["-gdwarf-4", "-O1"], ["-gdwarf-5", "-O1"], ["-g", "-gz=zlib"]] {
        let Some(program) = dir.compile("gcc", &options, C) else {
            return;
        };
        assert_eq!(has_reason(&program), (true, false), "{options:?}");
        let image = fs::read(&program).unwrap();
        let file = File::options().write(true).open(&program).unwrap();
        let sections = SectionReader::open(File::open(&program).unwrap()).unwrap();
        let damage = |name: &str, skipped: u64, bytes: &[u8]| {
            let section = sections.find(name).unwrap().unwrap();
            file.write_all_at(bytes, section.extent.offset + skipped).unwrap();
            let found = has_reason(&program);
            file.write_all_at(&image, 0).unwrap();
            found
        };
        for name in [".debug_info", ".debug_abbrev"] {
            assert_eq!(damage(name, 0, &[0xff; 16]), (false, true), "{options:?} {name}");
        }
        if options[1] != "-gz=zlib" {
            // A version that does not exist.
            assert_eq!(damage(".debug_info", 4, &[0x77; 2]), (false, true), "{options:?}");
        }
        // What comes before the damage is found.
        let half = sections.find(".debug_info").unwrap().unwrap().extent.size / 2;
        assert!(
            damage(".debug_info", half, &vec![0x7f; half as usize]).1,
            "{options:?}"
        );
    }
}

/// A package of two units, of which the program has one: the other one comes first.
/// Not with what gcc makes of DWARF 5: on that, `dwp` crashes and `llvm-dwp` does not end.
#[test]
fn split_units_are_found_in_packages() {
    let dir = TestDir::new("package");
    for (compiler, version) in [("gcc", "-gdwarf-4"), ("clang", "-gdwarf-5")] {
        let program = dir.0.join("program");
        let package = format!("{}.dwp", program.display());
        fs::write(dir.0.join("unit.c"), C).unwrap();
        fs::write(dir.0.join("other.c"), "long other(long a) { return a; }").unwrap();
        let options = ["-O1", version, "-gsplit-dwarf", "-c", "unit.c", "other.c"];
        let is_packed = dir.run(compiler, &options)
            && dir.run(compiler, &["unit.o", "-o", "program"])
            && dir.run("llvm-dwp", &["other.dwo", "unit.dwo", "-o", &package]);
        if !is_packed {
            eprintln!("skipped: no {compiler} or no llvm-dwp");
            continue;
        }
        fs::remove_file(dir.0.join("unit.dwo")).unwrap();
        let split = open(&program).with_split_files(&program);
        check_mixed(&signature(&split, &program, "mixed"));

        let addr = address(&program, "mixed");
        let bytes = fs::read(&package).unwrap();
        fs::write(&package, &bytes[..bytes.len() / 2]).unwrap();
        let split = open(&program).with_split_files(&program);
        assert_eq!(
            (split.signature(addr), split.missing_file(addr)),
            (None, Some(package.clone()))
        );
        fs::remove_file(&package).unwrap();
    }
}

/// Type units are in `.debug_types` in DWARF 4, and in `.debug_info` in DWARF 5.
#[test]
fn types_in_units_of_their_own() {
    let dir = TestDir::new("type-units");
    for (compiler, version) in [
        ("gcc", "-gdwarf-4"),
        ("gcc", "-gdwarf-5"),
        ("clang", "-gdwarf-4"),
        ("clang", "-gdwarf-5"),
    ] {
        let options = ["-O2", version, "-fdebug-types-section"];
        if let Some(program) = dir.compile(compiler, &options, C) {
            check_c(&program);
        }
    }
    for (compiler, all) in [("g++", "-g"), ("clang++", "-fstandalone-debug")] {
        for version in ["-gdwarf-4", "-gdwarf-5"] {
            let options = ["-O1", "-std=c++17", all, version, "-fdebug-types-section"];
            let Some(program) = dir.compile(compiler, &options, CPP) else {
                continue;
            };
            let all = signature(&open(&program), &program, "_ZN3net3all");
            assert_eq!(
                shown(&all)[..5],
                [
                    "const std::string & a @ arg0",
                    "std::string b @ *arg1",
                    "std::string_view c @ arg2 arg3",
                    "net::Mode d @ arg4",
                    "net::Owner e @ *arg5",
                ],
                "{compiler} {version}"
            );
        }
    }
}

/// GCC writes a section for each of them, before that of the compilation unit.
#[test]
fn types_in_split_units_of_their_own() {
    let dir = TestDir::new("split-type-units");
    for (compiler, version) in [
        ("gcc", "-gdwarf-4"),
        ("gcc", "-gdwarf-5"),
        ("clang", "-gdwarf-4"),
        ("clang", "-gdwarf-5"),
    ] {
        let options = ["-O1", version, "-gsplit-dwarf", "-fdebug-types-section"];
        if let Some(program) = dir.compile(compiler, &options, C) {
            let info = open(&program).with_split_files(&program);
            check_mixed(&signature(&info, &program, "mixed"));
            assert!(!info.met_damage(), "{compiler} {version}");
        }
    }
    // These sections are not joined.
    let options = [
        "-O1",
        "-gdwarf-5",
        "-gsplit-dwarf",
        "-fdebug-types-section",
        "-gz=zlib",
    ];
    if let Some(program) = dir.compile("gcc", &options, C) {
        let info = open(&program).with_split_files(&program);
        let missing = info.missing_file(address(&program, "mixed"));
        assert!(
            missing.is_some_and(|reason| reason.ends_with(
                ".dwo, which is of another compilation, or damaged, or has compressed type units"
            ))
        );
    }
}

/// What `dwz` moved to a supplementary file is found there.
#[test]
fn types_in_supplementary_file() {
    let dir = TestDir::new("shared");
    let Some(program) = dir.compile("g++", &["-O2", "-g"], CPP) else {
        return;
    };
    fs::copy(&program, dir.0.join("other")).unwrap();
    if !dir.run("dwz", &["-m", "shared", "program", "other"]) {
        eprintln!("skipped: no dwz");
        return;
    }
    let file = File::open(&program).unwrap();
    let shared = File::open(dir.0.join("shared")).unwrap();
    let info = DebugInfo::open(&file, Some(&shared)).unwrap().unwrap();
    let all = signature(&info, &program, "_ZN3net3all");
    assert_eq!(
        shown(&all)[..4],
        [
            "const std::string & a @ arg0",
            "std::string b @ *arg1",
            "std::string_view c @ arg2 arg3",
            "net::Mode d @ arg4",
        ]
    );
    // Without that file the types are unknown, but nothing is wrong.
    let alone = signature(&open(&program), &program, "_ZN3net3all");
    assert_ne!(shown(&alone), shown(&all));
    assert!(alone.params.iter().all(|param| param.ty.kind == TypeKind::Other));
    assert!(
        alone
            .params
            .iter()
            .all(|param| !matches!(&param.location, ValueLocation::Pieces(pieces) if pieces.is_empty()))
    );
}

/// A damaged file may give wrong answers, but it never hangs or panics.
#[test]
fn damaged_files_are_survived() {
    let dir = TestDir::new("damage");
    for options in [["-O2", "-gdwarf-4"], ["-O2", "-gdwarf-5"]] {
        let Some(program) = dir.compile("gcc", &options, C) else {
            return;
        };
        let image = fs::read(&program).unwrap();
        let starts = addresses(&open(&program));
        let start = usize::try_from(section_start(&program, ".debug_info")).unwrap();
        let file = File::options().read(true).write(true).open(&program).unwrap();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap() % below
        };
        let mut opened = 0;
        for _ in 0..1000 {
            let spots: Vec<usize> = (0..=next(8)).map(|_| start + next(image.len() - start)).collect();
            for &spot in &spots {
                let byte = [next(256) as u8, 0, 0xff, image[spot] ^ 1][next(4)];
                file.write_all_at(&[byte], spot as u64).unwrap();
            }
            if let Ok(Some(info)) = DebugInfo::open(&file, None) {
                opened += 1;
                for addr in addresses(&info).into_iter().chain(starts.iter().copied()) {
                    info.signature(addr);
                }
                info.inlined("everywhere");
            }
            for &spot in &spots {
                file.write_all_at(&image[spot..=spot], spot as u64).unwrap();
            }
        }
        assert!(opened > 500, "{opened}");
        check_c(&program);
    }
}

/// A unit whose range list cannot be read to its end may have code anywhere, so its functions are still found.
#[test]
fn functions_of_unit_with_damaged_ranges() {
    let dir = TestDir::new("ranges");
    let options = ["-O2", "-gdwarf-5", "-ffunction-sections"];
    let Some(program) = dir.compile("clang", &options, C) else {
        return;
    };
    let file = File::options().read(true).write(true).open(&program).unwrap();
    let header = section_start(&program, ".debug_rnglists");
    let read = |at: u64| {
        let mut number = [0; 4];
        file.read_exact_at(&mut number, at).unwrap();
        u64::from(u32::from_le_bytes(number))
    };
    let lists = read(header + 8);
    let offsets = header + 12;
    // The last list is the unit's. The kind of its first entry becomes one that does not exist.
    let list = offsets + read(offsets + 4 * (lists - 1));
    file.write_all_at(&[0x7f], list).unwrap();
    check_c(&program);
}

/// The list of a unit with so many parts is longer than what is read of it at first.
#[test]
fn functions_of_unit_with_many_ranges() {
    const FUNCTIONS: usize = 997;
    let dir = TestDir::new("many-ranges");
    let functions =
        (0..FUNCTIONS).map(|number| format!("int part{number}_(int number) {{ return number; }}\n"));
    let source: String = functions
        .chain(["int main(void) { return 0; }".to_owned()])
        .collect();
    for (compiler, version) in [
        ("clang", "-gdwarf-4"),
        ("clang", "-gdwarf-5"),
        ("gcc", "-gdwarf-5"),
    ] {
        let Some(program) = dir.compile(compiler, &["-O0", "-ffunction-sections", version], &source) else {
            continue;
        };
        let elf = ElfFile::open(File::open(&program).unwrap(), &program).unwrap();
        let functions = crate::find::functions::all(&elf, &program).unwrap();
        let info = open(&program);
        let parts = functions
            .iter()
            .filter(|function| function.name.starts_with("part"));
        let found = parts.filter(|part| {
            let signature = info.signature(part.addr);
            signature.is_some_and(|signature| shown(&signature) == ["int number @ arg0"])
        });
        assert_eq!(found.count(), FUNCTIONS, "{compiler} {version}");
    }
}

fn addresses(info: &DebugInfo) -> Vec<u64> {
    let units = &info.files.main;
    let functions = |unit: Rc<Unit>| units.index(&unit).functions.clone();
    units.all().flat_map(functions).map(|(addr, _)| addr).collect()
}

/// Where a section starts in the file.
fn section_start(program: &Path, name: &str) -> u64 {
    let sections = SectionReader::open(File::open(program).unwrap()).unwrap();
    sections.find(name).unwrap().unwrap().extent.offset
}
