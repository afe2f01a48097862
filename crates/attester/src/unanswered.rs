//! Sessions whose evidence was sent and got no decision (docs/protocol.md, "What a node does with an answer"). Evidence may reach the broker after the node has asked for its answer in vain, and latch the boot then.
//! So a session is kept until the broker has no reply for it at a time at which it no longer accepts its evidence, and all of them are resumed before a refusal is final.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

/// How long after the end of its challenge evidence may still be in the queue of a broker, or be verified.
const MARGIN: Duration = Duration::from_secs(300);
/// Sessions that are kept. The shortest pauses are those of a held node: a hold (1.5 s) and two other waits (0.5 s, 1 s) for two sessions. A challenge ends after at most 600 s (`challenge_seconds`), so at most 601 of so many
/// sessions can still latch the boot; the others are resumed, and forgotten, when there are too many.
const MAX_SESSIONS: usize = 1024;

/// Sessions without a decision, and which of them are to be resumed now.
pub(crate) struct Unanswered<S> {
    /// Newest first, each with the time from which its evidence is no longer accepted.
    sessions: VecDeque<(S, Instant)>,
    due: Range<usize>,
}

impl<S> Default for Unanswered<S> {
    fn default() -> Self {
        Self { sessions: VecDeque::new(), due: 0..0 }
    }
}

impl<S> Unanswered<S> {
    /// Adds a session, which is to be resumed; `ttl` is that of its challenge.
    pub(crate) fn add(&mut self, session: S, received: Instant, ttl: Duration) {
        self.sessions.push_front((session, received + ttl + MARGIN));
        self.sessions.truncate(MAX_SESSIONS);
        self.due = 0..if self.sessions.len() == MAX_SESSIONS { MAX_SESSIONS } else { 1 };
    }

    /// All sessions are to be resumed.
    pub(crate) fn resume_all(&mut self) {
        self.due = 0..self.sessions.len();
    }

    /// The session to resume now.
    pub(crate) fn next(&self) -> Option<&S> {
        self.sessions.range(self.due.clone()).next().map(|(session, _)| session)
    }

    /// The session that was to be resumed had no stored reply; `now` is from before that request. It is forgotten if its evidence was no longer accepted by then.
    pub(crate) fn skip(&mut self, now: Instant) {
        let Some(index) = self.due.next() else { return };
        if self.sessions.get(index).is_some_and(|(_, end)| *end <= now) {
            self.sessions.remove(index);
            self.due = index..self.due.end - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    /// The sessions that are due, each of which has no stored reply.
    fn due(unanswered: &mut Unanswered<usize>, now: Instant) -> Vec<usize> {
        std::iter::from_fn(|| {
            let session = *unanswered.next()?;
            unanswered.skip(now);
            Some(session)
        })
        .collect()
    }

    #[test]
    fn newest_session_is_resumed_at_once_and_all_of_them_after_a_refusal() {
        let (mut unanswered, now) = (Unanswered::default(), Instant::now());
        assert!(due(&mut unanswered, now).is_empty());
        unanswered.resume_all();
        assert!(due(&mut unanswered, now).is_empty());
        for session in 1..=3 {
            unanswered.add(session, now, TTL);
            assert_eq!(due(&mut unanswered, now), [session]);
        }
        for _ in 0..2 {
            unanswered.resume_all();
            assert_eq!(due(&mut unanswered, now), [3, 2, 1]);
        }
    }

    #[test]
    fn session_is_kept_until_it_has_no_reply_after_its_evidence_is_no_longer_accepted() {
        let (mut unanswered, begun) = (Unanswered::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        for session in 0..4 {
            unanswered.add(session, at(session as u64), TTL);
        }
        // However late: nothing has shown yet that there is no reply.
        for (now, expected) in [(359, &[3, 2, 1, 0][..]), (361, &[3, 2, 1, 0]), (361, &[3, 2]), (9999, &[3, 2])] {
            unanswered.resume_all();
            assert_eq!(due(&mut unanswered, at(now)), expected, "{now}");
        }
        unanswered.resume_all();
        assert!(due(&mut unanswered, at(9999)).is_empty());
    }

    #[test]
    fn every_session_of_a_held_node_is_kept_and_their_number_is_bounded() {
        let (mut unanswered, begun) = (Unanswered::default(), Instant::now());
        let ttl = Duration::from_secs(600);
        // Two sessions every three seconds, for an hour, which the broker refuses to resume.
        for session in 0..2400 {
            let now = begun + Duration::from_millis(1500 * session as u64);
            unanswered.add(session, now, ttl);
            let kept = unanswered.sessions.len();
            let resumed = due(&mut unanswered, now);
            // None is forgotten before it was resumed.
            let expected = if kept == MAX_SESSIONS { MAX_SESSIONS } else { 1 };
            assert_eq!((resumed.first(), resumed.len()), (Some(&session), expected));
            let oldest = unanswered.sessions.back().map(|(session, _)| *session).unwrap();
            assert!(unanswered.sessions.len() <= MAX_SESSIONS && oldest <= session.saturating_sub(599), "{session}");
        }
    }
}
