//! The broker's time, which only goes forward: the host's clock, or the latest time that this broker has used or proved and what has passed since by the monotonic clock, whichever is later. An attacker on the host's time source could else make an
//! expired channel state, release or key good again.
//!
//! The latest time lies in the database with the head of the audit log, so it survives a restart. What depends on it: the channel's state, releases and keys that end, ends of certificates, and the deadline of a report where another process released.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use transparency::verify::{Evidence, SKEW};

use crate::fault;

/// How often an open broker records its time.
const RECORD_INTERVAL: Duration = Duration::from_secs(60);
/// While the calendar is ahead of the host's clock, it loses one part of so many: so the two meet again, after a witness whose clock was ahead and on a host whose clock is set back a little each day.
const SLOWER: u32 = 1000;

/// A clock that is never set back.
#[derive(Debug)]
pub(super) struct Clock {
    latest: Mutex<Latest>,
    /// When the time was recorded last.
    recorded: Mutex<Option<Instant>>,
}

/// The latest time that was used or proved.
#[derive(Clone, Copy, Debug)]
struct Latest {
    /// Seconds since 1970.
    time: u64,
    /// When it was that time.
    since: Instant,
}

impl Latest {
    /// The time that it is at least, now.
    fn at(self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.since);
        self.time.saturating_add((passed - passed / SLOWER).as_secs())
    }
}

impl Clock {
    /// One that has shown this time before, in seconds since 1970.
    pub fn new(latest: u64) -> Self {
        Self { latest: Mutex::new(Latest { time: latest, since: Instant::now() }), recorded: Mutex::default() }
    }

    /// Seconds since 1970.
    pub fn seconds(&self) -> u64 {
        self.later(host(), Instant::now())
    }

    /// It is at least this late: witnesses and timestamp authorities have signed it, or another broker has recorded it.
    pub fn at_least(&self, proved: u64) {
        self.later(proved, Instant::now());
    }

    /// By how many seconds the host's clock is behind.
    pub fn behind(&self) -> u64 {
        lock(&self.latest).at(Instant::now()).saturating_sub(host())
    }

    /// Whether the time must be recorded now; then it is not due again for a minute.
    pub fn is_record_due(&self, now: Instant) -> bool {
        let mut recorded = lock(&self.recorded);
        let is_due = recorded.is_none_or(|last| now.saturating_duration_since(last) >= RECORD_INTERVAL);
        if is_due {
            *recorded = Some(now);
        }
        is_due
    }

    /// The later of this time and the calendar's.
    fn later(&self, time: u64, now: Instant) -> u64 {
        let mut latest = lock(&self.latest);
        let calendar = latest.at(now);
        if time <= calendar {
            return calendar;
        }
        *latest = Latest { time, since: now };
        time
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The host's clock, in seconds since 1970.
pub(super) fn host() -> u64 {
    jiff::Timestamp::now().as_second().unsigned_abs().saturating_add_signed(fault::clock_offset())
}

/// The time that an accepted statement proves, in seconds since 1970: the one that `threshold` witnesses have reached, or that of an authority. It is compared with the host's clock and not with a calendar that earlier statements have set forward:
/// however many there are, they set it [`SKEW`] ahead of the host and no further.
pub(super) fn proved(evidence: &Evidence, threshold: u64, host: u64) -> u64 {
    let mut times: Vec<u64> = evidence.witnesses.iter().map(|(_, time)| *time).collect();
    times.sort_unstable_by(|one, other| other.cmp(one));
    let quorum = threshold.checked_sub(1).and_then(|last| times.get(usize::try_from(last).ok()?)).copied();
    quorum.max(evidence.time).unwrap_or_default().min(host.saturating_add(SKEW))
}

#[cfg(test)]
mod tests {
    use attest::bytes::Bytes32;
    use transparency::checkpoint::Checkpoint;

    use super::*;

    #[test]
    fn time_is_never_set_back() {
        let now = host();
        let clock = Clock::new(now + 1000);
        assert!((now + 1000..now + 1010).contains(&clock.seconds()) && clock.behind() >= 990);
        clock.at_least(now + 2000);
        clock.at_least(now);
        assert!((now + 2000..now + 2010).contains(&clock.seconds()));
        let clock = Clock::new(0);
        assert!(clock.seconds() >= now && clock.behind() == 0);
    }

    #[test]
    fn calendar_ahead_of_the_host_goes_on_and_meets_it_again() {
        let clock = Clock::new(10_000);
        let began = lock(&clock.latest).since;
        // A host whose clock was set back by 100 s, at so many seconds.
        let shown = |passed: u64| clock.later(9_900 + passed, began + Duration::from_secs(passed));
        for (passed, expected) in [(0, 10_000), (10, 10_009), (1000, 10_999), (50_000, 59_950), (99_000, 108_901)] {
            assert_eq!(shown(passed), expected, "after {passed} s");
        }
        // From then on it is the host's clock.
        for passed in [100_000, 100_001, 300_000] {
            assert_eq!(shown(passed), 9_900 + passed);
        }
        assert_eq!(clock.later(0, began), 309_900, "a calendar that was set back");
    }

    #[test]
    fn time_is_recorded_once_a_minute() {
        let (clock, now) = (Clock::new(0), Instant::now());
        let due: Vec<u64> = (0..200).filter(|passed| clock.is_record_due(now + Duration::from_secs(*passed))).collect();
        assert_eq!(due, [0, 60, 120, 180]);
    }

    #[test]
    fn time_that_a_quorum_of_witnesses_has_reached_is_proved_and_not_far_from_the_host() {
        let evidence = |witnesses: &[u64], time| Evidence {
            key: Bytes32([0; 32]),
            origin: "log".into(),
            index: 0,
            checkpoint: Checkpoint { origin: "log".into(), size: 1, root: [0; 32] },
            witnesses: witnesses.iter().map(|time| (time.to_string(), *time)).collect(),
            time,
        };
        for (witnesses, time, threshold, expected) in [
            (&[900, 1200, 1000][..], None, 1, 1200),
            (&[900, 1200, 1000], None, 2, 1000),
            (&[900, 1200, 1000], None, 3, 900),
            (&[900, 1200, 1000], Some(1100), 2, 1100),
            (&[1200, 1000], Some(0), 2, 1000),
            // No witness is needed, so none proves a time.
            (&[1200], None, 0, 0),
            (&[], Some(1100), 0, 1100),
            (&[], None, 0, 0),
            // The calendar may be ahead, so that a time is accepted which is far ahead of the host.
            (&[1500, 1600], Some(1700), 2, 1000 + SKEW),
        ] {
            assert_eq!(proved(&evidence(witnesses, time), threshold, 1000), expected, "{witnesses:?} {time:?}");
        }
    }
}
