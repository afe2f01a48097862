//! A TPM emulator without a virtual machine: a swtpm of the build root whose data channel the host reaches, on a state folder that outlives it. What a machine's TPM is enrolled by is found out with it, too.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::VmError;
use super::pcr::Bank;
use super::qemu::FOLDER;
use super::tpm::{self, STATE};
use super::tpm_commands::TpmCommands;
use crate::sandbox::Sandbox;

/// Name of the state folder.
const TPM: &str = "tpm";
/// Configuration of swtpm_localca, its options, and configuration of swtpm_setup.
const AUTHORITY: &str = "localca.conf";
const OPTIONS: &str = "localca.options";
const SET_UP: &str = "setup.conf";
const DATA: &str = "data.sock";
const CONTROL: &str = "control.sock";
const ERRORS: &str = "swtpm.stderr";
const SOCKET_SECONDS: u64 = 30;
/// CMD_INIT of swtpm's control channel (swtpm_ioctls(3)): power off and on.
const INITIALISE: u32 = 2;

/// A running swtpm; killed when dropped, and with the thread that started it.
#[derive(Debug)]
pub struct EmulatedTpm {
    /// Takes its commands.
    pub commands: TpmCommands<UnixStream>,
    control: UnixStream,
    process: Child,
}

impl EmulatedTpm {
    /// Makes the state of a new TPM with these active banks, in the folder `tpm` of `folder`.
    ///
    /// # Errors
    /// [`VmError`].
    pub fn manufacture(sandbox: &Sandbox, folder: &Path, banks: &[Bank]) -> Result<(), VmError> {
        fs::create_dir(folder.join(TPM)).map_err(VmError::Folder)?;
        tpm::set_up(&inside(sandbox, folder), banks, &[])
    }

    /// The same, by an authority of its own (swtpm_localca), which leaves a certificate of the endorsement key in the TPM. Gives the path of the authority's certificate, PEM: a development PKI, whose word is worth nothing elsewhere.
    ///
    /// # Errors
    /// [`VmError`].
    pub fn manufacture_certified(sandbox: &Sandbox, folder: &Path, banks: &[Bank]) -> Result<PathBuf, VmError> {
        for (name, text) in [
            (
                AUTHORITY,
                format!(
                    "statedir = {FOLDER}/ca\nsigningkey = {FOLDER}/ca/key.pem\nissuercert = {FOLDER}/ca/issuer.pem\ncertserial = {FOLDER}/ca/serial\n"
                ),
            ),
            (OPTIONS, "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n".to_owned()),
            (
                SET_UP,
                format!(
                    "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {FOLDER}/{AUTHORITY}\ncreate_certs_tool_options = {FOLDER}/{OPTIONS}\n"
                ),
            ),
        ] {
            fs::write(folder.join(name), text).map_err(VmError::Folder)?;
        }
        for name in ["ca", TPM] {
            fs::create_dir(folder.join(name)).map_err(VmError::Folder)?;
        }
        let set_up = format!("{FOLDER}/{SET_UP}");
        tpm::set_up(&inside(sandbox, folder), banks, &["--config", &set_up, "--create-ek-cert"])?;
        Ok(folder.join("ca/issuer.pem"))
    }

    /// Powers on the TPM whose state is in the folder `tpm` of `folder`: a new boot.
    ///
    /// # Errors
    /// [`VmError`].
    pub fn start(sandbox: &Sandbox, folder: &Path) -> Result<Self, VmError> {
        for socket in [DATA, CONTROL] {
            // One that ended leaves its sockets.
            let _ = fs::remove_file(folder.join(socket));
        }
        let mut command = inside(sandbox, folder).command("swtpm");
        command.args(["socket", "--tpm2", "--tpmstate", &format!("dir={STATE}")]);
        command.args(["--server", &format!("type=unixio,path={FOLDER}/{DATA}")]);
        command.args(["--ctrl", &format!("type=unixio,path={FOLDER}/{CONTROL}")]);
        let errors = File::create(folder.join(ERRORS)).map_err(VmError::Folder)?;
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn();
        let process = spawned.map_err(|source| VmError::Spawn { program: "swtpm", source })?;
        let mut process = KilledOnError(Some(process));
        let control = process.connect(&folder.join(CONTROL), &folder.join(ERRORS))?;
        let data = process.connect(&folder.join(DATA), &folder.join(ERRORS))?;
        let process = process.0.take().ok_or(VmError::NoTpm)?;
        let mut tpm = Self { commands: TpmCommands::new(data), control, process };
        tpm.power_on()?;
        Ok(tpm)
    }

    /// Ends this boot and begins the next: registers are as after power-on, and the count of resets is one more.
    ///
    /// # Errors
    /// [`VmError`].
    pub fn reset(&mut self) -> Result<(), VmError> {
        self.commands.shutdown()?;
        self.power_on()
    }

    fn power_on(&mut self) -> Result<(), VmError> {
        let mut answer = [0; 4];
        // No flags.
        let message = [INITIALISE.to_be_bytes(), [0; 4]].concat();
        let exchanged = self.control.write_all(&message).and_then(|()| self.control.read_exact(&mut answer));
        exchanged.map_err(VmError::TpmControl)?;
        if answer != [0; 4] {
            return Err(VmError::TpmPower(u32::from_be_bytes(answer)));
        }
        Ok(self.commands.startup()?)
    }
}

impl Drop for EmulatedTpm {
    fn drop(&mut self) {
        // Without a shutdown the next boot counts as one after a power cut, which is no error.
        let _ = self.commands.shutdown();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// SHA-256 of the endorsement key's public area (TPMT_PUBLIC) of the TPM whose state is in the folder `tpm` of `folder`, which must not be running: what a node is enrolled by.
///
/// # Errors
/// [`VmError`].
pub fn endorsement_key_digest(sandbox: &Sandbox, folder: &Path) -> Result<[u8; 32], VmError> {
    let key = EmulatedTpm::start(sandbox, folder)?.commands.endorsement_key()?;
    Ok(Sha256::digest(key.area).into())
}

fn inside(sandbox: &Sandbox, folder: &Path) -> Sandbox {
    sandbox.clone().bind(folder, FOLDER).bind(&folder.join(TPM), STATE).env("TMPDIR", FOLDER)
}

/// A process that is not left behind where its sockets do not open.
struct KilledOnError(Option<Child>);

impl KilledOnError {
    fn connect(&mut self, socket: &Path, errors: &Path) -> Result<UnixStream, VmError> {
        let deadline = Instant::now() + Duration::from_secs(SOCKET_SECONDS);
        loop {
            if let Ok(stream) = UnixStream::connect(socket) {
                return Ok(stream);
            }
            let process = self.0.as_mut().ok_or(VmError::NoTpm)?;
            let ended = process.try_wait().map_err(|source| VmError::Wait { program: "swtpm", source })?;
            if let Some(status) = ended {
                let message = fs::read_to_string(errors).unwrap_or_default().trim().to_owned();
                return Err(VmError::Failed { program: "swtpm", status, message });
            }
            if Instant::now() > deadline {
                return Err(VmError::TpmSilent(SOCKET_SECONDS));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for KilledOnError {
    fn drop(&mut self) {
        if let Some(process) = &mut self.0 {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
