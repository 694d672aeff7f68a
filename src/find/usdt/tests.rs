// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::operands::{UsdtIndex, integer};
use super::*;
use crate::find::elf::image::file_with;
use crate::find::host::object_file::open_regular;

const TEXT: u64 = 0x1000;
const BASE: u64 = 0x2000;
const PROBES: u64 = 0x3000;

fn put(out: &mut Vec<u8>, numbers: &[u64]) {
    numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
}

fn note(owner: &[u8], kind: u32, description: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for number in [owner.len() as u32, description.len() as u32, kind] {
        note.extend(number.to_le_bytes());
    }
    for part in [owner, description] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

fn probe(addresses: [u64; 3], strings: &[u8]) -> Vec<u8> {
    let mut description = Vec::new();
    put(&mut description, &addresses);
    description.extend(strings);
    note(OWNER, NT_STAPSDT, &description)
}

/// A file with one page of code at address 0x41000, one of data at 0x42000, these notes, and `.stapsdt.base`
/// at `base`.
fn file(notes: &[u8], base: u64) -> File {
    const NAMES: &[u8] = b"\0.note.stapsdt\0.stapsdt.base\0";
    let mut bytes = vec![0; 64];
    let machine = File::open("/proc/self/exe").unwrap();
    machine.read_exact_at(&mut bytes, 0).unwrap();
    let sections_at = 0x3000;
    bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
    bytes[40..48].copy_from_slice(&(sections_at as u64).to_le_bytes());
    for (at, number) in [(54, 56_u16), (56, 2), (58, 64), (60, 4), (62, 1)] {
        bytes[at..at + 2].copy_from_slice(&number.to_le_bytes());
    }
    for (flags, offset) in [(5_u64, 0x1000), (6, 0x2000)] {
        put(
            &mut bytes,
            &[
                1 | flags << 32,
                offset,
                0x40000 + offset,
                0,
                0x1000,
                0x1000,
                0x1000,
            ],
        );
    }
    bytes.resize(sections_at, 0);
    let (names_at, notes_at) = (sections_at as u64 + 4 * 64, 0x4000);
    let (notes_name, base_name) = (1_u64, 15_u64);
    put(&mut bytes, &[0; 8]);
    put(
        &mut bytes,
        &[3 << 32, 0, 0, names_at, NAMES.len() as u64, 0, 1, 0],
    );
    put(
        &mut bytes,
        &[notes_name | 7 << 32, 0, 0, notes_at, notes.len() as u64, 0, 4, 0],
    );
    put(&mut bytes, &[base_name | 1 << 32, 0, base, 0, 1, 0, 1, 0]);
    bytes.extend(NAMES);
    bytes.resize(notes_at as usize, 0);
    bytes.extend(notes);
    file_with(&bytes)
}

fn probes_of(notes: &[u8], base: u64) -> Result<Vec<UsdtProbe>> {
    probes(&ElfFile::open(file(notes, base), Path::new("made-up")).unwrap())
}

const ADDR: u64 = 0x4_0000 + TEXT;
const DATA: u64 = 0x4_0000 + BASE;

#[test]
fn probe_with_a_semaphore() {
    let notes = [
        probe([ADDR + 5, PROBES, 0], b"mine\0start\0\0"),
        note(b"GNU\0", 3, b"something else"),
        probe([ADDR + 9, PROBES, DATA + 2], b"mine\0end\x004@5\0"),
    ];
    let found = probes_of(&notes.concat(), PROBES).unwrap();
    let [start, end] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!((start.provider.as_str(), start.name.as_str()), ("mine", "start"));
    assert_eq!(
        (start.addr, start.offset, start.semaphore),
        (ADDR + 5, 0x1005, None)
    );
    assert!(start.arguments.is_empty());
    assert_eq!(
        (end.addr, end.offset, end.semaphore),
        (ADDR + 9, 0x1009, Some(0x2002))
    );
    assert_eq!(end.arguments.len(), 1);
}

#[test]
fn addresses_follow_a_file_moved_after_linking() {
    let notes = probe([0x1005, PROBES, 0x2002], b"mine\0start\0\0");
    let found = probes_of(&notes, PROBES + 0x4_0000).unwrap();
    assert_eq!((found[0].addr, found[0].semaphore), (0x4_1005, Some(0x2002)));
}

#[test]
fn probes_outside_of_the_file_are_skipped() {
    let notes = [
        probe([0x9999, PROBES, 0], b"mine\0outside\0\0"),
        probe([ADDR, PROBES, 0x9999], b"mine\0semaphore_outside\0\0"),
        probe([DATA, PROBES, 0], b"mine\0in_data\0\0"),
        probe([ADDR, PROBES, 0], b"mine\0\0\0"),
        probe([ADDR, PROBES, 0], b"mi\xff\0name\0\0"),
        probe([ADDR, PROBES, 0], b"mine\0without_end"),
        probe([ADDR, PROBES, 0], b"mine\0good\0\0"),
    ];
    let found = probes_of(&notes.concat(), PROBES).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].name, "good");
}

#[test]
fn damaged_notes_are_errors() {
    let whole = [
        probe([ADDR, PROBES, DATA], b"mine\0start\x008@%rax -4@[sp, 8]\0"),
        probe([ADDR, PROBES, DATA], b"mine\0end\0\0"),
    ]
    .concat();
    let first = whole.len() / 2;
    for len in 1..whole.len() {
        let cut = probes_of(&whole[..len], PROBES);
        if len < 40 || (first + 8..whole.len() - 4).contains(&len) {
            assert!(cut.is_err() || cut.unwrap().len() < 2, "{len}");
        }
    }
    let mut state = 1_u64;
    for _ in 0..3000 {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let mut spoilt = whole.clone();
        spoilt[(state >> 33) as usize % whole.len()] = (state >> 8) as u8;
        if let Ok(found) = probes_of(&spoilt, PROBES) {
            assert!(found.len() <= 2);
        }
    }
    let endless = note(OWNER, NT_STAPSDT, &vec![0; MAX_NOTES]);
    let error = format!("{:#}", probes_of(&endless, PROBES).unwrap_err());
    assert!(error.contains("too many"), "{error}");
}

#[test]
fn file_without_notes_has_no_probes() {
    let elf = ElfFile::open(
        crate::find::elf::image::ElfImage::default().file(),
        Path::new("made-up"),
    );
    assert_eq!(probes(&elf.unwrap()).unwrap(), []);
}

#[test]
fn python_has_its_documented_probes() {
    let path = Path::new("/usr/bin/python3");
    let Ok(elf) =
        open_regular(path).and_then(|file| ElfFile::open(file, path).map_err(std::io::Error::other))
    else {
        eprintln!("not tested: there is no program {}", path.display());
        return;
    };
    let found = probes(&elf).unwrap();
    let Some(entry) = found.iter().find(|probe| probe.name == "function__entry") else {
        assert!(found.is_empty(), "{found:?}");
        eprintln!("not tested: {} was built without probes", path.display());
        return;
    };
    assert_eq!(entry.provider, "python");
    assert!(entry.semaphore.is_some());
    // File name, function name, line.
    let shapes: Vec<(u8, NumberKind)> = entry
        .arguments
        .iter()
        .map(|argument| (argument.bytes, argument.number))
        .collect();
    let expected = [
        (8, NumberKind::Unsigned),
        (8, NumberKind::Unsigned),
        (4, NumberKind::Signed),
    ];
    assert_eq!(shapes, expected);
}

#[test]
fn argument_sizes_and_kinds() {
    let shape = |text| {
        let argument = argument(text, 0, &VariableAddresses::default());
        (argument.bytes, argument.number)
    };
    assert_eq!(shape("-4@0"), (4, NumberKind::Signed));
    assert_eq!(shape("1@0"), (1, NumberKind::Unsigned));
    assert_eq!(shape("8f@0"), (8, NumberKind::Float));
    assert_eq!(shape("-4f@0"), (4, NumberKind::Float));
    assert_eq!(shape("0x10"), (8, NumberKind::Unsigned));
    for odd in ["3@$1", "16@$1", "@$1", "--4@$1", "-@$1", "4@", "4@@"] {
        assert_eq!(
            argument(odd, 0, &VariableAddresses::default()).operand,
            UsdtOperand::Unknown,
            "{odd}"
        );
        assert_eq!(&*argument(odd, 0, &VariableAddresses::default()).text, odd);
    }
}

#[test]
fn arguments_split_at_white_space_outside_of_brackets() {
    let texts = |text| -> Vec<String> {
        let arguments = arguments(text, 0, &VariableAddresses::default());
        arguments
            .iter()
            .map(|argument| argument.text.to_string())
            .collect()
    };
    assert_eq!(
        texts(" 8@x0  -4@[sp, 8] 4@(%rax, %rbx)"),
        ["8@x0", "-4@[sp, 8]", "4@(%rax, %rbx)"]
    );
    assert_eq!(texts("8@[x0 8@x1"), ["8@[x0 8@x1"]);
    assert_eq!(texts("8@x0) 8@x1"), ["8@x0)", "8@x1"]);
    assert_eq!(texts(&"8@x0 ".repeat(1000)).len(), MAX_ARGUMENTS);
}

#[test]
fn number_syntax() {
    for (text, number) in [
        ("0", 0),
        ("-16", -16),
        ("+7", 7),
        ("0x10", 16),
        ("-0x10", -16),
        ("40+8", 48),
        ("8-16+1", -7),
        ("18446744073709551615", -1),
        ("-9223372036854775808", i64::MIN),
    ] {
        assert_eq!(integer(text), Some(number), "{text}");
    }
    for odd in [
        "",
        "-",
        "+",
        "1+",
        "x",
        "0x",
        "1x",
        "--1",
        "1++1",
        "99999999999999999999",
        "NBuffers",
        "4+x",
    ] {
        assert_eq!(integer(odd), None, "{odd}");
    }
}

const fn register(register: u16) -> Option<UsdtOperand> {
    Some(UsdtOperand::Register { register, shift: 0 })
}

const fn memory(base: u16, offset: i64) -> Option<UsdtOperand> {
    Some(UsdtOperand::Memory {
        base: Some(base),
        index: None,
        offset,
    })
}

#[test]
fn operands_of_x86_64() {
    let high = Some(UsdtOperand::Register {
        register: 3,
        shift: 8,
    });
    let indexed = |base, register, scale, offset| {
        Some(UsdtOperand::Memory {
            base,
            index: Some(UsdtIndex::whole(register, scale)),
            offset,
        })
    };
    for (text, expected) in [
        ("%rax", register(0)),
        ("%edi", register(5)),
        ("%si", register(4)),
        ("%dil", register(5)),
        ("%bh", high),
        ("%r8", register(8)),
        ("%r10d", register(10)),
        ("%r15w", register(15)),
        ("%r9b", register(9)),
        ("$5", Some(UsdtOperand::Constant(5))),
        ("$-1", Some(UsdtOperand::Constant(-1))),
        ("-16(%rbp)", memory(6, -16)),
        ("(%r12)", memory(12, 0)),
        ("8+16(%rsp)", memory(7, 24)),
        ("(%rax,%rbx,8)", indexed(Some(0), 3, 8, 0)),
        ("4(%rax,%r9)", indexed(Some(0), 9, 1, 4)),
        ("0x100(,%rcx,4)", indexed(None, 2, 4, 256)),
        (
            "0x601040",
            Some(UsdtOperand::Memory {
                base: None,
                index: None,
                offset: 0x601040,
            }),
        ),
    ] {
        assert_eq!(x86_64::operand(text), expected, "{text}");
    }
}

#[test]
fn unsupported_operands_of_x86_64() {
    for odd in [
        "",
        "%",
        "$",
        "rax",
        "%xmm0",
        "%r16",
        "%r7",
        "%r08",
        "%r+8",
        "%fs:8",
        "%fs:(%rax)",
        "NBuffers(%rip)",
        "(%rip,%rax)",
        "(%rax,%rip)",
        "8(%eip)",
        "(%eax)",
        "(%rax,%rbx,3)",
        "(%rax,%rbx,8",
        "(%rax,)",
        "(%rax) ",
        "8(%rax))",
        "symbol",
        "()(",
    ] {
        assert_eq!(x86_64::operand(odd), None, "{odd}");
    }
}

#[test]
fn variables_in_operands_of_x86_64() {
    for (text, variable) in [
        ("NBuffers(%rip)", Some("NBuffers")),
        ("40+CheckpointStats(%rip)", Some("CheckpointStats")),
        ("_ZL5count.0-8+4(%rip)", Some("_ZL5count.0")),
        ("8-count(%rip)", None),
        ("count@GOTPCREL(%rip)", Some("count")),
        ("$count", Some("count")),
        ("$count+8", Some("count")),
        ("$8", None),
        ("table+8(,%rax,8)", Some("table")),
        ("table(%rax)", Some("table")),
        ("%fs:count(%rip)", None),
        ("8(%rip)", None),
        ("count(,%rax,8)", Some("count")),
        ("count", Some("count")),
        ("count@TPOFF(%rip)", None),
        ("%fs:count@tpoff", None),
        ("+(%rip)", None),
        ("(%rip)", None),
    ] {
        let found = x86_64::named_variable(text).and_then(|range| text.get(range));
        assert_eq!(found, variable, "{text}");
    }
}

#[test]
fn variables_of_x86_64_are_relative_to_the_probe() {
    let rip = x86_64::INSTRUCTION_POINTER;
    let memory = |index, offset| {
        Some(UsdtOperand::Memory {
            base: rip,
            index,
            offset,
        })
    };
    let address = |offset| {
        Some(UsdtOperand::Address {
            base: rip.unwrap(),
            offset,
        })
    };
    for (text, expected) in [
        ("var(%rip)", memory(None, -0x1000)),
        ("8+var(%rip)", memory(None, -0xff8)),
        ("var", memory(None, -0x1000)),
        ("var+8", memory(None, -0xff8)),
        ("var(,%rax,4)", memory(Some(UsdtIndex::whole(0, 4)), -0x1000)),
        ("var+8(,%rax,4)", memory(Some(UsdtIndex::whole(0, 4)), -0xff8)),
        ("var(%rcx)", memory(Some(UsdtIndex::whole(2, 1)), -0x1000)),
        ("var(%rcx,%rax,4)", None),
        ("$var", address(-0x1000)),
        ("$var+8", address(-0xff8)),
        ("var@GOTPCREL(%rip)", address(-0x1000)),
        ("var@GOTPCREL(%rax)", None),
    ] {
        let name = x86_64::named_variable(text).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(&text[name.clone()], "var");
        assert_eq!(
            x86_64::variable_operand(text, name, 0x4000, 0x5000),
            expected,
            "{text}"
        );
    }
}

#[test]
fn variables_of_arm64_have_their_low_bits_in_the_operand() {
    for (text, offset) in [("[x3, #:lo12:var]", 0x678), ("[x3, #:lo12:var+8]", 0x680)] {
        let name = arm64::named_variable(text).unwrap();
        assert_eq!(&text[name.clone()], "var");
        assert_eq!(
            arm64::variable_operand(text, name, 0x12678, 0x5000),
            memory(3, offset)
        );
    }
    for text in ["[x3, 8]", "[x3, #:lo12:]", "x3", "#:lo12:var"] {
        assert_eq!(arm64::named_variable(text), None, "{text}");
    }
}

/// The offsets of the variables of tests/targets/probes.c, from address 0 of its memory.
#[cfg(target_arch = "x86_64")]
fn offsets(program: &Path) -> Vec<Option<u64>> {
    let elf = ElfFile::open(File::open(program).unwrap(), program).unwrap();
    let mut probe = probes(&elf).unwrap().remove(0);
    probe.move_to(probe.addr + 5);
    let offset = |argument: &UsdtArgument| match argument.operand {
        UsdtOperand::Memory { base, offset, .. } if base == INSTRUCTION_POINTER => {
            Some(Some(probe.addr.wrapping_add(offset as u64)))
        }
        UsdtOperand::UnknownVariable => Some(None),
        UsdtOperand::Constant(_) => None,
        other => panic!("{other:?}"),
    };
    probe.arguments.iter().filter_map(offset).collect()
}

#[cfg(target_arch = "x86_64")]
#[test]
fn variables_are_found_in_symbol_tables() {
    let dir = std::env::temp_dir().join(format!("find-usdt-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/targets/probes.c");
    let run = |program: &str, args: &[&str]| {
        let status = std::process::Command::new(program)
            .args(args)
            .current_dir(&dir)
            .status();
        status.is_ok_and(|status| status.success())
    };
    if run("gcc", &["-rdynamic", "-o", "app", source.to_str().unwrap()]) {
        let found = offsets(&dir.join("app"));
        assert!(matches!(found[..], [Some(_), Some(_)]), "{found:?}");
        // Only exported variables are left.
        assert!(run("strip", &["-s", "app"]));
        assert_eq!(offsets(&dir.join("app")), [None, found[1]]);
    } else {
        eprintln!("skipped: no gcc");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn operands_of_arm64_have_no_variables() {
    let found = ["x0", "[sp, 8]", "count"].map(arm64::named_variable);
    assert_eq!((found, arm64::INSTRUCTION_POINTER), ([None, None, None], None));
}

#[test]
fn operands_of_arm64() {
    let indexed = |base, register, scale| {
        Some(UsdtOperand::Memory {
            base: Some(base),
            index: Some(UsdtIndex::whole(register, scale)),
            offset: 0,
        })
    };
    let half = |signed, scale| {
        let index = UsdtIndex {
            register: 1,
            scale,
            bytes: 4,
            signed,
        };
        Some(UsdtOperand::Memory {
            base: Some(0),
            index: Some(index),
            offset: 0,
        })
    };
    for (text, expected) in [
        ("x0", register(0)),
        ("[x0, w1, sxtw 2]", half(true, 4)),
        ("[x0, w1, sxtw #3]", half(true, 8)),
        ("[x0, w1, sxtw]", half(true, 1)),
        ("[x0, w1, uxtw 2]", half(false, 4)),
        ("w19", register(19)),
        ("x30", register(30)),
        ("lr", register(30)),
        ("fp", register(29)),
        ("sp", register(31)),
        ("wsp", register(31)),
        ("xzr", Some(UsdtOperand::Constant(0))),
        ("5", Some(UsdtOperand::Constant(5))),
        ("#-5", Some(UsdtOperand::Constant(-5))),
        ("[sp, 8]", memory(31, 8)),
        ("[x0]", memory(0, 0)),
        ("[x29,#-4]", memory(29, -4)),
        ("[x0, x1]", indexed(0, 1, 1)),
        ("[x0, x1, lsl 3]", indexed(0, 1, 8)),
        ("[x0,x1,lsl #2]", indexed(0, 1, 4)),
    ] {
        assert_eq!(arm64::operand(text), expected, "{text}");
    }
    for odd in [
        "",
        "x31",
        "w",
        "v0",
        "x00",
        "[x0",
        "x0]",
        "[]",
        "[w0]",
        "[x0, w1]",
        "[x0, w1, lsl 2]",
        "[x0, x1, sxtw 2]",
        "[x0, w1, sxtw 5]",
        "[x0, x1, lsl]",
        "[x0, x1, lsl 5]",
        "[x0, 8, 8]",
        "[x0], 8",
        "[x0, 8]!",
        "[x0, #:lo12:symbol]",
        "[x0, x1, lsl 3, 4]",
        "[x0,]",
        "symbol",
    ] {
        assert_eq!(arm64::operand(odd), None, "{odd}");
    }
}
