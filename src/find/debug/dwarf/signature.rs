// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The signature of a function, by its address.

use std::ops::ControlFlow;
use std::rc::Rc;

use gimli::AttributeValue;
use gimli::constants as dw;

use super::entries::{DebugEntry, EntryOffset};
use super::files::{DebugFiles, OriginChain};
use super::location::{self, CHANGED, FunctionFrame, MOVED, OPTIMIZED_OUT, OTHER_CONVENTION, UNKNOWN_TYPE};
use super::type_kinds::TypeKinds;
use super::type_layouts::TypeLayouts;
use crate::find::debug::abi::{ArgumentAllocator, NATIVE, ON_STACK, TypeLayout, go_result};
use crate::find::debug::types::{
    FunctionParameter, FunctionResult, FunctionSignature, LocationPiece, ValueLocation, ValueType,
};
use crate::find::demangle::parameter_count;

/// Parameters of one function.
const MAX_PARAMETERS: usize = 64;

/// Decodes signatures, with the types that were decoded already.
pub struct SignatureDecoder {
    files: Rc<DebugFiles>,
    kinds: TypeKinds,
    layouts: TypeLayouts,
}

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
    /// `is_regular`: the compiler kept to the calling convention, as far as the debug information shows. `unknown`: why
    /// there is no location by it.
    fn finish(self, is_regular: bool, unknown: &'static str) -> FunctionParameter {
        let location = match (self.described, self.by_convention) {
            (Some(described), _) => described,
            (None, Some(by_convention)) if is_regular => by_convention,
            (None, Some(_)) => ValueLocation::Unavailable(MOVED),
            (None, None) => ValueLocation::Unavailable(unknown),
        };
        FunctionParameter {
            name: self.name.map(Rc::from),
            ty: self.ty,
            location,
        }
    }
}

/// Places values by the calling convention, or why they are not known.
type ByConvention = Result<ArgumentAllocator, &'static str>;

fn allocator(function: &DebugEntry) -> ArgumentAllocator {
    match function.is_rust() {
        true => ArgumentAllocator::rust(NATIVE),
        false => ArgumentAllocator::new(NATIVE),
    }
}

/// Why a function does not use the usual calling convention, if the debug information says so. Clang says it of
/// functions from which it removed arguments or results that are not used.
fn irregular(function: &OriginChain) -> Option<&'static str> {
    let convention = |entry: &DebugEntry| entry.value(dw::DW_AT_calling_convention);
    match function.iter().find_map(convention)? {
        AttributeValue::CallingConvention(dw::DW_CC_normal | dw::DW_CC_program) => None,
        AttributeValue::CallingConvention(dw::DW_CC_nocall) => Some(CHANGED),
        _ => Some(OTHER_CONVENTION),
    }
}

impl SignatureDecoder {
    pub fn new(files: Rc<DebugFiles>) -> SignatureDecoder {
        SignatureDecoder {
            kinds: TypeKinds::new(Rc::clone(&files)),
            layouts: TypeLayouts::new(Rc::clone(&files)),
            files,
        }
    }

    /// Whether something could not be read so far.
    pub fn met_damage(&self) -> bool {
        self.files.met_damage()
    }

    /// The signature of the function whose first instruction is at `addr`, if it is described.
    pub fn signature(&self, addr: u64) -> Option<FunctionSignature> {
        let function = self.files.origin_chain(EntryOffset {
            shared: false,
            bytes: self.files.main.function_at(addr)?,
        });
        let own = function.first().filter(|own| !own.is_assembly())?;
        if !self.is_described(&function) {
            return None;
        }
        let (parameters, variadic) = self.parameters(&function);
        let (results, parameters): (Vec<_>, Vec<_>) =
            parameters.into_iter().partition(ParameterEntry::is_go_result);
        let is_incomplete = || {
            self.lacks_parameters(&function, &parameters) || self.lacks_environment(&function, &parameters)
        };
        let why = irregular(&function).or_else(|| is_incomplete().then_some(UNKNOWN_TYPE));
        let mut arguments = match (why, own) {
            (Some(why), _) => Err(why),
            // The debug information of Go has all locations.
            (None, own) if own.is_go() => Err(UNKNOWN_TYPE),
            (None, own) => Ok(allocator(own)),
        };
        let result = self.files.inherited(&function, dw::DW_AT_type);
        let returns = result.map(|result| match &mut arguments {
            // What is unknown are arguments, in most of the functions that clang changed, too.
            Err(why) if *why != OTHER_CONVENTION && !own.is_go() => {
                self.result(result, &mut Ok(allocator(own)))
            }
            arguments => self.result(result, arguments),
        });
        let frame = FunctionFrame::new(own, addr);
        Some(FunctionSignature {
            params: self.located(&parameters, &frame, arguments),
            returns: returns.or_else(|| self.go_result(own, results.first()?)),
            variadic,
        })
    }

    /// Whether the name of a C++ function has parameters that are not described, as clang 14 leaves out some that it
    /// passes by reference.
    fn lacks_parameters(&self, function: &OriginChain, described: &[ParameterEntry]) -> bool {
        let name = |entry: &DebugEntry| self.files.text(entry, dw::DW_AT_linkage_name);
        let count = function
            .iter()
            .find_map(name)
            .and_then(|name| parameter_count(&name));
        let written = described.iter().filter(|parameter| !parameter.is_artificial());
        count.is_some_and(|count| count > written.count())
    }

    /// Whether the parameter for what a Rust closure captures is not described, so that it is unknown how many
    /// registers are before those of the others. If a closure captures nothing, rustc describes a parameter without a
    /// name.
    fn lacks_environment(&self, function: &OriginChain, described: &[ParameterEntry]) -> bool {
        let name = |entry: &DebugEntry| self.files.text(entry, dw::DW_AT_name);
        let is_closure = function.first().is_some_and(DebugEntry::is_rust)
            && function
                .iter()
                .find_map(name)
                .is_some_and(|name| name.starts_with("{closure"));
        let has_name = |parameter: &ParameterEntry| parameter.chain.iter().find_map(name).is_some();
        is_closure && described.first().is_some_and(has_name)
    }

    /// False if the debug information has no parameters and results. C prototypes and Go always have them.
    fn is_described(&self, function: &OriginChain) -> bool {
        let is_told = |entry: &DebugEntry| entry.is_go() || entry.is_set(dw::DW_AT_prototyped);
        function.iter().any(is_told) || function.last().is_some_and(|entry| self.files.has_types(entry))
    }

    /// A result of the type at `at`. `arguments` is an error afterwards if its layout is unknown.
    fn result(&self, at: EntryOffset, arguments: &mut ByConvention) -> FunctionResult {
        let location = self
            .place(Some(at), arguments, ArgumentAllocator::result)
            .unwrap_or_else(ValueLocation::Unavailable);
        FunctionResult {
            ty: self.kinds.value_type(Some(at)),
            location,
        }
    }

    /// The location of a value of the type at `at`, which `arguments` gives.
    fn place(
        &self,
        at: Option<EntryOffset>,
        arguments: &mut ByConvention,
        give: impl Fn(&mut ArgumentAllocator, &TypeLayout) -> ValueLocation,
    ) -> Result<ValueLocation, &'static str> {
        let layout = at.and_then(|at| self.layouts.layout(at)).ok_or(UNKNOWN_TYPE);
        let placed = match (arguments.as_mut(), layout) {
            (Ok(arguments), Ok(layout)) => Ok(give(arguments, &layout)),
            (Err(why), _) => Err(*why),
            (_, Err(why)) => Err(why),
        };
        if let Err(why) = placed {
            *arguments = Err(why);
        }
        placed
    }

    /// The first result of a Go function.
    fn go_result(&self, own: &DebugEntry, result: &ParameterEntry) -> Option<FunctionResult> {
        let at = self.files.inherited(&result.chain, dw::DW_AT_type);
        let layout = self.layouts.layout(at?)?;
        Some(FunctionResult {
            ty: self.kinds.value_type(at),
            location: match self.has_go_register_abi(own) {
                true => go_result(NATIVE, &layout),
                false => ValueLocation::Unavailable(ON_STACK),
            },
        })
    }

    /// Go passes values in registers since 1.17, on arm64 since 1.18; the compiler's name says so.
    fn has_go_register_abi(&self, function: &DebugEntry) -> bool {
        let producer = self.files.producer(function);
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
        self.files.children(function, |child| {
            match child.tag() {
                dw::DW_TAG_formal_parameter => parameters.push(ParameterEntry {
                    chain: self.files.chain_from(child),
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
    /// decides, unless the compiler evidently did not keep to it. `arguments` says why, if the convention or the
    /// arguments before are unknown.
    fn located(
        &self,
        parameters: &[ParameterEntry],
        frame: &FunctionFrame,
        mut arguments: ByConvention,
    ) -> Vec<FunctionParameter> {
        let any_location = parameters.iter().any(ParameterEntry::has_location);
        let mut is_regular = true;
        let mut located = Vec::new();
        for parameter in parameters {
            let at = self.files.inherited(&parameter.chain, dw::DW_AT_type);
            let bytes = at
                .and_then(|at| self.layouts.layout(at))
                .map(|layout| layout.bytes);
            let by_convention = self.place(at, &mut arguments, ArgumentAllocator::next).ok();
            let is_nowhere = by_convention.as_ref().is_some_and(ValueLocation::is_nowhere);
            let described = match parameter.chain.first() {
                // Compilers describe a value that is not passed in many ways.
                _ if bytes == Some(0) || is_nowhere => Some(ValueLocation::Pieces(Vec::new())),
                Some(own) if parameter.has_location() || (parameter.is_own && !any_location) => {
                    let bytes = bytes.unwrap_or(0);
                    let described = location::at_entry(&self.files.main.sections, own, frame, bytes)
                        .filter(|described| !is_loaded(own, described, by_convention.as_ref()));
                    described.map(|described| completed(described, by_convention.as_ref(), bytes))
                }
                _ => Some(ValueLocation::Unavailable(OPTIMIZED_OUT)),
            };
            is_regular &= described.is_none() || by_convention.is_none() || described == by_convention;
            located.push(LocatedParameter {
                name: parameter
                    .chain
                    .iter()
                    .find_map(|entry| self.files.text(entry, dw::DW_AT_name)),
                ty: self.kinds.value_type(at),
                by_convention,
                described,
            });
        }
        let unknown = arguments.err().unwrap_or(UNKNOWN_TYPE);
        let finished = located
            .into_iter()
            .map(|parameter| parameter.finish(is_regular, unknown));
        finished.collect()
    }
}

/// Whether a description for the whole function names a register into which the function may load what the caller
/// pushed, as clang does without optimization.
fn is_loaded(
    parameter: &DebugEntry,
    described: &ValueLocation,
    by_convention: Option<&ValueLocation>,
) -> bool {
    let is_pushed = match by_convention {
        Some(ValueLocation::Indirect(piece)) => matches!(piece, LocationPiece::Stack(_)),
        Some(ValueLocation::Pieces(pieces)) => matches!(pieces[..], [LocationPiece::Stack(_), ..]),
        Some(ValueLocation::Unavailable(_)) => false,
        None => true,
    };
    let is_in_argument_register = match described {
        ValueLocation::Indirect(piece) => matches!(piece, LocationPiece::Argument(_)),
        ValueLocation::Pieces(pieces) => matches!(pieces[..], [LocationPiece::Argument(_), ..]),
        ValueLocation::Unavailable(_) => false,
    };
    is_pushed && is_in_argument_register && location::is_for_all(parameter)
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
