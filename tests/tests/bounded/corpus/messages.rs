//! Messages of KRP/1, plain and in envelopes.

use std::collections::BTreeMap;

use attest::bytes::{Bytes32, Hex};
use attest::cluster::CERTIFICATE_TYPE;
use attest::hpke::{Context, seal};
use attest::message::{
    Ack, Challenge, Commit, CommitResult, Credential, DiskGrant, DiskState, Evidence, Hello, Hold, NodeCertificate,
    Purpose, Receipt, Refused, Release, Resume, payload_type, sign,
};
use attest::tpm::AttestationKey;
use envelope::Envelope;
use measurements::Bank;
use measurements::canonical::Document;
use transparency::checkpoint::Checkpoint;
use zeroize::Zeroizing;

use super::documents::{broker, recovery_document};
use super::{File, canonical, changed, file};
use crate::targets::known;

const DIGEST: Bytes32 = Bytes32([4; 32]);

pub fn files() -> Vec<File> {
    [requests(), replies(), envelopes()].concat()
}

fn hello() -> Hello {
    Hello {
        ak: Hex(vec![1, 2]),
        disk: DiskState::Luks { uuid: known::DISK.into(), digest: DIGEST },
        ek: Hex(vec![3]),
        hpke_key: Bytes32(known::private_key().public()),
        nonce: DIGEST,
        purpose: Purpose::Unlock,
        schema: Hello::SCHEMA.into(),
        slot: "state".into(),
        versions: [1, 1],
    }
}

fn evidence(registers: Vec<Hex>) -> Evidence {
    Evidence {
        activation: Some(DIGEST),
        event_log: Hex(vec![5; 40]),
        quote: Hex(vec![6; 20]),
        registers,
        release: None,
        schema: Evidence::SCHEMA.into(),
        session: Hex(vec![7; 16]),
        signature: Hex(vec![8; 20]),
        user_space_log: "\u{1e}{\"pcr\":11}\n".into(),
    }
}

fn commit(result: CommitResult, stages: usize) -> Commit {
    Commit {
        generation: 7,
        quote: Hex(vec![6; 20]),
        registers: vec![Hex(vec![0; 32]); 2],
        release: DIGEST,
        result,
        schema: Commit::SCHEMA.into(),
        session: Hex(vec![7; 16]),
        signature: Hex(vec![8; 20]),
        stages: (0..stages).map(|stage| (format!("{stage:x}"), 1)).collect::<BTreeMap<_, _>>(),
    }
}

fn requests() -> Vec<File> {
    let (good, nothing) = (canonical(&hello()), || "0,".repeat(1000));
    let opened = canonical(&commit(CommitResult::Opened { header: DIGEST, volume: DIGEST }, 2));
    let failed = CommitResult::Failed { code: "HEADER_DIGEST".into() };
    let with = |from: &str, to: &str| changed(&good, from, to);
    let numbers = |document: &str| changed(document, "\"state\"", &format!("\"more\":[{}0],\"state\"", nothing()));
    vec![
        file("krp_request", "hello", good.clone()),
        file("krp_request", "hello-of-a-blank-disk", canonical(&Hello { disk: DiskState::Blank, ..hello() })),
        file("krp_request", "evidence", canonical(&evidence(vec![Hex(vec![9; 32]); 16]))),
        file("krp_request", "evidence-with-registers-of-no-bytes", canonical(&evidence(vec![Hex(vec![]); 1000]))),
        file("krp_request", "commit", opened.clone()),
        file("krp_request", "commit-of-a-failure", canonical(&commit(failed.clone(), 0))),
        file("krp_request", "commit-with-many-stages", canonical(&commit(failed, 300))),
        file("krp_request", "commit-with-numbers-in-its-result", numbers(&opened)),
        file("krp_request", "resumption", canonical(&Resume { schema: Resume::SCHEMA.into(), session: Hex(vec![7]) })),
        file("krp_request", "numbers-in-the-state-of-a-disk", numbers(&good)),
        file("krp_request", "state-of-a-disk-twice", with("\"state\"", "\"state\":\"blank\",\"state\"")),
        file("krp_request", "id-with-an-umlaut", with("0b5f6c6e", "0b5f6c\u{fc}")),
        file("krp_request", "bytes-with-half-a-digit", with("\"0102\"", "\"010\"")),
        file("krp_request", "bytes-with-an-escape", with("\"0102\"", "\"\\u0030102\"")),
        file("krp_request", "schema-with-an-escape", with("cairn.krp", "cairn\\u002ekrp")),
        file("krp_request", "three-versions", with("[1,1]", "[1,1,1]")),
        file("krp_request", "version-that-is-no-integer", with("[1,1]", "[1,1.0]")),
        file("krp_request", "field-twice", with("\"slot\"", "\"slot\":\"\",\"slot\"")),
        file("krp_request", "thousand-arrays", with("\"unlock\"", &"[".repeat(1000))),
        file("krp_request", "cut", &good.as_bytes()[..150]),
    ]
}

fn challenge() -> Challenge {
    Challenge {
        bank: Bank::Sha256,
        credential: Some(Credential { blob: Hex(vec![1; 60]), seed: Hex(vec![2; 60]) }),
        epoch: 2,
        hello: DIGEST,
        nonce: DIGEST,
        schema: Challenge::SCHEMA.into(),
        session: Hex(vec![7; 16]),
        ttl: 60,
        version: 1,
    }
}

fn receipt() -> Receipt {
    let head = Checkpoint { origin: known::ORIGIN.into(), size: 7, root: DIGEST.0 };
    Receipt { checkpoint: head.sign(&known::signer()), root: DIGEST, size: 7 }
}

fn release() -> Release {
    let (to, random) = (known::private_key().public(), Zeroizing::new([5; 32]));
    Release {
        assurance: "tpm-virtual".into(),
        commit_within: 60,
        disk: DiskGrant {
            generation: 7,
            headers: vec![DIGEST, Bytes32([5; 32])],
            id: known::DISK.into(),
            overwrite: false,
            recovery: Some(recovery_document()),
            slot: "state".into(),
        },
        receipt: receipt(),
        request: "00".repeat(16),
        schema: Release::SCHEMA.into(),
        share: seal(&[6; 32], &to, Context::Release(&DIGEST.0), &random).unwrap(),
        transcript: DIGEST,
    }
}

fn certificate() -> NodeCertificate {
    NodeCertificate {
        ak_name: Hex(AttestationKey::parse(&known::quoter_area()).unwrap().name().as_bytes().to_vec()),
        assurance: "tpm-virtual".into(),
        cluster: "07".repeat(16),
        epoch: 2,
        node: "node-1".into(),
        not_after: 2_000_000_000,
        release: DIGEST,
        reset: 3,
        restart: 1,
        schema: NodeCertificate::SCHEMA.into(),
        volume: DIGEST,
    }
}

/// A node's certificate in its envelope.
pub fn signed_certificate() -> String {
    String::from_utf8(sign(&certificate(), "broker", &known::signer()).unwrap().bytes).unwrap()
}

fn ack() -> Ack {
    Ack {
        certificate: Some(signed_certificate()),
        commit: DIGEST,
        disk: Some("{}".into()),
        generation: 8,
        receipt: receipt(),
        schema: Ack::SCHEMA.into(),
    }
}

fn replies() -> Vec<File> {
    let good = canonical(&release());
    let with = |from: &str, to: &str| changed(&good, from, to);
    let zeros = "00".repeat(32);
    let (hold, refused) = (Hold::SCHEMA.into(), Refused::SCHEMA.into());
    let many = Release { disk: DiskGrant { headers: vec![DIGEST; 30], ..release().disk }, ..release() };
    let point = hex::encode(release().share.encapsulated.0);
    vec![
        file("krp_reply", "challenge", canonical(&challenge())),
        file("krp_reply", "challenge-to-a-known-key", canonical(&Challenge { credential: None, ..challenge() })),
        file("krp_reply", "release", good.clone()),
        file("krp_reply", "release-with-thirty-headers", canonical(&many)),
        file(
            "krp_reply",
            "hold",
            canonical(&Hold { answers: Bytes32([1; 32]), request: "1".into(), retry_after: 60, schema: hold }),
        ),
        file(
            "krp_reply",
            "refusal",
            canonical(&Refused { answers: Bytes32([1; 32]), request: "1".into(), schema: refused }),
        ),
        file("krp_reply", "acknowledgement", canonical(&ack())),
        file("krp_reply", "node-certificate", canonical(&certificate())),
        file("krp_reply", "share-sealed-to-the-point-zero", with(&point, &zeros)),
        file("krp_reply", "share-of-one-byte", with("\"ciphertext\":\"", "\"ciphertext\":\"00\",\"more\":\"")),
        file("krp_reply", "generation-beyond-2-to-53", with("\"generation\":7", "\"generation\":9007199254740993")),
        file("krp_reply", "negative-time", with("\"commit_within\":60", "\"commit_within\":-1")),
        file("krp_reply", "unknown-field-in-the-recovery-document", with("\"shares\"", "\"more\":{},\"shares\"")),
        file("krp_reply", "cut", &good.as_bytes()[..good.len() / 2]),
    ]
}

fn envelopes() -> Vec<File> {
    let envelope = |payload_type: &str, payload: &str| {
        serde_json::to_string(&Envelope::sign(payload_type, payload.as_bytes(), "broker", &known::signer())).unwrap()
    };
    let good = envelope(&payload_type::<Challenge>(), &canonical(&challenge()));
    let with = |from: &str, to: &str| changed(&good, from, to);
    let signature = &good[good.find("{\"keyid\"").unwrap()..good.len() - 2];
    let other_type = envelope(&payload_type::<Release>(), &canonical(&challenge()));
    vec![
        file("envelope", "challenge", good.clone()),
        file("envelope", "release", envelope(&payload_type::<Release>(), &canonical(&release()))),
        file("envelope", "acknowledgement", envelope(&payload_type::<Ack>(), &canonical(&ack()))),
        file("envelope", "node-certificate", signed_certificate()),
        file("envelope", "broker-certificate", envelope(CERTIFICATE_TYPE, &canonical(&broker()))),
        file("envelope", "challenge-signed-as-a-release", other_type),
        file("envelope", "no-payload", envelope(&payload_type::<Challenge>(), "")),
        file("envelope", "no-signatures", with(signature, "")),
        file("envelope", "sixteen-signatures", with(signature, &[signature; 16].join(","))),
        file("envelope", "seventeen-signatures", with(signature, &[signature; 17].join(","))),
        file("envelope", "signatures-of-no-bytes", with(signature, &[r#"{"keyid":"","sig":""}"#; 100].join(","))),
        file("envelope", "signature-of-one-byte", with("\"sig\":\"", "\"sig\":\"AA==\",\"x\":\"")),
        file("envelope", "base64-without-its-end", with("==\"", "\"")),
        file("envelope", "base64-with-a-blank", with("\"payload\":\"", "\"payload\":\" ")),
        file("envelope", "unknown-field", with("{\"payload\"", "{\"more\":1,\"payload\"")),
        file("envelope", "cut", &good.as_bytes()[..good.len() - 40]),
    ]
}
