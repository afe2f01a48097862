//! systemd's log of user-space measurements, `/run/log/systemd/tpm2-measure.log`: JSON records, each begun by byte 0x1e (RFC 7464), in the form of TCG's Canonical Event Log with content of type `systemd`.

use serde::Deserialize;

use crate::Bank;

/// Longest log that is read.
const LARGEST: usize = 1 << 20;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Register.
    pub register: u8,
    /// Digests by bank.
    pub digests: Vec<(Bank, Vec<u8>)>,
    /// What was measured, in words.
    pub words: String,
    /// systemd's type of event, such as `phase`.
    pub kind: String,
}

/// Why a log is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is longer than any log.
    #[error("the log has more than 1 MiB")]
    TooLong,
    /// A record is not what systemd writes.
    #[error("record {0} cannot be read: {1}")]
    Record(usize, String),
}

#[derive(Deserialize)]
struct Raw {
    pcr: u8,
    digests: Vec<RawDigest>,
    content_type: String,
    content: RawContent,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDigest {
    hash_alg: String,
    digest: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawContent {
    #[serde(default)]
    string: String,
    event_type: String,
}

/// Reads all records.
///
/// # Errors
/// [`Error`].
pub fn parse(bytes: &[u8]) -> Result<Vec<Record>, Error> {
    if bytes.len() > LARGEST {
        return Err(Error::TooLong);
    }
    let records = bytes.split(|byte| *byte == 0x1e).filter(|record| !record.trim_ascii().is_empty());
    records
        .enumerate()
        .map(|(index, record)| parse_record(record).map_err(|problem| Error::Record(index, problem)))
        .collect()
}

fn parse_record(bytes: &[u8]) -> Result<Record, String> {
    let raw: Raw = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if raw.content_type != "systemd" {
        return Err(format!("its content is of type {:?}", raw.content_type));
    }
    let mut digests = Vec::new();
    for RawDigest { hash_alg, digest } in raw.digests {
        let Some(bank) = Bank::ALL.into_iter().find(|bank| bank.name() == hash_alg) else { continue };
        let digest = hex::decode(&digest).map_err(|error| format!("digest {digest:?}: {error}"))?;
        if digest.len() != bank.length() {
            return Err(format!("its {bank} digest has {} bytes", digest.len()));
        }
        digests.push((bank, digest));
    }
    Ok(Record { register: raw.pcr, digests, words: raw.content.string, kind: raw.content.event_type })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_damage_is_named() {
        let good = "\u{1e}{\"pcr\":11,\"digests\":[{\"hashAlg\":\"sha1\",\"digest\":\"DIGEST\"},{\"hashAlg\":\"sm3\",\"digest\":\"00\"}],\
                    \"content_type\":\"systemd\",\"content\":{\"string\":\"ready\",\"bootId\":\"0\",\"timestamp\":1,\"eventType\":\"phase\"}}\n"
            .replace("DIGEST", &"ab".repeat(20));
        let records = parse(good.repeat(2).as_bytes()).unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!((records[0].register, records[0].words.as_str()), (11, "ready"));
        assert_eq!(records[0].digests, [(Bank::Sha1, vec![0xab; 20])]);
        for (from, to) in
            [("\"pcr\":11", "\"pcr\":300"), ("abab", "xyab"), ("abab", "ab"), ("systemd", "pcclient"), ("}}", "")]
        {
            assert!(matches!(parse(good.replacen(from, to, 1).as_bytes()), Err(Error::Record(0, _))), "{from}");
        }
        assert_eq!(parse(b""), Ok(vec![]));
    }
}
