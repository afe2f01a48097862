//! Public areas (TPMT_PUBLIC, Part 2, section 12.2.4) and names (Part 1, section 16).
//!
//! An attestation key must be one that signs nothing but what its own TPM made: restricted, not for decryption, bound to this TPM, made by it. A key without these attributes could sign a quote that
//! somebody wrote by hand.

use sha2::{Digest, Sha256};

use super::reader::Reader;
use crate::{Code, Refusal};

const ALG_NULL: u16 = 0x10;
const ALG_SHA256: u16 = 0x0b;
const ALG_ECDSA: u16 = 0x18;
const ALG_ECC: u16 = 0x23;
const CURVE_P256: u16 = 0x03;
/// TPM_RH_ENDORSEMENT.
const ENDORSEMENT: u32 = 0x4000_000b;

/// TPMA_OBJECT (section 8.3).
mod attribute {
    pub const FIXED_TPM: u32 = 1 << 1;
    pub const FIXED_PARENT: u32 = 1 << 4;
    pub const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    pub const USER_WITH_AUTH: u32 = 1 << 6;
    pub const NO_DA: u32 = 1 << 10;
    pub const RESTRICTED: u32 = 1 << 16;
    pub const DECRYPT: u32 = 1 << 17;
    pub const SIGN: u32 = 1 << 18;
}

/// Attributes of the only attestation key that nodes create (`crates/node-tpm/src/keys.rs`).
const TEMPLATE: u32 = attribute::FIXED_TPM
    | attribute::FIXED_PARENT
    | attribute::SENSITIVE_DATA_ORIGIN
    | attribute::USER_WITH_AUTH
    | attribute::NO_DA
    | attribute::RESTRICTED
    | attribute::SIGN;

/// A key's name: the algorithm, then the digest of its public area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name([u8; 34]);

impl Name {
    fn of(bytes: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        bytes.iter().for_each(|bytes| hash.update(bytes));
        let mut name = [0; 34];
        name[..2].copy_from_slice(&ALG_SHA256.to_be_bytes());
        name[2..].copy_from_slice(&hash.finalize());
        Self(name)
    }

    /// As it stands in structures.
    pub fn as_bytes(&self) -> &[u8; 34] {
        &self.0
    }
}

/// An attestation key: its attributes were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestationKey {
    name: Name,
    /// The point, uncompressed (SEC 1, section 2.3.3).
    point: [u8; 65],
}

impl AttestationKey {
    /// Reads a public area (TPMT_PUBLIC), which must be of ECDSA over P-256 with SHA-256.
    ///
    /// # Errors
    /// [`Code::Malformed`], [`Code::AkAttributes`].
    pub fn parse(area: &[u8]) -> Result<Self, Refusal> {
        let refuse = |found: &str| Refusal::new(Code::AkAttributes, format!("the attestation key {found}"));
        let mut reader = Reader::new(area, "public area of the attestation key");
        let (kind, name_algorithm, attributes) = (reader.u16()?, reader.u16()?, reader.u32()?);
        if (kind, name_algorithm) != (ALG_ECC, ALG_SHA256) {
            return Err(refuse("is not of elliptic curves with names of SHA-256"));
        }
        use attribute::{DECRYPT, FIXED_PARENT, FIXED_TPM, RESTRICTED, SENSITIVE_DATA_ORIGIN, SIGN};
        for (bit, word) in [
            (FIXED_TPM, "fixedTPM"),
            (FIXED_PARENT, "fixedParent"),
            (SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin"),
            (RESTRICTED, "restricted"),
            (SIGN, "sign"),
        ] {
            if attributes & bit == 0 {
                return Err(refuse(&format!("is not {word}")));
            }
        }
        if attributes & DECRYPT != 0 {
            return Err(refuse("may also decrypt"));
        }
        // Protection against guessing changes nothing of what a key signs.
        if attributes | attribute::NO_DA != TEMPLATE {
            return Err(refuse(&format!(
                "has the attributes {attributes:#010x}, those of a node have {TEMPLATE:#010x}"
            )));
        }
        if !reader.sized()?.is_empty() {
            return Err(refuse("has a policy"));
        }
        if reader.u16()? != ALG_NULL {
            return Err(refuse("has a symmetric algorithm, which only storage keys have"));
        }
        if (reader.u16()?, reader.u16()?) != (ALG_ECDSA, ALG_SHA256) {
            return Err(refuse("does not sign by ECDSA with SHA-256 alone"));
        }
        if (reader.u16()?, reader.u16()?) != (CURVE_P256, ALG_NULL) {
            return Err(refuse("is not over P-256"));
        }
        let mut point = [0; 65];
        point[0] = 4;
        for half in point[1..].chunks_mut(32) {
            let number = reader.sized()?;
            // Leading zeros may be left out.
            let start =
                32_usize.checked_sub(number.len()).ok_or_else(|| reader.refuse("has a number of over 32 bytes"))?;
            half[start..].copy_from_slice(number);
        }
        reader.end()?;
        Ok(Self { name: Name::of(&[area]), point })
    }

    /// Its name.
    pub fn name(&self) -> Name {
        self.name
    }

    /// Its qualified name as a primary key of the endorsement hierarchy: "QN := H(QN of parent || name)" (Part 1, section 16).
    pub(super) fn qualified_name(&self) -> Name {
        Name::of(&[&ENDORSEMENT.to_be_bytes(), &self.name.0])
    }

    /// The point.
    pub(super) fn point(&self) -> &[u8; 65] {
        &self.point
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) const AK: u32 = TEMPLATE;

    /// A public area with this point and these attributes.
    pub(in super::super) fn area(point: &[u8], attributes: u32) -> Vec<u8> {
        let mut area = [ALG_ECC, ALG_SHA256].map(u16::to_be_bytes).concat();
        area.extend(attributes.to_be_bytes());
        area.extend([0, 0]);
        area.extend([ALG_NULL, ALG_ECDSA, ALG_SHA256, CURVE_P256, ALG_NULL].map(u16::to_be_bytes).concat());
        for number in point[1..].chunks(32) {
            area.extend(32_u16.to_be_bytes());
            area.extend(number);
        }
        area
    }

    #[test]
    fn a_key_that_could_sign_anything_is_none_for_attestation() {
        let point = [4; 65];
        let key = AttestationKey::parse(&area(&point, AK)).unwrap();
        assert_eq!(key.point()[1..], point[1..]);
        assert!(AttestationKey::parse(&area(&point, AK & !attribute::NO_DA)).is_ok());
        assert_eq!(key.name().as_bytes()[..2], [0, 0x0b]);
        for (attributes, word) in [
            (AK & !attribute::RESTRICTED, "restricted"),
            (AK & !attribute::FIXED_TPM, "fixedTPM"),
            (AK & !attribute::FIXED_PARENT, "fixedParent"),
            (AK & !attribute::SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin"),
            (AK & !attribute::SIGN, "sign"),
            (AK | attribute::DECRYPT, "decrypt"),
            (AK & !attribute::USER_WITH_AUTH, "attributes 0x00050432"),
            // stClear, adminWithPolicy.
            (AK | 1 << 2, "attributes"),
            (AK | 1 << 7, "attributes"),
        ] {
            let refusal = AttestationKey::parse(&area(&point, attributes)).unwrap_err();
            assert!(refusal.code == Code::AkAttributes && refusal.found.contains(word), "{refusal}");
        }
    }

    #[test]
    fn attestation_key_with_a_policy_is_rejected() {
        let good = area(&[4; 65], AK);
        assert!(AttestationKey::parse(&good).is_ok());
        let policy = [&[0, 32][..], &[7; 32]].concat();
        let refusal = AttestationKey::parse(&[&good[..8], &policy, &good[10..]].concat()).unwrap_err();
        assert!(refusal.code == Code::AkAttributes && refusal.found.contains("policy"), "{refusal}");
    }

    #[test]
    fn other_algorithms_and_damaged_areas_are_refused() {
        let good = area(&[4; 65], AK);
        for (at, code) in [(1, Code::AkAttributes), (3, Code::AkAttributes), (11, Code::AkAttributes)] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(AttestationKey::parse(&bad).unwrap_err().code, code, "byte {at}");
        }
        for length in 0..good.len() {
            assert!(AttestationKey::parse(&good[..length]).is_err(), "{length} bytes");
        }
        assert_eq!(AttestationKey::parse(&[&good[..], &[0]].concat()).unwrap_err().code, Code::Malformed);
    }
}
