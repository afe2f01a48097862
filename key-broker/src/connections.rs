//! Which connections are open: at most so many of each network, and among all of them those that have not shown a node yet, which make room for new ones when all places are taken: first those of the network that has most of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many places each network has.
#[derive(Clone)]
pub struct Places {
    most: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place; it is free again when dropped.
pub struct Place {
    places: Places,
    network: IpAddr,
}

impl Places {
    /// So many for each network.
    pub fn new(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// A place, if this network has one left.
    pub fn take(&self, network: IpAddr) -> Option<Place> {
        let mut taken = lock(&self.taken);
        let count = taken.entry(network).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place { places: self.clone(), network })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.places.taken);
        if let Some(count) = taken.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.network);
            }
        }
    }
}

/// Whether the peer of a connection has shown a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No evidence has arrived, or it was refused. A challenge proves nothing: every client gets one.
    Unproven,
    /// Evidence is being verified, or was that of an enrolled node: the connection is not closed for another one.
    Proven,
}

/// Connections that have not shown a node, of each network by order of arrival.
#[derive(Clone, Default)]
pub struct Unproven(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    next: u64,
    networks: HashMap<IpAddr, BTreeMap<u64, Arc<Notify>>>,
}

impl Waiting {
    /// Removes a connection; `None` if it is proven, or is being closed.
    fn remove(&mut self, network: IpAddr, number: u64) -> Option<Arc<Notify>> {
        let connections = self.networks.get_mut(&network)?;
        let closing = connections.remove(&number);
        if connections.is_empty() {
            self.networks.remove(&network);
        }
        closing
    }
}

/// A connection's entry; it is removed when dropped.
pub struct Entry {
    unproven: Unproven,
    network: IpAddr,
    number: u64,
    stage: Mutex<Stage>,
    closing: Arc<Notify>,
}

impl Unproven {
    /// Adds a connection, and gives what is notified when it must make room.
    pub fn enter(&self, network: IpAddr) -> (Entry, Arc<Notify>) {
        let closing = Arc::new(Notify::new());
        let mut waiting = lock(&self.0);
        let number = waiting.next;
        waiting.next += 1;
        waiting.networks.entry(network).or_default().insert(number, closing.clone());
        let stage = Mutex::new(Stage::Unproven);
        (Entry { unproven: self.clone(), network, number, stage, closing: closing.clone() }, closing)
    }

    /// Closes the oldest connection of the network that has most of them, of networks with equally many the oldest; false if every connection is that of a node.
    pub fn close_one(&self) -> bool {
        let mut waiting = lock(&self.0);
        let first = |connections: &BTreeMap<u64, _>| connections.keys().next().copied();
        let most = waiting.networks.iter().max_by_key(|(_, all)| (all.len(), Reverse(first(all))));
        let Some((network, number)) = most.and_then(|(network, all)| Some((*network, first(all)?))) else {
            return false;
        };
        waiting.remove(network, number).is_some_and(|closing| {
            closing.notify_one();
            true
        })
    }
}

impl Entry {
    /// Notes whether the peer has shown a node.
    pub fn set(&self, stage: Stage) {
        let mut waiting = lock(&self.unproven.0);
        let mut current = lock(&self.stage);
        match (*current, stage) {
            (Stage::Unproven, Stage::Proven) => _ = waiting.remove(self.network, self.number),
            (Stage::Proven, Stage::Unproven) => {
                let connections = waiting.networks.entry(self.network).or_default();
                connections.insert(self.number, self.closing.clone());
            }
            // One that is being closed stays so.
            _ => {}
        }
        *current = stage;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.unproven.0).remove(self.network, self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn network(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    /// One entry of each of these networks, in this order.
    fn enter(unproven: &Unproven, networks: &[u8]) -> Vec<Entry> {
        networks.iter().map(|last| unproven.enter(network(*last)).0).collect()
    }

    fn open(unproven: &Unproven, entries: &[Entry]) -> Vec<bool> {
        let waiting = lock(&unproven.0);
        let all: Vec<_> = waiting.networks.values().flat_map(BTreeMap::values).collect();
        let is_open = |entry: &Entry| all.iter().any(|closing| Arc::ptr_eq(closing, &entry.closing));
        entries.iter().map(is_open).collect()
    }

    #[test]
    fn oldest_unproven_connection_is_closed_and_never_that_of_a_node() {
        let unproven = Unproven::default();
        let entries = enter(&unproven, &[1, 1, 1]);
        entries[1].set(Stage::Proven);
        assert_eq!(open(&unproven, &entries), [true, false, true]);
        assert!(unproven.close_one());
        assert_eq!(open(&unproven, &entries), [false, false, true]);
        // A connection that is being closed stays so.
        entries[0].set(Stage::Unproven);
        assert_eq!(open(&unproven, &entries), [false, false, true]);
        // Its evidence was refused.
        entries[1].set(Stage::Unproven);
        assert!(unproven.close_one());
        assert_eq!(open(&unproven, &entries), [false, false, true]);
        assert!(unproven.close_one());
        assert!(!unproven.close_one());
        drop(entries);
        assert!(lock(&unproven.0).networks.is_empty());
    }

    #[test]
    fn network_with_most_unproven_connections_makes_room_whatever_it_has_sent() {
        let unproven = Unproven::default();
        // A node arrived first, another one last; the attacker's connections are between them.
        let entries = enter(&unproven, &[1, 9, 9, 9, 2]);
        assert!(unproven.close_one());
        assert!(unproven.close_one());
        assert_eq!(open(&unproven, &entries), [true, false, false, true, true]);
        // All have one: the oldest.
        assert!(unproven.close_one());
        assert_eq!(open(&unproven, &entries), [false, false, false, true, true]);
    }
}
