//! Where to look: the ELF files of programs and processes, and the functions in them.

pub mod abi;
pub mod container;
pub mod demangle;
pub mod dwarf;
pub mod elf;
pub mod loader;
pub mod prototypes;
pub mod symbolize;
pub mod target;
pub mod types;
pub mod users;
