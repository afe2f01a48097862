//! What a file seems to be, by its first bytes and its schema. Nothing is verified: the result is for errors only.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use measurements::parse::container::container;
use measurements::parse::encoding::{Encoding, encoding};
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
    /// Sigstore bundle that Cairn's verifier does not accept.
    ForeignBundle(ForeignBundle),
    /// Signed trust root.
    TrustRoot,
    /// Trust root of Sigstore (trusted_root.json).
    SigstoreTrustRoot,
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
    /// Quote of TDX (Intel TDX DCAP Quoting Library API, version 4 or 5).
    TdxQuote,
    /// Report of Azure's paravisor, which has an SNP report at byte 32.
    HclReport,
    /// Binary file as text.
    Encoded(Encoding),
    /// Any other format with a name.
    Format(&'static str),
}

/// Attestations of other projects, by the kind of signer, log or container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignBundle {
    /// Signed with a certificate of Fulcio, not with a key.
    Keyless,
    /// Entry of Rekor v1.
    RekorV1,
    /// Attestation of the Python Package Index (PEP 740).
    Pypi,
}

impl ForeignBundle {
    fn name(self) -> &'static str {
        match self {
            Self::Keyless => "a Sigstore bundle with a certificate of Fulcio (keyless signing)",
            Self::RekorV1 => "a Sigstore bundle with an entry of Rekor v1",
            Self::Pypi => "an attestation of the Python Package Index (PEP 740)",
        }
    }
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
const MAGIC: [(&[u8], Kind); 8] = [
    (b"CCEL", Kind::Format("the ACPI table CCEL")),
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
/// Vendor of the quoting enclave of Intel, at byte 12 of a quote; types of TEE at byte 4: SGX and TDX.
const QUOTE_VENDOR: (usize, &[u8]) = (12, b"\x93\x9a\x72\x33\xf7\x9c\x4c\xa9\x94\x0a\x0d\xb3\x95\x7f\x06\x07");
const TDX_QUOTE: (usize, &[u8]) = (4, &[0x81, 0, 0, 0]);
/// Signature of a report of Azure's paravisor, and how the report in it begins if that is of TDX.
const HCL_REPORT: (usize, &[u8]) = (0, b"HCLA");
const HCL_TDX: (usize, &[u8]) = (32, &[0x81, 0, 0, 0]);
/// SEQUENCE of 256 to 65535 bytes (X.690, section 8.1.3).
const DER: (usize, &[u8]) = (0, &[0x30, 0x82]);
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
        if is_at(QUOTE_VENDOR) {
            return if is_at(TDX_QUOTE) { Self::TdxQuote } else { Self::Format("an SGX quote") };
        }
        if is_at(HCL_REPORT) {
            return if is_at(HCL_TDX) {
                Self::Format("an HCL report of Azure with a TDX report")
            } else {
                Self::HclReport
            };
        }
        if is_at(DER) {
            return Self::Format("a certificate or another DER structure");
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::of_text(text),
            Err(error) if error.error_len().is_none() => Self::Format("text"),
            Err(_) => Self::Format("binary data"),
        }
    }

    fn of_text(text: &str) -> Self {
        let Ok(value) = serde_json::from_str::<Value>(text) else {
            let other = || encoding(text.as_bytes()).map_or(Self::Format("text"), Self::Encoded);
            return if text.starts_with('{') { Self::Format(DAMAGED) } else { other() };
        };
        let field = |name: &str| value[name].as_str().unwrap_or_default();
        if field("mediaType").starts_with("application/vnd.dev.sigstore.bundle") {
            let own = Self::Bundle(statement_in(&value["dsseEnvelope"]["payload"]));
            return foreign_bundle(&value).map_or(own, Self::ForeignBundle);
        }
        if field("mediaType").starts_with("application/vnd.dev.sigstore.trustedroot") {
            return Self::SigstoreTrustRoot;
        }
        let has = |name: &str| value.get(name).is_some();
        if has("attestation_bundles") || (has("verification_material") && has("envelope")) {
            return Self::ForeignBundle(ForeignBundle::Pypi);
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

/// Of the bundles of version 0.3 with a statement, those that have a certificate in place of a key, or another version of the log.
fn foreign_bundle(value: &Value) -> Option<ForeignBundle> {
    let material = &value["verificationMaterial"];
    if value["mediaType"] != "application/vnd.dev.sigstore.bundle.v0.3+json" || value.get("dsseEnvelope").is_none() {
        return None;
    }
    if material.get("certificate").is_some() {
        return Some(ForeignBundle::Keyless);
    }
    let is_v1 = |entry: &Value| entry.get("inclusionPromise").is_some() || entry["kindVersion"]["version"] == "0.0.1";
    material.get("publicKey")?;
    material["tlogEntries"].as_array()?.iter().any(is_v1).then_some(ForeignBundle::RekorV1)
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
            Self::ForeignBundle(kind) => f.write_str(kind.name()),
            Self::TrustRoot => f.write_str("a trust root"),
            Self::SigstoreTrustRoot => f.write_str("a trust root of Sigstore (trusted_root.json)"),
            Self::ImageReference => f.write_str("an image reference"),
            Self::MachineReference => f.write_str("a machine reference"),
            Self::RawDisk => f.write_str("a raw disk"),
            Self::Uki => f.write_str("a unified kernel image or another PE program"),
            Self::EventLog => f.write_str("an event log of a TPM's firmware"),
            Self::TdxQuote => f.write_str("a TDX quote"),
            Self::HclReport => f.write_str("an HCL report of Azure, which has an SNP report in it"),
            Self::Encoded(encoding) => f.write_str(encoding.name),
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
        let material = |material: &str| {
            format!(
                "{{\"mediaType\":\"application/vnd.dev.sigstore.bundle.v0.3+json\",\"dsseEnvelope\":{{}},\"verificationMaterial\":{material}}}"
            )
        };
        let keyless = material(r#"{"certificate":{},"tlogEntries":[]}"#);
        let promise = material(r#"{"publicKey":{},"tlogEntries":[{"inclusionPromise":{}}]}"#);
        let quote = |tee: u8| [&[4, 0, 2, 0, tee, 0, 0, 0, 0, 0, 0, 0], QUOTE_VENDOR.1, &[0xff; 20]].concat();
        let hcl = |kind: u8| [&b"HCLA"[..], &[0; 28], &[kind, 0, 0, 0, 0xff]].concat();
        let hex = format!("0x{}\n", "00ff".repeat(20));
        let table: [(&[u8], &str); 25] = [
            (keyless.as_bytes(), "a Sigstore bundle with a certificate of Fulcio (keyless signing)"),
            (promise.as_bytes(), "a Sigstore bundle with an entry of Rekor v1"),
            (
                br#"{"version":1,"verification_material":{},"envelope":{}}"#,
                "an attestation of the Python Package Index (PEP 740)",
            ),
            (br#"{"attestation_bundles":[]}"#, "an attestation of the Python Package Index (PEP 740)"),
            (
                br#"{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}"#,
                "a trust root of Sigstore (trusted_root.json)",
            ),
            (&quote(0x81), "a TDX quote"),
            (&quote(0), "an SGX quote"),
            (&hcl(2), "an HCL report of Azure, which has an SNP report in it"),
            (&hcl(0x81), "an HCL report of Azure with a TDX report"),
            (b"\x30\x82\x05\x4c\xff", "a certificate or another DER structure"),
            (hex.as_bytes(), "hexadecimal text"),
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
