//! Files of another kind that an operator gives to a command: each is named, with what to give, and the broker is not to blame.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cairn_tests::suite::Suite;
use nix::sys::signal::Signal;

use crate::Row;
use crate::publisher::Publisher;
use crate::scene::Scene;

/// Of a command that reads no more than it must; a debug build on a busy machine takes a part of it to start.
const AT_ONCE: Duration = Duration::from_secs(5);

pub fn rows() -> Vec<Row> {
    vec![Row::new("file_of_another_kind_is_named_at_once_with_the_command_that_takes_it", other_kinds)]
}

fn other_kinds(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let folder = tempfile::tempdir()?;
    let written = |name: &str, bytes: &[u8]| -> Result<PathBuf> {
        let path = folder.path().join(name);
        fs::write(&path, bytes).with_context(|| format!("Failed to write {name}"))?;
        Ok(path)
    };
    let mut publisher = Publisher::new()?;
    let (bundle, statement) = publisher.release(&suite.image, 5)?;
    let bundle = written("bundle", &bundle.write()?)?;
    let channel =
        written("channel", &publisher.promote(statement, transparency::statement::channel::Standing::Good)?.write()?)?;
    let root = publisher.fake.sign_trust_root(&publisher.fake.trust_root().write()?);
    let root = written("root", &root)?;
    let sparse = folder.path().join("sparse");
    fs::File::create(&sparse)?.set_len(5 << 30)?;
    let reference = suite.image.file("reference.json");
    let release = ["release", "allow", "--unsigned-development"].as_slice();
    let table: [(&[&str], &Path, &str, &str); 13] = [
        (release, &bundle, "the Sigstore bundle of a measured-boot statement", "key-broker release allow --bundle "),
        (release, &channel, "the Sigstore bundle of a channel state", "key-broker channel set "),
        (release, &root, "a trust root", "key-broker trust set "),
        (release, folder.path(), "a directory", "give "),
        (release, &suite.image.file("raw"), "a raw disk", "give "),
        (release, &suite.image.file("efi"), "a unified kernel image", "give "),
        (release, Path::new("/dev/zero"), "a character device", "give "),
        (release, &sparse, "only zero bytes, and has 5368709120 bytes", "give "),
        (
            &["release", "allow", "--bundle"],
            &channel,
            "the Sigstore bundle of a channel state",
            "key-broker channel set ",
        ),
        (
            &["channel", "set"],
            &bundle,
            "the Sigstore bundle of a measured-boot statement",
            "key-broker release allow --bundle ",
        ),
        (&["trust", "set"], &reference, "an image reference", "key-broker release allow --unsigned-development "),
        (&["audit", "verify", "--heads"], &sparse, "only zero bytes", "give the output of `key-broker audit head`"),
        (
            &["node", "enrol", "x", "--ek", &"0".repeat(64), "--machine"],
            &reference,
            "an image reference",
            "key-broker release allow ",
        ),
    ];
    for is_running in [true, false] {
        for (words, path, kind, next) in &table {
            let started = Instant::now();
            let output = scene.broker.command(&[*words, &[&path.display().to_string()]].concat())?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let is_named = said.contains(&format!("cannot use {} as ", path.display()))
                && said.contains(&format!(": it is {kind}"))
                && said.contains(&format!("hint: {next}"));
            ensure!(!output.status.success() && is_named, "{words:?} {}: {said}", path.display());
            ensure!(
                !said.contains("No broker") && !said.contains("The broker refused"),
                "the broker is blamed: {said}"
            );
            ensure!(started.elapsed() < AT_ONCE, "{} took {:?}", path.display(), started.elapsed());
        }
        if is_running {
            // The control: a file of the right kind reaches the broker.
            scene.broker.allow(&reference)?;
            scene.broker.end(Signal::SIGTERM)?;
        }
    }
    Ok(())
}
