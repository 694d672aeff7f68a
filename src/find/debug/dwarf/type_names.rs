// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The names of types, as their language writes them.

use std::ops::ControlFlow;

use gimli::DwTag;
use gimli::constants as dw;

use super::entries::{DebugEntry, EntryOffset};
use super::files::DebugFiles;
use super::type_entries::{MAX_DEPTH, is_pointer};

/// Bytes of a type's name; longer ones end in `...`.
const MAX_NAME: usize = 256;
/// Arguments in the name of a function type.
const MAX_ARGUMENTS: usize = 8;

impl DebugFiles {
    /// The name of a parameter's type, without the qualifiers of the parameter itself: they do not concern the caller.
    pub fn shown_name(&self, at: EntryOffset) -> String {
        let stripped = self.unqualified(at).map(|entry| entry.offset);
        self.name(stripped.or(Some(at)), 0)
    }

    fn name(&self, at: Option<EntryOffset>, depth: usize) -> String {
        let Some(at) = at else {
            return "void".to_owned();
        };
        match self.entry(at) {
            Some(entry) if depth < MAX_DEPTH => truncated(self.entry_name(&self.whole(entry), depth)),
            _ => "...".to_owned(),
        }
    }

    fn entry_name(&self, entry: &DebugEntry, depth: usize) -> String {
        let at = self.reference(entry, dw::DW_AT_type);
        let target = || self.name(at, depth + 1);
        match entry.tag() {
            dw::DW_TAG_pointer_type => match self.text(entry, dw::DW_AT_name) {
                // Rust names nearly all of its pointers.
                Some(name) => name,
                None if entry.is_rust() => format!("*const {}", target()),
                None => self.pointer_name(at, "*", depth),
            },
            dw::DW_TAG_reference_type => self.pointer_name(at, "&", depth),
            dw::DW_TAG_rvalue_reference_type => self.pointer_name(at, "&&", depth),
            dw::DW_TAG_const_type => self.qualified(at, "const", depth),
            dw::DW_TAG_volatile_type => self.qualified(at, "volatile", depth),
            dw::DW_TAG_restrict_type => target(),
            dw::DW_TAG_atomic_type => format!("_Atomic {}", target()),
            dw::DW_TAG_array_type => self.array_name(entry, &target()),
            dw::DW_TAG_subroutine_type => self.function_name(entry, "", depth),
            dw::DW_TAG_ptr_to_member_type => self.pointer_name(at, "::*", depth),
            tag => {
                let name = self.text(entry, dw::DW_AT_name);
                let name = name.unwrap_or_else(|| "(anonymous)".to_owned());
                match tag {
                    dw::DW_TAG_base_type => plain_c(name),
                    _ => self.in_language(entry, tag, name),
                }
            }
        }
    }

    fn in_language(&self, entry: &DebugEntry, tag: DwTag, name: String) -> String {
        let keyword = match tag {
            dw::DW_TAG_structure_type => "struct ",
            dw::DW_TAG_union_type => "union ",
            dw::DW_TAG_enumeration_type => "enum ",
            _ => "",
        };
        match entry.unit.root.language {
            Some(dw::DW_LANG_C | dw::DW_LANG_C89 | dw::DW_LANG_C99 | dw::DW_LANG_C11 | dw::DW_LANG_C17) => {
                format!("{keyword}{name}")
            }
            // A Rust name has the full paths of its type arguments already; without its own path it is easier to read.
            Some(dw::DW_LANG_Rust) => name.replace(", alloc::alloc::Global", ""),
            _ => {
                // In a type unit, GCC has the type outside of its namespace, where it is only declared.
                let declared = self.reference(entry, dw::DW_AT_specification);
                let declared = declared.and_then(|at| self.entry(at));
                let mut full = String::new();
                // Source code does not write the inline namespaces of the standard libraries.
                for namespace in self
                    .namespaces(declared.as_ref().unwrap_or(entry))
                    .iter()
                    .filter(|name| !name.starts_with("__"))
                {
                    full.push_str(namespace);
                    full.push_str("::");
                }
                full + &name
            }
        }
    }

    fn pointer_name(&self, target: Option<EntryOffset>, mark: &str, depth: usize) -> String {
        let entry = target.and_then(|target| self.entry(target));
        if let Some(entry) = entry.filter(|entry| entry.tag() == dw::DW_TAG_subroutine_type) {
            return self.function_name(&entry, mark, depth + 1);
        }
        let name = self
            .known_name(target)
            .unwrap_or_else(|| self.name(target, depth + 1));
        let space = if name.ends_with(['*', '&']) { "" } else { " " };
        format!("{name}{space}{mark}")
    }

    /// The usual name of a class, with its qualifier: `const std::string`.
    fn known_name(&self, target: Option<EntryOffset>) -> Option<String> {
        let class = self.unqualified(target?)?;
        let name = self
            .text_kind(&class)
            .and_then(|_| self.well_known_name(&class))?;
        let is_const = self.entry(target?)?.tag() == dw::DW_TAG_const_type;
        Some(if is_const { format!("const {name}") } else { name })
    }

    fn qualified(&self, target: Option<EntryOffset>, word: &str, depth: usize) -> String {
        let name = self.name(target, depth + 1);
        let is_pointer = target
            .and_then(|target| self.entry(target))
            .is_some_and(|entry| is_pointer(entry.tag()));
        match is_pointer {
            true => format!("{name}{word}"),
            false => format!("{word} {name}"),
        }
    }

    fn function_name(&self, function: &DebugEntry, mark: &str, depth: usize) -> String {
        // Arguments may be functions with arguments themselves; two levels are enough.
        let depth = depth + MAX_DEPTH / 3;
        let mut arguments = Vec::new();
        self.children(function, |child| {
            match child.tag() {
                dw::DW_TAG_formal_parameter => {
                    arguments.push(self.name(self.reference(&child, dw::DW_AT_type), depth + 1));
                }
                dw::DW_TAG_unspecified_parameters => arguments.push("...".to_owned()),
                _ => {}
            }
            match arguments.len() {
                MAX_ARGUMENTS.. => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        let result = self.name(self.reference(function, dw::DW_AT_type), depth + 1);
        let mark = if mark.is_empty() {
            String::new()
        } else {
            format!("({mark})")
        };
        format!("{result} {mark}({})", arguments.join(", "))
    }

    fn array_name(&self, array: &DebugEntry, element: &str) -> String {
        match self.array_length(array) {
            Some(length) if array.is_rust() => format!("[{element}; {length}]"),
            Some(length) => format!("{element}[{length}]"),
            None => format!("{element}[]"),
        }
    }
}

/// The usual name of an integer type, which GCC calls `long unsigned int`.
fn plain_c(name: String) -> String {
    let plain = match name.as_str() {
        "long int" => "long",
        "short int" => "short",
        "long long int" => "long long",
        "long unsigned int" => "unsigned long",
        "short unsigned int" => "unsigned short",
        "long long unsigned int" => "unsigned long long",
        "_Bool" => "bool",
        _ => return name,
    };
    plain.to_owned()
}

fn truncated(mut name: String) -> String {
    if let Some(end) = (0..=MAX_NAME).rev().find(|&end| name.is_char_boundary(end))
        && end < name.len()
    {
        name.truncate(end);
        name.push_str("...");
    }
    name
}
