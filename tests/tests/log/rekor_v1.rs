//! Publishing to a log of Rekor v1 besides: the real server, where `cargo xtask test --with-rekor-v1` has compiled one; and fakes that answer anything but what they should.

use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};
use transparency::bundle::Bundle;
use transparency::statement::PAYLOAD_TYPE;
use transparency::{proof, tree};

use crate::Row;
use crate::fake::{Manner, fake};
use crate::scene::{MEASURED_BOOT, PROVENANCE, Release, Scene, dead_address, must_fail, said};

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("whatever_a_log_of_rekor_v1_answers_the_bundle_stays_and_the_error_says_what_to_do", answers),
        Row::new("a_release_is_in_a_real_rekor_v1_too_and_its_entry_is_proved", published),
        Row::new("an_entry_of_another_statement_or_log_of_rekor_v1_is_not_believed", others),
    ]
}

/// The entry in the file beside a bundle: its uuid, and what the log says of it.
fn entry(release: &Release, statement: &str) -> Result<(String, Value)> {
    let value: Value = serde_json::from_slice(&fs::read(release.of(statement, "rekor-v1.json"))?)?;
    let (uuid, entry) = value.as_object().and_then(|entries| entries.iter().next()).context("a file without entry")?;
    Ok((uuid.clone(), entry.clone()))
}

fn published(scene: &Scene, row: &str) -> Result<()> {
    let (site, release) = (&scene.shared, scene.release(row)?);
    let log = scene.rekor_v1()?;
    let key = log.key.display().to_string();
    let to_both = ["--rekor-v1", log.address.as_str(), "--rekor-v1-key", &key];
    let shown = site.publish(&release.folder, &[&to_both[..], &["--dry-run"]].concat())?;
    ensure!(said(&shown).contains("api/v1/log/entries"), "a dry run does not show the request: {}", said(&shown));
    let publish = || -> Result<String> {
        let output = site.publish(&release.folder, &to_both)?;
        ensure!(output.status.success(), "publishing failed: {}", said(&output));
        Ok(said(&output))
    };
    let first = publish()?;
    for statement in [PROVENANCE, MEASURED_BOOT] {
        let line = format!("{statement}.rekor-v1.json   entry ");
        ensure!(first.contains(&line), "there is no entry of the {statement}: {first}");
        proved(&release, statement)?;
    }

    // A second run logs nothing; a lost file is made again of the same entry, which the log says that it has (409).
    let (uuid, known) = entry(&release, MEASURED_BOOT)?;
    publish()?;
    fs::remove_file(release.of(MEASURED_BOOT, "rekor-v1.json")).context("Failed to remove an entry")?;
    publish()?;
    let (again, other) = entry(&release, MEASURED_BOOT)?;
    ensure!((&again, &other["logIndex"]) == (&uuid, &known["logIndex"]), "it was logged twice: {uuid}, {again}");
    proved(&release, MEASURED_BOOT)?;

    // What is there is judged again, not believed.
    fs::copy(release.of(PROVENANCE, "rekor-v1.json"), release.of(MEASURED_BOOT, "rekor-v1.json"))?;
    must_fail(&site.publish(&release.folder, &to_both)?, &["measured-boot.rekor-v1.json", "move it away"])
}

/// By our own code, which shares none with the crate that published it: the entry is of what was signed, and leads to the root.
fn proved(release: &Release, statement: &str) -> Result<()> {
    let bundle = Bundle::parse(&fs::read(release.of(statement, "sigstore.json"))?).map_err(|why| anyhow!("{why}"))?;
    let signed = envelope::pre_authentication_encoding(PAYLOAD_TYPE, &bundle.envelope.unverified_payload()?);
    let (uuid, entry) = entry(release, statement)?;
    let bytes = STANDARD.decode(entry["body"].as_str().context("no body")?)?;
    let body: Value = serde_json::from_slice(&bytes)?;
    ensure!(body["kind"] == "hashedrekord" && body["apiVersion"] == "0.0.1", "{body}");
    ensure!(body["spec"]["data"]["hash"]["value"] == hex::encode(Sha256::digest(&signed)), "{body}");
    let signature = bundle.signature().map_err(|why| anyhow!("{why}"))?;
    ensure!(body["spec"]["signature"]["content"] == STANDARD.encode(signature), "{body}");

    let inclusion = &entry["verification"]["inclusionProof"];
    let number = |name: &str| inclusion[name].as_u64().with_context(|| format!("no {name}"));
    let hash = |value: &Value| -> Result<tree::Hash> {
        let bytes = hex::decode(value.as_str().context("no hash")?)?;
        bytes.try_into().map_err(|_| anyhow!("a hash of another length"))
    };
    let path = inclusion["hashes"].as_array().context("no proof")?.iter().map(hash).collect::<Result<Vec<_>>>()?;
    let leaf = tree::leaf(&bytes);
    ensure!(uuid.ends_with(&hex::encode(leaf)), "{uuid} is not the leaf {}", hex::encode(leaf));
    let root = proof::root_of(leaf, number("logIndex")?, number("treeSize")?, &path);
    ensure!(root == Some(hash(&inclusion["rootHash"])?), "the proof does not lead to the root");
    Ok(())
}

fn others(scene: &Scene, row: &str) -> Result<()> {
    let (site, release) = (&scene.shared, scene.release(row)?);
    let log = scene.rekor_v1()?;
    let (key, other_key) = (log.key.display().to_string(), site.folder.join("release.pub").display().to_string());
    let output = site.publish(&release.folder, &["--rekor-v1", &log.address, "--rekor-v1-key", &other_key])?;
    must_fail(&output, &["is there, but its entry in", "is --rekor-v1-key that of this log?"])?;
    ensure!(!release.of(PROVENANCE, "rekor-v1.json").exists(), "an entry that is not believed was kept");

    let output = site.publish(&release.folder, &["--rekor-v1", &log.address, "--rekor-v1-key", &key])?;
    ensure!(output.status.success(), "publishing failed: {}", said(&output));
    let answer = fs::read(release.of(PROVENANCE, "rekor-v1.json"))?;
    let second = scene.release_of(&format!("{row}-second"), |image| image.source_date += 1)?;
    let liar = fake(Manner::Makes(Arc::new(move |_| Ok(answer.clone()))))?;
    let output = site.publish(&second.folder, &["--rekor-v1", &liar, "--rekor-v1-key", &key])?;
    must_fail(&output, &["is not believed", "It is the entry of another statement"])
}

fn answers(scene: &Scene, row: &str) -> Result<()> {
    use Manner::{BreaksOff, Hangs, Says};
    let (site, release) = (&scene.shared, scene.release(row)?);
    let key = site.folder.join("release.pub").display().to_string();
    let no_entry = "is that a log of Rekor v1?";
    let conflict = format!("{{\"code\":409,\"message\":\"exists with UUID {}\"}}", "ab".repeat(40));
    let cases = [
        (fake(Says("500 Internal Server Error", "", "\u{1b}[31mboom".into()))?, "has a problem of its own (500"),
        (fake(Says("503 Service Unavailable", "", String::new()))?, "has a problem of its own (503"),
        (fake(Says("429 Too Many Requests", "", String::new()))?, "has a problem of its own (429"),
        (
            fake(Says("400 Bad Request", "", "bad signature".into()))?,
            "refuses the entry (400 Bad Request): bad signature",
        ),
        (fake(Says("404 Not Found", "", String::new()))?, "is the address right?"),
        (fake(Says("201 Created", "", String::new()))?, no_entry),
        (fake(Says("201 Created", "", "<html>".into()))?, no_entry),
        (fake(Says("201 Created", "", "{}".repeat(100)))?, no_entry),
        (fake(Says("201 Created", "", "\u{e9}".repeat(100)))?, no_entry),
        (fake(Says("409 Conflict", "", "{}".into()))?, "does not say where"),
        // Then the entry itself is asked for, and is not there.
        (fake(Says("409 Conflict", "", conflict))?, "refuses the entry (409 Conflict)"),
        (fake(Hangs)?, "does not answer"),
        (fake(BreaksOff)?, "does not answer"),
        (dead_address()?, "does not answer"),
    ];
    let mut bundle = None;
    for (address, words) in cases {
        let more = ["--rekor-v1", &address, "--rekor-v1-key", &key, "--patience", "2"];
        let output = site.publish(&release.folder, &more)?;
        must_fail(&output, &["sigstore.json is there, but its entry in", "run the same command again", words])
            .with_context(|| format!("{words}: {address}"))?;
        let text = said(&output);
        ensure!(!text.contains('\u{1b}') && !text.contains("panicked"), "{words}: {text}");
        ensure!(!release.of(PROVENANCE, "rekor-v1.json").exists(), "{words}: there is an entry");
        let bytes = fs::read(release.of(PROVENANCE, "sigstore.json")).context("the bundle is lost")?;
        ensure!(*bundle.get_or_insert_with(|| bytes.clone()) == bytes, "{words}: it is another bundle");
    }
    site.must_publish(&release.folder, &[]).map(drop)
}
