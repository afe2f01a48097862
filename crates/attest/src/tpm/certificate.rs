//! Certificates of endorsement keys (TCG EK Credential Profile for TPM Family 2.0, section 3): whoever made a TPM says that this key is of one of theirs.
//!
//! The asker names the authorities; a chain is one certificate long, so what is named is who issued it. Purpose, validity and signature are judged by `webpki`; that the certificate is of this very key is judged here.

use rsa::RsaPublicKey;
use rsa::pkcs1::DecodeRsaPublicKey as _;
use rsa::pkcs8::der::Decode as _;
use rsa::pkcs8::der::oid::ObjectIdentifier;
use rsa::pkcs8::spki::SubjectPublicKeyInfoRef;
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::EndorsementKey;
use crate::{Code, Refusal};

/// tcg-kp-EKCertificate, 2.23.133.8.1, as DER has it.
const PURPOSE: KeyUsage = KeyUsage::required(&[0x67, 0x81, 0x05, 0x08, 0x01]);
/// rsaEncryption, and id-RSAES-OAEP, which some makers write.
const RSA: [ObjectIdentifier; 2] =
    [ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1"), ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.7")];

/// Which of these authorities (X.509, DER) says, in this certificate (X.509, DER), that `key` is an endorsement key: SHA-256 of the authority's certificate. `now` is in seconds since 1970.
///
/// # Errors
/// [`Code::AkUnverified`].
pub fn certified(
    certificate: &[u8],
    authorities: &[Vec<u8>],
    key: &EndorsementKey,
    now: u64,
) -> Result<[u8; 32], Refusal> {
    let refuse = |found: String| Refusal::new(Code::AkUnverified, format!("the endorsement key's certificate {found}"));
    // Chips pad what they store.
    let certificate = CertificateDer::from(whole(certificate).unwrap_or(certificate));
    let parsed = EndEntityCert::try_from(&certificate).map_err(|error| refuse(format!("is none: {error}")))?;
    let certified = rsa_key(&parsed.subject_public_key_info()).ok_or_else(|| refuse("has no key of RSA".into()))?;
    if certified != *key.rsa() {
        return Err(refuse("is of another key than the node's".into()));
    }
    let time = UnixTime::since_unix_epoch(core::time::Duration::from_secs(now));
    let mut problem = "is issued by none of the authorities that were named".to_owned();
    for authority in authorities {
        let anchor = CertificateDer::from(&authority[..]);
        let anchor = anchor_from_trusted_cert(&anchor);
        let anchor = anchor.map_err(|error| refuse(format!("has an authority whose certificate is none: {error}")))?;
        match parsed.verify_for_usage(ALL_VERIFICATION_ALGS, &[anchor], &[], time, PURPOSE, None, None) {
            Ok(_) => return Ok(Sha256::digest(authority).into()),
            Err(webpki::Error::UnknownIssuer) => {}
            Err(error) => problem = format!("does not hold: {error}"),
        }
    }
    Err(refuse(problem))
}

/// The first DER value of these bytes.
fn whole(bytes: &[u8]) -> Option<&[u8]> {
    let (&[0x30, 0x82, high, low], _) = bytes.split_first_chunk::<4>()? else { return None };
    bytes.get(..4 + usize::from(u16::from_be_bytes([high, low])))
}

fn rsa_key(spki: &[u8]) -> Option<RsaPublicKey> {
    let spki = SubjectPublicKeyInfoRef::from_der(spki).ok()?;
    let is_rsa = RSA.contains(&spki.algorithm.oid);
    is_rsa.then(|| RsaPublicKey::from_pkcs1_der(spki.subject_public_key.raw_bytes()).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::super::credential::tests::endorsement_key;
    use super::*;

    const CERTIFICATE: &[u8] = include_bytes!("../../tests/recorded/ek-certificate/ek.der");
    const ISSUER: &[u8] = include_bytes!("../../tests/recorded/ek-certificate/issuer.der");
    const ROOT: &[u8] = include_bytes!("../../tests/recorded/ek-certificate/root.der");
    /// For another purpose: of the platform.
    const PLATFORM: &[u8] = include_bytes!("../../tests/recorded/ek-certificate/platform.der");
    const NOW: u64 = 1_800_000_000;

    fn key() -> EndorsementKey {
        let certificate = CertificateDer::from(CERTIFICATE);
        let parsed = EndEntityCert::try_from(&certificate).unwrap();
        endorsement_key(&rsa_key(&parsed.subject_public_key_info()).unwrap())
    }

    fn found(certificate: &[u8], authorities: &[&[u8]], now: u64) -> String {
        let authorities: Vec<Vec<u8>> = authorities.iter().map(|authority| authority.to_vec()).collect();
        certified(certificate, &authorities, &key(), now).unwrap_err().found
    }

    #[test]
    fn the_authority_that_issued_it_is_named() {
        let authorities = [ROOT.to_vec(), ISSUER.to_vec()];
        let issuer: [u8; 32] = Sha256::digest(ISSUER).into();
        assert_eq!(certified(CERTIFICATE, &authorities, &key(), NOW).unwrap(), issuer);
        // Chips pad it.
        let padded = [CERTIFICATE, &[0xff; 300]].concat();
        assert_eq!(certified(&padded, &authorities, &key(), NOW).unwrap(), issuer);
    }

    #[test]
    fn whatever_else_is_no_certificate_of_this_key() {
        let mut signature = CERTIFICATE.to_vec();
        *signature.last_mut().unwrap() ^= 1;
        for (what, certificate, authorities, now, words) in [
            ("no authority", CERTIFICATE, &[][..], NOW, "none of the authorities"),
            ("a root alone", CERTIFICATE, &[ROOT], NOW, "none of the authorities"),
            ("another authority", CERTIFICATE, &[CERTIFICATE], NOW, "none of the authorities"),
            ("a changed signature", &signature[..], &[ISSUER], NOW, "does not hold"),
            ("before its time", CERTIFICATE, &[ISSUER], 1_700_000_000, "does not hold"),
            ("another purpose", PLATFORM, &[ISSUER], NOW, "does not hold"),
            ("of another key", ISSUER, &[ROOT], NOW, "another key"),
            ("nothing", &[], &[ISSUER], NOW, "is none"),
            ("cut short", &CERTIFICATE[..500], &[ISSUER], NOW, "is none"),
            ("an authority that is none", CERTIFICATE, &[b"x"], NOW, "authority whose certificate is none"),
        ] {
            let found = found(certificate, authorities, now);
            assert!(found.contains(words), "{what}: {found}");
        }
    }
}
