//! Templates of keys (TPMT_PUBLIC, TCG TPM 2.0 Library, Part 2, section 12.2.4): the endorsement key of the EK Credential Profile, attestation keys, and keys that look like one and must not be taken for it.

const ALG_RSA: u16 = 0x01;
const ALG_AES: u16 = 0x06;
const ALG_SHA256: u16 = 0x0b;
pub(super) const ALG_NULL: u16 = 0x10;
const ALG_ECDSA: u16 = 0x18;
const ALG_ECC: u16 = 0x23;
const ALG_CFB: u16 = 0x43;
const CURVE_P256: u16 = 0x03;
const RSA_BITS: u16 = 2048;

/// TPMA_OBJECT (section 8.3).
mod attribute {
    pub const FIXED_TPM: u32 = 1 << 1;
    pub const FIXED_PARENT: u32 = 1 << 4;
    pub const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    pub const USER_WITH_AUTH: u32 = 1 << 6;
    pub const ADMIN_WITH_POLICY: u32 = 1 << 7;
    pub const NO_DA: u32 = 1 << 10;
    pub const RESTRICTED: u32 = 1 << 16;
    pub const DECRYPT: u32 = 1 << 17;
    pub const SIGN: u32 = 1 << 18;
}

/// PolicySecret of the endorsement hierarchy (EK Credential Profile 2.5, annex B.6.2: PolicyA with SHA-256).
const ENDORSEMENT_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7,
    0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];

/// What a signing key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigningKey {
    /// An attestation key: it signs only what its own TPM made. Each number gives another.
    Attestation(u8),
    /// It signs whatever it is given.
    Unrestricted,
    /// Restricted, and yet it may be taken to another TPM.
    Duplicable,
}

/// Template L-1: RSA 2048, restricted decryption. The key is made for it, so its modulus is empty, of full length.
pub(super) fn endorsement() -> Vec<u8> {
    endorsement_area(&[0; RSA_BITS as usize / 8])
}

/// Public area of an endorsement key of template L-1 with this modulus.
pub fn endorsement_area(modulus: &[u8; RSA_BITS as usize / 8]) -> Vec<u8> {
    use attribute::{ADMIN_WITH_POLICY, DECRYPT, FIXED_PARENT, FIXED_TPM, RESTRICTED, SENSITIVE_DATA_ORIGIN};
    let attributes = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | ADMIN_WITH_POLICY | RESTRICTED | DECRYPT;
    let mut area = [ALG_RSA, ALG_SHA256].map(u16::to_be_bytes).concat();
    area.extend(attributes.to_be_bytes());
    area.extend((ENDORSEMENT_POLICY.len() as u16).to_be_bytes());
    area.extend(ENDORSEMENT_POLICY);
    area.extend([ALG_AES, 128, ALG_CFB, ALG_NULL, RSA_BITS].map(u16::to_be_bytes).concat());
    // The default exponent.
    area.extend([0; 4]);
    area.extend((RSA_BITS / 8).to_be_bytes());
    area.extend(modulus);
    area
}

/// Template of a signing key of ECDSA over P-256 with SHA-256: it is derived from the bytes that stand for the point, too.
pub(super) fn signing(key: SigningKey) -> Vec<u8> {
    let number = if let SigningKey::Attestation(number) = key { number } else { 0 };
    signing_area(key, &[number; 32], &[0; 32])
}

/// Public area of a signing key of this kind with this point.
pub fn signing_area(key: SigningKey, x: &[u8; 32], y: &[u8; 32]) -> Vec<u8> {
    use attribute::{FIXED_PARENT, FIXED_TPM, NO_DA, RESTRICTED, SENSITIVE_DATA_ORIGIN, SIGN, USER_WITH_AUTH};
    let common = SENSITIVE_DATA_ORIGIN | USER_WITH_AUTH | NO_DA | SIGN;
    let attributes = match key {
        SigningKey::Attestation(_) => common | FIXED_TPM | FIXED_PARENT | RESTRICTED,
        SigningKey::Unrestricted => common | FIXED_TPM | FIXED_PARENT,
        SigningKey::Duplicable => common | RESTRICTED,
    };
    let mut area = [ALG_ECC, ALG_SHA256].map(u16::to_be_bytes).concat();
    area.extend(attributes.to_be_bytes());
    // No policy, no symmetric algorithm.
    area.extend([0, ALG_NULL, ALG_ECDSA, ALG_SHA256, CURVE_P256, ALG_NULL].map(u16::to_be_bytes).concat());
    for number in [x, y] {
        area.extend(32_u16.to_be_bytes());
        area.extend(number);
    }
    area
}
