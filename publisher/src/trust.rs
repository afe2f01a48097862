//! Whom a publisher believes. Before anything is called published, everybody who may be asked about it later is asked now: our own chain of checks, and the verifiers of others.

use anyhow::{Context, Result, anyhow, bail};
use envelope::Envelope;
use measurements::bytes::{Bytes32, Hex};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use transparency::bundle::Bundle;
use transparency::key::Key;
use transparency::statement::Predicate;
use transparency::statement::channel::Channel;
use transparency::statement::measured_boot::MeasuredBoot;
use transparency::statement::provenance::Provenance;
use transparency::statement::rebuild::Rebuild;
use transparency::trust_root::{PAYLOAD_TYPE, RootKeys, SigningKey, TrustRoot, TrustRootDocument, Use, Witnesses};
use transparency::verify::{Evidence, logged};

use crate::known::{known_log, refused};

const DAY: u64 = 86_400;

/// The trust root of whoever believes a release key, these logs and this authority's certificate today, and asks for no witness.
pub fn of_keys(release: &Key, logs: &[String], authority: Option<Vec<u8>>, now: u64) -> Result<TrustRoot> {
    // A trust root is signed: by a key that nobody keeps.
    let failed = |error| anyhow!("Failed to make a key: {error}");
    let root =
        Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| failed("no random numbers".to_owned()))?;
    let root = Ed25519KeyPair::from_pkcs8(root.as_ref()).map_err(|error| failed(error.to_string()))?;
    let public = root.public_key().as_ref().try_into().context("A key of another length")?;
    let uses = vec![Use::Channel, Use::Image, Use::Machine, Use::Rebuild];
    let document = TrustRootDocument {
        keys: vec![SigningKey { key: Hex(release.spki()), not_after: now.saturating_add(DAY), not_before: 0, uses }],
        logs: logs.iter().map(|text| known_log(text)).collect::<Result<_>>()?,
        root: RootKeys { keys: vec![Bytes32(public)], threshold: 1 },
        schema: "cairn.trust-root/1".into(),
        timestamp_authorities: authority.into_iter().map(Hex).collect(),
        validity: vec![],
        version: 1,
        witnesses: Witnesses { keys: vec![], threshold: 0 },
    };
    let bytes = document.write().map_err(refused)?;
    let envelope = Envelope::sign(PAYLOAD_TYPE, &bytes, "", &root);
    TrustRoot::first(&serde_json::to_vec(&envelope)?).map_err(refused)
}

/// The bundle of an entry as the log gave it (TransparencyLogEntry).
pub fn bundle_of_answer(envelope: &Envelope, hint: &str, entry: &Value) -> Result<Bundle> {
    let mut entry = entry.clone();
    if let Some(fields) = entry.as_object_mut() {
        // The log writes what it has not as null, which protobuf's JSON leaves out elsewhere.
        fields.retain(|_, value| !value.is_null());
    }
    let bundle = json!({
        "dsseEnvelope": envelope,
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": [entry]},
    });
    Bundle::parse(bundle.to_string().as_bytes()).map_err(refused).context("The log's answer is not understood")
}

/// Verifies a bundle as everybody will.
pub fn verify(bundle: &[u8], predicate_type: &str, root: &TrustRoot, now: u64) -> Result<Evidence> {
    let evidence = match predicate_type {
        MeasuredBoot::TYPE => logged::<MeasuredBoot>(bundle, root, now).map(|logged| logged.evidence),
        Channel::TYPE => logged::<Channel>(bundle, root, now).map(|logged| logged.evidence),
        Provenance::TYPE => logged::<Provenance>(bundle, root, now).map(|logged| logged.evidence),
        Rebuild::TYPE => logged::<Rebuild>(bundle, root, now).map(|logged| logged.evidence),
        other => bail!("A statement of the type {other:?} is not published"),
    };
    let evidence = evidence.map_err(refused).context("Verifiers would refuse it")?;
    second_opinion::ask(bundle, root).with_context(|| second_opinion::NEXT)?;
    Ok(evidence)
}
