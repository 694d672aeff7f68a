// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! How the values of a type are shown.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::rc::Rc;

use gimli::AttributeValue;
use gimli::constants as dw;

use super::entries::{DebugEntry, EntryOffset};
use super::files::DebugFiles;
use super::member_list::MemberList;
use super::type_entries::{bit_position, is_structure, member_offset};
use super::unit::EntryValue;
use crate::find::debug::types::{BitField, MAX_SHOWN_ELEMENTS, StructMember, TypeKind, ValueType};

/// Values of an enumeration.
const MAX_VALUES: usize = 1024;

/// How far from a parameter members are resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ResolveDepth {
    pointers: u8,
    structures: u8,
}

const FROM_PARAMETER: ResolveDepth = ResolveDepth {
    pointers: 2,
    structures: 3,
};

/// A type, and the number of types that it shows.
#[derive(Clone)]
struct ResolvedType {
    ty: ValueType,
    parts: usize,
}

/// Resolves types, each once.
pub struct TypeKinds {
    files: Rc<DebugFiles>,
    known: RefCell<HashMap<(EntryOffset, ResolveDepth), ResolvedType>>,
}

impl TypeKinds {
    pub fn new(files: Rc<DebugFiles>) -> TypeKinds {
        TypeKinds {
            files,
            known: RefCell::default(),
        }
    }

    /// The type at `at`; `None` is `void`.
    pub fn value_type(&self, at: Option<EntryOffset>) -> ValueType {
        self.resolve(at, FROM_PARAMETER).ty
    }

    fn resolve(&self, at: Option<EntryOffset>, depth: ResolveDepth) -> ResolvedType {
        let Some(at) = at else {
            let ty = ValueType {
                name: "void".into(),
                bytes: 0,
                kind: TypeKind::Other,
            };
            return ResolvedType { ty, parts: 1 };
        };
        if let Some(known) = self.known.borrow().get(&(at, depth)) {
            return known.clone();
        }
        let core = self.files.underlying(at);
        let (kind, parts) = match &core {
            Some(core) => self.kind(core, depth),
            None => (TypeKind::Other, 1),
        };
        let text = core.as_ref().filter(|_| matches!(kind, TypeKind::Text { .. }));
        let well_known = text.and_then(|core| self.files.well_known_name(core));
        let ty = ValueType {
            name: well_known.unwrap_or_else(|| self.files.shown_name(at)).into(),
            bytes: core.as_ref().map_or(0, |core| self.files.size(core)),
            kind,
        };
        let resolved = ResolvedType { ty, parts };
        self.known.borrow_mut().insert((at, depth), resolved.clone());
        resolved
    }

    /// The kind of a type, and the number of types that it shows.
    fn kind(&self, core: &DebugEntry, depth: ResolveDepth) -> (TypeKind, usize) {
        let kind = match core.tag() {
            dw::DW_TAG_base_type => self.base_kind(core),
            dw::DW_TAG_enumeration_type => self.enumeration(core),
            dw::DW_TAG_pointer_type => return self.pointer(core, depth),
            dw::DW_TAG_reference_type | dw::DW_TAG_rvalue_reference_type => {
                return self.reference(core, depth);
            }
            tag if is_structure(tag) => return self.structure(core, depth),
            dw::DW_TAG_array_type => return self.array(core, depth),
            _ => TypeKind::Other,
        };
        (kind, 1)
    }

    fn base_kind(&self, core: &DebugEntry) -> TypeKind {
        let encoding = match core.value(dw::DW_AT_encoding) {
            // Rust describes `()` as an integer of 0 bytes.
            Some(AttributeValue::Encoding(encoding)) if self.files.size(core) > 0 => encoding,
            _ => return TypeKind::Other,
        };
        match encoding {
            dw::DW_ATE_boolean => TypeKind::Bool,
            dw::DW_ATE_UTF => TypeKind::Char { signed: false },
            dw::DW_ATE_float => TypeKind::Float,
            dw::DW_ATE_signed_char | dw::DW_ATE_unsigned_char if self.is_char(core) => TypeKind::Char {
                signed: encoding == dw::DW_ATE_signed_char,
            },
            dw::DW_ATE_signed | dw::DW_ATE_signed_char => TypeKind::Int { signed: true },
            dw::DW_ATE_unsigned | dw::DW_ATE_unsigned_char | dw::DW_ATE_address => {
                TypeKind::Int { signed: false }
            }
            _ => TypeKind::Other,
        }
    }

    fn is_char(&self, core: &DebugEntry) -> bool {
        let name = || self.files.text(core, dw::DW_AT_name);
        core.tag() == dw::DW_TAG_base_type && !core.is_rust() && name().is_some_and(|name| name == "char")
    }

    fn enumeration(&self, core: &DebugEntry) -> TypeKind {
        let mut values: Vec<(i64, Rc<str>)> = Vec::new();
        self.files.children(core, |child| {
            if child.tag() == dw::DW_TAG_enumerator
                && let Some(value) = child.value(dw::DW_AT_const_value)
                && let Some(name) = self.files.text(&child, dw::DW_AT_name)
            {
                values.extend(enumerator(&value).map(|number| (number, name.into())));
            }
            match values.len() {
                MAX_VALUES.. => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        let underlying = self.files.target(core);
        let signed = match underlying.map(|underlying| self.base_kind(&underlying)) {
            Some(TypeKind::Int { signed }) => signed,
            _ => values.iter().any(|(value, _)| *value < 0),
        };
        TypeKind::Enum {
            signed,
            values: values.into(),
        }
    }

    fn pointer(&self, core: &DebugEntry, depth: ResolveDepth) -> (TypeKind, usize) {
        match self.files.target(core) {
            Some(target) if self.is_char(&target) => (TypeKind::CString, 1),
            Some(target) if core.is_rust() || is_structure(target.tag()) => {
                self.pointer_to_shown(core, depth)
            }
            // A pointer to a number may point to an array, or to memory that the function fills in, so the number is
            // not shown, but `*NAME` reads it.
            Some(target)
                if matches!(
                    target.tag(),
                    dw::DW_TAG_base_type | dw::DW_TAG_enumeration_type | dw::DW_TAG_pointer_type
                ) =>
            {
                (self.pointer_to_shown(core, depth).0, 1)
            }
            _ => (TypeKind::Pointer(None), 1),
        }
    }

    fn pointer_to_shown(&self, core: &DebugEntry, depth: ResolveDepth) -> (TypeKind, usize) {
        let Some((at, pointers)) = self
            .files
            .reference(core, dw::DW_AT_type)
            .zip(depth.pointers.checked_sub(1))
        else {
            return (TypeKind::Pointer(None), 1);
        };
        let target = self.resolve(Some(at), ResolveDepth { pointers, ..depth });
        match target.ty.kind {
            TypeKind::Other => (TypeKind::Pointer(None), 1),
            _ => (TypeKind::Pointer(Some(Rc::new(target.ty))), target.parts + 1),
        }
    }

    /// What a reference refers to is known at any depth unless it is a structure: expressions compare it and not its
    /// address.
    fn reference(&self, core: &DebugEntry, depth: ResolveDepth) -> (TypeKind, usize) {
        let target = self.files.target(core);
        let is_number = target.is_some_and(|target| !is_structure(target.tag()));
        let pointers = depth.pointers.max(is_number.into());
        match self.pointer_to_shown(core, ResolveDepth { pointers, ..depth }) {
            (TypeKind::Pointer(Some(to)), parts) => (TypeKind::Reference(to), parts),
            other => other,
        }
    }

    /// An array of several dimensions is an array of arrays.
    fn array(&self, core: &DebugEntry, depth: ResolveDepth) -> (TypeKind, usize) {
        let element = self.files.reference(core, dw::DW_AT_type);
        let ResolvedType { mut ty, mut parts } = self.resolve(element, depth);
        let lengths = self.files.array_dimensions(core);
        if lengths.is_empty() || ty.kind == TypeKind::Other || ty.bytes == 0 {
            return (TypeKind::Other, 1);
        }
        let mut kind = TypeKind::Other;
        for (inner, count) in lengths.into_iter().rev().enumerate() {
            if inner > 0 {
                let TypeKind::Array { of, count } = &kind else {
                    break;
                };
                let name = format!("{}[{count}]", ty.name);
                let bytes = of.bytes.saturating_mul(*count);
                ty = ValueType {
                    name: name.into(),
                    bytes,
                    kind,
                };
            }
            if !matches!(ty.kind, TypeKind::Char { .. }) {
                let shown = usize::try_from(count)
                    .unwrap_or(usize::MAX)
                    .min(MAX_SHOWN_ELEMENTS);
                parts = parts.saturating_mul(shown).saturating_add(1);
            }
            kind = TypeKind::Array {
                of: Rc::new(ty.clone()),
                count,
            };
        }
        (kind, parts)
    }

    fn structure(&self, core: &DebugEntry, depth: ResolveDepth) -> (TypeKind, usize) {
        if let Some(text) = self.files.text_kind(core) {
            return (text, 1);
        }
        let Some(structures) = depth.structures.checked_sub(1) else {
            return (TypeKind::Other, 1);
        };
        let depth = ResolveDepth { structures, ..depth };
        let mut members = MemberList::default();
        self.collect_members(core, 0, depth, &mut members);
        let (members, parts) = members.finish();
        if members.is_empty() {
            return (TypeKind::Other, 1);
        }
        (TypeKind::Struct(members.into()), parts)
    }

    /// Adds the members of a structure that begins `start` bytes into the value.
    fn collect_members(
        &self,
        structure: &DebugEntry,
        start: u64,
        depth: ResolveDepth,
        members: &mut MemberList,
    ) {
        self.files.children(structure, |child| {
            let is_base = child.tag() == dw::DW_TAG_inheritance;
            let is_member = child.tag() == dw::DW_TAG_member && is_shown(&child);
            let at = self.files.reference(&child, dw::DW_AT_type);
            let (true, Some(at), Some(offset)) = (is_base || is_member, at, member_offset(&child)) else {
                return ControlFlow::Continue(());
            };
            let mut offset = start.saturating_add(offset);
            match self.files.text(&child, dw::DW_AT_name) {
                Some(name) if !is_base => {
                    let ResolvedType { mut ty, parts } = self.resolve(Some(at), depth);
                    let position = bit_position(&child, ty.bytes);
                    let bits = position.and_then(|(bit, width)| bit_field(bit, width, ty.bytes));
                    match bits {
                        Some((at, _)) => offset = start.saturating_add(at),
                        None if position.is_some() => ty.kind = TypeKind::Other,
                        None => {}
                    }
                    let member = StructMember {
                        name: field_name(&name).into(),
                        offset,
                        ty,
                        bits: bits.map(|(_, bits)| bits),
                    };
                    members.push(member, parts);
                }
                // The members of an anonymous union or a base class are used like those of the structure.
                _ => {
                    if let Some(inner) = self.files.underlying(at) {
                        let base = is_base.then(|| self.files.text(&inner, dw::DW_AT_name));
                        let is_entered = members.enter(base.flatten());
                        if is_entered {
                            self.collect_members(&inner, offset, depth, members);
                            members.leave();
                        }
                    }
                }
            }
            match members.is_full() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
    }
}

/// Rust's debug information calls the fields of a tuple `__0`, `__1`; its source calls them `0`, `1`.
fn field_name(name: &str) -> &str {
    let number = name.strip_prefix("__");
    number
        .filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        .unwrap_or(name)
}

/// Where the number with a bit-field is in the structure, bytes, and which part of it the field is. `bit` is its first
/// bit. `None` if it is not inside of one number.
fn bit_field(bit: u64, width: u64, bytes: u64) -> Option<(u64, BitField)> {
    let number = match bytes {
        1 | 2 | 4 | 8 => bytes * 8,
        _ => return None,
    };
    let shift = bit % number;
    if width == 0 || shift + width > number {
        return None;
    }
    let field = BitField {
        shift: shift as u8,
        width: width as u8,
    };
    Some((bit / number * bytes, field))
}

/// The value of an enumerator; unsigned values above `i64::MAX` keep their bits. GCC stores a positive number in as few
/// bytes as possible: 200 in one.
fn enumerator(value: &EntryValue) -> Option<i64> {
    let unsigned = value.udata_value().map(u64::cast_signed);
    unsigned.or_else(|| value.sdata_value())
}

/// Not static and not made by the compiler.
fn is_shown(member: &DebugEntry) -> bool {
    !member.is_set(dw::DW_AT_external)
        && !member.is_set(dw::DW_AT_declaration)
        && !member.is_set(dw::DW_AT_artificial)
}
