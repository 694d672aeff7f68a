// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Types as calling conventions see them: sizes, scalars, and whether objects are passed by reference.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::rc::Rc;

use gimli::AttributeValue;
use gimli::constants as dw;

use super::entries::{DebugEntry, EntryOffset};
use super::files::DebugFiles;
use super::type_entries::{MAX_DEPTH, bit_position, is_structure, member_offset};
use super::type_passing::ClassPassing;
use crate::find::debug::abi::{ScalarField, TypeLayout};

/// Longest type whose scalars matter to a calling convention, in bytes: four `long double`.
const MAX_IN_REGISTERS: u64 = 64;

/// Finds the layouts of types, each once.
pub struct TypeLayouts {
    passing: ClassPassing,
    files: Rc<DebugFiles>,
    known: RefCell<HashMap<EntryOffset, Rc<TypeLayout>>>,
}

impl TypeLayouts {
    pub fn new(files: Rc<DebugFiles>) -> TypeLayouts {
        TypeLayouts {
            passing: ClassPassing::new(Rc::clone(&files)),
            files,
            known: RefCell::default(),
        }
    }

    /// `None` if the debug information does not have the type, or has its name only.
    pub fn layout(&self, at: EntryOffset) -> Option<Rc<TypeLayout>> {
        if let Some(known) = self.known.borrow().get(&at) {
            return Some(Rc::clone(known));
        }
        let core = self.files.underlying(at)?;
        if core.is_set(dw::DW_AT_declaration) {
            return None;
        }
        let layout = Rc::new(self.layout_of(&core));
        self.known.borrow_mut().insert(at, Rc::clone(&layout));
        Some(layout)
    }

    fn layout_of(&self, core: &DebugEntry) -> TypeLayout {
        let bytes = self.files.size(core);
        let mut scalars = Vec::new();
        if bytes <= MAX_IN_REGISTERS {
            self.scalars(core, 0, 0, &mut scalars);
        }
        let largest = scalars.iter().map(|scalar| scalar.bytes).max();
        TypeLayout {
            bytes,
            align: core.number(dw::DW_AT_alignment).or(largest).unwrap_or(0),
            has_array: self.has_array(core, 0),
            scalars,
            by_reference: !core.is_rust() && self.passing.is_by_reference(core),
        }
    }

    /// Whether an array is a part of a Rust type. Other conventions do not ask.
    fn has_array(&self, core: &DebugEntry, depth: usize) -> bool {
        if !core.is_rust() || depth > MAX_DEPTH {
            return false;
        }
        if core.tag() == dw::DW_TAG_array_type {
            return self.files.size(core) > 0;
        }
        let mut found = false;
        if is_structure(core.tag()) || matches!(core.tag(), dw::DW_TAG_variant_part | dw::DW_TAG_variant) {
            self.files.children(core, |child| {
                found = match child.tag() {
                    dw::DW_TAG_variant_part | dw::DW_TAG_variant => self.has_array(&child, depth + 1),
                    dw::DW_TAG_member => {
                        let ty = self.files.target(&child);
                        ty.is_some_and(|ty| self.has_array(&ty, depth + 1))
                    }
                    _ => false,
                };
                match found {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
        }
        found
    }

    /// Adds the scalars of a type that begins `start` bytes into the value.
    fn scalars(&self, core: &DebugEntry, start: u64, depth: usize, scalars: &mut Vec<ScalarField>) {
        let bytes = self.files.size(core);
        let mut scalar = |offset, bytes, float| {
            let scalar = ScalarField { offset, bytes, float };
            let is_inside = offset < MAX_IN_REGISTERS && (1..=MAX_IN_REGISTERS).contains(&bytes);
            if is_inside && !scalars.contains(&scalar) {
                scalars.push(scalar);
            }
        };
        match core.tag() {
            _ if depth > MAX_DEPTH => {}
            dw::DW_TAG_base_type => match core.value(dw::DW_AT_encoding) {
                Some(AttributeValue::Encoding(dw::DW_ATE_complex_float)) => {
                    scalar(start, bytes / 2, true);
                    scalar(start.saturating_add(bytes / 2), bytes / 2, true);
                }
                Some(AttributeValue::Encoding(dw::DW_ATE_float | dw::DW_ATE_decimal_float)) => {
                    scalar(start, bytes, true);
                }
                _ => scalar(start, bytes, false),
            },
            dw::DW_TAG_array_type => self.array_scalars(core, start, depth, scalars),
            tag if is_structure(tag) || tag == dw::DW_TAG_variant_part || tag == dw::DW_TAG_variant => {
                self.member_scalars(core, start, depth, scalars);
            }
            _ => scalar(start, bytes, false),
        }
    }

    fn member_scalars(
        &self,
        structure: &DebugEntry,
        start: u64,
        depth: usize,
        scalars: &mut Vec<ScalarField>,
    ) {
        self.files.children(structure, |child| {
            match child.tag() {
                // Rust enums with fields.
                dw::DW_TAG_variant_part | dw::DW_TAG_variant => {
                    self.scalars(&child, start, depth + 1, scalars)
                }
                dw::DW_TAG_member if child.value(dw::DW_AT_bit_size).is_some() => {
                    let bytes = self.files.target(&child).map_or(0, |ty| self.files.size(&ty));
                    let (bit, _) = bit_position(&child, bytes).unwrap_or_default();
                    scalars.push(ScalarField {
                        offset: start.saturating_add(bit / 8).min(MAX_IN_REGISTERS),
                        bytes: 1,
                        float: false,
                    });
                }
                dw::DW_TAG_member | dw::DW_TAG_inheritance
                    if !child.is_set(dw::DW_AT_external) && !child.is_set(dw::DW_AT_declaration) =>
                {
                    if let Some((inner, offset)) = self.files.target(&child).zip(member_offset(&child)) {
                        self.scalars(&inner, start.saturating_add(offset), depth + 1, scalars);
                    }
                }
                _ => {}
            }
            match scalars.len() as u64 {
                MAX_IN_REGISTERS.. => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
    }

    fn array_scalars(&self, array: &DebugEntry, start: u64, depth: usize, scalars: &mut Vec<ScalarField>) {
        let Some((element, length)) = self.files.target(array).zip(self.files.array_length(array)) else {
            return;
        };
        let bytes = self.files.size(&element);
        for index in 0..length.min(MAX_IN_REGISTERS) {
            let at = start.saturating_add(index.saturating_mul(bytes));
            if at >= MAX_IN_REGISTERS || scalars.len() as u64 >= MAX_IN_REGISTERS {
                break;
            }
            self.scalars(&element, at, depth + 1, scalars);
        }
    }
}
