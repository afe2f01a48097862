//! A fake timestamp authority (RFC 3161): real tokens, of a certificate that it made itself.

use cms::cert::x509::ext::pkix::SubjectKeyIdentifier;
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{EncapsulatedContentInfo, SignedData, SignerIdentifier, SignerInfo, SignerInfos};
use der::asn1::{GeneralizedTime, Int, OctetString, SetOfVec};
use der::oid::ObjectIdentifier;
use der::{Any, Encode};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use sha2::{Digest, Sha256};
use x509_cert::attr::Attribute;
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_tsp::{MessageImprint, TspVersion, TstInfo};

const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const TST_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
/// Extended key usage (2.5.29.37) and the purpose timeStamping, as a sequence of one.
const USAGE: &[u64] = &[2, 5, 29, 37];
const TIME_STAMPING: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x08];

/// What differs from an honest token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lie {
    /// Nothing.
    #[default]
    None,
    /// The request was rejected.
    Rejected,
    /// The attributes name another content.
    OtherDigest,
    /// There are no attributes.
    NoAttributes,
    /// Two signers.
    TwoSigners,
    /// The content is called data.
    OtherContent,
}

/// The authority.
pub struct FakeAuthority {
    signer: rcgen::KeyPair,
    /// Its certificate.
    pub certificate: Vec<u8>,
}

impl FakeAuthority {
    /// Its certificate is valid in this time.
    pub fn new(not_before: u64, not_after: u64) -> Self {
        Self::with_usage(not_before, not_after, true, TIME_STAMPING)
    }

    /// With another usage in its certificate.
    pub fn with_usage(not_before: u64, not_after: u64, critical: bool, usage: &[u8]) -> Self {
        let signer = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        let at = |time: u64| rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(time);
        (parameters.not_before, parameters.not_after) = (at(not_before), at(not_after));
        let mut extension = CustomExtension::from_oid_content(USAGE, usage.to_vec());
        extension.set_criticality(critical);
        parameters.custom_extensions = vec![extension];
        let certificate = parameters.self_signed(&signer).unwrap().der().to_vec();
        Self { signer, certificate }
    }

    /// A response: this signature was seen at this time.
    pub fn stamp(&self, signature: &[u8], time: u64) -> Vec<u8> {
        self.lie(signature, time, Lie::None)
    }

    /// A response with a lie.
    pub fn lie(&self, signature: &[u8], time: u64, lie: Lie) -> Vec<u8> {
        let algorithm = |oid| AlgorithmIdentifierOwned { oid, parameters: None };
        let info = TstInfo {
            version: TspVersion::V1,
            policy: ObjectIdentifier::new_unwrap("1.2.3.4.1"),
            message_imprint: MessageImprint {
                hash_algorithm: algorithm(SHA256),
                hashed_message: OctetString::new(Sha256::digest(signature).to_vec()).unwrap(),
            },
            serial_number: Int::new(&[7]).unwrap(),
            gen_time: GeneralizedTime::from_unix_duration(std::time::Duration::from_secs(time)).unwrap(),
            accuracy: None,
            ordering: false,
            nonce: None,
            tsa: None,
            extensions: None,
        };
        let content = info.to_der().unwrap();
        let mut digest = Sha256::digest(&content).to_vec();
        digest[0] ^= u8::from(lie == Lie::OtherDigest);
        let attribute = |oid, value| Attribute { oid, values: SetOfVec::try_from(vec![value]).unwrap() };
        let attributes = SetOfVec::try_from(vec![
            attribute(CONTENT_TYPE, Any::from(TST_INFO)),
            attribute(MESSAGE_DIGEST, Any::encode_from(&OctetString::new(digest).unwrap()).unwrap()),
        ])
        .unwrap();
        let (signed, attributes) = match lie {
            Lie::NoAttributes => (content.clone(), None),
            _ => (attributes.to_der().unwrap(), Some(attributes)),
        };
        let signer = SignerInfo {
            version: CmsVersion::V3,
            sid: SignerIdentifier::SubjectKeyIdentifier(SubjectKeyIdentifier(OctetString::new(vec![1]).unwrap())),
            digest_alg: algorithm(SHA256),
            signed_attrs: attributes,
            signature_algorithm: algorithm(ECDSA_SHA256),
            signature: OctetString::new(self.sign(&signed)).unwrap(),
            unsigned_attrs: None,
        };
        let mut signers = vec![signer.clone()];
        if lie == Lie::TwoSigners {
            signers.push(SignerInfo { version: CmsVersion::V1, ..signer });
        }
        let data = SignedData {
            version: CmsVersion::V3,
            digest_algorithms: SetOfVec::try_from(vec![algorithm(SHA256)]).unwrap(),
            encap_content_info: EncapsulatedContentInfo {
                econtent_type: if lie == Lie::OtherContent { SIGNED_DATA } else { TST_INFO },
                econtent: Some(Any::encode_from(&OctetString::new(content).unwrap()).unwrap()),
            },
            certificates: None,
            crls: None,
            signer_infos: SignerInfos::try_from(signers).unwrap(),
        };
        let token = ContentInfo { content_type: SIGNED_DATA, content: Any::encode_from(&data).unwrap() };
        let status = [0x30, 0x03, 0x02, 0x01, if lie == Lie::Rejected { 2 } else { 0 }];
        let body = [&status[..], &token.to_der().unwrap()].concat();
        Any::new(der::Tag::Sequence, body).unwrap().to_der().unwrap()
    }

    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        rcgen::SigningKey::sign(&self.signer, bytes).unwrap()
    }
}
