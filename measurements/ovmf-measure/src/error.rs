use crate::Guid;

/// Why there is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The image cannot be mapped below 4 GiB.
    #[error(
        "the firmware image has {0} bytes; it must have a multiple of 4096, at least one page and at most 1 GiB: give a complete OVMF image, not a variable store"
    )]
    Size(usize),
    /// The table of GUIDs contradicts itself.
    #[error("the GUID table at the end of the firmware image is damaged: {0}")]
    Table(&'static str),
    /// No guest starts from this file, although a VMM measures it.
    #[error(
        "no guest can start from this file: {0}\nhint: give OVMF for x86-64: its complete image, or its code part (OVMF_CODE_4M.fd)"
    )]
    NotFirmware(&'static str),
    /// The firmware lacks what the mode needs.
    #[error(
        "the firmware has no entry {guid} ({what}): it was not built for this mode\nhint: give a complete OVMF image that was built for this mode (in Debian: ovmf-amdsev, ovmf-inteltdx)"
    )]
    NoEntry {
        /// Which entry.
        guid: Guid,
        /// What it is for.
        what: &'static str,
    },
    /// The metadata that an entry points to cannot be read.
    #[error("the {kind} metadata of the firmware cannot be read: {problem}")]
    Metadata {
        /// `SEV` or `TDX`.
        kind: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// A section that no VMM would load.
    #[error(
        "section {index} of the {kind} metadata ({size:#x} bytes at {address:#x}) is refused by the VMM: {problem}"
    )]
    Section {
        /// `SEV` or `TDX`.
        kind: &'static str,
        /// Position in the table, from 0.
        index: usize,
        /// Guest physical address.
        address: u64,
        /// Bytes.
        size: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// Kernel hashes were given, and the firmware does not check any.
    #[error(
        "a kernel was given, but this firmware does not verify kernel hashes: use one that does (in Debian: ovmf-amdsev), or boot from disk"
    )]
    NoKernelHashes,
    /// The area for kernel hashes is not what it should be.
    #[error("the firmware's area for kernel hashes is unusable: {0}")]
    HashArea(&'static str),
    /// A machine has at least one CPU.
    #[error("{0} virtual CPUs: at least 1 and at most 4096 are possible")]
    Cpus(u32),
}
