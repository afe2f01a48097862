//! Parsers of everything that is measured. They take bytes, never paths; they are bounded by their input; they refuse what they do not understand.

mod bytes;
pub mod cel;
pub mod fat;
pub mod fv;
pub mod gpt;
pub mod pcrs;
pub mod pe;
pub mod smbios;
pub mod tcg_log;
pub mod uki;
pub mod variables;
