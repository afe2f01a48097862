//! What the rows share: the programs, a log with a witness, a release key, and whom a verifier believes.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use cairn_tests::environment::{output_of, program, variable};
use cairn_tests::harness::Skipped;
use cairn_tests::image::Image;
use measurements::bytes::Bytes32;
use measurements::document::build::ImageDocument;
use measurements::document::image::ImageReference;
use sha2::{Digest, Sha256};
use xtask::checkout::Checkout;
use xtask::log_server::programs::{Programs, Unavailable};
use xtask::log_server::rekor_v1::{self, RekorV1};
use xtask::log_server::timestamps::TimestampAuthority;
use xtask::log_server::{ORIGIN, Witnessed, trust};
use xtask::progress::{Progress, Style};
use xtask::store::Store;
use xtask::test::WITH_REKOR_V1;

pub const MEASURED_BOOT: &str = "measured-boot";
pub const PROVENANCE: &str = "provenance";
/// Predicate types, as verifiers name them.
pub const MEASURED_BOOT_TYPE: &str = "https://cairn.example/attestation/measured-boot/v1";
pub const PROVENANCE_TYPE: &str = "https://slsa.dev/provenance/v1";

/// What the rows share.
pub struct Scene {
    /// A log that runs all the time. Rows that stop one have their own.
    pub shared: Site,
    /// A timestamp authority that runs all the time; trust roots name it where a row says so.
    pub timestamps: TimestampAuthority,
    /// A log of Rekor v1, or why there is none.
    rekor_v1: Result<RekorV1, String>,
    pub programs: Programs,
    image: Image,
    folder: tempfile::TempDir,
}

/// A log with its witness, and who publishes to it.
pub struct Site {
    pub witnessed: Witnessed,
    pub folder: PathBuf,
}

impl Scene {
    pub fn open() -> Result<Self> {
        let checkout = Checkout::at(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")));
        let (store, progress) = (Store::open()?, Progress::new(Style::Human));
        let programs = Programs::get(&checkout, &store, &progress)?;
        let folder = tempfile::Builder::new().prefix("cairn-log-").tempdir().context("Failed to make a folder")?;
        let shared = Site::start(&programs, &folder.path().join("shared"))?;
        let timestamps = TimestampAuthority::start(&programs.timestamp_server, &folder.path().join("timestamps"))?;
        let rekor_v1 = match variable(WITH_REKOR_V1) {
            Err(_) => Err("`cargo xtask test --with-rekor-v1` compiles that log, and runs it".to_owned()),
            Ok(_) => match rekor_v1::Programs::get(&checkout, &store, &progress) {
                Err(error) if error.is::<Unavailable>() => Err(format!("{error:#}")),
                programs => Ok(RekorV1::start(&programs?, &folder.path().join("rekor-v1"))?),
            },
        };
        Ok(Self { shared, timestamps, rekor_v1, programs, image: Image::open(&variable("CAIRN_IMAGE_DIR")?)?, folder })
    }

    /// A log of Rekor v1; a row that needs one is skipped where there is none.
    pub fn rekor_v1(&self) -> Result<&RekorV1> {
        self.rekor_v1.as_ref().map_err(|reason| Skipped(reason.clone()).into())
    }

    /// A path of a row's own, where nothing is yet.
    pub fn folder(&self, row: &str) -> PathBuf {
        self.folder.path().join(format!("{row}-own"))
    }

    /// A log of a row's own.
    pub fn site(&self, row: &str) -> Result<Site> {
        Site::start(&self.programs, &self.folder.path().join(format!("{row}-log")))
    }

    /// The image under test as a release would be built, from a clean checkout and its lock.
    pub fn release(&self, row: &str) -> Result<Release> {
        self.release_of(row, |_| {})
    }

    /// The same, with something else in its document.
    pub fn release_of(&self, row: &str, change: impl FnOnce(&mut ImageDocument)) -> Result<Release> {
        let folder = self.folder.path().join(row);
        fs::create_dir_all(&folder).with_context(|| format!("Failed to make {}", folder.display()))?;
        let mut image = ImageDocument::parse(&self.image.read("image.json")?)?;
        let mut reference = ImageReference::parse(&self.image.read("reference.json")?)?;
        (image.dirty, image.locked, reference.dirty, reference.locked) = (false, true, false, true);
        let name = self.image.file("image.json").file_name().unwrap_or_default().to_string_lossy().into_owned();
        let base = name.trim_end_matches(".image.json").to_owned();
        for output in image.outputs.keys().filter(|output| !output.ends_with("reference.json")) {
            let from = self.image.file(&output[base.len() + 1..]);
            symlink(&from, folder.join(output)).with_context(|| format!("Failed to link {}", from.display()))?;
        }
        let bytes = reference.to_bytes()?;
        fs::write(folder.join(format!("{base}.reference.json")), &bytes).context("Failed to write a reference")?;
        let output = image.outputs.get_mut(&format!("{base}.reference.json")).context("an image without reference")?;
        (output.sha256, output.size) = (Bytes32(Sha256::digest(&bytes).into()), bytes.len() as u64);
        change(&mut image);
        fs::write(folder.join(&name), image.to_bytes()?).context("Failed to write an image document")?;
        Ok(Release { folder, base })
    }

    /// Stock cosign, without any network.
    pub fn cosign(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", "--"]).arg(&self.programs.cosign).args(words);
        command.env("HOME", self.folder.path()).env("COSIGN_PASSWORD", "a password");
        command.current_dir(self.folder.path()).output().context("Failed to start cosign")
    }

    /// What cosign says of a bundle of `site`; `about` is a file or `--digest` and its friends.
    pub fn cosign_verifies(&self, site: &Site, bundle: &Path, predicate: &str, about: &[&str]) -> Result<Output> {
        self.cosign_verifies_by(site, "trusted_root.json", bundle, predicate, about)
    }

    /// The same, by another trusted root of `site`.
    pub fn cosign_verifies_by(
        &self,
        site: &Site,
        root: &str,
        bundle: &Path,
        predicate: &str,
        about: &[&str],
    ) -> Result<Output> {
        let path = |name: &str| site.folder.join(name).display().to_string();
        let (key, root, bundle) = (path("release.pub"), path(root), bundle.display().to_string());
        let words = ["verify-blob-attestation", "--key", &key, "--trusted-root", &root, "--bundle", &bundle, "--type"];
        self.cosign(&[&words[..], &[predicate], about].concat())
    }
}

impl Site {
    fn start(programs: &Programs, folder: &Path) -> Result<Self> {
        let witnessed = Witnessed::start(programs, &folder.join("log"), ORIGIN)?;
        let site = Self { witnessed, folder: folder.to_owned() };
        let key = folder.join("release.key").display().to_string();
        output_of(Command::new(program("publisher")?).args(["keygen", &key]))?;
        site.write("trusted_root.json", trust::trusted_root(&site.witnessed.log, None).as_bytes())?;
        site.write_trust("trust-root.json", &site.trust_document()?)?;
        Ok(site)
    }

    /// Writes a file beside the log.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        fs::write(self.folder.join(name), bytes).with_context(|| format!("Failed to write {name}"))
    }

    /// Runs `publisher publish` on `path` with the log at these addresses.
    pub fn publish_at(&self, path: &Path, write: &str, read: &str, more: &[&str]) -> Result<Output> {
        let mut command = Command::new(program("publisher")?);
        command.arg("publish").arg(path).args(["--log", write, "--read-log", read]);
        if !more.contains(&"--signer") && !more.contains(&"--key") {
            command.arg("--key").arg(self.folder.join("release.key"));
        }
        if !more.contains(&"--log-key") && !more.contains(&"--trust-root") {
            command.arg("--trust-root").arg(self.folder.join("trust-root.json"));
        }
        command.args(more).output().context("Failed to start the publisher")
    }

    /// Runs `publisher publish` with the real log.
    pub fn publish(&self, path: &Path, more: &[&str]) -> Result<Output> {
        let log = &self.witnessed.log;
        self.publish_at(path, &log.write, &log.read, more)
    }

    /// Publishes, which must succeed; the numbers of the entries.
    pub fn must_publish(&self, path: &Path, more: &[&str]) -> Result<Vec<u64>> {
        let output = self.publish(path, more)?;
        ensure!(output.status.success(), "publishing failed: {}", said(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let numbers = text.lines().map(|line| {
            let rest = line.split_once("   entry ").map(|(_, rest)| rest).context("a line without entry")?;
            ensure!(rest.contains(&format!(" of {ORIGIN}")), "the line does not name the log: {line}");
            rest.split(' ').next().unwrap_or_default().parse().context("an entry without number")
        });
        numbers.collect()
    }

    /// Entries in the log.
    pub fn size(&self) -> Result<u64> {
        let path = self.witnessed.log.folder().join("tiles/checkpoint");
        let text = fs::read_to_string(&path).context("Failed to read the log's checkpoint")?;
        text.lines().nth(1).and_then(|line| line.parse().ok()).context("The checkpoint has no size")
    }
}

/// A folder with an image that can be published.
pub struct Release {
    pub folder: PathBuf,
    pub base: String,
}

impl Release {
    /// A file of the image.
    pub fn file(&self, suffix: &str) -> PathBuf {
        self.folder.join(format!("{}.{suffix}", self.base))
    }

    /// A statement, `dsse` or `sigstore` of it.
    pub fn of(&self, statement: &str, suffix: &str) -> PathBuf {
        self.file(&format!("{statement}.{suffix}"))
    }
}

/// What a program said.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)).trim().to_owned()
}

/// The program must have failed, with these words.
pub fn must_fail(output: &Output, words: &[&str]) -> Result<()> {
    let text = said(output);
    ensure!(output.status.code() == Some(1), "it did not fail, but ended with {}: {text}", output.status);
    for word in words {
        ensure!(text.contains(word), "it does not say {word:?}: {text}");
    }
    Ok(())
}

/// Seconds since 1970.
pub fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("The clock is before 1970")?.as_secs())
}

/// A port at which nothing listens.
pub fn dead_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("Failed to listen on loopback")?;
    Ok(format!("http://{}", listener.local_addr().context("no local address")?))
}
