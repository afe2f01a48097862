//! How a boot ended, as the exit code and the last line of `cargo xtask boot`.

use std::fmt;

use crate::vm::Ending;

/// How a boot ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The text of `--until` appeared.
    Seen(String),
    /// The machine ended; without `--until` that is fine if it powered off.
    Ended { ending: Ending, awaited: Option<String> },
    /// `--timeout` ran out, with or without a text to wait for.
    TimedOut(Option<String>),
    /// A signal, or the escape key.
    Interrupted,
    /// The machine could not be started or watched.
    NotStarted(anyhow::Error),
}

impl Outcome {
    /// The outcome of a machine that ended by itself.
    pub fn of_ending(ending: Ending, awaited: Option<&str>, seen: bool) -> Self {
        match awaited {
            Some(text) if seen => Self::Seen(text.to_owned()),
            _ => Self::Ended { ending, awaited: awaited.map(str::to_owned) },
        }
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Seen(_) | Self::Ended { ending: Ending::PoweredOff, awaited: None } => 0,
            Self::Ended { ending: Ending::PoweredOff, awaited: Some(_) } => 3,
            Self::Ended { ending: Ending::Failed { .. }, .. } => 4,
            Self::Ended { ending: Ending::Corrupted { .. } | Ending::Panicked { .. } | Ending::Restarted, .. } => 5,
            Self::Ended { ending: Ending::EmulatorFailed { .. }, .. } | Self::NotStarted(_) => 6,
            Self::TimedOut(_) => 124,
            Self::Interrupted => 130,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seen(text) => write!(f, "Seen: {text:?}"),
            Self::Ended { ending, awaited: None } => write!(f, "Ended: {ending}"),
            Self::Ended { ending, awaited: Some(text) } => write!(f, "Ended without showing {text:?}: {ending}"),
            Self::TimedOut(None) => f.write_str("Timed out: the guest was still running"),
            Self::TimedOut(Some(text)) => write!(f, "Timed out: the console did not show {text:?}"),
            Self::Interrupted => f.write_str("Interrupted"),
            Self::NotStarted(error) => write!(f, "Failed to run the machine: {error:#}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ending_has_its_exit_code() {
        let failed = Ending::Failed { code: "X".into(), line: "cairn: FAILED code=X".into() };
        let line = || "line".to_owned();
        for (ending, awaited, seen, code) in [
            (Ending::PoweredOff, None, false, 0),
            (Ending::PoweredOff, Some("t"), true, 0),
            (Ending::PoweredOff, Some("t"), false, 3),
            (failed.clone(), None, false, 4),
            (failed, Some("t"), false, 4),
            (Ending::Corrupted { line: line() }, None, false, 5),
            (Ending::Panicked { line: line() }, Some("t"), false, 5),
            (Ending::Restarted, None, false, 5),
            (Ending::EmulatorFailed { message: line() }, Some("t"), false, 6),
        ] {
            let outcome = Outcome::of_ending(ending, awaited, seen);
            assert_eq!(outcome.exit_code(), code, "{outcome}");
        }
        assert_eq!(Outcome::TimedOut(None).exit_code(), 124);
        assert_eq!(Outcome::Interrupted.exit_code(), 130);
        assert_eq!(Outcome::NotStarted(anyhow::anyhow!("x")).exit_code(), 6);
    }
}
