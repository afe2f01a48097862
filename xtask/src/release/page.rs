//! What a release's page says (`cairn.release/1`), as one document; the HTML page says the same to people.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use measurements::document::build::OutputDocument;
use serde::Serialize;
use serde_json::Value;

use super::changes::Changes;
use super::companions::{TRUST_ROOT, channel_file};
use super::trial::Trial;
use super::{MEASURED_BOOT, PROVENANCE};
use crate::difference::Outputs;
use crate::digest::Sha256Digest;

/// Schema of `.release.json`.
const SCHEMA: &str = "cairn.release/1";

/// The page. Fields stand in the order of canonical JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Page {
    /// What changed since the release before; `null` for the first.
    pub changes: Option<Changes>,
    /// The channel that calls it good.
    pub channel: String,
    /// File names of the channel's state and the trust root, which the commands name.
    pub companions: Vec<String>,
    /// Security epoch.
    pub epoch: u64,
    /// Image id.
    pub id: String,
    /// SHA-256 of the lock.
    pub lock: String,
    /// Every output by its file name.
    pub outputs: BTreeMap<String, OutputDocument>,
    /// Time from which its statement holds (RFC 3339, UTC).
    pub released: String,
    /// Commit of the sources.
    pub revision: String,
    /// Root hash.
    pub root_hash: String,
    /// [`SCHEMA`].
    pub schema: String,
    /// SHA-256 of the SubjectPublicKeyInfo of the key that signed the statements.
    pub signer: String,
    /// What was signed and logged.
    pub statements: Vec<Logged>,
    /// How it booted.
    pub trial: Trial,
    /// Values that a machine shows with this image, whatever machine it is: digests by bank.
    pub values: BTreeMap<String, BTreeMap<String, String>>,
    /// `production`, or the profile's name.
    pub variant: String,
    /// Commands that verify it.
    pub verify: Vec<String>,
    /// Version.
    pub version: String,
}

/// A statement in the log.
#[derive(Clone, Debug, Serialize)]
pub struct Logged {
    /// File name of the bundle.
    pub bundle: String,
    /// Number of the entry.
    pub index: u64,
    /// The log.
    pub origin: String,
    /// SHA-256 of the statement.
    pub statement: String,
}

impl Page {
    /// The page of a published release.
    pub fn of(
        outputs: &Outputs,
        channel: &str,
        trial: Trial,
        changes: Option<Changes>,
        companions: Vec<String>,
    ) -> Result<Self> {
        let image = outputs.document()?;
        let statements = [MEASURED_BOOT, PROVENANCE].into_iter().map(|suffix| logged(outputs, suffix));
        let statements = statements.collect::<Result<Vec<_>>>()?;
        Ok(Self {
            changes,
            channel: channel.to_owned(),
            companions,
            epoch: image.epoch,
            id: image.id,
            lock: hex::encode(image.lock.0),
            outputs: image.outputs,
            released: released(outputs)?,
            revision: image.revision,
            root_hash: image.root_hash,
            schema: SCHEMA.into(),
            signer: signer(outputs)?,
            statements,
            trial,
            values: values_of(outputs)?,
            variant: image.variant,
            verify: commands(&outputs.name(), channel),
            version: image.version,
        })
    }
}

fn commands(name: &str, channel: &str) -> Vec<String> {
    let bundle = format!("{name}.{MEASURED_BOOT}");
    let verify = format!("cairn verify {name}.raw --bundle {bundle} --trust-root {TRUST_ROOT}");
    vec![
        format!("{verify} --channel {}", channel_file(channel)),
        // Prints the commands of cosign and openssl, and makes the files that they read.
        format!("{verify} --show"),
        format!("cargo xtask rebuild {bundle}"),
    ]
}

fn json(outputs: &Outputs, suffix: &str) -> Result<Value> {
    let path = outputs.file(suffix);
    serde_json::from_slice(&outputs.read(suffix)?).with_context(|| format!("{} is not understood", path.display()))
}

/// Time from which the measured-boot statement holds.
fn released(outputs: &Outputs) -> Result<String> {
    let statement = json(outputs, "measured-boot.json")?;
    let time = statement["predicate"]["notBefore"].as_i64().and_then(|time| jiff::Timestamp::from_second(time).ok());
    let missing = || format!("{} has no time from which it holds", outputs.file("measured-boot.json").display());
    Ok(time.with_context(missing)?.to_string())
}

/// The key as the bundle names it: base64 of a digest.
fn signer(outputs: &Outputs) -> Result<String> {
    let bundle = json(outputs, MEASURED_BOOT)?;
    let hint = bundle["verificationMaterial"]["publicKey"]["hint"].as_str().and_then(|hint| STANDARD.decode(hint).ok());
    let missing = || format!("{} names no key", outputs.file(MEASURED_BOOT).display());
    Ok(hex::encode(hint.with_context(missing)?))
}

/// What the bundle says; it was verified when it was published.
fn logged(outputs: &Outputs, suffix: &str) -> Result<Logged> {
    let bundle = json(outputs, suffix)?;
    let path = outputs.file(suffix);
    let missing = |what: &str| format!("{} has no {what}", path.display());
    let entry = &bundle["verificationMaterial"]["tlogEntries"][0];
    // Protobuf's JSON leaves zeros out.
    let index = entry["logIndex"].as_str().unwrap_or("0").parse().with_context(|| missing("index"))?;
    let head = entry["inclusionProof"]["checkpoint"]["envelope"].as_str().with_context(|| missing("head"))?;
    let payload = bundle["dsseEnvelope"]["payload"].as_str().with_context(|| missing("payload"))?;
    let payload = STANDARD.decode(payload).with_context(|| missing("payload"))?;
    Ok(Logged {
        bundle: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        index,
        origin: head.lines().next().unwrap_or_default().to_owned(),
        statement: Sha256Digest::of(&payload).to_string(),
    })
}

/// Values among the subjects of the measured-boot statement: name, and digests by bank.
pub fn values_of(outputs: &Outputs) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let statement = json(outputs, "measured-boot.json")?;
    let mut values = BTreeMap::new();
    for subject in statement["subject"].as_array().into_iter().flatten() {
        let name = subject["name"].as_str().unwrap_or_default();
        if !name.starts_with("tpm:") {
            continue;
        }
        let digests = subject["digest"].as_object().into_iter().flatten();
        let digests = digests.filter_map(|(bank, digest)| Some((bank.clone(), digest.as_str()?.to_owned())));
        values.insert(name.to_owned(), digests.collect());
    }
    Ok(values)
}
