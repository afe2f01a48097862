//! The last boot of a node that was given a release: its latch. The same boot gets nothing more, and counts of the TPM that have gone back hold every later boot until an operator approves it. The reply is stored with the latch, and is
//! sent again to who has the session; it is destroyed when an operator takes the share away.

use std::net::IpAddr;

use attest::bytes::Hex;
use attest::message::{self, Resume};
use attest::tpm::BootId;

use super::evidence::Decided;
use super::outcome::Stop;
use super::records::{Latch, Node, get, put};
use super::refusals::Client;
use super::{Answer, Conversation, Engine, Reply};
use crate::code::{Own, Refusal};
use crate::store::{Error, Table, Transaction};

const fn counts(boot: &BootId) -> (u32, u32) {
    (boot.reset, boot.restart)
}

fn cleared(now: (u32, u32), latch: &Latch) -> Refusal {
    let lowest = latch.cleared.map_or(now, |lowest| lowest.min(now));
    let found = format!(
        "a boot with {} resets and {} restarts, after one with {} and {}",
        lowest.0, lowest.1, latch.reset, latch.restart
    );
    Refusal::new(Own::TpmCleared, found)
}

/// Why a boot of the node with this latch gets nothing.
pub(super) fn latched(latch: Option<&Latch>, begun: &Conversation, boot: &BootId) -> Option<Decided> {
    let now = counts(boot);
    if let Some(latch) = latch.filter(|latch| latch.cleared.is_some()) {
        return Some(Decided::Held(cleared(now, latch)));
    }
    if let Some(latch) = latch.filter(|latch| !latch.approved && now == latch.counts()) {
        let found = format!("this boot was given its release by request {}", latch.request);
        return Some(Decided::Refused(Refusal::new(Own::BootLatched, found)));
    }
    // A release was decided after the challenge: the evidence may be of an earlier boot, and late.
    if latch.map(|latch| &latch.session) != begun.last.as_ref() {
        return Some(Decided::Ended);
    }
    latch.filter(|latch| now < latch.counts()).map(|latch| Decided::Held(cleared(now, latch)))
}

impl Engine {
    /// The latch of a node.
    pub(super) fn latch_of(&self, name: &str) -> Result<Option<Latch>, Error> {
        let mut latch = None;
        self.store.look(&mut |transaction| {
            latch = get(transaction, Table::Latches, name.as_bytes())?;
            Ok(())
        })?;
        Ok(latch)
    }

    /// Keeps that counts have gone back since the node's last release, whatever else is found of this boot: a later boot may have passed the counts again. A quote for a challenge from before that release is not newer than it, and
    /// shows nothing.
    pub(super) fn note_cleared(&self, name: &str, begun: &Conversation, boot: &BootId) -> Result<(), Stop> {
        let now = counts(boot);
        let is_news = |latch: &Latch| {
            begun.last.as_ref() == Some(&latch.session) && now < latch.cleared.unwrap_or_else(|| latch.counts())
        };
        if !self.latch_of(name)?.is_some_and(|latch| is_news(&latch)) {
            return Ok(());
        }
        self.store.transact(&mut |transaction| {
            let latch: Option<Latch> = get(transaction, Table::Latches, name.as_bytes())?;
            let Some(mut latch) = latch.filter(is_news) else { return Ok(()) };
            latch.cleared = Some(now);
            put(transaction, Table::Latches, name.as_bytes(), &latch)
        })?;
        Ok(())
    }

    /// Sends the stored reply of a session again, byte for byte. While its node is held, waits after a TPM was cleared, or is retired, there is none.
    pub fn resume(&self, address: IpAddr, body: &[u8]) -> Answer {
        if self.is_sealed() {
            return Reply::sealed().into();
        }
        let resume: Resume = match message::read(body) {
            Ok((resume, _)) => resume,
            Err(refusal) => return self.refuse(Client::Stranger(address), &refusal.into()),
        };
        let mut reply = None;
        let read = self.store.look(&mut |transaction| {
            let Some(name) = transaction.get(Table::Spent, &resume.session.0)? else { return Ok(()) };
            let node: Option<Node> = get(transaction, Table::Nodes, &name)?;
            if node.is_none_or(|node| node.held || node.retired) {
                return Ok(());
            }
            let latch: Option<Latch> = get(transaction, Table::Latches, &name)?;
            let is_released = |latch: &Latch| latch.cleared.is_none() && !latch.reply.is_empty();
            let latch = latch.filter(|latch| latch.session == resume.session && is_released(latch));
            reply = latch.map(|latch| latch.reply.into_bytes());
            Ok(())
        });
        match (read, reply) {
            (Ok(()), Some(body)) => Reply { status: 200, body, retry_after: None }.into(),
            (Ok(()), None) => self.refuse(
                Client::Stranger(address),
                &Refusal::new(Own::SessionInvalid, "the session has no stored reply"),
            ),
            (Err(error), _) => self.unavailable(&error.to_string()),
        }
    }
}

/// Destroys the stored reply of the node's last boot: this transaction takes its share away. Session and counts stay: the boot has had its share, and its report is judged by the disk's record.
pub(super) fn destroy_reply(transaction: &mut dyn Transaction, name: &str) -> Result<(), Error> {
    // Reply and share.
    transaction.destroys();
    if let Some(mut latch) = get::<Latch>(transaction, Table::Latches, name.as_bytes())? {
        latch.reply.clear();
        put(transaction, Table::Latches, name.as_bytes(), &latch)?;
    }
    Ok(())
}

/// Compares later boots with the one that was held as one of a cleared TPM, and no longer with the last release.
pub(super) fn approve_counts(transaction: &mut dyn Transaction, name: &str) -> Result<(), Error> {
    let latch: Option<Latch> = get(transaction, Table::Latches, name.as_bytes())?;
    let Some(mut latch) = latch else { return Ok(()) };
    let Some(lowest) = latch.cleared.take() else { return Ok(()) };
    transaction.destroys();
    (latch.reset, latch.restart) = lowest;
    latch.approved = true;
    // The boot of the last release is over: evidence that answers a challenge from before this moment may be its own.
    transaction.remove(Table::Spent, &latch.session.0)?;
    (latch.session, latch.reply) = (Hex(Vec::new()), String::new());
    put(transaction, Table::Latches, name.as_bytes(), &latch)
}

/// Forgets the last boot of a node, with its session.
pub(super) fn forget_latch(transaction: &mut dyn Transaction, name: &str) -> Result<(), Error> {
    transaction.destroys();
    if let Some(latch) = get::<Latch>(transaction, Table::Latches, name.as_bytes())? {
        transaction.remove(Table::Spent, &latch.session.0)?;
        transaction.remove(Table::Latches, name.as_bytes())?;
    }
    Ok(())
}
