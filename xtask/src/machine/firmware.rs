//! Stage `firmware`: files of a locked firmware package, which is unpacked and never installed.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::config::FirmwareConfig;
use crate::build::sources::Sources;
use crate::build::stage::{Key, Stages};
use crate::checkout::Checkout;
use crate::lock::{Lock, Package};
use crate::progress::Progress;
use crate::store::Store;
use crate::vm::FirmwareFiles;

/// A firmware on this host.
#[derive(Clone, Debug)]
pub struct Firmware {
    /// Name and version of its package.
    pub package: String,
    /// The file that the VMM is given.
    pub code: PathBuf,
    /// The variable store beside it.
    pub variables: Option<PathBuf>,
}

impl Firmware {
    /// Fetches and unpacks it, or takes it from the cache.
    pub fn get(config: &FirmwareConfig, checkout: &Checkout, store: &Store, progress: &Progress) -> Result<Self> {
        let lock = Lock::read(&checkout.lock_path())?;
        let set = find(config, &lock)?.sets.first().cloned().context("A package without a set")?;
        let sources = Sources::get(checkout, &[&set], true, store, progress)?;
        let package = find(config, &sources.lock)?;
        let file = sources.files.get(&package.sha256).context("The firmware was not fetched")?;
        let made = Stages::new(store, progress).run(
            "firmware",
            Key::new("firmware", 1).digest("package", &package.sha256),
            |output| {
                let tree = output.join("tree");
                fs::create_dir(&tree).with_context(|| format!("Failed to make {}", tree.display()))?;
                crate::deb::unpack(file, &tree)
            },
        )?;
        let place = |path: &PathBuf| made.join("tree").join(path);
        Ok(Self {
            package: format!("{} {}", package.name, package.version),
            code: place(&config.code),
            variables: config.variables.as_ref().map(place),
        })
    }

    /// The bytes of the file that the VMM is given.
    pub fn read_code(&self) -> Result<Vec<u8>> {
        fs::read(&self.code).with_context(|| {
            format!("Failed to read the firmware {}: it is not in {}", self.code.display(), self.package)
        })
    }

    /// The bytes of the variable store.
    pub fn read_variables(&self) -> Result<Option<Vec<u8>>> {
        let Some(path) = &self.variables else { return Ok(None) };
        fs::read(path)
            .map(Some)
            .with_context(|| format!("Failed to read {}: it is not in {}", path.display(), self.package))
    }

    /// The two parts in flash.
    pub fn files(&self) -> Result<FirmwareFiles> {
        let variables = self.variables.clone().context("The machine has no variable store")?;
        Ok(FirmwareFiles { code: self.code.clone(), variables })
    }
}

fn find<'a>(config: &FirmwareConfig, lock: &'a Lock) -> Result<&'a Package> {
    let is = |package: &&Package| package.name == config.package && package.suite.starts_with(&config.suite);
    lock.packages.iter().find(is).with_context(|| {
        format!(
            "The lock has no package {} of {}: add it to os/image.toml and run `cargo xtask lock`",
            config.package, config.suite
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256Digest;
    use crate::lock::VERSION;

    #[test]
    fn a_firmware_that_is_not_locked_says_how_to_lock_it() {
        let lock = Lock { version: VERSION, inputs: Sha256Digest::of(b""), suites: vec![], packages: vec![] };
        let (package, suite) = ("ovmf-riscv64".to_owned(), "forky".to_owned());
        let config = FirmwareConfig { package, suite, code: "code.fd".into(), variables: None };
        let error = find(&config, &lock).unwrap_err().to_string();
        assert!(error.contains("ovmf-riscv64 of forky") && error.contains("cargo xtask lock"), "{error}");
    }

    #[test]
    fn a_file_that_its_package_does_not_have_is_named_with_the_package() {
        let place = |name: &str| PathBuf::from("/nonexistent").join(name);
        let firmware = Firmware { package: "ovmf 1".into(), code: place("CODE.fd"), variables: Some(place("VARS.fd")) };
        for error in [firmware.read_code().unwrap_err(), firmware.read_variables().unwrap_err()] {
            let error = error.to_string();
            assert!(error.contains("/nonexistent/") && error.contains("it is not in ovmf 1"), "{error}");
        }
        assert_eq!(Firmware { variables: None, ..firmware }.read_variables().unwrap(), None);
    }
}
