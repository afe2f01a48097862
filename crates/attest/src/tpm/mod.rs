//! What a TPM says, parsed and checked without libtss2: public areas, quotes and their signatures (TCG TPM 2.0 Library, Part 2: Structures).

mod certificate;
mod credential;
mod public;
pub(crate) mod quote;
mod reader;

pub use certificate::certified;
pub use credential::{Challenge, EndorsementKey, Randomness};
pub use public::{AttestationKey, Name};
pub use quote::{BootId, Evidence, Quoted, check};
