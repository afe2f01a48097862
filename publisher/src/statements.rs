//! What is published of a build, or of a machine reference: statements, in files beside it, made once. A statement that is there is published as it is, if it is still about the same bytes: only so a second run sends the same.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use measurements::bytes::Bytes32;
use measurements::document::build::ImageDocument;
use sha2::{Digest, Sha256};
use transparency::statement::measured_boot::{MeasuredBoot, Reference};
use transparency::statement::{Predicate, Statement, Subject};

use crate::files;
use crate::known::refused;

const IMAGE: &str = ".image.json";
const MACHINE: &str = ".machine.json";
const MEASURED_BOOT: &str = "measured-boot";
const PROVENANCE: &str = "provenance";
const REBUILD: &str = "rebuild";

/// A statement, and where its files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Path without an ending: `<image>.<kind>`.
    base: PathBuf,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// URI of its predicate.
    pub predicate_type: &'static str,
}

impl Prepared {
    /// The statement.
    pub fn statement(&self) -> PathBuf {
        self.with("json")
    }

    /// What was signed, kept before it is sent.
    pub fn envelope(&self) -> PathBuf {
        self.with("dsse.json")
    }

    /// The timestamp of the signature, kept before it is sent to the log.
    pub fn timestamp(&self) -> PathBuf {
        self.with("tsr")
    }

    /// The bundle.
    pub fn bundle(&self) -> PathBuf {
        self.with("sigstore.json")
    }

    /// The entry in a log of Rekor v1.
    pub fn rekor_v1(&self) -> PathBuf {
        self.with("rekor-v1.json")
    }

    fn with(&self, ending: &str) -> PathBuf {
        let mut path = self.base.clone().into_os_string();
        path.push(".");
        path.push(ending);
        path.into()
    }
}

/// What a publisher adds to what was built.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Seconds since 1970.
    pub now: u64,
    /// For how long what is measured holds, seconds.
    pub validity: u64,
    /// The statement that the new one follows.
    pub previous: Option<PathBuf>,
    /// URI of who built.
    pub builder: String,
    /// Where the sources are.
    pub repository: Option<String>,
}

/// The statements of what is at `path`: a folder with one image, its `.image.json`, or a `.machine.json`.
pub fn prepare(path: &Path, terms: &Terms) -> Result<Vec<Prepared>> {
    ensure!(
        path.exists(),
        "{} does not exist\nhint: build an image first: cargo xtask build-image --locked",
        path.display()
    );
    let path = if path.is_dir() { image_in(path)? } else { path.to_owned() };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(base) = name.strip_suffix(IMAGE) {
        of_image(&path, base, terms)
    } else if let Some(base) = name.strip_suffix(MACHINE) {
        of_machine(&path, base, terms)
    } else {
        bail!("{} is neither a folder with an image, nor *{IMAGE}, nor *{MACHINE}", path.display())
    }
}

fn image_in(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("Failed to list {}", folder.display()))?;
    let is_image = |path: &PathBuf| path.to_string_lossy().ends_with(IMAGE);
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_image).collect();
    match (found.pop(), found.is_empty()) {
        (Some(path), true) => Ok(path),
        (None, _) => {
            bail!("There is no *{IMAGE} in {}: `cargo xtask build-image --locked` makes one", folder.display())
        }
        _ => bail!("There are several images in {}: name one *{IMAGE}", folder.display()),
    }
}

/// An image whose files are those that its document describes, and which anybody can build again.
struct Built<'a> {
    folder: &'a Path,
    base: &'a str,
    image: ImageDocument,
    /// The document itself.
    own: Subject,
}

fn built<'a>(path: &'a Path, base: &'a str) -> Result<Built<'a>> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let bytes = files::read(path)?;
    let image = ImageDocument::parse(&bytes).with_context(|| format!("{} is not understood", path.display()))?;
    // Before anything costs time: nobody could repeat such a build.
    for (is_so, what, way) in [
        (image.dirty, "from a checkout with uncommitted changes", "commit them"),
        (
            !image.locked,
            "from packages that are not those of os/packages.lock",
            "run `cargo xtask lock`, commit the lock",
        ),
    ] {
        ensure!(!is_so, "{} was built {what}, it cannot be published: {way}, and build with --locked", path.display());
    }
    for (name, output) in &image.outputs {
        ensure!(!name.contains('/'), "{} has an output in another folder: {name}", path.display());
        let found = digest_of(&folder.join(name))?;
        let is_other = || format!("{name} is not the file that {} describes: build again", path.display());
        ensure!(found == output.sha256.0, "{}", is_other());
    }
    let own = Subject::file(format!("{base}{IMAGE}"), Sha256::digest(&bytes).into());
    Ok(Built { folder, base, image, own })
}

impl Built<'_> {
    fn outputs(&self) -> impl Iterator<Item = Subject> {
        self.image.outputs.iter().map(|(name, output)| Subject::file(name, output.sha256.0))
    }

    fn reference(&self) -> Result<Reference> {
        let path = self.folder.join(format!("{}.reference.json", self.base));
        Reference::read(&files::read(&path)?).with_context(|| format!("{} is not understood", path.display()))
    }
}

fn of_image(path: &Path, base: &str, terms: &Terms) -> Result<Vec<Prepared>> {
    let built = built(path, base)?;
    let Built { folder, image, own, .. } = &built;
    let provenance = Statement::provenance(image, vec![own.clone()], &terms.builder, terms.repository.as_deref());
    let provenance = prepared(folder, base, PROVENANCE, provenance.map_err(refused)?)?;

    let of_provenance = Subject::file(file_name(&provenance.statement()), Sha256::digest(&provenance.bytes).into());
    let subjects = built.outputs().chain([own.clone(), of_provenance]).collect();
    let measured = measured_boot(folder, base, subjects, built.reference()?, terms)?;
    Ok(vec![provenance, measured])
}

/// That the image in a folder was built again, and came out as its reference says.
pub fn rebuilt(folder: &Path) -> Result<Prepared> {
    let path = image_in(folder)?;
    let name = file_name(&path);
    let built = built(&path, name.trim_end_matches(IMAGE))?;
    let Reference::Image(reference) = built.reference()? else {
        bail!("The reference beside {} is of a machine", path.display())
    };
    let files = built.outputs().chain([built.own.clone()]).collect();
    let statement = Statement::rebuild(&reference, files).map_err(refused)?;
    prepared(built.folder, built.base, REBUILD, statement)
}

fn of_machine(path: &Path, base: &str, terms: &Terms) -> Result<Vec<Prepared>> {
    let bytes = files::read(path)?;
    let reference = Reference::read(&bytes).with_context(|| format!("{} is not understood", path.display()))?;
    let subject = Subject::file(file_name(path), Sha256::digest(&bytes).into());
    let folder = path.parent().unwrap_or(Path::new("."));
    Ok(vec![measured_boot(folder, base, vec![subject], reference, terms)?])
}

fn measured_boot(
    folder: &Path,
    base: &str,
    subjects: Vec<Subject>,
    reference: Reference,
    terms: &Terms,
) -> Result<Prepared> {
    let previous = terms.previous.as_deref().map(files::read).transpose()?;
    let previous = previous.map(|bytes| transparency::statement::digest(&bytes));
    let make = |not_before: u64, not_after: u64, previous: Option<Bytes32>| {
        let predicate = MeasuredBoot { not_after, not_before, previous, reference: reference.clone() };
        let made = Statement::measured_boot(subjects.clone(), predicate).map_err(refused);
        made.context("The reference cannot be published")
    };
    let kept = files::read_if_there(&folder.join(format!("{base}.{MEASURED_BOOT}.json")))?;
    // Its times stay those of the first run.
    let statement = match kept.as_deref().map(Statement::<MeasuredBoot>::read) {
        Some(Ok(kept)) => {
            let kept = kept.predicate();
            ensure!(
                previous.is_none() || previous == kept.previous,
                "{base}.{MEASURED_BOOT}.json follows another statement than --previous: move it away to make a new one"
            );
            make(kept.not_before, kept.not_after, kept.previous)?
        }
        _ => make(terms.now, terms.now.saturating_add(terms.validity), previous)?,
    };
    prepared(folder, base, MEASURED_BOOT, statement)
}

/// The statement at its place; one that is there must be the same.
pub fn prepared<P: Predicate>(folder: &Path, base: &str, kind: &str, statement: Statement<P>) -> Result<Prepared> {
    let bytes = statement.write().map_err(refused)?;
    let prepared = Prepared { base: folder.join(format!("{base}.{kind}")), bytes, predicate_type: P::TYPE };
    let path = prepared.statement();
    if let Some(kept) = files::read_if_there(&path)? {
        ensure!(
            kept == prepared.bytes,
            "{} is there, and says something else than this build and these options: move it and what was made of it ({}) away to publish anew",
            path.display(),
            file_name(&prepared.with("*"))
        );
    }
    Ok(prepared)
}

fn digest_of(path: &Path) -> Result<[u8; 32]> {
    let failed = || format!("Failed to read {}", path.display());
    let mut file = fs::File::open(path).with_context(failed)?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut hasher).with_context(failed)?;
    Ok(hasher.finalize().into())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
