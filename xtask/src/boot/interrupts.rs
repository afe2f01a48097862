//! SIGINT, SIGTERM and SIGHUP as something to ask for, so that the machine and its temporary folder are cleaned up on Ctrl-C.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Holds these signals back from the calling thread and those it starts, until dropped.
pub(super) struct Interrupts {
    signals: SigSet,
    queue: SignalFd,
}

impl Interrupts {
    pub fn hold() -> Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        signals.thread_block().context("Failed to block signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let queue = SignalFd::with_flags(&signals, flags).context("Failed to make a signalfd")?;
        Ok(Self { signals, queue })
    }

    /// Whether one has arrived.
    pub fn pending(&self) -> Result<bool> {
        match self.queue.read_signal() {
            Ok(signal) => Ok(signal.is_some()),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error).context("Failed to read from a signalfd"),
        }
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        let _ = self.signals.thread_unblock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_signal_is_reported_once() {
        let interrupts = Interrupts::hold().unwrap();
        assert!(!interrupts.pending().unwrap());
        // To this thread only: other tests run in others.
        nix::sys::signal::raise(Signal::SIGTERM).unwrap();
        assert!(interrupts.pending().unwrap());
        assert!(!interrupts.pending().unwrap());
    }
}
