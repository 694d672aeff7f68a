// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Whether a function exists only inlined in its callers.

use gimli::constants as dw;

use super::entries::{DebugEntry, EntryOffset};
use super::files::DebugFiles;
use crate::find::demangle::demangle;

impl DebugFiles {
    /// Whether a function of that name was inlined and has no address. Reads all units.
    pub fn inlined(&self, name: &str) -> bool {
        let is_named = |bytes| {
            let chain = self.origin_chain(EntryOffset { shared: false, bytes });
            chain.iter().any(|entry| self.is_named(entry, name))
        };
        let units: Vec<_> = self.main.all().collect();
        let mut inlined = units.iter().flat_map(|unit| &self.main.index(unit).inlined);
        if !inlined.any(|&at| is_named(at)) {
            return false;
        }
        let mut functions = units.iter().flat_map(|unit| &self.main.index(unit).functions);
        !functions.any(|&(_, at)| is_named(at))
    }

    fn is_named(&self, entry: &DebugEntry, name: &str) -> bool {
        let plain = self.text(entry, dw::DW_AT_name);
        if plain.as_ref().is_some_and(|plain| plain == name) {
            return true;
        }
        let mangled = self.text(entry, dw::DW_AT_linkage_name);
        let mangled = mangled.or_else(|| self.text(entry, dw::DW_AT_MIPS_linkage_name));
        // Demangling every name would take a second in a large program.
        let is_likely = plain.is_none_or(|plain| name.ends_with(&plain));
        mangled.is_some_and(|mangled| {
            mangled == name || (is_likely && without_parameters(&demangle(&mangled)) == name)
        })
    }
}

/// `net::read` of `net::read(int)`.
fn without_parameters(name: &str) -> &str {
    name.split_once('(').map_or(name, |(name, _)| name)
}
