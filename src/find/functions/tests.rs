// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use object::elf as format;

use super::*;
use crate::find::elf::image::{ElfImage, ImageSymbol, file_with};
use crate::find::host::loader::find_library;
use crate::find::spec::{ProbeSubject, parse};

fn opened(image: &ElfImage) -> ElfFile {
    ElfFile::open(image.file(), Path::new("made-up")).unwrap()
}

fn open(path: &Path) -> ElfFile {
    ElfFile::open(fs::File::open(path).unwrap(), path).unwrap()
}

fn pattern(text: &str) -> NamePattern {
    match parse(&format!("app:{text}")).unwrap().subject {
        ProbeSubject::Function { name, .. } => name,
        other => panic!("{other:?}"),
    }
}

/// The names of matching functions, by address.
fn names(elf: &ElfFile, path: &Path, text: &str) -> Vec<String> {
    let found = select(elf, path, &pattern(text)).unwrap();
    assert!(
        found.windows(2).all(|pair| pair[0].addr < pair[1].addr),
        "{found:?}"
    );
    found
        .into_iter()
        .map(|function| function.name.to_string())
        .collect()
}

fn near(elf: &ElfFile, name: &str, n: usize) -> Vec<String> {
    nearest(elf, Path::new("made-up"), name, n)
}

/// A directory that is removed at the end of the test.
struct TestDir(PathBuf);

impl TestDir {
    fn new(name: &str) -> TestDir {
        let path = std::env::temp_dir().join(format!("find-functions-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        TestDir(path)
    }

    /// Runs a shell script in this directory. True if all its commands succeed.
    fn run(&self, script: &str) -> bool {
        let mut shell = Command::new("sh");
        let status = shell
            .args(["-ec", script])
            .current_dir(&self.0)
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    }

    /// Builds the program `app` with local functions `visit` and `inner`. Prints a message and returns `None`
    /// without a compiler.
    fn with_program(name: &str, options: &str) -> Option<TestDir> {
        const SOURCE: &str = "
            static int __attribute__((noinline)) inner(int n) { __asm__ volatile(\"\"); return n * 3; }
            static int __attribute__((noinline)) visit(int n) { return inner(n) + inner(n + 1); }
            int main(int argc, char **argv) { (void)argv; return visit(argc) + visit(2); }";
        let dir = TestDir::new(name);
        fs::write(dir.0.join("app.c"), SOURCE).unwrap();
        let built = dir.run(&format!("cc -O1 -g {options} -o app app.c"));
        if !built {
            eprintln!("skipped: no C compiler");
        }
        built.then_some(dir)
    }

    fn app(&self) -> PathBuf {
        self.0.join("app")
    }

    fn finds(&self, name: &str) -> Vec<String> {
        let path = self.app();
        names(&open(&path), &path, name)
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `PLAIN`, compressed with `xz`.
const XZ: [u8; 92] = [
    0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00, 0x21, 0x01, 0x16,
    0x00, 0x00, 0x00, 0x74, 0x2f, 0xe5, 0xa3, 0xe0, 0x00, 0x2c, 0x00, 0x20, 0x5d, 0x00, 0x33, 0x1d, 0x49,
    0xff, 0xa9, 0x61, 0xfb, 0x13, 0x08, 0x4c, 0x4d, 0xe6, 0x7a, 0x8f, 0x6b, 0xea, 0xe4, 0x18, 0xc3, 0x39,
    0xfe, 0x25, 0x73, 0x08, 0x34, 0x82, 0xf3, 0x5c, 0xff, 0x73, 0x6a, 0x00, 0x00, 0x2c, 0x6a, 0xd8, 0x6b,
    0x60, 0x91, 0x94, 0x7c, 0x00, 0x01, 0x3c, 0x2d, 0xa1, 0x90, 0xaa, 0x16, 0x1f, 0xb6, 0xf3, 0x7d, 0x01,
    0x00, 0x00, 0x00, 0x00, 0x04, 0x59, 0x5a,
];
const PLAIN: &[u8] = b"functions functions functions of an ELF file\n";

/// Pseudo-random numbers, the same in every run.
struct TestRandom(u64);

impl TestRandom {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % sides
    }

    /// Changes a few bytes, or truncates.
    fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut mutated = bytes.to_vec();
        for _ in 0..1 + self.roll(4) {
            let at = self.roll(mutated.len());
            match self.roll(5) {
                0 => mutated[at] = 0xff,
                1 => mutated[at] = 0,
                2 => mutated[at] ^= 1 << self.roll(8),
                3 => mutated[at] = self.roll(256) as u8,
                _ => mutated.truncate(at.max(1)),
            }
        }
        mutated
    }
}

fn local(name: &'static str, at: u64) -> ImageSymbol {
    ImageSymbol {
        local: true,
        ..ImageSymbol::new(name, at)
    }
}

fn image(dynamic: Vec<ImageSymbol>, local: Vec<ImageSymbol>) -> ElfFile {
    opened(&ElfImage {
        dynamic,
        local,
        sections: true,
        ..ElfImage::default()
    })
}

fn made_up() -> ElfFile {
    image(
        vec![
            ImageSymbol::new("memalign", 0),
            ImageSymbol::new("aligned_alloc", 0),
            ImageSymbol::new("malloc", 16),
        ],
        vec![
            local("__libc_malloc", 16),
            local("_ZN3net5Proxy4readEi", 32),
            local("_ZN3net5Proxy4readEl", 48),
            local("_RNvMC3appNtB2_3Box4open", 64),
            local("twin", 80),
            local("twin", 96),
            local("visit.cold", 112),
            local("visit.cold.3", 128),
            local("visit.part.0", 144),
        ],
    )
}

#[test]
fn exact_name_selection() {
    let (elf, path) = (made_up(), Path::new("made-up"));
    let names = |text| names(&elf, path, text);
    assert_eq!(names("malloc"), ["malloc"]);
    assert_eq!(names("aligned_alloc"), ["aligned_alloc"], "the exact name");
    assert_eq!(names("__libc_malloc"), ["__libc_malloc"]);
    assert_eq!(
        names("twin"),
        ["twin", "twin"],
        "local functions of several source files"
    );
    assert_eq!(names("absent"), [""; 0]);
    assert_eq!(names("visit.cold"), [""; 0]);
    let overloads = ["_ZN3net5Proxy4readEi", "_ZN3net5Proxy4readEl"];
    assert_eq!(names("net::Proxy::read"), overloads);
    assert_eq!(names("net::Proxy::read(int)"), overloads[..1]);
    assert_eq!(names("_ZN3net5Proxy4readEl"), overloads[1..]);
    assert_eq!(names("Proxy::read"), [""; 0]);
    assert_eq!(names("app::Box::open"), ["_RNvMC3appNtB2_3Box4open"]);
    assert_eq!(names("<app::Box>::open"), ["_RNvMC3appNtB2_3Box4open"]);
}

#[test]
fn exported_function_hides_local_ones_of_its_name() {
    let elf = image(
        vec![],
        vec![local("f", 0), ImageSymbol::new("f", 16), local("f", 32)],
    );
    let found = select(&elf, Path::new("made-up"), &pattern("f")).unwrap();
    assert_eq!(
        found.iter().map(|f| f.addr - elf.entry()).collect::<Vec<_>>(),
        [16]
    );
}

#[test]
fn pattern_selection() {
    let (elf, path) = (made_up(), Path::new("made-up"));
    let names = |text| names(&elf, path, text);
    assert_eq!(names("*al*"), ["memalign", "malloc"], "the best name of each");
    assert_eq!(names("__*"), ["__libc_malloc"], "the best name among the matches");
    assert_eq!(
        names("net::Proxy::*"),
        ["_ZN3net5Proxy4readEi", "_ZN3net5Proxy4readEl"]
    );
    assert_eq!(
        names("net::Proxy::r??d"),
        ["_ZN3net5Proxy4readEi", "_ZN3net5Proxy4readEl"]
    );
    assert_eq!(names("*(long)"), ["_ZN3net5Proxy4readEl"]);
    assert_eq!(names("app::*::open"), ["_RNvMC3appNtB2_3Box4open"]);
    assert_eq!(names("/read.int.$/"), ["_ZN3net5Proxy4readEi"]);
    assert_eq!(names("/^malloc$/"), ["malloc"]);
    assert_eq!(names("visit*"), ["visit.part.0"], "cold parts are jumped to");
    assert_eq!(names("fn_*"), [""; 0]);
    assert_eq!(all(&elf, path).unwrap().len(), 8);
}

#[test]
fn ifunc_symbols_are_marked_under_each_name() {
    let chosen = ImageSymbol {
        kind: format::STT_GNU_IFUNC,
        ..ImageSymbol::new("memcpy", 0)
    };
    let elf = image(vec![chosen], vec![local("a", 0)]);
    for text in ["memcpy", "*"] {
        let found = select(&elf, Path::new("made-up"), &pattern(text)).unwrap();
        assert!(found.len() == 1 && found[0].ifunc, "{text}: {found:?}");
    }
}

/// glibc for x86-64 has two: the old one runs a script without `#!` by the shell.
#[cfg(target_arch = "x86_64")]
#[test]
fn versions_of_exported_functions() {
    let path = find_library("libc").unwrap();
    let elf = open(&path);
    let addrs = |text: &str| -> Vec<u64> {
        let found = select(&elf, &path, &pattern(text)).unwrap();
        found.iter().map(|function| function.addr).collect()
    };
    let (old, new) = (addrs("posix_spawn@GLIBC_2.2.5"), addrs("posix_spawn@@GLIBC_2.15"));
    if old.is_empty() {
        eprintln!("skipped: the C library is not glibc");
        return;
    }
    assert!(
        old.len() == 1 && new.len() == 1 && old != new,
        "{old:x?} {new:x?}"
    );
    let mut both = [old, new].concat();
    both.sort_unstable();
    assert_eq!(addrs("posix_spawn"), both);
    assert_eq!(addrs("posix_spaw[n]"), both);
    assert_eq!(addrs("posix_spawn@GLIBC_9"), [0; 0]);
}

#[test]
fn characters_of_patterns_occur_in_names() {
    let functions = [
        "main.(*Conn).Read",
        "main.(*TLSConn).Read",
        "main.Map[int]",
        "_ZN1AmlEi",
        "_ZN1AmLEi",
        "_ZN1AplEi",
        "_Z1fPc",
        "_Z1fPKci",
    ];
    let local = functions
        .iter()
        .zip(0..)
        .map(|(name, at)| local(name, at * 16))
        .collect();
    let elf = image(vec![], local);
    let names = |text| names(&elf, Path::new("made-up"), text);
    assert_eq!(names("main.(*Conn).Read"), ["main.(*Conn).Read"]);
    assert_eq!(names("main.(*Con*).Read"), functions[..2]);
    assert_eq!(names(r"main.(\*Con*).Read"), functions[..1]);
    assert_eq!(names("main.Map[int]"), ["main.Map[int]"]);
    assert_eq!(names("A::operator*"), ["_ZN1AmlEi"]);
    assert_eq!(names("A::operator*(int)"), ["_ZN1AmlEi"]);
    assert_eq!(names("A::operator*="), ["_ZN1AmLEi"]);
    assert_eq!(names(r"A::operator\*?"), ["_ZN1AmLEi"]);
    assert_eq!(names("A::operator??"), ["_ZN1AmLEi"]);
    assert_eq!(names("f(char*)"), ["_Z1fPc"]);
    assert_eq!(names("f(const char*, int)"), ["_Z1fPKci"]);
    assert_eq!(names("{_Z1fP*,main.M*}"), ["main.Map[int]", "_Z1fPc", "_Z1fPKci"]);
    assert_eq!(names("main.[L-N]*"), ["main.Map[int]"]);
}

#[test]
fn names_have_several_spellings() {
    let functions = [
        "_Z5greetB5cxx11i",
        "_Z5greetB5cxx11l",
        "_Z3lenNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE",
        "_ZNK3app1S4textB5cxx11Ev",
    ];
    let local = functions
        .iter()
        .zip(0..)
        .map(|(name, at)| local(name, at * 16))
        .collect();
    let elf = image(vec![], local);
    let names = |text| names(&elf, Path::new("made-up"), text);
    for text in ["greet", "greet[abi:cxx11]", "greet*"] {
        assert_eq!(names(text), functions[..2], "{text}");
    }
    for text in ["greet(int)", "greet[abi:cxx11](int)", "greet(int)*"] {
        assert_eq!(names(text), functions[..1], "{text}");
    }
    for text in [
        "len",
        "len(std::string)",
        "len(std::__cxx11::string)",
        "len(std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >)",
        "len(std::str*)",
    ] {
        assert_eq!(names(text), functions[2..3], "{text}");
    }
    for text in [
        "app::S::text",
        "app::S::text()",
        "app::S::text() const",
        "app::S::text[abi:cxx11]() const",
    ] {
        assert_eq!(names(text), functions[3..], "{text}");
    }
}

#[test]
fn specialized_copies_belong_to_their_function() {
    let both = vec![
        local("f", 0),
        local("f.constprop.0.isra.0", 16),
        local("f.part.0", 32),
        local("f.cold", 48),
        local("_Z1gi.constprop.0", 64),
        local("h.isra.0", 80),
    ];
    let elf = image(vec![], both.clone());
    let names_of = |text| names(&elf, Path::new("made-up"), text);
    assert_eq!(names_of("f"), ["f", "f.constprop.0.isra.0"]);
    assert_eq!(names_of("f.constprop.0.isra.0"), ["f.constprop.0.isra.0"]);
    assert_eq!(names_of("g"), ["_Z1gi.constprop.0"]);
    assert_eq!(names_of("g(int)"), ["_Z1gi.constprop.0"]);
    assert_eq!(names_of("h"), ["h.isra.0"]);
    assert_eq!(names_of("{h,missing}"), ["h.isra.0"]);
    let elf = image(vec![ImageSymbol::new("f", 0)], both);
    assert_eq!(
        names(&elf, Path::new("made-up"), "f"),
        ["f", "f.constprop.0.isra.0"],
        "exported"
    );
}

#[test]
fn parts_that_are_left_out_are_no_part_of_the_name_if_nothing_else_has_it() {
    let symbols = vec![
        local("_ZN2ns12_GLOBAL__N_14anonEi", 0),
        local("_ZN2ns3twoEi", 16),
        local("_ZN2ns12_GLOBAL__N_13twoEi", 32),
        local(
            "_ZN38_$LT$m..P$u20$as$u20$m..walk..Walk$GT$2go17h0123456789abcdefE",
            48,
        ),
        local("_Z3vecSt6vectorIiSaIiEE", 64),
    ];
    let elf = image(vec![], symbols);
    let names_of = |text| names(&elf, Path::new("made-up"), text);
    for text in ["ns::anon", "ns::anon(int)", "ns::{anonymous}::anon"] {
        assert_eq!(names_of(text), ["_ZN2ns12_GLOBAL__N_14anonEi"], "{text}");
    }
    assert_eq!(names_of("ns::two"), ["_ZN2ns3twoEi"]);
    let walk = ["_ZN38_$LT$m..P$u20$as$u20$m..walk..Walk$GT$2go17h0123456789abcdefE"];
    assert_eq!(names_of("m::P::go"), walk);
    assert_eq!(names_of("<m::P as m::walk::Walk>::go"), walk);
    assert_eq!(names_of("vec(std::vector<int>)"), ["_Z3vecSt6vectorIiSaIiEE"]);
}

#[test]
fn untyped_symbols_are_functions_unless_they_are_inside_of_one() {
    let untyped = |name, at, is_local| ImageSymbol {
        kind: format::STT_NOTYPE,
        size: 0,
        local: is_local,
        ..ImageSymbol::new(name, at)
    };
    let symbols = vec![
        local("typed", 0),
        untyped("inside", 4, false),
        untyped("first", 8, false),
        untyped("label", 12, true),
        untyped("second", 16, false),
        untyped("_etext", 24, false),
    ];
    let elf = image(vec![], symbols);
    let found = all(&elf, Path::new("made-up")).unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|f| (&*f.name, f.addr - elf.entry(), f.size))
        .collect();
    assert_eq!(found[..2], [("typed", 0, 8), ("first", 8, 8)]);
    assert_eq!(found[2].0, "second");
    assert!(found.len() == 3 && found[2].2 > 0, "{found:?}");
}

#[test]
fn a_name_is_that_of_all_versions() {
    let versions = vec![
        local("f@OLD", 0),
        local("f@@NEW", 16),
        local("g@OLD", 32),
        local("f@OLDER", 0),
    ];
    let elf = image(vec![], versions);
    let found = all(&elf, Path::new("made-up")).unwrap();
    let found: Vec<_> = found.iter().map(|f| (&*f.name, f.addr - elf.entry())).collect();
    assert_eq!(found, [("f", 0), ("f", 16), ("g", 32)]);
    assert_eq!(names(&elf, Path::new("made-up"), "f"), ["f", "f"]);
    assert_eq!(names(&elf, Path::new("made-up"), "f*"), ["f", "f"]);
}

#[test]
fn frame_pointers_are_set_behind_the_prologue_of_functions_that_use_them() {
    for (options, uses) in [("-fno-omit-frame-pointer", true), ("-fomit-frame-pointer", false)] {
        let Some(dir) = TestDir::with_program(&format!("frames{options}"), options) else {
            return;
        };
        let (elf, path) = (open(&dir.app()), dir.app());
        let visit = select(&elf, &path, &pattern("visit")).unwrap().remove(0);
        let known = FramePointers::read(&elf);
        assert!(!known.is_set(visit.addr), "{options}: at the first instruction");
        assert_eq!(known.is_set(visit.addr + 8), uses, "{options}");
        assert!(!known.is_set(0) && !known.is_set(u64::MAX), "not known");
    }
}

#[test]
fn containing_finds_the_function_of_an_address() {
    let (elf, path) = (made_up(), Path::new("made-up"));
    let name = |at| containing(&elf, path, elf.entry() + at).unwrap().map(|f| f.name);
    assert_eq!(name(0).as_deref(), Some("memalign"));
    assert_eq!(name(16 + 7).as_deref(), Some("malloc"));
    assert_eq!(name(16 + 8), None, "behind its end");
    assert_eq!(name(112 + 4).as_deref(), Some("visit.cold"));
    assert_eq!(containing(&elf, path, 0).unwrap(), None);
    assert_eq!(containing(&elf, path, u64::MAX).unwrap(), None);
}

#[test]
fn nearest_names_come_first() {
    let names = [
        "malloc",
        "calloc",
        "malloc_usable_size",
        "__libc_malloc",
        "free",
        "readline",
    ];
    let dynamic = names
        .iter()
        .zip(0..)
        .map(|(name, at)| ImageSymbol::new(name, at * 16))
        .collect();
    let elf = opened(&ElfImage {
        dynamic,
        ..ElfImage::default()
    });
    assert_eq!(near(&elf, "mallok", 2), ["malloc", "calloc"]);
    assert_eq!(
        near(&elf, "MALLOC", 9),
        ["malloc", "calloc", "malloc_usable_size", "__libc_malloc"]
    );
    assert_eq!(near(&elf, "readlines", 3), ["readline"]);
    assert_eq!(near(&elf, "read", 3), ["readline"]);
    assert!(near(&elf, "getaddrinfo", 3).is_empty());
    assert!(near(&elf, "", 3).is_empty());
    assert!(near(&elf, "malloc", 0).is_empty());
}

#[test]
fn overloads_are_nearest_to_other_parameters() {
    let symbols = vec![
        local("_Z4takei", 0),
        local("_Z4takePKc", 16),
        local("cfun", 32),
        local("_Z5takesi", 48),
    ];
    let elf = image(vec![], symbols);
    assert_eq!(near(&elf, "take(long)", 3), ["take(int)", "take(char const*)"]);
    assert_eq!(near(&elf, "cfun(int)", 3), ["cfun"]);
    assert_eq!(near(&elf, "takez(int)", 1), ["take"]);
}

#[test]
fn nearest_names_are_demangled() {
    let elf = made_up();
    assert_eq!(near(&elf, "net::Proxy::raed", 3), ["net::Proxy::read"]);
    assert_eq!(near(&elf, "Proxy::raed", 3), ["net::Proxy::read"]);
    assert_eq!(near(&elf, "app::Bx::open", 3), ["app::Box::open"]);
    assert_eq!(near(&elf, "proxy", 3), ["net::Proxy::read"]);
    assert_eq!(near(&elf, "opan", 3), ["app::Box::open"]);
    assert_eq!(near(&elf, "visit.col", 3), [""; 0], "cold parts are no functions");
}

#[test]
fn stripped_program_has_functions_from_unwind_tables() {
    let Some(dir) = TestDir::with_program("stripped", "") else {
        return;
    };
    let path = dir.app();
    let whole: Vec<FunctionSymbol> = ["inner", "visit", "main"]
        .iter()
        .flat_map(|name| select(&open(&path), &path, &pattern(name)).unwrap())
        .collect();
    assert_eq!(whole.len(), 3);
    assert_eq!(dir.finds("fn_*"), [""; 0], "everything has a name");
    assert!(dir.run("strip -s app"));
    let elf = open(&path);
    for function in whole {
        let name = format!("fn_{:#x}", function.addr);
        let found = select(&elf, &path, &pattern(&name)).unwrap();
        assert_eq!(
            found,
            [FunctionSymbol {
                name: name.into(),
                ..function.clone()
            }],
            "{}",
            function.name
        );
        assert_eq!(
            containing(&elf, &path, function.addr + 1).unwrap(),
            found.first().cloned()
        );
    }
    assert_eq!(names(&elf, &path, "inner"), [""; 0]);
    assert!(!elf.is_go());
    // Without section headers, the tables are found through PT_GNU_EH_FRAME.
    let mut bytes = fs::read(&path).unwrap();
    bytes[40..48].fill(0);
    let headless = ElfFile::open(file_with(&bytes), &path).unwrap();
    let found = all(&headless, &path).unwrap();
    assert!(
        all(&elf, &path)
            .unwrap()
            .iter()
            .all(|function| found.contains(function)),
        "{found:?}"
    );
}

#[test]
fn debug_files_are_found() {
    let Some(dir) = TestDir::with_program("debug", "-Wl,--build-id=none") else {
        return;
    };
    let linked = "objcopy --only-keep-debug app app.debug && strip -s app && objcopy --add-gnu-debuglink=app.debug app";
    assert!(dir.run(linked));
    assert_eq!(dir.finds("inner"), ["inner"]);
    assert_eq!(dir.finds("vis*"), ["visit"]);
    assert_eq!(nearest(&open(&dir.app()), &dir.app(), "vist", 1), ["visit"]);
    assert!(dir.run("mkdir .debug && mv app.debug .debug"));
    assert_eq!(dir.finds("inner"), ["inner"]);
    assert!(dir.run("echo >> .debug/app.debug"));
    assert_eq!(dir.finds("inner"), [""; 0], "another checksum");
    assert!(dir.run("rm .debug/app.debug && mkfifo .debug/app.debug"));
    assert_eq!(dir.finds("inner"), [""; 0], "a pipe without a writer");
}

#[test]
fn debug_file_of_another_build_is_ignored() {
    let Some(dir) = TestDir::with_program("build", "-Wl,--build-id=0x1234567890abcdef") else {
        return;
    };
    assert_eq!(
        open(&dir.app()).build_id().unwrap(),
        0x1234567890abcdef_u64.to_be_bytes()
    );
    assert!(dir.run("objcopy --only-keep-debug app app.debug; cc -O1 -Wl,--build-id=0xfe -o other app.c"));
    assert!(dir.run("strip -s app && objcopy --add-gnu-debuglink=app.debug app"));
    assert!(dir.run("echo >> app.debug"));
    assert_eq!(
        dir.finds("inner"),
        ["inner"],
        "the build id is right, whatever the checksum"
    );
    assert!(dir.run("mv other app.debug"));
    assert_eq!(dir.finds("inner"), [""; 0]);
}

#[test]
fn mini_debug_info_is_read() {
    let Some(dir) = TestDir::with_program("mini", "") else {
        return;
    };
    let packed = "objcopy --strip-debug app mini && strip -s app && xz mini &&
        objcopy --add-section .gnu_debugdata=mini.xz app";
    if !dir.run(packed) {
        eprintln!("skipped: no xz");
        return;
    }
    assert_eq!(dir.finds("inner"), ["inner"]);
    assert_eq!(dir.finds("vis*"), ["visit"]);
    let bytes = fs::read(dir.app()).unwrap();
    let mut dice = TestRandom(1);
    for _ in 0..300 {
        read_everything(&dice.mutate(&bytes));
    }
}

fn read_everything(bytes: &[u8]) {
    let path = Path::new("made-up");
    let Ok(elf) = ElfFile::open(file_with(bytes), path) else {
        return;
    };
    let _ = (all(&elf, path), containing(&elf, path, elf.entry()));
    let _ = (elf.is_go(), elf.build_id());
    let _ = FramePointers::read(&elf).is_set(elf.entry());
    for text in ["inner", "fn_0x1000", "net::f", "*n?r*"] {
        let _ = select(&elf, path, &pattern(text));
    }
}

#[test]
fn decompression_of_mutated_data() {
    assert_eq!(stripped::decompressed(&XZ).as_deref(), Some(PLAIN));
    assert_eq!(stripped::decompressed(b""), None);
    let mut dice = TestRandom(1);
    for _ in 0..4000 {
        let mutated = dice.mutate(&XZ);
        // Data that passes the checksums must be the original.
        assert!(
            stripped::decompressed(&mutated).is_none_or(|bytes| bytes == PLAIN),
            "{mutated:x?}"
        );
    }
}

#[test]
fn debug_links_are_parsed() {
    let name =
        |bytes: &[u8]| stripped::DebugLink::parse(bytes).map(|link| (link.name.to_owned(), link.checksum));
    assert_eq!(
        name(b"app.dbg\0\x01\x02\x03\x04"),
        Some(("app.dbg".into(), 0x0403_0201))
    );
    assert_eq!(name(b"app\0\x01\0\0\0"), Some(("app".into(), 1)));
    assert_eq!(name(b"app.d\0\0\0\x01\0\0\0"), Some(("app.d".into(), 1)));
    for bad in [
        "",
        "app",
        "app\0",
        "app.d\0\0\0\x01\0\0",
        "\0\0\0\0\x01\0\0\0",
        "../x\0\0\0\0\x01\0\0\0",
        "..\0\0\x01\0\0\0",
    ] {
        assert_eq!(name(bad.as_bytes()), None, "{bad:?}");
    }
}

#[test]
fn debug_file_paths() {
    let of = |path: &str| {
        let search = stripped::DebugFileSearch::of(Path::new(path));
        let paths = [
            search.paths_by_id(&[0xab, 0xcd]),
            search.paths_by_name("app.debug".as_ref()),
        ]
        .concat();
        paths
            .iter()
            .map(|path| path.display().to_string())
            .collect::<Vec<_>>()
    };
    let host = [
        "/usr/lib/debug/.build-id/ab/cd.debug",
        "/nowhere/bin/app.debug",
        "/nowhere/bin/.debug/app.debug",
        "/usr/lib/debug/nowhere/bin/app.debug",
    ];
    assert_eq!(of("/nowhere/bin/app"), host);
    let container = [
        "/proc/17/root/usr/lib/debug/.build-id/ab/cd.debug",
        "/usr/lib/debug/.build-id/ab/cd.debug",
        "/proc/17/root/nowhere/bin/app.debug",
        "/proc/17/root/nowhere/bin/.debug/app.debug",
        "/proc/17/root/usr/lib/debug/nowhere/bin/app.debug",
        "/usr/lib/debug/nowhere/bin/app.debug",
    ];
    assert_eq!(of("/proc/17/root/nowhere/bin/app"), container);
}

/// Unwind tables of a function of 16 bytes at 0x1000, its cold part at 0x2000 with a complete frame, and
/// another function at 0x1010. Their common entry ends with so many bytes of padding.
fn unwind_tables(padding: usize) -> Vec<u8> {
    let mut table = Vec::new();
    let mut add = |content: &[u8]| {
        table.extend((content.len() as u32).to_le_bytes());
        table.extend(content);
    };
    // Version 1, no augmentation, alignments 1 and -8, return address in 16; the frame is at rsp + 8.
    let common = [0, 0, 0, 0, 1, 0, 1, 0x78, 16, 0x0c, 7, 8, 0, 0, 0, 0];
    add(&[&common[..], &vec![0; padding]].concat());
    let mut at = 20 + padding;
    for (start, instructions) in [
        (0x1000_u64, [0x41, 0x0e, 16, 0]),
        (0x2000, [0x0e, 16, 0, 0]),
        (0x1010, [0; 4]),
    ] {
        let mut content = (at as u32 + 4).to_le_bytes().to_vec();
        content.extend(start.to_le_bytes());
        content.extend(16_u64.to_le_bytes());
        content.extend(instructions);
        add(&content);
        at += 4 + content.len();
    }
    table.extend([0; 4]);
    table
}

#[test]
fn unwind_tables_have_functions_but_not_cold_parts() {
    let extent = |addr| FrameExtent { addr, size: 16 };
    let table = unwind_tables(0);
    assert_eq!(frames::read(0x5000, &table), [extent(0x1000), extent(0x1010)]);
    assert_eq!(
        frames::read(0x5000, &unwind_tables(2000)),
        [],
        "a long common entry"
    );
    let mut dice = TestRandom(1);
    for _ in 0..20_000 {
        let mutated = dice.mutate(&table);
        assert!(frames::read(0x5000, &mutated).len() <= mutated.len() / 8);
    }
}

/// The table of a Go program with two functions, as Go 1.16 or 1.20 writes it.
fn go_table(is_old: bool) -> Vec<u8> {
    let (magic, width): (u32, usize) = if is_old {
        (0xffff_fffa, 8)
    } else {
        (0xffff_fff1, 4)
    };
    let number = |number: u64| number.to_le_bytes()[..width].to_vec();
    let base = if is_old { 0x40_1000 } else { 0 };
    let names = b"main.main\0main.visit\0";
    let list: Vec<u8> = [base, 40, base + 32, 60, base + 48]
        .into_iter()
        .flat_map(number)
        .collect();
    let records = [(40, base, 0_u32), (60, base + 32, 10)];
    let mut functions = list;
    for (at, start, name) in records {
        functions.resize(at, 0);
        functions.extend(number(start));
        functions.extend(name.to_le_bytes());
    }
    let header = if is_old { 64 } else { 72 };
    let mut words = vec![2_u64, 0, 0x40_1000, header, 0, 0, 0, header + names.len() as u64];
    if is_old {
        words.remove(2);
    }
    let mut table = magic.to_le_bytes().to_vec();
    table.extend([0, 0, 1, 8]);
    table.extend(words.into_iter().flat_map(u64::to_le_bytes));
    table.extend(names);
    table.extend(functions);
    table
}

#[test]
fn go_table_is_used_only_if_the_module_has_its_functions() {
    let module = |text, functions| go::GoModule { text, functions };
    let functions = |is_old, module: go::GoModule, text: u64| {
        let mut table = go_table(is_old);
        if !is_old {
            table[24..32].copy_from_slice(&text.to_le_bytes());
        }
        let layout = go::GoTableLayout::parse(&table)?.in_module(&table, &module)?;
        layout.functions(&table).next().map(|function| function.addr)
    };
    let range = 0x40_1000..0x40_1030;
    let agreed = || module(0x40_1000, range.clone());
    assert_eq!(functions(true, agreed(), 0), Some(0x40_1000));
    assert_eq!(functions(false, agreed(), 0x40_1000), Some(0x40_1000));
    assert_eq!(
        functions(false, agreed(), 0),
        Some(0x40_1000),
        "as Go 1.26 writes it"
    );
    assert_eq!(functions(false, agreed(), 0x40_0f00), None, "another start");
    let shifted = || module(0x40_0f00, range.clone());
    assert_eq!(functions(false, shifted(), 0), None, "other functions");
    let longer = || module(0x40_1000, 0x40_1000..0x40_1040);
    assert_eq!(functions(false, longer(), 0), None, "another end");
    assert_eq!(functions(true, longer(), 0), None, "another end");
}

#[test]
fn go_function_tables() {
    for is_old in [false, true] {
        let table = go_table(is_old);
        let layout = go::GoTableLayout::parse(&table).unwrap();
        let found: Vec<_> = layout
            .functions(&table)
            .map(|f| (f.name, f.addr, f.size))
            .collect();
        assert_eq!(
            found,
            [(&b"main.main"[..], 0x40_1000, 32), (b"main.visit", 0x40_1020, 16)]
        );
        let mut dice = TestRandom(1);
        for _ in 0..20_000 {
            let mutated = dice.mutate(&table);
            let found =
                go::GoTableLayout::parse(&mutated).map_or(0, |layout| layout.functions(&mutated).count());
            assert!(found <= mutated.len());
        }
    }
}

#[test]
fn required_text_of_patterns() {
    let required = |text| mangling::required_text(&pattern(text));
    assert_eq!(required("net::Proxy::read(int)").as_deref(), Some("Proxy"));
    assert_eq!(required("*oxy*").as_deref(), Some("oxy"));
    for nothing in [
        "*",
        "std::string",
        "operator*",
        "*[clone*",
        "{closure*",
        "1*2",
        "/Proxy/",
    ] {
        assert_eq!(required(nothing), None, "{nothing}");
    }
}

/// The number of demangled forms of all mangled names of a file, and the forms that the filter would miss.
fn missed_forms(path: &Path) -> (usize, Vec<String>) {
    let elf = open(path);
    let tables = SymbolTables::read(&elf, path).unwrap();
    let names = tables.names().unwrap();
    let readable = names
        .iter()
        .filter_map(|name| Some((name.text, ReadableName::new(name.text)?)));
    let forms = readable.flat_map(|(symbol, name)| {
        let forms = [name.bare().to_owned(), name.full, name.short];
        forms.map(|form| (symbol, form))
    });
    let mut count = 0;
    let missed = forms.filter(|(symbol, form)| {
        count += 1;
        let pattern = NamePattern::Exact(form.clone());
        mangling::required_text(&pattern).is_some_and(|word| !symbol.contains(&word))
    });
    let missed = missed
        .map(|(symbol, form)| format!("{form} of {symbol}"))
        .collect();
    (count, missed)
}

#[test]
fn required_text_misses_no_demangled_name() {
    let Some(path) = find_library("libstdc++") else {
        eprintln!("skipped: no libstdc++");
        return;
    };
    let (count, missed) = missed_forms(&path);
    assert_eq!(missed, [""; 0]);
    assert!(count > 1000, "{count}");
}

#[test]
fn compressed_zeros_are_not_expanded() {
    // 16 MiB of zeros take 2.5 KiB.
    let pack = "head -c 16777216 /dev/zero | xz";
    let Ok(packed) = std::process::Command::new("sh").args(["-c", pack]).output() else {
        eprintln!("skipped: no shell");
        return;
    };
    if packed.stdout.is_empty() {
        eprintln!("skipped: no xz");
        return;
    }
    assert_eq!(stripped::decompressed(&packed.stdout), None);
}
