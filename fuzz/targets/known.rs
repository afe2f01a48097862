//! What the targets know beforehand, as a node, a broker or a verifier does: keys, a cluster, a conversation. All of it is made of fixed bytes, so that the corpus can be signed and sealed, and is used nowhere else.

use attest::binding::{Binding, Purpose, Transcript};
use attest::bytes::{Bytes32, Hex};
use attest::cluster::{Assurance, Cluster, Device, Keys, Slot};
use attest::hpke::PrivateKey;
use envelope::Envelope;
use measurements::canonical::Document;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use sha2::{Digest, Sha256};
use transparency::key::Key;
use transparency::trust_root::{Log, RootKeys, Witness, Witnesses};
use transparency::trust_root::{PAYLOAD_TYPE, SigningKey, TrustRoot, TrustRootDocument, Use};
use zeroize::Zeroizing;

use super::releases::release_key;

/// Id of the disk whose header was recorded.
pub const DISK: &str = "0b5f6c6e-0000-4000-8000-000000000001";
/// Its bytes.
pub const DISK_BYTES: [u8; 16] = [0x0b, 0x5f, 0x6c, 0x6e, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 1];
/// The log whose checkpoints are read.
pub const ORIGIN: &str = "cairn/audit";
/// Public area of an attestation key up to its point: fixed to its TPM, restricted, signing by ECDSA with SHA-256.
const AREA: &[u8] = &[0, 0x23, 0, 0x0b, 0, 5, 0, 0x72, 0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10];
/// The base point of P-256 (SEC 2, section 2.4.2), which is the public key of the private key 1.
pub const POINT: &[u8; 65] = b"\x04\
    \x6b\x17\xd1\xf2\xe1\x2c\x42\x47\xf8\xbc\xe6\xe5\x63\xa4\x40\xf2\x77\x03\x7d\x81\x2d\xeb\x33\xa0\xf4\xa1\x39\x45\xd8\x98\xc2\x96\
    \x4f\xe3\x42\xe2\xfe\x1a\x7f\x9b\x8e\xe7\xeb\x4a\x7c\x0f\x9e\x16\x2b\xce\x33\x57\x6b\x31\x5e\xce\xcb\xb6\x40\x68\x37\xbf\x51\xf5";

/// Signs messages, certificates and checkpoints.
pub fn signer() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[1; 32]).expect("any seed is one")
}

/// The public half of [`signer`].
pub fn signed_by() -> Bytes32 {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(signer().public_key().as_ref());
    Bytes32(bytes)
}

/// The certificate of a timestamp authority.
pub const AUTHORITY: &[u8] = include_bytes!("../../crates/transparency/tests/recorded/openssl/p256.der");

/// The document of [`trust_root`].
pub fn trust_root_document() -> TrustRootDocument {
    TrustRootDocument {
        keys: vec![SigningKey {
            key: Hex(release_key().spki()),
            not_after: 2_000_000_000,
            not_before: 1_000_000_000,
            uses: vec![Use::Image, Use::Channel],
        }],
        logs: vec![Log { key: Hex(Key::ed25519(signed_by().0).spki()), origin: ORIGIN.into() }],
        root: RootKeys { keys: vec![signed_by()], threshold: 1 },
        schema: TrustRootDocument::SCHEMA.into(),
        timestamp_authorities: vec![Hex(AUTHORITY.to_vec())],
        validity: vec![],
        version: 1,
        witnesses: Witnesses { keys: vec![Witness { key: Bytes32([9; 32]), name: "witness".into() }], threshold: 1 },
    }
}

/// The file of [`trust_root`].
pub fn signed_trust_root() -> Vec<u8> {
    let payload = trust_root_document().write().expect("it does not contradict itself");
    let envelope = Envelope::sign(PAYLOAD_TYPE, &payload, "", &signer());
    serde_json::to_vec(&envelope).expect("an envelope has only text")
}

/// The trust root whose only root key, and only log, is [`signer`].
pub fn trust_root() -> TrustRoot {
    TrustRoot::first(&signed_trust_root()).expect("it is signed")
}

/// The cluster whose only root key is [`signer`].
pub fn cluster() -> Cluster {
    Cluster {
        assurance: Assurance::TpmVirtual,
        broker: Keys { keys: vec![signed_by()], threshold: 1 },
        epoch: 2,
        id: Hex(vec![7; 16]),
        recovery: Keys { keys: vec![Bytes32([8; 32])], threshold: 1 },
        schema: Cluster::SCHEMA.into(),
        slots: vec![Slot { device: Device::OnlyOther, layout: None, mount: "/var".into(), name: "state".into() }],
    }
}

/// What shares are sealed to, for a boot and for recovery.
pub fn private_key() -> PrivateKey {
    PrivateKey::from_seed(&Zeroizing::new([2; 32]))
}

/// The key of a disk's generation block.
pub fn generation_key() -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &[3; 32])
}

/// What the recorded quote is bound to.
pub fn binding() -> Binding<'static> {
    Binding {
        transcript: Transcript::new(&[1; 32], &[2; 32], &[3; 32]),
        hpke_key: b"key",
        ak_name: b"name",
        purpose: Purpose::Unlock,
        disk_id: b"disk",
        header_digest: b"header",
    }
}

/// Signs quotes: an attestation key that no TPM keeps to itself.
pub fn quoter() -> EcdsaKeyPair {
    let mut private = [0; 32];
    private[31] = 1;
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    EcdsaKeyPair::from_private_key_and_public_key(algorithm, &private, POINT, &SystemRandom::new())
        .expect("the base point is the key of 1")
}

/// The public area of [`quoter`].
pub fn quoter_area() -> Vec<u8> {
    let mut area = AREA.to_vec();
    for number in POINT[1..].chunks(32) {
        area.extend([0, 32]);
        area.extend(number);
    }
    area
}

/// The qualified name of [`quoter`], which its quotes name: that of a primary key of the endorsement hierarchy.
pub fn quoter_name() -> Vec<u8> {
    let name = [&[0, 0x0b], &Sha256::digest(quoter_area())[..]].concat();
    let qualified = Sha256::new().chain_update([0x40, 0, 0, 0x0b]).chain_update(name).finalize();
    [&[0, 0x0b], &qualified[..]].concat()
}
