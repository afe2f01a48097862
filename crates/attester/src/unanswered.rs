//! Sessions whose evidence was sent and got no decision (docs/protocol.md, "What a node does with an answer"). Evidence may reach the broker after the node has asked for its answer in vain, and latch the boot then.
//! So a session is kept for the whole boot, and all of them are resumed before a refusal is final.

use std::collections::VecDeque;
use std::ops::Range;

/// Sessions that are kept. There is a pause between two of them, and the pauses of so many take minutes: by then the broker does not accept the evidence of the oldest one.
const MAX_SESSIONS: usize = 16;

/// Sessions without a decision, and which of them are to be resumed now.
pub(crate) struct Unanswered<S> {
    /// Newest first.
    sessions: VecDeque<S>,
    due: Range<usize>,
}

impl<S> Default for Unanswered<S> {
    fn default() -> Self {
        Self { sessions: VecDeque::new(), due: 0..0 }
    }
}

impl<S> Unanswered<S> {
    /// Adds a session, which is to be resumed; the oldest one is forgotten if there are too many.
    pub(crate) fn add(&mut self, session: S) {
        self.sessions.push_front(session);
        self.sessions.truncate(MAX_SESSIONS);
        self.due = 0..1;
    }

    /// All sessions are to be resumed.
    pub(crate) fn resume_all(&mut self) {
        self.due = 0..self.sessions.len();
    }

    /// The session to resume now.
    pub(crate) fn next(&self) -> Option<&S> {
        self.sessions.range(self.due.clone()).next()
    }

    /// The session that was to be resumed has no stored reply at this time.
    pub(crate) fn skip(&mut self) {
        self.due.next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sessions that are due, each of which has no stored reply.
    fn due(unanswered: &mut Unanswered<usize>) -> Vec<usize> {
        std::iter::from_fn(|| {
            let session = *unanswered.next()?;
            unanswered.skip();
            Some(session)
        })
        .collect()
    }

    #[test]
    fn newest_session_is_resumed_at_once_and_all_of_them_after_a_refusal() {
        let mut unanswered = Unanswered::default();
        assert!(due(&mut unanswered).is_empty());
        unanswered.resume_all();
        assert!(due(&mut unanswered).is_empty());
        for session in 1..=3 {
            unanswered.add(session);
            assert_eq!(due(&mut unanswered), [session]);
        }
        for _ in 0..2 {
            unanswered.resume_all();
            assert_eq!(due(&mut unanswered), [3, 2, 1]);
        }
    }

    #[test]
    fn sixteen_newest_sessions_are_kept() {
        let mut unanswered = Unanswered::default();
        (1..=20).for_each(|session| unanswered.add(session));
        unanswered.resume_all();
        assert_eq!(due(&mut unanswered), (5..=20).rev().collect::<Vec<_>>());
    }
}
