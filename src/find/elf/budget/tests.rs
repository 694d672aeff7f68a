// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::*;
use crate::find::elf::image::{BASE, CODE_AT, ElfImage, ImageSymbol, file_with, image_with_functions};
use crate::find::elf::sections::SectionReader;
use crate::find::elf::{ElfFile, ElfSource};
use crate::find::functions;

const SHOFF: u64 = 40;
const SHNUM: u64 = 60;
/// Of a section header.
const SECTION: u64 = 64;
const SH_OFFSET: u64 = 24;
const SH_SIZE: u64 = 32;

/// A file with symbols and section headers, which start at the returned offset.
fn file_with_sections() -> (File, u64) {
    let image = ElfImage {
        local: vec![ImageSymbol::new("local", 64)],
        sections: true,
        ..ElfImage::default()
    };
    let bytes = image.bytes();
    let at = u64::from_le_bytes(bytes[SHOFF as usize..][..8].try_into().unwrap());
    (file_with(&bytes), at)
}

fn put(file: &File, at: u64, number: u64) {
    file.write_all_at(&number.to_le_bytes(), at).unwrap();
}

fn opened(file: &File) -> ElfFile {
    ElfFile::open(file.try_clone().unwrap(), Path::new("made-up")).unwrap()
}

fn left(elf: &ElfFile) -> u64 {
    elf.view.link.source.budget.left.get()
}

fn total(elf: &ElfFile) -> u64 {
    elf.view.link.source.budget.total
}

#[test]
fn holes_hold_no_tables() {
    let (file, sections) = file_with_sections();
    file.set_len(3 << 30).unwrap();
    for section in [1, 2] {
        put(&file, sections + section * SECTION + SH_OFFSET, section << 30);
        put(&file, sections + section * SECTION + SH_SIZE, 1 << 30);
    }
    let error = opened(&file).static_symbols().err().unwrap();
    assert!(format!("{error:#}").contains("too large"), "{error:#}");
    let reader = SectionReader::open(file).unwrap();
    assert!(reader.read(4096, 1 << 30).is_err());
}

#[test]
fn compressed_files_have_more_bytes_than_blocks() {
    let file = file_with(&[]);
    // A fifth of 100 MB is on disk.
    for index in 0..20 {
        file.write_all_at(&vec![1; 1 << 20], index * (5 << 20)).unwrap();
    }
    file.set_len(100 << 20).unwrap();
    let budget = ReadBudget::of_file(&file.metadata().unwrap());
    assert_eq!(budget.most_at_once(), 100 << 20);
    file.set_len(1 << 30).unwrap();
    let budget = ReadBudget::of_file(&file.metadata().unwrap());
    assert_eq!(budget.most_at_once(), 160 << 20);
}

#[test]
fn section_headers_are_read_once() {
    let (file, _) = file_with_sections();
    let elf = opened(&file);
    assert!(elf.section_named(".absent").is_none());
    let before = left(&elf);
    assert!(elf.section_named(".absent").is_none());
    assert_eq!(left(&elf), before);
}

#[test]
fn too_many_section_headers_are_ignored() {
    let (file, sections) = file_with_sections();
    assert!(opened(&file).static_symbols().unwrap().is_some());
    file.set_len(1 << 30).unwrap();
    file.write_all_at(&[0, 0], SHNUM).unwrap();
    put(&file, sections + SH_SIZE, 3);
    assert!(opened(&file).static_symbols().unwrap().is_some());
    put(&file, sections + SH_SIZE, 1 << 17);
    assert!(opened(&file).static_symbols().unwrap().is_none());
}

#[test]
fn overlapping_functions_are_not_all_decoded() {
    const SIZE: u64 = 1 << 20;
    let elf = opened(&file_with(&image_with_functions(
        &vec![0x90; SIZE as usize],
        1,
        0,
        SIZE,
    )));
    let read = (0..1000).take_while(|_| elf.code(BASE + CODE_AT, SIZE).is_ok());
    let total = read.count() as u64 * SIZE;
    assert!((32 << 20..=64 << 20).contains(&total), "{total}");
    let error = elf.check_budget().unwrap_err();
    assert!(format!("{error:#}").contains("overlap"), "{error:#}");
    // What was not read stays unread.
    elf.renew_budget();
    assert!(elf.check_budget().is_err() && elf.code(BASE + CODE_AT, 1).is_err());
}

#[test]
fn each_question_has_a_budget() {
    const SIZE: u64 = 1 << 20;
    let elf = opened(&file_with(&image_with_functions(
        &vec![0x90; SIZE as usize],
        1,
        0,
        SIZE,
    )));
    for _ in 0..1000 {
        elf.renew_budget();
        elf.code(BASE + CODE_AT, SIZE).unwrap();
    }
    elf.check_budget().unwrap();
}

#[test]
fn names_that_overlap_are_limited_by_the_blocks_on_disk() {
    let (file, sections) = file_with_sections();
    // One name of 60 KiB, whose ends are the names of 1000 symbols.
    let strings = 1 << 20;
    let mut text = vec![b'x'; 60 << 10];
    text.push(0);
    file.write_all_at(&text, strings).unwrap();
    let table = 8 << 20;
    let mut symbols = Vec::new();
    for index in 0..1000_u64 {
        symbols.extend((index as u32).to_le_bytes());
        symbols.extend([0x12, 0, 1, 0]);
        symbols.extend([BASE + CODE_AT + index, 1].map(u64::to_le_bytes).concat());
    }
    file.write_all_at(&symbols, table).unwrap();
    file.set_len(1 << 40).unwrap();
    let (of_table, of_strings) = (sections + SECTION, sections + 2 * SECTION);
    put(&file, of_table + SH_OFFSET, table);
    put(&file, of_table + SH_SIZE, symbols.len() as u64);
    put(&file, of_strings + SH_OFFSET, strings);
    put(&file, of_strings + SH_SIZE, text.len() as u64);
    let error = functions::all(&opened(&file), Path::new("made-up")).unwrap_err();
    assert!(format!("{error:#}").contains("longer than the file"), "{error:#}");
}

#[test]
fn hash_chains_are_as_long_as_the_symbol_table() {
    const LOADS: u64 = 64;
    const LOAD: u64 = 56;
    const P_FILESZ: u64 = 32;
    let bytes = ElfImage::default().bytes();
    let file = file_with(&bytes);
    file.set_len(1 << 42).unwrap();
    put(&file, LOADS + P_FILESZ, 1 << 42);
    file.write_all_at(&[0; 4], LOADS + LOAD).unwrap();
    // After headers, four symbols, four versions, hash header and bloom word: the buckets. A chain in the hole.
    let buckets_at = 64 + 6 * 56 + 4 * 24 + 8 + 16 + 8;
    file.write_all_at(&300_000_u32.to_le_bytes(), buckets_at).unwrap();
    let elf = opened(&file);
    let error = elf.dynamic_symbols().err().unwrap();
    assert!(
        format!("{error:#}").contains("a hash chain has no end"),
        "{error:#}"
    );
    assert!(total(&elf) - left(&elf) < 1 << 20);
    elf.check_budget().unwrap();
}

#[test]
fn names_of_megabytes_are_skipped() {
    let long: &'static str = "x".repeat((1 << 20) + 1).leak();
    let image = ElfImage {
        local: vec![ImageSymbol::new(long, 64), ImageSymbol::new("short", 80)],
        sections: true,
        ..ElfImage::default()
    };
    let elf = opened(&image.file());
    let found = functions::all(&elf, Path::new("made-up")).unwrap();
    assert!(found.iter().all(|function| function.name.len() < 100));
    assert!(found.iter().any(|function| &*function.name == "short"));
    assert!(elf.has_skipped_names());
}

/// A hostile file has as many symbols as it likes within one long name.
#[test]
fn long_texts_are_left_out_of_string_tables() {
    const PART: usize = 64 << 10;
    let text = |length: usize| [&vec![b'x'; length][..], b"\0"].concat();
    let read = |bytes: &[u8]| {
        let source = ElfSource::in_memory(bytes.to_vec());
        let read = source.read_texts(0, bytes.len() as u64).unwrap();
        (read.bytes().to_vec(), source.has_skipped_texts())
    };
    for length in [PART - 1, PART, 2 * PART - 2, 2 * PART - 1, 2 * PART, 7 * PART + 5] {
        for before in [1, 5, PART - 2, PART - 1, PART, PART + 1] {
            let mut first = text(before.min(PART) - 1);
            first.resize(before, 0);
            let parts = [first, text(length), text(3)];
            let all = parts.concat();
            let without = [&parts[0], &vec![0; length + 1], &parts[2]]
                .map(Vec::as_slice)
                .concat();
            let fills_part = before.next_multiple_of(PART) + PART <= before + length;
            let expected = if fills_part { without } else { all.clone() };
            assert!(
                read(&all) == (expected, fills_part),
                "{before} bytes, then {length}"
            );
            // The end of a text is missing: no name is made of the rest.
            let cut = &all[..all.len() - 1];
            assert_eq!(read(cut).0.last(), Some(&b'x'));
        }
    }
}
