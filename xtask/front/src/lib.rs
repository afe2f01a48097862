//! The front of `cargo xtask`: compiles the program that a command needs, and no more, and reports it from the first second.
//!
//! This crate depends on the standard library only: cargo compiles it within a second, also in an empty `target/`. The
//! compilation of everything else is started here, where its progress can be printed. `xtask` uses the same functions for the
//! programs of the workspace that it starts.

pub mod cause;
pub mod compile;
pub mod program;
pub mod progress;
