//! A fake of everything that publishing needs: keys, a log, two witnesses, a timestamp authority. It is honest unless it is asked not to be. The real log server is tried elsewhere; this one makes what that never would.

#![allow(dead_code, clippy::unwrap_used)]

pub mod authority;
pub mod documents;

use envelope::{Envelope, pre_authentication_encoding};
use measurements::bytes::{Bytes32, Hex};
use measurements::canonical::Document;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use transparency::bundle::{Bundle, Entry};
use transparency::checkpoint::Checkpoint;
use transparency::key::Key;
use transparency::statement::PAYLOAD_TYPE;
use transparency::tree::{Frontier, Hash, leaf};
use transparency::trust_root::{
    self, Log, RootKeys, SigningKey, TrustRoot, TrustRootDocument, Use, Witness, Witnesses,
};
use transparency::{entry, proof};

use authority::FakeAuthority;

/// When everything happens, if nothing else is said.
pub const NOW: u64 = 1_800_000_000;
/// Origin of the log.
pub const ORIGIN: &str = "log.test.invalid";
/// Names of the witnesses.
pub const WITNESSES: [&str; 2] = ["one.witness.test.invalid", "two.witness.test.invalid"];

/// Before the point of a key of P-256 (RFC 5480).
const P256_SPKI: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200";

/// A key of P-256, and its public half.
pub struct Signer {
    pair: EcdsaKeyPair,
    pub key: Key,
}

impl Signer {
    pub fn new() -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let prefix = hex::decode(P256_SPKI).unwrap();
        let spki = [&prefix, pair.public_key().as_ref()].concat();
        Self { pair, key: Key::from_spki(&spki).unwrap() }
    }

    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(&SystemRandom::new(), bytes).unwrap().as_ref().to_vec()
    }
}

/// A key of Ed25519.
pub fn ed25519(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

/// Its public half.
pub fn public(key: &Ed25519KeyPair) -> [u8; 32] {
    key.public_key().as_ref().try_into().unwrap()
}

/// Everything that publishing needs.
pub struct Fake {
    /// When everything happens.
    pub now: u64,
    /// Signs releases, machine references and channels.
    pub signer: Signer,
    /// Sign rebuilds; nobody, if nothing else is said.
    pub rebuilders: Vec<Signer>,
    pub log: Ed25519KeyPair,
    pub witnesses: [Ed25519KeyPair; 2],
    pub roots: [Ed25519KeyPair; 3],
    pub authority: FakeAuthority,
    /// What is in the log.
    pub leaves: Vec<Hash>,
}

impl Fake {
    /// With a few entries of others in the log.
    pub fn new() -> Self {
        Self::at(NOW)
    }

    /// The same, at another time.
    pub fn at(now: u64) -> Self {
        Self {
            now,
            signer: Signer::new(),
            rebuilders: Vec::new(),
            log: ed25519(1),
            witnesses: [ed25519(2), ed25519(3)],
            roots: [ed25519(4), ed25519(5), ed25519(6)],
            authority: FakeAuthority::new(now - 1000, now + 1000),
            leaves: (0..5_u8).map(|other| leaf(&[other])).collect(),
        }
    }

    /// The trust root that names all of these; both witnesses and two of three root keys are needed.
    pub fn trust_root(&self) -> TrustRootDocument {
        let witness =
            |(name, key): (&&str, &Ed25519KeyPair)| Witness { key: Bytes32(public(key)), name: (*name).into() };
        let signing = |signer: &Signer, uses| SigningKey {
            key: Hex(signer.key.spki()),
            not_after: self.now + 500,
            not_before: self.now - 500,
            uses,
        };
        let releases = signing(&self.signer, vec![Use::Image, Use::Machine, Use::Channel]);
        let rebuilders = self.rebuilders.iter().map(|signer| signing(signer, vec![Use::Rebuild]));
        TrustRootDocument {
            keys: std::iter::once(releases).chain(rebuilders).collect(),
            logs: vec![Log { key: Hex(Key::ed25519(public(&self.log)).spki()), origin: ORIGIN.into() }],
            root: RootKeys { keys: self.roots.iter().map(|key| Bytes32(public(key))).collect(), threshold: 2 },
            schema: TrustRootDocument::SCHEMA.into(),
            timestamp_authorities: vec![Hex(self.authority.certificate.clone())],
            validity: vec![],
            version: 1,
            witnesses: Witnesses { keys: WITNESSES.iter().zip(&self.witnesses).map(witness).collect(), threshold: 2 },
        }
    }

    /// Signs whatever is said to be a trust root, by two of three root keys.
    pub fn sign_trust_root(&self, payload: &[u8]) -> Vec<u8> {
        let mut envelope = Envelope::sign(trust_root::PAYLOAD_TYPE, payload, "", &self.roots[0]);
        envelope.join(Envelope::sign(trust_root::PAYLOAD_TYPE, payload, "", &self.roots[1])).unwrap();
        serde_json::to_vec(&envelope).unwrap()
    }

    /// The signed trust root, read.
    pub fn trusted(&self, document: &TrustRootDocument) -> TrustRoot {
        TrustRoot::first(&self.sign_trust_root(&document.write().unwrap())).unwrap()
    }

    /// Signs, logs and timestamps a statement.
    pub fn publish(&mut self, statement: &[u8]) -> Bundle {
        let signature = self.signer.sign(&pre_authentication_encoding(PAYLOAD_TYPE, statement));
        self.publish_signed(statement, signature, self.signer.key.clone())
    }

    /// The same, signed by the rebuilder with this number.
    pub fn publish_rebuild(&mut self, rebuilder: usize, statement: &[u8]) -> Bundle {
        let signer = &self.rebuilders[rebuilder];
        let signature = signer.sign(&pre_authentication_encoding(PAYLOAD_TYPE, statement));
        self.publish_signed(statement, signature, signer.key.clone())
    }

    fn publish_signed(&mut self, statement: &[u8], signature: Vec<u8>, key: Key) -> Bundle {
        let signed = pre_authentication_encoding(PAYLOAD_TYPE, statement);
        let body = entry::body(&signed, &signature, &key);
        Bundle {
            hint: key.hint(),
            envelope: Envelope::with_signature(PAYLOAD_TYPE, statement, "", &signature),
            entry: self.append(body),
            timestamps: vec![self.authority.stamp(&signature, self.now)],
        }
    }

    fn append(&mut self, body: Vec<u8>) -> Entry {
        self.leaves.push(leaf(&body));
        let (index, size) = (self.leaves.len() as u64 - 1, self.leaves.len() as u64);
        let path = proof::inclusion_ranges(index, size).into_iter().map(|range| self.root(range)).collect();
        let head = Checkpoint { origin: ORIGIN.into(), size, root: self.root((0, size)) };
        let log_id = Key::ed25519(public(&self.log)).note_id(ORIGIN);
        Entry { index, log_id, body, size, root: head.root, path, checkpoint: self.note(&head) }
    }

    /// The head, signed by the log and seen by both witnesses.
    pub fn note(&self, head: &Checkpoint) -> String {
        let seen = WITNESSES.iter().zip(&self.witnesses).map(|(name, key)| head.cosign(name, key, self.now - 10));
        head.sign(&self.log) + &seen.collect::<String>()
    }

    /// Root of these leaves.
    pub fn root(&self, (first, end): (u64, u64)) -> Hash {
        let mut tree = Frontier::default();
        self.leaves[first as usize..end as usize].iter().for_each(|leaf| tree.append(*leaf));
        tree.root()
    }
}
