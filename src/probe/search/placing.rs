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

impl PlacementPolicy {
    /// Moves the points of `elf` that may move, and marks those on instructions that the kernel single-steps.
    /// `on_placed` gets the place of each function's probe. The caller must drop the points that would crash the
    /// program: [`ProbePlacement::is_misdecoded`].
    pub fn place(
        self,
        elf: &ElfFile,
        points: &mut [ProbePoint],
        mut on_placed: impl FnMut(Cookie, ProbePlacement),
    ) {
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
                        repeats: point.cookie.is_repeated_entry(),
                    });
                    movable.push(point);
                }
                None => point.stepped = is_stepped(elf, addr),
            }
        }
        for (placement, point) in place_probes(elf, &subjects).into_iter().zip(movable) {
            if let Some(placement) = placement {
                on_placed(point.cookie, self.moved(point, placement));
            }
        }
    }

    fn moved(self, point: &mut ProbePoint, placement: ProbePlacement) -> ProbePlacement {
        let placement = match self {
            PlacementPolicy::Entry => placement.at_entry(),
            PlacementPolicy::Best => placement,
        };
        point.offset += placement.distance;
        point.stepped = placement.is_stepped();
        placement
    }
}
