// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Whether objects of a C++ class are passed by invisible reference, because copying them takes more than copying their
//! bytes.
//!
//! The Itanium C++ ABI decides, for x86-64 and arm64 alike: a class is non-trivial for the purposes of calls if it has
//! a non-trivial copy constructor, move constructor or destructor, or if all of its copy and move constructors are
//! deleted. Clang writes the result of that into the debug information. GCC, up to 12 at least, only lists the members
//! that the source declares, so the rule is applied to those.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::rc::Rc;

use gimli::AttributeValue;
use gimli::constants as dw;

use super::entries::{DebugEntry, EntryOffset};
use super::files::DebugFiles;
use super::type_entries::{MAX_DEPTH, is_pointer, is_structure};

/// How objects of a class are passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PassedAs {
    Bytes,
    /// The debug information does not tell.
    Unknown,
    Reference,
}

/// Applies the rule to classes, to each once.
pub struct ClassPassing {
    files: Rc<DebugFiles>,
    known: RefCell<HashMap<EntryOffset, PassedAs>>,
}

/// The members of a class that decide.
#[derive(Default)]
struct ClassMembers {
    /// A destructor or a copy or move constructor that the source defines, a virtual function, or a virtual base class.
    non_trivial: bool,
    /// Copy and move constructors that the source declares as `= default` or `= delete`.
    defaulted: bool,
    deleted: bool,
    /// A declared move assignment deletes the copy constructor that the compiler would have added.
    move_assignment: bool,
    /// A member or base class that is passed in an unknown way.
    unknown_part: bool,
    /// The types of the first parameters of constructors that copy or move, and of those that only do so if their other
    /// parameters have defaults, which GCC does not write.
    copied_from: Vec<EntryOffset>,
    perhaps_copied_from: Vec<EntryOffset>,
}

impl ClassMembers {
    fn passed_as(&self) -> PassedAs {
        let all_deleted = !self.defaulted && (self.deleted || self.move_assignment);
        // Of two constructors that copy from the same type, none could be chosen.
        let mut perhaps = self.perhaps_copied_from.iter();
        let is_unknown = self.unknown_part || perhaps.any(|from| !self.copied_from.contains(from));
        match self.non_trivial || all_deleted {
            true => PassedAs::Reference,
            false if is_unknown => PassedAs::Unknown,
            false => PassedAs::Bytes,
        }
    }
}

/// The first parameter of a member function that is a reference to an object of its class.
struct OwnReference {
    kind: gimli::DwTag,
    at: EntryOffset,
    /// There are no other parameters that need an argument; an ellipsis does not.
    is_only: bool,
}

impl ClassPassing {
    pub fn new(files: Rc<DebugFiles>) -> ClassPassing {
        ClassPassing {
            files,
            known: RefCell::default(),
        }
    }

    /// Anything but a class, structure or union is passed as bytes.
    pub fn passed_as(&self, class: &DebugEntry) -> PassedAs {
        self.decide(class, 0)
    }

    fn decide(&self, class: &DebugEntry, depth: usize) -> PassedAs {
        if !is_structure(class.tag()) || depth > MAX_DEPTH {
            return PassedAs::Bytes;
        }
        match class.value(dw::DW_AT_calling_convention) {
            Some(AttributeValue::CallingConvention(dw::DW_CC_pass_by_reference)) => {
                return PassedAs::Reference;
            }
            Some(AttributeValue::CallingConvention(dw::DW_CC_pass_by_value)) => return PassedAs::Bytes,
            _ => {}
        }
        if let Some(&known) = self.known.borrow().get(&class.offset) {
            return known;
        }
        // Until it is known; a class cannot contain itself, but a damaged file can say so.
        self.known.borrow_mut().insert(class.offset, PassedAs::Bytes);
        let found = self.decide_by_members(class, depth);
        self.known.borrow_mut().insert(class.offset, found);
        found
    }

    fn decide_by_members(&self, class: &DebugEntry, depth: usize) -> PassedAs {
        let mut members = ClassMembers::default();
        self.files.children(class, |child| {
            match child.tag() {
                dw::DW_TAG_subprogram => self.note_function(class, &child, &mut members),
                dw::DW_TAG_member if self.is_vtable_pointer(&child) => members.non_trivial = true,
                dw::DW_TAG_inheritance if is_virtual(&child) => members.non_trivial = true,
                dw::DW_TAG_member | dw::DW_TAG_inheritance if !is_static(&child) => {
                    let part = self.part_passed_as(&child, depth);
                    members.non_trivial |= part == PassedAs::Reference;
                    members.unknown_part |= part == PassedAs::Unknown;
                }
                _ => {}
            }
            match members.non_trivial {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        members.passed_as()
    }

    /// A member or base class, or the elements of an array.
    fn part_passed_as(&self, part: &DebugEntry, depth: usize) -> PassedAs {
        let mut target = self.files.target(part);
        for _ in 0..MAX_DEPTH {
            match target {
                Some(array) if array.tag() == dw::DW_TAG_array_type => target = self.files.target(&array),
                Some(class) => return self.decide(&class, depth + 1),
                None => break,
            }
        }
        PassedAs::Bytes
    }

    /// GCC and clang name the pointer `_vptr.Class` and `_vptr$Class`.
    fn is_vtable_pointer(&self, member: &DebugEntry) -> bool {
        let name = || self.files.text(member, dw::DW_AT_name);
        member.is_set(dw::DW_AT_artificial) && name().is_some_and(|name| name.starts_with("_vptr"))
    }

    fn note_function(&self, class: &DebugEntry, function: &DebugEntry, members: &mut ClassMembers) {
        if is_virtual(function) {
            members.non_trivial = true;
        }
        let Some(name) = self.files.text(function, dw::DW_AT_name) else {
            return;
        };
        let deleted = function.is_set(dw::DW_AT_deleted);
        // A function that is defaulted outside of its class counts as one that the source defines. What the compiler
        // added is as trivial as the parts of the class.
        let in_class = u64::from(dw::DW_DEFAULTED_in_class.0);
        let added = function.is_set(dw::DW_AT_artificial);
        let defaulted = function.number(dw::DW_AT_defaulted) == Some(in_class);
        if name.starts_with('~') {
            members.non_trivial |= !deleted && !defaulted && !added;
            return;
        }
        let Some(reference) = self.reference_to_itself(class, function) else {
            return;
        };
        match reference.is_only {
            true if name == "operator=" => {
                members.move_assignment |= !added && reference.kind == dw::DW_TAG_rvalue_reference_type;
            }
            _ if !self.is_constructor(class, &name) => {}
            false if deleted => {}
            false => members.perhaps_copied_from.push(reference.at),
            true => {
                members.copied_from.push(reference.at);
                members.deleted |= deleted && !added;
                members.defaulted |= defaulted && !deleted && !added;
                members.non_trivial |= !deleted && !defaulted && !added;
            }
        }
    }

    /// Constructors have the name of the class, without template arguments. Those that are templates have some, and
    /// never count as copy constructors.
    fn is_constructor(&self, class: &DebugEntry, name: &str) -> bool {
        let class = self.files.text(class, dw::DW_AT_name).unwrap_or_default();
        class.split('<').next() == Some(name)
    }

    /// The first argument of a member function, if it is a reference to an object of its class.
    fn reference_to_itself(&self, class: &DebugEntry, function: &DebugEntry) -> Option<OwnReference> {
        let mut arguments = Vec::new();
        self.files.children(function, |child| {
            if child.tag() == dw::DW_TAG_formal_parameter && !child.is_set(dw::DW_AT_artificial) {
                arguments.push(child);
            }
            match arguments.len() {
                2.. => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        let reference = self.files.target(arguments.first()?)?;
        let to = self.files.target(&reference)?;
        // In a type unit, the class is declared in its namespace and defined outside.
        let declared = self.files.reference(class, dw::DW_AT_specification);
        let is_class = to.offset == class.offset || Some(to.offset) == declared;
        let is_reference = is_pointer(reference.tag()) && reference.tag() != dw::DW_TAG_pointer_type;
        (is_reference && is_class).then_some(OwnReference {
            kind: reference.tag(),
            at: reference.offset,
            is_only: arguments.len() == 1,
        })
    }
}

fn is_virtual(entry: &DebugEntry) -> bool {
    let virtuality = entry.value(dw::DW_AT_virtuality);
    virtuality.is_some_and(|value| value != AttributeValue::Virtuality(dw::DW_VIRTUALITY_none))
}

fn is_static(member: &DebugEntry) -> bool {
    member.is_set(dw::DW_AT_external) || member.is_set(dw::DW_AT_declaration)
}
