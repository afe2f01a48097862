//! Stage `agent-crates`: the compiled crates of other projects that the agent depends on, so that a change of the agent compiles only crates of this workspace. These are never kept: cargo tells whether one has changed by the times of its files,
//! which say nothing between two checkouts.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::agent::INPUTS;
use super::compiled::{FOLDERS, OwnPackages};
use super::stage::{Key, Stages};
use crate::checkout::Checkout;
use crate::interrupt::remove_tree;

const ARCHIVE: &str = "crates.tar";
/// File in cargo's folder that names the inputs of what was compiled there: cargo does not see the build root.
const INPUTS_OF: &str = "cairn-inputs";

/// The compiled crates for one set of inputs.
pub struct AgentCrates<'a> {
    stages: &'a Stages<'a>,
    key: Key,
    own: OwnPackages,
    /// Where cargo compiles to.
    folder: PathBuf,
}

impl<'a> AgentCrates<'a> {
    /// `key` names build root and compiler, `target` is cargo's target directory.
    pub fn new(stages: &'a Stages<'a>, mut key: Key, checkout: &Checkout, target: &Path) -> Result<Self> {
        for input in ["Cargo.lock", "Cargo.toml", ".cargo"] {
            key = key.path(input, &checkout.join(input))?;
        }
        for manifest in INPUTS.map(|input| checkout.join(input).join("Cargo.toml")).iter().filter(|path| path.is_file())
        {
            let text =
                fs::read_to_string(manifest).with_context(|| format!("Failed to read {}", manifest.display()))?;
            key = key.text("manifest", &text);
        }
        Ok(Self { stages, key, own: OwnPackages::read(&checkout.join("Cargo.lock"))?, folder: target.join("release") })
    }

    fn mark(&self) -> PathBuf {
        self.folder.join(INPUTS_OF)
    }

    /// Gives cargo what is kept, where it has compiled nothing of these inputs yet. What it has compiled of other inputs is removed.
    pub fn restore(&self) -> Result<()> {
        let inputs = self.key.clone().finish().to_string();
        if fs::read_to_string(self.mark()).is_ok_and(|found| found == inputs) {
            return Ok(());
        }
        remove_tree(&self.folder)?;
        self.unpack()?;
        let failed = || format!("Failed to write {}", self.mark().display());
        fs::create_dir_all(&self.folder).with_context(failed)?;
        fs::write(self.mark(), inputs).with_context(failed)
    }

    fn unpack(&self) -> Result<()> {
        let Some(made) = self.stages.made("agent-crates", self.key.clone())? else { return Ok(()) };
        let file = fs::File::open(made.join(ARCHIVE)).context("Failed to read compiled crates")?;
        fs::create_dir_all(&self.folder).with_context(|| format!("Failed to make {}", self.folder.display()))?;
        let unpacked = tar::Archive::new(std::io::BufReader::new(file)).unpack(&self.folder);
        unpacked.with_context(|| format!("Failed to write to {}", self.folder.display()))
    }

    /// Keeps what cargo has compiled, unless that is kept already.
    pub fn keep(&self) -> Result<()> {
        self.stages.run("agent-crates", self.key.clone(), |output| {
            let path = output.join(ARCHIVE);
            let failed = || format!("Failed to write {}", path.display());
            let mut archive = tar::Builder::new(std::io::BufWriter::new(fs::File::create(&path).with_context(failed)?));
            // Times as well: cargo compares those of outputs.
            archive.mode(tar::HeaderMode::Complete);
            for name in FOLDERS {
                let folder = self.folder.join(name);
                let entries = fs::read_dir(&folder).with_context(|| format!("Failed to list {}", folder.display()))?;
                for entry in entries {
                    let entry = entry.with_context(|| format!("Failed to list {}", folder.display()))?;
                    let (file, at) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
                    if self.own.has_made(&file) {
                        continue;
                    }
                    let place = Path::new(name).join(&file);
                    let is_folder = at.is_dir();
                    if is_folder {
                        archive.append_dir_all(place, &at)
                    } else {
                        archive.append_path_with_name(&at, place)
                    }
                    .with_context(failed)?;
                }
            }
            archive
                .into_inner()
                .with_context(failed)?
                .into_inner()
                .with_context(failed)?
                .sync_all()
                .with_context(failed)
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{Progress, Style};
    use crate::store::Store;

    #[test]
    fn crates_of_others_are_kept_with_their_times_and_none_of_this_workspace() {
        let folder = tempfile::tempdir().unwrap();
        let (store, progress) = (Store::at(&folder.path().join("cache")).unwrap(), Progress::new(Style::Human));
        let (stages, checkout) = (Stages::new(&store, &progress), Checkout::find().unwrap());
        let crates = |target: &str| {
            AgentCrates::new(&stages, Key::new("agent-crates", 2), &checkout, &folder.path().join(target)).unwrap()
        };
        let first = crates("first");
        let (kept, own) = (
            ["deps/libserde-00.rlib", ".fingerprint/serde-00/lib-serde", "build/ring-01/out/libring_core.a"],
            [
                "deps/libattest-02.rlib",
                "deps/initrd_agent-03.d",
                ".fingerprint/node-attestation-04/bin",
                "deps/libovmf_measure-05.rlib",
                "deps/x",
            ],
        );
        for file in kept.iter().chain(&own) {
            let path = first.folder.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, file).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        }
        let empty = crates("without");
        empty.restore().unwrap();
        assert_eq!(fs::read_dir(&empty.folder).unwrap().count(), 1, "something is restored from an empty cache");
        first.keep().unwrap();

        let second = crates("second");
        second.restore().unwrap();
        for file in kept {
            let path = second.folder.join(file);
            assert_eq!(fs::read_to_string(&path).unwrap(), file);
            let time = |folder: &Path| fs::metadata(folder.join(file)).unwrap().modified().unwrap();
            assert_eq!(time(&second.folder), time(&first.folder), "{file}");
        }
        for file in own {
            assert!(!second.folder.join(file).exists(), "{file} is kept");
        }
        // What cargo has compiled here is newer.
        fs::write(second.folder.join(kept[0]), "newer").unwrap();
        second.restore().unwrap();
        assert_eq!(fs::read_to_string(second.folder.join(kept[0])).unwrap(), "newer");

        // With another build root, nothing of it is used.
        let key = Key::new("agent-crates", 2).text("build-root", "another");
        let other = AgentCrates::new(&stages, key, &checkout, &folder.path().join("second")).unwrap();
        other.restore().unwrap();
        assert!(!other.folder.join(kept[0]).exists(), "crates of another build root are used");
    }
}
