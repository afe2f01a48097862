//! What a machine will measure, from files alone: bytes in, values out. No file is read here and no clock is asked.
//!
//! [`parse`] reads what is measured and the logs of it; [`boot`] reads what an image and a machine bring; [`compose()`](compose::compose) is the model of a boot, as a list of events; [`document`] keeps predictions as files; [`tpm`] has one file for each register with the sentence of
//! the specification above the code that follows it. An unknown is an error or said to be unknown, never a number.

mod archive;
mod bank;
pub mod boot;
pub mod bytes;
pub mod canonical;
pub mod compose;
pub mod document;
pub mod event;
pub mod explain;
#[cfg(test)]
mod mutations;
pub mod parse;
pub mod text;
pub mod tpm;

pub use bank::Bank;
pub use event::{Event, Source};
