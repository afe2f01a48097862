//! M3 and M4: evidence is verified, cheap checks first, each with its code; then one transaction spends the session, latches the boot, changes the disk's record, writes the audit log and keeps the reply.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::Instant;

use attest::binding::{Binding, Transcript, activation};
use attest::bytes::{Bytes32, Hex};
use attest::cluster::Assurance;
use attest::hpke::{Context, seal};
use attest::message::{self, DiskGrant, DiskState, Evidence, Purpose, Release};
use attest::tpm::{self, AttestationKey, Quoted};
use attest::{Code as EvidenceCode, Refusal as Refused};
use measurements::canonical::Document;
use measurements::parse::tcg_log::Log;
use measurements::text::cause_of;
use state_disk::record::Refusal as DiskRefusal;

use super::audit::{self, KeptHead, Leaf};
use super::hello::sha256;
use super::latch::latched;
use super::outcome::Stop;
use super::policy::Matched;
use super::records::{Disk, Latch, Node, boot_of, get, put};
use super::refusals::Client;
use super::standing::Standing;
use super::{Answer, Conversation, Engine, Open, Reply};
use crate::code::{Own, Refusal};
use crate::fault;
use crate::store::{Error, Table, Transaction};

/// A machine that has proved which TPM it has: its quote is of this conversation.
struct Authentic {
    node: Node,
    /// The attestation key was activated now.
    activated: bool,
    quoted: Quoted,
    transcript: Transcript,
}

/// What evidence was found to show.
struct Shown {
    node: Node,
    /// The attestation key was activated now.
    activated: bool,
    quoted: Quoted,
    matched: Matched,
    assurance: Assurance,
    /// Of a logged release.
    standing: Option<Standing>,
    transcript: Transcript,
}

/// How a transaction ended.
pub(super) enum Decided {
    Released(Vec<u8>),
    Refused(Refusal),
    Held(Refusal),
    /// Not at all.
    Ended,
}

impl Engine {
    /// Answers evidence.
    pub fn evidence(
        &self,
        conversation: &mut Option<Conversation>,
        address: IpAddr,
        now: Instant,
        body: &[u8],
    ) -> Answer {
        let Some(open) = self.keys() else { return Reply::sealed().into() };
        let Some(begun) = conversation.take() else { return self.no_session(address) };
        if now >= begun.until {
            return self.ended();
        }
        let evidence: Evidence = match self.verifiers.run(|| message::read(body)) {
            Ok((evidence, _)) => evidence,
            Err(refusal) => return self.refuse(Client::Stranger(address), &refusal.into()),
        };
        if begun.session != evidence.session.0[..] {
            return self.no_session(address);
        }
        // Until its quote has been verified, nobody has shown to be this node: an endorsement key is public.
        let authentic = match self.authenticate(&begun, &evidence) {
            Ok(authentic) => authentic,
            Err(stop) => return self.stopped(Client::Stranger(address), &stop),
        };
        let name = authentic.node.name.clone();
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).prove(begun.address, authentic.node.ek.0);
        let decided = self.note_cleared(&authentic.node.name, &begun, &authentic.quoted.boot).and_then(|()| {
            let shown = self.appraise(authentic, &begun, &evidence)?;
            fault::point("after-verify");
            self.decide(&open, &begun, &shown)
        });
        match decided {
            Ok(reply) => {
                fault::point("after-transaction");
                self.count(Own::Released.into());
                Reply { status: 200, body: reply, retry_after: None }.into()
            }
            Err(stop) => self.with_event_log(&name, &evidence.event_log, self.stopped(Client::Node(&name), &stop)),
        }
    }

    /// The answer to evidence that no hello of its connection came before: it is given without reading the evidence.
    pub fn no_session(&self, address: IpAddr) -> Answer {
        if self.is_sealed() {
            return Reply::sealed().into();
        }
        let found = "the session is not of this connection, or was answered before";
        self.refuse(Client::Stranger(address), &Refusal::new(Own::SessionInvalid, found))
    }

    /// Which enrolled machine this is: by its endorsement key, the activation of its attestation key, and a quote of this conversation.
    fn authenticate(&self, begun: &Conversation, evidence: &Evidence) -> Result<Authentic, Stop> {
        let ek = sha256(&begun.hello.ek.0);
        let untrusted = || Refusal::new(Own::EkUntrusted, format!("ek sha256:{}", hex::encode(ek)));
        let node = self.node_of(&ek)?.ok_or_else(untrusted)?;
        // The index named it; its record decides.
        if node.ek.0 != ek {
            return Err(untrusted().into());
        }
        if node.retired {
            return Err(Refusal::new(Own::NodeRetired, format!("a machine with the key of node {}", node.name)).into());
        }
        let transcript = Transcript::new(&begun.hello_digest, &begun.challenge_digest, &begun.exporter);
        let key = AttestationKey::parse(&begun.hello.ak.0)?;
        if let Some(secret) = &begun.secret {
            let expected = activation(&secret[..], &transcript);
            if evidence.activation.map(|proof| proof.0) != Some(expected) {
                return Err(Refusal::new(Own::ActivationFailed, "the credential was not activated").into());
            }
        }
        let (disk_id, header_digest) = match (begun.hello.purpose, &begun.hello.disk) {
            (Purpose::Unlock, DiskState::Luks { uuid, digest }) => (uuid.as_bytes(), &digest.0[..]),
            _ => (&[][..], &[][..]),
        };
        let ak_name = key.name();
        let binding = Binding {
            transcript,
            hpke_key: &begun.hello.hpke_key.0,
            ak_name: ak_name.as_bytes(),
            purpose: begun.hello.purpose.into(),
            disk_id,
            header_digest,
        };
        let registers = (0..).zip(evidence.registers.iter().map(|value| value.0.clone())).take(256).collect();
        let quote =
            tpm::Evidence { attest: &evidence.quote.0, signature: &evidence.signature.0, registers: &registers };
        let quoted = self.verifiers.run(|| tpm::check(&quote, &key, begun.bank, &binding.extra_data()))?;
        Ok(Authentic { node, activated: begun.secret.is_some(), quoted, transcript })
    }

    /// What the machine runs, and what that is worth.
    fn appraise(&self, authentic: Authentic, begun: &Conversation, evidence: &Evidence) -> Result<Shown, Stop> {
        let Authentic { node, activated, quoted, transcript } = authentic;
        let log = self.verifiers.run(|| Log::parse(&evidence.event_log.0)).map_err(|error| {
            Refused::new(EvidenceCode::LogReplay, format!("the firmware's log: {}", cause_of(&error)))
        })?;
        let matched = self.matched(&node, &quoted, &log, evidence.release)?;
        let standing = match &matched.release.bundle {
            Some(bundle) => Some(self.standing(bundle, &matched.release.rebuilds, &node, begun.hello.purpose)?),
            None => None,
        };
        let assurance = if matched.release.unsigned { Assurance::Development } else { Assurance::TpmVirtual };
        if assurance < self.cluster.assurance {
            let found = format!("the evidence is worth {assurance}, cluster.json asks for {}", self.cluster.assurance);
            return Err(Refusal::new(Own::AssuranceTooLow, found).into());
        }
        Ok(Shown { node, activated, quoted, matched, assurance, standing, transcript })
    }

    /// Everything that is written happens here, or nothing of it.
    fn decide(&self, open: &Open, begun: &Conversation, shown: &Shown) -> Result<Vec<u8>, Stop> {
        let mut decided = None;
        let written = self.store.transact(&mut |transaction| {
            let outcome = self.release(transaction, open, begun, shown)?;
            let undone = !matches!(outcome, Decided::Released(_));
            decided = Some(outcome);
            // What is not released leaves no trace here: its row in the audit log follows.
            if undone { Err(Error::Work(String::new())) } else { Ok(()) }
        });
        match (written, decided) {
            (Ok(()), Some(Decided::Released(reply))) => Ok(reply),
            (Err(Error::Work(_)), Some(Decided::Refused(refusal))) => Err(Stop::Refused(refusal)),
            (Err(Error::Work(_)), Some(Decided::Held(refusal))) => Err(Stop::Held(refusal)),
            (Err(Error::Work(_)), Some(Decided::Ended)) => Err(Stop::Ended),
            (Err(error), _) => Err(error.into()),
            (Ok(()), _) => Err(Stop::Unavailable("nothing was decided".into())),
        }
    }

    fn release(
        &self,
        transaction: &mut dyn Transaction,
        open: &Open,
        begun: &Conversation,
        shown: &Shown,
    ) -> Result<Decided, Error> {
        let boot = boot_of(&shown.node.ek, shown.quoted.boot.reset, shown.quoted.boot.restart);
        let slot = &self.cluster.slots[0].name;
        let name = &shown.node.name;
        let mut node = match self.still(transaction, begun, shown)? {
            Ok(node) => node,
            Err(decided) => return Ok(decided),
        };
        if begun.hello.slot != *slot {
            return Ok(Decided::Refused(Refusal::new(
                DiskRefusal::NoDisk,
                format!("there is no slot {:?}", begun.hello.slot),
            )));
        }
        if !transaction.insert(Table::Spent, &begun.session, name.as_bytes())? {
            return Ok(Decided::Refused(Refusal::new(Own::NonceSpent, "the session was answered before")));
        }
        let last: Option<Latch> = get(transaction, Table::Latches, name.as_bytes())?;
        if let Some(decided) = latched(last.as_ref(), begun, &shown.quoted.boot) {
            return Ok(decided);
        }
        if let Some(latch) = last {
            transaction.remove(Table::Spent, &latch.session.0)?;
        }
        let mut disk = match self.disk(transaction, begun, name, slot, &boot)? {
            Ok(disk) => disk,
            Err(decided) => return Ok(decided),
        };
        let work = |refusal: &dyn std::fmt::Display| Error::Work(format!("making a release: {refusal}"));
        let failed = |stop: Stop| Error::Work(format!("making a release: {stop}"));
        let share = self.share(open, &mut disk, &shown.node.ek).map_err(failed)?;
        let request = hex::encode(&self.random::<16>().map_err(failed)?[..]);
        let leaf = Leaf {
            number: 0,
            time: self.now(),
            request: request.clone(),
            node: name.clone(),
            code: crate::code::Code::from(Own::Released).name().to_owned(),
            found: format!(
                "{} disk {} ({}), {} {}, assurance {}{}",
                match begun.hello.purpose {
                    Purpose::Provision => "to make",
                    Purpose::Unlock => "to unlock",
                },
                disk.id,
                disk.slot,
                shown.matched.release.name,
                hex::encode(&shown.matched.id[..4]),
                shown.assurance,
                if shown.standing.is_some_and(|standing| standing.stale) { ", CHANNEL STATE EXPIRED" } else { "" }
            ),
        };
        let receipt = audit::append(transaction, leaf, &self.signer(open))?;
        disk.receipt = Some(KeptHead { size: receipt.size, root: receipt.root });
        let context = Context::Release(shown.transcript.as_bytes());
        let random = self.random::<32>().map_err(failed)?;
        let sealed = seal(&share[..], &begun.hello.hpke_key.0, context, &random).map_err(|refusal| work(&refusal))?;
        let release = Release {
            assurance: shown.assurance.name().into(),
            commit_within: u32::try_from(self.settings.commit.as_secs()).unwrap_or(u32::MAX),
            disk: DiskGrant {
                generation: disk.generation,
                headers: disk.header.into_iter().chain(disk.next_header).collect(),
                id: disk.id.clone(),
                overwrite: self.take_grant(transaction, name, slot)?.overwrite,
                recovery: (begun.hello.purpose == Purpose::Provision).then(|| disk.recovery.clone()).flatten(),
                slot: slot.clone(),
            },
            receipt,
            request: request.clone(),
            schema: Release::SCHEMA.into(),
            share: sealed,
            transcript: Bytes32(*shown.transcript.as_bytes()),
        };
        let sent = message::sign(&release, "broker", &open.keys.message).map_err(|refusal| work(&refusal))?;
        let latch = Latch {
            ek: shown.node.ek,
            reset: shown.quoted.boot.reset,
            restart: shown.quoted.boot.restart,
            cleared: None,
            approved: false,
            session: Hex(begun.session.to_vec()),
            request,
            node: name.clone(),
            slot: slot.clone(),
            purpose: begun.hello.purpose,
            assurance: shown.assurance.name().into(),
            bank: shown.quoted.bank,
            epoch: shown.standing.map(|standing| standing.epoch),
            ak: begun.hello.ak.clone(),
            registers: shown.quoted.registers.iter().map(|(number, value)| (*number, Hex(value.clone()))).collect(),
            release: Bytes32(sent.digest),
            reply: String::from_utf8_lossy(&sent.bytes).into_owned(),
            deadline: self.begin_deadline(name, &begun.session),
            acknowledged: None,
            covered: None,
            refused: None,
        };
        put(transaction, Table::Latches, name.as_bytes(), &latch)?;
        put(transaction, Table::Disks, &Disk::key(name, slot), &disk)?;
        // A disk that is opened is named already: its page is not written again.
        let (id, key) = (disk.id.as_bytes(), Disk::key(name, slot));
        if transaction.get(Table::DiskIds, id)?.as_ref() != Some(&key) {
            transaction.put(Table::DiskIds, id, &key)?;
        }
        if shown.activated {
            node.ak = Some(begun.hello.ak.clone());
        }
        // A node that was given a share for a release never gets one for a lower epoch again, whether it reports or not.
        node.epoch = node.epoch.max(latch.epoch);
        node.waiting = None;
        node.release = Some(shown.matched.release.name.clone());
        node.seen = Some(self.now());
        put(transaction, Table::Nodes, name.as_bytes(), &node)?;
        fault::point("after-insert");
        Ok(Decided::Released(sent.bytes))
    }

    /// The node's record as it is now: an operator may have changed it, or revoked the release, while the evidence was verified.
    fn still(
        &self,
        transaction: &dyn Transaction,
        begun: &Conversation,
        shown: &Shown,
    ) -> Result<Result<Node, Decided>, Error> {
        let refused = |code: Own, found: String| Ok(Err(Decided::Refused(Refusal::new(code, found))));
        let name = &shown.node.name;
        let node: Option<Node> = get(transaction, Table::Nodes, name.as_bytes())?;
        let is_key = |node: &Node| node.ek.0 == sha256(&begun.hello.ek.0);
        let is_same = |node: &Node| (node.machine, node.bank) == (shown.node.machine, shown.node.bank);
        let Some(node) = node.filter(|node| is_key(node) && is_same(node)) else {
            return refused(Own::EkUntrusted, format!("node {name} was enrolled anew meanwhile"));
        };
        if node.retired {
            return refused(Own::NodeRetired, format!("node {name}"));
        }
        // A disk of a node with a higher epoch may have been moved here.
        if let Some(Err(refusal)) = shown.standing.map(|standing| standing.follows(&node)) {
            return Ok(Err(Decided::Refused(refusal)));
        }
        if node.held {
            return Ok(Err(Decided::Held(Refusal::new(Own::NodeHeld, format!("node {name}")))));
        }
        let has_other_key = node.ak.as_ref().is_some_and(|known| *known != begun.hello.ak);
        if shown.activated && has_other_key {
            return Ok(Err(Decided::Held(Refusal::new(Own::AkChanged, format!("node {name}")))));
        }
        if transaction.get(Table::Releases, &shown.matched.id)?.is_none() {
            return refused(Own::NoReleaseAllowed, format!("{} was revoked meanwhile", shown.matched.release.name));
        }
        Ok(Ok(node))
    }
}
