//! What a file seems to be, by its first bytes and its schema. Nothing is verified: the result is for errors only.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use measurements::parse::container::container;
use serde_json::Value;

/// Statements that Cairn publishes, by their predicate type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statement {
    /// What an image or a machine measures.
    MeasuredBoot,
    /// How an image was built.
    Provenance,
    /// A rebuild with the same bytes.
    Rebuild,
    /// State of a channel.
    Channel,
    /// Any other.
    Other,
}

impl Statement {
    fn of_type(predicate: &str) -> Self {
        match predicate {
            "https://cairn.example/attestation/measured-boot/v1" => Self::MeasuredBoot,
            "https://slsa.dev/provenance/v1" => Self::Provenance,
            "https://cairn.example/attestation/rebuild/v1" => Self::Rebuild,
            "https://cairn.example/attestation/channel/v1" => Self::Channel,
            _ => Self::Other,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::MeasuredBoot => "a measured-boot statement",
            Self::Provenance => "a provenance statement",
            Self::Rebuild => "a rebuild statement",
            Self::Channel => "a channel state",
            Self::Other => "a statement of another kind",
        }
    }
}

/// What a file seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sigstore bundle of a statement.
    Bundle(Statement),
    /// Statement without signature and log entry.
    Statement(Statement),
    /// Signed trust root.
    TrustRoot,
    /// A document of Cairn, by its schema: name and article.
    Document(&'static str),
    /// Image reference.
    ImageReference,
    /// Machine reference.
    MachineReference,
    /// Disk with a GPT.
    RawDisk,
    /// PE executable: a unified kernel image, for example.
    Uki,
    /// Packed disk or archive.
    Container(&'static str),
    /// Event log of a TPM's firmware.
    EventLog,
    /// Any other format with a name.
    Format(&'static str),
}

/// Schemas, without their version, and their documents.
const SCHEMAS: [(&str, Kind); 11] = [
    ("cairn.image-reference/", Kind::ImageReference),
    ("cairn.machine/", Kind::MachineReference),
    ("cairn.cluster/", Kind::Document("a cluster's configuration (cluster.json)")),
    ("cairn.hints/", Kind::Document("a node's hints (hints.json)")),
    ("cairn.image/", Kind::Document("the record of a build (*.image.json)")),
    ("cairn.packages/", Kind::Document("the list of an image's packages (*.packages.json)")),
    ("cairn.release/", Kind::Document("the page of a release (*.release.json)")),
    ("cairn.air-gap/", Kind::Document("an air-gap file (*.air-gap.json)")),
    ("cairn.registers/", Kind::Document("registers (cairn measure --format json)")),
    ("cairn.events/", Kind::Document("a predicted event log (cairn measure --format event-log)")),
    ("cairn.monitor/", Kind::Document("the state of a log monitor")),
];

/// First bytes, and the format.
const MAGIC: [(&[u8], Kind); 7] = [
    (b"MZ", Kind::Uki),
    (b"SQLite format 3\0", Kind::Format("an SQLite database")),
    (b"LUKS\xba\xbe", Kind::Format("a LUKS2 disk")),
    (b"\x7fELF", Kind::Format("an ELF program")),
    (b"-----BEGIN", Kind::Format("a key or certificate (PEM)")),
    (b"<!DOCTYPE", Kind::Format("an HTML page")),
    (b"070701", Kind::Format("an initrd (cpio)")),
];

/// Name of the first event of a TPM 2.0 event log, at byte 32 (TCG PC Client PFP, section 10.4.5.1).
const EVENT_LOG_SIGNATURE: (usize, &[u8]) = (32, b"Spec ID Event03");
/// Place of the GPT header, for sectors of 512 bytes.
const GPT_SIGNATURE: (usize, &[u8]) = (512, b"EFI PART");

const DAMAGED: &str = "JSON that ends too early or is damaged";

impl Kind {
    /// What a file seems to be that begins with these bytes, and has more.
    pub fn of_start(bytes: &[u8]) -> Self {
        match Self::of(bytes) {
            Self::Format(DAMAGED) => Self::Format("JSON"),
            kind => kind,
        }
    }

    /// What a file of these bytes seems to be.
    pub fn of(bytes: &[u8]) -> Self {
        let is_at = |(at, magic): (usize, &[u8])| bytes.get(at..).is_some_and(|rest| rest.starts_with(magic));
        if bytes.is_empty() {
            return Self::Format("empty");
        }
        if bytes.iter().all(|byte| *byte == 0) {
            return Self::Format("only zero bytes");
        }
        if is_at(GPT_SIGNATURE) {
            return Self::RawDisk;
        }
        if is_at(EVENT_LOG_SIGNATURE) {
            return Self::EventLog;
        }
        if let Some(found) = container(bytes) {
            return Self::Container(found.name);
        }
        if let Some((_, kind)) = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)) {
            return *kind;
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::of_text(text),
            Err(error) if error.error_len().is_none() => Self::Format("text"),
            Err(_) => Self::Format("binary data"),
        }
    }

    fn of_text(text: &str) -> Self {
        let Ok(value) = serde_json::from_str::<Value>(text) else {
            return Self::Format(if text.starts_with('{') { DAMAGED } else { "text" });
        };
        let field = |name: &str| value[name].as_str().unwrap_or_default();
        if field("mediaType").starts_with("application/vnd.dev.sigstore.bundle") {
            return Self::Bundle(statement_in(&value["dsseEnvelope"]["payload"]));
        }
        if field("payloadType").starts_with("application/vnd.cairn.trust-root") {
            return Self::TrustRoot;
        }
        if !field("predicateType").is_empty() {
            return Self::Statement(Statement::of_type(field("predicateType")));
        }
        let known = SCHEMAS.iter().find(|(schema, _)| field("schema").starts_with(schema));
        known.map_or(Self::Format("JSON of an unknown kind"), |(_, kind)| *kind)
    }
}

fn statement_in(payload: &Value) -> Statement {
    let payload = payload.as_str().and_then(|payload| STANDARD.decode(payload).ok());
    let statement: Option<Value> = payload.and_then(|payload| serde_json::from_slice(&payload).ok());
    statement
        .and_then(|statement| statement["predicateType"].as_str().map(Statement::of_type))
        .unwrap_or(Statement::Other)
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(statement) => write!(f, "the Sigstore bundle of {}", statement.name()),
            Self::Statement(statement) => write!(f, "{} without its bundle", statement.name()),
            Self::TrustRoot => f.write_str("a trust root"),
            Self::ImageReference => f.write_str("an image reference"),
            Self::MachineReference => f.write_str("a machine reference"),
            Self::RawDisk => f.write_str("a raw disk"),
            Self::Uki => f.write_str("a unified kernel image or another PE program"),
            Self::EventLog => f.write_str("an event log of a TPM's firmware"),
            Self::Document(name) | Self::Container(name) | Self::Format(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_other_kinds_are_named() {
        let bundle = |predicate: &str| {
            let payload = STANDARD.encode(format!("{{\"predicateType\":\"{predicate}\"}}"));
            format!(
                "{{\"mediaType\":\"application/vnd.dev.sigstore.bundle.v0.3+json\",\"dsseEnvelope\":{{\"payload\":\"{payload}\"}}}}"
            )
        };
        let mut disk = vec![0; 1024];
        disk[512..520].copy_from_slice(b"EFI PART");
        let mut log = vec![0; 64];
        log[32..47].copy_from_slice(b"Spec ID Event03");
        let (channel, other) = (bundle("https://cairn.example/attestation/channel/v1"), bundle("x"));
        let table: [(&[u8], &str); 14] = [
            (b"", "empty"),
            (&[0; 4096], "only zero bytes"),
            (&disk, "a raw disk"),
            (&log, "an event log of a TPM's firmware"),
            (b"MZ\x90\0", "a unified kernel image or another PE program"),
            (b"\x1f\x8b\x08", "compressed with gzip"),
            (channel.as_bytes(), "the Sigstore bundle of a channel state"),
            (other.as_bytes(), "the Sigstore bundle of a statement of another kind"),
            (br#"{"payloadType":"application/vnd.cairn.trust-root+json"}"#, "a trust root"),
            (br#"{"predicateType":"https://slsa.dev/provenance/v1"}"#, "a provenance statement without its bundle"),
            (br#"{"schema":"cairn.image-reference/1"}"#, "an image reference"),
            (br#"{"schema":"cairn.cluster/1"}"#, "a cluster's configuration (cluster.json)"),
            (b"{\"schema\":", "JSON that ends too early or is damaged"),
            (b"\xff\xfe\x00\x01", "binary data"),
        ];
        for (bytes, name) in table {
            assert_eq!(Kind::of(bytes).to_string(), name);
        }
    }
}
