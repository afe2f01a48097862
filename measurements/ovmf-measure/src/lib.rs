//! What a confidential virtual machine measures when it is launched, computed from its OVMF image.
//!
//! - AMD SEV, SEV-ES and SEV-SNP launch digests ([`sev`]): AMD Secure Encrypted Virtualization API, publications 55766 and 56860.
//! - Intel TDX MRTD ([`tdx`]): Intel TDX Module Base Architecture Specification, "Measurement and Attestation".
//!
//! Bytes in, digests out: no file is read, no clock is asked. An image or a machine that a VMM would refuse is an error here, not a digest
//! that no machine will ever have. No value was confirmed on hardware by this project; the sources of each are named beside the code.

mod bytes;
mod error;
pub mod firmware;
mod guid;
pub mod sev;
pub mod tdx;

pub use error::Error;
pub use firmware::Firmware;
pub use guid::Guid;

/// Size of a page.
pub const PAGE: usize = 4096;
