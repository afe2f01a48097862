//! Virtual machines for `cargo xtask boot` and the end-to-end tests: QEMU, OVMF and swtpm of the build root, so that they are locked like everything else.
//!
//! Both programs run in the sandbox with a folder of their own; images are shown to them read-only, what a guest writes goes to a throw-away overlay, unless a disk is named as kept.
//! What the TPM holds is computed from the commands that the emulator received ([`pcr`]), never from what the guest says. Dropping a [`Vm`] ends it.

pub mod console;
pub mod emulated_tpm;
mod ending;
mod error;
pub mod expected;
mod fw_cfg;
pub mod pcr;
mod qemu;
mod qtest;
pub mod shell;
mod tpm;
pub mod tpm_commands;
mod tpm_log;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

pub use console::{Console, Sink};
pub use ending::Ending;
pub use error::VmError;
pub use fw_cfg::FwCfg;
pub use qemu::Accelerator;
pub use tpm::{Tpm, TpmInterface};

use crate::sandbox::Sandbox;
use pcr::Pcrs;
use qtest::Qtest;

/// A machine shape.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub cpus: u32,
    /// The TPM, if it has one.
    pub tpm: Option<Tpm>,
    /// Raw disk images, in probe order; the firmware boots from the first.
    pub disks: Vec<PathBuf>,
    /// Raw disk images that keep what is written to them, attached after the others.
    pub kept_disks: Vec<PathBuf>,
    /// Whether it has a network card (user-mode; it reaches what the sandbox reaches).
    pub network: bool,
    /// Ports of the host's loopback that lead to ports of the guest.
    pub forwarded: Vec<(u16, u16)>,
    /// Its firmware; that of the build root if none is named.
    pub firmware: Option<FirmwareFiles>,
    /// Whether the host can look into it ([`Vm::fw_cfg`], [`Vm::search_memory`]).
    pub inspectable: bool,
    /// How instructions are executed.
    pub accelerator: Accelerator,
    /// Further arguments of QEMU, for example `-smbios` and `-fw_cfg`.
    pub extra: Vec<String>,
}

/// The two parts of an OVMF in flash.
#[derive(Clone, Debug)]
pub struct FirmwareFiles {
    /// Its code.
    pub code: PathBuf,
    /// The variable store that a machine begins with.
    pub variables: PathBuf,
}

impl Machine {
    /// 1 GiB, two CPUs, a TPM, no network card, this disk.
    pub fn with_disk(image: &Path) -> Self {
        Self {
            memory_mib: 1024,
            cpus: 2,
            tpm: Some(Tpm::default()),
            disks: vec![image.to_owned()],
            kept_disks: vec![],
            network: false,
            forwarded: vec![],
            firmware: None,
            inspectable: false,
            accelerator: Accelerator::Emulation,
            extra: vec![],
        }
    }
}

/// A running machine. Everything it consists of is killed when it is dropped.
pub struct Vm {
    console: Console,
    input: Option<ChildStdin>,
    qemu: Child,
    emulator: Option<tpm::Emulator>,
    started: Instant,
    // Removed after the processes above are gone.
    folder: tempfile::TempDir,
}

impl Vm {
    /// Powers a machine on. `sink` is called with whatever appears on its serial console.
    ///
    /// The machine dies with the calling thread, so the thread that starts it must be the one that waits for it.
    pub fn start(sandbox: &Sandbox, machine: &Machine, sink: Sink) -> Result<Self, VmError> {
        let folder = tempfile::Builder::new().prefix("cairn-vm-").tempdir().map_err(VmError::Folder)?;
        let inside = sandbox.clone().bind(folder.path(), qemu::FOLDER).env("TMPDIR", qemu::FOLDER);
        let emulator = machine.tpm.as_ref().map(|tpm| tpm::Emulator::start(&inside, folder.path(), tpm)).transpose()?;
        let errors = folder.path().join("qemu.stderr");
        let errors = std::fs::File::create(errors).map_err(VmError::Folder)?;
        let started = Instant::now();
        let mut qemu = qemu::command(&inside, machine)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(|source| VmError::Spawn { program: "QEMU", source })?;
        let input = qemu.stdin.take();
        let console = Console::read_from(qemu.stdout.take(), started, sink);
        Ok(Self { console, input, qemu, emulator, started, folder })
    }

    /// The serial console.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Time since power-on.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Types on the serial console.
    pub fn send(&mut self, text: &str) -> Result<(), VmError> {
        self.send_bytes(text.as_bytes())
    }

    /// Types bytes on the serial console.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), VmError> {
        let Some(input) = &mut self.input else { return Ok(()) };
        input.write_all(bytes).and_then(|()| input.flush()).map_err(VmError::Input)
    }

    /// Takes the input side of the serial console, for a thread that copies a terminal to it.
    pub fn take_input(&mut self) -> Option<ChildStdin> {
        self.input.take()
    }

    /// Waits until the machine has ended; `None` when it has not within `timeout`.
    pub fn wait_exit(&mut self, timeout: Duration) -> Result<Option<Ending>, VmError> {
        let deadline = Instant::now() + timeout;
        loop {
            let status = self.qemu.try_wait().map_err(|source| VmError::Wait { program: "QEMU", source })?;
            if let Some(status) = status {
                self.console.wait_closed(Duration::from_secs(5));
                let errors = std::fs::read(self.folder.path().join("qemu.stderr")).unwrap_or_default();
                return Ok(Some(Ending::judge(status, &self.console.text(), &String::from_utf8_lossy(&errors))));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            // The console closes when QEMU ends: no need to look often before.
            self.console.wait_closed(Duration::from_millis(100).min(deadline - Instant::now()));
        }
    }

    /// Copies the firmware's variables as they are now: a machine that begins with them goes on where this one ended.
    pub fn keep_variables(&self, to: &Path) -> Result<(), VmError> {
        std::fs::copy(self.folder.path().join(qemu::VARIABLE_STORE), to).map(drop).map_err(VmError::Folder)
    }

    /// The files that QEMU hands to the firmware, of a machine that is `inspectable`.
    pub fn fw_cfg(&self) -> Result<FwCfg, VmError> {
        self.qtest().map(FwCfg)
    }

    /// Which of these byte strings are anywhere in the first `length` bytes of the memory of a machine that is `inspectable`; each has at least one byte.
    pub fn search_memory(&self, length: u64, needles: &[&[u8]]) -> Result<Vec<bool>, VmError> {
        const PART: u64 = 8 << 20;
        let mut qtest = self.qtest()?;
        let longest = needles.iter().map(|needle| needle.len()).max().unwrap_or(0);
        let (mut found, mut window) = (vec![false; needles.len()], Vec::new());
        for address in (0..length).step_by(PART as usize) {
            window.extend(qtest.memory(address, PART.min(length - address)).map_err(VmError::Inspection)?);
            for (needle, found) in needles.iter().zip(&mut found) {
                *found |= memchr::memmem::find(&window, needle).is_some();
            }
            // What begins here may end in the next part.
            window.drain(..window.len().saturating_sub(longest));
        }
        Ok(found)
    }

    fn qtest(&self) -> Result<Qtest, VmError> {
        Qtest::connect(&self.folder.path().join(qtest::SOCKET)).map_err(VmError::Inspection)
    }

    /// Every state that the TPM's registers were in, from power-on to now.
    pub fn pcr_states(&self) -> Result<Vec<Pcrs>, VmError> {
        let emulator = self.emulator.as_ref().ok_or(VmError::NoTpm)?;
        emulator.states()
    }

    /// How many commands with this code (TPM 2.0 Library, Part 2, TPM_CC) the emulator has executed so far.
    pub fn tpm_command_count(&self, code: u32) -> Result<usize, VmError> {
        let emulator = self.emulator.as_ref().ok_or(VmError::NoTpm)?;
        emulator.command_count(code)
    }

    /// The TPM's registers, replayed from the commands that the emulator has executed so far.
    pub fn pcrs(&self) -> Result<Pcrs, VmError> {
        let emulator = self.emulator.as_ref().ok_or(VmError::NoTpm)?;
        emulator.pcrs()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Both may have ended already; there is nothing to do about a failure.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        drop(self.emulator.take());
        self.console.wait_closed(Duration::from_secs(2));
    }
}
