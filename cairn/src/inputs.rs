//! Files that several commands take.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use attest::cluster::Cluster;
use clap::{Args, ValueEnum};
use measurements::boot::{self, BootMethod, Image, Machine, Measured};
use measurements::compose::Configuration;
use measurements::document::image::ImageReference;
use measurements::document::machine::MachineReference;
use measurements::event::SecureBoot;

/// What is known of the machine.
#[derive(Args)]
pub struct MachineArgs {
    /// How the machine starts a UKI that is given alone; default: not known
    #[arg(long, value_name = "METHOD", conflicts_with = "machine")]
    boot: Option<Boot>,
    /// Whether the firmware verifies images; default: as --firmware and --variables say, else not known
    #[arg(long, value_name = "STATE", conflicts_with = "machine")]
    secure_boot: Option<Verification>,
    /// The machine's OVMF image, or its code part (q35): PCR 0 becomes known, too
    #[arg(long, value_name = "FILE", conflicts_with = "machine")]
    firmware: Option<PathBuf>,
    /// The machine's variable store, beside the code part of its firmware: PCR 7 becomes known, too
    #[arg(long, value_name = "FILE", requires = "firmware")]
    variables: Option<PathBuf>,
    /// Machine reference (`measurements/machines/*.machine.json`): every register becomes known
    #[arg(long, value_name = "FILE")]
    machine: Option<PathBuf>,
    /// The cluster's configuration (`cluster.json`); without it, the node belongs to no cluster
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
}

/// How a machine starts an image.
#[derive(Clone, Copy, ValueEnum)]
enum Boot {
    /// The firmware finds it on a disk
    Disk,
    /// The VMM hands it over (`-kernel` of QEMU)
    Kernel,
}

/// Whether the firmware verifies images.
#[derive(Clone, Copy, ValueEnum)]
enum Verification {
    /// It starts every image
    Off,
    /// It starts images that its variable `db` allows
    On,
}

impl MachineArgs {
    /// The machine, of which nothing is known where no file is given.
    pub fn read(&self) -> Result<Machine> {
        if let Some(path) = &self.machine {
            return read_machine(path);
        }
        let machine = match &self.firmware {
            Some(path) => {
                let read = |path: &Path| input_file::read(path, MAX_FIRMWARE_BYTES);
                let store = self.variables.as_deref().map(read).transpose()?;
                let machine = Machine::with_firmware(&read(path)?, store.as_deref());
                machine.map_err(|error| {
                    let path = about(&error, path, self.variables.as_deref()).to_owned();
                    anyhow::Error::new(error).context(unusable(&path))
                })?
            }
            None => Machine::unknown(),
        };
        let machine = match self.boot {
            Some(Boot::Disk) => machine.booting(BootMethod::Disk),
            Some(Boot::Kernel) => machine.booting(BootMethod::Kernel),
            None => machine,
        };
        Ok(match self.secure_boot {
            Some(Verification::Off) => machine.with_secure_boot(SecureBoot::Off),
            Some(Verification::On) => machine.with_secure_boot(SecureBoot::On),
            None => machine,
        })
    }

    /// The cluster's file, where one is named.
    pub fn cluster(&self) -> Option<&Path> {
        self.cluster.as_deref()
    }

    /// The configuration.
    pub fn configuration(&self) -> Result<Configuration> {
        let Some(path) = &self.cluster else { return Ok(Configuration::Stateless) };
        let bytes = read(path)?;
        // A node with any other file there ends its boot.
        if let Err(refusal) = Cluster::read(&bytes) {
            let kind = input_file::Kind::of(&bytes);
            anyhow::bail!(
                "{} is not a cluster.json: it is {kind}; {}\nhint: name the cluster.json that `key-broker init` created",
                path.display(),
                refusal.found
            );
        }
        Ok(Configuration::cluster(&bytes))
    }
}

/// The file that an error is about.
fn about<'a>(error: &boot::Error, code: &'a Path, store: Option<&'a Path>) -> &'a Path {
    match (error, store) {
        (boot::Error::Variables(_), Some(store)) => store,
        _ => code,
    }
}

/// A machine reference.
pub fn read_machine(path: &Path) -> Result<Machine> {
    let reference = MachineReference::parse(&read(path)?).with_context(|| unusable(path))?;
    reference.machine().with_context(|| unusable(path))
}

/// What is known of an image: its reference too, where that was given.
pub struct ImageFile {
    /// What is measured of it.
    pub measured: Measured,
    /// The document.
    pub reference: Option<ImageReference>,
    /// Whether firmware and stub load nothing but the UKI.
    is_uki_alone: bool,
}

impl ImageFile {
    /// What is measured of it on this machine.
    ///
    /// # Errors
    /// The VMM starts a UKI without anything that stands beside it on a disk.
    pub fn on(&self, machine: &Machine) -> Result<&Measured> {
        let hint = "hint: give the UKI in place of the disk";
        anyhow::ensure!(
            self.is_uki_alone || !machine.is_started_by_vmm(),
            "cannot predict a direct boot: the disk has a boot loader or files beside the UKI, which a direct boot does not load\n{hint}"
        );
        Ok(&self.measured)
    }
}

/// A raw disk, a UKI, or an image reference.
pub fn read_image(path: &Path) -> Result<ImageFile> {
    let bytes = input_file::read_disk(path, MAX_IMAGE_BYTES)?;
    if bytes.starts_with(b"{") {
        let reference = ImageReference::parse(&bytes).with_context(|| unusable(path))?;
        let measured = reference.measured().with_context(|| unusable(path))?;
        return Ok(ImageFile { measured, reference: Some(reference), is_uki_alone: true });
    }
    let unusable = || format!("Nothing can be predicted from {}", path.display());
    let image = Image::parse(&bytes).with_context(unusable)?;
    let measured = image.measured().with_context(unusable)?;
    Ok(ImageFile { measured, reference: None, is_uki_alone: image.is_uki_alone() })
}

/// What stands before the reason why a file is refused.
pub fn unusable(path: &Path) -> String {
    format!("{} cannot be used", path.display())
}

/// Maximum size of documents, logs and keys; of canonical documents the reader has the same limit.
const MAX_DOCUMENT_BYTES: u64 = 16 << 20;
/// Maximum size of firmware images and variable stores: the largest flash of OVMF is 16 MiB.
const MAX_FIRMWARE_BYTES: u64 = 64 << 20;
/// Maximum size of a disk or UKI, all of which is read into memory.
const MAX_IMAGE_BYTES: u64 = 4 << 30;

/// Reads a document, a log or a key.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    Ok(input_file::read(path, MAX_DOCUMENT_BYTES)?)
}

#[cfg(test)]
mod tests {
    use measurements::parse::variables;

    use super::*;

    fn args(cluster: Option<PathBuf>, firmware: Option<PathBuf>, variables: Option<PathBuf>) -> MachineArgs {
        MachineArgs { boot: None, secure_boot: None, firmware, variables, machine: None, cluster }
    }

    #[test]
    fn file_that_is_no_cluster_is_no_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.json");
        for content in [&b"<html>404 Not Found</html>"[..], b"", b"MZ", b"{\"schema\":\"cairn.cluster/1\"}\n"] {
            std::fs::write(&path, content).unwrap();
            let error = args(Some(path.clone()), None, None).configuration().expect_err("it is a configuration");
            let text = format!("{error:#}");
            assert!(text.contains("is not a cluster.json") && text.contains("key-broker init"), "{text}");
        }
        assert!(args(None, None, None).configuration().is_ok());
    }

    #[test]
    fn file_that_an_error_is_about_is_named() {
        let [code, store] = [Path::new("code.fd"), Path::new("store.fd")];
        let of_the_store = boot::Error::Variables(variables::Error::Missing);
        assert_eq!(about(&of_the_store, code, Some(store)), store);
        // A whole image has its store in itself.
        assert_eq!(about(&of_the_store, code, None), code);
        assert_eq!(about(&boot::Error::SecureBoot("x"), code, Some(store)), code);
    }
}
