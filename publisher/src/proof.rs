//! Before anything is called published, two programs that share no code must agree on its proof: ours, and the crate `sigstore`.

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use envelope::pre_authentication_encoding;
use serde_json::{Value, json};
use sigstore::crypto::{CosignVerificationKey, SigningScheme};
use sigstore::rekor::models::checkpoint::SignedCheckpoint;
use sigstore::rekor::models::inclusion_proof::InclusionProof;
use transparency::bundle::{Bundle, Entry};
use transparency::checkpoint::Note;
use transparency::key::Key;
use transparency::proof::root_of;
use transparency::statement::PAYLOAD_TYPE;
use transparency::tree::leaf;

/// A log that is believed: its key, and the origin in its heads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownLog {
    /// Its key.
    pub key: Key,
    /// First line of its heads.
    pub origin: String,
}

impl KnownLog {
    /// Reads `name+id+key` (C2SP signed-note), as logs make it known. Keys are of Ed25519.
    pub fn parse(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.trim().splitn(3, '+').collect();
        let [origin, id, key] = parts[..] else { bail!("{text:?} is no verifier key: NAME+ID+KEY is expected") };
        let bytes = STANDARD.decode(key).ok();
        let key = bytes.as_deref().and_then(|bytes| bytes.strip_prefix(&[1])).and_then(|key| key.try_into().ok());
        let key = Key::ed25519(key.with_context(|| format!("{text:?} has no key of Ed25519"))?);
        ensure!(
            hex::encode(&key.note_id(origin)[..4]) == id,
            "{text:?} contradicts itself: the id is that of another name or key"
        );
        Ok(Self { key, origin: origin.to_owned() })
    }
}

/// The bundle of an entry as the log gave it (TransparencyLogEntry).
pub fn bundle_of_answer(envelope: &envelope::Envelope, hint: &str, entry: &Value) -> Result<Bundle> {
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
    Bundle::parse(bundle.to_string().as_bytes())
        .map_err(|refusal| anyhow!("The log's answer is not understood: {refusal}"))
}

/// Makes sure that a bundle's entry is this signature's, and that one of these logs has it. Gives the log's origin.
pub fn check<'a>(bundle: &Bundle, key: &Key, logs: &'a [KnownLog]) -> Result<&'a str> {
    let payload = bundle
        .envelope
        .verify(PAYLOAD_TYPE, std::slice::from_ref(key.public()), 1)
        .context("The bundle is not signed by this key")?;
    let signed = pre_authentication_encoding(PAYLOAD_TYPE, &payload);
    let signature = bundle.signature().map_err(|refusal| anyhow!("{refusal}"))?;
    let entry = &bundle.entry;
    ensure!(
        entry.body == transparency::entry::body(&signed, &signature, key),
        "The log's entry is not made of this statement, signature and key"
    );
    let log = ours(entry, logs)?;
    sigstores(entry, log).context("The crate sigstore refuses a proof that our own verifier takes: report this")?;
    Ok(&log.origin)
}

fn ours<'a>(entry: &Entry, logs: &'a [KnownLog]) -> Result<&'a KnownLog> {
    let root = root_of(leaf(&entry.body), entry.index, entry.size, &entry.path);
    ensure!(root == Some(entry.root), "The log's proof does not lead from entry {} to the root", entry.index);
    let note = Note::parse(&entry.checkpoint).context("The log's head cannot be read")?;
    let head = &note.checkpoint;
    let is_of = |log: &&KnownLog| head.origin == log.origin && note.names_of(&log.key).any(|name| name == log.origin);
    let log = logs.iter().find(is_of).with_context(|| {
        let known: Vec<&str> = logs.iter().map(|log| log.origin.as_str()).collect();
        format!("The head of {:?} is signed by none of the known logs ({})", head.origin, known.join(", "))
    })?;
    ensure!((head.size, head.root) == (entry.size, entry.root), "The log's head is not that of its proof");
    ensure!(entry.log_id == log.key.note_id(&log.origin), "The log's answer names another log");
    Ok(log)
}

fn sigstores(entry: &Entry, log: &KnownLog) -> Result<()> {
    // Version 0.15 refuses heads with more than one signature: it is shown that of the log alone.
    let (head, signatures) = entry.checkpoint.split_once("\n\n").context("The head has no signature")?;
    let own = format!("\u{2014} {} ", log.origin);
    let own = signatures.lines().find(|line| line.starts_with(&own)).context("The head lacks the log's signature")?;
    let head: SignedCheckpoint = serde_json::from_value(Value::String(format!("{head}\n\n{own}\n")))?;
    let number = |value: u64| i64::try_from(value).context("A number that no log has");
    let scheme = match log.key.public() {
        envelope::PublicKey::Ed25519(_) => SigningScheme::ED25519,
        envelope::PublicKey::P256(_) => SigningScheme::ECDSA_P256_SHA256_ASN1,
    };
    let key = CosignVerificationKey::from_der(&log.key.spki(), &scheme)?;
    let size = number(entry.size)?.try_into().context("A size that no log has")?;
    let proof = InclusionProof::new(number(entry.index)?, entry.root, size, entry.path.clone(), Some(head));
    Ok(proof.verify(&entry.body, &key)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_key_that_contradicts_itself_is_refused() {
        let good = "log.cairn.invalid+11d33fc1+AZIa7syODAeiqqp2GpIOpgi5q5VS6TRDov2J1VHr2wyO";
        assert_eq!(KnownLog::parse(good).unwrap().origin, "log.cairn.invalid");
        for (from, to) in [("11d", "11e"), ("log.", "lag."), ("AZI", "BZI"), ("+AZ", "AZ"), ("yO", "")] {
            assert!(KnownLog::parse(&good.replacen(from, to, 1)).is_err(), "{to}");
        }
    }
}
