//! The parameters of the functions of a file, from whatever knows of them: debug information in the file itself or in its
//! debug file, else the table of well-known prototypes.

use std::fs::File;
use std::path::Path;

use super::dwarf::DebugInfo;
use super::prototypes;
use super::types::{Kind, Returned, Signature};
use crate::find::elf::{ElfFile, FunctionSymbol};
use crate::find::functions::{debug_files, shared_file};

/// What is known of the functions of one file.
pub struct Signatures {
    debug: Option<DebugInfo>,
    /// What the prototypes know the file as.
    library: String,
}

impl Signatures {
    /// Reads the debug information of `file`, which `elf` is made of. `path` tells where to look for debug files. Debug
    /// information that is damaged counts as absent.
    pub fn read(file: &File, elf: &ElfFile, path: &Path) -> Signatures {
        let own = DebugInfo::open(file, shared_file(elf, path).as_ref());
        let debug = own.ok().flatten().or_else(|| {
            let (file, shared) = debug_files(elf, path)?;
            DebugInfo::open(&file, shared.as_ref()).ok()?
        });
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Signatures {
            debug,
            library: elf.soname().unwrap_or_else(|| name.into_owned()),
        }
    }

    /// None where nothing is known. Of an IFUNC symbol debug information tells how the code that chooses is called, which
    /// is of no use.
    pub fn of(&self, function: &FunctionSymbol) -> Option<Signature> {
        match function.ifunc {
            true => prototypes::signature(&self.library, &function.name),
            false => self.at(function.addr, &function.name),
        }
    }

    /// The same by the address of the function's first instruction and its name in the symbol table.
    pub fn at(&self, addr: u64, symbol: &str) -> Option<Signature> {
        let debug = self.debug.as_ref();
        debug
            .and_then(|debug| debug.signature(addr))
            .filter(is_told)
            .or_else(|| prototypes::signature(&self.library, symbol))
    }

    /// Whether there is a function of that name without code of its own, as it was put into all of its callers.
    pub fn inlined(&self, name: &str) -> bool {
        self.debug.as_ref().is_some_and(|debug| debug.inlined(name))
    }
}

/// Of what was written in assembler, debug information knows the name alone.
fn is_told(signature: &Signature) -> bool {
    let unknown = |returned: &Returned| returned.ty.kind == Kind::Other;
    !(signature.params.is_empty() && signature.returns.as_ref().is_some_and(unknown))
}
