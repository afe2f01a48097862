//! Public keys as documents and bundles have them: a SubjectPublicKeyInfo (RFC 5280, section 4.1) of ECDSA on P-256 or of Ed25519, in DER. Each of the two has exactly one form, so it is compared, not parsed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use envelope::PublicKey;
use sha2::{Digest, Sha256};

/// Before the 32 bytes of an Ed25519 key (RFC 8410).
const ED25519: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Before the 65 bytes of a point on P-256 (RFC 5480).
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Signature type of Ed25519 in signed notes (C2SP signed-note).
const NOTE_ED25519: u8 = 1;

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(PublicKey);

impl Key {
    /// A SubjectPublicKeyInfo; none if it is of another kind.
    pub fn from_spki(spki: &[u8]) -> Option<Self> {
        if let Some(key) = spki.strip_prefix(&ED25519) {
            return Some(Self(PublicKey::Ed25519(key.try_into().ok()?)));
        }
        let point = spki.strip_prefix(&P256)?;
        (point.len() == 65 && point[0] == 4).then(|| Self(PublicKey::P256(point.to_vec())))
    }

    /// A key; none if its point is compressed.
    pub fn new(key: PublicKey) -> Option<Self> {
        Self::from_spki(&Self(key).spki())
    }

    /// A key of Ed25519.
    pub fn ed25519(key: [u8; 32]) -> Self {
        Self(PublicKey::Ed25519(key))
    }

    /// The key as envelopes take it.
    pub fn public(&self) -> &PublicKey {
        &self.0
    }

    /// Its SubjectPublicKeyInfo.
    pub fn spki(&self) -> Vec<u8> {
        match &self.0 {
            PublicKey::Ed25519(key) => [&ED25519[..], key].concat(),
            PublicKey::P256(point) => [&P256[..], point].concat(),
        }
    }

    /// SHA-256 of its SubjectPublicKeyInfo, by which trust roots and people name it.
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(self.spki()).into()
    }

    /// The hint by which bundles name it, as cosign writes it.
    pub fn hint(&self) -> String {
        STANDARD.encode(self.fingerprint())
    }

    /// Id of this key for notes with this name (C2SP signed-note); its first four bytes stand in notes. That of ECDSA does not depend on the name.
    pub fn note_id(&self, name: &str) -> [u8; 32] {
        match &self.0 {
            PublicKey::Ed25519(key) => note_id(name, NOTE_ED25519, key),
            PublicKey::P256(_) => self.fingerprint(),
        }
    }
}

/// `SHA-256(name || "\n" || type || key)`.
pub(crate) fn note_id(name: &str, kind: u8, key: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(name).chain_update([b'\n', kind]).chain_update(key).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_form() {
        let ed25519 = Key::ed25519([7; 32]);
        let p256 = Key(PublicKey::P256([&[4][..], &[9; 64]].concat()));
        for key in [ed25519, p256] {
            let spki = key.spki();
            assert_eq!(Key::from_spki(&spki), Some(key));
            assert_eq!(Key::from_spki(&spki[..spki.len() - 1]), None);
            assert_eq!(Key::from_spki(&[&spki[..], &[0]].concat()), None);
            assert_eq!(Key::from_spki(&spki[1..]), None);
        }
    }
}
