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

/// Applies the rule to classes, to each once.
pub struct ClassPassing {
    files: Rc<DebugFiles>,
    known: RefCell<HashMap<EntryOffset, bool>>,
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
}

impl ClassMembers {
    fn is_by_reference(&self) -> bool {
        let all_deleted = !self.defaulted && (self.deleted || self.move_assignment);
        self.non_trivial || all_deleted
    }
}

impl ClassPassing {
    pub fn new(files: Rc<DebugFiles>) -> ClassPassing {
        ClassPassing {
            files,
            known: RefCell::default(),
        }
    }

    /// False for anything but a class, structure or union.
    pub fn is_by_reference(&self, class: &DebugEntry) -> bool {
        self.decide(class, 0)
    }

    fn decide(&self, class: &DebugEntry, depth: usize) -> bool {
        if !is_structure(class.tag()) || depth > MAX_DEPTH {
            return false;
        }
        match class.value(dw::DW_AT_calling_convention) {
            Some(AttributeValue::CallingConvention(dw::DW_CC_pass_by_reference)) => return true,
            Some(AttributeValue::CallingConvention(dw::DW_CC_pass_by_value)) => return false,
            _ => {}
        }
        if let Some(&known) = self.known.borrow().get(&class.offset) {
            return known;
        }
        // Until it is known; a class cannot contain itself, but a damaged file can say so.
        self.known.borrow_mut().insert(class.offset, false);
        let found = self.has_non_trivial_part(class, depth);
        self.known.borrow_mut().insert(class.offset, found);
        found
    }

    fn has_non_trivial_part(&self, class: &DebugEntry, depth: usize) -> bool {
        let mut members = ClassMembers::default();
        self.files.children(class, |child| {
            match child.tag() {
                dw::DW_TAG_subprogram => self.note_function(class, &child, &mut members),
                dw::DW_TAG_member if self.is_vtable_pointer(&child) => members.non_trivial = true,
                dw::DW_TAG_inheritance if is_virtual(&child) => members.non_trivial = true,
                dw::DW_TAG_member | dw::DW_TAG_inheritance if !is_static(&child) => {
                    members.non_trivial |= self.is_part_by_reference(&child, depth);
                }
                _ => {}
            }
            match members.non_trivial {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        members.is_by_reference()
    }

    /// A member or base class, or the elements of an array.
    fn is_part_by_reference(&self, part: &DebugEntry, depth: usize) -> bool {
        let mut target = self.files.target(part);
        for _ in 0..MAX_DEPTH {
            match target {
                Some(array) if array.tag() == dw::DW_TAG_array_type => target = self.files.target(&array),
                class => return class.is_some_and(|class| self.decide(&class, depth + 1)),
            }
        }
        false
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
        // What the compiler added is as trivial as the parts of the class.
        if function.is_set(dw::DW_AT_artificial) {
            return;
        }
        let Some(name) = self.files.text(function, dw::DW_AT_name) else {
            return;
        };
        let deleted = function.is_set(dw::DW_AT_deleted);
        // A function that is defaulted outside of its class counts as one that the source defines.
        let in_class = u64::from(dw::DW_DEFAULTED_in_class.0);
        let defaulted = function.number(dw::DW_AT_defaulted) == Some(in_class);
        if name.starts_with('~') {
            members.non_trivial |= !deleted && !defaulted;
            return;
        }
        let is_constructor = || self.is_constructor(class, &name);
        match self.reference_to_itself(class, function) {
            Some(dw::DW_TAG_rvalue_reference_type) if name == "operator=" => members.move_assignment = true,
            Some(_) if !is_constructor() => {}
            Some(_) if deleted => members.deleted = true,
            Some(_) if defaulted => members.defaulted = true,
            Some(_) => members.non_trivial = true,
            None => {}
        }
    }

    /// Constructors have the name of the class, without template arguments.
    fn is_constructor(&self, class: &DebugEntry, name: &str) -> bool {
        let class = self.files.text(class, dw::DW_AT_name).unwrap_or_default();
        class == name || class.strip_prefix(name).is_some_and(|rest| rest.starts_with('<'))
    }

    /// The kind of reference, if the only argument of a member function is a reference to an object of its class. A
    /// constructor with more arguments copies if these have defaults, which the debug information does not tell; such
    /// are rare.
    fn reference_to_itself(&self, class: &DebugEntry, function: &DebugEntry) -> Option<gimli::DwTag> {
        let mut arguments = Vec::new();
        self.files.children(function, |child| {
            let counts = match child.tag() {
                dw::DW_TAG_formal_parameter => !child.is_set(dw::DW_AT_artificial),
                tag => tag == dw::DW_TAG_unspecified_parameters,
            };
            if counts {
                arguments.push(child);
            }
            match arguments.len() {
                2.. => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        let [argument] = &arguments[..] else {
            return None;
        };
        let reference = self.files.target(argument)?;
        let to = self.files.target(&reference)?;
        // In a type unit, the class is declared in its namespace and defined outside.
        let declared = self.files.reference(class, dw::DW_AT_specification);
        let is_class = to.offset == class.offset || Some(to.offset) == declared;
        let is_reference = is_pointer(reference.tag()) && reference.tag() != dw::DW_TAG_pointer_type;
        (is_reference && is_class).then_some(reference.tag())
    }
}

fn is_virtual(entry: &DebugEntry) -> bool {
    let virtuality = entry.value(dw::DW_AT_virtuality);
    virtuality.is_some_and(|value| value != AttributeValue::Virtuality(dw::DW_VIRTUALITY_none))
}

fn is_static(member: &DebugEntry) -> bool {
    member.is_set(dw::DW_AT_external) || member.is_set(dw::DW_AT_declaration)
}
