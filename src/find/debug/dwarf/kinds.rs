//! Types: their names, how their values are shown, and what calling conventions ask of them.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::rc::Rc;

use gimli::constants as dw;
use gimli::{AttributeValue, DwTag};

use super::entries::{Entry, Spot};
use super::signature::Decoder;
use crate::find::debug::abi::{Leaf, Shape};
use crate::find::debug::types::{Kind, Member, Type};

/// Bytes of a type's name that are shown.
const MAX_NAME: usize = 256;
/// Types inside of each other, such as a pointer to a `const typedef`.
const MAX_DEPTH: usize = 24;
const MAX_MEMBERS: usize = 64;
/// Types that a value may show in all, with its members and what it points to.
const MAX_PARTS: usize = 256;
const MAX_VALUES: usize = 1024;
const MAX_ARGUMENTS: usize = 8;
/// Longest type whose parts a calling convention asks for, in bytes: four `long double`.
const MAX_IN_REGISTERS: u64 = 64;

/// How far from a parameter members are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Reach {
    pointers: u8,
    structures: u8,
}

const FROM_PARAMETER: Reach = Reach {
    pointers: 2,
    structures: 3,
};

/// Types that were asked for, with the number of their parts.
#[derive(Default)]
pub struct Types(HashMap<(Spot, Reach), (Type, usize)>);

/// Text that a type has in its objects: where its address and its length are.
struct TextAt {
    pointer: u64,
    length: u64,
}

/// An entry below typedefs and qualifiers.
type Core<'d, 'a> = Option<Entry<'d, 'a>>;

impl<'a> Decoder<'a> {
    /// The type at `spot`; none is `void`.
    pub fn ty(&self, spot: Option<Spot>) -> Type {
        self.reached(spot, FROM_PARAMETER).0
    }

    /// A type and the number of its parts.
    fn reached(&self, spot: Option<Spot>, reach: Reach) -> (Type, usize) {
        let Some(spot) = spot else {
            return (other("void".to_owned()), 1);
        };
        if let Some(known) = self.types.borrow().0.get(&(spot, reach)) {
            return known.clone();
        }
        let core = self.core(spot, |_| true);
        let (kind, parts) = match &core {
            Some(core) => self.kind(core, reach),
            None => (Kind::Other, 1),
        };
        let is_text = core.as_ref().filter(|_| matches!(kind, Kind::Text { .. }));
        let well_known = is_text.and_then(|core| self.well_known_name(core));
        let ty = Type {
            name: well_known.unwrap_or_else(|| self.shown_name(spot)).into(),
            bytes: core.as_ref().map_or(0, |core| self.size(core)),
            kind,
        };
        let known = (ty, parts);
        self.types.borrow_mut().0.insert((spot, reach), known.clone());
        known
    }

    /// What is below typedefs and qualifiers, as far as `strip` goes.
    fn core(&self, spot: Spot, strip: impl Fn(DwTag) -> bool) -> Core<'_, 'a> {
        let mut entry = self.entry(spot)?;
        for _ in 0..MAX_DEPTH {
            if !(is_transparent(entry.tag()) && strip(entry.tag())) {
                return Some(entry);
            }
            entry = self.entry(self.reference(&entry, dw::DW_AT_type)?)?;
        }
        None
    }

    fn kind(&self, core: &Entry<'_, 'a>, reach: Reach) -> (Kind, usize) {
        let kind = match core.tag() {
            dw::DW_TAG_base_type => self.base_kind(core),
            dw::DW_TAG_enumeration_type => self.enumeration(core),
            dw::DW_TAG_pointer_type => return self.pointer(core, reach),
            dw::DW_TAG_reference_type | dw::DW_TAG_rvalue_reference_type => {
                return self.to_anything(core, reach);
            }
            tag if is_structure(tag) => return self.structure(core, reach),
            _ => Kind::Other,
        };
        (kind, 1)
    }

    fn base_kind(&self, core: &Entry<'_, 'a>) -> Kind {
        let encoding = match core.value(dw::DW_AT_encoding) {
            // Rust describes `()` as a number of no bytes.
            Some(AttributeValue::Encoding(encoding)) if self.size(core) > 0 => encoding,
            _ => return Kind::Other,
        };
        match encoding {
            dw::DW_ATE_boolean => Kind::Bool,
            dw::DW_ATE_UTF => Kind::Char,
            dw::DW_ATE_float => Kind::Float,
            dw::DW_ATE_signed_char | dw::DW_ATE_unsigned_char if self.is_char(core) => Kind::Char,
            dw::DW_ATE_signed | dw::DW_ATE_signed_char => Kind::Int { signed: true },
            dw::DW_ATE_unsigned | dw::DW_ATE_unsigned_char | dw::DW_ATE_address => {
                Kind::Int { signed: false }
            }
            _ => Kind::Other,
        }
    }

    fn is_char(&self, core: &Entry<'_, 'a>) -> bool {
        core.tag() == dw::DW_TAG_base_type
            && !core.is_rust()
            && self.text(core, dw::DW_AT_name).is_some_and(|name| name == "char")
    }

    fn enumeration(&self, core: &Entry<'_, 'a>) -> Kind {
        let mut values: Vec<(i64, Rc<str>)> = Vec::new();
        self.children(core, |child| {
            if child.tag() == dw::DW_TAG_enumerator
                && let Some(value) = child.value(dw::DW_AT_const_value)
                && let Some(name) = self.text(&child, dw::DW_AT_name)
            {
                // What does not fit is a large unsigned number, and kept as its bits.
                let number = value.sdata_value().or(value.udata_value().map(u64::cast_signed));
                values.extend(number.map(|number| (number, name.into())));
            }
            match values.len() {
                MAX_VALUES.. => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        let signed = match self.below(core).map(|underlying| self.base_kind(&underlying)) {
            Some(Kind::Int { signed }) => signed,
            _ => values.iter().any(|(value, _)| *value < 0),
        };
        Kind::Enum {
            signed,
            values: values.into(),
        }
    }

    fn pointer(&self, core: &Entry<'_, 'a>, reach: Reach) -> (Kind, usize) {
        match self.below(core) {
            Some(target) if self.is_char(&target) => (Kind::CString, 1),
            // A pointer to a number may be one to many, or to what is not there yet.
            Some(target) if core.is_rust() || is_structure(target.tag()) => self.to_anything(core, reach),
            _ => (Kind::Pointer(None), 1),
        }
    }

    fn to_anything(&self, core: &Entry<'_, 'a>, reach: Reach) -> (Kind, usize) {
        let Some((spot, pointers)) = self
            .reference(core, dw::DW_AT_type)
            .zip(reach.pointers.checked_sub(1))
        else {
            return (Kind::Pointer(None), 1);
        };
        let (target, parts) = self.reached(Some(spot), Reach { pointers, ..reach });
        match target.kind {
            Kind::Other => (Kind::Pointer(None), 1),
            _ => (Kind::Pointer(Some(Rc::new(target))), parts + 1),
        }
    }

    fn structure(&self, core: &Entry<'_, 'a>, reach: Reach) -> (Kind, usize) {
        if let Some(TextAt { pointer, length }) = self.text_in(core) {
            let kind = Kind::Text {
                pointer_at: pointer,
                length_at: length,
            };
            return (kind, 1);
        }
        let Some(structures) = reach.structures.checked_sub(1) else {
            return (Kind::Other, 1);
        };
        let mut members = Members {
            list: Vec::new(),
            parts: 1,
            reach: Reach { structures, ..reach },
        };
        self.members(core, 0, 0, &mut members);
        if members.list.is_empty() {
            return (Kind::Other, 1);
        }
        (Kind::Struct(members.list.into()), members.parts)
    }

    fn members(&self, structure: &Entry<'_, 'a>, start: u64, depth: usize, members: &mut Members) {
        self.children(structure, |child| {
            let is_base = child.tag() == dw::DW_TAG_inheritance;
            let is_member = child.tag() == dw::DW_TAG_member && is_shown(&child);
            let spot = self.reference(&child, dw::DW_AT_type);
            let (true, Some(spot), Some(offset)) = (is_base || is_member, spot, offset(&child)) else {
                return ControlFlow::Continue(());
            };
            let offset = start.saturating_add(offset);
            match self.text(&child, dw::DW_AT_name) {
                Some(name) if !is_base => {
                    let (mut ty, parts) = self.reached(Some(spot), members.reach);
                    if members.parts + parts > MAX_PARTS {
                        ty.kind = Kind::Other;
                    } else {
                        members.parts += parts;
                    }
                    members.list.push(Member {
                        name: field(&name).into(),
                        offset,
                        ty,
                    });
                }
                // The members of an anonymous union and of a base class are used as if they were its own.
                _ if depth < MAX_DEPTH => {
                    if let Some(inner) = self.core(spot, |_| true) {
                        self.members(&inner, offset, depth + 1, members);
                    }
                }
                _ => {}
            }
            match members.list.len() {
                MAX_MEMBERS.. => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
    }

    /// The text that the objects of a class of a standard library hold.
    fn text_in(&self, core: &Entry<'_, 'a>) -> Option<TextAt> {
        let name = self.text(core, dw::DW_AT_name)?;
        let (pointer, length) = match name.as_str() {
            "String" | "OsString" | "PathBuf" if core.is_rust() => return self.rust_string(core),
            "string" if core.is_go() => ("str", "len"),
            "&str" | "&mut str" | "&std::path::Path" | "&std::ffi::os_str::OsStr" => ("data_ptr", "length"),
            name if name.starts_with("alloc::boxed::Box<str,") => ("data_ptr", "length"),
            name if name.starts_with("basic_string<char,") => ("_M_dataplus", "_M_string_length"),
            name if name.starts_with("basic_string_view<char,") => {
                return self
                    .text_members(core, "_M_str", "_M_len")
                    .or_else(|| self.text_members(core, "__data_", "__size_"));
            }
            _ => return None,
        };
        self.text_members(core, pointer, length)
    }

    fn text_members(&self, core: &Entry<'_, 'a>, pointer: &str, length: &str) -> Option<TextAt> {
        let (mut pointer_at, mut length_at) = (None, None);
        self.children(core, |child| {
            if child.tag() == dw::DW_TAG_member
                && let Some(name) = self.text(&child, dw::DW_AT_name)
            {
                if name == pointer {
                    pointer_at = offset(&child);
                } else if name == length {
                    length_at = offset(&child);
                }
            }
            ControlFlow::Continue(())
        });
        Some(TextAt {
            pointer: pointer_at?,
            length: length_at?,
        })
    }

    /// A `String` is a `Vec<u8>` in some wrapping: its first pointer, and its `len`.
    fn rust_string(&self, core: &Entry<'_, 'a>) -> Option<TextAt> {
        let (mut pointer, mut length) = (None, None);
        self.search_vec(core, 0, 0, &mut pointer, &mut length);
        Some(TextAt {
            pointer: pointer?,
            length: length?,
        })
    }

    fn search_vec(
        &self,
        structure: &Entry<'_, 'a>,
        start: u64,
        depth: usize,
        pointer: &mut Option<u64>,
        length: &mut Option<u64>,
    ) {
        const MAX_WRAPPINGS: usize = 10;
        if depth > MAX_WRAPPINGS {
            return;
        }
        self.children(structure, |child| {
            let inner = self
                .reference(&child, dw::DW_AT_type)
                .and_then(|spot| self.entry(spot));
            if let (dw::DW_TAG_member, Some(inner), Some(offset)) = (child.tag(), inner, offset(&child)) {
                let at = start.saturating_add(offset);
                match inner.tag() {
                    dw::DW_TAG_pointer_type => *pointer = pointer.or(Some(at)),
                    dw::DW_TAG_structure_type => self.search_vec(&inner, at, depth + 1, pointer, length),
                    _ if self
                        .text(&child, dw::DW_AT_name)
                        .is_some_and(|name| name == "len") =>
                    {
                        *length = length.or(Some(at));
                    }
                    _ => {}
                }
            }
            match (&pointer, &length) {
                (Some(_), Some(_)) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
    }

    fn well_known_name(&self, core: &Entry<'_, 'a>) -> Option<String> {
        let name = self.text(core, dw::DW_AT_name)?;
        let known = if name.starts_with("basic_string_view<") {
            "std::string_view"
        } else if name.starts_with("basic_string<") {
            "std::string"
        } else {
            return None;
        };
        Some(known.to_owned())
    }
}

/// The members of a structure while they are collected.
struct Members {
    list: Vec<Member>,
    parts: usize,
    reach: Reach,
}

/// The fields of a tuple are `__0` and so on in Rust's debug information, and `0` in its source.
fn field(name: &str) -> &str {
    let number = name.strip_prefix("__");
    number
        .filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        .unwrap_or(name)
}

fn other(name: String) -> Type {
    Type {
        name: name.into(),
        bytes: 0,
        kind: Kind::Other,
    }
}

fn is_transparent(tag: DwTag) -> bool {
    is_qualifier(tag) || tag == dw::DW_TAG_typedef
}

fn is_qualifier(tag: DwTag) -> bool {
    matches!(
        tag,
        dw::DW_TAG_const_type | dw::DW_TAG_volatile_type | dw::DW_TAG_restrict_type | dw::DW_TAG_atomic_type
    )
}

fn is_structure(tag: DwTag) -> bool {
    matches!(
        tag,
        dw::DW_TAG_structure_type | dw::DW_TAG_class_type | dw::DW_TAG_union_type
    )
}

fn is_pointer(tag: DwTag) -> bool {
    matches!(
        tag,
        dw::DW_TAG_pointer_type | dw::DW_TAG_reference_type | dw::DW_TAG_rvalue_reference_type
    )
}

/// Neither static, nor made by the compiler, nor a part of a byte.
fn is_shown(member: &Entry<'_, '_>) -> bool {
    !member.is_set(dw::DW_AT_external)
        && !member.is_set(dw::DW_AT_declaration)
        && !member.is_set(dw::DW_AT_artificial)
        && member.value(dw::DW_AT_bit_size).is_none()
}

/// Of a member, in bytes from the start of its structure. `None` where it has to be computed, as for a virtual base class.
fn offset(member: &Entry<'_, '_>) -> Option<u64> {
    match member.value(dw::DW_AT_data_member_location) {
        None => Some(member.number(dw::DW_AT_data_bit_offset).unwrap_or(0) / 8),
        Some(value) => value.udata_value(),
    }
}

/// Sizes and names.
impl<'a> Decoder<'a> {
    /// In bytes; 0 if it is not said.
    fn size(&self, core: &Entry<'_, 'a>) -> u64 {
        if let Some(said) = core.number(dw::DW_AT_byte_size) {
            return said;
        }
        match core.tag() {
            tag if is_pointer(tag) => u64::from(core.unit.header.address_size()),
            dw::DW_TAG_array_type => {
                // Arrays of arrays have several lengths.
                let element = self.below(core);
                let element = element.filter(|element| element.tag() != dw::DW_TAG_array_type);
                let bytes = element.map_or(0, |element| self.size(&element));
                self.array_length(core).unwrap_or(0).saturating_mul(bytes)
            }
            _ => 0,
        }
    }

    /// The type that an entry refers to, without its typedefs and qualifiers.
    fn below(&self, entry: &Entry<'_, 'a>) -> Core<'_, 'a> {
        self.core(self.reference(entry, dw::DW_AT_type)?, |_| true)
    }

    /// The name of a parameter's type: whether the function may change its own copy is nobody's business.
    fn shown_name(&self, spot: Spot) -> String {
        let stripped = self.core(spot, is_qualifier).map(|entry| entry.spot);
        self.name(stripped.or(Some(spot)), 0)
    }

    fn name(&self, spot: Option<Spot>, depth: usize) -> String {
        let Some(spot) = spot else {
            return "void".to_owned();
        };
        match self.entry(spot) {
            Some(entry) if depth < MAX_DEPTH => cut(self.entry_name(&entry, depth)),
            _ => "...".to_owned(),
        }
    }

    fn entry_name(&self, entry: &Entry<'_, 'a>, depth: usize) -> String {
        let spot = self.reference(entry, dw::DW_AT_type);
        let target = || self.name(spot, depth + 1);
        match entry.tag() {
            dw::DW_TAG_pointer_type => match self.text(entry, dw::DW_AT_name) {
                // Rust names nearly all of its pointers.
                Some(name) => name,
                None if entry.is_rust() => format!("*const {}", target()),
                None => self.pointer_name(spot, "*", depth),
            },
            dw::DW_TAG_reference_type => self.pointer_name(spot, "&", depth),
            dw::DW_TAG_rvalue_reference_type => self.pointer_name(spot, "&&", depth),
            dw::DW_TAG_const_type => self.qualified(spot, "const", depth),
            dw::DW_TAG_volatile_type => self.qualified(spot, "volatile", depth),
            dw::DW_TAG_restrict_type => target(),
            dw::DW_TAG_atomic_type => format!("_Atomic {}", target()),
            dw::DW_TAG_array_type => self.array_name(entry, &target()),
            dw::DW_TAG_subroutine_type => self.function_name(entry, "", depth),
            dw::DW_TAG_ptr_to_member_type => self.pointer_name(spot, "::*", depth),
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

    fn in_language(&self, entry: &Entry<'_, 'a>, tag: DwTag, name: String) -> String {
        let keyword = match tag {
            dw::DW_TAG_structure_type => "struct ",
            dw::DW_TAG_union_type => "union ",
            dw::DW_TAG_enumeration_type => "enum ",
            _ => "",
        };
        match entry.unit.language {
            Some(dw::DW_LANG_C | dw::DW_LANG_C89 | dw::DW_LANG_C99 | dw::DW_LANG_C11 | dw::DW_LANG_C17) => {
                format!("{keyword}{name}")
            }
            // The names of other types in this one are full already; this one reads better short.
            Some(dw::DW_LANG_Rust) => name.replace(", alloc::alloc::Global", ""),
            _ => {
                let mut full = String::new();
                // Inline namespaces of the standard libraries are not written by anybody.
                for namespace in self
                    .namespaces(entry)
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

    fn pointer_name(&self, target: Option<Spot>, mark: &str, depth: usize) -> String {
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

    /// The usual name of what is below qualifiers, as in `const std::string &`.
    fn known_name(&self, target: Option<Spot>) -> Option<String> {
        let core = self.core(target?, is_qualifier)?;
        let name = self.text_in(&core).and_then(|_| self.well_known_name(&core))?;
        let is_const = self.entry(target?)?.tag() == dw::DW_TAG_const_type;
        Some(if is_const { format!("const {name}") } else { name })
    }

    fn qualified(&self, target: Option<Spot>, word: &str, depth: usize) -> String {
        let name = self.name(target, depth + 1);
        let is_pointer = target
            .and_then(|target| self.entry(target))
            .is_some_and(|entry| is_pointer(entry.tag()));
        match is_pointer {
            true => format!("{name}{word}"),
            false => format!("{word} {name}"),
        }
    }

    fn function_name(&self, function: &Entry<'_, 'a>, mark: &str, depth: usize) -> String {
        // Each argument may be a function with arguments: two levels are enough.
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

    fn array_name(&self, array: &Entry<'_, 'a>, element: &str) -> String {
        match self.array_length(array) {
            Some(length) if array.is_rust() => format!("[{element}; {length}]"),
            Some(length) => format!("{element}[{length}]"),
            None => format!("{element}[]"),
        }
    }

    /// The number of elements, of all dimensions together.
    fn array_length(&self, array: &Entry<'_, 'a>) -> Option<u64> {
        let mut length: Option<u64> = None;
        self.children(array, |child| {
            if child.tag() == dw::DW_TAG_subrange_type {
                let bound = child
                    .number(dw::DW_AT_upper_bound)
                    .and_then(|last| last.checked_add(1));
                let count = child.number(dw::DW_AT_count).or(bound).unwrap_or(0);
                length = length.unwrap_or(1).checked_mul(count);
            }
            ControlFlow::Continue(())
        });
        length
    }
}

/// The usual name of a number that GCC calls `long unsigned int`.
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

fn cut(mut name: String) -> String {
    if let Some(end) = (0..=MAX_NAME).rev().find(|&end| name.is_char_boundary(end))
        && end < name.len()
    {
        name.truncate(end);
        name.push_str("...");
    }
    name
}

/// What calling conventions ask of types.
impl<'a> Decoder<'a> {
    /// `None` if the type is not in the debug information, or only its name is.
    pub fn shape(&self, spot: Spot) -> Option<Rc<Shape>> {
        if let Some(known) = self.shapes.borrow().get(&spot) {
            return Some(Rc::clone(known));
        }
        let core = self.core(spot, |_| true)?;
        if core.is_set(dw::DW_AT_declaration) {
            return None;
        }
        let shape = Rc::new(self.core_shape(&core));
        self.shapes.borrow_mut().insert(spot, Rc::clone(&shape));
        Some(shape)
    }

    fn core_shape(&self, core: &Entry<'_, 'a>) -> Shape {
        let bytes = self.size(core);
        let mut leaves = Vec::new();
        if bytes <= MAX_IN_REGISTERS {
            self.leaves(core, 0, 0, &mut leaves);
        }
        let largest = leaves.iter().map(|leaf| leaf.bytes).max();
        Shape {
            bytes,
            align: core.number(dw::DW_AT_alignment).or(largest).unwrap_or(0),
            leaves,
            by_reference: is_structure(core.tag()) && !core.is_rust() && self.is_by_reference(core, 0),
        }
    }

    /// Adds the scalars of a type that starts `start` bytes into the whole.
    fn leaves(&self, core: &Entry<'_, 'a>, start: u64, depth: usize, leaves: &mut Vec<Leaf>) {
        let bytes = self.size(core);
        let mut leaf = |offset, bytes, float| {
            let leaf = Leaf { offset, bytes, float };
            let is_inside = offset < MAX_IN_REGISTERS && (1..=MAX_IN_REGISTERS).contains(&bytes);
            if is_inside && !leaves.contains(&leaf) {
                leaves.push(leaf);
            }
        };
        match core.tag() {
            _ if depth > MAX_DEPTH => {}
            dw::DW_TAG_base_type => match core.value(dw::DW_AT_encoding) {
                Some(AttributeValue::Encoding(dw::DW_ATE_complex_float)) => {
                    leaf(start, bytes / 2, true);
                    leaf(start.saturating_add(bytes / 2), bytes / 2, true);
                }
                Some(AttributeValue::Encoding(dw::DW_ATE_float | dw::DW_ATE_decimal_float)) => {
                    leaf(start, bytes, true);
                }
                _ => leaf(start, bytes, false),
            },
            dw::DW_TAG_array_type => self.array_leaves(core, start, depth, leaves),
            tag if is_structure(tag) || tag == dw::DW_TAG_variant_part || tag == dw::DW_TAG_variant => {
                self.member_leaves(core, start, depth, leaves);
            }
            _ => leaf(start, bytes, false),
        }
    }

    fn member_leaves(&self, structure: &Entry<'_, 'a>, start: u64, depth: usize, leaves: &mut Vec<Leaf>) {
        self.children(structure, |child| {
            match child.tag() {
                // Rust's enums with values.
                dw::DW_TAG_variant_part | dw::DW_TAG_variant => self.leaves(&child, start, depth + 1, leaves),
                dw::DW_TAG_member if child.value(dw::DW_AT_bit_size).is_some() => {
                    let bit = child.number(dw::DW_AT_data_bit_offset);
                    leaves.push(Leaf {
                        offset: start.saturating_add(bit.unwrap_or(0) / 8).min(MAX_IN_REGISTERS),
                        bytes: 1,
                        float: false,
                    });
                }
                dw::DW_TAG_member | dw::DW_TAG_inheritance
                    if !child.is_set(dw::DW_AT_external) && !child.is_set(dw::DW_AT_declaration) =>
                {
                    if let Some((inner, offset)) = self.below(&child).zip(offset(&child)) {
                        self.leaves(&inner, start.saturating_add(offset), depth + 1, leaves);
                    }
                }
                _ => {}
            }
            match leaves.len() as u64 {
                MAX_IN_REGISTERS.. => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
    }

    fn array_leaves(&self, array: &Entry<'_, 'a>, start: u64, depth: usize, leaves: &mut Vec<Leaf>) {
        let Some((element, length)) = self.below(array).zip(self.array_length(array)) else {
            return;
        };
        let bytes = self.size(&element);
        for index in 0..length.min(MAX_IN_REGISTERS) {
            let at = start.saturating_add(index.saturating_mul(bytes));
            if at >= MAX_IN_REGISTERS || leaves.len() as u64 >= MAX_IN_REGISTERS {
                break;
            }
            self.leaves(&element, at, depth + 1, leaves);
        }
    }

    /// Whether copying an object takes more than copying its bytes.
    fn is_by_reference(&self, class: &Entry<'_, 'a>, depth: usize) -> bool {
        match class.value(dw::DW_AT_calling_convention) {
            Some(AttributeValue::CallingConvention(dw::DW_CC_pass_by_reference)) => return true,
            Some(_) => return false,
            None => {}
        }
        let mut found = false;
        self.children(class, |child| {
            found = match child.tag() {
                dw::DW_TAG_subprogram => {
                    let name = self.text(&child, dw::DW_AT_name).unwrap_or_default();
                    name.starts_with('~') && !child.is_set(dw::DW_AT_artificial)
                }
                dw::DW_TAG_member | dw::DW_TAG_inheritance if depth < MAX_IN_EACH_OTHER => {
                    self.below(&child).is_some_and(|inner| {
                        is_structure(inner.tag()) && self.is_by_reference(&inner, depth + 1)
                    })
                }
                _ => false,
            };
            if found {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        found
    }
}

/// Classes in classes that are asked whether they can be copied.
const MAX_IN_EACH_OTHER: usize = 4;
