//! What a disk's share gives: the passphrase of its keyslot, and the keys of its generation block and of the tag in its file system (HKDF with SHA-256, RFC 5869; the salt is the disk's id). And the name of a volume key, which PCR 15 is extended with.

use ring::{hkdf, hmac};
use zeroize::Zeroizing;

/// What opens a disk.
pub struct DiskKeys {
    /// Of the only keyslot.
    pub passphrase: Zeroizing<[u8; 64]>,
    /// Of the generation block.
    pub generation: hmac::Key,
    /// Of the file system's tag ([`crate::filesystem::tag`]).
    pub filesystem: hmac::Key,
}

/// Derives the keys of the disk with this id from its share.
pub fn derive(share: &[u8; 32], disk: &[u8; 16]) -> DiskKeys {
    let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, disk).extract(share);
    let mut passphrase = Zeroizing::new([0; 64]);
    let mut generation = Zeroizing::new([0; 32]);
    let mut filesystem = Zeroizing::new([0; 32]);
    expand(&secret, b"cairn state disk 1: passphrase", &mut passphrase[..]);
    expand(&secret, b"cairn state disk 1: generation", &mut generation[..]);
    expand(&secret, b"cairn state disk 1: file system", &mut filesystem[..]);
    let key = |bytes: &[u8; 32]| hmac::Key::new(hmac::HMAC_SHA256, bytes);
    DiskKeys { passphrase, generation: key(&generation), filesystem: key(&filesystem) }
}

/// Names a volume key without giving it away: HMAC-SHA-256 of the disk's id under it.
pub fn volume(volume_key: &[u8], disk: &[u8; 16]) -> [u8; 32] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, volume_key);
    let mut name = [0; 32];
    name.copy_from_slice(hmac::sign(&key, &[b"krp1-vk", &disk[..]].concat()).as_ref());
    name
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand(secret: &hkdf::Prk, label: &[u8], to: &mut [u8]) {
    let label = [label];
    // Only lengths of over 255 digests fail.
    if let Ok(material) = secret.expand(&label, Length(to.len())) {
        let _ = material.fill(to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_disk_and_every_share_has_keys_of_its_own() {
        let [one, other_disk, other_share] =
            [([1; 32], [1; 16]), ([1; 32], [2; 16]), ([2; 32], [1; 16])].map(|(share, disk)| derive(&share, &disk));
        assert_ne!(one.passphrase, other_disk.passphrase);
        assert_ne!(one.passphrase, other_share.passphrase);
        assert_ne!(*one.passphrase, [0; 64]);
        let tag = |keys: &DiskKeys| hmac::sign(&keys.generation, b"").as_ref().to_vec();
        assert_ne!(tag(&one), tag(&other_disk));
        assert_eq!(tag(&one), tag(&derive(&[1; 32], &[1; 16])));
        assert_ne!(tag(&one), hmac::sign(&one.filesystem, b"").as_ref(), "each use has its own key");
        assert_ne!(volume(b"key", &[1; 16]), volume(b"key", &[2; 16]));
        assert_ne!(volume(b"key", &[1; 16]), volume(b"another", &[1; 16]));
    }
}
