//! What a command says while it works: a line per step on a terminal or in a log, JSON lines for machines.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between two lines about a step that is still running.
const HEARTBEAT: Duration = Duration::from_secs(15);

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

    /// Runs a step; while it takes long, a line from time to time names it and its time so far.
    pub fn during<T>(&self, what: &str, act: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        during(HEARTBEAT, || self.note(&format!("{what}: {:.0} s so far", start.elapsed().as_secs_f64())), act)
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

/// Runs `act` on this thread, and `beat` on another one every `interval` until `act` ends.
fn during<T>(interval: Duration, beat: impl Fn() + Send, act: impl FnOnce() -> T) -> T {
    let (ends, ended) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                beat();
            }
        });
        let outcome = act();
        drop(ends);
        outcome
    })
}

/// `12.3 MB`, decimal; `1.4 kB` for what is small.
pub fn megabytes(bytes: u64) -> String {
    if bytes < 100_000 { format!("{:.1} kB", bytes as f64 / 1e3) } else { format!("{:.1} MB", bytes as f64 / 1e6) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_that_takes_long_is_named_until_it_ends() {
        let beats = std::sync::atomic::AtomicUsize::new(0);
        let count = || beats.load(std::sync::atomic::Ordering::SeqCst);
        let beat = || {
            beats.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        };
        assert_eq!(during(Duration::from_secs(60), beat, || 7), 7);
        assert_eq!(count(), 0, "a quick step is named");
        during(Duration::from_millis(1), beat, || {
            while count() < 3 {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let at_the_end = count();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(count(), at_the_end, "the step is named after its end");
    }

    #[test]
    fn sizes_are_shown_in_the_unit_that_fits() {
        for (bytes, shown) in
            [(0, "0.0 kB"), (65, "0.1 kB"), (99_999, "100.0 kB"), (100_000, "0.1 MB"), (118_489_088, "118.5 MB")]
        {
            assert_eq!(megabytes(bytes), shown);
        }
    }
}
