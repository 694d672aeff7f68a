//! Where to look: the ELF files of programs and processes, and the functions in them.

pub mod abi;
pub mod container;
pub mod demangle;
pub mod dwarf;
pub mod elf;
pub mod functions;
pub mod ifunc;
pub mod instructions;
pub mod loader;
pub mod placement;
pub mod places;
pub mod prototypes;
pub mod signatures;
pub mod similar;
pub mod spec;
pub mod symbolize;
pub mod target;
pub mod types;
pub mod usdt;
pub mod users;
