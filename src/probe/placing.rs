//! `--placement`: moves probes to instructions that the kernel need not step over. What is counted stays the same, as
//! `find::placement` sees to; the function is known by its cookie, not by the address of its probe.

use clap::ValueEnum;

use super::attach::Point;
use crate::find::elf::ElfFile;
use crate::find::placement::{Placement, Placer};

/// Where in a function its probe is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Placing {
    /// At its first instruction
    Entry,
    /// At the first instruction that costs little and sees the same
    Best,
}

/// Where the probe of a function went.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    pub cookie: u64,
    pub placement: Placement,
}

impl Placing {
    /// Moves those points of `elf` that may move. Returns where functions have their probes.
    pub fn place(self, elf: &ElfFile, points: &mut [Point]) -> Vec<Placed> {
        let mut placer = Placer::new(elf);
        let mut all = Vec::new();
        for point in points {
            let Some(addr) = elf.address_of(point.offset) else {
                continue;
            };
            let Some(movable) = point.movable else {
                point.stepped = placer.is_stepped(addr);
                continue;
            };
            let Some(placement) = placer.place(addr, movable.size, movable.needs) else {
                continue;
            };
            let placement = match self {
                Placing::Entry => placement.at_entry(),
                Placing::Best => placement,
            };
            point.offset += placement.ahead;
            point.stepped = placement.is_stepped();
            all.push(Placed {
                cookie: point.cookie,
                placement,
            });
        }
        all
    }
}
