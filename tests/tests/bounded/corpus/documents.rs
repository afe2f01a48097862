//! Documents of a cluster and of a running node, the recovery document, checkpoints, and answers of HTTP.

use attest::bytes::{Bytes32, Hex};
use attest::cluster::{BrokerCertificate, CERTIFICATE_TYPE, Cluster, Device, Hints, Slot, StaticNetwork};
use attest::message::Credential;
use attest::recovery::Recovery;
use attest::runtime::{Activate, Activated, Answer, Question};
use envelope::Envelope;
use measurements::Bank;
use measurements::canonical::Document;
use transparency::checkpoint::Checkpoint;
use zeroize::Zeroizing;

use super::messages::signed_certificate;
use super::{File, canonical, changed, file};
use crate::targets::known;

const DIGEST: Bytes32 = Bytes32([4; 32]);

pub fn files() -> Vec<File> {
    [clusters(), runtime(), recovery(), checkpoints(), answers()].concat()
}

/// The certificate of a broker of the known cluster.
pub fn broker() -> BrokerCertificate {
    BrokerCertificate {
        audit_key: Some(DIGEST),
        cluster: known::cluster().id,
        epoch: 2,
        message_key: known::signed_by(),
        schema: BrokerCertificate::SCHEMA.into(),
        tls_key: DIGEST,
    }
}

fn clusters() -> Vec<File> {
    let good = canonical(&known::cluster());
    let with = |from: &str, to: &str| changed(&good, from, to);
    let slot = Slot {
        device: Device::Serial("a \u{e9}\"".into()),
        layout: None,
        mount: "/var".into(),
        name: "state-1".into(),
    };
    let network = StaticNetwork { address: "10.0.0.2/24".into(), gateway: Some("10.0.0.1".into()) };
    let hints = Hints {
        brokers: vec!["10.0.0.3:7443".into(), "[fd00::3%1]:7443".into()],
        network: Some(network),
        release: None,
        schema: Hints::SCHEMA.into(),
    };
    let many = Hints { brokers: vec![String::new(); 1000], ..hints.clone() };
    // As brokers made them before receipts were verified.
    let other = BrokerCertificate { audit_key: None, cluster: Hex(vec![8; 16]), ..broker() };
    vec![
        file("cluster", "cluster", good.clone()),
        file("cluster", "disk-by-its-serial", canonical(&Cluster { slots: vec![slot], ..known::cluster() })),
        file("cluster", "no-keys-and-none-needed", with("\"threshold\":1", "\"threshold\":0")),
        file("cluster", "key-of-31-bytes", with("\"keys\":[\"", "\"keys\":[\"00")),
        file("cluster", "device-that-is-not-known", with("\"only-other\"", "{\"path\":\"/dev/sda\"}")),
        file("cluster", "epoch-beyond-2-to-53", with("\"epoch\":2", "\"epoch\":9007199254740993")),
        file("cluster", "hints", canonical(&hints)),
        file("cluster", "hints-without-brokers", canonical(&Hints { brokers: vec![], ..hints.clone() })),
        file("cluster", "hints-with-brokers-without-names", canonical(&many)),
        file("cluster", "hints-with-a-name", changed(&canonical(&hints), "10.0.0.3", "broker.example")),
        file("cluster", "broker-certificate", canonical(&broker())),
        file("cluster", "broker-certificate-of-an-older-epoch", canonical(&BrokerCertificate { epoch: 1, ..broker() })),
        file("cluster", "broker-certificate-of-another-cluster", canonical(&other)),
        file("cluster", "cut", &good.as_bytes()[..good.len() / 2]),
    ]
}

fn runtime() -> Vec<File> {
    let payload = canonical(&broker());
    let envelope = Envelope::sign(CERTIFICATE_TYPE, payload.as_bytes(), "root", &known::signer());
    let answer = Answer {
        ak: Hex(known::quoter_area()),
        bank: Bank::Sha256,
        certificate: Some(signed_certificate()),
        broker: Some(serde_json::to_string(&envelope).unwrap()),
        ek: Hex(vec![3]),
        ek_certificate: None,
        event_log: Hex(vec![5; 40]),
        quote: Hex(vec![6; 20]),
        receipt: Some("cairn/07/audit\n1\n".into()),
        registers: vec![Hex(vec![9; 32]); 2],
        schema: Answer::SCHEMA.into(),
        signature: Hex(vec![8; 20]),
        user_space_log: "\u{1e}{\"pcr\":15}\n".into(),
    };
    let without = Answer { certificate: None, broker: None, receipt: None, ..answer.clone() };
    let empty = Answer { registers: vec![Hex(vec![]); 1000], ..without.clone() };
    let credential = Credential { blob: Hex(vec![1; 60]), seed: Hex(vec![2; 60]) };
    let good = canonical(&answer);
    let question = canonical(&Question { nonce: DIGEST, schema: Question::SCHEMA.into() });
    vec![
        file("runtime", "question", question.clone()),
        file("runtime", "nonce-with-a-digit-more", changed(&question, "\"0404", "\"00404")),
        file("runtime", "answer", good.clone()),
        file("runtime", "answer-without-certificates", canonical(&without)),
        file("runtime", "answer-with-registers-of-no-bytes", canonical(&empty)),
        file(
            "runtime",
            "answer-whose-certificate-is-null",
            changed(&canonical(&without), "{", "{\"certificate\":null,"),
        ),
        file("runtime", "answer-with-an-unknown-bank", changed(&good, "\"sha256\"", "\"sm3_256\"")),
        file("runtime", "credential", canonical(&Activate { credential, schema: Activate::SCHEMA.into() })),
        file("runtime", "activation", canonical(&Activated { proof: DIGEST, schema: Activated::SCHEMA.into() })),
        file("runtime", "cut", &good.as_bytes()[..good.len() - 2]),
    ]
}

/// A share, sealed to the recovery key that the targets know and to one that they do not.
pub fn recovery_document() -> Recovery {
    let keys = [Bytes32(known::private_key().public()), Bytes32([9; 32])];
    Recovery::seal(known::DISK, &[6; 32], &keys, || Zeroizing::new([5; 32])).unwrap()
}

fn recovery() -> Vec<File> {
    let good = canonical(&recovery_document());
    let key = hex::encode(known::private_key().public());
    let changed = |from: &str, to: &str| changed(&good, from, to);
    vec![
        file("recovery", "document", good.clone()),
        file("recovery", "zeros-behind", [good.as_bytes(), &[0; 600]].concat()),
        file("recovery", "text-behind-zeros", [good.as_bytes(), &[0; 600], b"x"].concat()),
        file("recovery", "zeros", [0; 600]),
        file("recovery", "of-another-disk", changed("0b5f6c6e", "0b5f6c6f")),
        file("recovery", "sealed-to-the-same-key-twice", changed(&"09".repeat(32), &key)),
        file("recovery", "share-of-no-bytes", changed("\"ciphertext\":\"", "\"ciphertext\":\"\",\"more\":\"")),
        file("recovery", "no-shares", canonical(&Recovery { shares: vec![], ..recovery_document() })),
        file("recovery", "cut", &good.as_bytes()[..good.len() / 2]),
    ]
}

fn checkpoints() -> Vec<File> {
    let head = Checkpoint { origin: known::ORIGIN.into(), size: 7, root: DIGEST.0 };
    let good = head.sign(&known::signer());
    let line = good.lines().last().unwrap();
    let with = |from: &str, to: &str| changed(&good, from, to);
    let largest = Checkpoint { size: u64::MAX, ..head.clone() };
    vec![
        file("checkpoint", "signed", good.clone()),
        file("checkpoint", "largest-size", largest.sign(&known::signer())),
        file("checkpoint", "size-of-21-digits", with("\n7\n", "\n184467440737095516160\n")),
        file("checkpoint", "size-with-a-sign", with("\n7\n", "\n+7\n")),
        file("checkpoint", "root-of-31-bytes", with("\nBA", "\n")),
        file("checkpoint", "more-lines-in-its-body", with("\n\n", "\nmore\n\n")),
        file("checkpoint", "lines-that-end-as-in-windows", good.replace('\n', "\r\n")),
        file("checkpoint", "thirty-signatures", with(line, &[line; 30].join("\n"))),
        file(
            "checkpoint",
            "signature-of-no-bytes",
            format!("{}\u{2014} {} \n", &good[..good.len() - line.len() - 1], known::ORIGIN),
        ),
        file("checkpoint", "no-signatures", &good.as_bytes()[..good.find("\n\n").unwrap()]),
        file("checkpoint", "of-another-log", with(known::ORIGIN, "another")),
        file("checkpoint", "cut-in-a-character", &good.as_bytes()[..good.find('\u{2014}').unwrap() + 1]),
    ]
}

fn answers() -> Vec<File> {
    let good = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 3\r\n\r\nabc";
    let with = |from: &str, to: &str| changed(good, from, to);
    vec![
        file("http_response", "answer", good),
        file("http_response", "no-body", "HTTP/1.1 200 \r\ncontent-length:0\r\n\r\n"),
        file("http_response", "two-lengths", with("Retry-After: 7", "Content-Length: 3")),
        file("http_response", "length-of-16-eib", with(": 3", ": 18446744073709551615")),
        file("http_response", "length-with-a-sign", with(": 3", ": +3")),
        file("http_response", "length-that-is-not-all-there", with(": 3", ": 4")),
        file("http_response", "in-chunks", with("Retry-After: 7", "Transfer-Encoding: chunked")),
        file("http_response", "time-to-wait-beyond-2-to-32", with(": 7", ": 4294967296")),
        file("http_response", "thirty-three-headers", with("Retry-After: 7", &["A: b"; 32].join("\r\n"))),
        file("http_response", "header-without-an-end", good.as_bytes()[..60].to_vec()),
        file(
            "http_response",
            "header-that-is-not-text",
            [&good.as_bytes()[..50], &[0xff, 0xfe], &good.as_bytes()[50..]].concat(),
        ),
    ]
}
