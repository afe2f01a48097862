//! The broker's time, which only goes forward: the later of the host's clock and the latest time that this broker has used or proved. An attacker on the host's time source could else make an expired channel state, release or key good again.
//!
//! The latest time lies in the database with the head of the audit log, so it survives a restart. What depends on it: the channel's state, releases and keys that end, deadlines of reports, ends of certificates.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::fault;

/// A clock that is never set back.
#[derive(Debug)]
pub(super) struct Clock {
    latest: AtomicU64,
}

impl Clock {
    /// One that has shown this time before, in seconds since 1970.
    pub fn new(latest: u64) -> Self {
        Self { latest: AtomicU64::new(latest) }
    }

    /// Seconds since 1970.
    pub fn seconds(&self) -> u64 {
        let host = host();
        self.latest.fetch_max(host, Ordering::Relaxed).max(host)
    }

    /// It is at least this late: witnesses and timestamp authorities have signed it.
    pub fn at_least(&self, proved: u64) {
        self.latest.fetch_max(proved, Ordering::Relaxed);
    }

    /// By how many seconds the host's clock is behind.
    pub fn behind(&self) -> u64 {
        self.latest.load(Ordering::Relaxed).saturating_sub(host())
    }
}

fn host() -> u64 {
    jiff::Timestamp::now().as_second().unsigned_abs().saturating_add_signed(fault::clock_offset())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_never_set_back() {
        let now = host();
        let clock = Clock::new(now + 1000);
        assert_eq!((clock.seconds(), clock.behind() >= 990), (now + 1000, true));
        clock.at_least(now + 2000);
        clock.at_least(now);
        assert_eq!(clock.seconds(), now + 2000);
        let clock = Clock::new(0);
        assert!(clock.seconds() >= now && clock.behind() == 0);
    }
}
