//! WATCH: who is seen, where the probes sit, and how events arrive. Knows BPF and files, no tool and no terminal.

pub mod attach;
pub mod command;
pub mod cost;
pub mod event;
pub mod expr;
pub mod filter;
pub mod follow;
pub mod functions;
pub mod group;
pub mod guard;
pub mod matching;
pub mod newcomers;
pub mod placing;
pub mod plans;
pub mod ring;
pub mod scope;
pub mod session;
pub mod signals;
pub mod targets;
pub mod trap;
pub mod trial;
pub mod watch;
