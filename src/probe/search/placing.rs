// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! `--placement`: moves probes to instructions that the kernel need not step over. What is counted stays the same, as
//! `find::placement` sees to; the function is known by its cookie, not by the address of its probe.

use clap::ValueEnum;

use crate::find::code::placement::{ProbePlacement, ProbedFunction, is_stepped, place_probes};
use crate::find::elf::ElfFile;
use crate::probe::point::{Cookie, ProbePoint};

/// Where in a function its probe is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlacementPolicy {
    /// At its first instruction
    Entry,
    /// At the first instruction that costs little and sees the same
    Best,
}

/// Where the probe of a function went.
#[derive(Clone, Copy, Debug)]
pub struct PlacedProbe {
    pub cookie: Cookie,
    pub placement: ProbePlacement,
}

impl PlacementPolicy {
    /// Moves the points of `elf` that may move, and marks those on instructions that the kernel single-steps. Returns
    /// where the probes of functions are. The caller must drop the points that would crash the program:
    /// [`ProbePlacement::is_misdecoded`].
    pub fn place(self, elf: &ElfFile, points: &mut [ProbePoint]) -> Vec<PlacedProbe> {
        let (mut movable, mut subjects) = (Vec::new(), Vec::new());
        for point in points {
            let Some(addr) = elf.address_of(point.offset) else {
                continue;
            };
            match point.movable {
                Some(known) => {
                    subjects.push(ProbedFunction {
                        addr,
                        size: known.size,
                        needs: known.needs,
                    });
                    movable.push(point);
                }
                None => point.stepped = is_stepped(elf, addr),
            }
        }
        let placements = place_probes(elf, &subjects).into_iter().zip(movable);
        let found = placements.filter_map(|(placement, point)| Some((placement?, point)));
        found
            .map(|(placement, point)| self.moved(point, placement))
            .collect()
    }

    fn moved(self, point: &mut ProbePoint, placement: ProbePlacement) -> PlacedProbe {
        let placement = match self {
            PlacementPolicy::Entry => placement.at_entry(),
            PlacementPolicy::Best => placement,
        };
        point.offset += placement.distance;
        point.stepped = placement.is_stepped();
        PlacedProbe {
            cookie: point.cookie,
            placement,
        }
    }
}
