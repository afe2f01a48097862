//! What the agent measures, and the record of it. Every measurement is one extend and one line in systemd's own log,
//! `/run/log/systemd/tpm2-measure.log`, in systemd's own form (CEL-JSON, each record begun by byte 0x1e as in RFC
//! 7464), so that one log holds the whole history of user space. PCR 11 gets phases only, PCR 12 the configuration,
//! PCR 15 how the boot went.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::clock::since_boot;
use crate::code::Code;
use crate::failure::Failure;
use crate::tpm::{Pcr, Tpm};
use measurements::Bank;

const FOLDER: &str = "/run/log/systemd";
const LOG: &str = "/run/log/systemd/tpm2-measure.log";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const RECORD_SEPARATOR: u8 = 0x1e;

/// One thing to measure.
#[derive(Debug, PartialEq, Eq)]
pub struct Measurement {
    pcr: Pcr,
    /// What the log says; without a file, these words are measured, without a final NUL.
    words: String,
    /// The file that is measured.
    file: Option<Vec<u8>>,
    event_type: &'static str,
}

impl Measurement {
    /// A boot phase, as systemd-pcrphase names them.
    pub fn phase(name: &str) -> Self {
        Self { pcr: Pcr::Phases, words: name.to_owned(), file: None, event_type: "phase" }
    }

    /// This boot belongs to no cluster, and will never get a key.
    pub fn stateless() -> Self {
        Self { pcr: Pcr::Outcome, words: "stateless".to_owned(), file: None, event_type: "cairn-cap" }
    }

    /// The bytes of `cluster.json`, before anything believes them.
    pub fn configuration(file: Vec<u8>) -> Self {
        let words = "cluster.json".to_owned();
        Self { pcr: Pcr::Configuration, words, file: Some(file), event_type: "cairn-configuration" }
    }

    /// This boot closes itself in the name of a cluster, before its disk is opened.
    pub fn cluster(id: &[u8]) -> Self {
        Self::outcome(format!("cluster:{}", hex::encode(id)))
    }

    /// The broker's release that the disk will be opened with: SHA-256 of its payload.
    pub fn release(digest: &[u8; 32]) -> Self {
        Self::outcome(format!("release:{}", hex::encode(digest)))
    }

    /// The volume that was opened, by what names its key.
    pub fn volume(name: &[u8; 32]) -> Self {
        Self::outcome(format!("volume:{}", hex::encode(name)))
    }

    fn outcome(words: String) -> Self {
        Self { pcr: Pcr::Outcome, words, file: None, event_type: "cairn-cap" }
    }

    /// This boot failed.
    pub fn failed(code: Code) -> Self {
        Self { pcr: Pcr::Outcome, words: format!("failed:{code}"), file: None, event_type: "cairn-failure" }
    }
}

impl Measurement {
    fn bytes(&self) -> &[u8] {
        self.file.as_deref().unwrap_or(self.words.as_bytes())
    }
}

/// Extends the PCR in every active bank and writes the record.
///
/// # Errors
/// `TPM_FAILED` or `MEASUREMENT_LOG_FAILED`.
pub fn measure(tpm: &mut Tpm, measurement: &Measurement) -> Result<(), Failure> {
    let digests = tpm.extend(measurement.pcr, measurement.bytes())?;
    append(Path::new(FOLDER), Path::new(LOG), measurement, &digests)
        .map_err(|error| Failure::new(Code::MeasurementLogFailed, format!("appending to {LOG}: {error}")))
}

fn append(folder: &Path, log: &Path, measurement: &Measurement, digests: &[(Bank, Vec<u8>)]) -> io::Result<()> {
    let boot_id = std::fs::read_to_string(BOOT_ID)?;
    let record = record(measurement, digests, &boot_id, since_boot())?;
    DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    OpenOptions::new().append(true).create(true).mode(0o600).open(log)?.write_all(&record)
}

#[derive(Serialize)]
struct Record<'a> {
    pcr: u8,
    digests: Vec<DigestRecord>,
    content_type: &'static str,
    content: Content<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DigestRecord {
    hash_alg: &'static str,
    digest: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Content<'a> {
    string: &'a str,
    boot_id: String,
    timestamp: u128,
    event_type: &'static str,
}

/// One record with its separator; the time is in microseconds, the boot id without hyphens.
fn record(
    measurement: &Measurement,
    digests: &[(Bank, Vec<u8>)],
    boot_id: &str,
    time: Duration,
) -> serde_json::Result<Vec<u8>> {
    let digest = |(bank, digest): &(Bank, Vec<u8>)| DigestRecord { hash_alg: bank.name(), digest: hex::encode(digest) };
    let record = Record {
        pcr: measurement.pcr.number(),
        digests: digests.iter().map(digest).collect(),
        content_type: "systemd",
        content: Content {
            string: &measurement.words,
            boot_id: boot_id.trim_end().replace('-', ""),
            timestamp: time.as_micros(),
            event_type: measurement.event_type,
        },
    };
    let mut line = vec![RECORD_SEPARATOR];
    serde_json::to_writer(&mut line, &record)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const BOOT: &str = "01234567-89ab-cdef-0123-456789abcdef\n";

    fn digests(words: &str) -> Vec<(Bank, Vec<u8>)> {
        [Bank::Sha1, Bank::Sha256].map(|bank| (bank, bank.digest(words.as_bytes()))).to_vec()
    }

    #[test]
    fn a_record_has_the_form_that_systemd_writes() {
        let record =
            record(&Measurement::phase("sysinit"), &digests("sysinit"), BOOT, Duration::from_micros(28_700_931));
        let expected = concat!(
            "\u{1e}{\"pcr\":11,\"digests\":[",
            "{\"hashAlg\":\"sha1\",\"digest\":\"SHA1\"},",
            "{\"hashAlg\":\"sha256\",\"digest\":\"730bb5a5SHA256\"}],",
            "\"content_type\":\"systemd\",\"content\":{\"string\":\"sysinit\",",
            "\"bootId\":\"0123456789abcdef0123456789abcdef\",\"timestamp\":28700931,\"eventType\":\"phase\"}}\n"
        );
        let sha1 = hex::encode(Bank::Sha1.digest(b"sysinit"));
        let sha256 = hex::encode(Bank::Sha256.digest(b"sysinit"));
        assert!(sha256.starts_with("730bb5a5"), "the phase that systemd itself records");
        let expected = expected.replace("SHA1", &sha1).replace("730bb5a5SHA256", &sha256);
        assert_eq!(String::from_utf8(record.unwrap()).unwrap(), expected);
    }

    #[test]
    fn phases_go_to_pcr_11_and_outcomes_to_pcr_15() {
        let rows = [
            (Measurement::phase("enter-initrd"), 11, "enter-initrd"),
            (Measurement::stateless(), 15, "stateless"),
            (Measurement::failed(Code::RootNotFound), 15, "failed:ROOT_NOT_FOUND"),
        ];
        for (measurement, pcr, words) in rows {
            assert_eq!((measurement.pcr.number(), measurement.words.as_str()), (pcr, words));
        }
    }

    #[test]
    fn records_are_appended_to_a_log_that_only_root_reads() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, log) = (folder.path().join("a/b"), folder.path().join("a/b/log"));
        for words in ["enter-initrd", "leave-initrd"] {
            append(&folder, &log, &Measurement::phase(words), &digests(words)).unwrap();
        }
        let text = std::fs::read_to_string(&log).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("enter-initrd") && lines[1].contains("leave-initrd"), "{text}");
        assert_eq!(std::fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
