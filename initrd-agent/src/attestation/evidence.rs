//! What a node sends of itself besides keys and quotes: both logs, and how long each stage of the boot took.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::time::Duration;

use crate::clock::since_boot;
use crate::code::Code;
use crate::failure::Failure;

const EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
const USER_SPACE_LOG: &str = "/run/log/systemd/tpm2-measure.log";
/// A message has room for so much.
const LARGEST: u64 = 400 << 10;

/// The firmware's log.
pub(super) fn event_log() -> Result<Vec<u8>, Failure> {
    read(EVENT_LOG)
}

/// The agent's log, which is systemd's.
pub(super) fn user_space_log() -> Result<String, Failure> {
    read(USER_SPACE_LOG).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn read(path: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
        .map_err(|error| Failure::new(Code::EventLogUnreadable, format!("reading {path}: {error}")))?;
    if bytes.len() as u64 > LARGEST {
        return Err(Failure::new(Code::EventLogUnreadable, format!("{path} has more than {LARGEST} bytes")));
    }
    Ok(bytes)
}

/// Milliseconds since PID 1 began, at the end of each stage.
#[derive(Clone, Debug)]
pub struct Stages {
    started: Duration,
    ends: BTreeMap<String, u32>,
}

impl Stages {
    /// PID 1 began at this time since boot.
    pub fn new(started: Duration) -> Self {
        Self { started, ends: BTreeMap::new() }
    }

    /// A stage has ended now.
    pub fn end(&mut self, name: &str) {
        let elapsed = since_boot().saturating_sub(self.started).as_millis();
        self.ends.insert(name.to_owned(), u32::try_from(elapsed).unwrap_or(u32::MAX));
    }

    /// All of them.
    pub(super) fn ends(&self) -> &BTreeMap<String, u32> {
        &self.ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_that_is_missing_or_too_long_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let code = || read(path.to_str().unwrap()).map(|bytes| bytes.len() as u64).map_err(|failure| failure.code());
        assert_eq!(code(), Err(Code::EventLogUnreadable));
        let file = File::create(&path).unwrap();
        file.set_len(LARGEST).unwrap();
        assert_eq!(code(), Ok(LARGEST));
        file.set_len(LARGEST + 1).unwrap();
        assert_eq!(code(), Err(Code::EventLogUnreadable));
    }
}
