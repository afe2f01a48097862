//! `Retry-After` of 429 and 503: a random time within what the broker needs for the requests that wait and those that its queue turned away, so that they do not come back at one time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};

/// Bounds of the longest pause, in seconds.
const MIN_SPREAD_SECONDS: f64 = 8.0;
const MAX_SPREAD_SECONDS: f64 = 60.0;
/// For how long requests are counted before the rate is computed again.
const WINDOW: Duration = Duration::from_secs(5);
/// How long a request that was turned away is expected again.
const MEMORY: Duration = Duration::from_secs(60);
/// Decisions in a second, before any were counted under load.
const FIRST_RATE: f64 = 50.0;
/// The lowest rate that is computed with.
const MIN_RATE: f64 = 1.0;

/// A shorter time under load measures a burst and not a rate.
const MIN_LOAD: Duration = Duration::from_secs(1);

/// How fast requests are decided, and how many the queue turned away.
pub struct Pace(Mutex<Counts>);

struct Counts {
    since: Instant,
    /// Requests that the queue turned away in this window.
    turned_away: u32,
    load: Option<Load>,
    /// Decisions in a second, when it was last measured.
    rate: f64,
    /// Requests that were turned away before this window, and are expected again.
    expected: f64,
}

/// The part of a window in which the queue was full, or was still emptied.
struct Load {
    since: Instant,
    last: Instant,
    decided: u32,
}

impl Counts {
    /// Closes the window when it is over. Without load, the decisions count the requests and not the capacity.
    fn roll(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        if passed < WINDOW {
            return;
        }
        if let Some(load) = self.load.take() {
            let time = load.last.saturating_duration_since(load.since);
            if time >= MIN_LOAD {
                self.rate = (f64::from(load.decided) / time.as_secs_f64()).max(MIN_RATE);
            }
        }
        let left = 1.0 - (passed.as_secs_f64() / MEMORY.as_secs_f64()).min(1.0);
        self.expected = self.expected * left + f64::from(self.turned_away);
        (self.since, self.turned_away) = (now, 0);
    }
}

impl Pace {
    /// From now on.
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(Counts { since: now, turned_away: 0, load: None, rate: FIRST_RATE, expected: 0.0 }))
    }

    fn counts(&self, now: Instant) -> MutexGuard<'_, Counts> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.roll(now);
        counts
    }

    /// A request got its answer, and so many wait.
    pub fn decided(&self, waiting: usize, now: Instant) {
        let mut counts = self.counts(now);
        // With an empty queue, decisions are as many as requests.
        if let Some(load) = counts.load.as_mut().filter(|_| waiting > 0) {
            load.last = now;
            load.decided += 1;
        }
    }

    /// The queue was full and turned a request away. Refusals with any other cause are not the broker's load.
    pub fn turned_away(&self, now: Instant) {
        let mut counts = self.counts(now);
        counts.turned_away += 1;
        counts.load.get_or_insert(Load { since: now, last: now, decided: 0 }).last = now;
    }

    /// The longest pause while so many requests wait, in seconds.
    fn spread(&self, waiting: usize, now: Instant) -> u32 {
        let counts = self.counts(now);
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
        assert_eq!(pace.spread(1000, now), 20, "1000 requests at 50 a second");
        assert_eq!(pace.spread(1_000_000, now), 60);
        // 100 decisions in 5 s, while 204 were turned away.
        (0..203).for_each(|_| pace.turned_away(now));
        (0..100).for_each(|step| pace.decided(1, now + step * Duration::from_millis(50)));
        pace.turned_away(now + WINDOW - Duration::from_millis(1));
        assert_eq!(pace.spread(400, now + WINDOW), 31, "604 requests at 20 a second");
        // Requests that were turned away have come again, or have gone.
        let later = now + WINDOW + 2 * MEMORY;
        pace.decided(1, later);
        pace.decided(1, later + 2 * MEMORY);
        let mut counts = pace.0.lock().unwrap();
        assert!(counts.expected < 2.0, "{}", counts.expected);
        counts.rate = FIRST_RATE;
        drop(counts);
        let found: BTreeSet<u32> = (0..500).map(|_| pace.retry_after(900, later + 2 * MEMORY)).collect();
        assert!(found.len() > 10 && found.first() >= Some(&1) && found.last() <= Some(&60), "{found:?}");
    }

    #[test]
    fn refusals_that_the_queue_did_not_cause_change_no_pause() {
        let now = Instant::now();
        let pace = Pace::new(now);
        let seconds = |count: u64| now + Duration::from_secs(count);
        // An address over its limit, while the broker decides one request in 10 s.
        for step in 0..1000 {
            _ = pace.retry_after(0, seconds(step / 10));
            if step % 100 == 0 {
                pace.decided(0, seconds(step / 10));
            }
        }
        assert_eq!(pace.spread(500, seconds(100)), 10, "500 requests at 50 a second");
    }

    #[test]
    fn one_request_that_a_burst_turned_away_sets_no_rate() {
        let now = Instant::now();
        let pace = Pace::new(now);
        pace.turned_away(now);
        (0..50).for_each(|step| pace.decided(49 - step, now + Duration::from_millis(100)));
        // The queue is empty, and a request comes now and then.
        (1..100).for_each(|step| pace.decided(0, now + Duration::from_secs(step)));
        assert_eq!(pace.spread(450, now + 2 * MEMORY), 10, "451 requests at 50 a second");
    }
}
