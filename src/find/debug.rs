//! What debug information says of functions: signatures, types, and where arguments are passed.

pub mod abi;
pub mod dwarf;
pub mod prototypes;
pub mod signatures;
pub mod types;
