//! The TPM emulator: a swtpm of the build root with a state of its own, which writes every command and response into a log.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::VmError;
use super::pcr::{Bank, Pcrs, ReplayError};
use super::qemu::FOLDER;
use super::tpm_log;
use crate::sandbox::Sandbox;

/// Name of the control socket in the machine's folder.
pub(super) const SOCKET: &str = "tpm.sock";
const LOG: &str = "tpm.log";
/// Where its state is inside the sandbox.
pub(super) const STATE: &str = "/tmp/tpm-state";
const SOCKET_SECONDS: u64 = 30;

/// How the guest reaches the TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TpmInterface {
    /// Command response buffer.
    Crb,
    /// TPM interface specification (FIFO).
    Tis,
}

impl TpmInterface {
    pub(super) fn device(self) -> &'static str {
        match self {
            Self::Crb => "tpm-crb",
            Self::Tis => "tpm-tis",
        }
    }
}

/// A TPM 2.0.
#[derive(Clone, Debug)]
pub struct Tpm {
    /// How the guest reaches it.
    pub interface: TpmInterface,
    /// The active banks.
    pub banks: Vec<Bank>,
    /// Folder with its state, which is made there if the folder is empty: the same TPM at every power-on. Without one it is new at each.
    pub state: Option<PathBuf>,
}

impl Default for Tpm {
    fn default() -> Self {
        Self { interface: TpmInterface::Crb, banks: vec![Bank::Sha256, Bank::Sha384], state: None }
    }
}

/// A running swtpm; killed when dropped.
pub(super) struct Emulator {
    process: Child,
    log: PathBuf,
    banks: Vec<Bank>,
}

impl Emulator {
    /// Starts the emulator on the TPM's state, or on a new one in `folder`, which `inside` shows at [`FOLDER`].
    pub(super) fn start(inside: &Sandbox, folder: &Path, tpm: &Tpm) -> Result<Self, VmError> {
        let state = tpm.state.clone().unwrap_or_else(|| folder.join("tpm"));
        fs::create_dir_all(&state).map_err(VmError::Folder)?;
        let inside = inside.clone().bind(&state, STATE);
        if fs::read_dir(&state).map_err(VmError::Folder)?.next().is_none() {
            set_up(&inside, &tpm.banks, &[])?;
        }
        let mut command = inside.command("swtpm");
        command.args(["socket", "--tpm2", "--tpmstate", &format!("dir={STATE}")]);
        command.args(["--ctrl", &format!("type=unixio,path={FOLDER}/{SOCKET}")]);
        command.args(["--log", &format!("file={FOLDER}/{LOG},level=20"), "--terminate"]);
        let errors = folder.join("swtpm.stderr");
        let stderr = fs::File::create(&errors).map_err(VmError::Folder)?;
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn();
        let process = process.map_err(|source| VmError::Spawn { program: "swtpm", source })?;
        let mut emulator = Self { process, log: folder.join(LOG), banks: tpm.banks.clone() };
        emulator.wait_for_socket(&folder.join(SOCKET), &errors)?;
        Ok(emulator)
    }

    fn wait_for_socket(&mut self, socket: &Path, errors: &Path) -> Result<(), VmError> {
        let deadline = Instant::now() + Duration::from_secs(SOCKET_SECONDS);
        while !socket.exists() {
            let ended = self.process.try_wait().map_err(|source| VmError::Wait { program: "swtpm", source })?;
            if let Some(status) = ended {
                let message = fs::read_to_string(errors).unwrap_or_default().trim().to_owned();
                return Err(VmError::Failed { program: "swtpm", status, message });
            }
            if Instant::now() > deadline {
                return Err(VmError::TpmSilent(SOCKET_SECONDS));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Every state that the registers were in so far.
    pub(super) fn states(&self) -> Result<Vec<Pcrs>, VmError> {
        let log = fs::read_to_string(&self.log).map_err(VmError::Log)?;
        Ok(Pcrs::states(&log, &self.banks)?)
    }

    /// Commands with this code so far.
    pub(super) fn command_count(&self, code: u32) -> Result<usize, VmError> {
        let log = fs::read_to_string(&self.log).map_err(VmError::Log)?;
        Ok(tpm_log::command_count(&log, code).map_err(ReplayError::from)?)
    }

    /// The registers after all commands so far.
    pub(super) fn pcrs(&self) -> Result<Pcrs, VmError> {
        let log = fs::read_to_string(&self.log).map_err(VmError::Log)?;
        Ok(Pcrs::replay(&log, &self.banks)?)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Manufactures a TPM with these active banks; `more` are further options of swtpm_setup.
pub(super) fn set_up(inside: &Sandbox, banks: &[Bank], more: &[&str]) -> Result<(), VmError> {
    let names: Vec<&str> = banks.iter().map(|bank| bank.name()).collect();
    let mut command = inside.command("swtpm_setup");
    command.args(["--tpm2", "--tpmstate", STATE, "--pcr-banks", &names.join(",")]).args(more);
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|source| VmError::Spawn { program: "swtpm_setup", source })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned();
    Err(VmError::Failed { program: "swtpm_setup", status: output.status, message })
}
