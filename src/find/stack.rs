// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Stacks: addresses as names.

pub mod symbolize;
