//! How a machine ended, judged from QEMU's exit status and the serial console. A fault of the emulator must not pass for a verdict of the guest.

use std::fmt;
use std::process::ExitStatus;

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest powered itself off in order.
    PoweredOff,
    /// The agent or the system gave up and named the code.
    Failed {
        /// Of the line `cairn: FAILED code=<code>`.
        code: String,
        /// That line.
        line: String,
    },
    /// dm-verity met a corrupted block and stopped the machine.
    Corrupted {
        /// The kernel's line about the block.
        line: String,
    },
    /// The guest's kernel panicked for another reason.
    Panicked {
        /// The kernel's line.
        line: String,
    },
    /// The guest restarted or was reset; there is no second boot.
    Restarted,
    /// QEMU itself failed: nothing can be said about the guest.
    EmulatorFailed {
        /// Exit status and messages.
        message: String,
    },
}

impl Ending {
    /// Judges by the exit status of QEMU, the whole console and QEMU's own messages.
    pub(super) fn judge(status: ExitStatus, console: &str, messages: &str) -> Self {
        if !status.success() {
            return Self::EmulatorFailed { message: format!("{status}: {}", messages.trim()) };
        }
        Self::named_by(console).unwrap_or_else(|| {
            let last = console.rfind("reboot: ").map(|at| &console[at..]);
            if last.is_some_and(|text| text.starts_with("reboot: Power down")) {
                Self::PoweredOff
            } else {
                Self::Restarted
            }
        })
    }

    /// The failure that the console names, if any; the machine need not have ended.
    pub fn named_by(console: &str) -> Option<Self> {
        if let Some((line, code)) = failure(console) {
            return Some(Self::Failed { code: code.to_owned(), line: line.to_owned() });
        }
        let panic = console.lines().find(|line| line.contains("Kernel panic - not syncing"))?;
        if panic.contains("dm-verity") {
            let block =
                console.lines().find(|line| line.contains("device-mapper: verity:") && line.contains("is corrupted"));
            return Some(Self::Corrupted { line: block.unwrap_or(panic).trim().to_owned() });
        }
        Some(Self::Panicked { line: panic.trim().to_owned() })
    }
}

/// The first line that names a failure, and its code.
fn failure(console: &str) -> Option<(&str, &str)> {
    console.lines().find_map(|line| {
        let rest = &line[line.find("cairn: FAILED code=")?..];
        let code = rest.trim_start_matches("cairn: FAILED code=");
        let end = code.find(|letter: char| !(letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_'));
        Some((rest.trim_end(), &code[..end.unwrap_or(code.len())]))
    })
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => f.write_str("the guest powered off"),
            Self::Failed { line, .. } => write!(f, "the guest gave up: {line}"),
            Self::Corrupted { line } => write!(f, "dm-verity stopped the guest: {line}"),
            Self::Panicked { line } => write!(f, "the guest's kernel panicked: {line}"),
            Self::Restarted => f.write_str("the guest restarted or was reset"),
            Self::EmulatorFailed { message } => write!(f, "QEMU failed, which says nothing about the guest: {message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn judge(status: i32, console: &str) -> Ending {
        Ending::judge(ExitStatus::from_raw(status), console, "qemu: message\n")
    }

    #[test]
    fn the_end_is_told_from_the_console() {
        let failed = "[    4.1] cairn: FAILED code=ROOT_NOT_FOUND no partition with ...";
        for (console, expected) in [
            ("x\n[    9.9] reboot: Power down\n", Ending::PoweredOff),
            ("x\n[    9.9] reboot: Restarting system\n", Ending::Restarted),
            ("x\n", Ending::Restarted),
            (
                &format!("x\n{failed}\r\n[ 5] reboot: Power down\n"),
                Ending::Failed { code: "ROOT_NOT_FOUND".into(), line: failed[failed.find("cairn").unwrap()..].into() },
            ),
            (
                "[ 1] device-mapper: verity: 253:2: data block 17 is corrupted\n\
                 [ 2] Kernel panic - not syncing: dm-verity device corrupted\n",
                Ending::Corrupted { line: "[ 1] device-mapper: verity: 253:2: data block 17 is corrupted".into() },
            ),
            (
                "[ 2] Kernel panic - not syncing: Attempted to kill init!\n",
                Ending::Panicked { line: "[ 2] Kernel panic - not syncing: Attempted to kill init!".into() },
            ),
        ] {
            assert_eq!(judge(0, console), expected, "{console}");
        }
    }

    #[test]
    fn a_fault_of_qemu_is_never_a_verdict() {
        for status in [1 << 8, 6, 139 << 8] {
            let ending = judge(status, "cairn: FAILED code=ROOT_NOT_FOUND\nreboot: Power down\n");
            assert!(
                matches!(&ending, Ending::EmulatorFailed { message } if message.contains("qemu: message")),
                "{ending:?}"
            );
        }
    }
}
