//! What a real Rekor v2 and a real witness wrote (`recorded/rekor`), and a real timestamp authority (`recorded/timestamp`), is believed as long as nobody changes it. It was made by the publisher; `tests/tests/log/recorded.rs` says how to make it anew.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use transparency::Code;
use transparency::bundle::Bundle;
use transparency::checkpoint::Note;
use transparency::statement::Statement;
use transparency::statement::measured_boot::MeasuredBoot;
use transparency::statement::provenance::Provenance;
use transparency::tree::{Frontier, leaf};
use transparency::trust_root::TrustRoot;
use transparency::verify::{About, logged};

fn read(path: &str) -> Vec<u8> {
    fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/recorded").join(path)).unwrap()
}

fn recorded(name: &str) -> Vec<u8> {
    read(&format!("rekor/{name}"))
}

fn trust_root() -> TrustRoot {
    TrustRoot::first(&recorded("trust-root.json")).unwrap()
}

/// When it was recorded, in seconds since 1970.
fn then() -> u64 {
    let payload =
        Bundle::parse(&recorded("measured-boot.sigstore.json")).unwrap().envelope.unverified_payload().unwrap();
    Statement::<MeasuredBoot>::read(&payload).unwrap().predicate().not_before
}

#[test]
fn what_the_real_log_wrote_is_believed() {
    let root = trust_root();
    let measured = logged::<MeasuredBoot>(&recorded("measured-boot.sigstore.json"), &root, then()).unwrap();
    let built = logged::<Provenance>(&recorded("provenance.sigstore.json"), &root, then()).unwrap();
    for evidence in [&measured.evidence, &built.evidence] {
        assert_eq!(evidence.origin, "log.cairn.invalid");
        assert_eq!(evidence.witnesses.len(), 1);
    }
    assert_eq!(measured.evidence.index, built.evidence.index + 1);
    // The statement of what is measured names that of how it was built.
    measured.is_about(About::File(&built.digest.0)).unwrap().unwrap();
}

#[test]
fn a_real_timestamp_says_when_it_was_signed_and_no_changed_byte_says_another_time() {
    let root = TrustRoot::first(&read("timestamp/trust-root.json")).unwrap();
    let bytes = read("timestamp/measured-boot.sigstore.json");
    let bundle = Bundle::parse(&bytes).unwrap();
    let payload = bundle.envelope.unverified_payload().unwrap();
    let made = Statement::<MeasuredBoot>::read(&payload).unwrap().predicate().not_before;
    // The key of the trust root ends in less than two years. What it signed before does not.
    for now in [made + 60, made + 100 * 365 * 86_400] {
        let time = logged::<MeasuredBoot>(&bytes, &root, now).unwrap().evidence.time.unwrap();
        assert!((made..made + 60).contains(&time), "{time}");
    }
    let response = &bundle.timestamps[0];
    let refused = (0..response.len()).step_by(3).filter(|at| {
        let mut changed = response.clone();
        changed[*at] ^= 1;
        let bundle = Bundle { timestamps: vec![changed], ..bundle.clone() };
        match logged::<MeasuredBoot>(&bundle.write().unwrap(), &root, made + 60) {
            Err(refusal) => refusal.code == Code::Timestamp,
            // What is not signed: the certificate, which nobody needs, and how the signer names itself.
            Ok(logged) => {
                assert!((made..made + 60).contains(&logged.evidence.time.unwrap()), "byte {at}");
                false
            }
        }
    });
    let refused = refused.count();
    assert!(refused > response.len() / 9, "{refused} of {}", response.len());
}

#[test]
fn one_changed_letter_of_what_the_log_wrote_is_refused() {
    let root = trust_root();
    let text = String::from_utf8(recorded("provenance.sigstore.json")).unwrap();
    let start = text.find("\"tlogEntries\"").unwrap();
    let end = start + text[start..].find("dsseEnvelope").unwrap();
    let mut refused = 0;
    for at in (start + 15..end).filter(|at| text.as_bytes()[*at].is_ascii_alphanumeric()).step_by(5) {
        let mut changed = text.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        assert!(logged::<Provenance>(&changed, &root, then()).is_err(), "byte {at}");
        refused += 1;
    }
    assert!(refused > 200, "{refused}");
}

#[test]
fn a_key_of_the_wrong_time_is_refused() {
    let bundle = recorded("provenance.sigstore.json");
    let refusal = logged::<Provenance>(&bundle, &trust_root(), 1 << 40).unwrap_err();
    assert_eq!(refusal.code, Code::KeyValidity);
}

#[test]
fn the_tiles_are_the_tree_of_the_checkpoint() {
    let checkpoint = String::from_utf8(recorded("tiles/checkpoint")).unwrap();
    let head = Note::parse(&checkpoint).unwrap().checkpoint;
    let bytes = recorded(&format!("tiles/tile/entries/000.p/{}", head.size));
    let (mut rest, mut tree, mut hashes) = (&bytes[..], Frontier::default(), Vec::new());
    while let Some((length, after)) = rest.split_first_chunk() {
        let (entry, after) = after.split_at(usize::from(u16::from_be_bytes(*length)));
        tree.append(leaf(entry));
        hashes.extend(leaf(entry));
        rest = after;
    }
    assert_eq!((tree.size(), tree.root()), (head.size, head.root));
    assert_eq!(recorded(&format!("tiles/tile/0/000.p/{}", head.size)), hashes);
}
