//! The receipt of a node: the newest head of the audit log that the node was given in its boot (C2SP tlog-checkpoint). It is kept to find out later that the log was cut, so a file that was kept is never exchanged for one that shows less.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use attest::cluster::Cluster;
use attest::runtime::Answer;
use transparency::checkpoint::{Checkpoint, Note};

use crate::outputs;

/// Maximum size of a file with a head of a log and the lines of witnesses.
const MAX_RECEIPT_BYTES: u64 = 64 << 10;

/// Why an answer has no receipt that can be kept.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    /// There is none in it.
    Missing,
    /// It is something else, or of another log.
    OtherLog(String),
    /// The broker's certificate is not one of this cluster.
    Certificate(String),
    /// Another key has signed it.
    Signature,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => formatter.write_str("the node has no receipt of an audit log"),
            Self::OtherLog(origin) => write!(formatter, "the node's receipt is not a checkpoint of {origin}"),
            Self::Certificate(found) => write!(formatter, "the node's broker certificate cannot be used: {found}"),
            Self::Signature => {
                formatter.write_str("the node's receipt is not signed with the audit key of the node's broker")
            }
        }
    }
}

/// A head of the audit log of a cluster.
#[derive(Debug, PartialEq, Eq)]
pub struct Receipt<'a> {
    text: &'a str,
    head: Checkpoint,
    /// Whether a certificate names the key of the log.
    is_verified: bool,
}

impl std::fmt::Display for Receipt<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "a head of {} leaves of the audit log", self.head.size)?;
        if !self.is_verified {
            formatter.write_str(", signature not verified: no broker certificate names the audit key")?;
        }
        Ok(())
    }
}

impl<'a> Receipt<'a> {
    /// The receipt in an answer. Its signature is verified with the audit key in the certificate of the node's broker, which the root keys of the cluster have signed. Without a certificate, or with one from before certificates named this key, the receipt is
    /// a checkpoint of the cluster's log by its name only.
    ///
    /// # Errors
    /// [`Problem`].
    pub fn of(answer: &'a Answer, cluster: &Cluster) -> Result<Self, Problem> {
        let text = answer.receipt.as_deref().ok_or(Problem::Missing)?;
        let origin = format!("cairn/{}/audit", hex::encode(&cluster.id.0));
        let head = Note::parse(text).ok().map(|note| note.checkpoint);
        let Some(head) = head.filter(|head| head.origin == origin && head.size > 0) else {
            return Err(Problem::OtherLog(origin));
        };
        let broker = answer.broker.as_ref().map(|broker| cluster.certificate(broker.as_bytes())).transpose();
        let broker = broker.map_err(|refusal| Problem::Certificate(refusal.found))?;
        let key = broker.and_then(|broker| broker.audit_key);
        if let Some(key) = key {
            Checkpoint::open(text, &origin, &key.0).map_err(|_| Problem::Signature)?;
        }
        Ok(Self { text, head, is_verified: key.is_some() })
    }

    /// Writes a verified receipt to a new file, or to one that has an earlier head of the same log.
    ///
    /// # Errors
    /// The receipt is not verified, or the file has something else. The file is left as it is.
    pub fn write(&self, file: &Path) -> Result<()> {
        ensure!(
            self.is_verified,
            "cannot write {}: no broker certificate names the audit key that signed the node's receipt\nhint: omit --receipt, and keep a head of the broker: key-broker audit head",
            file.display()
        );
        self.must_follow(file).with_context(|| format!("cannot replace {}", file.display()))?;
        outputs::replace(file, self.text.as_bytes())
    }

    fn must_follow(&self, file: &Path) -> Result<()> {
        const OTHER: &str = "hint: name another file with --receipt";
        if fs::symlink_metadata(file).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Ok(());
        }
        let kept = match input_file::read(file, MAX_RECEIPT_BYTES).map(String::from_utf8) {
            Ok(Ok(kept)) => kept,
            Ok(Err(_)) => bail!("its content is not UTF-8\n{OTHER}"),
            Err(error) => bail!("{error}\n{OTHER}"),
        };
        if kept.is_empty() {
            return Ok(());
        }
        let kept = Note::parse(&kept).ok().map(|note| note.checkpoint).with_context(|| {
            "it has something else than a head of an audit log\nhint: name another file with --receipt".to_owned()
        })?;
        let Checkpoint { origin, size, root } = &self.head;
        ensure!(
            kept.origin == *origin,
            "it has a head of {}, the node's receipt is of {origin}\nhint: name another file with --receipt",
            kept.origin
        );
        let compare = "hint: keep the file, write the node's receipt to another one, and compare both with the log: key-broker audit verify --heads FILE FILE";
        ensure!(
            kept.size <= *size,
            "it has a head of {} leaves, the node's receipt is of {size}: the node booted before, or the log was cut\n{compare}",
            kept.size
        );
        ensure!(
            kept.size < *size || kept.root == *root,
            "it has another head of {size} leaves than the node: the log was replaced\n{compare}"
        );
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use attest::bytes::{Bytes32, Hex};
    use attest::cluster::{Assurance, BrokerCertificate, CERTIFICATE_TYPE, Keys};
    use measurements::canonical::{self, Document as _};
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    pub(crate) const ROOT: u8 = 1;
    pub(crate) const LOG: u8 = 2;

    fn key(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn public(seed: u8) -> Bytes32 {
        Bytes32(key(seed).public_key().as_ref().try_into().unwrap())
    }

    pub(crate) fn cluster() -> Cluster {
        let keys = Keys { keys: vec![public(ROOT)], threshold: 1 };
        Cluster {
            assurance: Assurance::Development,
            broker: keys.clone(),
            epoch: 1,
            id: Hex(vec![7; 16]),
            recovery: keys,
            schema: Cluster::SCHEMA.into(),
            slots: vec![],
        }
    }

    pub(crate) fn certificate(root: u8, audit_key: Option<u8>) -> String {
        let broker = BrokerCertificate {
            audit_key: audit_key.map(public),
            cluster: Hex(vec![7; 16]),
            epoch: 1,
            message_key: public(5),
            schema: BrokerCertificate::SCHEMA.into(),
            tls_key: Bytes32([6; 32]),
        };
        let broker = canonical::write(&broker).unwrap();
        let broker = envelope::Envelope::sign(CERTIFICATE_TYPE, &broker, "root", &key(root));
        serde_json::to_string(&broker).unwrap()
    }

    pub(crate) fn head(id: u8, size: u64, root: u8) -> String {
        let origin = format!("cairn/{}/audit", hex::encode([id; 16]));
        Checkpoint { origin, size, root: [root; 32] }.sign(&key(LOG))
    }

    /// An answer with this receipt, and this certificate of a broker.
    pub(crate) fn answer(receipt: Option<String>, broker: Option<String>) -> Answer {
        let empty = Hex(vec![]);
        Answer {
            ak: empty.clone(),
            bank: measurements::Bank::Sha256,
            certificate: None,
            broker,
            ek: empty.clone(),
            ek_certificate: None,
            event_log: empty.clone(),
            quote: empty.clone(),
            receipt,
            registers: vec![],
            schema: Answer::SCHEMA.into(),
            signature: empty,
            user_space_log: String::new(),
        }
    }

    #[test]
    fn receipt_is_verified_with_the_key_that_the_certificate_of_the_broker_names() {
        let good = head(7, 9, 3);
        let check = |receipt: &str, broker: Option<String>| {
            let answer = answer(Some(receipt.to_owned()), broker);
            Receipt::of(&answer, &cluster()).map(|receipt| receipt.to_string())
        };
        let shown = |found: &Result<String, Problem>| found.as_ref().is_ok_and(|found| !found.contains("not verified"));
        assert!(shown(&check(&good, Some(certificate(ROOT, Some(LOG))))));
        for broker in [None, Some(certificate(ROOT, None))] {
            let found = check(&good, broker);
            assert!(found.as_ref().is_ok_and(|found| found.contains("signature not verified")), "{found:?}");
        }
        assert_eq!(check(&good, Some(certificate(ROOT, Some(9)))), Err(Problem::Signature));
        assert_eq!(
            check(&good.replacen("\n9\n", "\n8\n", 1), Some(certificate(ROOT, Some(LOG)))),
            Err(Problem::Signature)
        );
        assert!(matches!(check(&good, Some(certificate(9, Some(LOG)))), Err(Problem::Certificate(_))));
        for other in [head(8, 9, 3), head(7, 0, 3), "text".into(), String::new()] {
            assert!(matches!(check(&other, None), Err(Problem::OtherLog(_))), "{other}");
        }
        assert_eq!(Receipt::of(&answer(None, None), &cluster()), Err(Problem::Missing));
    }

    #[test]
    fn file_with_a_later_head_or_of_another_log_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("receipt");
        let answer = answer(Some(head(7, 9, 3)), Some(certificate(ROOT, Some(LOG))));
        let receipt = Receipt::of(&answer, &cluster()).unwrap();
        for (kept, word) in [
            (head(7, 10, 4), "has a head of 10 leaves"),
            (head(7, 9, 4), "another head of 9 leaves"),
            (head(8, 1, 3), "--receipt"),
            ("text\n".into(), "something else"),
        ] {
            fs::write(&file, &kept).unwrap();
            let error = format!("{:#}", receipt.write(&file).unwrap_err());
            assert!(error.contains(word) && error.contains("hint: "), "{error}");
            assert_eq!(fs::read_to_string(&file).unwrap(), kept, "{error}");
        }
        for kept in [head(7, 8, 2), head(7, 9, 3), String::new()] {
            fs::write(&file, &kept).unwrap();
            receipt.write(&file).unwrap();
            assert_eq!(fs::read_to_string(&file).ok(), answer.receipt);
        }
    }

    #[test]
    fn receipt_without_a_verified_signature_is_never_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("receipt");
        for broker in [None, Some(certificate(ROOT, None))] {
            let answer = answer(Some(head(7, 9, 3)), broker);
            let receipt = Receipt::of(&answer, &cluster()).unwrap();
            for kept in [None, Some(String::new()), Some(head(7, 8, 2)), Some(head(7, 9, 3))] {
                kept.iter().for_each(|kept| fs::write(&file, kept).unwrap());
                let error = receipt.write(&file).unwrap_err().to_string();
                assert!(error.contains("names the audit key") && error.contains("hint: "), "{error}");
                assert_eq!(fs::read_to_string(&file).ok(), kept);
            }
            fs::remove_file(&file).unwrap();
        }
    }
}
