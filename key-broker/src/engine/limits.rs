//! How often: hellos of each endorsement key from each address, and rows of the audit log that strangers may cause. Bounded memory: what was not seen for the longest time is forgotten first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Keys that are remembered of machines that have shown no evidence from this network.
const MOST: usize = 10_000;
/// The same of enrolled nodes that have: twice as many as a cluster has, so that none is forgotten for another.
const MOST_PROVEN: usize = 200_000;
const MINUTE: Duration = Duration::from_secs(60);

/// A bucket that fills up again within a minute.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    last: Instant,
}

/// Who asks: a network, and the endorsement key that it shows. The key is public, so it alone names nobody: whoever shows that of a node from another network spends nothing of the node's.
pub type Asker = (IpAddr, [u8; 32]);

/// The network of an address: with IPv6 a host has all of its /64.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => address.into(),
            None => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        },
    }
}

/// All buckets.
#[derive(Debug)]
pub struct Limits {
    hellos: f64,
    strangers: f64,
    unproven: Buckets,
    /// Of enrolled nodes whose evidence was verified. A client with made-up keys has none.
    proven: Buckets,
    stranger: Option<Bucket>,
}

/// Buckets of bounded number.
#[derive(Debug)]
struct Buckets {
    most: usize,
    keys: BTreeMap<Asker, Bucket>,
    /// The same, by when they were last seen.
    seen: BTreeSet<(Instant, Asker)>,
}

impl Buckets {
    const fn new(most: usize) -> Self {
        Self { most, keys: BTreeMap::new(), seen: BTreeSet::new() }
    }

    fn insert(&mut self, asker: Asker, bucket: Bucket) {
        if self.keys.len() >= self.most && !self.keys.contains_key(&asker) {
            let oldest = self.seen.pop_first();
            oldest.and_then(|(_, key)| self.keys.remove(&key));
        }
        self.keys.insert(asker, bucket);
        self.seen.insert((bucket.last, asker));
    }

    fn remove(&mut self, asker: &Asker) -> Option<Bucket> {
        let bucket = self.keys.remove(asker)?;
        self.seen.remove(&(bucket.last, *asker));
        Some(bucket)
    }
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
            unproven: Buckets::new(MOST),
            proven: Buckets::new(MOST_PROVEN),
            stranger: None,
        }
    }

    /// Whether this endorsement key may say hello from this address now.
    pub fn may_say_hello(&mut self, address: IpAddr, ek: [u8; 32], now: Instant) -> bool {
        let ek = (network(address), ek);
        let capacity = self.hellos;
        let buckets = if self.proven.keys.contains_key(&ek) { &mut self.proven } else { &mut self.unproven };
        let mut bucket = buckets.remove(&ek).unwrap_or(Bucket { tokens: capacity, last: now });
        let may = take(&mut bucket, capacity, now);
        buckets.insert(ek, bucket);
        may
    }

    /// Evidence of the enrolled node with this endorsement key was verified, which came from this address.
    pub fn prove(&mut self, address: IpAddr, ek: [u8; 32]) {
        let asker = (network(address), ek);
        if let Some(bucket) = self.unproven.remove(&asker) {
            self.proven.insert(asker, bucket);
        }
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

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn key_that_is_shown_from_elsewhere_spends_nothing_of_the_node() {
        let (mut limits, now) = (Limits::new(2, 1), Instant::now());
        let there: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!([(); 3].map(|()| limits.may_say_hello(there, [1; 32], now)), [true, true, false]);
        assert!(limits.may_say_hello(HERE, [1; 32], now));
        // A host with a /64 is one host.
        let six =
            ["2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::3", "2001:db8:0:1::1"].map(|text| text.parse().unwrap());
        assert_eq!(six.map(|address| limits.may_say_hello(address, [1; 32], now)), [true, true, false, true]);
        assert_eq!(network("::ffff:192.0.2.1".parse().unwrap()), there);
    }

    #[test]
    fn who_asks_too_often_waits_and_others_do_not() {
        let (mut limits, now) = (Limits::new(2, 1), Instant::now());
        let asked = [(); 3].map(|()| limits.may_say_hello(HERE, [1; 32], now));
        assert_eq!(asked, [true, true, false]);
        assert!(limits.may_say_hello(HERE, [2; 32], now));
        assert!(limits.may_say_hello(HERE, [1; 32], now + MINUTE));
        assert_eq!([(); 2].map(|()| limits.stranger_may_be_written(now)), [true, false]);
    }

    #[test]
    fn proven_node_is_not_forgotten_for_keys_that_show_no_evidence() {
        let (mut limits, now) = (Limits::new(2, 1), Instant::now());
        assert!(limits.may_say_hello(HERE, [1; 32], now));
        limits.prove(HERE, [1; 32]);
        assert!(limits.may_say_hello(HERE, [1; 32], now));
        for number in 0..2 * MOST as u64 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            assert!(limits.may_say_hello(HERE, key, now));
        }
        assert!(!limits.may_say_hello(HERE, [1; 32], now), "what the node has spent was forgotten");
        assert_eq!((limits.proven.keys.len(), limits.proven.seen.len()), (1, 1));
        // From another network the same key is as unknown as any other.
        assert!(limits.may_say_hello("192.0.2.1".parse().unwrap(), [1; 32], now));
        assert_eq!(limits.proven.keys.len(), 1);
    }

    #[test]
    fn memory_is_bounded() {
        let (mut limits, now) = (Limits::new(1, 1), Instant::now());
        for number in 0..MOST as u64 + 100 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            assert!(limits.may_say_hello(HERE, key, now + Duration::from_millis(number)));
        }
        assert_eq!((limits.unproven.keys.len(), limits.unproven.seen.len()), (MOST, MOST));
        let mut first = [0; 32];
        first[..8].copy_from_slice(&100_u64.to_be_bytes());
        assert!(limits.unproven.keys.contains_key(&(HERE, first)), "the oldest hundred were forgotten, and no other");
    }
}
