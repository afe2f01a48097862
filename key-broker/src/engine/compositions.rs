//! Predictions that were computed, by release and machine reference. Nothing of them changes, so each is computed once; the number is bounded, and those of a revoked release are dropped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use measurements::compose::Composition;

/// Predictions that are kept: of 16 releases on 64 kinds of machines.
const MAX_COMPOSITIONS: usize = 1024;

/// Id of the release, and digest of the machine reference.
type Key = (Vec<u8>, [u8; 32]);

/// The kept predictions.
pub(super) struct Compositions<T = Composition>(Mutex<Kept<T>>);

struct Kept<T> {
    most: usize,
    /// Number of the next use.
    next: u64,
    /// Each with its last use.
    values: BTreeMap<Key, (u64, Arc<T>)>,
}

impl<T> Compositions<T> {
    /// Empty.
    pub const fn new() -> Self {
        Self::with_most(MAX_COMPOSITIONS)
    }

    const fn with_most(most: usize) -> Self {
        Self(Mutex::new(Kept { most, next: 0, values: BTreeMap::new() }))
    }

    fn kept(&self) -> MutexGuard<'_, Kept<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.kept().values.len()
    }

    /// That of this release and machine, if it is kept.
    pub fn get(&self, key: &Key) -> Option<Arc<T>> {
        let mut kept = self.kept();
        let now = kept.next;
        kept.next += 1;
        let (used, value) = kept.values.get_mut(key)?;
        *used = now;
        Some(value.clone())
    }

    /// Keeps one; the one that was used least recently makes room.
    pub fn insert(&self, key: Key, value: Arc<T>) {
        let mut kept = self.kept();
        if kept.values.len() >= kept.most && !kept.values.contains_key(&key) {
            let oldest = kept.values.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| kept.values.remove(&oldest));
        }
        let now = kept.next;
        kept.next += 1;
        kept.values.insert(key, (now, value));
    }

    /// Drops those of the release with an id that begins with these hexadecimal digits.
    pub fn forget(&self, release: &str) {
        self.kept().values.retain(|(id, _), _| !hex::encode(id).starts_with(release));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_recently_used_composition_makes_room_and_those_of_a_revoked_release_are_dropped() {
        let compositions = Compositions::with_most(3);
        let key = |release: u8, machine: u8| (vec![release; 32], [machine; 32]);
        for machine in 0..3 {
            compositions.insert(key(0xab, machine), Arc::new(machine));
        }
        assert_eq!(compositions.get(&key(0xab, 0)).as_deref(), Some(&0));
        compositions.insert(key(0xcd, 3), Arc::new(3));
        let found = |release, machine| compositions.get(&key(release, machine)).is_some();
        assert_eq!([found(0xab, 0), found(0xab, 1), found(0xab, 2), found(0xcd, 3)], [true, false, true, true]);
        compositions.forget("abab");
        assert_eq!([found(0xab, 0), found(0xab, 2), found(0xcd, 3)], [false, false, true]);
        assert_eq!(compositions.len(), 1);
    }
}
