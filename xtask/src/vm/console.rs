//! The serial console of a machine: read by a thread, kept with times, searched while it grows.
//!
//! Colours and cursor movements (ECMA-48 control sequences), which systemd puts into its status lines, are dropped from the kept text, so that a search
//! finds what a person would read. A line need not be finished to be found: prompts are not.

use std::io::Read;
use std::process::ChildStdout;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Called with the bytes as they come and the time since power-on.
pub type Sink = Box<dyn FnMut(Duration, &[u8]) + Send>;

/// What a wait on the console ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Which of the texts it was, and the offset just behind it.
    Text(usize, usize),
    /// The machine ended without any of them.
    Closed,
    /// Neither in time.
    Timeout,
}

/// A console that is being read.
pub struct Console {
    shared: Arc<Shared>,
    reader: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    text: String,
    /// Offset of each line's start, and when it was begun.
    lines: Vec<(usize, Duration)>,
    closed: bool,
}

impl Console {
    /// Starts reading. Without an output the console is closed from the start.
    pub(super) fn read_from(output: Option<ChildStdout>, started: Instant, sink: Sink) -> Self {
        let shared = Arc::new(Shared::default());
        let for_reader = Arc::clone(&shared);
        let reader = std::thread::spawn(move || {
            if let Some(output) = output {
                pump(output, &for_reader, started, sink);
            }
            for_reader.lock().closed = true;
            for_reader.changed.notify_all();
        });
        Self { shared, reader: Mutex::new(Some(reader)) }
    }

    /// Everything so far, without control sequences.
    pub fn text(&self) -> String {
        self.shared.lock().text.clone()
    }

    /// Everything so far, each line with the time since power-on.
    pub fn transcript(&self) -> String {
        let state = self.shared.lock();
        let ends = state.lines.iter().skip(1).map(|(start, _)| *start).chain([state.text.len()]);
        let lines = state.lines.iter().zip(ends);
        lines
            .map(|((start, time), end)| format!("{:8.3} {}\n", time.as_secs_f64(), state.text[*start..end].trim_end()))
            .collect()
    }

    /// Waits until one of `texts` stands at or after the offset `from`.
    pub fn wait_for(&self, texts: &[&str], from: usize, timeout: Duration) -> Found {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.lock();
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let mut searched = from;
        loop {
            let rest = state.text.get(searched..).unwrap_or_default();
            if let Some((index, end)) = earliest(texts, rest) {
                return Found::Text(index, searched + end);
            }
            if state.closed {
                return Found::Closed;
            }
            // Only the end can become part of a match later.
            searched = state.text.floor_char_boundary(state.text.len().saturating_sub(longest).max(from));
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Found::Timeout;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the machine has closed its side, at most for `timeout`.
    pub fn wait_closed(&self, timeout: Duration) {
        if self.wait_for(&[], 0, timeout) == Found::Closed
            && let Some(reader) = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            // A sink that panicked is its own affair.
            let _ = reader.join();
        }
    }
}

/// Which of `texts` stands first in `console`, and the offset just behind it.
pub fn earliest(texts: &[&str], console: &str) -> Option<(usize, usize)> {
    let (at, index) = texts.iter().enumerate().filter_map(|(index, text)| Some((console.find(text)?, index))).min()?;
    Some((index, at + texts[index].len()))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pump(mut output: impl Read, shared: &Shared, started: Instant, mut sink: Sink) {
    let mut filter = Filter::default();
    let mut buffer = [0; 4096];
    loop {
        let count = match output.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let time = started.elapsed();
        sink(time, &buffer[..count]);
        let text = filter.plain(&buffer[..count]);
        shared.lock().append(&text, time);
        shared.changed.notify_all();
    }
}

impl State {
    fn append(&mut self, text: &str, time: Duration) {
        for piece in text.split_inclusive('\n') {
            if self.text.is_empty() || self.text.ends_with('\n') {
                self.lines.push((self.text.len(), time));
            }
            self.text.push_str(piece);
        }
    }
}

/// Drops control sequences and carriage returns; what is not ASCII becomes a question mark (a character may be cut between two reads).
#[derive(Default)]
pub struct Filter {
    state: FilterState,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum FilterState {
    #[default]
    Text,
    Escape,
    Sequence,
    /// Operating system command, device control: up to BEL or ESC \.
    String,
}

impl Filter {
    /// The text in these bytes, which follow those of the last call.
    pub fn plain(&mut self, bytes: &[u8]) -> String {
        bytes.iter().filter_map(|byte| self.step(*byte)).collect()
    }

    fn step(&mut self, byte: u8) -> Option<char> {
        use FilterState::{Escape, Sequence, String, Text};
        let (next, letter) = match (self.state, byte) {
            (_, 0x1b) => (Escape, None),
            (Text, b'\n' | b'\t' | b' '..=b'~') => (Text, Some(char::from(byte))),
            (Text, 0x80..) => (Text, Some('?')),
            (Text, _) => (Text, None),
            (Escape, b'[') => (Sequence, None),
            (Escape, b']' | b'P' | b'X' | b'^' | b'_') => (String, None),
            (Escape, 0x20..=0x2f) => (Escape, None),
            (Escape, _) => (Text, None),
            (Sequence, 0x40..=0x7e) => (Text, None),
            (Sequence, _) => (Sequence, None),
            (String, 0x07) => (Text, None),
            (String, _) => (String, None),
        };
        self.state = next;
        letter
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// The console of a "machine" that is a shell script, which lives as long as the test.
    fn console(script: &str) -> (Console, Running) {
        let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let console = Console::read_from(child.stdout.take(), Instant::now(), Box::new(|_, _| {}));
        (console, Running(child))
    }

    struct Running(std::process::Child);

    impl Drop for Running {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn control_sequences_are_dropped_wherever_they_are_cut() {
        let bytes = b"[\x1b[0;32m  OK  \x1b[0m] \x1b]0;title\x07Reached \x1b[0;1;39mmulti-user.target\x1b[0m.\r\n\x1b(Bend\x1bP+q\x1b\\!";
        let expected = "[  OK  ] Reached multi-user.target.\nend!";
        for cut in 0..bytes.len() {
            let mut filter = Filter::default();
            let text = filter.plain(&bytes[..cut]) + &filter.plain(&bytes[cut..]);
            assert_eq!(text, expected, "cut at {cut}");
        }
    }

    #[test]
    fn an_unfinished_line_is_found() {
        let (console, _running) = console("printf 'first\\nlog'; sleep 0.1; printf 'in: '; exec sleep 30");
        let found = console.wait_for(&["absent", "login: "], 0, Duration::from_secs(20));
        assert_eq!(found, Found::Text(1, "first\nlogin: ".len()));
        assert_eq!(console.wait_for(&["login: "], "first\nlogin: ".len(), Duration::ZERO), Found::Timeout);
    }

    #[test]
    fn the_earliest_text_wins_and_the_end_is_noticed() {
        let (console, _running) = console("printf 'b a\\n'");
        assert_eq!(console.wait_for(&["a", "b"], 0, Duration::from_secs(20)), Found::Text(1, 1));
        assert_eq!(console.wait_for(&["c"], 0, Duration::from_secs(20)), Found::Closed);
    }

    #[test]
    fn the_transcript_has_a_time_before_every_line() {
        let (console, _running) = console("printf 'one\\r\\ntwo'");
        console.wait_closed(Duration::from_secs(20));
        let transcript = console.transcript();
        let words: Vec<&str> = transcript.split_whitespace().collect();
        assert_eq!((words[1], words[3], words.len()), ("one", "two", 4), "{transcript}");
        assert!(words[0].parse::<f64>().is_ok(), "{transcript}");
    }
}
