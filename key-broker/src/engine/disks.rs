//! The record of a disk in the moment of a release: what the rules make of it, and whether it may be made.

use attest::message::{DiskState, Purpose};
use state_disk::layout::Profile;
use state_disk::record::{Answer, Refusal as DiskRefusal, Request, answer};

use super::evidence::Decided;
use super::records::{Disk, Grant, get};
use super::{Conversation, Engine};
use crate::code::{Own, Refusal};
use crate::store::{Error, Table, Transaction};

impl Engine {
    /// The disk's record after this release, or why there is none.
    pub(super) fn disk(
        &self,
        transaction: &mut dyn Transaction,
        begun: &Conversation,
        node: &str,
        slot: &str,
        boot: &Vec<u8>,
    ) -> Result<Result<Disk, Decided>, Error> {
        let refused = |refusal: DiskRefusal, found: String| Ok(Err(Decided::Refused(Refusal::new(refusal, found))));
        let kept: Option<Disk> = get(transaction, Table::Disks, &Disk::key(node, slot))?;
        if let DiskState::Luks { uuid, digest } = &begun.hello.disk {
            let owner = transaction.get(Table::DiskIds, uuid.as_bytes())?;
            if owner.is_some_and(|owner| owner != Disk::key(node, slot)) {
                return refused(DiskRefusal::DiskNodeMismatch, format!("disk {uuid}"));
            }
            let is_kept = kept.as_ref().is_some_and(|disk| disk.id == *uuid);
            if begun.hello.purpose == Purpose::Unlock && !is_kept {
                return refused(DiskRefusal::NoDisk, format!("node {node} has no disk {uuid}"));
            }
            let known = kept
                .as_ref()
                .is_some_and(|disk| disk.header.iter().chain(&disk.next_header).any(|known| known == digest));
            if begun.hello.purpose == Purpose::Unlock
                && !known
                && kept.as_ref().is_some_and(|disk| disk.state == "active")
            {
                return refused(
                    DiskRefusal::HeaderDigest,
                    format!("disk {uuid} has a header with the digest {}", hex::encode(digest.0)),
                );
            }
        } else if begun.hello.purpose == Purpose::Unlock {
            return refused(DiskRefusal::NoDisk, "the node's disk has no header".into());
        }
        let request = match begun.hello.purpose {
            Purpose::Provision => Request::Provision,
            Purpose::Unlock => Request::Unlock,
        };
        let record = kept.as_ref().map(Disk::record);
        match answer(record.as_ref(), node, boot, request, true) {
            Answer::Refuse(DiskRefusal::Hold) => {
                Ok(Err(Decided::Held(Refusal::new(DiskRefusal::Hold, format!("slot {slot} of node {node}")))))
            }
            Answer::Refuse(refusal) => refused(refusal, format!("slot {slot} of node {node}")),
            // A boot that is latched has been refused before.
            Answer::Resend => {
                Ok(Err(Decided::Refused(Refusal::new(Own::BootLatched, "this boot was given its release"))))
            }
            Answer::Release(record) => {
                if request == Request::Provision && !self.may_be_made(transaction, begun, kept.as_ref(), node, slot)? {
                    return Ok(Err(Decided::Held(Refusal::new(
                        Own::DiskForeign,
                        format!("slot {slot} of node {node}"),
                    ))));
                }
                if request == Request::Unlock
                    && kept.as_ref().is_some_and(|disk| disk.unreported >= self.settings.unreported_boots)
                {
                    let found = format!("{} boots in a row did not report", self.settings.unreported_boots);
                    return Ok(Err(Decided::Held(Refusal::new(Own::CommitMissing, found))));
                }
                let mut disk = match kept {
                    Some(disk) => disk,
                    None => Disk::new(node, slot, self.cluster.slots[0].profile()).map_err(Error::Work)?,
                };
                disk.take(&record);
                if request == Request::Unlock {
                    disk.unreported += 1;
                }
                Ok(Ok(disk))
            }
        }
    }

    /// A blank disk may be made; one that holds something only if it is the one that was begun, or an operator has granted it.
    fn may_be_made(
        &self,
        transaction: &dyn Transaction,
        begun: &Conversation,
        kept: Option<&Disk>,
        node: &str,
        slot: &str,
    ) -> Result<bool, Error> {
        let granted = get::<Grant>(transaction, Table::Grants, &Disk::key(node, slot))?.unwrap_or_default().overwrite;
        Ok(granted
            || match &begun.hello.disk {
                DiskState::Blank => true,
                DiskState::Foreign => false,
                DiskState::Luks { uuid, .. } => kept.is_some_and(|disk| disk.id == *uuid),
            })
    }

    /// A grant is used once.
    pub(super) fn take_grant(&self, transaction: &mut dyn Transaction, node: &str, slot: &str) -> Result<Grant, Error> {
        let key = Disk::key(node, slot);
        let grant = get::<Grant>(transaction, Table::Grants, &key)?.unwrap_or_default();
        transaction.remove(Table::Grants, &key)?;
        Ok(grant)
    }
}

impl Disk {
    /// A record of a disk that is not there yet.
    pub(super) fn new(node: &str, slot: &str, profile: Profile) -> Result<Self, String> {
        let mut bytes = [0; 16];
        let random = ring::rand::SystemRandom::new();
        ring::rand::SecureRandom::fill(&random, &mut bytes)
            .map_err(|_| "the kernel gives no random bytes".to_owned())?;
        Ok(Self {
            schema: Self::SCHEMA,
            id: uuid::Builder::from_random_bytes(bytes).into_uuid().to_string(),
            node: node.to_owned(),
            slot: slot.to_owned(),
            state: "pending".into(),
            pending: None,
            generation: 0,
            header: None,
            next_header: None,
            released: None,
            committed: false,
            receipt: None,
            unreported: 0,
            layout: profile.name().into(),
            epoch: 0,
            share: None,
            recovery: None,
        })
    }
}
