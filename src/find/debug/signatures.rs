// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The signatures of the functions of a file: from debug information in the file itself or in its debug file, or from
//! the table of well-known prototypes.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::dwarf::DebugInfo;
use super::prototypes;
use super::types::{FunctionResult, FunctionSignature, TypeKind, ValueType};
use crate::find::elf::{ElfFile, FunctionSymbol};
use crate::find::functions::{debug_files, shared_file};

/// The signatures of the functions of one file.
pub struct SignatureSource {
    debug: Option<DebugInfo>,
    /// The name by which the prototypes are looked up.
    library: String,
    path: PathBuf,
    /// Why the debug information of the file could not be read.
    failure: Option<anyhow::Error>,
}

impl SignatureSource {
    /// Opens the debug information of `file`, of which `elf` is the parsed form. `path` is where the search
    /// for debug files starts. Debug information that cannot be read counts as absent; see [`SignatureSource::unread`].
    pub fn open(file: &File, elf: &ElfFile, path: &Path) -> SignatureSource {
        let mut failure = None;
        let mut read = |debug: Result<Option<DebugInfo>>| {
            let debug = debug.map_err(|error| failure.get_or_insert(error));
            debug.ok().flatten().map(|debug| debug.with_split_files(path))
        };
        let own = read(DebugInfo::open(file, shared_file(elf, path).as_ref()));
        let debug = own.or_else(|| {
            let (file, shared) = debug_files(elf, path)?;
            read(DebugInfo::open(&file, shared.as_ref()))
        });
        SignatureSource {
            debug,
            library: library_name(elf, path),
            path: path.to_owned(),
            failure,
        }
    }

    /// Begins to decompress debug information, for signatures that are asked for soon.
    pub fn read_ahead(&self) {
        if let Some(debug) = &self.debug {
            debug.read_ahead();
        }
    }

    /// Why the function at `addr` has debug information that is not read, or not all of it. `None` if it has none.
    /// `signature` is what [`SignatureSource::at`] found.
    pub fn unread(&self, addr: u64, signature: Option<&FunctionSignature>) -> Option<String> {
        let path = self.path.display();
        let Some(debug) = &self.debug else {
            let failure = self.failure.as_ref().filter(|_| signature.is_none());
            return failure.map(|error| format!("{path}: {error:#}"));
        };
        let missing = match signature {
            Some(_) => None,
            None => debug.missing_file(addr),
        };
        match missing {
            Some(name) => Some(format!(
                "the debug information of {path} is in a file that cannot be read: {name}"
            )),
            None => debug.met_damage().then(|| {
                format!(
                    "the debug information of {path} is damaged: arguments may be missing or have no type"
                )
            }),
        }
    }

    /// `None` if nothing is known. Debug information describes the resolver of an IFUNC symbol, not the
    /// function that it selects, so only prototypes are used for those.
    pub fn of(&self, function: &FunctionSymbol) -> Option<FunctionSignature> {
        match function.ifunc {
            true => prototypes::signature(&self.library, &function.name),
            false => self.at(function.addr, &function.name),
        }
    }

    /// As [`SignatureSource::of`], by the address of the function's first instruction and its symbol.
    pub fn at(&self, addr: u64, symbol: &str) -> Option<FunctionSignature> {
        let debug = self.debug.as_ref();
        debug
            .and_then(|debug| debug.signature(addr))
            .filter(is_known)
            .or_else(|| prototypes::signature(&self.library, symbol))
    }

    /// Whether a function of that name was inlined into all of its callers, and so has no code.
    pub fn inlined(&self, name: &str) -> bool {
        self.debug.as_ref().is_some_and(|debug| debug.inlined(name))
    }
}

/// The signature of a well-known function, if debug information cannot tell more about its values. Takes microseconds:
/// decompressing libc's debug information takes as long as half of a start.
pub fn well_known(elf: &ElfFile, path: &Path, symbol: &str) -> Option<FunctionSignature> {
    let signature = prototypes::signature(&library_name(elf, path), symbol)?;
    let mut params = signature.params.iter();
    params.all(|param| !has_members(&param.ty)).then_some(signature)
}

/// Whether the value may point to something of which debug information describes the parts.
fn has_members(ty: &ValueType) -> bool {
    const PLAIN: [&str; 4] = ["void *", "const void *", "char *", "const char *"];
    matches!(ty.kind, TypeKind::Pointer(_)) && !PLAIN.contains(&&*ty.name)
}

fn library_name(elf: &ElfFile, path: &Path) -> String {
    let file_name = || {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    elf.soname().unwrap_or_else(file_name)
}

/// Debug information has only the names of functions written in assembly language.
fn is_known(signature: &FunctionSignature) -> bool {
    let unknown = |returned: &FunctionResult| returned.ty.kind == TypeKind::Other;
    !(signature.params.is_empty() && signature.returns.as_ref().is_some_and(unknown))
}
