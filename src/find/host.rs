// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The local machine: its clock, processes, the dynamic loader, control groups, containers and users.

pub mod cgroups;
pub mod clock;
pub mod containers;
pub mod loader;
pub mod mountinfo;
pub mod object_file;
pub mod proc;
pub mod users;
