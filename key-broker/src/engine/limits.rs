//! How often: hellos of each endorsement key, and rows of the audit log that strangers may cause. Bounded memory: what was not seen for the longest time is forgotten first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Keys that are remembered.
const MOST: usize = 10_000;
const MINUTE: Duration = Duration::from_secs(60);

/// A bucket that fills up again within a minute.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    last: Instant,
}

/// All buckets.
#[derive(Debug)]
pub struct Limits {
    hellos: f64,
    strangers: f64,
    keys: BTreeMap<[u8; 32], Bucket>,
    /// The same keys, by when they were last seen.
    seen: BTreeSet<(Instant, [u8; 32])>,
    stranger: Option<Bucket>,
}

fn take(bucket: &mut Bucket, capacity: f64, now: Instant) -> bool {
    let passed = now.saturating_duration_since(bucket.last).as_secs_f64() / MINUTE.as_secs_f64();
    bucket.tokens = (bucket.tokens + passed * capacity).min(capacity);
    bucket.last = now;
    if bucket.tokens < 1.0 {
        return false;
    }
    bucket.tokens -= 1.0;
    true
}

impl Limits {
    /// So many in a minute.
    pub fn new(hellos: u32, strangers: u32) -> Self {
        Self {
            hellos: hellos.into(),
            strangers: strangers.into(),
            keys: BTreeMap::new(),
            seen: BTreeSet::new(),
            stranger: None,
        }
    }

    /// Whether this endorsement key may say hello now.
    pub fn may_say_hello(&mut self, ek: [u8; 32], now: Instant) -> bool {
        if self.keys.len() >= MOST && !self.keys.contains_key(&ek) {
            let oldest = self.seen.pop_first();
            oldest.and_then(|(_, key)| self.keys.remove(&key));
        }
        let capacity = self.hellos;
        let bucket = self.keys.entry(ek).or_insert(Bucket { tokens: capacity, last: now });
        self.seen.remove(&(bucket.last, ek));
        let may = take(bucket, capacity, now);
        self.seen.insert((bucket.last, ek));
        may
    }

    /// Whether a stranger's refusal may be written now.
    pub fn stranger_may_be_written(&mut self, now: Instant) -> bool {
        let capacity = self.strangers;
        take(self.stranger.get_or_insert(Bucket { tokens: capacity, last: now }), capacity, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_too_often_waits_and_others_do_not() {
        let (mut limits, now) = (Limits::new(2, 1), Instant::now());
        let asked = [(); 3].map(|()| limits.may_say_hello([1; 32], now));
        assert_eq!(asked, [true, true, false]);
        assert!(limits.may_say_hello([2; 32], now));
        assert!(limits.may_say_hello([1; 32], now + MINUTE));
        assert_eq!([(); 2].map(|()| limits.stranger_may_be_written(now)), [true, false]);
    }

    #[test]
    fn memory_is_bounded() {
        let (mut limits, now) = (Limits::new(1, 1), Instant::now());
        for number in 0..MOST as u64 + 100 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            assert!(limits.may_say_hello(key, now + Duration::from_millis(number)));
        }
        assert_eq!((limits.keys.len(), limits.seen.len()), (MOST, MOST));
        let mut first = [0; 32];
        first[..8].copy_from_slice(&100_u64.to_be_bytes());
        assert!(limits.keys.contains_key(&first), "the oldest hundred were forgotten, and no other");
    }
}
