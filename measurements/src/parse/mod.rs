//! Parsers of everything that is measured. They take bytes, never paths; they are bounded by their input; they refuse what they do not understand.

pub(crate) mod bytes;
pub mod cel;
pub mod container;
pub mod disk_kind;
pub mod encoding;
pub mod fat;
pub mod fv;
pub mod gpt;
mod log_json;
mod log_kind;
pub mod pcrs;
pub mod pe;
pub mod smbios;
pub mod stub;
pub mod tcg_log;
pub mod uki;
pub mod variables;
