// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The units of one file. A unit is read when an address, a reference or a signature leads to it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;

use gimli::{Abbreviations, AttributeValue};

use super::addresses::AddressTable;
use super::index::UnitIndex;
use super::sections::DebugSections;
use super::unit::{Unit, UnitHead, abbreviations_size, parse_abbreviations};
use super::unit_walk::index_unit;

/// Entries that may be read in addition to those that the size of the file allows.
const MIN_READS: usize = 1 << 20;
/// Bytes of a table of abbreviations that are read at first.
const FIRST_ABBREVIATIONS: usize = 8 << 10;
/// Ranges of one unit.
const MAX_RANGES: usize = 1 << 20;

/// All units of a file, by offset, address and signature.
pub struct UnitTable {
    pub sections: DebugSections,
    /// By start. `None` for a unit that is damaged.
    units: RefCell<HashMap<usize, Option<Rc<Unit>>>>,
    /// The unit of the last look-up: most references stay inside their unit.
    last: RefCell<Option<Rc<Unit>>>,
    /// Start and end of the units whose headers were read.
    spans: RefCell<BTreeMap<usize, usize>>,
    /// By offset; units may share a table.
    abbreviations: RefCell<HashMap<usize, Option<Rc<Abbreviations>>>>,
    /// Addresses by `.debug_aranges`, which compilers write for all of their units or for none.
    listed: OnceCell<AddressTable>,
    /// Addresses of the units that `.debug_aranges` does not have.
    unlisted: OnceCell<AddressTable>,
    types: OnceCell<HashMap<u64, usize>>,
    budget: Budget,
    met_damage: Cell<bool>,
}

/// How much more is read. Every unit, table and header is read once at most, unless a file was made to have
/// them overlap.
struct Budget {
    entries: Cell<usize>,
    unit_bytes: Cell<usize>,
    abbreviation_bytes: Cell<usize>,
}

/// Subtracts `count` from a budget; `None` if the budget is smaller.
fn spend(left: &Cell<usize>, count: usize) -> Option<()> {
    left.set(left.get().checked_sub(count)?);
    Some(())
}

impl UnitTable {
    pub fn new(sections: DebugSections) -> UnitTable {
        UnitTable {
            units: RefCell::default(),
            last: RefCell::default(),
            spans: RefCell::default(),
            abbreviations: RefCell::default(),
            listed: OnceCell::new(),
            unlisted: OnceCell::new(),
            types: OnceCell::new(),
            budget: Budget {
                entries: Cell::new(sections.units_size() + MIN_READS),
                unit_bytes: Cell::new(sections.units_size()),
                abbreviation_bytes: Cell::new(sections.abbrev.size()),
            },
            sections,
            met_damage: Cell::new(false),
        }
    }

    /// Whether something could not be read so far.
    pub fn met_damage(&self) -> bool {
        self.met_damage.get()
    }

    /// Remembers that there is damage, unless something was `found`.
    pub fn required<T>(&self, found: Option<T>) -> Option<T> {
        if found.is_none() {
            self.met_damage.set(true);
        }
        found
    }

    /// Counts an entry that is about to be read. `None` when there were too many.
    pub fn count_entry(&self) -> Option<()> {
        spend(&self.budget.entries, 1)
    }

    /// The unit that begins at `start`.
    pub fn unit(&self, start: usize) -> Option<Rc<Unit>> {
        if let Some(known) = self.units.borrow().get(&start) {
            return known.clone();
        }
        let unit = self.required(self.read_unit(start)).map(Rc::new);
        self.units.borrow_mut().insert(start, unit.clone());
        unit
    }

    fn read_unit(&self, start: usize) -> Option<Unit> {
        let range = self.head(start)?.range;
        spend(&self.budget.unit_bytes, range.len())?;
        let bytes = self.sections.read_units(range)?;
        let is_in_types = self.sections.is_in_types(start);
        Unit::parse(start, bytes, is_in_types, |at| self.abbreviations(at))
    }

    /// The unit around an offset.
    pub fn unit_at(&self, at: usize) -> Option<Rc<Unit>> {
        if let Some(unit) = &*self.last.borrow()
            && (unit.start..unit.end).contains(&at)
        {
            return Some(Rc::clone(unit));
        }
        let unit = self.find_unit(at)?;
        *self.last.borrow_mut() = Some(Rc::clone(&unit));
        Some(unit)
    }

    fn find_unit(&self, at: usize) -> Option<Rc<Unit>> {
        let known = |spans: &BTreeMap<usize, usize>| {
            spans.range(..=at).next_back().map(|(&start, &end)| (start, end))
        };
        let (mut start, mut end) = known(&self.spans.borrow()).unwrap_or((0, 0));
        let listed = self.listed().unit_before(at).filter(|&listed| listed >= end);
        end = listed.unwrap_or(end);
        while end <= at {
            Range { start, end } = self.head(end)?.range;
        }
        self.unit(start)
    }

    fn head(&self, start: usize) -> Option<UnitHead> {
        self.count_entry()?;
        let bytes = self.sections.read_units_up_to(start, UnitHead::SIZE)?;
        let head = UnitHead::parse(start, &bytes, self.sections.unit_section_end(start))?;
        let head = match self.sections.is_in_types(start) {
            true => head.in_types(&bytes)?,
            false => head,
        };
        self.spans.borrow_mut().insert(start, head.range.end);
        Some(head)
    }

    /// The headers of all units, up to the first that is damaged.
    fn heads(&self) -> impl Iterator<Item = UnitHead> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let is_end = next >= self.sections.units_size();
            let head = (!is_end).then(|| self.required(self.head(next)))??;
            next = head.range.end;
            Some(head)
        })
    }

    /// All units that can be read, in order.
    pub fn all(&self) -> impl Iterator<Item = Rc<Unit>> {
        self.heads().filter_map(|head| self.unit(head.range.start))
    }

    /// The offset of the type with that signature.
    pub fn type_with_signature(&self, signature: u64) -> Option<usize> {
        let types = self
            .types
            .get_or_init(|| self.heads().filter_map(|head| head.signature).collect());
        types.get(&signature).copied()
    }

    fn abbreviations(&self, at: usize) -> Option<Rc<Abbreviations>> {
        if let Some(known) = self.abbreviations.borrow().get(&at) {
            return known.clone();
        }
        let table = self.read_abbreviations(at).map(Rc::new);
        self.abbreviations.borrow_mut().insert(at, table.clone());
        table
    }

    fn read_abbreviations(&self, at: usize) -> Option<Abbreviations> {
        let mut most = FIRST_ABBREVIATIONS;
        loop {
            let mut bytes = self.sections.abbrev.read_up_to(at, most)?;
            if let Some(size) = abbreviations_size(&bytes) {
                spend(&self.budget.abbreviation_bytes, size)?;
                bytes.truncate(size);
                return parse_abbreviations(&bytes);
            }
            // Reading the same bytes again is paid for too.
            spend(&self.budget.entries, bytes.len())?;
            if bytes.len() < most {
                return None;
            }
            most *= 8;
        }
    }

    /// The offset of the function whose first instruction is at `addr`.
    pub fn function_at(&self, addr: u64) -> Option<usize> {
        let mut units = self.units_with_code_at(addr);
        units.find_map(|unit| self.index(&unit).function_at(addr))
    }

    /// The units that may have code at `addr`.
    pub fn units_with_code_at(&self, addr: u64) -> impl Iterator<Item = Rc<Unit>> {
        let mut starts = self.listed().units_with(addr);
        // Finding unlisted units takes long: it reads the header of every unit.
        if starts.is_empty() {
            starts = self.unlisted().units_with(addr);
        }
        starts.into_iter().filter_map(|start| self.unit(start))
    }

    /// The functions and namespaces of a unit.
    pub fn index<'u>(&self, unit: &'u Unit) -> &'u UnitIndex {
        unit.index(|| {
            let (index, is_whole) = index_unit(&self.sections, unit);
            self.required(is_whole.then_some(()));
            index
        })
    }

    fn listed(&self) -> &AddressTable {
        self.listed.get_or_init(|| {
            let size = self.sections.aranges.size();
            AddressTable::parse(&self.sections.aranges.read(0..size).unwrap_or_default())
        })
    }

    fn unlisted(&self) -> &AddressTable {
        self.unlisted.get_or_init(|| {
            let listed = self.listed();
            let starts = self.heads().map(|head| head.range.start);
            let mut table = AddressTable::default();
            for unit in starts
                .filter(|&start| !listed.has_unit(start))
                .filter_map(|start| self.unit(start))
            {
                match self.unit_ranges(&unit) {
                    _ if !unit.may_have_code() => {}
                    Some(ranges) => table.add(unit.start, ranges),
                    None => table.add_anywhere(unit.start),
                }
            }
            table.finish();
            table
        })
    }

    /// The addresses of a unit. `None` if it does not say.
    fn unit_ranges(&self, unit: &Unit) -> Option<Vec<Range<u64>>> {
        if let Some(value) = &unit.root.ranges {
            return self.sections.address_ranges(unit, value, MAX_RANGES);
        }
        let low = self.sections.address(unit, unit.root.low_pc.as_ref()?)?;
        let high = match unit.root.high_pc.as_ref()? {
            high @ (AttributeValue::Addr(_) | AttributeValue::DebugAddrIndex(_)) => {
                self.sections.address(unit, high)?
            }
            size => low.saturating_add(size.udata_value()?),
        };
        Some(std::iter::once(low..high).collect())
    }
}
