//! Waits for a child as process 1 of a namespace must: reaps every orphan, hands signals on, and turns how the child ended into an exit code.
//!
//! Signals are blocked and read from a `signalfd(2)`; there is no handler. What the terminal sends (Ctrl-C) is not handed on, because it reaches the
//! program's process group by itself.

use std::process::{Child, Command};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

const HANDED_ON: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

pub(super) struct Supervisor {
    signals: SigSet,
    queue: SignalFd,
}

impl Supervisor {
    /// Blocks the signals from here on, so that none is lost before [`Supervisor::wait`].
    pub fn new() -> Result<Self> {
        let mut signals: SigSet = HANDED_ON.into_iter().collect();
        signals.add(Signal::SIGCHLD);
        signals.thread_block().context("Failed to block signals")?;
        let flags = nix::sys::signalfd::SfdFlags::SFD_CLOEXEC;
        let queue = SignalFd::with_flags(&signals, flags).context("Failed to make a signalfd")?;
        Ok(Self { signals, queue })
    }

    /// Starts the program with these signals unblocked: a blocked set is inherited.
    pub fn spawn(&self, command: &mut Command) -> std::io::Result<Child> {
        self.signals.thread_unblock()?;
        let child = command.spawn();
        self.signals.thread_block()?;
        child
    }

    /// Waits for `child`; its exit code, or 128+n for signal n.
    pub fn wait(&self, child: u32) -> Result<i32> {
        let child = Pid::from_raw(i32::try_from(child).context("process id out of range")?);
        loop {
            if let Some(code) = reap(child)? {
                return Ok(code);
            }
            let Some(info) = self.queue.read_signal().context("Failed to read from a signalfd")? else { continue };
            let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
            match signal {
                None | Some(Signal::SIGCHLD) => {}
                Some(_) if info.ssi_code == libc::SI_KERNEL => {}
                Some(signal) => match kill(child, signal) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(error) => return Err(error).context("Failed to hand a signal on"),
                },
            }
        }
    }
}

/// Reaps all that has ended; the exit code if `child` was among it.
fn reap(child: Pid) -> Result<Option<i32>> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, value)) if pid == child => code = Some(value),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => code = Some(128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(code),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("Failed to wait for processes"),
        }
    }
}
