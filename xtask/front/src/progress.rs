//! Lines on standard error: the time since the start, and what is being done.

use std::ffi::OsStr;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `[  1.0s] text`; on a terminal the newest line replaces the one before.
    Human,
    /// One JSON object a line, as commands with `--json` write.
    Json,
}

impl Style {
    /// The style that a command line of `cargo xtask` asks for.
    pub fn of_arguments(arguments: &[impl AsRef<OsStr>]) -> Self {
        let own = arguments.iter().map(AsRef::as_ref).take_while(|argument| *argument != "--");
        if own.into_iter().any(|argument| argument == "--json") { Self::Json } else { Self::Human }
    }
}

/// Progress of one compilation.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    style: Style,
    is_terminal: bool,
    start: Instant,
}

impl Progress {
    /// Begins now.
    pub fn new(style: Style) -> Self {
        Self { style, is_terminal: std::io::stderr().is_terminal(), start: Instant::now() }
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Time between two lines: a terminal shows one line, a log keeps them all.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(if self.rewrites() { 1 } else { 10 })
    }

    /// Writes a line that the next one replaces on a terminal.
    pub fn step(&self, text: &str) {
        let line = self.line(text);
        self.write(&if self.rewrites() { format!("\r\x1b[K{line}") } else { format!("{line}\n") });
    }

    /// Writes a line that stays.
    pub fn note(&self, text: &str) {
        let line = self.line(text);
        self.write(&if self.rewrites() { format!("\r\x1b[K{line}\n") } else { format!("{line}\n") });
    }

    /// Makes room for what others write.
    pub fn clear(&self) {
        if self.rewrites() {
            self.write("\r\x1b[K");
        }
    }

    fn rewrites(&self) -> bool {
        self.is_terminal && self.style == Style::Human
    }

    fn line(&self, text: &str) -> String {
        let seconds = self.elapsed().as_secs_f64();
        match self.style {
            Style::Human => format!("[{seconds:6.1}s] {text}"),
            // Texts are of names of packages and numbers: nothing needs an escape.
            Style::Json => format!("{{\"type\":\"note\",\"seconds\":{seconds:.3},\"text\":\"{text}\"}}"),
        }
    }

    fn write(&self, text: &str) {
        // A closed standard error must not stop a build.
        let mut stderr = std::io::stderr().lock();
        let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_json_if_the_command_writes_json() {
        for (line, style) in [
            (&["build-image", "--json"][..], Style::Json),
            (&["build-image"], Style::Human),
            (&["in-root", "--", "lsblk", "--json"], Style::Human),
        ] {
            assert_eq!(Style::of_arguments(line), style, "{line:?}");
        }
    }
}
