// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The memory of a process, and the list of loaded files that its dynamic loader keeps there for debuggers.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Most entries of a loader's list that are followed.
pub const MAX_LINKS: usize = 4096;
/// Most program headers that are read; real programs have about a dozen.
pub const MAX_HEADERS: u64 = 256;
/// Most entries of a dynamic section or an auxiliary vector that are read; real ones have about thirty.
const MAX_ENTRIES: u64 = 1024;

/// The memory of a process, `/proc/PID/mem`. The process controls its content, so every walk through it is
/// bounded.
pub struct ProcMemory(pub(super) File);

impl ProcMemory {
    /// `N` 8-byte words from address `addr` on.
    pub fn words<const N: usize>(&self, addr: u64) -> Option<[u64; N]> {
        let mut words = [0_u64; N];
        self.0
            .read_exact_at(object::pod::bytes_of_slice_mut(&mut words), addr)
            .ok()?;
        Some(words)
    }

    /// The value of a key in a list of pairs that ends with key 0: a dynamic section, an auxiliary vector.
    pub(super) fn entry(&self, addr: u64, wanted: u64) -> Option<u64> {
        (0..MAX_ENTRIES)
            .map_while(|index| self.words::<2>(addr.checked_add(index * 16)?))
            .take_while(|&[key, _]| key != 0)
            .find_map(|[key, value]| (key == wanted).then_some(value))
    }

    /// The address of the loader's `r_debug`, from the dynamic section of a program. It is 0 until the loader
    /// has run.
    pub(super) fn debug_address(&self, dynamic: u64) -> Option<u64> {
        self.entry(dynamic, u64::from(object::elf::DT_DEBUG))
            .filter(|&addr| addr != 0)
    }

    /// The address of the dynamic section of a program, by its program headers, which are at `headers`.
    pub(super) fn dynamic_section(&self, headers: u64, count: u64) -> Option<u64> {
        let all: Vec<(u32, u64)> = (0..count)
            .map_while(|index| {
                // Elf64_Phdr: type and flags, offset, address, ..., 56 bytes.
                let [kind, _, addr] = self.words::<3>(headers.checked_add(index * 56)?)?;
                Some((kind as u32, addr))
            })
            .collect();
        let of_kind = |wanted| {
            all.iter()
                .find(|(kind, _)| *kind == wanted)
                .map(|(_, addr)| *addr)
        };
        // Where the headers are says how far the program was moved. One that is never moved need not say it.
        let load_bias = of_kind(object::elf::PT_PHDR).map_or(0, |addr| headers.wrapping_sub(addr));
        Some(of_kind(object::elf::PT_DYNAMIC)?.wrapping_add(load_bias))
    }

    /// The addresses of the dynamic sections of all loaded files, in the order of the loader's list.
    pub(super) fn link_map(&self, debug: u64) -> Vec<u64> {
        // struct r_debug { int version; struct link_map *map; ... }
        let [_, mut link] = self.words::<2>(debug).unwrap_or_default();
        let mut seen = HashSet::new();
        let mut dynamics = Vec::new();
        while link != 0 && dynamics.len() < MAX_LINKS && seen.insert(link) {
            // struct link_map { addr, name, dynamic section, next, previous }
            let Some([_, _, dynamic, next]) = self.words::<4>(link) else {
                break;
            };
            dynamics.push(dynamic);
            link = next;
        }
        dynamics
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find::elf::image::file_with;

    fn memory(words: &[u64]) -> ProcMemory {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        ProcMemory(file_with(&bytes))
    }

    #[test]
    fn debug_address_of_damaged_sections() {
        let debug = u64::from(object::elf::DT_DEBUG);
        assert_eq!(memory(&[5, 6, debug, 64, 0, 0]).debug_address(0), Some(64));
        for (words, why) in [
            (&[0, 0, debug, 64][..], "after the end of the list"),
            (&[debug, 0, 0, 0], "the loader has not run"),
            (&[5, 6], "no end"),
            (&[5; 2 * 5000], "too long"),
        ] {
            assert_eq!(memory(words).debug_address(0), None, "{why}");
        }
        assert_eq!(memory(&[]).debug_address(u64::MAX - 3), None);
    }

    #[test]
    fn dynamic_section_is_found_by_program_headers() {
        let header = |kind: u32, addr: u64| [kind.into(), 0, addr, addr, 0, 0, 0];
        let phdr = header(object::elf::PT_PHDR, 0x40);
        let load = header(object::elf::PT_LOAD, 0);
        let dynamic = header(object::elf::PT_DYNAMIC, 0x700);
        let at_56 = |headers: &[[u64; 7]]| memory(&[&[0; 7], headers.as_flattened()].concat());
        assert_eq!(
            at_56(&[phdr, load, dynamic]).dynamic_section(56, 3),
            Some(0x700 + 56 - 0x40)
        );
        assert_eq!(at_56(&[load, dynamic]).dynamic_section(56, 2), Some(0x700));
        assert_eq!(at_56(&[load]).dynamic_section(56, MAX_HEADERS), None);
        assert_eq!(at_56(&[]).dynamic_section(u64::MAX - 8, 2), None);
    }

    #[test]
    fn hostile_link_maps_are_bounded() {
        // r_debug at 0, entries at 16 and 48.
        let whole = memory(&[1, 16, 0, 0, 0x700, 48, 0, 0, 0x800, 0]);
        assert_eq!(whole.link_map(0), [0x700, 0x800]);
        assert_eq!(memory(&[1, 16, 0, 0, 0x700, 16]).link_map(0), [0x700], "a cycle");
        let outside = memory(&[1, 16, 0, 0, 0x700, u64::MAX - 7]);
        assert_eq!(outside.link_map(0), [0x700], "outside of the memory");
        assert!(memory(&[1, 0]).link_map(0).is_empty());
        assert!(memory(&[]).link_map(8).is_empty());
        // Each entry overlaps the next: a list as long as the memory.
        let mut words = vec![1, 8];
        words.extend((0..40_000).map(|index| 8 * (index + 1)));
        assert_eq!(memory(&words).link_map(0).len(), MAX_LINKS);
    }
}
