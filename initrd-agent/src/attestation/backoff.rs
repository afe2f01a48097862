//! Pauses between tries: they double up to a minute, and each is between half and all of that, so that machines that lost their broker together do not come back together. The console says why once, not each time.

use std::thread::sleep;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

use crate::console;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Where the pauses are.
pub(super) struct Backoff {
    next: Duration,
    said: Option<String>,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST, said: None }
    }

    /// Waits, at least as many seconds as somebody asked for.
    pub(super) fn wait(&mut self, why: &str, seconds: Option<u32>) {
        if self.said.as_deref() != Some(why) {
            console::line(&format!("waiting: {why}"));
            self.said = Some(why.to_owned());
            self.next = FIRST;
        }
        sleep(self.pause(seconds, fraction()));
    }

    /// The pause, of which at least half is taken; `fraction` of 255 parts says where between.
    fn pause(&mut self, seconds: Option<u32>, fraction: u8) -> Duration {
        let whole = self.next;
        self.next = (self.next * 2).min(LONGEST);
        let jittered = whole / 2 + whole / 2 * u32::from(fraction) / 255;
        let asked = Duration::from_secs(u64::from(seconds.unwrap_or(0))).min(LONGEST);
        asked.max(jittered)
    }
}

fn fraction() -> u8 {
    let mut byte = [0];
    // Without random bytes, all wait the longest.
    if SystemRandom::new().fill(&mut byte).is_ok() { byte[0] } else { u8::MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_keep_what_was_asked_for() {
        let mut backoff = Backoff::new();
        let pauses: Vec<u128> = (0..9).map(|_| backoff.pause(None, u8::MAX).as_millis()).collect();
        assert_eq!(pauses, [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        assert_eq!(Backoff::new().pause(None, 0), Duration::from_millis(500));
        assert_eq!(Backoff::new().pause(Some(7), 0), Duration::from_secs(7));
        assert_eq!(Backoff::new().pause(Some(u32::MAX), 0), LONGEST, "nobody makes a node wait for years");
    }
}
