//! Parsers of what node, broker and asker say to each other: answers of HTTP, messages of KRP/1, envelopes, documents of a cluster, and checkpoints.

use std::fmt::Debug;

use attest::cluster::{BrokerCertificate, CERTIFICATE_TYPE, Cluster, Hints};
use attest::hpke::Context;
use attest::message::{
    self, Ack, Challenge, Commit, DiskState, Evidence, Hello, Hold, NodeCertificate, Refused, Release, Resume,
};
use attest::runtime::{Activate, Activated, Answer, Question, by_certificate};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use connection::http;
use envelope::Envelope;
use measurements::canonical::{self, Document};
use sha2::{Digest, Sha256};
use state_disk::id;
use transparency::checkpoint::Checkpoint;

use super::{known, read};

/// An answer of HTTP, or the beginning of one.
pub fn http_response(bytes: &[u8]) {
    if let Some(response) = read(http::parse(bytes, http::LARGEST)).flatten() {
        assert!(bytes.ends_with(&response.body) && response.body.len() <= http::LARGEST);
    }
}

/// What a node sends its broker: one document, whichever it says it is.
pub fn krp_request(bytes: &[u8]) {
    let hello = message::<Hello>(bytes);
    if let Some(Hello { disk: DiskState::Luks { uuid, .. }, .. }) = hello {
        assert!(id::parse(&uuid).is_none_or(|id| id::write(&id) == uuid));
    }
    message::<Evidence>(bytes);
    message::<Commit>(bytes);
    message::<Resume>(bytes);
}

/// What a broker answers: the documents that it sends as they are, and those that it signs.
pub fn krp_reply(bytes: &[u8]) {
    message::<Hold>(bytes);
    message::<Refused>(bytes);
    signed::<Challenge>(bytes);
    signed::<Ack>(bytes);
    signed::<NodeCertificate>(bytes);
    if let Some(release) = signed::<Release>(bytes) {
        read(known::private_key().open(&release.share, Context::Release(&release.transcript.0)));
    }
}

/// An envelope, which is of one kind at most.
pub fn envelope(bytes: &[u8]) {
    let key = known::signed_by();
    let opened = [
        read(message::open::<Challenge>(bytes, &key)).is_some(),
        read(message::open::<Release>(bytes, &key)).is_some(),
        read(message::open::<Ack>(bytes, &key)).is_some(),
        read(message::open::<NodeCertificate>(bytes, &key)).is_some(),
        read(known::cluster().certificate(bytes)).is_some(),
    ];
    assert!(opened.into_iter().filter(|opened| *opened).count() <= 1);
}

/// The documents of a cluster: `cluster.json`, `hints.json`, and the certificate of a broker, signed by its root key.
pub fn cluster(bytes: &[u8]) {
    if let Some(cluster) = read(Cluster::read(bytes)) {
        assert_eq!(cluster.write().ok().as_deref(), Some(bytes));
    }
    if let Some(hints) = read(Hints::read(bytes)) {
        assert_eq!(canonical::write(&hints).ok().as_deref(), Some(bytes));
    }
    let signed = in_envelope(CERTIFICATE_TYPE, bytes);
    if let Some(certificate) = read(known::cluster().certificate(&signed)) {
        assert_eq!(canonical::write::<BrokerCertificate>(&certificate).ok().as_deref(), Some(bytes));
    }
}

/// What a running node is asked, and what it shows.
pub fn runtime(bytes: &[u8]) {
    message::<Question>(bytes);
    message::<Activate>(bytes);
    message::<Activated>(bytes);
    if let Some(answer) = message::<Answer>(bytes) {
        read(by_certificate(&answer, &known::cluster(), None, 0));
    }
}

/// A checkpoint of an audit log; once as it is, and once signed.
pub fn checkpoint(bytes: &[u8]) {
    checkpoint_is_accepted(bytes);
}

/// As it is, and signed.
pub fn checkpoint_is_accepted(bytes: &[u8]) -> [bool; 2] {
    let Ok(note) = std::str::from_utf8(bytes) else { return [false; 2] };
    let body = note.split_once("\n\n").map_or(note, |(body, _)| body);
    let (origin, key) = (known::ORIGIN, known::signed_by().0);
    let id = Sha256::new().chain_update(origin).chain_update([b'\n', 1]).chain_update(key).finalize();
    let signature = known::signer().sign(format!("{body}\n").as_bytes());
    let signature = STANDARD.encode([&id[..4], signature.as_ref()].concat());
    [note, &format!("{body}\n\n\u{2014} {origin} {signature}\n")].map(is_head)
}

/// Whether it is the head of the known log: then its first lines are those that are written.
fn is_head(note: &str) -> bool {
    let Some(checkpoint) = read(Checkpoint::open(note, known::ORIGIN, &known::signed_by().0)) else { return false };
    let again = checkpoint.sign(&known::signer());
    let (body, _) = again.split_once("\n\n").expect("signatures follow");
    assert!(note.starts_with(&format!("{body}\n")));
    true
}

/// A message, which has no other bytes than these.
fn message<M: Document>(bytes: &[u8]) -> Option<M> {
    let (message, digest) = read(message::read::<M>(bytes))?;
    let written = message::write(&message).ok();
    assert_eq!(written.map(|sent| (sent.bytes, sent.digest)), Some((bytes.to_vec(), digest)));
    Some(message)
}

/// A message that is in an envelope, signed by the expected key: it is read as it is read without one.
fn signed<M: Document + Debug + PartialEq>(payload: &[u8]) -> Option<M> {
    let envelope = in_envelope(&message::payload_type::<M>(), payload);
    let opened = read(message::open::<M>(&envelope, &known::signed_by())).map(|(message, _)| message);
    assert_eq!(opened, message::<M>(payload));
    opened
}

fn in_envelope(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let envelope = Envelope::sign(payload_type, payload, "", &known::signer());
    serde_json::to_vec(&envelope).expect("an envelope has only text")
}
