//! Parsers of what is published: bundles, statements, channels, trust roots, and timestamps.

use envelope::{Envelope, PublicKey};
use transparency::air_gap::{AirGap, Anchor};
use transparency::bundle::Bundle;
use transparency::key::Key;
use transparency::statement::channel::Channel;
use transparency::statement::measured_boot::MeasuredBoot;
use transparency::statement::provenance::Provenance;
use transparency::statement::{MOST_SUBJECTS, Predicate, Statement};
use transparency::timestamp::Authority;
use transparency::trust_root::{PAYLOAD_TYPE, TrustRoot};
use transparency::verify;

use super::{known, read};

/// When they are read, seconds since 1970.
const NOW: u64 = 1_800_000_000;

/// A bundle: it is written as it was read, and verified against the known trust root.
pub fn bundle(bytes: &[u8]) {
    if let Some(bundle) = read(Bundle::parse(bytes)) {
        let written = bundle.write().expect("what was read is written");
        assert_eq!(Bundle::parse(&written).as_ref(), Ok(&bundle));
        let root = known::trust_root();
        read(verify::logged::<MeasuredBoot>(bytes, &root, NOW));
        read(verify::logged::<Channel>(bytes, &root, NOW));
    }
}

/// An air-gap file: it is written as it was read, and its trust roots are believed because of one that is known.
pub fn air_gap(bytes: &[u8]) {
    if let Some(air_gap) = read(AirGap::read(bytes)) {
        assert_eq!(air_gap.write().ok().as_deref(), Some(bytes));
        assert!(air_gap.roots(None).is_err());
        read(air_gap.roots(Some(&Anchor::Roots(vec![known::signed_trust_root()]))));
        assert!(air_gap.roots(Some(&Anchor::Digest(air_gap.first_root()))).is_ok());
    }
}

/// A statement of what is measured, or of how an image was made.
pub fn statement(bytes: &[u8]) {
    said::<MeasuredBoot>(bytes);
    said::<Provenance>(bytes);
}

/// The state of a channel.
pub fn channel(bytes: &[u8]) {
    if let Some(statement) = said::<Channel>(bytes) {
        let channel = statement.predicate();
        assert!(channel.releases.iter().all(|release| channel.standing(&release.statement).is_some()));
    }
}

/// A trust root, signed as it is, and signed by the known root key.
pub fn trust_root(bytes: &[u8]) {
    read(TrustRoot::first(bytes));
    let envelope = Envelope::sign(PAYLOAD_TYPE, bytes, "", &known::signer());
    let signed = serde_json::to_vec(&envelope).expect("an envelope has only text");
    if let Some(root) = read(TrustRoot::first(&signed)) {
        assert_eq!(root.document().write().ok().as_deref(), Some(bytes));
        read(known::trust_root().next(&signed));
    }
}

/// The response of a timestamp authority, or the certificate of one.
pub fn timestamp(bytes: &[u8]) {
    if let Some(authority) = Authority::parse(bytes) {
        assert!(authority.time_of(bytes, b"a signature").is_err());
    }
    let authority = Authority::parse(known::AUTHORITY).expect("the recorded certificate is one");
    read(authority.time_of(bytes, b"a signature"));
}

/// A statement, which has no other bytes than these.
fn said<P: Predicate>(bytes: &[u8]) -> Option<Statement<P>> {
    let statement = read(Statement::<P>::read(bytes))?;
    assert!(statement.subjects().len() <= MOST_SUBJECTS);
    assert_eq!(statement.write().ok().as_deref(), Some(bytes));
    Some(statement)
}

/// The key that signs what is published.
pub fn release_key() -> Key {
    Key::new(PublicKey::P256(known::POINT.to_vec())).expect("the base point has the length of one")
}
