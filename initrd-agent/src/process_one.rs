//! What the kernel expects of PID 1 and of nobody else: Ctrl-Alt-Del must not reset the machine behind our back,
//! signals must not interrupt a step, and orphans must be reaped (`reboot(2)`, `signal(7)`, `wait(2)`).

use nix::sys::reboot::set_cad_enabled;
use nix::sys::signal::SigSet;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::console;

/// Switches Ctrl-Alt-Del from "reset at once" to a SIGINT for PID 1, and holds all signals back.
pub fn behave() {
    if let Err(error) = set_cad_enabled(false) {
        console::line(&format!("Ctrl-Alt-Del still resets the machine: {error}"));
    }
    if let Err(error) = SigSet::all().thread_block() {
        console::line(&format!("signals are not held back: {error}"));
    }
}

/// Lets signals through again, as the next PID 1 expects them. What was held back is dropped by the kernel: PID 1 has
/// no handler, and default actions do not apply to it.
pub fn release_signals() {
    if let Err(error) = SigSet::all().thread_unblock() {
        console::line(&format!("signals stay held back: {error}"));
    }
}

/// Reaps what has died. The agent starts no process itself, so it never takes a status that somebody waits for.
pub fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}
