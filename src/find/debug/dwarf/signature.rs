// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The signature of a function, by its address.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::string::FromUtf8Error;

use gimli::constants as dw;

use super::entries::{DebugEntry, EntryOffset};
use super::location::{self, FunctionFrame, MOVED, OPTIMIZED_OUT, UNKNOWN_TYPE};
use super::type_kinds::TypeCache;
use super::units::UnitTable;
use crate::find::debug::abi::{ArgumentAllocator, NATIVE, ON_STACK, TypeLayout, go_result};
use crate::find::debug::types::{
    FunctionParameter, FunctionResult, FunctionSignature, ValueLocation, ValueType,
};

/// Parameters of one function.
const MAX_PARAMETERS: usize = 64;
/// Steps from a function to its origin: the function that was inlined or cloned, and its declaration.
const MAX_ORIGINS: usize = 8;
/// Namespaces in a name.
const MAX_NAMESPACES: usize = 8;

/// The debug information of a file and of its supplementary file, with the types that were decoded already.
pub struct DebugDecoder {
    pub(super) main: UnitTable,
    shared: Option<UnitTable>,
    pub(super) types: RefCell<TypeCache>,
    pub(super) layouts: RefCell<HashMap<EntryOffset, Rc<TypeLayout>>>,
}

/// An entry, its origin, the origin of that, and so on.
type OriginChain = Vec<DebugEntry>;

/// A parameter that the function lists itself, or that only its origin lists.
struct ParameterEntry {
    chain: OriginChain,
    is_own: bool,
}

impl ParameterEntry {
    fn has_location(&self) -> bool {
        self.is_own && self.chain.first().is_some_and(location::has_location)
    }

    /// Go describes results as parameters that are variables.
    fn is_go_result(&self) -> bool {
        let is_variable = |entry: &DebugEntry| entry.is_set(dw::DW_AT_variable_parameter);
        self.chain.iter().any(|entry| entry.is_go() && is_variable(entry))
    }

    fn is_artificial(&self) -> bool {
        self.chain.iter().any(|entry| entry.is_set(dw::DW_AT_artificial))
    }
}

/// A parameter with its location by the calling convention and by the debug information.
struct LocatedParameter {
    name: Option<String>,
    ty: ValueType,
    /// `None` if the type of this parameter, or of one before it, is unknown.
    by_convention: Option<ValueLocation>,
    described: Option<ValueLocation>,
}

impl LocatedParameter {
    /// `is_regular`: the compiler kept to the calling convention, as far as the debug information shows.
    fn finish(self, is_regular: bool) -> FunctionParameter {
        let location = match (self.described, self.by_convention) {
            (Some(described), _) => described,
            (None, Some(by_convention)) if is_regular => by_convention,
            (None, Some(_)) => ValueLocation::Unavailable(MOVED),
            (None, None) => ValueLocation::Unavailable(UNKNOWN_TYPE),
        };
        FunctionParameter {
            name: self.name.map(Rc::from),
            ty: self.ty,
            location,
        }
    }
}

impl DebugDecoder {
    pub fn new(main: UnitTable, shared: Option<UnitTable>) -> DebugDecoder {
        DebugDecoder {
            main,
            shared,
            types: RefCell::default(),
            layouts: RefCell::default(),
        }
    }

    fn units(&self, at: EntryOffset) -> Option<&UnitTable> {
        if at.shared {
            self.shared.as_ref()
        } else {
            Some(&self.main)
        }
    }

    pub fn entry(&self, at: EntryOffset) -> Option<DebugEntry> {
        self.units(at)?.entry(at)
    }

    /// The entry that an attribute refers to.
    pub fn reference(&self, entry: &DebugEntry, name: gimli::DwAt) -> Option<EntryOffset> {
        self.units(entry.offset)?.reference(entry, name)
    }

    /// The text of an attribute, unless it is empty.
    pub fn text(&self, entry: &DebugEntry, name: gimli::DwAt) -> Option<String> {
        let units = self.units(entry.offset)?;
        let text = units.text(self.shared.as_ref(), &entry.unit, &entry.value(name)?)?;
        let lossy = |error: FromUtf8Error| String::from_utf8_lossy(error.as_bytes()).into_owned();
        (!text.is_empty()).then(|| String::from_utf8(text).unwrap_or_else(lossy))
    }

    /// The names of the namespaces around an entry, outermost first.
    pub fn namespaces(&self, entry: &DebugEntry) -> Vec<String> {
        let offsets = self.units(entry.offset).map(|units| units.namespaces(entry));
        let mut names: Vec<String> = offsets
            .unwrap_or_default()
            .into_iter()
            .take(MAX_NAMESPACES)
            .filter_map(|at| self.text(&self.entry(at)?, dw::DW_AT_name))
            .collect();
        names.reverse();
        names
    }

    /// Calls `visit` with each child of an entry, until it breaks.
    pub fn children(
        &self,
        parent: &DebugEntry,
        visit: impl FnMut(DebugEntry) -> ControlFlow<()>,
    ) -> Option<()> {
        self.units(parent.offset)?.children(parent, visit)
    }

    pub(super) fn origin_chain(&self, at: EntryOffset) -> OriginChain {
        self.entry(at)
            .map(|entry| self.chain_from(entry))
            .unwrap_or_default()
    }

    fn chain_from(&self, entry: DebugEntry) -> OriginChain {
        let mut chain = Vec::new();
        let mut next = Some(entry);
        while let Some(entry) = next
            && chain.len() < MAX_ORIGINS
        {
            let origin = self
                .reference(&entry, dw::DW_AT_abstract_origin)
                .or_else(|| self.reference(&entry, dw::DW_AT_specification));
            next = origin.and_then(|at| self.entry(at));
            chain.push(entry);
        }
        chain
    }

    /// The entry that the attribute refers to, in the first entry of the chain that has it.
    fn inherited(&self, chain: &OriginChain, name: gimli::DwAt) -> Option<EntryOffset> {
        chain.iter().find_map(|entry| self.reference(entry, name))
    }

    /// The signature of the function whose first instruction is at `addr`.
    pub fn signature(&self, addr: u64) -> Option<FunctionSignature> {
        let function = self.origin_chain(EntryOffset {
            shared: false,
            bytes: self.main.function_at(addr)?,
        });
        let own = function.first().filter(|own| !own.is_assembly())?;
        let (parameters, variadic) = self.parameters(&function);
        let (results, parameters): (Vec<_>, Vec<_>) =
            parameters.into_iter().partition(ParameterEntry::is_go_result);
        let mut arguments = match () {
            // The debug information of Go has all locations.
            () if own.is_go() => None,
            () if own.is_rust() => Some(ArgumentAllocator::rust(NATIVE)),
            () => Some(ArgumentAllocator::new(NATIVE)),
        };
        let result = self.inherited(&function, dw::DW_AT_type);
        let returns = result.map(|result| self.result(result, &mut arguments));
        let frame = FunctionFrame::new(own, addr);
        Some(FunctionSignature {
            params: self.located(&parameters, &frame, arguments),
            returns: returns.or_else(|| self.go_result(own, results.first()?)),
            variadic,
        })
    }

    /// A result of the type at `at`. `arguments` is `None` afterwards if its layout is unknown.
    fn result(&self, at: EntryOffset, arguments: &mut Option<ArgumentAllocator>) -> FunctionResult {
        let layout = self.layout(at);
        let location = arguments
            .as_mut()
            .zip(layout)
            .map(|(all, layout)| all.result(&layout));
        if location.is_none() {
            *arguments = None;
        }
        FunctionResult {
            ty: self.value_type(Some(at)),
            location: location.unwrap_or(ValueLocation::Unavailable(UNKNOWN_TYPE)),
        }
    }

    /// The first result of a Go function.
    fn go_result(&self, own: &DebugEntry, result: &ParameterEntry) -> Option<FunctionResult> {
        let at = self.inherited(&result.chain, dw::DW_AT_type);
        let layout = self.layout(at?)?;
        Some(FunctionResult {
            ty: self.value_type(at),
            location: match self.is_go_register_abi(own) {
                true => go_result(NATIVE, &layout),
                false => ValueLocation::Unavailable(ON_STACK),
            },
        })
    }

    /// Go passes values in registers since 1.17, on arm64 since 1.18; the compiler's name says so.
    fn is_go_register_abi(&self, function: &DebugEntry) -> bool {
        let producer = function.unit.root.producer.as_ref();
        let producer = producer.and_then(|value| self.main.text(self.shared.as_ref(), &function.unit, value));
        producer.is_some_and(|producer| producer.ends_with(b"regabi"))
    }

    /// The parameters in source order, and whether more arguments may follow.
    fn parameters(&self, function: &OriginChain) -> (Vec<ParameterEntry>, bool) {
        let Some((own, origins)) = function.split_first() else {
            return (Vec::new(), false);
        };
        let (mut listed, variadic) = self.listed(own, true);
        let Some(origin) = origins.first() else {
            return (listed, variadic);
        };
        let (original, origin_variadic) = self.listed(origin, false);
        let mut ordered = Vec::new();
        for parameter in original {
            let Some(at) = parameter.chain.first().map(|entry| entry.offset) else {
                continue;
            };
            let has_origin = |own: &ParameterEntry| own.chain.iter().any(|entry| entry.offset == at);
            if let Some(index) = listed.iter().position(has_origin) {
                ordered.push(listed.remove(index));
            } else if own.value(dw::DW_AT_abstract_origin).is_some() && !parameter.is_artificial() {
                ordered.push(parameter);
            }
        }
        // The definition of a method repeats the parameters of its declaration without a reference.
        ordered.append(&mut listed);
        (ordered, variadic || origin_variadic)
    }

    fn listed(&self, function: &DebugEntry, is_own: bool) -> (Vec<ParameterEntry>, bool) {
        let mut parameters = Vec::new();
        let mut variadic = false;
        self.children(function, |child| {
            match child.tag() {
                dw::DW_TAG_formal_parameter => parameters.push(ParameterEntry {
                    chain: self.chain_from(child),
                    is_own,
                }),
                dw::DW_TAG_unspecified_parameters => variadic = true,
                // These come after the parameters.
                dw::DW_TAG_lexical_block
                | dw::DW_TAG_inlined_subroutine
                | dw::DW_TAG_call_site
                | dw::DW_TAG_GNU_call_site => return ControlFlow::Break(()),
                _ => {}
            }
            match parameters.len() {
                MAX_PARAMETERS.. => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        (parameters, variadic)
    }

    /// The parameters with their locations. Where the debug information has none, the calling convention
    /// decides, unless the compiler evidently did not keep to it. `arguments` is `None` if the arguments
    /// before are unknown.
    fn located(
        &self,
        parameters: &[ParameterEntry],
        frame: &FunctionFrame,
        mut arguments: Option<ArgumentAllocator>,
    ) -> Vec<FunctionParameter> {
        let any_location = parameters.iter().any(ParameterEntry::has_location);
        let mut is_regular = true;
        let mut located = Vec::new();
        for parameter in parameters {
            let at = self.inherited(&parameter.chain, dw::DW_AT_type);
            let layout = at.and_then(|at| self.layout(at));
            let bytes = layout.as_ref().map(|layout| layout.bytes);
            let by_convention = arguments
                .as_mut()
                .zip(layout)
                .map(|(all, layout)| all.next(&layout));
            if by_convention.is_none() {
                arguments = None;
            }
            let described = match parameter.chain.first() {
                // A value without bytes is nowhere, which compilers describe in many ways.
                _ if bytes == Some(0) => Some(ValueLocation::Pieces(Vec::new())),
                Some(own) if parameter.has_location() || (parameter.is_own && !any_location) => {
                    let bytes = bytes.unwrap_or(0);
                    let described = location::at_entry(&self.main.sections, own, frame, bytes);
                    described.map(|described| completed(described, by_convention.as_ref(), bytes))
                }
                _ => Some(ValueLocation::Unavailable(OPTIMIZED_OUT)),
            };
            is_regular &= described.is_none() || by_convention.is_none() || described == by_convention;
            located.push(LocatedParameter {
                name: parameter
                    .chain
                    .iter()
                    .find_map(|entry| self.text(entry, dw::DW_AT_name)),
                ty: self.value_type(at),
                by_convention,
                described,
            });
        }
        let finished = located.into_iter().map(|parameter| parameter.finish(is_regular));
        finished.collect()
    }
}

/// Compilers describe only the words of a parameter that the function uses, but the caller passed all of them.
fn completed(described: ValueLocation, by_convention: Option<&ValueLocation>, bytes: u64) -> ValueLocation {
    match (described, by_convention) {
        (ValueLocation::Pieces(some), Some(ValueLocation::Pieces(all))) if all.starts_with(&some) => {
            ValueLocation::Pieces(all.clone())
        }
        (ValueLocation::Pieces(some), _) if (some.len() as u64) < bytes.div_ceil(8) => {
            ValueLocation::Unavailable(OPTIMIZED_OUT)
        }
        (described, _) => described,
    }
}
