//! What DWARF debug information, versions 4 and 5, says of functions: their parameters with types and places.
//!
//! The sections are read into memory and every unit is walked once, to find the functions by address; parameters and types
//! are decoded when somebody asks. Units with the code split off into `.dwo` files and DWARF 4 type units
//! (`.debug_types`) are not looked at, and a class that a unit only declares has no members.
//!
//! The file is not believed: references are followed to a limited depth, and all decoding together ends after a number of
//! entries that goes with the size of the file.

mod entries;
mod index;
mod kinds;
mod location;
mod signature;
#[cfg(test)]
mod tests;

use std::fs::File;

use anyhow::{Context, Result};
use gimli::{DwarfSections, SectionId};
use self_cell::self_cell;

use super::types::Signature;
use crate::find::elf::sections::SectionReader;
use entries::Entries;
use signature::Decoder;

/// Most bytes of debug information that are kept in memory, decompressed. Browsers have less.
const MAX_BYTES: u64 = 1 << 30;
/// Bytes of a text that are looked at. Mangled names are long.
const MAX_NAME: usize = 4096;

/// The sections that tell of functions. The largest of the others, `.debug_line`, is often half of all.
const SECTIONS: [SectionId; 10] = [
    SectionId::DebugAbbrev,
    SectionId::DebugAddr,
    SectionId::DebugInfo,
    SectionId::DebugLineStr,
    SectionId::DebugLoc,
    SectionId::DebugLocLists,
    SectionId::DebugRanges,
    SectionId::DebugRngLists,
    SectionId::DebugStr,
    SectionId::DebugStrOffsets,
];

type Content = DwarfSections<Vec<u8>>;

/// `None` if the file has no debug information. Takes what it reads from `budget`, a number of bytes.
fn read(file: &File, budget: &mut u64) -> Result<Option<Content>> {
    let sections = SectionReader::open(file.try_clone()?)?;
    if !sections.has(SectionId::DebugInfo.name()) {
        return Ok(None);
    }
    let content = DwarfSections::load(|id| -> Result<Vec<u8>> {
        if !SECTIONS.contains(&id) {
            return Ok(Vec::new());
        }
        let content = sections.read(id.name(), *budget)?.unwrap_or_default();
        *budget = budget.saturating_sub(content.len() as u64);
        Ok(content)
    })?;
    Ok(Some(content))
}

/// The content of a file, and of the file with what it shares with others.
struct Files {
    main: Content,
    shared: Option<Content>,
}

self_cell!(
    struct Loaded {
        owner: Files,
        #[not_covariant]
        dependent: Decoder,
    }
);

/// The debug information of one file.
pub struct DebugInfo {
    loaded: Loaded,
}

impl DebugInfo {
    /// Reads `file`: the program or library itself, or its separate debug file. `shared` is the file that `dwz` made of
    /// what several debug files have in common, and that `.gnu_debugaltlink` names; without it, types that lie there
    /// are not known. `None` if the file has no debug information. Nothing is read later.
    ///
    /// # Errors
    /// A file cannot be read, is damaged, too large, or compressed with something else than zlib. Damage inside of the
    /// debug information is no error: what it concerns is missing.
    pub fn open(file: &File, shared: Option<&File>) -> Result<Option<DebugInfo>> {
        let mut budget = MAX_BYTES;
        let content = read(file, &mut budget).context("failed to read debug information")?;
        let Some(main) = content else {
            return Ok(None);
        };
        let shared = match shared {
            Some(file) => read(file, &mut budget).context("failed to read shared debug information")?,
            None => None,
        };
        let files = Files { main, shared };
        let loaded = Loaded::new(files, |files| {
            let shared = files.shared.as_ref().map(Entries::new);
            Decoder::new(Entries::new(&files.main), shared)
        });
        Ok(Some(DebugInfo { loaded }))
    }

    /// The parameters of the function whose first instruction has the virtual address `addr`, as the file has it. `None`
    /// if nothing is known of such a function.
    pub fn signature(&self, addr: u64) -> Option<Signature> {
        self.loaded.with_dependent(|_, decoder| decoder.signature(addr))
    }

    /// Whether there is a function of that name, plain, with its namespaces, or mangled, that has no address because
    /// it was put into all of its callers. Looks at every such function.
    pub fn inlined(&self, name: &str) -> bool {
        self.loaded.with_dependent(|_, decoder| decoder.inlined(name))
    }
}
