//! DSSE envelopes (Dead Simple Signing Envelope, protocol and envelope specification 1.0): a payload, its type, and signatures over both. Each kind of message has a payload type of its own, so that a
//! signature for one is none for another.
//!
//! A payload is handed out only after enough distinct expected keys have signed it. Signatures are Ed25519 (RFC 8032).

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::{Code, Refusal};

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
    keyid: String,
    sig: String,
}

/// A public key of Ed25519, and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// Its name: a hint, never believed.
    pub id: String,
    /// Its 32 bytes.
    pub bytes: [u8; 32],
}

/// PAE, which is what is signed: "DSSEv1", then length and bytes of type and payload.
fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend(payload);
    bytes
}

impl Envelope {
    /// Signs a payload.
    pub fn sign(payload_type: &str, payload: &[u8], key_id: &str, key: &Ed25519KeyPair) -> Self {
        let signature = key.sign(&pre_authentication_encoding(payload_type, payload));
        Self {
            payload: STANDARD.encode(payload),
            payload_type: payload_type.to_owned(),
            signatures: vec![Signature { keyid: key_id.to_owned(), sig: STANDARD.encode(signature) }],
        }
    }

    /// Reads an envelope; nothing of it is believed yet.
    ///
    /// # Errors
    /// [`Code::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let refuse = |found: String| Refusal::new(Code::Malformed, found);
        if bytes.len() > LARGEST {
            return Err(refuse(format!("an envelope of {} bytes", bytes.len())));
        }
        let envelope: Self = serde_json::from_slice(bytes).map_err(|error| refuse(format!("the envelope: {error}")))?;
        if envelope.signatures.len() > MOST_SIGNATURES {
            return Err(refuse(format!("an envelope with {} signatures", envelope.signatures.len())));
        }
        Ok(envelope)
    }

    /// The payload, if `least` of these keys have signed it as this type.
    ///
    /// # Errors
    /// [`Code::EnvelopeSignature`], [`Code::Malformed`].
    pub fn verify(&self, payload_type: &str, keys: &[PublicKey], least: usize) -> Result<Vec<u8>, Refusal> {
        if self.payload_type != payload_type {
            let found = format!("the envelope is a {:?}, a {payload_type:?} is expected", self.payload_type);
            return Err(Refusal::new(Code::EnvelopeSignature, found));
        }
        let decode = |text: &str| {
            STANDARD.decode(text).map_err(|error| Refusal::new(Code::Malformed, format!("the envelope: {error}")))
        };
        let payload = decode(&self.payload)?;
        let signed = pre_authentication_encoding(payload_type, &payload);
        let mut signers = BTreeSet::new();
        for signature in &self.signatures {
            let bytes = decode(&signature.sig)?;
            let is_by = |key: &&PublicKey| UnparsedPublicKey::new(&ED25519, key.bytes).verify(&signed, &bytes).is_ok();
            signers.extend(keys.iter().find(is_by).map(|key| key.bytes));
        }
        if least == 0 || signers.len() < least {
            let found = format!("{} of {least} expected signatures are there", signers.len());
            return Err(Refusal::new(Code::EnvelopeSignature, found));
        }
        Ok(payload)
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::KeyPair as _;

    use super::*;

    const TYPE: &str = "application/vnd.cairn.challenge+json";

    fn key(seed: u8) -> (Ed25519KeyPair, PublicKey) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let bytes = pair.public_key().as_ref().try_into().unwrap();
        (pair, PublicKey { id: seed.to_string(), bytes })
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
        let code =
            |envelope: &Envelope, keys: &[PublicKey], least| envelope.verify(TYPE, keys, least).unwrap_err().code;
        assert_eq!(code(&envelope, &keys, 2), Code::EnvelopeSignature);
        assert_eq!(code(&envelope, &[other], 1), Code::EnvelopeSignature);
        assert_eq!(code(&envelope, &keys, 0), Code::EnvelopeSignature, "no signature is never enough");
        // The same key twice is one key.
        envelope.signatures.extend(Envelope::sign(TYPE, b"{}", "x", &one).signatures);
        assert_eq!(code(&envelope, &keys, 2), Code::EnvelopeSignature);
        envelope.signatures.extend(Envelope::sign(TYPE, b"{}", "2", &two).signatures);
        assert_eq!(envelope.verify(TYPE, &keys, 2).unwrap(), b"{}");
        assert_eq!(envelope.verify("another", &keys, 1).unwrap_err().code, Code::EnvelopeSignature);
        let changed = Envelope { payload: STANDARD.encode("[]"), ..envelope };
        assert_eq!(code(&changed, &[one_public], 1), Code::EnvelopeSignature);
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
            assert_eq!(Envelope::parse(bad.as_bytes()).unwrap_err().code, Code::Malformed);
        }
    }
}
