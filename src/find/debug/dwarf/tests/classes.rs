// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! C++ classes that are passed by value: as bytes, or by invisible reference.

use super::*;

/// Name, members, and whether it is passed by reference. `%` stands for the name.
const CLASSES: [(&str, &str, bool); 31] = [
    ("Plain", "int a;", false),
    ("UserConstructor", "int a; %() : a(0) {}", false),
    ("DefaultedCopy", "int a; %() {} %(const %&) = default;", false),
    ("DefaultedDestructor", "int a; ~%() = default;", false),
    (
        "UserAssignment",
        "int a; %& operator=(const %&) { return *this; }",
        false,
    ),
    (
        "Converting",
        "int a; %(int b) : a(b) {} %(const Plain& b) : a(b.a) {}",
        false,
    ),
    (
        "TemplateCopy",
        "int a; template <class T> %(const T&) {} %() {}",
        false,
    ),
    (
        "DeletedCopy",
        "int a; %() {} %(const %&) = delete; %(%&&) = default;",
        false,
    ),
    (
        "PrivateCopy",
        "int a; %() {} %(%&&) = default; private: %(const %&) = default;",
        false,
    ),
    ("HoldsDefaulted", "DefaultedDestructor a;", false),
    ("DerivesDefaulted", "short b;", false),
    ("Static", "int a; static UserCopy other;", false),
    ("Pointer", "UserCopy* a;", false),
    ("UserCopy", "int a; %() {} %(const %& b) : a(b.a) {}", true),
    ("MutableCopy", "int a; %() {} %(%& b) : a(b.a) {}", true),
    ("UserMove", "int a; %() {} %(%&& b) : a(b.a) {}", true),
    ("UserDestructor", "int a; ~%() { sink = a; }", true),
    ("DefaultedLater", "int a; %() {} %(const %&);", true),
    ("OnlyDeleted", "int a; %() {} %(const %&) = delete;", true),
    (
        "AllDeleted",
        "int a; %() {} %(const %&) = delete; %(%&&) = delete;",
        true,
    ),
    (
        "MoveAssignment",
        "int a; %& operator=(%&&) { return *this; }",
        true,
    ),
    ("Virtual", "int a; virtual int f() { return a; }", true),
    ("VirtualDestructor", "int a; virtual ~%() = default;", true),
    ("VirtualBase", "int b;", true),
    ("HoldsCopy", "UserCopy a;", true),
    ("HoldsArray", "UserCopy a[2][2];", true),
    ("DerivesCopy", "int b;", true),
    ("HoldsDeep", "Box<Box<Box<Box<Box<Box<UserCopy>>>>>> a;", true),
    ("EmptyCopy", "%() {} %(const %&) { sink = 1; }", true),
    ("Empty", "", false),
    ("Union", "union { int b; float c; };", false),
];

const BASES: [(&str, &str); 3] = [
    ("DerivesDefaulted", "DefaultedDestructor"),
    ("VirtualBase", "virtual Plain"),
    ("DerivesCopy", "UserCopy"),
];

/// Classes of the standard library, and whether they are passed by reference.
const LIBRARY: [(&str, bool); 7] = [
    ("std::chrono::milliseconds", false),
    ("std::optional<int>", false),
    ("std::pair<int, int>", false),
    ("std::optional<std::string>", true),
    ("std::unique_ptr<int>", true),
    ("std::shared_ptr<int>", true),
    ("std::variant<int, std::string>", true),
];

fn source() -> String {
    let mut text =
        "#include <chrono>\n#include <memory>\n#include <optional>\n#include <string>\n#include <variant>\n\
                    int sink; struct UserCopy; template <class T> struct Box { T t; };\n"
            .to_owned();
    // Those that others contain come first.
    let contained = |name: &str| !matches!(name, "Plain" | "UserCopy" | "DefaultedDestructor");
    let mut classes = CLASSES;
    classes.sort_by_key(|(name, ..)| contained(name));
    for (name, members, _) in classes {
        let base = BASES.iter().find(|(derived, _)| *derived == name);
        let base = base.map_or(String::new(), |(_, base)| format!(": {base}"));
        text += &format!("struct {name} {base} {{ {} }};\n", members.replace('%', name));
    }
    text += "DefaultedLater::DefaultedLater(const DefaultedLater&) = default;\n";
    // GCC describes a class with virtual functions where its table of them is.
    text += "Virtual object; VirtualDestructor other_object; VirtualBase third_object;\n";
    let named = CLASSES.iter().map(|(name, ..)| *name);
    for (index, name) in named.chain(LIBRARY.iter().map(|(name, _)| *name)).enumerate() {
        text += &format!(
            "__attribute__((noinline, used)) int take{index}_({name} value, int more)\n\
             {{ sink = sizeof(value); asm volatile(\"\" :: \"r\"(&value)); return more; }}\n"
        );
    }
    text + "int main() {}\n"
}

#[test]
fn classes_are_passed_as_the_abi_says() {
    let dir = TestDir::new("classes");
    let source = source();
    // Clang describes other classes where their constructors are.
    for (compiler, all) in [("g++", "-g"), ("clang++", "-fstandalone-debug")] {
        for [level, version] in [
            ["-O0", "-gdwarf-5"],
            ["-O2", "-gdwarf-5"],
            ["-O0", "-gdwarf-4"],
            ["-O2", "-gdwarf-4"],
            ["-fdebug-types-section", "-gdwarf-4"],
            ["-fdebug-types-section", "-gdwarf-5"],
        ] {
            let options = [all, level, version, "-std=c++17"];
            let Some(program) = dir.compile(compiler, &options, &source) else {
                continue;
            };
            let info = open(&program);
            let own = CLASSES
                .iter()
                .map(|&(name, _, by_reference)| (name, by_reference));
            for (index, (name, by_reference)) in own.chain(LIBRARY).enumerate() {
                let symbol = format!("_Z{}take{index}_", format!("take{index}_").len());
                let take = signature(&info, &program, &symbol);
                let what = format!("{compiler} {options:?} {name}: {:?}", shown(&take));
                let value = &take.params[0].location;
                assert_eq!(
                    matches!(value, ValueLocation::Indirect(_)),
                    by_reference,
                    "{what}"
                );
                let words = match name {
                    "Empty" if NATIVE == MachineAbi::X86_64 => 0,
                    _ => 1,
                };
                let more = ValueLocation::Pieces(vec![LocationPiece::Argument(words)]);
                assert_eq!(take.params[1].location, more, "{what}");
            }
        }
    }
}

/// Classes with a constructor that copies if its last parameter has a default value, which GCC does not write.
const UNKNOWN: [(&str, &str); 4] = [
    (
        "Defaults",
        "int a; %() {} %(const %& b, int c = 0) : a(b.a + c) {}",
    ),
    (
        "MovesWithDefaults",
        "int a; %() {} %(%&& b, int c = 0) : a(b.a + c) {}",
    ),
    ("Holds", "Defaults a[2];"),
    (
        "OtherCopy",
        "int a; %() {} %(%&&) = default; %(const %& b, int c = 0) : a(b.a + c) {}",
    ),
];

/// Classes with such constructors of which other facts decide.
const KNOWN: [(&str, &str, bool); 10] = [
    (
        "Further",
        "int a; %() {} %(const %&) = default; %(const %& b, int c) : a(b.a + c) {}",
        false,
    ),
    ("Deleted", "int a; %() {} %(const %& b, int c) = delete;", false),
    (
        "Other",
        "int a; %() {} %(int b, const %& c) : a(b + c.a) {}",
        false,
    ),
    (
        "Template",
        "int a; %() {} template <class T> %(T& b, int c) : a(c) {}",
        false,
    ),
    ("Variadic", "int a; %() {} %(const %& b, ...) : a(b.a) {}", true),
    (
        "Destroyed",
        "int a; ~%() { sink = a; } %(const %& b, int c = 0) : a(b.a + c) {}",
        true,
    ),
    ("String", "std::string a;", true),
    ("Vector", "std::vector<int> a;", true),
    ("Map", "std::map<int, int> a;", true),
    ("Tuple", "std::tuple<int, int> a;", true),
];

#[test]
fn constructors_that_may_copy_leave_the_passing_unknown() {
    let unknown = UNKNOWN.map(|(name, members)| (name, members, None));
    let known = KNOWN.map(|(name, members, by_reference)| (name, members, Some(by_reference)));
    let classes: Vec<_> = unknown.into_iter().chain(known).collect();
    let mut source =
        "#include <map>\n#include <string>\n#include <tuple>\n#include <vector>\nint sink;\n".to_owned();
    for (name, members, _) in &classes {
        source += &format!(
            "struct {name} {{ {} }};\n\
             __attribute__((noinline, used)) int take({name} value, int more)\n\
             {{ sink = sizeof(value); asm volatile(\"\" :: \"r\"(&value)); return more; }}\n",
            members.replace('%', name)
        );
    }
    source += "int main() { Template a; Template b(a, 1); Further c; take(c, 1); }\n";
    let dir = TestDir::new("may-copy");
    let Some(program) = dir.compile("g++", &["-g", "-O0", "-std=c++17"], &source) else {
        return;
    };
    let info = open(&program);
    for (name, _, by_reference) in classes {
        let take = signature(&info, &program, &format!("_Z4take{}{name}i", name.len()));
        let [value, more] = &take.params[..] else {
            panic!("{name}: {:?}", shown(&take));
        };
        let found = match (&value.location, &more.location) {
            (ValueLocation::Unavailable(_), ValueLocation::Unavailable(_)) => None,
            (value, _) => Some(matches!(value, ValueLocation::Indirect(_))),
        };
        assert_eq!(found, by_reference, "{name}: {:?}", shown(&take));
    }
}

#[test]
fn pointers_to_members_take_one_or_two_words() {
    const SOURCE: &str = "
struct S { int n; int get(); };
__attribute__((noinline, used)) int take(int S::*a, int (S::*b)(), int c) { asm volatile(\"\" :: \"r\"(&a), \"r\"(&b)); return c; }
int main() {}
";
    let dir = TestDir::new("to-members");
    for compiler in ["g++", "clang++"] {
        let Some(program) = dir.compile(compiler, &["-g", "-O0"], SOURCE) else {
            continue;
        };
        let take = signature(&open(&program), &program, "_Z4takeM1SiMS_FivEi");
        let locations: Vec<String> = take
            .params
            .iter()
            .map(|param| location_text(&param.location))
            .collect();
        assert_eq!(locations, ["arg0", "arg1 arg2", "arg3"], "{compiler}");
    }
}

/// GCC describes such a parameter as what is behind an address that the caller pushed.
#[test]
fn classes_whose_address_is_on_the_stack_have_places() {
    const SOURCE: &str = "
struct Copied { long n; Copied(const Copied &other) : n(other.n) {} };
__attribute__((noinline, used)) long take(long a, long, long, long, long, long, Copied b) { return a + b.n; }
int main() {}
";
    let dir = TestDir::new("pushed");
    for (compiler, all, level) in [
        ("g++", "-g", "-O0"),
        ("g++", "-g", "-O2"),
        ("clang++", "-fstandalone-debug", "-O0"),
    ] {
        let Some(program) = dir.compile(compiler, &["-g", all, level], SOURCE) else {
            continue;
        };
        let take = signature(&open(&program), &program, "_Z4takellllll6Copied");
        let ends = [0, 6].map(|index| location_text(&take.params[index].location));
        let pushed = match NATIVE {
            MachineAbi::X86_64 => format!("*{}", stack(0)),
            MachineAbi::Aarch64 => "*arg6".to_owned(),
        };
        assert_eq!(ends, ["arg0".to_owned(), pushed], "{compiler} {level}");
    }
}

/// Clang omits the first parameter, so the others are not where those that it describes would be.
#[test]
fn omitted_parameters_are_noticed_by_the_places_of_others() {
    const SOURCE: &str = "
struct Copied { long n; Copied(const Copied &other) : n(other.n) {} };
__attribute__((noinline, used)) long take(Copied, long a, long, long, long, long, long b) { return a + b; }
int main() {}
";
    let dir = TestDir::new("omitted");
    let Some(program) = dir.compile("clang++", &["-g", "-O0"], SOURCE) else {
        return;
    };
    let take = signature(&open(&program), &program, "_Z4take6Copiedllllll");
    let places: Vec<String> = take
        .params
        .iter()
        .map(|param| location_text(&param.location))
        .collect();
    let named = |name: &str| {
        let at = take
            .params
            .iter()
            .position(|param| param.name.as_deref() == Some(name));
        at.map(|at| &*places[at])
    };
    assert!(
        [Some("arg1"), Some(location::MOVED), Some(location::UNKNOWN_TYPE)].contains(&named("a")),
        "{places:?}"
    );
}

/// Neither parameters nor results are known without types.
#[test]
fn line_tables_tell_nothing_of_parameters() {
    let dir = TestDir::new("lines");
    let c = "long triple(long a) { return 3 * a; } void nothing(void) {} int main() { return triple(0); }";
    for (compiler, option) in [("gcc", "-g1"), ("clang", "-gline-tables-only")] {
        if let Some(program) = dir.compile(compiler, &["-O2", option], c) {
            assert_eq!(addressed(&program, "triple"), None, "{compiler}");
            assert_eq!(addressed(&program, "nothing"), None, "{compiler}");
        }
    }
    if let Some(program) = dir.compile("gcc", &["-O2", "-g"], c) {
        assert!(addressed(&program, "triple").is_some_and(|triple| triple.returns.is_some()));
        assert!(addressed(&program, "nothing").is_some_and(|nothing| nothing.returns.is_none()));
    }
    let rust = "#[no_mangle] #[inline(never)] pub fn triple(a: i64) -> i64 { 3 * a }\n\
                fn main() { std::process::exit(triple(0) as i32) }";
    for debug in ["1", "line-tables-only"] {
        let option = format!("-Cdebuginfo={debug}");
        if let Some(program) = dir.compile("rustc", &[&option], rust) {
            assert_eq!(addressed(&program, "triple"), None, "{debug}");
        }
    }
}

fn addressed(program: &Path, symbol: &str) -> Option<FunctionSignature> {
    let elf = ElfFile::open(File::open(program).unwrap(), program).unwrap();
    let functions = crate::find::functions::all(&elf, program).unwrap();
    let function = functions.iter().find(|function| *function.name == *symbol)?;
    open(program).signature(function.addr)
}
