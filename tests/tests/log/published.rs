//! What is published is verified by whoever likes, offline: by us, and by stock cosign.

use std::fs;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};
use transparency::statement::measured_boot::MeasuredBoot;
use transparency::statement::provenance::Provenance;
use transparency::verify::{About, logged};

use crate::Row;
use crate::scene::{MEASURED_BOOT, MEASURED_BOOT_TYPE, PROVENANCE, PROVENANCE_TYPE, Scene, must_fail, now, said};

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("a_published_image_is_verified_offline_by_us_and_by_stock_cosign", image),
        Row::new("a_register_of_a_quote_is_verified_by_stock_cosign_and_a_wrong_one_is_not", register),
        Row::new("a_machine_reference_is_published_by_the_same_command", machine),
        Row::new("a_second_run_logs_nothing_and_a_lost_bundle_is_made_again_from_tiles", again),
        Row::new("a_dry_run_shows_what_is_logged_and_leaves_nothing", dry_run),
        Row::new("what_is_not_from_a_commit_and_its_lock_is_not_published", not_a_release),
    ]
}

fn image(scene: &Scene, row: &str) -> Result<()> {
    let (site, release) = (&scene.shared, scene.release(row)?);
    site.must_publish(&release.folder, &[])?;
    let (measured, provenance) = (release.of(MEASURED_BOOT, "sigstore.json"), release.of(PROVENANCE, "sigstore.json"));

    let (root, now) = (site.trust()?, now()?);
    let raw: [u8; 32] = Sha256::digest(fs::read(release.file("raw")).context("Failed to read the image")?).into();
    let verified = logged::<MeasuredBoot>(&fs::read(&measured)?, &root, now).map_err(|refusal| anyhow!("{refusal}"))?;
    verified.is_about(About::File(&raw)).map_err(|refusal| anyhow!("{refusal}"))?;
    ensure!(verified.evidence.witnesses.len() == 1, "the witness has not seen it");
    let built = logged::<Provenance>(&fs::read(&provenance)?, &root, now).map_err(|refusal| anyhow!("{refusal}"))?;
    built.is_about(About::File(&raw)).map_err(|refusal| anyhow!("{refusal}"))?;
    // The two kinds are not mistaken for each other.
    ensure!(
        logged::<Provenance>(&fs::read(&measured)?, &root, now).is_err(),
        "a measured-boot statement is a provenance"
    );

    let path = release.file("raw").display().to_string();
    for (bundle, kind) in [(&measured, MEASURED_BOOT_TYPE), (&provenance, PROVENANCE_TYPE)] {
        let output = scene.cosign_verifies(site, bundle, kind, &[&path])?;
        ensure!(output.status.success(), "cosign refuses the {kind}: {}", said(&output));
        let other = scene.programs.cosign.display().to_string();
        must_fail(&scene.cosign_verifies(site, bundle, kind, &[&other])?, &[])?;
    }
    must_fail(&scene.cosign_verifies(site, &measured, PROVENANCE_TYPE, &[&path])?, &[])
}

fn register(scene: &Scene, row: &str) -> Result<()> {
    let (site, release) = (&scene.shared, scene.release(row)?);
    site.must_publish(&release.folder, &[])?;
    let statement: Value = serde_json::from_slice(&fs::read(release.of(MEASURED_BOOT, "json"))?)?;
    let subjects = statement["subject"].as_array().context("a statement without subjects")?;
    let register = subjects.iter().find(|subject| subject["name"] == "tpm:pcr11@initrd");
    let register = register.context("PCR 11 is no subject")?;
    let bundle = release.of(MEASURED_BOOT, "sigstore.json");
    for algorithm in ["sha256", "sha384"] {
        let value = register["digest"][algorithm].as_str().with_context(|| format!("PCR 11 has no {algorithm}"))?;
        let about = ["--digest", value, "--digestAlg", algorithm];
        let output = scene.cosign_verifies(site, &bundle, MEASURED_BOOT_TYPE, &about)?;
        ensure!(output.status.success(), "cosign refuses PCR 11 in {algorithm}: {}", said(&output));
        let last = if value.ends_with('0') { "1" } else { "0" };
        let wrong = format!("{}{last}", &value[..value.len() - 1]);
        let about = ["--digest", &wrong, "--digestAlg", algorithm];
        must_fail(&scene.cosign_verifies(site, &bundle, MEASURED_BOOT_TYPE, &about)?, &[])?;
    }
    Ok(())
}

fn machine(scene: &Scene, row: &str) -> Result<()> {
    let site = &scene.shared;
    let folder = site.folder.join(row);
    fs::create_dir(&folder).context("Failed to make a folder")?;
    let name = "q35-ovmf-2025.02-2cpus-1gib";
    let path = folder.join(format!("{name}.machine.json"));
    let from = format!("{}/../measurements/machines/{name}.machine.json", env!("CARGO_MANIFEST_DIR"));
    fs::copy(&from, &path).with_context(|| format!("Failed to copy {from}"))?;
    ensure!(site.must_publish(&path, &[])?.len() == 1, "a machine reference is one statement");
    let bundle = fs::read(folder.join(format!("{name}.{MEASURED_BOOT}.sigstore.json")))?;
    let verified = logged::<MeasuredBoot>(&bundle, &site.trust()?, now()?).map_err(|refusal| anyhow!("{refusal}"))?;
    let digest: [u8; 32] = Sha256::digest(fs::read(&path)?).into();
    verified.is_about(About::File(&digest)).map_err(|refusal| anyhow!("{refusal}"))?;
    Ok(())
}

fn again(scene: &Scene, row: &str) -> Result<()> {
    let (site, release) = (scene.site(row)?, scene.release(row)?);
    let first = site.must_publish(&release.folder, &[])?;
    ensure!(first == [0, 1], "a new log numbers entries from 0: {first:?}");
    let bundle = release.of(MEASURED_BOOT, "sigstore.json");
    let before = fs::read(&bundle)?;
    ensure!(site.must_publish(&release.folder, &[])? == first, "a second run names other entries");
    ensure!(fs::read(&bundle)? == before, "a second run wrote a bundle");

    for statement in [MEASURED_BOOT, PROVENANCE] {
        fs::remove_file(release.of(statement, "sigstore.json")).context("Failed to remove a bundle")?;
    }
    ensure!(site.must_publish(&release.folder, &[])? == first, "the same bytes are other entries");
    ensure!(site.size()? == 2, "the log has {} entries", site.size()?);
    // The tree has not grown, so the proof is the same, to the byte.
    ensure!(fs::read(&bundle)? == before, "a bundle made of tiles differs from the log's own answer");

    // What is there is judged again, not believed.
    let provenance = fs::read(release.of(PROVENANCE, "sigstore.json"))?;
    fs::write(&bundle, &provenance).context("Failed to replace a bundle")?;
    must_fail(&site.publish(&release.folder, &[])?, &["is not this statement's", "move it away"])
}

fn dry_run(scene: &Scene, row: &str) -> Result<()> {
    let (site, release) = (&scene.shared, scene.release(row)?);
    let list = || -> Result<usize> { Ok(fs::read_dir(&release.folder)?.count()) };
    let files = list()?;
    let output = site.publish(&release.folder, &["--dry-run"])?;
    ensure!(output.status.success(), "{}", said(&output));
    ensure!(list()? == files, "a dry run left files");
    let shown = said(&output);
    ensure!(shown.contains("hashedRekordRequestV002") && shown.contains("<the signature, when it is made>"), "{shown}");

    // Times are those of the first run: what is shown of the provenance is what is logged of it.
    site.must_publish(&release.folder, &[])?;
    let entry: Value = serde_json::from_slice(&fs::read(release.of(PROVENANCE, "sigstore.json"))?)?;
    use base64::Engine as _;
    let body = entry["verificationMaterial"]["tlogEntries"][0]["canonicalizedBody"].as_str().context("no body")?;
    let body: Value = serde_json::from_slice(&base64::engine::general_purpose::STANDARD.decode(body)?)?;
    let digest = body["spec"]["hashedRekordV002"]["data"]["digest"].as_str().context("no digest")?;
    ensure!(shown.contains(digest), "the dry run does not show the digest that was logged, {digest}");
    let statement = fs::read_to_string(release.of(PROVENANCE, "json"))?;
    ensure!(shown.contains(statement.trim()), "the dry run does not show the statement");
    Ok(())
}

fn not_a_release(scene: &Scene, row: &str) -> Result<()> {
    let site = &scene.shared;
    let before = site.size()?;
    let dirty = scene.release_of(&format!("{row}-dirty"), |image| image.dirty = true)?;
    must_fail(&site.publish(&dirty.folder, &[])?, &["uncommitted changes", "--locked"])?;
    let unlocked = scene.release_of(&format!("{row}-unlocked"), |image| image.locked = false)?;
    must_fail(&site.publish(&unlocked.folder, &[])?, &["not those of os/packages.lock", "--locked"])?;
    let changed = scene.release(&format!("{row}-changed"))?;
    fs::remove_file(changed.file("roothash")).context("Failed to remove a file")?;
    fs::write(changed.file("roothash"), "another").context("Failed to change a file")?;
    must_fail(&site.publish(&changed.folder, &[])?, &["roothash is not the file", "build again"])?;
    must_fail(&site.publish(&site.folder, &[])?, &["There is no *.image.json", "build-image --locked"])?;
    for release in [dirty, unlocked, changed] {
        ensure!(!release.of(PROVENANCE, "json").exists(), "a refused image left a statement");
    }
    let published = scene.release(&format!("{row}-rebuilt"))?;
    site.must_publish(&published.folder, &[])?;
    let other = ["--builder", "https://builder.invalid/another"];
    must_fail(&site.publish(&published.folder, &other)?, &["says something else", "move it"])?;
    ensure!(before <= site.size()?, "the log has shrunk");
    Ok(())
}
