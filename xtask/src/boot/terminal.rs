//! The user's terminal as the guest's: keys go through unchanged (raw mode, `termios(3)`), and the old mode comes back at the end.

use std::io::{IsTerminal, Read, Write, stdin, stdout};
use std::process::ChildStdin;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Ctrl-].
const ESCAPE: u8 = 0x1d;

/// The terminal, in raw mode while this lives; nothing when standard input or output is not one.
pub(super) struct Terminal {
    old: Option<Termios>,
}

impl Terminal {
    pub fn enter() -> Result<Self> {
        if !stdin().is_terminal() || !stdout().is_terminal() {
            return Ok(Self { old: None });
        }
        let old = tcgetattr(stdin()).context("Failed to read the terminal's mode")?;
        let mut raw = old.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin(), SetArg::TCSANOW, &raw).context("Failed to set the terminal to raw mode")?;
        Ok(Self { old: Some(old) })
    }

    /// None: keys go nowhere.
    pub fn none() -> Self {
        Self { old: None }
    }

    pub fn is_raw(&self) -> bool {
        self.old.is_some()
    }

    /// Copies keys to the guest from now on; the escape key sets `escaped` instead. The thread ends with the process.
    pub fn copy_keys_to(&self, input: ChildStdin, escaped: &'static AtomicBool) {
        if self.is_raw() {
            std::thread::spawn(move || copy_keys(stdin(), input, escaped));
        } else {
            drop(input);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(old) = &self.old {
            let _ = tcsetattr(stdin(), SetArg::TCSANOW, old);
        }
    }
}

fn copy_keys(mut from: impl Read, mut to: impl Write, escaped: &AtomicBool) {
    let mut buffer = [0; 256];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let keys = &buffer[..count];
        let end = keys.iter().position(|key| *key == ESCAPE);
        let delivered = to.write_all(&keys[..end.unwrap_or(count)]).and_then(|()| to.flush());
        if end.is_some() {
            escaped.store(true, Ordering::Relaxed);
        }
        if end.is_some() || delivered.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_before_the_escape_key_are_delivered() {
        for (keys, delivered, escape) in [
            (&b"root\r"[..], &b"root\r"[..], false),
            (b"a\x1db", b"a", true),
            (b"\x1d", b"", true),
            (b"\x03\x04", b"\x03\x04", false),
        ] {
            let escaped = AtomicBool::new(false);
            let mut guest = vec![];
            copy_keys(keys, &mut guest, &escaped);
            assert_eq!((guest.as_slice(), escaped.into_inner()), (delivered, escape), "{keys:?}");
        }
    }
}
