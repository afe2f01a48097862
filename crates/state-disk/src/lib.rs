//! The state disk: what its LUKS2 header must be before anything of it is used, and how the disk is laid out.
//!
//! A header is the host's to write, so it is an attack until it was compared: its digest first, then, strictly, every field of it ([`header`]). Only a [`header::Checked`] is handed to libcryptsetup, which is more
//! generous. No disk is read here: the header comes as bytes that were read once.

pub mod filesystem;
pub mod generation;
pub mod header;
pub mod id;
mod json;
pub mod keys;
pub mod layout;
pub mod record;
pub mod recovery;
pub mod statement;
pub mod superblock;
pub mod unfinished;
