//! What can go wrong with a virtual machine besides what its guest does.

use std::path::PathBuf;
use std::process::ExitStatus;

/// The machine could not be started or examined. What the guest did is an [`super::Ending`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmError {
    /// No folder for the machine's own files.
    #[error("Failed to prepare the machine's temporary folder: {0}; is there room in TMPDIR?")]
    Folder(#[source] std::io::Error),
    /// A file of the build root is missing.
    #[error("Failed to read {path} of the build root: {source}; rebuild it with `cargo xtask build-image`")]
    Firmware {
        /// Path inside the build root.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A disk image is missing.
    #[error("Failed to open the disk image {path}: {source}")]
    Disk {
        /// The image.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A program did not start.
    #[error("Failed to start {program}: {source}")]
    Spawn {
        /// Which.
        program: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A program started and failed.
    #[error("{program} failed ({status}): {message}")]
    Failed {
        /// Which.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to standard error.
        message: String,
    },
    /// swtpm did not open its socket.
    #[error("swtpm did not open its control socket within {0} s: the machine is overloaded, or swtpm hangs")]
    TpmSilent(u64),
    /// swtpm's control channel was lost.
    #[error("Failed to talk to swtpm's control channel: {0}; has it ended?")]
    TpmControl(#[source] std::io::Error),
    /// The emulated TPM does not power on.
    #[error("swtpm did not power its TPM on: error 0x{0:x}; is its state folder whole, and used by no other swtpm?")]
    TpmPower(u32),
    /// The emulated TPM failed.
    #[error(transparent)]
    Tpm(#[from] super::tpm_commands::TpmError),
    /// Waiting for a program failed.
    #[error("Failed to wait for {program}: {source}")]
    Wait {
        /// Which.
        program: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The serial console does not take input.
    #[error("Failed to write to the serial console: {0}; the machine has probably ended")]
    Input(#[source] std::io::Error),
    /// The host cannot look into the machine.
    #[error("Failed to look into the machine by QEMU's qtest: {0}; has it ended?")]
    Inspection(#[source] std::io::Error),
    /// Registers were asked of a machine without TPM.
    #[error("the machine has no TPM")]
    NoTpm,
    /// The emulator's log cannot be replayed.
    #[error("Failed to replay the TPM emulator's command log: {0}")]
    Replay(#[from] super::pcr::ReplayError),
    /// The emulator's log cannot be read.
    #[error("Failed to read the TPM emulator's command log: {0}")]
    Log(#[source] std::io::Error),
}
