//! Which files are searched, which functions they hold, and where in them probes are placed.

pub mod files;
pub mod functions;
pub mod placing;
