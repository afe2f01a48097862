//! A release is booted before anybody else can: it must reach its last target, and the TPM emulator must hold in every register what was predicted for this machine.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use measurements::boot::Point;
use measurements::compose::{Configuration, compose};
use measurements::document::image::ImageReference;
use measurements::document::machine::MachineReference;
use serde::{Deserialize, Serialize};

use crate::checkout::Checkout;
use crate::difference::Outputs;
use crate::machine::config::FOLDER;
use crate::progress::Progress;
use crate::sandbox::Sandbox;
use crate::vm::console::Found;
use crate::vm::expected::same_registers;
use crate::vm::{Accelerator, Machine, Vm};

/// The machine that [`Machine::with_disk`] is.
const MACHINE: &str = "q35-ovmf-2025.02-2cpus-1gib";
const SWITCH: &str = "handing over after ";
const LAST: &str = "multi-user";
const PATIENCE: Duration = Duration::from_secs(600);
/// The last phase is measured about when the last target is reached.
const SETTLES: Duration = Duration::from_secs(120);

/// How a release booted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// `kvm` or `emulated`.
    pub accelerator: String,
    /// Name of the machine reference.
    pub machine: String,
    /// From power-on to the last target, milliseconds.
    pub multi_user_ms: u64,
    /// SHA-256 of the raw disk that was booted.
    pub raw: String,
    /// From PID 1 to the switch to the verified root, milliseconds, as the agent says.
    pub switch_root_ms: u64,
}

/// Boots the image, unless these very bytes were booted before.
pub fn of(checkout: &Checkout, sandbox: &Sandbox, outputs: &Outputs, progress: &Progress) -> Result<Trial> {
    let path = outputs.file("trial.json");
    let reference = ImageReference::parse(&outputs.read("reference.json")?)
        .with_context(|| format!("{} is not understood", outputs.file("reference.json").display()))?;
    let kept = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Trial>(&bytes).ok());
    if let Some(kept) = kept.filter(|kept| kept.raw == reference.raw.sha256) {
        progress.note("it was booted before");
        return Ok(kept);
    }
    let trial = boot(checkout, sandbox, outputs, &reference)
        .with_context(|| format!("{} was tried and is not released", outputs.file("raw").display()))?;
    fs::write(&path, crate::build::document::canonical(&trial)?)
        .with_context(|| format!("Failed to write {}", path.display()))?;
    Ok(trial)
}

fn boot(checkout: &Checkout, sandbox: &Sandbox, outputs: &Outputs, reference: &ImageReference) -> Result<Trial> {
    let file = checkout.join(FOLDER).join(format!("{MACHINE}.machine.json"));
    let bytes = fs::read(&file).with_context(|| format!("Failed to read {}", file.display()))?;
    let machine = MachineReference::parse(&bytes).with_context(|| file.display().to_string())?;
    let predicted = compose(&reference.measured()?, &machine.machine()?, &Configuration::Stateless)?;

    let accelerator = Accelerator::detect(sandbox);
    let shape = Machine { accelerator, ..Machine::with_disk(&outputs.file("raw")) };
    let vm = Vm::start(sandbox, &shape, Box::new(|_, _| {}))?;
    for text in [SWITCH, LAST] {
        if !matches!(vm.console().wait_for(&[text], 0, PATIENCE), Found::Text(..)) {
            bail!("The console did not show {text:?}:\n{}", vm.console().transcript());
        }
    }
    let multi_user = vm.elapsed();
    let text = vm.console().text();
    let switch_root = text.split_once(SWITCH).and_then(|(_, rest)| rest.split_once(" ms")?.0.parse().ok());
    let deadline = Instant::now() + SETTLES;
    while let Err(error) = same_registers(&predicted, Point::Running, &vm.pcrs()?) {
        if Instant::now() > deadline {
            let advice = "`cargo xtask explain` with the log of this machine names what differs";
            return Err(error.context(format!("It booted, and measured something else than was predicted: {advice}")));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(Trial {
        accelerator: if accelerator == Accelerator::Kvm { "kvm" } else { "emulated" }.into(),
        machine: MACHINE.into(),
        multi_user_ms: u64::try_from(multi_user.as_millis()).unwrap_or(u64::MAX),
        raw: reference.raw.sha256.clone(),
        switch_root_ms: switch_root.context("The agent names no time")?,
    })
}
