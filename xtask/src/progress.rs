//! What a command says while it works: a line per step on a terminal or in a log, JSON lines for machines.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Lines for people; bars on a terminal.
    Human,
    /// One JSON object a line.
    Json,
    /// Nothing (tests).
    Silent,
}

/// Where a command's progress goes: standard error, so that results on standard output stay clean.
#[derive(Clone, Debug)]
pub struct Progress {
    style: Style,
    start: Arc<Instant>,
}

impl Progress {
    /// Speaks in `style` from now on.
    pub fn new(style: Style) -> Self {
        Self { style, start: Arc::new(Instant::now()) }
    }

    /// Says nothing.
    pub fn silent() -> Self {
        Self::new(Style::Silent)
    }

    /// Time since the command began.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// A step begins or something worth knowing happened.
    pub fn note(&self, text: &str) {
        self.emit("note", text);
    }

    /// Something that the reader must not miss.
    pub fn warn(&self, text: &str) {
        self.emit("warning", text);
    }

    fn emit(&self, kind: &str, text: &str) {
        let seconds = self.elapsed().as_secs_f64();
        let line = match self.style {
            Style::Silent => return,
            Style::Json => {
                serde_json::json!({"type": kind, "seconds": (seconds * 1000.0).round() / 1000.0, "text": text})
                    .to_string()
            }
            Style::Human if kind == "warning" => format!("[{seconds:6.1}s] warning: {text}"),
            Style::Human => format!("[{seconds:6.1}s] {text}"),
        };
        // A closed standard error must not stop a build.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }

    /// A bar over `total` bytes; invisible where there is no terminal.
    pub fn bytes(&self, what: &str, total: u64) -> ProgressBar {
        let visible = self.style == Style::Human && std::io::stderr().is_terminal();
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target).with_message(what.to_owned());
        let template = "          {msg} {bytes}/{total_bytes} {wide_bar} {bytes_per_sec}, {eta} left";
        bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
    }
}

/// `12.3 MB`, decimal; `1.4 kB` for what is small.
pub fn megabytes(bytes: u64) -> String {
    if bytes < 100_000 { format!("{:.1} kB", bytes as f64 / 1e3) } else { format!("{:.1} MB", bytes as f64 / 1e6) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_the_unit_that_fits() {
        for (bytes, shown) in
            [(0, "0.0 kB"), (65, "0.1 kB"), (99_999, "100.0 kB"), (100_000, "0.1 MB"), (118_489_088, "118.5 MB")]
        {
            assert_eq!(megabytes(bytes), shown);
        }
    }
}
