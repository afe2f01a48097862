//! Release keys: ours and cosign's are the same, and one that never leaves a token signs through a program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cairn_tests::environment::{output_of, program, xtask};

use crate::Row;
use crate::scene::{Scene, must_fail, said};

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("a_key_that_is_encrypted_here_is_opened_by_cosign_and_the_other_way_round", cosigns),
        Row::new("a_program_signs_for_a_key_that_is_not_here", outside),
        Row::new("a_key_is_never_written_over", kept),
    ]
}

fn cosigns(scene: &Scene, row: &str) -> Result<()> {
    let site = &scene.shared;
    let release = scene.release(row)?;
    let path = |name: &str| release.folder.join(name).display().to_string();
    // The password that cosign is given, too.
    fs::write(path("password"), "a password\n").context("Failed to write a password")?;
    let (key, password) = (path("ours.key"), path("password"));
    output_of(Command::new(program("publisher")?).args(["keygen", &key, "--password-file", &password]))?;
    ensure!(fs::read_to_string(&key)?.contains("ENCRYPTED"), "the key is not encrypted");
    let shown = scene.cosign(&["public-key", "--key", &key])?;
    ensure!(shown.status.success(), "cosign does not open our key: {}", said(&shown));
    ensure!(
        String::from_utf8_lossy(&shown.stdout).trim() == fs::read_to_string(path("ours.pub"))?.trim(),
        "it is another key"
    );

    let plain = site.folder.join("release.key").display().to_string();
    let imported = scene.cosign(&["import-key-pair", "--key", &plain, "--output-key-prefix", &path("theirs"), "-y"])?;
    ensure!(imported.status.success(), "cosign does not import our key: {}", said(&imported));
    let theirs = path("theirs.key");
    site.must_publish(&release.folder, &["--key", &theirs, "--password-file", &password])?;

    fs::write(path("password"), "another\n").context("Failed to write a password")?;
    let refused = site.publish(&release.folder, &["--key", &theirs, "--password-file", &password])?;
    must_fail(&refused, &["is the password right?"])
}

fn outside(scene: &Scene, row: &str) -> Result<()> {
    let site = &scene.shared;
    let release = scene.release(row)?;
    let public = site.folder.join("release.pub").display().to_string();
    // OpenSSL of the build root, which knows nothing of us.
    let (xtask, work) = (xtask()?.display().to_string(), site.folder.display().to_string());
    let signer = format!("{xtask} in-root --work {work} -- openssl pkeyutl -sign -inkey /tmp/work/release.key");
    site.must_publish(&release.folder, &["--signer", &signer, "--public-key", &public])?;

    let release = scene.release(&format!("{row}-refused"))?;
    for (signer, words) in [("cat", "no signature by the public key"), ("false", "nothing was published")] {
        let refused = site.publish(&release.folder, &["--signer", signer, "--public-key", &public])?;
        must_fail(&refused, &[words])?;
        ensure!(!release.of(crate::scene::PROVENANCE, "dsse.json").exists(), "an envelope without signature was kept");
    }
    Ok(())
}

fn kept(scene: &Scene, row: &str) -> Result<()> {
    let folder = scene.shared.folder.join(row);
    fs::create_dir(&folder).context("Failed to make a folder")?;
    let key = folder.join("release.key");
    let make = || -> Result<std::process::Output> {
        let mut command = Command::new(program("publisher")?);
        command.arg("keygen").arg(&key).output().context("Failed to start the publisher")
    };
    ensure!(make()?.status.success(), "no key was made");
    let mode = fs::metadata(&key)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "others may read the key: {mode:o}");
    let before = fs::read(&key)?;
    must_fail(&make()?, &["is not replaced"])?;
    ensure!(fs::read(&key)? == before, "the key was replaced");
    Ok(())
}
