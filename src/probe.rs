// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Probes: where they are placed, how they are attached, which processes they are for, and how events arrive.

pub mod attach;
pub mod called;
pub mod change_watcher;
pub mod child;
pub mod command;
pub mod counters;
pub mod cpu_clock;
pub mod event;
pub mod expr;
pub mod follow;
pub mod group_by;
pub mod hits;
pub mod links;
pub mod meter;
pub mod mmap_events;
pub mod point;
pub mod prices;
pub mod ring;
pub mod scope;
pub mod search;
pub mod self_test;
mod signal_forwarder;
pub mod signals;
pub mod task_offsets;
pub mod watcher;
