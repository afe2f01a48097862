//! Deadlines of reports, by the monotonic clock: the host's clock may be set between a release and its report, and neither makes a report late nor a late one good. Of a release that another process gave, or this broker before it was restarted, only
//! the deadline in the database is known, which is a time of the calendar.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Engine;
use super::records::Latch;

/// The last release of each node that this process gave: its session, and when the time to report it is over.
#[derive(Debug, Default)]
pub(super) struct Deadlines(Mutex<BTreeMap<String, (Vec<u8>, Instant)>>);

impl Deadlines {
    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, (Vec<u8>, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, node: &str, session: &[u8], until: Instant) {
        self.nodes().insert(node.to_owned(), (session.to_vec(), until));
    }

    /// None if this process did not give the release of this session.
    fn of(&self, node: &str, session: &[u8]) -> Option<Instant> {
        self.nodes().get(node).filter(|(known, _)| known == session).map(|(_, until)| *until)
    }
}

impl Engine {
    /// A release to this node begins now: until when it may report, in seconds since 1970.
    pub(super) fn begin_deadline(&self, node: &str, session: &[u8]) -> u64 {
        self.deadlines.set(node, session, Instant::now() + self.settings.commit);
        self.seconds() + self.settings.commit.as_secs()
    }

    /// Whether a report that arrived at this time is late.
    pub(super) fn is_late(&self, latch: &Latch, arrived: Instant) -> bool {
        match self.deadlines.of(&latch.node, &latch.session.0) {
            Some(until) => arrived > until,
            None => self.seconds() > latch.deadline,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn deadline_is_that_of_the_last_release_of_a_node() {
        let (deadlines, now) = (Deadlines::default(), Instant::now());
        let later = now + Duration::from_secs(1);
        deadlines.set("one", b"a", now);
        deadlines.set("two", b"b", later);
        assert_eq!((deadlines.of("one", b"a"), deadlines.of("two", b"b")), (Some(now), Some(later)));
        deadlines.set("one", b"c", later);
        for (node, session) in [("one", b"a"), ("one", b"b"), ("three", b"a")] {
            assert_eq!(deadlines.of(node, session), None, "{node}");
        }
        assert_eq!(deadlines.of("one", b"c"), Some(later));
    }
}
