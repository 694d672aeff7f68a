// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Variables of the program that operands name, such as `counter(%rip)`.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use crate::find::elf::ElfFile;

/// Longer names are not looked up: those of a hostile file can be long and share their text.
const MAX_NAME: usize = 256;

/// Virtual addresses of variables, by name. `None` if several variables have the name.
#[derive(Default)]
pub struct VariableAddresses<'n>(HashMap<&'n [u8], Option<u64>>);

impl<'n> VariableAddresses<'n> {
    /// Looks for variables of these names. Symbol tables that cannot be read are skipped.
    pub fn find(elf: &ElfFile, names: impl Iterator<Item = &'n str>) -> VariableAddresses<'n> {
        let wanted: HashSet<&[u8]> = names.map(str::as_bytes).collect();
        let mut found = VariableAddresses::default();
        if wanted.is_empty() {
            return found;
        }
        for table in [elf.static_symbols(), elf.dynamic_symbols()]
            .iter()
            .flatten()
            .flatten()
        {
            for variable in table.variables() {
                let name = table
                    .short_name(&variable, MAX_NAME)
                    .and_then(|name| wanted.get(name));
                if let Some(name) = name {
                    found.add(name, variable.addr);
                }
            }
        }
        found
    }

    fn add(&mut self, name: &'n [u8], addr: u64) {
        match self.0.entry(name) {
            Entry::Vacant(entry) => _ = entry.insert(Some(addr)),
            Entry::Occupied(mut entry) if *entry.get() != Some(addr) => _ = entry.insert(None),
            Entry::Occupied(_) => {}
        }
    }

    /// `None` unless exactly one variable has this name.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name.as_bytes()).copied().flatten()
    }
}
