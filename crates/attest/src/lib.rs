//! Evidence and its verification, shared by whoever sends it and whoever believes it (RFC 9334: attester and verifier). No file is read here, no clock is asked, no random number is made.
//!
//! Verification is a chain of small checks, cheap ones first, each with one [`Code`]. What has been checked is a type: a `tpm::AttestationKey` has the attributes of one, a `tpm::Quoted` was signed by
//! it over the expected binding and registers. What is made of registers is a `policy` over predictions of `measurements`.

#[cfg(feature = "verifier")]
pub mod adoption;
pub mod binding;
pub mod cluster;
mod code;
pub mod hpke;
pub mod message;
#[cfg(feature = "verifier")]
pub mod policy;
pub mod recovery;
pub mod runtime;
#[cfg(feature = "snp")]
pub mod snp;
#[cfg(feature = "verifier")]
pub mod tpm;

pub use code::{Code, Refusal};
pub use measurements::bytes;
