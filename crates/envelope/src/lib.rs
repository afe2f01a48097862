//! DSSE envelopes (Dead Simple Signing Envelope, protocol and envelope specification 1.0): a payload, its type, and signatures over both. Each kind of message has a payload type of its own, so that a
//! signature for one is none for another.
//!
//! A payload is handed out only after enough distinct expected keys have signed it. Signatures of messages are Ed25519 (RFC 8032), those of releases ECDSA with P-256 and SHA-256, in ASN.1.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, Ed25519KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

/// Larger envelopes are not read.
const LARGEST: usize = 1 << 20;
/// More signatures than any message of ours has.
const MOST_SIGNATURES: usize = 16;

/// An envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Envelope {
    /// The payload, base64.
    payload: String,
    /// What it is.
    payload_type: String,
    /// Who signed it.
    signatures: Vec<Signature>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    /// Optional in the specification, and always written.
    #[serde(default)]
    keyid: String,
    sig: String,
}

/// Why an envelope is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is none.
    #[error("the envelope: {0}")]
    Malformed(String),
    /// It is an envelope of another type.
    #[error("the envelope is a {found:?}, a {expected:?} is expected")]
    Type {
        /// What it says.
        found: String,
        /// What is expected.
        expected: String,
    },
    /// Too few expected keys have signed it.
    #[error("{found} of {expected} expected signatures are there")]
    Signatures {
        /// Expected keys that have signed.
        found: usize,
        /// How many must have.
        expected: usize,
    },
}

/// A public key that may have signed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PublicKey {
    /// Of Ed25519: its 32 bytes.
    Ed25519([u8; 32]),
    /// Of ECDSA on P-256: its point, not compressed (65 bytes).
    P256(Vec<u8>),
}

impl PublicKey {
    /// Whether this key made this signature of these bytes.
    pub fn has_signed(&self, signed: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(signed, signature).is_ok(),
            Self::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(signed, signature).is_ok()
            }
        }
    }
}

/// PAE, which is what is signed: "DSSEv1", then length and bytes of type and payload.
pub fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend(payload);
    bytes
}

impl Envelope {
    /// Signs a payload.
    pub fn sign(payload_type: &str, payload: &[u8], key_id: &str, key: &Ed25519KeyPair) -> Self {
        let signature = key.sign(&pre_authentication_encoding(payload_type, payload));
        Self::with_signature(payload_type, payload, key_id, signature.as_ref())
    }

    /// An envelope with one signature that was made elsewhere, of its [`pre_authentication_encoding`].
    pub fn with_signature(payload_type: &str, payload: &[u8], key_id: &str, signature: &[u8]) -> Self {
        Self {
            payload: STANDARD.encode(payload),
            payload_type: payload_type.to_owned(),
            signatures: vec![Signature { keyid: key_id.to_owned(), sig: STANDARD.encode(signature) }],
        }
    }

    /// Adds the signatures of another envelope with the same content.
    ///
    /// # Errors
    /// [`Error::Malformed`] where the content differs.
    pub fn join(&mut self, other: Self) -> Result<(), Error> {
        if (&self.payload, &self.payload_type) != (&other.payload, &other.payload_type) {
            return Err(Error::Malformed("the other envelope has another content".into()));
        }
        for signature in other.signatures {
            if !self.signatures.contains(&signature) {
                self.signatures.push(signature);
            }
        }
        Ok(())
    }

    /// What it says it is.
    pub fn payload_type(&self) -> &str {
        &self.payload_type
    }

    /// The payload, which nobody vouches for yet.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn unverified_payload(&self) -> Result<Vec<u8>, Error> {
        decode(&self.payload)
    }

    /// Its signatures and what they say of their keys, not verified.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn signatures(&self) -> Result<Vec<(&str, Vec<u8>)>, Error> {
        self.signatures.iter().map(|signature| Ok((signature.keyid.as_str(), decode(&signature.sig)?))).collect()
    }

    /// Reads an envelope; nothing of it is believed yet.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > LARGEST {
            return Err(Error::Malformed(format!("it has {} bytes, at most {LARGEST} are read", bytes.len())));
        }
        let envelope: Self = serde_json::from_slice(bytes).map_err(|error| Error::Malformed(error.to_string()))?;
        if envelope.signatures.len() > MOST_SIGNATURES {
            return Err(Error::Malformed(format!("it has {} signatures", envelope.signatures.len())));
        }
        Ok(envelope)
    }

    /// The payload, if `least` of these keys have signed it as this type.
    ///
    /// # Errors
    /// [`Error`].
    pub fn verify(&self, payload_type: &str, keys: &[PublicKey], least: usize) -> Result<Vec<u8>, Error> {
        if self.payload_type != payload_type {
            return Err(Error::Type { found: self.payload_type.clone(), expected: payload_type.into() });
        }
        let payload = decode(&self.payload)?;
        let signed = pre_authentication_encoding(payload_type, &payload);
        let mut signers = BTreeSet::new();
        for (_, signature) in self.signatures()? {
            signers.extend(keys.iter().find(|key| key.has_signed(&signed, &signature)));
        }
        if least == 0 || signers.len() < least {
            return Err(Error::Signatures { found: signers.len(), expected: least });
        }
        Ok(payload)
    }
}

fn decode(text: &str) -> Result<Vec<u8>, Error> {
    STANDARD.decode(text).map_err(|error| Error::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

    use super::*;

    const TYPE: &str = "application/vnd.cairn.challenge+json";

    fn key(seed: u8) -> (Ed25519KeyPair, PublicKey) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let public = PublicKey::Ed25519(pair.public_key().as_ref().try_into().unwrap());
        (pair, public)
    }

    #[test]
    fn the_encoding_is_that_of_the_specification() {
        let encoded = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world");
        assert_eq!(encoded, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn a_payload_comes_out_only_with_enough_expected_signatures() {
        let ((one, one_public), (two, two_public), (_, other)) = (key(1), key(2), key(3));
        let mut envelope = Envelope::sign(TYPE, b"{}", "1", &one);
        let keys = [one_public.clone(), two_public];
        assert_eq!(envelope.verify(TYPE, &keys, 1).unwrap(), b"{}");
        let error = |envelope: &Envelope, keys: &[PublicKey], least| envelope.verify(TYPE, keys, least).unwrap_err();
        let of = |found, expected| Error::Signatures { found, expected };
        assert_eq!(error(&envelope, &keys, 2), of(1, 2));
        assert_eq!(error(&envelope, &[other], 1), of(0, 1));
        assert_eq!(error(&envelope, &keys, 0), of(1, 0), "no signature is never enough");
        // The same key twice is one key.
        envelope.signatures.extend(Envelope::sign(TYPE, b"{}", "x", &one).signatures);
        assert_eq!(error(&envelope, &keys, 2), of(1, 2));
        envelope.join(Envelope::sign(TYPE, b"{}", "2", &two)).unwrap();
        assert_eq!(envelope.verify(TYPE, &keys, 2).unwrap(), b"{}");
        assert!(envelope.join(Envelope::sign(TYPE, b"[]", "2", &two)).is_err());
        assert!(matches!(envelope.verify("another", &keys, 1), Err(Error::Type { .. })));
        let changed = Envelope { payload: STANDARD.encode("[]"), ..envelope };
        assert_eq!(error(&changed, &[one_public], 1), of(0, 1));
    }

    #[test]
    fn signatures_of_p256_count_as_those_of_ed25519() {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let public = PublicKey::P256(pair.public_key().as_ref().to_vec());
        let signature = pair.sign(&random, &pre_authentication_encoding(TYPE, b"{}")).unwrap();
        let mut envelope = Envelope::with_signature(TYPE, b"{}", "", signature.as_ref());
        assert_eq!(envelope.verify(TYPE, std::slice::from_ref(&public), 1).unwrap(), b"{}");
        assert_eq!(envelope.signatures().unwrap(), [("", signature.as_ref().to_vec())]);
        let (one, one_public) = key(1);
        envelope.join(Envelope::sign(TYPE, b"{}", "1", &one)).unwrap();
        assert!(envelope.verify(TYPE, &[public, one_public], 2).is_ok());
        assert!(envelope.verify(TYPE, &[key(2).1], 1).is_err());
    }

    #[test]
    fn what_is_no_envelope_is_refused() {
        let good = serde_json::to_string(&Envelope::sign(TYPE, b"{}", "1", &key(1).0)).unwrap();
        assert!(Envelope::parse(good.as_bytes()).is_ok());
        for bad in [
            String::new(),
            good.replacen("payload", "unknown", 1),
            good.replacen("{\"payload\"", "{\"more\":1,\"payload\"", 1),
            good.replacen('{', &format!("{{{}", " ".repeat(LARGEST)), 1),
        ] {
            assert!(matches!(Envelope::parse(bad.as_bytes()), Err(Error::Malformed(_))));
        }
    }
}
