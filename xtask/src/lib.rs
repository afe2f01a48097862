//! Builds, boots and tests Cairn images: the library behind `cargo xtask`.
//!
//! A build is a straight line of stages (see [`build`]), each a function from named inputs to named outputs. This
//! library gathers inputs and runs tools; the formats are written by `cairn-image`.

pub mod bench;
pub mod boot;
pub mod build;
pub mod checkout;
pub mod cli;
pub mod config;
pub mod configure;
pub mod deb;
pub mod difference;
pub mod digest;
pub mod fetch;
pub mod host;
pub mod interrupt;
pub mod lock;
pub mod log_server;
pub mod machine;
pub mod mirror;
pub mod mutants;
pub mod neighbours;
pub mod package;
pub mod progress;
pub mod published;
pub mod rebuild;
pub mod release;
pub mod repository;
pub mod sandbox;
pub mod store;
pub mod test;
pub mod time;
pub mod vm;
