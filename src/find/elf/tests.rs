// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
use std::os::unix::fs::FileExt;

use object::elf;

use super::image::{CODE_SHIFT, CODE_SIZE, ElfImage, HashKind, ImageSymbol, file_with};
use super::*;
use crate::find::functions;
use crate::find::host::loader::find_library;
use crate::find::host::object_file::open_regular;

fn opened(image: &ElfImage) -> ElfFile {
    ElfFile::open(image.file(), Path::new("made-up")).unwrap()
}

fn message(bytes: &[u8]) -> String {
    format!(
        "{:#}",
        ElfFile::open(file_with(bytes), Path::new("made-up")).unwrap_err()
    )
}

/// The function of that name, or `None`.
fn function(elf: &ElfFile, name: &str) -> Result<Option<FunctionSymbol>> {
    Ok(elf.lookup(&[name])?.pop().flatten())
}

fn functions(elf: &ElfFile) -> Result<Vec<FunctionSymbol>> {
    functions::all(elf, Path::new("made-up"))
}

/// Calls every method that reads the file.
fn read_everything(file: File) {
    let Ok(elf) = ElfFile::open(file, Path::new("made-up")) else {
        return;
    };
    let _ = elf.lookup(&["alpha", "gamma_long_name", "malloc", "absent", ""]);
    let _ = (functions(&elf), elf.defines("beta"), elf.defines("malloc"));
    let _ = (
        elf.soname(),
        elf.needed(),
        elf.interpreter(),
        elf.runpath(),
        elf.rpath(),
    );
    let _ = (
        elf.is_static(),
        elf.address_of(0),
        elf.offset_of(u64::MAX),
        functions::nearest(&elf, Path::new("made-up"), "alpa", 3),
        elf.is_go(),
        elf.build_id(),
    );
}

/// Pseudo-random numbers, the same in every run.
struct TestRandom(u64);

impl TestRandom {
    fn roll(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        self.0 >> 33
    }
}

fn rich() -> ElfImage {
    ElfImage {
        local: vec![
            ImageSymbol {
                local: true,
                ..ImageSymbol::new("hidden_helper", 64)
            },
            ImageSymbol::new("old@VER_1", 80),
        ],
        sections: true,
        soname: "libmade.so.1",
        needed: vec!["libone.so".into(), "libtwo.so.2".into()],
        runpath: "$ORIGIN/../lib:/opt/lib".into(),
        rpath: "/rpath".into(),
        interpreter: "/lib/ld-made.so".into(),
        ..ElfImage::default()
    }
}

fn libc() -> File {
    open_regular(&find_library("libc").unwrap()).unwrap()
}

#[test]
fn loader_fields_of_the_dynamic_section() {
    let elf = opened(&rich());
    assert_eq!(elf.soname().as_deref(), Some("libmade.so.1"));
    assert_eq!(elf.needed(), ["libone.so", "libtwo.so.2"]);
    assert_eq!(elf.runpath(), ["$ORIGIN/../lib", "/opt/lib"]);
    assert_eq!(elf.rpath(), ["/rpath"]);
    assert_eq!(elf.interpreter().as_deref(), Some(Path::new("/lib/ld-made.so")));
    assert!(!elf.is_static());
}

#[test]
fn missing_fields_are_none() {
    let elf = opened(&ElfImage::default());
    assert_eq!((elf.soname(), elf.interpreter()), (None, None));
    assert_eq!(
        (elf.needed(), elf.runpath(), elf.rpath()),
        (vec![], vec![], vec![])
    );
    assert!(elf.is_static());
}

#[test]
fn lookup_by_each_kind_of_hash_table() {
    for hash in [HashKind::Gnu, HashKind::Sysv] {
        let elf = opened(&ElfImage {
            hash,
            ..ElfImage::default()
        });
        let names: Vec<String> = functions(&elf)
            .unwrap()
            .into_iter()
            .map(|function| function.name.to_string())
            .collect();
        assert_eq!(names, ["alpha", "beta", "gamma_long_name"]);
        let found = elf
            .lookup(&["gamma_long_name", "delta", "alpha", "alph", "alphaa", ""])
            .unwrap();
        let names: Vec<Option<&str>> = found.iter().map(|f| f.as_ref().map(|f| &*f.name)).collect();
        assert_eq!(
            names,
            [Some("gamma_long_name"), None, Some("alpha"), None, None, None]
        );
        assert!(elf.defines("beta") && !elf.defines("bet"));
    }
}

#[test]
fn no_symbol_table_means_no_functions() {
    let elf = opened(&ElfImage {
        hash: HashKind::None,
        ..ElfImage::default()
    });
    assert_eq!(functions(&elf).unwrap(), []);
    assert_eq!(function(&elf, "alpha").unwrap(), None);
}

#[test]
fn addresses_map_to_file_offsets() {
    let image = ElfImage::default();
    let code_at = image.bytes().len() as u64 - CODE_SIZE;
    let elf = opened(&image);
    let beta = function(&elf, "beta").unwrap().unwrap();
    assert_eq!(beta.offset, code_at + 16);
    assert_eq!(beta.addr, elf.entry() + 16);
    assert_eq!(beta.addr - beta.offset, image::BASE + CODE_SHIFT);
    assert_eq!(beta.size, 8);
    assert_eq!(elf.address_of(beta.offset), Some(beta.addr));
    assert_eq!(
        elf.address_of(code_at & !4095),
        Some(elf.entry() - code_at % 4096)
    );
    assert_eq!(elf.offset_of(elf.entry() + CODE_SIZE), None);
    assert_eq!(elf.offset_of(image::BASE), None, "not executable");
}

#[test]
fn only_defined_functions_in_code_are_found() {
    let outside = ElfImage {
        dynamic: vec![ImageSymbol::new("far", CODE_SIZE)],
        ..ElfImage::default()
    };
    assert_eq!(function(&opened(&outside), "far").unwrap(), None);
    assert!(!opened(&outside).defines("far"));
    let data = ElfImage {
        flags: elf::PF_R,
        ..ElfImage::default()
    };
    assert_eq!(functions(&opened(&data)).unwrap(), []);
    let object = ElfImage {
        dynamic: vec![ImageSymbol {
            kind: elf::STT_OBJECT,
            ..ImageSymbol::new("table", 0)
        }],
        ..ElfImage::default()
    };
    assert_eq!(function(&opened(&object), "table").unwrap(), None);
    let imported = ElfImage {
        dynamic: vec![
            ImageSymbol {
                at: None,
                ..ImageSymbol::new("puts", 0)
            },
            ImageSymbol::new("own", 0),
        ],
        ..ElfImage::default()
    };
    assert!(!opened(&imported).defines("puts"));
    assert!(opened(&imported).defines("own"));
}

#[test]
fn ifunc_symbols_are_marked() {
    let image = ElfImage {
        dynamic: vec![ImageSymbol {
            kind: elf::STT_GNU_IFUNC,
            ..ImageSymbol::new("memcpy", 0)
        }],
        ..ElfImage::default()
    };
    assert!(function(&opened(&image), "memcpy").unwrap().unwrap().ifunc);
}

#[test]
fn default_version_wins() {
    for hash in [HashKind::Gnu, HashKind::Sysv] {
        for old_first in [true, false] {
            let old = ImageSymbol {
                version: 2 | elf::VERSYM_HIDDEN,
                ..ImageSymbol::new("cond", 0)
            };
            let new = ImageSymbol {
                version: 3,
                ..ImageSymbol::new("cond", 16)
            };
            let both = if old_first { vec![old, new] } else { vec![new, old] };
            let elf = opened(&ElfImage {
                dynamic: both,
                hash,
                ..ElfImage::default()
            });
            let expected = elf.entry() + 16;
            assert_eq!(function(&elf, "cond").unwrap().unwrap().addr, expected);
            let all = functions(&elf).unwrap();
            assert_eq!((all.len(), all[1].addr), (2, expected));
        }
    }
    let only_old = ImageSymbol {
        version: 2 | elf::VERSYM_HIDDEN,
        ..ImageSymbol::new("cond", 0)
    };
    let elf = opened(&ElfImage {
        dynamic: vec![only_old],
        ..ElfImage::default()
    });
    assert!(function(&elf, "cond").unwrap().is_some() && elf.defines("cond"));
    assert_eq!(functions(&elf).unwrap().len(), 1);
}

#[test]
fn symtab_adds_local_functions() {
    let elf = opened(&rich());
    assert_eq!(
        function(&elf, "hidden_helper").unwrap().unwrap().addr,
        elf.entry() + 64
    );
    assert!(!elf.defines("hidden_helper"));
    assert_eq!(function(&elf, "old").unwrap().unwrap().addr, elf.entry() + 80);
    let names: Vec<String> = functions(&elf)
        .unwrap()
        .into_iter()
        .map(|function| function.name.to_string())
        .collect();
    assert_eq!(
        names,
        ["alpha", "beta", "gamma_long_name", "hidden_helper", "old"]
    );
}

#[test]
fn versions_in_symtab_are_stripped() {
    let local = vec![
        ImageSymbol::new("f@OLD", 0),
        ImageSymbol::new("f@@NEW", 16),
        ImageSymbol::new("fg", 32),
    ];
    let elf = opened(&ElfImage {
        local,
        sections: true,
        dynamic: vec![],
        ..ElfImage::default()
    });
    assert_eq!(function(&elf, "f").unwrap().unwrap().addr, elf.entry() + 16);
    let found: Vec<(String, u64)> = functions(&elf)
        .unwrap()
        .into_iter()
        .map(|f| (f.name.to_string(), f.addr - elf.entry()))
        .collect();
    assert_eq!(
        found,
        [("f".to_owned(), 0), ("f".to_owned(), 16), ("fg".to_owned(), 32)]
    );
}

#[test]
fn local_functions_of_one_name_are_all_listed_and_aliases_once() {
    let twin = |at| ImageSymbol {
        local: true,
        ..ImageSymbol::new("init", at)
    };
    let local = vec![
        twin(0),
        twin(16),
        twin(16),
        ImageSymbol::new("alias", 16),
        ImageSymbol::new("init", 32),
    ];
    let elf = opened(&ElfImage {
        local,
        sections: true,
        dynamic: vec![],
        ..ElfImage::default()
    });
    let found: Vec<(String, u64)> = functions(&elf)
        .unwrap()
        .into_iter()
        .map(|f| (f.name.to_string(), f.addr - elf.entry()))
        .collect();
    let expected = [("init", 0), ("alias", 16), ("init", 32)];
    assert_eq!(found, expected.map(|(name, at)| (name.to_owned(), at)));
    assert_eq!(
        function(&elf, "init").unwrap().unwrap().addr,
        elf.entry() + 32,
        "exported before local"
    );
}

#[test]
fn errors_name_the_kind_of_file() {
    assert_eq!(message(b""), "failed to read made-up: not an ELF file");
    assert_eq!(message(b"\x7fEL"), "failed to read made-up: not an ELF file");
    assert_eq!(
        message(b"#!/bin/sh\necho hello to all\n"),
        "failed to read made-up: a script has no functions that can be traced"
    );
    assert_eq!(
        message(b"\x7fELF\x02"),
        "failed to read made-up: truncated ELF file"
    );
    let changed = |at: usize, byte: u8| {
        let mut bytes = ElfImage::default().bytes();
        bytes[at] = byte;
        message(&bytes)
    };
    assert_eq!(changed(4, 1), "failed to read made-up: a 32-bit ELF file");
    assert_eq!(
        changed(4, 9),
        "failed to read made-up: an ELF file of unknown class 9"
    );
    assert_eq!(changed(5, 2), "failed to read made-up: a big-endian ELF file");
    assert!(changed(18, 243).contains("an ELF file for riscv, this machine is "));
}

#[test]
fn headers_past_the_end_are_rejected() {
    let changed = |at: usize, bytes: &[u8]| {
        let mut image = rich().bytes();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        image
    };
    assert!(
        message(&changed(32, &u64::MAX.to_le_bytes())).contains("truncated"),
        "e_phoff"
    );
    assert!(message(&changed(56, &u16::MAX.to_le_bytes())).contains("too many program headers"));
    assert!(
        message(&changed(56, &1000_u16.to_le_bytes())).contains("truncated"),
        "e_phnum"
    );
    assert!(
        message(&changed(64 + 32, &u64::MAX.to_le_bytes())).contains("truncated"),
        "p_filesz"
    );
    assert!(
        message(&changed(64 + 8, &u64::MAX.to_le_bytes())).contains("truncated"),
        "p_offset"
    );
    // Section headers are optional: without them only `.symtab` is missing.
    for bytes in [
        changed(40, &(u64::MAX - 7).to_le_bytes()),
        changed(60, &u16::MAX.to_le_bytes()),
    ] {
        let elf = ElfFile::open(file_with(&bytes), Path::new("made-up")).unwrap();
        assert_eq!(functions(&elf).unwrap().len(), 3);
        assert_eq!(function(&elf, "hidden_helper").unwrap(), None);
    }
}

#[test]
fn symbol_counts_and_names_out_of_range_are_rejected() {
    let image = ElfImage {
        hash: HashKind::Sysv,
        dynamic: vec![ImageSymbol::new("alpha", 0)],
        ..ElfImage::default()
    };
    let mut bytes = image.bytes();
    // After headers, two symbols and two versions: the hash table, which starts with 1 bucket and 2 symbols.
    let count_at = 64 + 6 * 56 + 2 * 24 + 8 + 4;
    assert_eq!(bytes[count_at], 2);
    bytes[count_at..count_at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let elf = ElfFile::open(file_with(&bytes), Path::new("made-up")).unwrap();
    let error = format!("{:#}", functions(&elf).unwrap_err());
    assert_eq!(
        error,
        "failed to read symbols of made-up: dynamic symbols are longer than the file"
    );

    let mut bytes = image.bytes();
    let name_at = 64 + 6 * 56 + 24;
    bytes[name_at..name_at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let elf = ElfFile::open(file_with(&bytes), Path::new("made-up")).unwrap();
    assert_eq!(functions(&elf).unwrap(), []);
    assert_eq!(function(&elf, "alpha").unwrap(), None);
}

#[test]
fn endless_hash_chains_are_rejected() {
    let image = ElfImage::default();
    let mut bytes = image.bytes();
    // After headers, four symbols, four versions, hash header, bloom word and two buckets: the chains.
    let chains_at = 64 + 6 * 56 + 4 * 24 + 8 + 16 + 8 + 8;
    for link in bytes[chains_at..].chunks_exact_mut(4).take(3) {
        link[0] &= !1;
    }
    read_everything(file_with(&bytes));
    let mut bytes = image.bytes();
    // A head far after the last symbol.
    bytes[chains_at - 8..chains_at].copy_from_slice(&[0xff; 8]);
    let elf = ElfFile::open(file_with(&bytes), Path::new("made-up")).unwrap();
    let expected = "failed to read symbols of made-up: a hash chain has no end";
    assert_eq!(format!("{:#}", functions(&elf).unwrap_err()), expected);
    assert_eq!(format!("{:#}", function(&elf, "alpha").unwrap_err()), expected);
    assert!(!elf.defines("alpha"));
}

#[test]
fn names_together_cannot_exceed_the_file() {
    let long: &'static str = "x".repeat(4000).leak();
    let local = (0..64).map(|at| ImageSymbol::new(long, at)).collect();
    let elf = opened(&ElfImage {
        local,
        sections: true,
        ..ElfImage::default()
    });
    let expected = "failed to read symbols of made-up: symbol names are longer than the file";
    assert_eq!(format!("{:#}", functions(&elf).unwrap_err()), expected);
    assert!(function(&elf, long).unwrap().is_some());
}

#[test]
fn sparse_files_do_not_fill_memory() {
    let file = rich().file();
    file.set_len(1 << 40).unwrap();
    let sections = [0_u64, 1 << 40].map(u64::to_le_bytes).concat();
    let bytes = rich().bytes();
    let sections_at = bytes.len() as u64 - 3 * 64;
    // The symbol table: from 0, a terabyte.
    file.write_all_at(&sections, sections_at + 64 + 24).unwrap();
    let elf = ElfFile::open(file, Path::new("made-up")).unwrap();
    assert!(format!("{:#}", functions(&elf).unwrap_err()).contains("too large"));
}

#[test]
fn truncated_files_do_not_panic() {
    let bytes = rich().bytes();
    for len in 0..bytes.len() {
        read_everything(file_with(&bytes[..len]));
    }
}

#[test]
fn mutated_files_do_not_panic() {
    for hash in [HashKind::Gnu, HashKind::Sysv] {
        let bytes = ElfImage { hash, ..rich() }.bytes();
        let mut dice = TestRandom(1);
        for _ in 0..4000 {
            let mut mutated = bytes.clone();
            for _ in 0..1 + dice.roll() % 4 {
                let at = dice.roll() as usize % mutated.len();
                mutated[at] = match dice.roll() % 4 {
                    0 => 0xff,
                    1 => 0,
                    2 => mutated[at] ^ 1 << (dice.roll() % 8),
                    _ => dice.roll() as u8,
                };
            }
            read_everything(file_with(&mutated));
        }
    }
}

#[test]
fn truncated_libc_does_not_panic() {
    let whole = libc();
    let mut bytes = vec![0; whole.metadata().unwrap().len() as usize];
    whole.read_exact_at(&mut bytes, 0).unwrap();
    // Grows the file, so that each byte is written once.
    let file = file_with(b"");
    let mut written = 0;
    for step in 0..200 {
        let len = bytes.len() * step / 200;
        file.write_all_at(&bytes[written..len], written as u64).unwrap();
        written = len;
        read_everything(file.try_clone().unwrap());
    }
}

#[test]
fn file_that_shrinks_while_open_is_an_error() {
    let file = rich().file();
    let elf = ElfFile::open(file.try_clone().unwrap(), Path::new("made-up")).unwrap();
    file.set_len(100).unwrap();
    assert!(functions(&elf).is_err());
    assert!(elf.lookup(&["alpha"]).is_err());
    assert!(!elf.defines("alpha"));
    assert_eq!(elf.soname(), None);
}

#[test]
fn libc_functions_are_found() {
    let elf = ElfFile::open(libc(), Path::new("libc")).unwrap();
    let found = elf
        .lookup(&["malloc", "free", "no such function", "getaddrinfo"])
        .unwrap();
    let present: Vec<bool> = found.iter().map(Option::is_some).collect();
    assert_eq!(present, [true, true, false, true]);
    assert!(elf.defines("malloc") && !elf.defines("mallok"));
    let all = functions(&elf).unwrap();
    assert!(all.len() > 1000 && all.is_sorted_by_key(|function| function.addr));
    for function in found.iter().flatten() {
        assert!(
            all.iter()
                .any(|other| other.name == function.name && other.offset == function.offset)
        );
    }
    assert!(elf.soname().is_some());
}
