// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The members of a structure and of its base classes, under names that differ.

use std::collections::HashMap;
use std::rc::Rc;

use super::type_entries::MAX_DEPTH;
use crate::find::debug::types::{StructMember, TypeKind};

const MAX_MEMBERS: usize = 64;
/// Types that one value may show, including those of its members and of what it points to.
const MAX_PARTS: usize = 256;
/// Most bytes of the names of base classes before the name of a member.
const MAX_QUALIFIER: usize = 1024;

/// The members of a structure while they are collected.
pub struct MemberList {
    list: Vec<CollectedMember>,
    parts: usize,
    /// The base classes and anonymous members around the next one; the latter have no name.
    around: Vec<Option<Rc<str>>>,
}

struct CollectedMember {
    member: StructMember,
    /// The base classes that it belongs to, outermost first.
    bases: Vec<Rc<str>>,
}

impl Default for MemberList {
    fn default() -> MemberList {
        MemberList {
            list: Vec::new(),
            parts: 1,
            around: Vec::new(),
        }
    }
}

impl MemberList {
    /// Adds a member that shows that many types, without its kind once there are too many.
    pub fn push(&mut self, mut member: StructMember, parts: usize) {
        if self.parts + parts > MAX_PARTS {
            member.ty.kind = TypeKind::Other;
        } else {
            self.parts += parts;
        }
        let bases = self.around.iter().flatten().cloned().collect();
        self.list.push(CollectedMember { member, bases });
    }

    /// What follows are members of a base class, or of an anonymous member, until [`MemberList::leave`]. False if they
    /// are too deep.
    pub fn enter(&mut self, base: Option<String>) -> bool {
        let is_entered = self.around.len() < MAX_DEPTH;
        if is_entered {
            self.around.push(base.map(Rc::from));
        }
        is_entered
    }

    pub fn leave(&mut self) {
        self.around.pop();
    }

    pub fn is_full(&self) -> bool {
        self.list.len() >= MAX_MEMBERS
    }

    /// The members, and the number of types that they show. Where members have the same name, those of base classes
    /// have that of the class before it, as in C++: `Base::name`, or all of them if that is not enough.
    pub fn finish(self) -> (Vec<StructMember>, usize) {
        let names = |list: &[StructMember]| {
            let mut count: HashMap<Rc<str>, usize> = HashMap::new();
            for member in list {
                *count.entry(Rc::clone(&member.name)).or_default() += 1;
            }
            count
        };
        let (plain, bases): (Vec<StructMember>, Vec<Vec<Rc<str>>>) = self
            .list
            .into_iter()
            .map(|each| (each.member, each.bases))
            .unzip();
        let mut members = plain.clone();
        for most in [1, MAX_DEPTH] {
            let count = names(&members);
            if count.len() == members.len() {
                break;
            }
            for ((member, plain), bases) in members.iter_mut().zip(&plain).zip(&bases) {
                let qualifier = bases[bases.len().saturating_sub(most)..].join("::");
                let is_repeated = count.get(&member.name).is_some_and(|&count| count > 1);
                if is_repeated && (1..=MAX_QUALIFIER).contains(&qualifier.len()) {
                    member.name = format!("{qualifier}::{}", plain.name).into();
                }
            }
        }
        (members, self.parts)
    }
}
