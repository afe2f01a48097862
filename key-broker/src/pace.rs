//! `Retry-After` of 429 and 503: a random time within what the broker needs for those who wait and those who were turned away, so that they do not come back at one time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};

/// Bounds of the longest pause, in seconds.
const MIN_SPREAD_SECONDS: f64 = 8.0;
const MAX_SPREAD_SECONDS: f64 = 60.0;
/// For how long requests are counted before the rate is computed again.
const WINDOW: Duration = Duration::from_secs(5);
/// How long whoever was turned away is expected to come again.
const MEMORY: Duration = Duration::from_secs(60);
/// Decisions in a second, before any were counted under load.
const FIRST_RATE: f64 = 50.0;
/// The lowest rate that is computed with.
const MIN_RATE: f64 = 1.0;

/// How fast requests are decided, and how many were turned away.
pub struct Pace(Mutex<Counts>);

struct Counts {
    since: Instant,
    decided: u32,
    turned_away: u32,
    /// Decisions in a second, when it was last measured.
    rate: f64,
    /// Requests that were turned away before this window, and are expected again.
    expected: f64,
}

impl Counts {
    /// Closes the window when it is over. A broker that turns nobody away shows how many come, not how many it could decide.
    fn roll(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        if passed < WINDOW {
            return;
        }
        if self.turned_away > 0 {
            self.rate = (f64::from(self.decided) / passed.as_secs_f64()).max(MIN_RATE);
        }
        let left = 1.0 - (passed.as_secs_f64() / MEMORY.as_secs_f64()).min(1.0);
        self.expected = self.expected * left + f64::from(self.turned_away);
        (self.since, self.decided, self.turned_away) = (now, 0, 0);
    }
}

impl Pace {
    /// From now on.
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(Counts { since: now, decided: 0, turned_away: 0, rate: FIRST_RATE, expected: 0.0 }))
    }

    /// A request got its answer.
    pub fn decided(&self, now: Instant) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.roll(now);
        counts.decided += 1;
    }

    /// A request is turned away while so many wait: the longest pause, in seconds.
    fn spread(&self, waiting: usize, now: Instant) -> u32 {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.roll(now);
        counts.turned_away += 1;
        let waiting = f64::from(u32::try_from(waiting).unwrap_or(u32::MAX));
        let needed = (waiting + counts.expected + f64::from(counts.turned_away)) / counts.rate;
        // Bounded, so that it fits.
        needed.clamp(MIN_SPREAD_SECONDS, MAX_SPREAD_SECONDS).ceil() as u32
    }

    /// A request is turned away while so many wait: seconds after which it may come again.
    pub fn retry_after(&self, waiting: usize, now: Instant) -> u32 {
        let spread = self.spread(waiting, now);
        let mut bytes = [0; 4];
        // Without random bytes, the longest pause.
        SystemRandom::new().fill(&mut bytes).map_or(spread, |()| 1 + u32::from_le_bytes(bytes) % spread)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn pauses_are_spread_over_the_time_that_the_queue_needs() {
        let now = Instant::now();
        let pace = Pace::new(now);
        assert_eq!(pace.spread(0, now), 8);
        assert_eq!(pace.spread(1000, now), 21, "1000 requests at 50 a second");
        assert_eq!(pace.spread(1_000_000, now), 60);
        // 100 decisions in 5 s, while 203 were turned away.
        (0..100).for_each(|_| pace.decided(now));
        (0..200).for_each(|_| _ = pace.retry_after(0, now));
        assert_eq!(pace.spread(400, now + WINDOW), 31, "604 requests at 20 a second");
        // Whoever was turned away has come again, or has gone.
        let later = now + WINDOW + 2 * MEMORY;
        pace.decided(later);
        pace.decided(later + 2 * MEMORY);
        let mut counts = pace.0.lock().unwrap();
        assert!(counts.expected < 2.0, "{}", counts.expected);
        counts.rate = FIRST_RATE;
        drop(counts);
        let found: BTreeSet<u32> = (0..500).map(|_| pace.retry_after(900, later + 2 * MEMORY)).collect();
        assert!(found.len() > 10 && found.first() >= Some(&1) && found.last() <= Some(&60), "{found:?}");
    }
}
