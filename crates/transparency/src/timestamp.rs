//! Timestamps (RFC 3161): an authority says when it saw a signature. A token is CMS signed data (RFC 5652) over the time and the SHA-256 of that signature.
//! Whoever publishes asks with a [`Request`]; whoever verifies asks the [`Authority`]'s certificate.
//!
//! The authority is known by its own certificate, which the trust root has: chains are not followed, certificates in the token are ignored, and so is the attribute that names one of them (RFC 5816): a
//! token of another certificate with the same key is a token of this key.

use cms::content_info::ContentInfo;
use cms::signed_data::{SignedData, SignerInfo};
use der::asn1::{Int, ObjectIdentifier, OctetString};
use der::{Decode, Encode};
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::ext::pkix::ExtendedKeyUsage;
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_tsp::{MessageImprint, TimeStampReq, TimeStampResp, TspVersion, TstInfo};

/// Larger responses and certificates are not read.
const LARGEST: usize = 32 << 10;

const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const TST_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
const TIME_STAMPING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.8");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// A request for a timestamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    nonce: Int,
    bytes: Vec<u8>,
}

impl Request {
    /// The request for SHA-256 of `signed`, and for the authority's certificate beside its answer, which other verifiers look for there. By the nonce, random bytes, an old answer is told from a new one.
    ///
    /// # Errors
    /// Those of the encoding.
    pub fn new(signed: &[u8], nonce: [u8; 16]) -> der::Result<Self> {
        let mut nonce = nonce;
        // Positive, and with no byte in vain, as DER wants it.
        nonce[0] = nonce[0] & 0x3f | 0x40;
        let nonce = Int::new(&nonce)?;
        let request = TimeStampReq {
            version: TspVersion::V1,
            message_imprint: MessageImprint {
                hash_algorithm: AlgorithmIdentifierOwned { oid: SHA256, parameters: None },
                hashed_message: OctetString::new(Sha256::digest(signed).as_slice())?,
            },
            req_policy: None,
            nonce: Some(nonce.clone()),
            cert_req: true,
            extensions: None,
        };
        Ok(Self { nonce, bytes: request.to_der()? })
    }

    /// TimeStampReq in DER.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether a response is the answer to this request. What it says is judged by [`Authority::time_of`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn is_answered_by(&self, response: &[u8]) -> Result<(), String> {
        let token = Token::parse(response).ok_or("it is no timestamp, or none was granted")?;
        if token.info.nonce.as_ref() != Some(&self.nonce) {
            return Err("it is the answer to another request".into());
        }
        Ok(())
    }
}

/// An authority, known by its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The key's bits: a point, or RSAPublicKey.
    key: Vec<u8>,
    kind: Kind,
    not_before: u64,
    not_after: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    P256,
    P384,
    Rsa,
}

impl Authority {
    /// Reads its certificate; none if it is no certificate for timestamps alone, or of a key that is not known.
    pub fn parse(certificate: &[u8]) -> Option<Self> {
        if certificate.len() > LARGEST {
            return None;
        }
        let certificate = Certificate::from_der(certificate).ok()?.tbs_certificate;
        let (critical, usage) = certificate.get::<ExtendedKeyUsage>().ok()??;
        if !critical || usage.0 != [TIME_STAMPING] {
            return None;
        }
        let key = &certificate.subject_public_key_info;
        let curve = || key.algorithm.parameters.as_ref()?.decode_as::<ObjectIdentifier>().ok();
        let kind = match key.algorithm.oid {
            RSA => Kind::Rsa,
            EC if curve() == Some(P256) => Kind::P256,
            EC if curve() == Some(P384) => Kind::P384,
            _ => return None,
        };
        Some(Self {
            key: key.subject_public_key.as_bytes()?.to_vec(),
            kind,
            not_before: certificate.validity.not_before.to_unix_duration().as_secs(),
            not_after: certificate.validity.not_after.to_unix_duration().as_secs(),
        })
    }

    /// When it saw this signature, in seconds since 1970.
    ///
    /// # Errors
    /// What is wrong with the response.
    pub fn time_of(&self, response: &[u8], signed: &[u8]) -> Result<u64, String> {
        let token = Token::parse(response).ok_or("the timestamp cannot be read, or was not granted")?;
        let imprint = &token.info.message_imprint;
        if imprint.hash_algorithm.oid != SHA256
            || imprint.hashed_message.as_bytes() != Sha256::digest(signed).as_slice()
        {
            return Err("the timestamp is of something else".into());
        }
        if !self.has_signed(&token) {
            return Err("the timestamp is not signed by the authority".into());
        }
        let time = token.info.gen_time.to_unix_duration().as_secs();
        if time < self.not_before || time > self.not_after {
            return Err(format!("the authority's certificate was not valid at {time}"));
        }
        Ok(time)
    }

    /// CMS: the attributes name content and digest, and the signature is over the attributes (RFC 5652, section 5.4).
    fn has_signed(&self, token: &Token) -> bool {
        let Some(attributes) = &token.signer.signed_attrs else { return false };
        let value = |name: ObjectIdentifier| {
            let mut found = attributes.iter().filter(|attribute| attribute.oid == name);
            let attribute = found.next().filter(|attribute| attribute.values.len() == 1)?;
            found.next().is_none().then(|| attribute.values.get(0)).flatten()
        };
        let content = value(CONTENT_TYPE).and_then(|value| value.decode_as::<ObjectIdentifier>().ok());
        let digest = value(MESSAGE_DIGEST).and_then(|value| value.decode_as::<OctetString>().ok());
        let Some(expected) = hash(token.signer.digest_alg.oid, &token.content) else { return false };
        if content != Some(TST_INFO) || digest.is_none_or(|digest| digest.as_bytes() != expected) {
            return false;
        }
        let (Ok(signed), Some(algorithm)) = (attributes.to_der(), self.algorithm(&token.signer)) else { return false };
        UnparsedPublicKey::new(algorithm, &self.key).verify(&signed, token.signer.signature.as_bytes()).is_ok()
    }

    /// What the signer says that it used, if this key can: the hash is named in the signature's algorithm, or, with plain RSA, beside it.
    fn algorithm(&self, signer: &SignerInfo) -> Option<&'static dyn VerificationAlgorithm> {
        let named = signer.signature_algorithm.oid.to_string();
        let hash = match (self.kind, named.as_str()) {
            (Kind::P256 | Kind::P384, "1.2.840.10045.4.3.2") | (Kind::Rsa, "1.2.840.113549.1.1.11") => SHA256,
            (Kind::P256 | Kind::P384, "1.2.840.10045.4.3.3") | (Kind::Rsa, "1.2.840.113549.1.1.12") => SHA384,
            (Kind::Rsa, "1.2.840.113549.1.1.13") => SHA512,
            (Kind::Rsa, "1.2.840.113549.1.1.1") => signer.digest_alg.oid,
            _ => return None,
        };
        Some(match (self.kind, hash) {
            (Kind::P256, SHA256) => &signature::ECDSA_P256_SHA256_ASN1,
            (Kind::P256, SHA384) => &signature::ECDSA_P256_SHA384_ASN1,
            (Kind::P384, SHA256) => &signature::ECDSA_P384_SHA256_ASN1,
            (Kind::P384, SHA384) => &signature::ECDSA_P384_SHA384_ASN1,
            (Kind::Rsa, SHA256) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (Kind::Rsa, SHA384) => &signature::RSA_PKCS1_2048_8192_SHA384,
            (Kind::Rsa, SHA512) => &signature::RSA_PKCS1_2048_8192_SHA512,
            _ => return None,
        })
    }
}

struct Token {
    signer: SignerInfo,
    /// The bytes of `info`.
    content: Vec<u8>,
    info: TstInfo,
}

impl Token {
    fn parse(response: &[u8]) -> Option<Self> {
        if response.len() > LARGEST {
            return None;
        }
        let response = TimeStampResp::from_der(response).ok()?;
        // PKIStatus: granted, or granted with modifications (RFC 3161, section 2.4.2).
        if !matches!(response.status.status as u32, 0 | 1) {
            return None;
        }
        let ContentInfo { content_type: SIGNED_DATA, content } = response.time_stamp_token? else { return None };
        let data: SignedData = content.decode_as().ok()?;
        if data.encap_content_info.econtent_type != TST_INFO {
            return None;
        }
        let content = data.encap_content_info.econtent?.decode_as::<OctetString>().ok()?.into_bytes();
        let signers = data.signer_infos.0.into_vec();
        let [signer] = <[SignerInfo; 1]>::try_from(signers).ok()?;
        let info = TstInfo::from_der(&content).ok()?;
        Some(Self { signer, content, info })
    }
}

fn hash(algorithm: ObjectIdentifier, bytes: &[u8]) -> Option<Vec<u8>> {
    match algorithm {
        SHA256 => Some(Sha256::digest(bytes).to_vec()),
        SHA384 => Some(Sha384::digest(bytes).to_vec()),
        SHA512 => Some(Sha512::digest(bytes).to_vec()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! recorded {
        ($name:literal) => {
            include_bytes!(concat!("../tests/recorded/openssl/", $name))
        };
    }

    #[test]
    fn a_request_is_read_as_it_was_made_and_answered_by_its_own_nonce_only() {
        for first in [0x00, 0x40, 0x80, 0xff] {
            let request = Request::new(b"a signature", [first; 16]).unwrap();
            let read = TimeStampReq::from_der(request.bytes()).unwrap();
            assert!(read.cert_req);
            assert_eq!(read.message_imprint.hashed_message.as_bytes(), Sha256::digest(b"a signature").as_slice());
            assert_eq!(read.nonce, Some(request.nonce.clone()));
            // OpenSSL was asked without one.
            assert!(request.is_answered_by(recorded!("p256.tsr")).unwrap_err().contains("another request"));
            assert!(request.is_answered_by(b"<html>").unwrap_err().contains("no timestamp"));
        }
    }

    #[test]
    fn tokens_of_openssl_are_read() {
        let (p256, p384, rsa): (&[u8], &[u8], &[u8]) =
            (recorded!("p256.der"), recorded!("p384.der"), recorded!("rsa.der"));
        let (of_p256, of_p384, of_rsa): (&[u8], &[u8], &[u8]) =
            (recorded!("p256.tsr"), recorded!("p384.tsr"), recorded!("rsa.tsr"));
        let with_certificate: &[u8] = recorded!("p256-certificate.tsr");
        for (certificate, token) in [(p256, of_p256), (p384, of_p384), (rsa, of_rsa), (p256, with_certificate)] {
            let authority = Authority::parse(certificate).unwrap();
            assert_eq!(authority.time_of(token, b"a signature"), Ok(1_795_567_812));
            assert!(authority.time_of(token, b"another").is_err());
            for other in [of_p256, of_p384, of_rsa].into_iter().filter(|other| *other != token) {
                assert!(authority.time_of(other, b"a signature").is_err() || token == with_certificate);
            }
        }
    }
}
