//! A stage is a function from named inputs to a folder of outputs; the digest of its inputs is its name in the cache.
//!
//! What is in the cache is not believed blindly: the digests of a stage's files are kept beside them and checked again
//! before they are used. Only the build root's tree (tens of thousands of files) is taken as it is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::digest::Sha256Digest;
use crate::interrupt::remove_tree;
use crate::progress::Progress;
use crate::store::Store;

/// File in a stage's folder that lists its other files.
const MANIFEST: &str = ".outputs.json";

/// The inputs of a stage, each with a label, so that no two inputs can be confused.
#[derive(Clone)]
pub struct Key(Sha256);

impl Key {
    /// Begins the key of the stage `name`; `recipe` changes when the code of the stage does something else.
    pub fn new(name: &str, recipe: u32) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"cairn stage 1\0");
        Self(hasher).text("name", name).text("recipe", &recipe.to_string())
    }

    /// Adds bytes.
    pub fn bytes(mut self, label: &str, bytes: &[u8]) -> Self {
        for part in [label.as_bytes(), bytes] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// Adds text.
    pub fn text(self, label: &str, text: &str) -> Self {
        self.bytes(label, text.as_bytes())
    }

    /// Adds a digest.
    pub fn digest(self, label: &str, digest: &Sha256Digest) -> Self {
        self.bytes(label, digest.as_bytes())
    }

    /// Adds a file or a folder of the checkout: names, link targets, contents, and who may execute.
    pub fn path(self, label: &str, path: &Path) -> Result<Self> {
        let digest = digest_of_path(path).with_context(|| format!("Failed to read {}", path.display()))?;
        Ok(self.digest(label, &digest))
    }

    /// The digest of all that was added.
    pub fn finish(self) -> Sha256Digest {
        Sha256Digest::from_hasher(self.0)
    }
}

fn digest_of_path(path: &Path) -> std::io::Result<Sha256Digest> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(Sha256Digest::of(&[b"link\0", fs::read_link(path)?.as_os_str().as_bytes()].concat()));
    }
    if metadata.is_file() {
        let executable = metadata.permissions().mode() & 0o100 != 0;
        let (digest, _) = Sha256Digest::of_reader(fs::File::open(path)?)?;
        return Ok(Sha256Digest::of(format!("file {executable} {digest}").as_bytes()));
    }
    let mut entries: Vec<_> = fs::read_dir(path)?.collect::<std::io::Result<_>>()?;
    entries.sort_by_key(|entry| entry.file_name());
    let mut hasher = Sha256::new();
    for entry in entries {
        hasher.update(entry.file_name().as_bytes());
        hasher.update([0]);
        hasher.update(digest_of_path(&entry.path())?.as_bytes());
    }
    Ok(Sha256Digest::from_hasher(hasher))
}

/// The output of a stage.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its folder.
    pub folder: PathBuf,
    /// Digest of what it was made from.
    pub key: Sha256Digest,
}

impl Made {
    /// A file in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// How long a stage took.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Timing {
    /// Its name.
    pub stage: &'static str,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Whether the cache had it.
    pub cached: bool,
}

/// Runs stages and keeps their times.
pub struct Stages<'a> {
    store: &'a Store,
    progress: &'a Progress,
    timings: Mutex<Vec<Timing>>,
}

impl<'a> Stages<'a> {
    /// Stages that keep their outputs in `store`.
    pub fn new(store: &'a Store, progress: &'a Progress) -> Self {
        Self { store, progress, timings: Mutex::default() }
    }

    /// The output of the stage `name` with these inputs: from the cache, or made by `make` in the empty folder it is given.
    pub fn run(&self, name: &'static str, key: Key, make: impl FnOnce(&Path) -> Result<()>) -> Result<Made> {
        let start = Instant::now();
        let key = key.finish();
        let folder = self.store.stage(name, &key);
        let _guard = self.store.lock(&format!("{name}-{}", key.short()), self.progress)?;
        let made = Made { folder: folder.clone(), key };
        if folder.exists() {
            match verify(&folder) {
                Ok(()) => {
                    // The newest use decides what is pruned.
                    let _ = fs::File::open(&folder).and_then(|file| file.set_modified(SystemTime::now()));
                    self.record(name, start.elapsed(), true);
                    return Ok(made);
                }
                Err(error) => {
                    self.progress.warn(&format!("the cached stage {name} is damaged ({error:#}): making it again"))
                }
            }
            remove_tree(&folder)?;
        }
        self.progress.note(&format!("{name} ..."));
        let scratch = self.store.scratch()?;
        let output = scratch.path().join("output");
        fs::create_dir(&output).with_context(|| format!("Failed to make {}", output.display()))?;
        let outcome = self.progress.during(name, || make(&output)).and_then(|()| seal(&output)).and_then(|()| {
            fs::rename(&output, &folder).with_context(|| format!("Failed to move {} into place", folder.display()))
        });
        let outcome = outcome.map_err(|error| self.store.explain(error));
        // Whatever the outcome, nothing half-made stays.
        drop(scratch);
        outcome.with_context(|| format!("The stage `{name}` failed"))?;
        self.record(name, start.elapsed(), false);
        self.progress.note(&format!("{name} done in {:.1} s", start.elapsed().as_secs_f64()));
        Ok(made)
    }

    /// The output of the stage `name` with these inputs, if the cache has it undamaged.
    pub fn made(&self, name: &'static str, key: Key) -> Result<Option<Made>> {
        let key = key.finish();
        let folder = self.store.stage(name, &key);
        let _guard = self.store.lock(&format!("{name}-{}", key.short()), self.progress)?;
        let is_whole = folder.exists() && verify(&folder).is_ok();
        Ok(is_whole.then_some(Made { folder, key }))
    }

    /// Runs a step that is too quick to be cached.
    pub fn time<T>(&self, name: &'static str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let outcome = act().with_context(|| format!("The stage `{name}` failed"))?;
        self.record(name, start.elapsed(), false);
        Ok(outcome)
    }

    fn record(&self, stage: &'static str, elapsed: Duration, cached: bool) {
        let mut timings = self.timings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        timings.push(Timing { stage, seconds: (elapsed.as_secs_f64() * 1000.0).round() / 1000.0, cached });
    }

    /// The times so far, in the order in which stages ended.
    pub fn timings(&self) -> Vec<Timing> {
        self.timings.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// The progress that stages report to.
    pub fn progress(&self) -> &Progress {
        self.progress
    }

    /// The cache.
    pub fn store(&self) -> &Store {
        self.store
    }
}

/// Writes down the digests of the files directly in `folder`.
fn seal(folder: &Path) -> Result<()> {
    let mut outputs = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("Failed to list {}", folder.display()))? {
        let entry = entry.with_context(|| format!("Failed to list {}", folder.display()))?;
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let (digest, _) = Sha256Digest::of_file(&entry.path())?;
            outputs.insert(entry.file_name().to_string_lossy().into_owned(), digest);
        }
    }
    let text = serde_json::to_vec(&outputs).context("Failed to write the list of outputs")?;
    fs::write(folder.join(MANIFEST), text).with_context(|| format!("Failed to write to {}", folder.display()))
}

fn verify(folder: &Path) -> Result<()> {
    let text = fs::read(folder.join(MANIFEST)).context("its list of outputs is missing")?;
    let outputs: BTreeMap<String, Sha256Digest> =
        serde_json::from_slice(&text).context("its list of outputs is damaged")?;
    for (name, expected) in outputs {
        let (found, _) = Sha256Digest::of_file(&folder.join(&name))?;
        anyhow::ensure!(found == expected, "{name} has other bytes than were written");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_stages(act: impl FnOnce(&Stages)) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path()).unwrap();
        let progress = Progress::silent();
        act(&Stages::new(&store, &progress));
    }

    fn make(text: &'static str) -> impl FnOnce(&Path) -> Result<()> {
        move |folder| Ok(fs::write(folder.join("out"), text)?)
    }

    #[test]
    fn a_stage_runs_once_for_the_same_inputs() {
        with_stages(|stages| {
            let key = || Key::new("sample", 1).text("input", "a");
            let made = stages.run("sample", key(), make("one")).unwrap();
            let again = stages.run("sample", key(), |_| panic!("it is in the cache")).unwrap();
            assert_eq!(made.folder, again.folder);
            let other = stages.run("sample", Key::new("sample", 1).text("input", "b"), make("two")).unwrap();
            assert_eq!(fs::read(other.join("out")).unwrap(), b"two");
            assert_eq!(stages.timings().iter().map(|timing| timing.cached).collect::<Vec<_>>(), [false, true, false]);
        });
    }

    #[test]
    fn a_damaged_output_is_made_again() {
        with_stages(|stages| {
            let key = || Key::new("sample", 1);
            let made = stages.run("sample", key(), make("right")).unwrap();
            for damage in ["", "wrong"] {
                fs::write(made.join("out"), damage).unwrap();
                assert_eq!(
                    fs::read(stages.run("sample", key(), make("right")).unwrap().join("out")).unwrap(),
                    b"right"
                );
            }
        });
    }

    #[test]
    fn a_stage_that_fails_leaves_nothing() {
        with_stages(|stages| {
            let key = || Key::new("sample", 1);
            let failing = |folder: &Path| {
                fs::write(folder.join("out"), "half")?;
                anyhow::bail!("the disk is full")
            };
            let error = format!("{:#}", stages.run("sample", key(), failing).unwrap_err());
            assert!(error.contains("`sample`") && error.contains("the disk is full"), "{error}");
            assert!(stages.run("sample", key(), make("whole")).is_ok());
        });
    }

    #[test]
    fn a_key_tells_inputs_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let key = || Key::new("n", 1).path("p", folder.path()).unwrap().finish();
        let mut seen = std::collections::BTreeSet::from([key()]);
        fs::write(&file, "a").unwrap();
        assert!(seen.insert(key()));
        fs::write(&file, "b").unwrap();
        assert!(seen.insert(key()));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(seen.insert(key()));
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("b", &file).unwrap();
        assert!(seen.insert(key()));
        let joined = |a: &str, b: &str| Key::new("n", 1).text("x", a).text("y", b).finish();
        assert_ne!(joined("ab", "c"), joined("a", "bc"));
    }
}
