//! Where a build's files go, and what is said about them at the end.
//!
//! Files are made in a folder beside their place and renamed; the document that describes them is the last, so a folder
//! with `.image.json` is complete.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use measurements::bytes::Bytes32;
use measurements::document::build::OutputDocument;

use super::stage::Timing;
use crate::digest::Sha256Digest;
use crate::interrupt::{Scratch, sweep};
use crate::progress::{Progress, megabytes};
use crate::store::{Guard, lock_file};

/// Suffixes of the files of an image, in the order in which people see them.
pub const SUFFIXES: [&str; 9] =
    ["raw", "efi", "root.erofs", "root.verity", "roothash", "initrd", "packages.json", "reference.json", "image.json"];

/// A folder that outputs are being made in.
pub struct Staging {
    out: PathBuf,
    scratch: Scratch,
    base: String,
    _guard: Guard,
}

impl Staging {
    /// Begins the outputs `base.*` of the folder `out`. A second build for the same folder waits.
    pub fn begin(out: &Path, base: &str, progress: &Progress) -> Result<Self> {
        let unwritable = || format!("Failed to write to {}: choose another folder with --out", out.display());
        fs::create_dir_all(out).with_context(unwritable)?;
        let guard = lock_file(&out.join(".lock"), progress).with_context(unwritable)?;
        sweep(out)?;
        let scratch = Scratch::new(out).with_context(unwritable)?;
        Ok(Self { out: out.to_owned(), scratch, base: base.to_owned(), _guard: guard })
    }

    /// Where the output with this suffix is to be written.
    pub fn path(&self, suffix: &str) -> PathBuf {
        self.scratch.path().join(format!("{}.{suffix}", self.base))
    }

    /// The name of the output with this suffix.
    pub fn name(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.base)
    }

    /// Writes an output.
    pub fn write(&self, suffix: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(suffix);
        fs::write(&path, bytes).with_context(|| format!("Failed to write {}", path.display()))
    }

    /// Copies a stage's file.
    pub fn copy(&self, suffix: &str, from: &Path) -> Result<()> {
        let path = self.path(suffix);
        fs::copy(from, &path).with_context(|| format!("Failed to copy {} to {}", from.display(), path.display()))?;
        Ok(())
    }

    /// Size and digest of everything written so far.
    pub fn describe(&self) -> Result<BTreeMap<String, OutputDocument>> {
        let mut outputs = BTreeMap::new();
        for suffix in SUFFIXES {
            let path = self.path(suffix);
            if path.exists() {
                let (sha256, size) = Sha256Digest::of_file(&path)?;
                outputs.insert(self.name(suffix), OutputDocument { sha256: Bytes32(*sha256.as_bytes()), size });
            }
        }
        Ok(outputs)
    }

    /// Moves everything into place.
    pub fn finish(self) -> Result<PathBuf> {
        let last = self.out.join(self.name("image.json"));
        if last.exists() {
            fs::remove_file(&last).with_context(|| format!("Failed to replace {}", last.display()))?;
        }
        for suffix in SUFFIXES {
            let (from, to) = (self.path(suffix), self.out.join(self.name(suffix)));
            fs::rename(&from, &to).with_context(|| format!("Failed to move {} into place", from.display()))?;
        }
        Ok(self.out.canonicalize().unwrap_or(self.out))
    }
}

/// What a build made.
#[derive(Clone, Debug)]
pub struct Built {
    /// Folder of the outputs.
    pub folder: PathBuf,
    /// Name without suffix.
    pub base: String,
    /// Variant.
    pub variant: String,
    /// Root hash.
    pub root_hash: String,
    /// Sources differ from the commit.
    pub dirty: bool,
    /// The committed lock was used.
    pub locked: bool,
    /// Outputs by name.
    pub outputs: BTreeMap<String, OutputDocument>,
    /// Time of each stage.
    pub timings: Vec<Timing>,
}

impl Built {
    /// The output with this suffix.
    pub fn path(&self, suffix: &str) -> PathBuf {
        self.folder.join(format!("{}.{suffix}", self.base))
    }

    /// Writes the timings file and prints the closing table, or JSON.
    pub fn report(&self, json: bool, progress: &Progress) -> Result<()> {
        let seconds = (progress.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        let timings = serde_json::json!({"schema": "cairn.timings/1", "seconds": seconds, "stages": self.timings});
        let path = self.path("timings.json");
        fs::write(&path, format!("{timings}\n")).with_context(|| format!("Failed to write {}", path.display()))?;
        if json {
            println!(
                "{}",
                serde_json::json!({"type": "built", "folder": self.folder, "variant": self.variant, "root_hash": self.root_hash,
                    "dirty": self.dirty, "locked": self.locked, "outputs": self.outputs, "seconds": seconds, "stages": self.timings})
            );
            return Ok(());
        }
        print!("{}", self.table(seconds));
        Ok(())
    }

    fn table(&self, seconds: f64) -> String {
        let mut text = String::from("\nstage           seconds\n");
        for timing in &self.timings {
            let note = if timing.cached { "  cached" } else { "" };
            text += &format!("{:<15} {:>7.1}{note}\n", timing.stage, timing.seconds);
        }
        text += &format!("{:<15} {seconds:>7.1}\n\n{:<34} {:>10}  sha256\n", "total", "output", "size");
        for (name, OutputDocument { sha256, size }) in &self.outputs {
            text += &format!("{name:<34} {:>10}  {}\n", megabytes(*size), hex::encode(sha256.0));
        }
        text += &format!(
            "\nvariant    {}\nroot hash  {}\nfolder     {}\n",
            self.variant,
            self.root_hash,
            self.folder.display()
        );
        if self.dirty {
            text += "dirty      the checkout has uncommitted changes: this image cannot be published\n";
        }
        if !self.locked {
            text += "not locked the packages are not those of os/packages.lock: this image cannot be published\n";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_appear_together_and_what_was_interrupted_is_swept_away() {
        let out = tempfile::tempdir().unwrap();
        fs::create_dir(out.path().join(".making-dead")).unwrap();
        let staging = Staging::begin(out.path(), "cairn_1", &Progress::silent()).unwrap();
        for suffix in SUFFIXES {
            staging.write(suffix, suffix.as_bytes()).unwrap();
        }
        assert!(!out.path().join("cairn_1.raw").exists());
        assert_eq!(staging.describe().unwrap().len(), SUFFIXES.len());
        staging.finish().unwrap();
        assert_eq!(fs::read(out.path().join("cairn_1.raw")).unwrap(), b"raw");
        let names: Vec<_> = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), SUFFIXES.len() + 1, "{names:?}");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let Err(error) = Staging::begin(&file.path().join("x"), "cairn_1", &Progress::silent()) else {
            panic!("it is a file")
        };
        let error = format!("{error:#}");
        assert!(error.contains("--out") && error.contains(&file.path().display().to_string()), "{error}");
    }
}
