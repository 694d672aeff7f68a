//! This machine: its processes, the dynamic loader, containers and users.

pub mod container;
pub mod loader;
pub mod proc;
pub mod users;
