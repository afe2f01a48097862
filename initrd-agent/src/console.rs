//! Lines for the operator. They go to the kernel log, which shows them on every console in one order with the kernel's
//! own lines and later hands them to the journal: so they never hold a secret, and text that came from a disk is
//! reduced to printable ASCII.

use std::fs::OpenOptions;
use std::io::Write;

/// Longest line: the kernel cuts longer ones into lines of their own.
const LONGEST: usize = 900;

/// Shown whatever the command line's `loglevel` is.
const EMERGENCY: u8 = 0;
/// The command line has `loglevel=5`: the console shows warnings and worse, so this is the least that is seen.
const WARNING: u8 = 4;

/// Says which step of the boot begins.
pub fn state(name: &str) {
    line(&format!("state={name}"));
}

/// Says one thing, where the operator of a production image sees it.
pub fn line(text: &str) {
    let line = printable(text);
    if !to_kernel_log(WARNING, &line) {
        to_first_console(&line);
    }
}

/// Says one thing in the debug profile's agent only.
pub fn detail(text: impl FnOnce() -> String) {
    if cfg!(feature = "verbose") {
        line(&text());
    }
}

/// Says why the boot ends, by both ways that exist: each alone can be without a device behind it.
pub fn alert(text: &str) {
    let line = printable(text);
    to_kernel_log(EMERGENCY, &line);
    to_first_console(&line);
}

/// Opened for every line: an open file would be rate-limited, and it may lie below the new root by now.
fn to_kernel_log(level: u8, line: &str) -> bool {
    ["/dev/kmsg", "/sysroot/dev/kmsg"].iter().any(|path| {
        OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut log| log.write_all(format!("<{level}>{line}\n").as_bytes()))
            .is_ok()
    })
}

/// The kernel opened /dev/console for PID 1 before it started.
fn to_first_console(line: &str) {
    // Nobody is left to tell when the console itself does not answer.
    let _ = writeln!(std::io::stderr(), "{line}\r");
}

fn printable(text: &str) -> String {
    let shown = text.chars().map(|character| if matches!(character, ' '..='~') { character } else { '?' });
    format!("cairn: {}", shown.take(LONGEST).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cannot_carry_control_characters_or_a_second_line() {
        assert_eq!(printable("a\nb\x1b[2J\u{e9}"), "cairn: a?b?[2J?");
    }

    #[test]
    fn a_line_is_cut_where_the_kernel_would_cut_it() {
        assert_eq!(printable(&"x".repeat(5000)).len(), LONGEST + "cairn: ".len());
    }
}
