// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::*;
use crate::find::functions;
use crate::find::host::loader::find_library;

fn libc() -> (ObjectFile, ElfFile, Vec<FunctionSymbol>) {
    let object = ObjectFile::at(&find_library("libc").unwrap()).unwrap();
    let elf = ElfFile::open(object.file.try_clone().unwrap(), &object.path).unwrap();
    let mut ifuncs = functions::all(&elf, &object.path).unwrap();
    ifuncs.retain(|function| function.ifunc);
    (object, elf, ifuncs)
}

fn addr_of(elf: &ElfFile, name: &str) -> u64 {
    elf.lookup(&[name]).unwrap()[0].as_ref().unwrap().addr
}

/// A made-up `/proc` with one process that maps libc's code, and whose memory the test writes.
struct MadeUpProcess {
    dir: PathBuf,
    memory: fs::File,
}

impl MadeUpProcess {
    const PID: u32 = 7;
    const LOAD_BIAS: u64 = 0x1000_0000;

    fn new(name: &str, object: &ObjectFile, elf: &ElfFile) -> MadeUpProcess {
        let dir = std::env::temp_dir().join(format!("find-ifunc-{name}-{}", std::process::id()));
        let process = dir.join(Self::PID.to_string());
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&process).unwrap();
        symlink("/", process.join("root")).unwrap();
        let code = elf.offset_of(addr_of(elf, "malloc")).unwrap() & !0xfff;
        let start = elf.address_of(code).unwrap() + Self::LOAD_BIAS;
        let path = object.path.canonicalize().unwrap();
        let maps = format!(
            "{start:x}-{:x} r-xp {code:x} 0:1 {} {}\n",
            start + 0x4000,
            object.file.metadata().unwrap().ino(),
            path.display()
        );
        fs::write(process.join("maps"), maps).unwrap();
        let memory = fs::File::create(process.join("mem")).unwrap();
        memory.set_len(1 << 40).unwrap();
        MadeUpProcess { dir, memory }
    }

    /// Writes every slot of the resolver at `addr`.
    fn fill(&self, elf: &ElfFile, addr: u64, value: impl Fn(&PointerSlot) -> u64) {
        let slots = elf.slots().unwrap();
        let mine: Vec<&PointerSlot> = slots
            .iter()
            .filter(|slot| slot.binding == SlotBinding::Resolver(addr))
            .collect();
        assert!(!mine.is_empty());
        for slot in mine {
            self.memory
                .write_all_at(&value(slot).to_le_bytes(), slot.addr + Self::LOAD_BIAS)
                .unwrap();
        }
    }

    fn resolve(&self, object: &ObjectFile, elf: &ElfFile, functions: &[FunctionSymbol]) -> HashMap<u64, u64> {
        resolve(&Proc::at(&self.dir), object, elf, functions, &[Self::PID])
    }
}

impl Drop for MadeUpProcess {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn slots_must_point_to_code_of_the_file() {
    let (object, elf, ifuncs) = libc();
    let process = MadeUpProcess::new("code", &object, &elf);
    let resolver = addr_of(&elf, "strlen");
    let malloc = addr_of(&elf, "malloc");
    let strlen = |value: u64| {
        process.fill(&elf, resolver, |_| value);
        process.resolve(&object, &elf, &ifuncs).get(&resolver).copied()
    };
    assert_eq!(strlen(malloc + MadeUpProcess::LOAD_BIAS), Some(malloc));
    assert_eq!(strlen(0), None);
    assert_eq!(strlen(malloc), None);
    assert_eq!(strlen(resolver + MadeUpProcess::LOAD_BIAS), None);
    assert_eq!(strlen(u64::MAX), None);
    process.fill(&elf, resolver, |slot| {
        elf.word(slot.addr).unwrap() + MadeUpProcess::LOAD_BIAS
    });
    assert_eq!(process.resolve(&object, &elf, &ifuncs), HashMap::new());
}

#[test]
fn unreadable_process_has_no_targets() {
    let (object, elf, ifuncs) = libc();
    let process = MadeUpProcess::new("refused", &object, &elf);
    fs::remove_file(process.dir.join("7/mem")).unwrap();
    assert_eq!(process.resolve(&object, &elf, &ifuncs), HashMap::new());
    fs::write(process.dir.join("7/maps"), "").unwrap();
    assert_eq!(process.resolve(&object, &elf, &ifuncs), HashMap::new());
}

#[test]
fn targets_in_a_real_process() {
    let (object, elf, ifuncs) = libc();
    let mut cat = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Its loader has run when it answers.
    cat.stdin.as_mut().unwrap().write_all(b"?").unwrap();
    cat.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let found = resolve(&Proc::host(), &object, &elf, &ifuncs, &[cat.id()]);
    cat.kill().unwrap();
    cat.wait().unwrap();
    let resolvers: HashSet<u64> = ifuncs.iter().map(|function| function.addr).collect();
    for name in ["strlen", "memcpy", "memset", "strchr"] {
        let target = found[&addr_of(&elf, name)];
        assert!(
            elf.offset_of(target).is_some() && !resolvers.contains(&target),
            "{name}"
        );
    }
    assert!(found.values().collect::<HashSet<_>>().len() > 10);
}

#[test]
fn names_with_an_old_version_are_ambiguous() {
    let (object, elf, mut functions) = libc();
    let versioned = elf.versioned_names().unwrap();
    let name = versioned.iter().next().unwrap().clone();
    functions[0].name = name.as_str().into();
    let proc = Proc::host();
    let search = IfuncSearch::new(&proc, &object, &elf, &functions);
    assert!(!search.by_name.contains_key(name.as_str()));
    assert!(search.by_name.contains_key(&*functions[1].name));
}

#[test]
fn resolvers_show_what_they_choose_from() {
    let (object, elf, ifuncs) = libc();
    let sizes = functions::sizes(&elf);
    // A process without access: nothing is known but the code.
    let process = MadeUpProcess::new("choices", &object, &elf);
    fs::write(process.dir.join("7/maps"), "").unwrap();
    let proc = Proc::at(&process.dir);
    let found = implementations(
        (&proc, &object, &elf),
        &ifuncs,
        &[MadeUpProcess::PID],
        &sizes,
        true,
    );
    let used = resolve(&Proc::host(), &object, &elf, &ifuncs, &[std::process::id()]);
    for name in ["strlen", "memcpy", "memset", "strchr"] {
        let addr = addr_of(&elf, name);
        assert!(
            found[&addr].len() > 1 && found[&addr].contains(&used[&addr]),
            "{name}: {found:?}"
        );
    }
    for function in ifuncs.iter().filter(|function| is_in_vdso(&object, function)) {
        assert_eq!(found[&function.addr], BTreeSet::new());
    }
}
