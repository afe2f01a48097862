//! The clock of the measurement log: time since the kernel started, which no host can set back within one boot. The
//! agent has no other clock and judges nothing by this one.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// CLOCK_BOOTTIME; zero where the kernel has no such clock.
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}
