//! A release in one command, from a clean clone, on the real log: interrupted and given again, verified by others, followed by the next one, and built again by somebody else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use cairn_tests::environment::{output_of, program, xtask};
use cairn_tests::formats::Schema;
use cairn_tests::printed::must_be_printed;
use cairn_tests::sources::{commit, snapshot};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::Row;
use crate::scene::{MEASURED_BOOT_TYPE, Scene, Site, must_fail, said};

/// The command of the README, whose printed output is compared with that of the first release here.
const RELEASE: &str = "cargo xtask release stable --key signing/release.key --log URL --read-log URL --tsa URL --trust-root signing/trust-root.json";

pub fn rows() -> Vec<Row> {
    vec![Row::new("a_release_is_one_command_that_goes_on_and_the_next_one_says_what_changed", released)]
}

/// A clone of the sources, and who releases from it.
struct Desk<'a> {
    scene: &'a Scene,
    site: Site,
    checkout: PathBuf,
}

impl Desk<'_> {
    fn file(&self, name: &str) -> String {
        self.site.folder.join(name).display().to_string()
    }

    /// Where signatures go, by which key, and who must believe them.
    fn options(&self, key: &str) -> Vec<String> {
        let log = &self.site.witnessed.log;
        let (key, root) = (self.file(key), self.file("root.json"));
        let words = ["--key", &key, "--log", &log.write, "--read-log", &log.read, "--trust-root", &root, "--tsa"];
        words.into_iter().chain([&*self.scene.timestamps.address]).map(str::to_owned).collect()
    }

    fn xtask(&self, words: &[&str], key: &str) -> Result<Output> {
        let mut command = Command::new(xtask()?);
        command.args(words).args(self.options(key)).current_dir(&self.checkout).env_remove("CARGO_TARGET_DIR");
        command.stdin(Stdio::null()).output().context("Failed to start xtask")
    }

    fn release(&self, more: &[&str]) -> Result<Output> {
        let channels = self.file("channels");
        self.xtask(&[&["release", "stable", "--channels", &channels], more].concat(), "release.key")
    }

    /// Releases, which must succeed; the page, and what is printed.
    fn must_release(&self, more: &[&str]) -> Result<(Value, String)> {
        let output = self.release(more)?;
        ensure!(output.status.success(), "the release failed: {}", said(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let path = text.lines().find(|line| line.ends_with(".release.json")).context("no page is named")?;
        let page: Value = serde_json::from_slice(&fs::read(path).context("Failed to read the page")?)?;
        Schema::get("release")?.check(&page)?;
        Ok((page, text))
    }

    fn verify(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(program("cairn")?);
        command.arg("verify").args(words).args(["--trust-root", &self.file("root.json")]);
        command.output().context("Failed to start cairn")
    }
}

fn publisher(words: &[&str]) -> Result<String> {
    output_of(Command::new(program("publisher")?).args(words))
}

fn begin<'a>(scene: &'a Scene, row: &str) -> Result<Desk<'a>> {
    let site = scene.site(row)?;
    let checkout = site.folder.join("checkout");
    snapshot(&checkout)?;
    let desk = Desk { scene, site, checkout };
    let path = |name: &str| desk.file(name);
    publisher(&["trust-root", "keygen", &path("root.key")])?;
    publisher(&["keygen", &path("rebuilder.key")])?;
    fs::write(path("tsa.der"), &scene.timestamps.chain[0]).context("Failed to write a certificate")?;
    let (log, witness) = (desk.site.witnessed.log.verifier_key(), desk.site.witnessed.witness.verifier_key());
    publisher(&[
        "trust-root",
        "make",
        &path("root.json"),
        "--root-key",
        &path("root.key"),
        "--release-key",
        &path("release.pub"),
        "--rebuilder-key",
        &path("rebuilder.pub"),
        "--log-key",
        &log,
        "--witness-key",
        &witness,
        "--timestamp-authority",
        &path("tsa.der"),
    ])?;
    Ok(desk)
}

fn released(scene: &Scene, row: &str) -> Result<()> {
    let mut desk = begin(scene, row)?;
    // A release is of a commit.
    fs::write(desk.checkout.join("new"), "").context("Failed to write a file")?;
    must_fail(&desk.release(&[])?, &["uncommitted changes", "signing/"])?;
    fs::remove_file(desk.checkout.join("new")).context("Failed to remove a file")?;

    // So is what is missing, before anything costs time.
    let root = desk.file("root.json");
    fs::rename(&root, desk.file("away")).context("Failed to rename")?;
    let output = desk.release(&[])?;
    must_fail(&output, &["root.json"])?;
    ensure!(!said(&output).contains("release 1/5"), "it began: {}", said(&output));
    fs::rename(desk.file("away"), &root).context("Failed to rename")?;

    // The log is down: what was built, booted and signed stays.
    let folder = desk.checkout.join("target/releases/cairn_0.1.0");
    desk.site.witnessed.log.stop();
    must_fail(&desk.release(&[])?, &["run the same command again", "`publisher publish` ended with"])?;
    let kept = fs::read(folder.join("cairn_0.1.0.provenance.dsse.json")).context("the envelope is lost")?;
    let trial = fs::read(folder.join("cairn_0.1.0.trial.json")).context("the trial is lost")?;
    let policy = desk.site.witnessed.witness.policy();
    desk.site.witnessed.log.start(0, Some(&policy))?;
    let (page, text) = desk.must_release(&[])?;
    must_be_printed("README.md", RELEASE, &text)?;
    ensure!(fs::read(folder.join("cairn_0.1.0.provenance.dsse.json"))? == kept, "it was signed again");
    ensure!(fs::read(folder.join("cairn_0.1.0.trial.json"))? == trial, "it was booted again");
    ensure!(page["changes"].is_null() && page["trial"]["switch_root_ms"].as_u64() > Some(0), "{page}");
    let size = desk.site.size()?;
    ensure!(desk.must_release(&[])?.0 == page && desk.site.size()? == size, "the same release was logged twice");

    // As the page says, by others and by ourselves; the page is for people, too.
    let name = |suffix: &str| folder.join(format!("cairn_0.1.0.{suffix}")).display().to_string();
    let (raw, bundle) = (name("raw"), name("measured-boot.sigstore.json"));
    let root = xtask::log_server::trust::trusted_root(&desk.site.witnessed.log, Some(&scene.timestamps));
    desk.site.write("trusted_root.json", root.as_bytes())?;
    let cosign = scene.cosign_verifies(&desk.site, Path::new(&bundle), MEASURED_BOOT_TYPE, &[&raw])?;
    ensure!(cosign.status.success(), "cosign refuses it: {}", said(&cosign));
    let state = desk.file("channels/stable-v000001.channel.sigstore.json");
    let verified = desk.verify(&[&raw, "--bundle", &bundle, "--channel", &state])?;
    ensure!(verified.status.success(), "{}", said(&verified));
    let html = fs::read_to_string(name("release.html")).context("there is no page for people")?;
    ensure!(html.contains("cairn 0.1.0 (production)") && html.contains("entry 1 of "), "{html}");
    ensure!(html.contains("released 20") && html.contains(page["signer"].as_str().context("no signer")?), "{html}");
    // Every link is a file beside the page, and its own instructions work there.
    let links: Vec<&str> =
        html.split("href=\"").skip(1).filter_map(|rest| rest.split_once('"')).map(|(l, _)| l).collect();
    ensure!(links.len() > 10 && links.iter().all(|link| folder.join(link).is_file()), "{links:?}");
    for command in page["verify"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let Some(words) = command.strip_prefix("cairn ") else { continue };
        let output = Command::new(program("cairn")?).args(words.split(' ')).current_dir(&folder).output()?;
        ensure!(output.status.success(), "{command}: {}", said(&output));
    }

    next(&mut desk, &folder, &bundle)
}

/// The next release: another version, and one file that changed.
fn next(desk: &mut Desk, first: &Path, bundle: &str) -> Result<()> {
    for (path, from, to) in [
        ("os/image.toml", "version = \"0.1.0\"", "version = \"0.2.0\""),
        ("os/root/etc/hosts", "127.0.0.1", "# One more line.\n127.0.0.1"),
    ] {
        let path = desk.checkout.join(path);
        let text = fs::read_to_string(&path).with_context(|| format!("Failed to read {}", path.display()))?;
        ensure!(text.contains(from), "{} has no {from}", path.display());
        fs::write(&path, text.replacen(from, to, 1)).context("Failed to change a file")?;
    }
    commit(&desk.checkout, "The next version")?;
    // Into the folder of the first one nothing is built, and nothing is said of bytes that were not published.
    let image = fs::read(first.join("cairn_0.1.0.raw")).context("Failed to read an image")?;
    let output = desk.release(&["--out", &first.display().to_string()])?;
    must_fail(&output, &["has a signed statement"])?;
    ensure!(!said(&output).contains("release 1/5"), "it began: {}", said(&output));
    let reference = first.join("cairn_0.1.0.reference.json");
    let kept = fs::read(&reference).context("Failed to read a reference")?;
    fs::write(&reference, [&kept[..], b" "].concat()).context("Failed to overwrite a reference")?;
    must_fail(&desk.release(&["--previous", &first.display().to_string()])?, &["is not the file that was published"])?;
    fs::write(&reference, kept).context("Failed to restore a reference")?;
    ensure!(fs::read(first.join("cairn_0.1.0.raw"))? == image, "the published image was overwritten");
    must_fail(&desk.release(&["--previous", &desk.checkout.join("os").display().to_string()])?, &["holds 0 images"])?;
    let (page, _) = desk.must_release(&["--previous", &first.display().to_string()])?;
    let changes = &page["changes"];
    let named = |what: &str| -> Vec<&str> {
        changes[what].as_array().into_iter().flatten().filter_map(|change| change["name"].as_str()).collect()
    };
    ensure!(changes["previous"] == "0.1.0" && named("packages").is_empty(), "{changes}");
    ensure!(named("files").contains(&"etc/hosts") && named("files").len() < 10, "{:?}", named("files"));
    let shown = changes["differences"].as_array().into_iter().flatten().find(|one| one["name"] == "etc/hosts");
    let shown = shown.and_then(|one| one["text"].as_str()).context("no text difference of etc/hosts")?;
    ensure!(shown.starts_with("@@ ") && shown.contains("\n+"), "{shown}");
    ensure!(named("registers").contains(&"tpm:pcr4@initrd"), "{:?}", named("registers"));

    // It follows the first one, whose statement the channel still calls good.
    let folder = desk.checkout.join("target/releases/cairn_0.2.0");
    let second = folder.join("cairn_0.2.0.measured-boot.sigstore.json").display().to_string();
    let before = fs::read(first.join("cairn_0.1.0.measured-boot.json")).context("Failed to read a statement")?;
    let newest = hex::encode(Sha256::digest(&before));
    let state = desk.file("channels/stable-v000002.channel.sigstore.json");
    for bundle in [bundle, &second] {
        let verified = desk.verify(&["--bundle", bundle, "--channel", &state, "--newest", &newest])?;
        ensure!(verified.status.success(), "{bundle}: {}", said(&verified));
    }

    // Somebody else builds it again, and says so.
    let output = desk.xtask(&["rebuild", &second, "--with-cache"], "rebuilder.key")?;
    ensure!(output.status.success() && said(&output).contains("SAME       9 outputs"), "{}", said(&output));
    let line = said(&output);
    let rebuild =
        line.lines().find_map(|line| line.split_once("   entry ")).context("no rebuild was logged")?.0.to_owned();
    let raw = folder.join("cairn_0.2.0.raw").display().to_string();
    let verified = desk.verify(&[&raw, "--bundle", &rebuild, "--kind", "rebuild"])?;
    ensure!(verified.status.success(), "{}", said(&verified));
    // By the release key it would be worth nothing.
    must_fail(&desk.xtask(&["rebuild", &second, "--with-cache"], "release.key")?, &["KEY_USE"])?;
    rotated(desk, &second)
}

/// Another release key, in the next trust root: the old one signs no more, and what it signed stays good.
fn rotated(desk: &mut Desk, bundle: &str) -> Result<()> {
    let path = |name: &str| desk.file(name);
    publisher(&["keygen", &path("new.key")])?;
    publisher(&[
        "trust-root",
        "make",
        &path("next.json"),
        "--after",
        &path("root.json"),
        "--root-key",
        &path("root.key"),
        "--release-key",
        &path("new.pub"),
        "--end-key",
        &path("release.pub"),
    ])?;
    let both = [path("root.json"), path("next.json")];
    let mut verify = Command::new(program("cairn")?);
    verify.args(["verify", "--bundle", bundle, "--trust-root"]).args(&both);
    output_of(&mut verify).context("what the old key signed is believed no more")?;
    let renew = |key: &str| -> Result<Output> {
        let mut command = Command::new(program("publisher")?);
        command.args(["channel", "renew", "stable", "--folder", &path("channels"), "--trust-root", &path("root.json")]);
        let options =
            desk.options(key).into_iter().map(|word| if word == path("root.json") { path("next.json") } else { word });
        command.args(options).output().context("Failed to start the publisher")
    };
    must_fail(&renew("release.key")?, &["KEY_VALIDITY", "Nothing was sent to the log"])?;
    fs::remove_file(path("channels/stable-v000003.channel.dsse.json")).context("the old key signed nothing")?;
    fs::remove_file(path("channels/stable-v000003.channel.json")).context("nothing was to be signed")?;
    let renewed = renew("new.key")?;
    ensure!(renewed.status.success(), "the new key is not believed: {}", said(&renewed));
    Ok(())
}
