// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Small ELF files, generated in memory for tests.

use std::fs::File;
use std::io::Write;

use object::elf;

pub use super::link_view::MACHINE;

/// Virtual address of the first byte of the file.
pub const BASE: u64 = 0x40_0000;
/// Difference between the load address of the code and that of the rest.
pub const CODE_SHIFT: u64 = 0x1_0000;
/// Buckets of GNU hash tables.
const BUCKETS: u32 = 2;
/// File offset of the code in [`image_with_functions`].
pub const CODE_AT: u64 = 0x100;
/// Bytes of code.
pub const CODE_SIZE: u64 = 256;

/// Kind of the hash table of dynamic symbols.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum HashKind {
    Gnu,
    Sysv,
    None,
}

/// A symbol.
#[derive(Clone)]
pub struct ImageSymbol {
    pub name: &'static str,
    /// Offset in the code; `None` if it is imported.
    pub at: Option<u64>,
    /// Such as `STT_FUNC`.
    pub kind: u8,
    pub local: bool,
    pub version: u16,
    /// In bytes; 0 if unknown.
    pub size: u64,
}

impl ImageSymbol {
    pub fn new(name: &'static str, at: u64) -> ImageSymbol {
        ImageSymbol {
            name,
            at: Some(at),
            kind: elf::STT_FUNC,
            local: false,
            version: 1,
            size: 8,
        }
    }
}

/// The description of a file.
#[derive(Clone)]
pub struct ElfImage {
    pub hash: HashKind,
    pub dynamic: Vec<ImageSymbol>,
    /// Symbols of `.symtab`; written only if `sections` is set.
    pub local: Vec<ImageSymbol>,
    /// Write section headers.
    pub sections: bool,
    pub soname: &'static str,
    pub needed: Vec<String>,
    pub rpath: String,
    pub runpath: String,
    pub interpreter: String,
    /// Of the code segment, such as `PF_R | PF_X`.
    pub flags: u32,
}

impl Default for ElfImage {
    fn default() -> ElfImage {
        ElfImage {
            hash: HashKind::Gnu,
            dynamic: vec![
                ImageSymbol::new("alpha", 0),
                ImageSymbol::new("beta", 16),
                ImageSymbol::new("gamma_long_name", 32),
            ],
            local: Vec::new(),
            sections: false,
            soname: "",
            needed: Vec::new(),
            rpath: String::new(),
            runpath: String::new(),
            interpreter: String::new(),
            flags: elf::PF_R | elf::PF_X,
        }
    }
}

/// A string table that has each string once.
struct StringTable(Vec<u8>);

impl StringTable {
    fn add(&mut self, text: &str) -> u64 {
        let mut entry = vec![0];
        entry.extend(text.bytes().chain([0]));
        if let Some(before) = self.0.windows(entry.len()).position(|window| window == entry) {
            return before as u64 + 1;
        }
        let at = self.0.len() as u64;
        self.0.extend(text.bytes().chain([0]));
        at
    }
}

impl ElfImage {
    /// The file's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut symbols = self.dynamic.clone();
        // GNU hash tables have the imported symbols first, the others grouped by bucket.
        symbols.sort_by_key(|symbol| symbol.at.map(|_| hash_of(symbol) % BUCKETS));
        let imported = symbols.iter().filter(|symbol| symbol.at.is_none()).count();

        let mut out = vec![0; 64 + 6 * 56];
        let mut strings = StringTable(vec![0]);
        let table_at = self.append_symbols(&mut out, &symbols, &mut strings);
        let versions_at = align(&mut out);
        put16(&mut out, 0);
        symbols.iter().for_each(|symbol| put16(&mut out, symbol.version));
        let mut tags = vec![
            (elf::DT_SYMTAB, BASE + table_at),
            (elf::DT_VERSYM, BASE + versions_at),
        ];
        self.append_hash_table(&mut out, &symbols, imported, &mut tags);
        self.append_name_tags(&mut tags, &mut strings);
        let strings_at = align(&mut out);
        out.extend(&strings.0);
        tags.extend([
            (elf::DT_STRTAB, BASE + strings_at),
            (elf::DT_STRSZ, strings.0.len() as u64),
        ]);

        let dynamic_at = append_dynamic(&mut out, tags);
        let dynamic_size = out.len() as u64 - dynamic_at;
        let interpreter_at = align(&mut out);
        out.extend(self.interpreter.bytes().chain([0]));
        let code_at = align(&mut out);
        out.resize(out.len() + CODE_SIZE as usize, 0x90);
        let end = out.len() as u64;
        self.fix_symbols(&mut out, table_at, &symbols, code_at);

        let sections_at = match self.sections {
            true => self.append_sections(&mut out, code_at),
            false => 0,
        };
        let interpreter_type = if self.interpreter.is_empty() {
            elf::PT_NULL
        } else {
            elf::PT_INTERP
        };
        let interpreter_size = self.interpreter.len() as u64 + 1;
        let segments = [
            segment(elf::PT_LOAD, elf::PF_R, 0, 0, code_at),
            segment(elf::PT_LOAD, self.flags, code_at, CODE_SHIFT, end - code_at),
            segment(elf::PT_DYNAMIC, elf::PF_R, dynamic_at, 0, dynamic_size),
            segment(interpreter_type, elf::PF_R, interpreter_at, 0, interpreter_size),
        ];
        let entry = BASE + code_at + CODE_SHIFT;
        out[..64].copy_from_slice(&file_header(entry, segments.len() as u16, sections_at));
        let headers = segments.concat();
        out[64..64 + headers.len()].copy_from_slice(&headers);
        out
    }

    /// The file, opened.
    pub fn file(&self) -> File {
        file_with(&self.bytes())
    }

    /// Appends the tags whose values are strings.
    fn append_name_tags(&self, tags: &mut Vec<(u32, u64)>, strings: &mut StringTable) {
        tags.extend(self.needed.iter().map(|name| (elf::DT_NEEDED, strings.add(name))));
        for (tag, text) in [
            (elf::DT_SONAME, self.soname),
            (elf::DT_RPATH, &self.rpath),
            (elf::DT_RUNPATH, &self.runpath),
        ] {
            if !text.is_empty() {
                tags.push((tag, strings.add(text)));
            }
        }
    }

    /// Appends the hash table and its tag. The first `imported` symbols are not hashed.
    fn append_hash_table(
        &self,
        out: &mut Vec<u8>,
        symbols: &[ImageSymbol],
        imported: usize,
        tags: &mut Vec<(u32, u64)>,
    ) {
        let hash_at = align(out);
        match self.hash {
            HashKind::Gnu => {
                tags.push((elf::DT_GNU_HASH, BASE + hash_at));
                let first = 1 + imported;
                [BUCKETS, first as u32, 1, 0]
                    .into_iter()
                    .for_each(|number| put32(out, number));
                put64(out, u64::MAX);
                let hashed = &symbols[imported..];
                for bucket in 0..BUCKETS {
                    let head = hashed
                        .iter()
                        .position(|symbol| hash_of(symbol) % BUCKETS == bucket);
                    put32(out, head.map_or(0, |index| (first + index) as u32));
                }
                for (index, symbol) in hashed.iter().enumerate() {
                    let next = hashed.get(index + 1);
                    let last = next.is_none_or(|next| hash_of(next) % BUCKETS != hash_of(symbol) % BUCKETS);
                    put32(out, (hash_of(symbol) & !1) | u32::from(last));
                }
            }
            HashKind::Sysv => {
                tags.push((elf::DT_HASH, BASE + hash_at));
                put32(out, 1);
                put32(out, symbols.len() as u32 + 1);
            }
            HashKind::None => {}
        }
    }

    fn append_symbols(&self, out: &mut Vec<u8>, symbols: &[ImageSymbol], strings: &mut StringTable) -> u64 {
        let at = align(out);
        out.extend([0; 24]);
        for symbol in symbols {
            put32(out, strings.add(symbol.name) as u32);
            let bind = if symbol.local {
                elf::STB_LOCAL
            } else {
                elf::STB_GLOBAL
            };
            out.extend([bind << 4 | symbol.kind, 0]);
            put16(out, if symbol.at.is_some() { 5 } else { elf::SHN_UNDEF });
            put64(out, 0);
            put64(out, symbol.size);
        }
        at
    }

    /// Sets the addresses once the offset of the code is known.
    fn fix_symbols(&self, out: &mut [u8], table_at: u64, symbols: &[ImageSymbol], code_at: u64) {
        for (index, symbol) in symbols.iter().enumerate() {
            let value = symbol.at.map_or(0, |at| BASE + code_at + CODE_SHIFT + at);
            let at = table_at as usize + (index + 1) * 24 + 8;
            out[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
    }

    fn append_sections(&self, out: &mut Vec<u8>, code_at: u64) -> u64 {
        let mut strings = StringTable(vec![0]);
        let table_at = self.append_symbols(out, &self.local, &mut strings);
        self.fix_symbols(out, table_at, &self.local, code_at);
        let table_size = out.len() as u64 - table_at;
        let strings_at = align(out);
        out.extend(&strings.0);
        append_section_headers(out, (table_at, table_size), (strings_at, strings.0.len()))
    }
}

/// Appends the headers of `.symtab` and `.strtab`, which have an offset and a size each.
fn append_section_headers(out: &mut Vec<u8>, table: (u64, u64), strings: (u64, usize)) -> u64 {
    let at = align(out);
    let sections = [
        (elf::SHT_NULL, 0, 0, 0),
        (elf::SHT_SYMTAB, table.0, table.1, 2),
        (elf::SHT_STRTAB, strings.0, strings.1 as u64, 0),
    ];
    for (kind, offset, size, link) in sections {
        put32(out, 0);
        put32(out, kind);
        [0, 0, offset, size]
            .into_iter()
            .for_each(|number| put64(out, number));
        put32(out, link);
        put32(out, 0);
        [8, 24].into_iter().for_each(|number| put64(out, number));
    }
    at
}

fn hash_of(symbol: &ImageSymbol) -> u32 {
    elf::gnu_hash(symbol.name.as_bytes())
}

/// Appends the dynamic section.
fn append_dynamic(out: &mut Vec<u8>, tags: Vec<(u32, u64)>) -> u64 {
    let at = align(out);
    for (tag, value) in tags.into_iter().chain([(elf::DT_NULL, 0)]) {
        put64(out, u64::from(tag));
        put64(out, value);
    }
    at
}

/// A program header.
fn segment(kind: u32, flags: u32, at: u64, shift: u64, size: u64) -> Vec<u8> {
    let mut header = Vec::new();
    put32(&mut header, kind);
    put32(&mut header, flags);
    for number in [at, BASE + at + shift, 0, size, size, 1] {
        put64(&mut header, number);
    }
    header
}

/// A file with `count` functions of `size` bytes, one every `distance` bytes of `code`, which begins at
/// [`CODE_AT`]. They have symbols in `.symtab`, and the names `f0`, `f1` and so on.
pub fn image_with_functions(code: &[u8], count: u64, distance: u64, size: u64) -> Vec<u8> {
    let mut out = vec![0; CODE_AT as usize];
    out.extend(code);
    let table_at = align(&mut out);
    out.extend([0; 24]);
    let mut strings = vec![0];
    for index in 0..count {
        put32(&mut out, strings.len() as u32);
        out.extend([elf::STB_GLOBAL << 4 | elf::STT_FUNC, 0]);
        put16(&mut out, 1);
        put64(&mut out, BASE + CODE_AT + index * distance);
        put64(&mut out, size);
        strings.extend(format!("f{index}\0").bytes());
    }
    let table_size = out.len() as u64 - table_at;
    let strings_at = align(&mut out);
    out.extend(&strings);
    let sections_at = append_section_headers(&mut out, (table_at, table_size), (strings_at, strings.len()));
    let end = out.len() as u64;
    out[..64].copy_from_slice(&file_header(0, 1, sections_at));
    let load = segment(elf::PT_LOAD, elf::PF_R | elf::PF_X, 0, 0, end);
    out[64..64 + load.len()].copy_from_slice(&load);
    out
}

/// An anonymous file with these bytes.
pub fn file_with(bytes: &[u8]) -> File {
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    let mut file = File::from(nix::sys::memfd::memfd_create("elf", flags).unwrap());
    file.write_all(bytes).unwrap();
    file
}

fn file_header(entry: u64, segments: u16, sections_at: u64) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    put16(&mut header, elf::ET_DYN);
    put16(&mut header, MACHINE.0);
    put32(&mut header, 1);
    [entry, 64, sections_at]
        .into_iter()
        .for_each(|number| put64(&mut header, number));
    put32(&mut header, 0);
    let sections = if sections_at == 0 { 0 } else { 3 };
    [64, 56, segments, 64, sections, 0]
        .into_iter()
        .for_each(|number| put16(&mut header, number));
    header
}

fn align(out: &mut Vec<u8>) -> u64 {
    out.resize(out.len().next_multiple_of(8), 0);
    out.len() as u64
}

fn put16(out: &mut Vec<u8>, number: u16) {
    out.extend(number.to_le_bytes());
}

fn put32(out: &mut Vec<u8>, number: u32) {
    out.extend(number.to_le_bytes());
}

fn put64(out: &mut Vec<u8>, number: u64) {
    out.extend(number.to_le_bytes());
}
