// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Text types of standard libraries, such as `std::string` and `String`: where an object has the address of
//! its bytes, and where their count.

use std::ops::ControlFlow;

use gimli::constants as dw;

use super::entries::DebugEntry;
use super::files::DebugFiles;
use super::type_entries::member_offset;
use crate::find::debug::types::TypeKind;

/// Structures around the vector of a Rust `String`.
const MAX_WRAPPERS: usize = 10;

/// Where an object has the address and the length of its text, as far as they are found.
#[derive(Default)]
struct TextLayout {
    pointer: Option<u64>,
    length: Option<u64>,
}

impl TextLayout {
    fn kind(self) -> Option<TypeKind> {
        Some(TypeKind::Text {
            pointer_at: self.pointer?,
            length_at: self.length?,
        })
    }
}

impl DebugFiles {
    /// The kind of a class that holds text; `None` for any other.
    pub fn text_kind(&self, class: &DebugEntry) -> Option<TypeKind> {
        let name = self.text(class, dw::DW_AT_name)?;
        let (pointer, length) = match name.as_str() {
            "String" | "OsString" | "PathBuf" if class.is_rust() => return self.rust_string(class),
            "string" if class.is_go() => ("str", "len"),
            "&str" | "&mut str" | "&std::path::Path" | "&std::ffi::os_str::OsStr" => ("data_ptr", "length"),
            name if name.starts_with("alloc::boxed::Box<str,") => ("data_ptr", "length"),
            name if name.starts_with("basic_string<char,") => ("_M_dataplus", "_M_string_length"),
            name if name.starts_with("basic_string_view<char,") => {
                return self
                    .text_with_members(class, "_M_str", "_M_len")
                    .or_else(|| self.text_with_members(class, "__data_", "__size_"));
            }
            _ => return None,
        };
        self.text_with_members(class, pointer, length)
    }

    /// The usual name of a class that holds text, if it differs from the one in the debug information.
    pub fn well_known_name(&self, class: &DebugEntry) -> Option<String> {
        let name = self.text(class, dw::DW_AT_name)?;
        let known = if name.starts_with("basic_string_view<") {
            "std::string_view"
        } else if name.starts_with("basic_string<") {
            "std::string"
        } else {
            return None;
        };
        Some(known.to_owned())
    }

    fn text_with_members(&self, class: &DebugEntry, pointer: &str, length: &str) -> Option<TypeKind> {
        let mut layout = TextLayout::default();
        self.children(class, |child| {
            if child.tag() == dw::DW_TAG_member
                && let Some(name) = self.text(&child, dw::DW_AT_name)
            {
                if name == pointer {
                    layout.pointer = member_offset(&child);
                } else if name == length {
                    layout.length = member_offset(&child);
                }
            }
            ControlFlow::Continue(())
        });
        layout.kind()
    }

    /// A `String` wraps a `Vec<u8>`: its first pointer, and its `len`.
    fn rust_string(&self, class: &DebugEntry) -> Option<TypeKind> {
        let mut layout = TextLayout::default();
        self.search_vec(class, 0, 0, &mut layout);
        layout.kind()
    }

    fn search_vec(&self, structure: &DebugEntry, start: u64, depth: usize, layout: &mut TextLayout) {
        if depth > MAX_WRAPPERS {
            return;
        }
        self.children(structure, |child| {
            let inner = self
                .reference(&child, dw::DW_AT_type)
                .and_then(|at| self.entry(at));
            if let (dw::DW_TAG_member, Some(inner), Some(offset)) =
                (child.tag(), inner, member_offset(&child))
            {
                let at = start.saturating_add(offset);
                let is_length = || {
                    self.text(&child, dw::DW_AT_name)
                        .is_some_and(|name| name == "len")
                };
                match inner.tag() {
                    dw::DW_TAG_pointer_type => layout.pointer = layout.pointer.or(Some(at)),
                    dw::DW_TAG_structure_type => self.search_vec(&inner, at, depth + 1, layout),
                    _ if is_length() => layout.length = layout.length.or(Some(at)),
                    _ => {}
                }
            }
            match layout {
                TextLayout {
                    pointer: Some(_),
                    length: Some(_),
                } => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
    }
}
