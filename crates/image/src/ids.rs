//! Identifiers and salts that follow from the release: `HMAC-SHA-256(release seed, label)`.
//!
//! Nothing in an image is random. A UUID is the first 16 bytes with the version (8, custom) and variant bits of RFC 9562
//! section 5.8 set; another label gives another value, another release gives others for all labels.

use ring::hmac;
use uuid::Uuid;

/// Root of all identifiers of one release.
#[derive(Clone, Debug)]
pub struct ReleaseSeed(hmac::Key);

impl ReleaseSeed {
    /// The seed of the release `id`, `version`, `variant`.
    pub fn new(id: &str, version: &str, variant: &str) -> Self {
        let name = format!("cairn release\n{id}\n{version}\n{variant}\n");
        Self(hmac::Key::new(hmac::HMAC_SHA256, name.as_bytes()))
    }

    /// 32 bytes for `label`.
    pub fn salt(&self, label: &str) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hmac::sign(&self.0, label.as_bytes()).as_ref());
        bytes
    }

    /// A UUID for `label`.
    pub fn uuid(&self, label: &str) -> Uuid {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.salt(label)[..16]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }

    /// 32 bits for `label`.
    pub fn u32(&self, label: &str) -> u32 {
        let [a, b, c, d, ..] = self.salt(label);
        u32::from_le_bytes([a, b, c, d])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_from_release_and_label_alone() {
        let seed = ReleaseSeed::new("cairn", "1.0", "production");
        assert_eq!(seed.uuid("disk"), ReleaseSeed::new("cairn", "1.0", "production").uuid("disk"));
        assert_ne!(seed.uuid("disk"), seed.uuid("ESP"));
        for other in [("cairn", "1.1", "production"), ("cairn", "1.0", "debug"), ("cairn\n1.0", "production", "")] {
            assert_ne!(seed.uuid("disk"), ReleaseSeed::new(other.0, other.1, other.2).uuid("disk"));
        }
    }

    #[test]
    fn a_uuid_is_of_version_8_and_the_rfc_s_variant() {
        let uuid = ReleaseSeed::new("cairn", "1.0", "production").uuid("disk");
        assert_eq!((uuid.get_version_num(), uuid.get_variant()), (8, uuid::Variant::RFC4122));
    }
}
