//! The end of a boot that failed (design section 4): one line on the console, PCR 15 extended with `failed:<code>`
//! when there is a TPM, disks synced, power off. A panic ends the same way. Nothing here can return, and nothing here
//! touches PCR 11.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot};

use crate::code::Code;
use crate::console;
use crate::measurement::{Measurement, measure};
use crate::tpm::Tpm;

/// Why the boot ended.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {what}")]
pub struct Failure {
    code: Code,
    what: String,
}

impl Failure {
    /// A failure with its code and what happened to which thing.
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, what: what.into() }
    }

    /// The code that is printed and measured.
    pub const fn code(&self) -> Code {
        self.code
    }

    fn line(&self) -> String {
        format!("FAILED code={}: {}; {}", self.code, self.what, self.code.next_step())
    }
}

/// Turns a panic into the failure `AGENT_PANIC`.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        end(&Failure::new(Code::AgentPanic, format!("the agent stopped at {place}: {message}")));
    }));
}

/// Says, measures and records the failure, then powers the machine off. Never returns.
pub fn end(failure: &Failure) -> ! {
    static ENDING: AtomicBool = AtomicBool::new(false);
    if !ENDING.swap(true, Ordering::SeqCst) {
        console::alert(&failure.line());
        record(failure.code());
    }
    power_off()
}

/// Extends PCR 15. What is missing or broken here is not a second failure: the boot ends in any case.
fn record(code: Code) {
    let measured = Tpm::open().and_then(|mut tpm| measure(&mut tpm, &Measurement::failed(code)));
    if let Err(failure) = measured {
        console::line(&format!("the failure could not be measured: {failure}"));
    }
}

fn power_off() -> ! {
    nix::unistd::sync();
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    console::alert(&format!("power off failed ({error}); the machine stands still"));
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_the_code_what_happened_and_the_next_step() {
        let failure = Failure::new(Code::TpmMissing, "there is no /dev/tpmrm0");
        assert_eq!(
            failure.line(),
            "FAILED code=TPM_MISSING: there is no /dev/tpmrm0; \
             give the machine a TPM 2.0 (or a virtual one) and boot again"
        );
    }
}
