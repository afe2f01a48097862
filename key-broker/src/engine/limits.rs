//! How often: hellos of each endorsement key from each address, and rows of the audit log that strangers may cause. Bounded memory: what was not seen for the longest time is forgotten first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Keys that are remembered of machines that have shown no evidence from this network.
const MOST: usize = 10_000;
/// The same of enrolled nodes that have: twice as many as a cluster has, so that none is forgotten for another.
const MOST_PROVEN: usize = 200_000;
/// A network's rows of strangers are one of so many parts of all that there may be, and so is what is kept for networks that have had none for a minute.
const PARTS: f64 = 4.0;
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
    /// Rows of the audit log that strangers of each network may cause, under no key.
    networks: Buckets,
    /// The same of all networks.
    all_networks: Option<Bucket>,
    /// Refusals that were not written, by their code.
    unwritten: BTreeMap<&'static str, u64>,
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

impl Bucket {
    const fn full(capacity: f64, now: Instant) -> Self {
        Self { tokens: capacity, last: now }
    }

    fn fill(&mut self, capacity: f64, now: Instant) {
        let passed = now.saturating_duration_since(self.last).as_secs_f64() / MINUTE.as_secs_f64();
        self.tokens = (self.tokens + passed * capacity).min(capacity);
        self.last = now;
    }

    fn take(&mut self) -> bool {
        let may = self.tokens >= 1.0;
        if may {
            self.tokens -= 1.0;
        }
        may
    }
}

impl Limits {
    /// So many in a minute.
    pub fn new(hellos: u32, strangers: u32) -> Self {
        Self {
            hellos: hellos.into(),
            strangers: strangers.into(),
            unproven: Buckets::new(MOST),
            proven: Buckets::new(MOST_PROVEN),
            networks: Buckets::new(MOST),
            all_networks: None,
            unwritten: BTreeMap::new(),
        }
    }

    /// Whether this endorsement key may say hello from this address now.
    pub fn may_say_hello(&mut self, address: IpAddr, ek: [u8; 32], now: Instant) -> bool {
        let ek = (network(address), ek);
        let capacity = self.hellos;
        let buckets = if self.proven.keys.contains_key(&ek) { &mut self.proven } else { &mut self.unproven };
        let mut bucket = buckets.remove(&ek).unwrap_or(Bucket::full(capacity, now));
        bucket.fill(capacity, now);
        let may = bucket.take();
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

    /// Whether a refusal with this code of a stranger at this address may be written now. Those of one network take no row from another; only many networks together do, and then each still has its first. What may not be
    /// written is counted.
    pub fn stranger_may_be_written(&mut self, address: IpAddr, code: &'static str, now: Instant) -> bool {
        let asker = (network(address), [0; 32]);
        let part = (self.strangers / PARTS).floor();
        let share = part.max(1.0).min(self.strangers);
        let mut own = self.networks.remove(&asker).unwrap_or(Bucket::full(share, now));
        own.fill(share, now);
        let all = self.all_networks.get_or_insert(Bucket::full(self.strangers, now));
        all.fill(self.strangers, now);
        let is_first = own.tokens >= share;
        let may = (is_first || all.tokens >= 1.0 + part) && all.tokens >= 1.0 && own.take();
        if may {
            all.tokens -= 1.0;
        } else {
            *self.unwritten.entry(code).or_default() += 1;
        }
        self.networks.insert(asker, own);
        may
    }

    /// What was not written since this was asked the last time: how many of each code.
    pub fn take_unwritten(&mut self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.unwritten)
    }

    /// What was taken and could not be written.
    pub fn put_unwritten_back(&mut self, counts: BTreeMap<&'static str, u64>) {
        for (code, count) in counts {
            *self.unwritten.entry(code).or_default() += count;
        }
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
    }

    #[test]
    fn refusals_at_one_address_take_no_row_from_another() {
        let (mut limits, now) = (Limits::new(1, 8), Instant::now());
        let mut write = |address: &str, now| limits.stranger_may_be_written(address.parse().unwrap(), "CODE", now);
        // A quarter of all; then the others, until only what is kept for the rest is left.
        assert_eq!([(); 4].map(|()| write("192.0.2.1", now)), [true, true, false, false]);
        assert_eq!([(); 3].map(|()| write("192.0.2.2", now)), [true, true, false]);
        assert_eq!([(); 3].map(|()| write("192.0.2.3", now)), [true, true, false]);
        assert_eq!([(); 2].map(|()| write("192.0.2.4", now)), [true, false]);
        assert_eq!([(); 2].map(|()| write("192.0.2.5", now)), [true, false]);
        // No more than all of them.
        assert!(!write("192.0.2.6", now));
        assert_eq!([(); 3].map(|()| write("192.0.2.1", now + MINUTE)), [true, true, false]);
        let taken = limits.take_unwritten();
        assert_eq!(taken, [("CODE", 8)].into());
        limits.put_unwritten_back(taken);
        assert_eq!(limits.take_unwritten(), [("CODE", 8)].into());
        assert!(limits.take_unwritten().is_empty());
        let mut none = Limits::new(1, 0);
        assert!(!none.stranger_may_be_written(HERE, "CODE", now));
        let mut one = Limits::new(1, 1);
        assert_eq!([(); 2].map(|()| one.stranger_may_be_written(HERE, "CODE", now)), [true, false]);
        for number in 0..MOST as u32 + 9 {
            let address = IpAddr::from(std::net::Ipv4Addr::from_bits(number));
            one.stranger_may_be_written(address, "CODE", now + Duration::from_millis(number.into()));
        }
        assert_eq!(one.networks.keys.len(), MOST);
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
