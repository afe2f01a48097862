//! Releases in public logs: what is said of a release, how it is logged, and how anybody verifies that without a network. Nothing is read or written here, and no clock is asked.
//!
//! [`statement`] says what is published; [`bundle`] is a statement with its signature and its proof; [`verify`] is the chain of checks over all of it, each with one [`Code`]; [`trust_root`] is whom a verifier
//! believes; [`air_gap`] is all of these in one file. Below them are Merkle trees ([`tree`], [`proof`]; RFC 6962) and signed heads ([`checkpoint`]; C2SP tlog-checkpoint), which audit logs have, too.

pub mod air_gap;
pub mod bundle;
pub mod checkpoint;
mod code;
pub mod entry;
pub mod key;
pub mod monitor;
pub mod proof;
pub mod statement;
pub mod tiles;
pub mod time;
pub mod timestamp;
pub mod tree;
pub mod trust_root;
pub mod verifier_key;
pub mod verify;

pub use code::{Code, Refusal};
