//! What a machine will measure, from files alone: bytes in, values out. No file is read here and no clock is asked.
//!
//! [`parse`] reads what is measured and the logs of it; [`boot`] is the model of a boot, as a list of events; [`tpm`] has one file for each register with the sentence of
//! the specification above the code that follows it. An unknown is an error or said to be unknown, never a number.

mod bank;
pub mod boot;
pub mod event;
pub mod explain;
pub mod machine;
#[cfg(test)]
mod mutations;
pub mod parse;
pub mod tpm;

pub use bank::Bank;
pub use event::{Event, Source};
