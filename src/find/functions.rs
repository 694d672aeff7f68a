//! stub
use super::demangle::demangle;
use super::elf::{ElfFile, Function};
use super::spec::NamePattern;
use anyhow::Result;
use std::path::Path;
pub fn select(elf: &ElfFile, _path: &Path, name: &NamePattern) -> Result<Vec<Function>> {
    let mut v: Vec<Function> = elf
        .functions()?
        .into_iter()
        .filter(|f| name.matches(&f.name) || name.matches(&demangle(&f.name)))
        .collect();
    v.sort_by_key(|f| f.addr);
    v.dedup_by_key(|f| f.addr);
    Ok(v)
}
pub fn containing(elf: &ElfFile, _path: &Path, addr: u64) -> Result<Option<Function>> {
    Ok(elf
        .functions()?
        .into_iter()
        .find(|f| f.addr <= addr && addr < f.addr + f.size))
}
pub fn nearest(elf: &ElfFile, _path: &Path, name: &str, n: usize) -> Vec<String> {
    elf.nearest(name, n)
}
pub fn is_go(_elf: &ElfFile) -> bool {
    false
}
