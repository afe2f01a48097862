//! M5 and M6: what became of a release. A second quote of the same boot shows that it was closed before the disk was opened; the record changes, and the node gets a certificate.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use attest::binding::Commitment;
use attest::bytes::{Bytes32, Hex};
use attest::message::{self, Ack, Commit, CommitResult, NodeCertificate, Purpose};
use attest::recovery::DiskStatement;
use attest::tpm::{self, AttestationKey, Quoted};
use envelope::Envelope;
use measurements::canonical::Document;
use state_disk::record::{self, Report};

use super::audit::{self, Leaf};
use super::hello::sha256;
use super::records::{Disk, Latch, get, put};
use super::refusals::Client;
use super::{Answer, Engine, Open, Reply};
use crate::code::{Code, Own, Refusal};
use crate::fault;
use crate::store::{Error, Table, Transaction};

/// The register of the cap.
const CAP: u8 = 15;
/// Codes of the agent after which a person must look at the disk.
const ALARMS: [&str; 7] = [
    "BROKER_BEHIND",
    "DISK_KEY_WRONG",
    "DISK_ROLLBACK",
    "DISK_TABLE_MISMATCH",
    "GENERATION_INVALID",
    "HEADER_DIGEST",
    "HEADER_INVALID",
];

/// A report whose quote was verified.
struct Reported<'a> {
    commit: &'a Commit,
    /// SHA-256 of its body.
    digest: [u8; 32],
    /// SHA-256 of what the quote covers: release, header, volume, generation, registers. A report with another signature, code or other stages has the same.
    covered: Bytes32,
    arrived: Instant,
}

/// How a transaction ended.
enum Decided {
    /// With what is counted; nothing for a report that was acknowledged before.
    Acknowledged(Vec<u8>, Option<Own>),
    Refused(Refusal),
}

impl Engine {
    /// Answers a commit that arrived at this time.
    pub fn commit(&self, address: IpAddr, body: &[u8], arrived: Instant) -> Answer {
        let Some(open) = self.keys() else { return Reply::sealed().into() };
        let (commit, digest): (Commit, _) = match message::read(body) {
            Ok(read) => read,
            Err(refusal) => return self.refuse(Client::Stranger(address), &refusal.into()),
        };
        let latch = match self.latch(&commit.session.0) {
            Ok(Some(found)) => found,
            Ok(None) => {
                return self.refuse(
                    Client::Stranger(address),
                    &Refusal::new(Own::State, "nothing was released in this session"),
                );
            }
            Err(error) => return self.unavailable(&error.to_string()),
        };
        let name = latch.node.clone();
        let (shown, covered) = match self.verifiers.run(|| show(&commit, &latch)) {
            Ok(shown) => shown,
            // Whoever knows the session may send this; only the TPM of the node can quote.
            Err(refusal) => return self.refuse(Client::Stranger(address), &refusal),
        };
        if let Err(refusal) = self.closed(&shown, &commit, &latch) {
            return self.refuse_report(&name, address, &commit.session, &refusal);
        }
        fault::point("after-commit-verify");
        let reported = Reported { commit: &commit, digest, covered, arrived };
        let mut decided = None;
        let written = self.store.transact(&mut |transaction| {
            let outcome = self.acknowledge(transaction, &open, &reported, &name)?;
            let undone = matches!(outcome, Decided::Refused(_));
            decided = Some(outcome);
            if undone { Err(Error::Work(String::new())) } else { Ok(()) }
        });
        match (written, decided) {
            (Ok(()), Some(Decided::Acknowledged(body, code))) => {
                fault::point("after-commit-transaction");
                if let Some(code) = code {
                    self.count(code.into());
                }
                Reply { status: 200, body, retry_after: None }.into()
            }
            (Err(Error::Work(_)), Some(Decided::Refused(refusal))) => {
                self.refuse_report(&name, address, &commit.session, &refusal)
            }
            (Err(error), _) => self.unavailable(&error.to_string()),
            _ => self.unavailable("nothing was decided"),
        }
    }

    /// What a session was given.
    fn latch(&self, session: &[u8]) -> Result<Option<Latch>, Error> {
        let mut found = None;
        self.store.look(&mut |transaction| {
            if let Some(name) = transaction.get(Table::Spent, session)? {
                let latch: Option<Latch> = get(transaction, Table::Latches, &name)?;
                found = latch.filter(|latch| latch.session.0 == session);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// That the boot was closed with this release, and nothing but PCR 15 has moved since. A node that failed shows what it can.
    fn closed(&self, shown: &Quoted, commit: &Commit, latch: &Latch) -> Result<(), Refusal> {
        let (purpose, volume) = match &commit.result {
            CommitResult::Formatted { volume, .. } => (Purpose::Provision, volume),
            CommitResult::Opened { volume, .. } => (Purpose::Unlock, volume),
            CommitResult::Failed { .. } => return Ok(()),
        };
        // The quote does not cover the word of the result; that of the release covers the purpose.
        if purpose != latch.purpose {
            return Err(Refusal::new(Own::State, "the result is not that of the purpose of the release"));
        }
        let before: BTreeMap<u8, &Vec<u8>> =
            latch.registers.iter().map(|(number, value)| (*number, &value.0)).collect();
        for (number, value) in shown.registers.iter().filter(|(number, _)| **number != CAP) {
            if before.get(number) != Some(&value) {
                let found = format!("PCR {number} has moved since the release");
                return Err(Refusal::new(Own::CapMismatch, found));
            }
        }
        let words = [
            format!("cluster:{}", hex::encode(&self.cluster.id.0)),
            format!("release:{}", hex::encode(latch.release.0)),
            format!("volume:{}", hex::encode(volume.0)),
        ];
        let bank = latch.bank;
        let extend = |value: Vec<u8>, word: &String| bank.extend(&value, &bank.digest(word.as_bytes()));
        let expected = words.iter().fold(vec![0; bank.length()], extend);
        if shown.registers.get(&CAP) != Some(&expected) {
            return Err(Refusal::new(Own::CapMismatch, "PCR 15 is not that of this cluster, release and volume"));
        }
        Ok(())
    }

    fn acknowledge(
        &self,
        transaction: &mut dyn Transaction,
        open: &Open,
        reported: &Reported<'_>,
        name: &str,
    ) -> Result<Decided, Error> {
        let Reported { commit, digest, covered, arrived } = *reported;
        let work = |refusal: &dyn std::fmt::Display| Error::Work(format!("making an acknowledgement: {refusal}"));
        let refused = |code: Code, found: &str| Ok(Decided::Refused(Refusal::new(code, found)));
        let Some(mut latch) = get::<Latch>(transaction, Table::Latches, name.as_bytes())? else {
            return refused(Own::State.into(), "nothing was released in this boot");
        };
        if latch.session != commit.session {
            return refused(Own::State.into(), "the node has been given another release meanwhile");
        }
        if let Some((known, ack)) = &latch.acknowledged {
            if known.0 == digest {
                return Ok(Decided::Acknowledged(ack.clone().into_bytes(), None));
            }
            // A report that was changed where the quote does not cover it may have come first: the node gets the same acknowledgement for its own.
            if latch.covered == Some(covered) {
                let again = acknowledged_again(open, ack, digest).map_err(|refusal| work(&refusal))?;
                return Ok(Decided::Acknowledged(again, None));
            }
            return refused(Own::State.into(), "this boot has reported before, and something else");
        }
        if self.is_late(&latch, arrived) {
            return refused(Own::CommitLate.into(), "the time to report is over");
        }
        let key = Disk::key(&latch.node, &latch.slot);
        let Some(mut disk) = get::<Disk>(transaction, Table::Disks, &key)? else {
            return refused(Own::State.into(), "the disk is not known any more");
        };
        let (code, found) = match self.report(&mut disk, commit, &latch) {
            Ok(done) => done,
            Err(refusal) => return Ok(Decided::Refused(refusal)),
        };
        // A failed boot has reported, and the disk's generation stands where it stood: boots that never reported before it stay counted.
        disk.unreported = match commit.result {
            CommitResult::Failed { .. } => disk.unreported.saturating_sub(1),
            CommitResult::Formatted { .. } | CommitResult::Opened { .. } => 0,
        };
        put(transaction, Table::Disks, &key, &disk)?;
        let leaf = Leaf {
            number: 0,
            time: self.now(),
            request: format!("{}-commit", latch.request),
            node: latch.node.clone(),
            code: Code::from(code).name().to_owned(),
            found,
        };
        let receipt = audit::append(transaction, leaf, &self.signer(open))?;
        let key = AttestationKey::parse(&latch.ak.0).map_err(|refusal| work(&refusal))?;
        let said = self.said_of(open, &latch, &disk, &commit.result, &key).map_err(|refusal| work(&refusal))?;
        let (certificate, statement) = said.unzip();
        let ack = Ack {
            certificate,
            commit: Bytes32(digest),
            disk: statement,
            generation: disk.generation,
            receipt,
            schema: Ack::SCHEMA.into(),
        };
        let sent = message::sign(&ack, "broker", &open.keys.message).map_err(|refusal| work(&refusal))?;
        latch.acknowledged = Some((Bytes32(digest), String::from_utf8_lossy(&sent.bytes).into_owned()));
        latch.covered = Some(covered);
        put(transaction, Table::Latches, name.as_bytes(), &latch)?;
        fault::point("after-commit-insert");
        Ok(Decided::Acknowledged(sent.bytes, Some(code)))
    }

    /// What the broker says of a node whose disk was made or opened: the node's certificate, and the statement about its disk. Of a failed boot it says nothing.
    fn said_of(
        &self,
        open: &Open,
        latch: &Latch,
        disk: &Disk,
        result: &CommitResult,
        key: &AttestationKey,
    ) -> Result<Option<(String, String)>, attest::Refusal> {
        let (CommitResult::Formatted { header, volume } | CommitResult::Opened { header, volume }) = result else {
            return Ok(None);
        };
        let cluster = hex::encode(&self.cluster.id.0);
        let certificate = NodeCertificate {
            ak_name: Hex(key.name().as_bytes().to_vec()),
            assurance: latch.assurance.clone(),
            cluster: cluster.clone(),
            epoch: open.certificate.epoch,
            node: latch.node.clone(),
            not_after: self.seconds() + self.settings.certificate.as_secs(),
            release: latch.release,
            reset: latch.reset,
            restart: latch.restart,
            schema: NodeCertificate::SCHEMA.into(),
            volume: *volume,
        };
        let statement = DiskStatement {
            cluster,
            disk: disk.id.clone(),
            generation: disk.generation,
            header: *header,
            node: latch.node.clone(),
            schema: DiskStatement::SCHEMA.into(),
            slot: latch.slot.clone(),
        };
        let text = |sent: message::Sent| String::from_utf8_lossy(&sent.bytes).into_owned();
        let certificate = message::sign(&certificate, "broker", &open.keys.message).map(text)?;
        let statement = message::sign(&statement, "broker", &open.keys.message).map(text)?;
        Ok(Some((certificate, statement)))
    }

    /// What the report does to the disk's record.
    fn report(&self, disk: &mut Disk, commit: &Commit, latch: &Latch) -> Result<(Own, String), Refusal> {
        let boot = latch.boot();
        let report = match &commit.result {
            CommitResult::Formatted { header, .. } => Report::Formatted(header.0),
            CommitResult::Opened { header, .. } => Report::Opened(header.0),
            CommitResult::Failed { code } => {
                if ALARMS.contains(&code.as_str()) {
                    let record = record::commit(&disk.record(), &latch.node, &boot, Report::Alarm)
                        .map_err(|refusal| Refusal::new(refusal, format!("disk {}", disk.id)))?;
                    disk.take(&record);
                }
                // Only what a code can be goes into the log.
                let shown: String = code.chars().filter(|c| c.is_ascii_uppercase() || *c == '_').take(64).collect();
                return Ok((
                    Own::NodeFailed,
                    format!("the node's code is {shown}; disk {} is {}", disk.id, disk.state),
                ));
            }
        };
        if commit.generation != disk.generation + 1 {
            let found = format!("the disk says {}, {} is expected", commit.generation, disk.generation + 1);
            return Err(Refusal::new(Own::GenerationAhead, found));
        }
        let record = record::commit(&disk.record(), &latch.node, &boot, report)
            .map_err(|refusal| Refusal::new(refusal, format!("disk {}", disk.id)))?;
        disk.take(&record);
        let stages: Vec<String> =
            commit.stages.iter().take(16).map(|(name, time)| format!("{} {time} ms", clean(name))).collect();
        Ok((
            Own::Committed,
            format!("disk {} is {}, generation {}; {}", disk.id, disk.state, disk.generation, stages.join(", ")),
        ))
    }
}

fn clean(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_lowercase() || *c == '-').take(32).collect()
}

/// The acknowledgement of an earlier report, for the report with this digest. The audit log does not grow.
fn acknowledged_again(open: &Open, ack: &str, digest: [u8; 32]) -> Result<Vec<u8>, attest::Refusal> {
    // It is from the broker's own database; another broker of the cluster may have signed it.
    let (ack, _): (Ack, _) = message::read(&Envelope::parse(ack.as_bytes())?.unverified_payload()?)?;
    Ok(message::sign(&Ack { commit: Bytes32(digest), ..ack }, "broker", &open.keys.message)?.bytes)
}

/// The second quote: of the same key and the same boot. With it comes the digest of what it covers.
fn show(commit: &Commit, latch: &Latch) -> Result<(Quoted, Bytes32), Refusal> {
    if commit.release != latch.release {
        return Err(Refusal::new(Own::State, "the report is on another release"));
    }
    let key = AttestationKey::parse(&latch.ak.0)?;
    let (header_digest, volume) = match &commit.result {
        CommitResult::Formatted { header, volume } | CommitResult::Opened { header, volume } => {
            (&header.0[..], &volume.0[..])
        }
        CommitResult::Failed { .. } => (&[][..], &[][..]),
    };
    let commitment = Commitment { release: &latch.release.0, header_digest, volume, generation: commit.generation };
    let registers = (0..).zip(commit.registers.iter().map(|value| value.0.clone())).take(256).collect();
    let evidence = tpm::Evidence { attest: &commit.quote.0, signature: &commit.signature.0, registers: &registers };
    let extra_data = commitment.extra_data();
    let quoted = tpm::check(&evidence, &key, latch.bank, &extra_data)?;
    if (quoted.boot.reset, quoted.boot.restart) != (latch.reset, latch.restart) {
        return Err(Refusal::new(Own::State, "the report is of another boot"));
    }
    let values: Vec<u8> = quoted.registers.values().flatten().copied().collect();
    let covered = Bytes32(sha256(&[&extra_data[..], &values].concat()));
    Ok((quoted, covered))
}
