//! What is published of a release that the targets know, whose signatures are none: statements, bundles, channels, trust roots. Timestamps are those that OpenSSL made.

use std::collections::BTreeMap;

use envelope::Envelope;
use measurements::bytes::{Bytes32, Hex};
use measurements::canonical::Document;
use measurements::document::build::{ImageDocument, OutputDocument};
use measurements::document::image::Toolchain;
use sha2::{Digest, Sha256};
use transparency::air_gap::{AirGap, NamedBundle};
use transparency::bundle::{Bundle, Entry};
use transparency::checkpoint::Checkpoint;
use transparency::key::Key;
use transparency::statement::channel::{Channel, Release, Standing};
use transparency::statement::measured_boot::{MeasuredBoot, Reference};
use transparency::statement::{PAYLOAD_TYPE, Predicate, Statement, Subject};
use transparency::trust_root::{self, TrustRootDocument, Witnesses};
use transparency::{entry, tree};

use super::json::{image, reference};
use super::{File, canonical, changed, file};
use crate::targets::{known, release_key};

const TIME: u64 = 1_800_000_000;

pub fn files() -> Vec<File> {
    [air_gaps(), bundles(), statements(), channels(), trust_roots(), timestamps()].concat()
}

fn text<P: Predicate>(statement: &Statement<P>) -> String {
    String::from_utf8(statement.write().unwrap()).unwrap()
}

fn measured_boot(reference: &str) -> String {
    let digest = Sha256::digest(reference).into();
    let files = vec![Subject::file("raw", [0; 32]), Subject::file("reference.json", digest)];
    let reference = Reference::read(reference.as_bytes()).unwrap();
    let predicate =
        MeasuredBoot { not_after: TIME + 1, not_before: TIME - 1, previous: Some(Bytes32([1; 32])), reference };
    text(&Statement::measured_boot(files, predicate).unwrap())
}

fn provenance() -> String {
    let build = ImageDocument {
        command_line: "quiet".into(),
        debug: false,
        dirty: false,
        epoch: 1,
        id: "cairn".into(),
        kernel: "6.12".into(),
        lock: Bytes32([0; 32]),
        locked: true,
        outputs: BTreeMap::from([("raw".into(), OutputDocument { sha256: Bytes32([0; 32]), size: 1 })]),
        partitions: Vec::new(),
        revision: "1".into(),
        root_hash: "00".repeat(32),
        schema: ImageDocument::SCHEMA.into(),
        source_date: 1,
        toolchain: Toolchain { commit: "1".into(), rustc: "1".into() },
        variant: "production".into(),
        version: "1".into(),
    };
    text(&Statement::provenance(&build, Vec::new(), "builder", Some("sources")).unwrap())
}

fn state(releases: Vec<Release>) -> String {
    let (expires, least_epoch, name, version) = (TIME + 1, 1, "stable".into(), 1);
    text(&Statement::channel(Channel { expires, least_epoch, name, releases, version }).unwrap())
}

fn release(number: u8) -> Release {
    let standing = if number == 0 { Standing::Good } else { Standing::Revoked };
    Release { name: number.to_string(), standing, statement: Bytes32([number; 32]) }
}

/// The bundle of a statement, alone in the log that the targets know; its signature is none.
fn bundle(statement: &str) -> Bundle {
    let signed = envelope::pre_authentication_encoding(PAYLOAD_TYPE, statement.as_bytes());
    let body = entry::body(&signed, &[7; 70], &release_key());
    let root = tree::leaf(&body);
    let checkpoint = Checkpoint { origin: known::ORIGIN.into(), size: 1, root }.sign(&known::signer());
    let log_id = Key::ed25519(known::signed_by().0).note_id(known::ORIGIN);
    Bundle {
        hint: release_key().hint(),
        envelope: Envelope::with_signature(PAYLOAD_TYPE, statement.as_bytes(), "", &[7; 70]),
        entry: Entry { index: 0, log_id, body, size: 1, root, path: Vec::new(), checkpoint },
        timestamps: Vec::new(),
    }
}

fn bundles() -> Vec<File> {
    let good = String::from_utf8(bundle(&state(vec![release(0)])).write().unwrap()).unwrap();
    let mut more = bundle(&provenance());
    more.timestamps = vec![vec![1; 40], Vec::new()];
    (more.entry.path, more.entry.size, more.entry.index) = (vec![[2; 32]; 64], u64::MAX >> 1, u64::MAX >> 1);
    let with = |from: &str, to: &str| changed(&good, from, to);
    vec![
        file("bundle", "channel", good.clone()),
        file("bundle", "release", bundle(&measured_boot(&image())).write().unwrap()),
        file("bundle", "longest-proof-and-timestamps", more.write().unwrap()),
        file("bundle", "hint-of-nobody", with(&release_key().hint(), "")),
        file("bundle", "zeros-left-out", with("\"logIndex\":\"0\",", "")),
        file("bundle", "number-with-a-sign", with("\"logIndex\":\"0\"", "\"logIndex\":\"+0\"")),
        file("bundle", "number-that-is-no-text", with("\"treeSize\":\"1\"", "\"treeSize\":1")),
        file("bundle", "another-version", with("v0.3", "v0.4")),
        file("bundle", "two-entries", with("\"tlogEntries\":[", "\"tlogEntries\":[{},")),
        file(
            "bundle",
            "hashes-of-no-bytes",
            with("\"hashes\":[", &format!("\"hashes\":[\"\"{}", ",\"\"".repeat(1000))),
        ),
        file("bundle", "cut", &good.as_bytes()[..good.len() / 2]),
    ]
}

fn air_gaps() -> Vec<File> {
    let named = |name: &str| NamedBundle { name: name.into(), text: "{}\n".into() };
    let with_root = |root: Vec<u8>| {
        let roots = vec![String::from_utf8(root).unwrap()];
        let whole = AirGap::new(roots, vec![named("a.json"), named("b.json")], Some("{}\n".into())).unwrap();
        String::from_utf8(whole.write().unwrap()).unwrap()
    };
    let good = with_root(b"{}".to_vec());
    let with = |from: &str, to: &str| changed(&good, from, to);
    vec![
        file("air_gap", "known-root", with_root(known::signed_trust_root())),
        file("air_gap", "root-that-is-none", good.clone()),
        file("air_gap", "hundred-roots", with("\"roots\":[", &format!("\"roots\":[{}", "\"\",".repeat(100)))),
        file("air_gap", "name-that-leads-out", with("a.json", "../a")),
        file("air_gap", "name-twice", with("b.json", "a.json")),
        file("air_gap", "cut", &good.as_bytes()[..good.len() / 2]),
    ]
}

fn statements() -> Vec<File> {
    let good = measured_boot(&image());
    let with = |from: &str, to: &str| changed(&good, from, to);
    vec![
        file("statement", "image", good.clone()),
        file("statement", "machine", measured_boot(&reference(&["shape"]))),
        file("statement", "provenance", provenance()),
        file("statement", "of-another-type", with("measured-boot/v1", "measured-boot/v2")),
        file("statement", "never-valid", with("1800000001", "1")),
        file("statement", "dirty", with("\"dirty\":false", "\"dirty\":true")),
        file("statement", "two-references", with("\"reference\":{", "\"reference\":{\"machine\":{},")),
        file("statement", "thousand-subjects", with("\"subject\":[", &format!("\"subject\":[{}", "{},".repeat(1000)))),
        file("statement", "thousand-arrays", "[".repeat(1000)),
        file("statement", "cut", &good.as_bytes()[..good.len() / 2]),
    ]
}

fn channels() -> Vec<File> {
    let good = state(vec![release(0), release(1)]);
    let with = |from: &str, to: &str| changed(&good, from, to);
    vec![
        file("channel", "two-releases", good.clone()),
        file("channel", "many-releases", state((0..40).map(release).collect())),
        file("channel", "version-0", with("\"version\":1", "\"version\":0")),
        file("channel", "version-beyond-2-to-53", with("\"version\":1", "\"version\":9007199254740993")),
        file("channel", "standing-that-is-not-known", with("revoked", "unknown")),
        file("channel", "release-of-nothing", with("\"releases\":[", "\"releases\":[{},")),
        file("channel", "not-in-order", with(&"00".repeat(32), &"02".repeat(32))),
        file("channel", "cut", &good.as_bytes()[..good.len() / 2]),
    ]
}

fn trust_roots() -> Vec<File> {
    let good = canonical(&known::trust_root_document());
    let next = TrustRootDocument { version: 2, ..known::trust_root_document() };
    let none = Witnesses { keys: Vec::new(), threshold: 0 };
    let without =
        TrustRootDocument { witnesses: none, timestamp_authorities: Vec::new(), ..known::trust_root_document() };
    let envelope = Envelope::sign(trust_root::PAYLOAD_TYPE, good.as_bytes(), "", &known::signer());
    let mut twice = known::trust_root_document();
    twice.keys.push(twice.keys[0].clone());
    let with = |from: &str, to: &str| changed(&good, from, to);
    let certificate =
        canonical(&TrustRootDocument { timestamp_authorities: vec![Hex(vec![0x30; 99])], ..next.clone() });
    vec![
        file("trust_root", "document", good.clone()),
        file("trust_root", "signed", serde_json::to_vec(&envelope).unwrap()),
        file("trust_root", "next", canonical(&next)),
        file("trust_root", "without-witnesses-and-authorities", canonical(&without)),
        file("trust_root", "key-twice", canonical(&twice)),
        file("trust_root", "certificate-that-is-none", certificate),
        file("trust_root", "no-root-key-is-needed", with("\"threshold\":1", "\"threshold\":0")),
        file("trust_root", "use-that-is-not-known", with("\"channel\"", "\"rebuild\"")),
        file("trust_root", "cut", &good.as_bytes()[..good.len() / 2]),
    ]
}

fn timestamps() -> Vec<File> {
    let token: &[u8] = include_bytes!("../../../../crates/transparency/tests/recorded/openssl/p256.tsr");
    let with_certificate: &[u8] =
        include_bytes!("../../../../crates/transparency/tests/recorded/openssl/p256-certificate.tsr");
    vec![
        file("timestamp", "token", token),
        file("timestamp", "token-with-its-certificate", with_certificate),
        file("timestamp", "certificate", known::AUTHORITY),
        file("timestamp", "rejected", [0x30, 0x05, 0x30, 0x03, 0x02, 0x01, 0x02]),
        file("timestamp", "length-of-4-gib", [0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0x30]),
        file("timestamp", "cut", &token[..token.len() / 2]),
    ]
}
