//! Keys under which the entries of a log were read. A key can join the trust root after an entry under it was logged, and a verifier accepts that entry from then on: such entries are read again from the first.
//!
//! A key that leaves the trust root keeps its number of entries: if it comes back, no entry is judged twice and none is left out.

use std::cmp::Reverse;

use measurements::bytes::{Bytes32, at_most};
use serde::{Deserialize, Serialize};

/// Maximum number of keys in the state. Of further ones, those that left the trust root first are forgotten; if one comes back, its entries are judged once more.
const MAX_KEYS: usize = 256;

/// Entries that were read under one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyRead {
    /// SHA-256 of the SubjectPublicKeyInfo.
    key: Bytes32,
    /// Number of entries that the key has signed.
    ours: u64,
    /// Number of entries, from the first, that were judged under the key.
    read: u64,
}

/// All keys under which entries were read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Keys(#[serde(deserialize_with = "at_most::<MAX_KEYS, _, _>")] Vec<KeyRead>);

impl Keys {
    /// Number of entries under one of the keys.
    pub(super) fn ours(&self) -> u64 {
        self.0.iter().map(|known| known.ours).sum()
    }

    /// Whether the first `size` entries were judged under each of these keys.
    pub(super) fn has_read(&self, trusted: &[Bytes32], size: u64) -> bool {
        trusted.iter().all(|key| self.read(*key) >= size)
    }

    /// Whether no key was read beyond the first `size` entries.
    pub(super) fn is_within(&self, size: u64) -> bool {
        self.0.iter().all(|known| known.read <= size)
    }

    /// Counts the entry with this number, which the key has signed; false if it was judged before.
    pub(super) fn count(&mut self, key: Bytes32, index: u64) -> bool {
        let is_new = index >= self.read(key);
        if is_new {
            self.get(key).ours += 1;
        }
        is_new
    }

    /// Records that the first `size` entries were judged under each of these keys.
    pub(super) fn finish(&mut self, trusted: &[Bytes32], size: u64) {
        trusted.iter().for_each(|key| self.get(*key).read = size);
        self.0.sort_by_key(|known| Reverse((trusted.contains(&known.key), known.read)));
        self.0.truncate(MAX_KEYS);
    }

    fn read(&self, key: Bytes32) -> u64 {
        self.0.iter().find(|known| known.key == key).map_or(0, |known| known.read)
    }

    fn get(&mut self, key: Bytes32) -> &mut KeyRead {
        let at = self.0.iter().position(|known| known.key == key).unwrap_or_else(|| {
            self.0.push(KeyRead { key, ours: 0, read: 0 });
            self.0.len() - 1
        });
        &mut self.0[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_the_state_are_bounded_and_those_of_the_trust_root_stay() {
        let digest = |number: u16| Bytes32(std::array::from_fn(|at| number.to_be_bytes()[at % 2]));
        let mut keys = Keys::default();
        for retired in 0..1000 {
            assert!(keys.count(digest(retired), 7));
            keys.finish(&[digest(retired)], 2000);
        }
        let trusted = [digest(1000), digest(1001)];
        keys.finish(&trusted, 2000);
        assert_eq!(keys.0.len(), MAX_KEYS);
        assert!(keys.has_read(&trusted, 2000) && !keys.has_read(&trusted, 2001));
        assert!(!keys.count(trusted[0], 1999) && keys.count(trusted[0], 2000));
        assert_eq!(keys.ours(), MAX_KEYS as u64 - 2 + 1, "entries under keys that were forgotten are not counted");
    }
}
