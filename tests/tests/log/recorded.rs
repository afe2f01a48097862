//! What a real log wrote, kept with the sources, so that verification is tested where no log can be made. `CAIRN_RECORD=1 cargo xtask test --with-rekor-v1 -- is_recorded` writes it anew.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::Row;
use crate::scene::{MEASURED_BOOT, PROVENANCE, Scene, said};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/transparency/tests/recorded/rekor");
const TIMESTAMP_FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/transparency/tests/recorded/timestamp");
const REKOR_V1_FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../publisher/tests/recorded/rekor-v1");

pub fn rows() -> Vec<Row> {
    if std::env::var_os("CAIRN_RECORD").is_none() {
        return vec![];
    }
    vec![
        Row::new("what_a_real_log_wrote_is_recorded", record),
        Row::new("what_a_real_log_wrote_with_a_real_timestamp_is_recorded", record_timestamp),
        Row::new("what_a_real_rekor_v1_wrote_is_recorded", record_rekor_v1),
    ]
}

fn record(scene: &Scene, row: &str) -> Result<()> {
    let (site, release) = (scene.site(row)?, scene.release(row)?);
    // Not alone in the tree, so that proofs have a length.
    for number in 0..3 {
        site.must_publish(&scene.release(&format!("{row}-{number}"))?.folder, &[])?;
    }
    site.must_publish(&release.folder, &[])?;
    let folder = Path::new(FOLDER);
    xtask::interrupt::remove_tree(&folder.join("tiles"))?;
    fs::create_dir_all(folder).context("Failed to make the folder of recordings")?;
    for name in ["release.pub", "trusted_root.json", "trust-root.json"] {
        copy(&site.folder.join(name), &folder.join(name))?;
    }
    for statement in [MEASURED_BOOT, PROVENANCE] {
        copy(&release.of(statement, "sigstore.json"), &folder.join(format!("{statement}.sigstore.json")))?;
    }
    let keys = [site.witnessed.log.verifier_key(), site.witnessed.witness.verifier_key()];
    fs::write(folder.join("verifier-keys"), keys.join("\n") + "\n").context("Failed to write keys")?;
    copy_tree(&site.witnessed.log.folder().join("tiles"), &folder.join("tiles"))
}

fn record_timestamp(scene: &Scene, row: &str) -> Result<()> {
    let (site, release) = (scene.site(row)?, scene.release(row)?);
    let root = site.write_trust("with.json", &site.trust_document_with(&scene.timestamps.chain[0])?)?;
    let path = root.display().to_string();
    site.must_publish(&release.folder, &["--tsa", &scene.timestamps.address, "--trust-root", &path])?;
    let folder = Path::new(TIMESTAMP_FOLDER);
    fs::create_dir_all(folder).context("Failed to make the folder of recordings")?;
    copy(&root, &folder.join("trust-root.json"))?;
    let name = format!("{MEASURED_BOOT}.sigstore.json");
    copy(&release.of(MEASURED_BOOT, "sigstore.json"), &folder.join(name))
}

fn record_rekor_v1(scene: &Scene, row: &str) -> Result<()> {
    let (site, release) = (&scene.shared, scene.release(row)?);
    let log = scene.rekor_v1()?;
    // Not alone in the tree, so that its proof has a length.
    for folder in [&scene.release(&format!("{row}-before"))?.folder, &release.folder] {
        let key = log.key.display().to_string();
        let output = site.publish(folder, &["--rekor-v1", &log.address, "--rekor-v1-key", &key])?;
        ensure!(output.status.success(), "publishing failed: {}", said(&output));
    }
    let folder = Path::new(REKOR_V1_FOLDER);
    fs::create_dir_all(folder).context("Failed to make the folder of recordings")?;
    copy(&log.key, &folder.join("log.pub"))?;
    copy(&site.folder.join("release.pub"), &folder.join("release.pub"))?;
    copy(&release.of(PROVENANCE, "dsse.json"), &folder.join("provenance.dsse.json"))?;
    copy(&release.of(PROVENANCE, "rekor-v1.json"), &folder.join("provenance.rekor-v1.json"))
}

/// Everything but the server's own state.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("Failed to make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("Failed to list {}", from.display()))?.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        if path.is_dir() { copy_tree(&path, &to.join(name))? } else { copy(&path, &to.join(name))? }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::write(to, fs::read(from).with_context(|| format!("Failed to read {}", from.display()))?)
        .with_context(|| format!("Failed to write {}", to.display()))
}
