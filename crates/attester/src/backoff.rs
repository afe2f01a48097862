//! Pauses between tries: they double up to a minute, and each is between half and all of that, so that machines that lost their broker together do not come back together. Seconds that a broker asked for are added, and never
//! replace the spread. The console names each reason once.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

use crate::wait::{Kind, Wait};

const FIRST: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(60);

/// State of the pauses.
pub(crate) struct Backoff {
    next: Duration,
    /// Reasons that were printed, by their kind and address: not more than there are brokers times kinds.
    printed: BTreeSet<(Kind, Option<SocketAddr>)>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST, printed: BTreeSet::new() }
    }
}

impl Backoff {
    /// The line to print; nothing where this reason was printed before.
    pub(crate) fn line(&mut self, wait: &Wait) -> Option<String> {
        // Every broker of a cluster holds for the same reason.
        let address = wait.address.filter(|_| wait.kind != Kind::Held);
        self.printed.insert((wait.kind, address)).then(|| format!("waiting: {wait}"))
    }

    /// The next pause; `fraction` of 255 parts says where between half and all of it.
    pub(crate) fn pause(&mut self, wait: &Wait, fraction: u8) -> Duration {
        let asked = Duration::from_secs(u64::from(wait.asked.unwrap_or(0))).min(MAX);
        // A signed hold names its interval: the operator should not wait longer than that, and as much again.
        let whole = if wait.kind == Kind::Held { asked.max(FIRST) } else { self.next };
        self.next = if wait.kind == Kind::Held { FIRST } else { (self.next * 2).min(MAX) };
        asked + whole / 2 + whole / 2 * u32::from(fraction) / 255
    }
}

/// Random; without random bytes, all wait the longest.
pub(crate) fn fraction() -> u8 {
    let mut byte = [0];
    if SystemRandom::new().fill(&mut byte).is_ok() { byte[0] } else { u8::MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(kind: Kind, detail: &str, asked: Option<u32>) -> Wait {
        Wait { asked, ..Wait::new(kind, ([192, 0, 2, 1], 7443).into(), detail) }
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_add_what_was_asked_for() {
        let mut backoff = Backoff::default();
        let unreachable = wait(Kind::Unreachable, "", None);
        let pauses: Vec<u128> = (0..9).map(|_| backoff.pause(&unreachable, u8::MAX).as_millis()).collect();
        assert_eq!(pauses, [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        assert_eq!(Backoff::default().pause(&unreachable, 0), Duration::from_millis(500));
        // The spread stays, also where more is asked for than the first pauses.
        let busy = wait(Kind::Unavailable, "", Some(7));
        assert_eq!(Backoff::default().pause(&busy, 0), Duration::from_millis(7500));
        assert_eq!(Backoff::default().pause(&busy, u8::MAX), Duration::from_secs(8));
        let forever = wait(Kind::Unavailable, "", Some(u32::MAX));
        assert_eq!(Backoff::default().pause(&forever, u8::MAX), MAX + FIRST, "no broker makes a node wait for years");
    }

    #[test]
    fn holds_with_other_request_ids_are_one_line_and_keep_their_interval() {
        let mut backoff = Backoff::default();
        let holds = ["request 1", "request 2"].map(|detail| wait(Kind::Held, detail, Some(5)));
        assert_eq!(backoff.line(&holds[0]).as_deref(), Some("waiting: hold: request 1"));
        assert_eq!(backoff.line(&holds[1]), None);
        let pauses: Vec<u128> = (0..3).map(|_| backoff.pause(&holds[1], u8::MAX).as_millis()).collect();
        assert_eq!(pauses, [10_000; 3]);
    }

    #[test]
    fn reasons_that_alternate_between_brokers_are_printed_once_and_do_not_shorten_the_pause() {
        let mut backoff = Backoff::default();
        let (one, other) = (wait(Kind::Unreachable, "", None), wait(Kind::NotABroker, "", None));
        let lines = [&one, &other, &one, &other].map(|wait| backoff.line(wait).is_some());
        assert_eq!(lines, [true, true, false, false]);
        let pauses = [&one, &other, &one].map(|wait| backoff.pause(wait, u8::MAX).as_secs());
        assert_eq!(pauses, [1, 2, 4]);
    }
}
