//! What the kernel expects of PID 1 and of nobody else: Ctrl-Alt-Del must not reset the machine behind our back,
//! signals must not interrupt a step, and orphans must be reaped (`reboot(2)`, `signal(7)`, `wait(2)`).

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl::set_dumpable;
use nix::sys::reboot::set_cad_enabled;
use nix::sys::resource::{Resource, setrlimit};
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

/// From here on there are secrets in memory: none of it is ever written to a disk, neither as swap nor as a core dump. Each of these is a second lock: the initrd activates no swap, and has nothing that a core dump could be written to.
/// So the boot goes on where the kernel refuses one of them, and the console has the line; docs/threat-model.md says so.
pub fn keep_secrets() {
    let locked = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE);
    let refused = [
        ("lock memory", locked),
        ("disable core dumps", setrlimit(Resource::RLIMIT_CORE, 0, 0)),
        ("disable tracing", set_dumpable(false)),
    ];
    for (what, error) in refused.into_iter().filter_map(|(what, done)| done.err().map(|error| (what, error))) {
        console::line(&format!("cannot {what}: {error} (no swap is active in the initrd)"));
    }
}

/// Lets signals through again, as the next PID 1 expects them. What was held back is dropped by the kernel: PID 1 has
/// no handler, and default actions do not apply to it.
pub fn release_signals() {
    if let Err(error) = SigSet::all().thread_unblock() {
        console::line(&format!("signals stay held back: {error}"));
    }
}

/// Reaps what has died. To be called when the agent's own children have ended, so that no status is taken that somebody
/// waits for.
pub fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}
