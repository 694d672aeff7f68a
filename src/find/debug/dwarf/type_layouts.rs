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
use super::type_passing::{ClassPassing, PassedAs};
use crate::find::debug::abi::{MachineAbi, NATIVE, ScalarField, TypeLayout};

/// Longest type whose scalars matter to a calling convention, in bytes: four `long double`.
const MAX_IN_REGISTERS: u64 = 64;

/// The scalars of a type while they are collected.
#[derive(Default)]
struct ScalarList {
    list: Vec<ScalarField>,
    /// The strictest alignment, in bytes.
    align: u64,
    /// There is a vector of more than 16 bytes, for which the registers depend on options of the compiler.
    has_wide_vector: bool,
    /// There is a member of no size, or an alignment, for which there may be words without members. Others may have
    /// bit fields without a name, which GCC and clang pass in different ways.
    has_padding: bool,
}

impl ScalarList {
    fn add(&mut self, scalar: ScalarField) {
        let is_inside = scalar.offset < MAX_IN_REGISTERS && (1..=MAX_IN_REGISTERS).contains(&scalar.bytes);
        if is_inside && !self.list.contains(&scalar) {
            self.align = self.align.max(scalar.bytes);
            self.list.push(scalar);
        }
    }

    fn align_as(&mut self, entry: &DebugEntry) {
        let align = entry.number(dw::DW_AT_alignment);
        self.has_padding |= align.is_some();
        self.align = self.align.max(align.unwrap_or(0));
    }

    fn is_full(&self) -> bool {
        self.list.len() as u64 >= MAX_IN_REGISTERS
    }
}

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

    /// `None` if the debug information does not have the type, or has its name only, or does not tell how it is passed.
    pub fn layout(&self, at: EntryOffset) -> Option<Rc<TypeLayout>> {
        if let Some(known) = self.known.borrow().get(&at) {
            return Some(Rc::clone(known));
        }
        let core = self.files.underlying(at)?;
        if core.is_set(dw::DW_AT_declaration) {
            return None;
        }
        let layout = Rc::new(self.layout_of(&core)?);
        self.known.borrow_mut().insert(at, Rc::clone(&layout));
        Some(layout)
    }

    fn layout_of(&self, core: &DebugEntry) -> Option<TypeLayout> {
        let passed_as = match core.is_rust() {
            true => PassedAs::Bytes,
            false => self.passing.passed_as(core),
        };
        let bytes = self.files.size(core);
        let mut scalars = ScalarList::default();
        if bytes <= MAX_IN_REGISTERS {
            self.scalars(core, 0, 0, &mut scalars);
        }
        scalars.align_as(core);
        let is_packed = bytes.checked_rem(scalars.align).is_some_and(|rest| rest != 0);
        let layout = TypeLayout {
            bytes,
            align: if is_packed { 1 } else { scalars.align },
            has_array: self.has_array(core, 0),
            is_complex: is_complex(core),
            scalars: scalars.list,
            by_reference: match passed_as {
                PassedAs::Bytes => false,
                PassedAs::Unknown => return None,
                PassedAs::Reference => true,
            },
        };
        let is_told = NATIVE != MachineAbi::X86_64 || core.is_rust() || scalars.has_padding || bytes == 1;
        ((is_told || !layout.has_empty_word()) && !scalars.has_wide_vector).then_some(layout)
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
    fn scalars(&self, core: &DebugEntry, start: u64, depth: usize, scalars: &mut ScalarList) {
        let bytes = self.files.size(core);
        let scalar = |offset, bytes, float| ScalarField {
            offset,
            bytes,
            float,
            x87: false,
        };
        scalars.align_as(core);
        match core.tag() {
            _ if depth > MAX_DEPTH => {}
            dw::DW_TAG_base_type if is_complex(core) => {
                let parts = [start, start.saturating_add(bytes / 2)];
                let x87 = self.is_x87(core, bytes / 2);
                for part in parts {
                    scalars.add(ScalarField {
                        x87,
                        ..scalar(part, bytes / 2, true)
                    });
                }
            }
            dw::DW_TAG_base_type if is_float(core) => scalars.add(ScalarField {
                x87: self.is_x87(core, bytes),
                ..scalar(start, bytes, true)
            }),
            dw::DW_TAG_array_type if core.is_set(dw::DW_AT_GNU_vector) && !core.is_rust() => match bytes {
                8 | 16 => scalars.add(scalar(start, bytes, true)),
                17.. => scalars.has_wide_vector = true,
                _ => scalars.add(scalar(start, bytes, false)),
            },
            dw::DW_TAG_array_type => self.array_scalars(core, start, depth, scalars),
            tag if is_structure(tag) || tag == dw::DW_TAG_variant_part || tag == dw::DW_TAG_variant => {
                self.member_scalars(core, start, depth, scalars);
            }
            _ => scalars.add(scalar(start, bytes, false)),
        }
    }

    /// Whether a floating-point number is a `long double` of x86-64, and not a `__float128`.
    fn is_x87(&self, core: &DebugEntry, bytes: u64) -> bool {
        let is_binary = !matches!(
            core.value(dw::DW_AT_encoding),
            Some(AttributeValue::Encoding(dw::DW_ATE_decimal_float))
        );
        let name = || self.files.text(core, dw::DW_AT_name);
        bytes > 8 && is_binary && !name().is_some_and(|name| name.contains("128"))
    }

    fn member_scalars(&self, structure: &DebugEntry, start: u64, depth: usize, scalars: &mut ScalarList) {
        self.files.children(structure, |child| {
            match child.tag() {
                // Rust enums with fields.
                dw::DW_TAG_variant_part | dw::DW_TAG_variant => {
                    self.scalars(&child, start, depth + 1, scalars)
                }
                dw::DW_TAG_member if child.value(dw::DW_AT_bit_size).is_some() => {
                    let bytes = self.files.target(&child).map_or(0, |ty| self.files.size(&ty));
                    let (bit, _) = bit_position(&child, bytes).unwrap_or_default();
                    scalars.list.push(ScalarField {
                        offset: start.saturating_add(bit / 8).min(MAX_IN_REGISTERS),
                        bytes: 1,
                        float: false,
                        x87: false,
                    });
                }
                dw::DW_TAG_member | dw::DW_TAG_inheritance
                    if !child.is_set(dw::DW_AT_external) && !child.is_set(dw::DW_AT_declaration) =>
                {
                    scalars.align_as(&child);
                    if let Some((inner, offset)) = self.files.target(&child).zip(member_offset(&child)) {
                        let before = scalars.list.len();
                        self.scalars(&inner, start.saturating_add(offset), depth + 1, scalars);
                        scalars.has_padding |= scalars.list.len() == before;
                    }
                }
                _ => {}
            }
            match scalars.is_full() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
    }

    fn array_scalars(&self, array: &DebugEntry, start: u64, depth: usize, scalars: &mut ScalarList) {
        let Some((element, length)) = self.files.target(array).zip(self.files.array_length(array)) else {
            return;
        };
        let bytes = self.files.size(&element);
        for index in 0..length.min(MAX_IN_REGISTERS) {
            let at = start.saturating_add(index.saturating_mul(bytes));
            if at >= MAX_IN_REGISTERS || scalars.is_full() {
                break;
            }
            self.scalars(&element, at, depth + 1, scalars);
        }
    }
}

fn is_complex(core: &DebugEntry) -> bool {
    core.value(dw::DW_AT_encoding) == Some(AttributeValue::Encoding(dw::DW_ATE_complex_float))
}

fn is_float(core: &DebugEntry) -> bool {
    matches!(
        core.value(dw::DW_AT_encoding),
        Some(AttributeValue::Encoding(
            dw::DW_ATE_float | dw::DW_ATE_decimal_float
        ))
    )
}
