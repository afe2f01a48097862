//! A node of a cluster: a virtual machine with a TPM, a state disk and a configured image of its own, which stay the same from boot to boot.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use attest::bytes::Bytes32;
use attest::cluster::{Hints, StaticNetwork};
use measurements::canonical::{self, Document};
use xtask::configure;
use xtask::machine::config::{FOLDER, MachineConfig};
use xtask::machine::firmware::Firmware;
use xtask::vm::console::Found;
use xtask::vm::emulated_tpm::{EmulatedTpm, endorsement_key_digest};
use xtask::vm::pcr::Bank;
use xtask::vm::{Ending, Machine, Tpm};

use crate::broker::Broker;
use crate::image::Image;
use crate::machine::{KnownMachine, checkout};
use crate::suite::Suite;
use crate::watch::{Verdict, Watched};

/// The machine of `measurements/machines` that every node is.
const MACHINE: &str = "q35-ovmf-2025.02-2cpus-1gib-node";
/// The host's loopback, as a guest behind QEMU's user networking sees it.
const HOST: &str = "10.0.2.2";
/// A blank state disk; it takes no room until it is written.
const DISK: u64 = 1 << 30;

/// The bundle that these nodes name as that of their release. There is none: what a node says of it decides nothing.
pub const NAMED: Bytes32 = Bytes32([7; 32]);

/// A node.
pub struct Node {
    /// Its name.
    pub name: String,
    folder: tempfile::TempDir,
    config: MachineConfig,
    firmware: Firmware,
    ek: String,
}

impl Node {
    /// A new TPM that the broker knows, a blank disk, and a copy of `image` that knows its cluster and finds the broker.
    pub fn new(suite: &Suite, name: &str, image: &Image, broker: &Broker) -> Result<Self> {
        Self::with_disk(suite, name, image, broker, DISK)
    }

    /// The same, with a TPM whose endorsement key an authority of its own has certified; the authority's certificate.
    pub fn certified(suite: &Suite, name: &str, image: &Image, broker: &Broker) -> Result<(Self, PathBuf)> {
        let mut authority = PathBuf::new();
        let node = Self::made(suite, name, image, broker, DISK, |folder| {
            authority = EmulatedTpm::manufacture_certified(&suite.sandbox, folder, &Bank::ALL)?;
            Ok(())
        })?;
        Ok((node, authority))
    }

    /// The same as [`Self::new`], with a disk of so many bytes.
    pub fn with_disk(suite: &Suite, name: &str, image: &Image, broker: &Broker, disk: u64) -> Result<Self> {
        let manufacture = |folder: &Path| Ok(EmulatedTpm::manufacture(&suite.sandbox, folder, &Bank::ALL)?);
        Self::made(suite, name, image, broker, disk, manufacture)
    }

    fn made(
        suite: &Suite,
        name: &str,
        image: &Image,
        broker: &Broker,
        disk: u64,
        manufacture: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("cairn-node-").tempdir().context("Failed to make a folder")?;
        let known = KnownMachine::get(MACHINE)?;
        let firmware = known.firmware()?;
        manufacture(folder.path())?;
        let ek = hex::encode(endorsement_key_digest(&suite.sandbox, folder.path())?);
        let node = Self { name: name.to_owned(), folder, config: known.config, firmware, ek };
        File::create_new(node.disk()).and_then(|file| file.set_len(disk)).context("Failed to make a state disk")?;
        node.configure(&image.file("raw"), &broker.cluster()?, broker.port()?)?;
        broker.enrol(name, node.endorsement_key(), &Self::machine_reference()?)?;
        Ok(node)
    }

    /// Puts another image into the node, or the same one for another broker.
    pub fn configure(&self, image: &Path, cluster: &[u8], port: u16) -> Result<()> {
        self.configure_network(image, cluster, &[port], None)
    }

    /// The same, with several brokers on ports of the host's loopback, and a static address.
    pub fn configure_network(
        &self,
        image: &Path,
        cluster: &[u8],
        ports: &[u16],
        network: Option<StaticNetwork>,
    ) -> Result<()> {
        let brokers = ports.iter().map(|port| format!("{HOST}:{port}")).collect();
        let hints = Hints { brokers, network, release: Some(NAMED), schema: Hints::SCHEMA.into() };
        let hints = canonical::write(&hints)?;
        if self.image().exists() {
            fs::remove_file(self.image()).context("Failed to remove the old image")?;
        }
        configure::write(image, cluster, Some(&hints), &self.image())
    }

    /// Its image.
    pub fn image(&self) -> PathBuf {
        self.folder.path().join("image.raw")
    }

    /// Its state disk.
    pub fn disk(&self) -> PathBuf {
        self.folder.path().join("state.raw")
    }

    fn tpm(&self) -> PathBuf {
        self.folder.path().join("tpm")
    }

    /// SHA-256 of its endorsement key's public area, in hexadecimal.
    pub fn endorsement_key(&self) -> &str {
        &self.ek
    }

    /// The reference of its machine.
    pub fn machine_reference() -> Result<PathBuf> {
        Ok(checkout()?.join(FOLDER).join(format!("{MACHINE}.machine.json")))
    }

    /// The machine, with this disk as its state disk.
    pub fn machine(&self, disk: &Path) -> Result<Machine> {
        let machine = self.config.machine(&self.image(), &self.firmware)?;
        let tpm = machine.tpm.clone().map(|tpm| Tpm { state: Some(self.tpm()), ..tpm });
        Ok(Machine { tpm, kept_disks: vec![disk.to_owned()], ..machine })
    }

    /// Powers it on; `row` names the transcript.
    pub fn boot(&self, suite: &Suite, row: &str) -> Result<Watched> {
        Watched::start(suite, row, &self.machine(&self.disk())?)
    }

    /// Boots to the running system.
    pub fn must_run(&self, suite: &Suite, row: &str) -> Result<Watched> {
        let mut watched = self.boot(suite, row)?;
        watched.must_run()?;
        Ok(watched)
    }

    /// Boots until the disk is open and the broker has acknowledged it, without waiting for systemd.
    pub fn must_open(&self, suite: &Suite, row: &str) -> Result<Watched> {
        let mut watched = self.boot(suite, row)?;
        watched.must_hand_over()?;
        Ok(watched)
    }

    /// Boots, and must end with this code; the line that says so.
    pub fn must_fail(&self, suite: &Suite, row: &str, code: &str) -> Result<String> {
        self.must_fail_as(suite, row, &self.machine(&self.disk())?, code)
    }

    /// Boots as this machine, and must end with this code; the line that says so.
    pub fn must_fail_as(&self, suite: &Suite, row: &str, machine: &Machine, code: &str) -> Result<String> {
        let mut watched = Watched::start(suite, row, machine)?;
        match watched.verdict()? {
            Verdict::Ended(Ending::Failed { code: found, line }) => {
                ensure!(found == code, "the boot ended with {found}, not {code}{}", watched.last_lines());
                Ok(line)
            }
            other => anyhow::bail!("the boot did not end with {code}: {other:?}{}", watched.last_lines()),
        }
    }

    /// Boots, and loses power as soon as the console shows `text`.
    pub fn cut_at(&self, suite: &Suite, row: &str, text: &str) -> Result<()> {
        let watched = self.boot(suite, row)?;
        let ends = [text, "cairn: FAILED code=", "Kernel panic - not syncing"];
        match watched.vm.console().wait_for(&ends, 0, std::time::Duration::from_secs(300)) {
            Found::Text(0, _) => Ok(()),
            _ => anyhow::bail!("the console never showed {text:?}{}", watched.last_lines()),
        }
    }

    /// A copy of the state disk as it is now.
    pub fn copy_disk(&self, name: &str) -> Result<PathBuf> {
        let copy = self.folder.path().join(name);
        if copy.exists() {
            fs::remove_file(&copy).context("Failed to remove an old copy")?;
        }
        cairn_image::disk::copy_file(&self.disk(), &copy)?;
        Ok(copy)
    }

    /// Puts a copy in the place of the state disk.
    pub fn put_back(&self, copy: &Path) -> Result<()> {
        fs::remove_file(self.disk()).context("Failed to remove the disk")?;
        cairn_image::disk::copy_file(copy, &self.disk())?;
        Ok(())
    }
}

/// The request that a refused node names on its last line.
pub fn request(line: &str) -> Result<String> {
    let is_request = |word: &&str| word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let word = line.split(|character: char| !character.is_ascii_alphanumeric()).find(is_request);
    word.map(str::to_owned).with_context(|| format!("the node names no request: {line}"))
}
