//! Which connections are open: at most so many of each network, and among all of them those that have not shown a node yet, which make room for new ones when all places are taken.

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

/// How far the peer of a connection has come. Connections of an earlier stage are closed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// No hello was accepted, or its evidence was refused.
    Silent,
    /// A challenge was sent.
    Challenged,
    /// Evidence is being verified, or was that of an enrolled node: the connection is not closed for another one.
    Proven,
}

/// Connections that have not shown a node, by stage and order of arrival.
#[derive(Clone, Default)]
pub struct Unproven(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    next: u64,
    connections: BTreeMap<(Stage, u64), Arc<Notify>>,
}

/// A connection's entry; it is removed when dropped.
pub struct Entry {
    unproven: Unproven,
    number: u64,
    stage: Mutex<Stage>,
    closing: Arc<Notify>,
}

impl Unproven {
    /// Adds a connection, and gives what is notified when it must make room.
    pub fn enter(&self) -> (Entry, Arc<Notify>) {
        let closing = Arc::new(Notify::new());
        let mut waiting = lock(&self.0);
        let number = waiting.next;
        waiting.next += 1;
        waiting.connections.insert((Stage::Silent, number), closing.clone());
        let entry =
            Entry { unproven: self.clone(), number, stage: Mutex::new(Stage::Silent), closing: closing.clone() };
        (entry, closing)
    }

    /// Closes the oldest connection of the earliest stage; false if every connection is that of a node.
    pub fn close_oldest(&self) -> bool {
        let oldest = lock(&self.0).connections.pop_first();
        oldest.is_some_and(|(_, closing)| {
            closing.notify_one();
            true
        })
    }
}

impl Entry {
    /// Notes how far the peer has come.
    pub fn set(&self, stage: Stage) {
        let mut waiting = lock(&self.unproven.0);
        let mut current = lock(&self.stage);
        let was_waiting = waiting.connections.remove(&(*current, self.number)).is_some();
        // One that is being closed stays so.
        if stage != Stage::Proven && (was_waiting || *current == Stage::Proven) {
            waiting.connections.insert((stage, self.number), self.closing.clone());
        }
        *current = stage;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let stage = *lock(&self.stage);
        lock(&self.unproven.0).connections.remove(&(stage, self.number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_open(unproven: &Unproven, entry: &Entry) -> bool {
        lock(&unproven.0).connections.values().any(|closing| Arc::ptr_eq(closing, &entry.closing))
    }

    #[test]
    fn oldest_silent_connection_is_closed_before_one_with_a_challenge_and_never_that_of_a_node() {
        let unproven = Unproven::default();
        let entries: Vec<Entry> = (0..4).map(|_| unproven.enter().0).collect();
        entries[0].set(Stage::Challenged);
        entries[1].set(Stage::Challenged);
        entries[1].set(Stage::Proven);
        let open = |unproven: &Unproven| entries.iter().map(|entry| is_open(unproven, entry)).collect::<Vec<_>>();
        assert_eq!(open(&unproven), [true, false, true, true]);
        assert!(unproven.close_oldest());
        assert_eq!(open(&unproven), [true, false, false, true]);
        assert!(unproven.close_oldest());
        assert_eq!(open(&unproven), [true, false, false, false]);
        // Its evidence was refused.
        entries[1].set(Stage::Silent);
        assert!(unproven.close_oldest());
        assert_eq!(open(&unproven), [true, false, false, false]);
        assert!(unproven.close_oldest());
        assert!(!unproven.close_oldest());
        drop(entries);
        assert!(lock(&unproven.0).connections.is_empty());
    }
}
