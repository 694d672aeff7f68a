//! From the address of a function to its parameters.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::rc::Rc;

use gimli::constants as dw;

use super::entries::{Entries, Entry, Spot};
use super::kinds::Types;
use super::location::{self, Frame, MOVED, OPTIMIZED_OUT, UNKNOWN_TYPE};
use crate::find::debug::abi::{Arguments, NATIVE, ON_STACK, Shape, go_result};
use crate::find::debug::types::{Param, Place, Returned, Signature};
use crate::find::stack::demangle::demangle;

/// Parameters of one function that are looked at.
const MAX_PARAMETERS: usize = 64;
/// Steps from a function to what it was made from: the function that was inlined or cloned, its declaration.
const MAX_ORIGINS: usize = 8;

/// The debug information of a file and of what it shares with others, and the types that were asked for.
pub struct Decoder<'a> {
    pub(super) main: Entries<'a>,
    shared: Option<Entries<'a>>,
    pub types: RefCell<Types>,
    /// What calling conventions ask of types.
    pub shapes: RefCell<HashMap<Spot, Rc<Shape>>>,
}

/// An entry, the one it was made from, and so on.
type Layers<'d, 'a> = Vec<Entry<'d, 'a>>;

/// A parameter, as the function itself lists it or only the one it was made from.
struct Parameter<'d, 'a> {
    layers: Layers<'d, 'a>,
    is_own: bool,
}

impl Parameter<'_, '_> {
    fn is_placed(&self) -> bool {
        self.is_own && self.layers.first().is_some_and(location::is_placed)
    }

    /// Go describes results as parameters that are variables.
    fn is_result(&self) -> bool {
        let is_variable = |entry: &Entry<'_, '_>| entry.is_set(dw::DW_AT_variable_parameter);
        self.layers
            .iter()
            .any(|entry| entry.is_go() && is_variable(entry))
    }

    fn is_artificial(&self) -> bool {
        self.layers.iter().any(|entry| entry.is_set(dw::DW_AT_artificial))
    }
}

impl<'a> Decoder<'a> {
    pub fn new(main: Entries<'a>, shared: Option<Entries<'a>>) -> Decoder<'a> {
        Decoder {
            main,
            shared,
            types: RefCell::default(),
            shapes: RefCell::default(),
        }
    }

    fn entries(&self, spot: Spot) -> Option<&Entries<'a>> {
        if spot.shared {
            self.shared.as_ref()
        } else {
            Some(&self.main)
        }
    }

    pub fn entry(&self, spot: Spot) -> Option<Entry<'_, 'a>> {
        self.entries(spot)?.entry(spot)
    }

    /// What an attribute refers to.
    pub fn reference(&self, entry: &Entry<'_, 'a>, name: gimli::DwAt) -> Option<Spot> {
        self.entries(entry.spot)?.reference(entry, name)
    }

    /// The text of an attribute, cut at 256 bytes.
    pub fn text(&self, entry: &Entry<'_, 'a>, name: gimli::DwAt) -> Option<String> {
        let entries = self.entries(entry.spot)?;
        let text = entries.text(self.shared.as_ref(), entry.unit, entry.value(name)?)?;
        (!text.is_empty()).then(|| String::from_utf8_lossy(text).into_owned())
    }

    /// The names of the namespaces around an entry, the outermost first.
    pub fn namespaces(&self, entry: &Entry<'_, 'a>) -> Vec<String> {
        let Some(entries) = self.entries(entry.spot) else {
            return Vec::new();
        };
        let spots = entries.namespaces(entry.spot.at).map(|namespace| Spot {
            at: namespace.start,
            ..entry.spot
        });
        let mut names: Vec<String> = spots
            .take(MAX_ORIGINS)
            .filter_map(|spot| self.text(&self.entry(spot)?, dw::DW_AT_name))
            .collect();
        names.reverse();
        names
    }

    /// Calls `visit` with each child of an entry, until it breaks.
    pub fn children<'d>(
        &'d self,
        parent: &Entry<'d, 'a>,
        visit: impl FnMut(Entry<'d, 'a>) -> ControlFlow<()>,
    ) -> Option<()> {
        self.entries(parent.spot)?.children(parent, visit)
    }

    fn layers(&self, spot: Spot) -> Layers<'_, 'a> {
        let origin = |entry: &Entry<'_, 'a>| {
            self.reference(entry, dw::DW_AT_abstract_origin)
                .or_else(|| self.reference(entry, dw::DW_AT_specification))
        };
        let mut layers = Vec::new();
        let mut next = Some(spot);
        while let Some(entry) = next.and_then(|spot| self.entry(spot))
            && layers.len() < MAX_ORIGINS
        {
            next = origin(&entry);
            layers.push(entry);
        }
        layers
    }

    /// What the first of the layers that has the attribute refers to.
    fn inherited(&self, layers: &Layers<'_, 'a>, name: gimli::DwAt) -> Option<Spot> {
        layers.iter().find_map(|entry| self.reference(entry, name))
    }

    pub fn signature(&self, addr: u64) -> Option<Signature> {
        let functions = &self.main.index.functions;
        let first = functions.partition_point(|function| function.0 < addr);
        let &(_, at) = functions.get(first).filter(|function| function.0 == addr)?;
        let function = self.layers(Spot { shared: false, at });
        let own = function.first().filter(|own| !own.is_assembly())?;
        let (parameters, variadic) = self.parameters(&function);
        let (results, parameters): (Vec<_>, Vec<_>) = parameters.into_iter().partition(Parameter::is_result);
        let result = self.inherited(&function, dw::DW_AT_type);

        let mut arguments = match () {
            // Its debug information tells all of them.
            () if own.is_go() => None,
            () if own.is_rust() => Some(Arguments::rust(NATIVE)),
            () => Some(Arguments::new(NATIVE)),
        };
        let returns = result.map(|result| {
            let shape = self.shape(result);
            let place = arguments
                .as_mut()
                .zip(shape)
                .map(|(all, shape)| all.result(&shape));
            if place.is_none() {
                arguments = None;
            }
            Returned {
                ty: self.ty(Some(result)),
                place: place.unwrap_or(Place::Nowhere(UNKNOWN_TYPE)),
            }
        });
        let frame = Frame::new(own, addr);
        Some(Signature {
            params: self.places(&parameters, &frame, arguments),
            returns: returns.or_else(|| self.result_of_go(own, results.first()?)),
            variadic,
        })
    }

    /// The first of the results of a Go function.
    fn result_of_go(&self, own: &Entry<'_, 'a>, result: &Parameter<'_, 'a>) -> Option<Returned> {
        let spot = self.inherited(&result.layers, dw::DW_AT_type);
        let shape = self.shape(spot?)?;
        Some(Returned {
            ty: self.ty(spot),
            place: match own.unit.go_in_registers {
                true => go_result(NATIVE, &shape),
                false => Place::Nowhere(ON_STACK),
            },
        })
    }

    /// The parameters in the order of the source, and whether more may follow.
    fn parameters<'d>(&'d self, function: &Layers<'d, 'a>) -> (Vec<Parameter<'d, 'a>>, bool) {
        let Some((own, origins)) = function.split_first() else {
            return (Vec::new(), false);
        };
        let (mut listed, variadic) = self.listed(own, true);
        let Some(origin) = origins.first() else {
            return (listed, variadic);
        };
        let (made_from, origin_variadic) = self.listed(origin, false);
        let mut ordered = Vec::new();
        for parameter in made_from {
            let Some(spot) = parameter.layers.first().map(|entry| entry.spot) else {
                continue;
            };
            let mine = |own: &Parameter<'_, '_>| own.layers.iter().any(|entry| entry.spot == spot);
            if let Some(index) = listed.iter().position(mine) {
                ordered.push(listed.remove(index));
            } else if own.value(dw::DW_AT_abstract_origin).is_some() && !parameter.is_artificial() {
                ordered.push(parameter);
            }
        }
        // The definition of a method repeats the parameters of its declaration without a reference.
        ordered.append(&mut listed);
        (ordered, variadic || origin_variadic)
    }

    fn listed<'d>(&'d self, function: &Entry<'d, 'a>, is_own: bool) -> (Vec<Parameter<'d, 'a>>, bool) {
        let mut parameters = Vec::new();
        let mut variadic = false;
        self.children(function, |child| {
            match child.tag() {
                dw::DW_TAG_formal_parameter => parameters.push(Parameter {
                    layers: self.layers(child.spot),
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

    /// Where the debug information says nothing of a parameter, the calling convention does, unless the compiler has
    /// evidently not kept to it. `arguments` is none where it is not known what came before.
    fn places(
        &self,
        parameters: &[Parameter<'_, 'a>],
        frame: &Frame,
        mut arguments: Option<Arguments>,
    ) -> Vec<Param> {
        let any_placed = parameters.iter().any(Parameter::is_placed);
        let mut is_regular = true;
        let mut decoded = Vec::new();
        for parameter in parameters {
            let spot = self.inherited(&parameter.layers, dw::DW_AT_type);
            let shape = spot.and_then(|spot| self.shape(spot));
            let bytes = shape.as_ref().map(|shape| shape.bytes);
            let usual = arguments
                .as_mut()
                .zip(shape)
                .map(|(arguments, shape)| arguments.next(&shape));
            if usual.is_none() {
                arguments = None;
            }
            let said = match parameter.layers.first() {
                // It is nowhere, and that is said in many ways.
                _ if bytes == Some(0) => Some(Place::Pieces(Vec::new())),
                Some(own) if parameter.is_placed() || (parameter.is_own && !any_placed) => {
                    let said = location::place(&self.main, own, frame, bytes.unwrap_or(0));
                    said.map(|said| completed(said, usual.as_ref(), bytes.unwrap_or(0)))
                }
                _ => Some(Place::Nowhere(OPTIMIZED_OUT)),
            };
            is_regular &= said.is_none() || usual.is_none() || said == usual;
            let name = parameter
                .layers
                .iter()
                .find_map(|entry| self.text(entry, dw::DW_AT_name));
            decoded.push((name, self.ty(spot), usual, said));
        }
        let place = |usual: Option<Place>, said: Option<Place>| match (said, usual) {
            (Some(said), _) => said,
            (None, Some(usual)) if is_regular => usual,
            (None, Some(_)) => Place::Nowhere(MOVED),
            (None, None) => Place::Nowhere(UNKNOWN_TYPE),
        };
        let param = |(name, ty, usual, said): (Option<String>, _, _, _)| Param {
            name: name.map(Rc::from),
            ty,
            place: place(usual, said),
        };
        decoded.into_iter().map(param).collect()
    }

    /// Whether a function of that name was put into its callers and has no address of its own.
    pub fn inlined(&self, name: &str) -> bool {
        let is_named = |layers: &Layers<'_, 'a>| layers.iter().any(|entry| self.is_named(entry, name));
        let index = &self.main.index;
        let spot = |at| Spot { shared: false, at };
        let mut candidates = index.inlined.iter().map(|&at| self.layers(spot(at)));
        candidates.any(|layers| is_named(&layers))
            && !index
                .functions
                .iter()
                .any(|&(_, at)| is_named(&self.layers(spot(at))))
    }

    fn is_named(&self, entry: &Entry<'_, 'a>, name: &str) -> bool {
        let plain = self.text(entry, dw::DW_AT_name);
        if plain.as_ref().is_some_and(|plain| plain == name) {
            return true;
        }
        let linked = self.text(entry, dw::DW_AT_linkage_name);
        let linked = linked.or_else(|| self.text(entry, dw::DW_AT_MIPS_linkage_name));
        // Demangling all of them would take a second in a large program.
        let is_likely = plain.is_none_or(|plain| name.ends_with(&plain));
        linked.is_some_and(|linked| {
            linked == name || (is_likely && without_parameters(&demangle(&linked)) == name)
        })
    }
}

/// Compilers leave out words of a parameter that the function does not use, although the caller filled them in.
fn completed(said: Place, usual: Option<&Place>, bytes: u64) -> Place {
    match (said, usual) {
        (Place::Pieces(some), Some(Place::Pieces(all))) if all.starts_with(&some) => {
            Place::Pieces(all.clone())
        }
        (Place::Pieces(some), _) if (some.len() as u64) < bytes.div_ceil(8) => Place::Nowhere(OPTIMIZED_OUT),
        (said, _) => said,
    }
}

/// `net::read` of `net::read(int)`.
fn without_parameters(name: &str) -> &str {
    name.split_once('(').map_or(name, |(name, _)| name)
}
