//! A state disk without a record: it was made after the backup that this broker was restored from, or by a broker that is lost. An operator gives its share, which a recovery key opened, and the statement that a broker of the cluster signed
//! about it. The statement decides which disk it is; the operator names node and generation, which must be the same. A wrong share opens nothing: the node ends with `DISK_KEY_WRONG`.

use std::fmt;

use attest::adoption::Adoption;
use attest::bytes::Bytes32;
use attest::recovery::DiskStatement;
use serde::{Deserialize, Serialize};
use state_disk::id;
use state_disk::layout::Profile;
use zeroize::{Zeroize, Zeroizing};

use super::admin::Done;
use super::grant::GENERATION_LIMIT;
use super::latch::destroy_reply;
use super::outcome::Stop;
use super::records::{Disk, Node, get, put};
use super::share::unwrapped_for;
use super::{Engine, Open};
use crate::store::{Error, Table, Transaction};

/// Bytes of an adoption document, which hold a share: never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// Takes the text of a file.
    pub fn new(text: String) -> Self {
        Self(text)
    }
}

impl Drop for SecretText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SecretText(..)")
    }
}

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adopt {
    /// The node that the disk belongs to.
    pub node: String,
    /// Its slot there.
    pub slot: String,
    /// The newest generation of the disk that the operator knows.
    pub generation: u64,
    /// The record of another disk in the slot is replaced, and its share destroyed.
    pub replace: bool,
    /// The adoption document.
    pub document: SecretText,
}

impl Engine {
    pub(super) fn disk_adopt(
        &self,
        transaction: &mut dyn Transaction,
        open: &Open,
        adopt: &Adopt,
    ) -> Result<Done, Error> {
        let cannot = |cause: String| Ok(Err(format!("cannot adopt a disk for node {:?}: {cause}", adopt.node)));
        let node = match get::<Node>(transaction, Table::Nodes, adopt.node.as_bytes())? {
            Some(node) if !node.retired => node,
            Some(_) => return cannot("the node is retired\nhint: key-broker node enrol with the same name".into()),
            None => return cannot("it is not enrolled\nhint: key-broker node list".into()),
        };
        let (share, statement) = match Adoption::verify(adopt.document.0.as_bytes(), &self.cluster) {
            Ok(verified) => verified,
            Err(refusal) => return cannot(format!("the document: {}", refusal.found)),
        };
        if let Err(cause) = self.check_statement(adopt, &statement) {
            return cannot(cause);
        }
        let key = Disk::key(&adopt.node, &adopt.slot);
        let owner = transaction.get(Table::DiskIds, statement.disk.as_bytes())?;
        if let Some(owner) = owner.filter(|owner| *owner != key) {
            let owner = String::from_utf8_lossy(&owner).into_owned();
            return cannot(format!("disk {} is recorded as {owner}\nhint: key-broker disk list", statement.disk));
        }
        let kept: Option<Disk> = get(transaction, Table::Disks, &key)?;
        let mut what = format!("disk {} adopted at generation {}", statement.disk, statement.generation);
        match kept {
            Some(kept) if kept.id == statement.disk => {
                if let Err(cause) = check_record(open, &kept, &node, &statement, &share) {
                    return cannot(cause);
                }
                what += &format!("; its record was {}, generation {}", kept.state, kept.generation);
            }
            Some(kept) if !adopt.replace => {
                return cannot(format!(
                    "slot {} has disk {}\nhint: with --replace its record and its share are destroyed",
                    adopt.slot, kept.id
                ));
            }
            Some(kept) => {
                transaction.remove(Table::DiskIds, kept.id.as_bytes())?;
                destroy_reply(transaction, &adopt.node)?;
                what += &format!("; disk {} forgotten, its share destroyed", kept.id);
            }
            None => {}
        }
        let disk = match self.adopted(open, &statement, &share, &node.ek) {
            Ok(disk) => disk,
            Err(stop) => return cannot(stop.to_string()),
        };
        // A grant to overwrite was one for a blank slot.
        transaction.remove(Table::Grants, &key)?;
        transaction.put(Table::DiskIds, disk.id.as_bytes(), &key)?;
        put(transaction, Table::Disks, &key, &disk)?;
        Ok(Ok((
            adopt.node.clone(),
            format!("slot {}: {what}, header sha256:{}", adopt.slot, hex::encode(statement.header.0)),
        )))
    }

    /// The statement is about the disk that the operator means.
    fn check_statement(&self, adopt: &Adopt, statement: &DiskStatement) -> Result<(), String> {
        if statement.node != adopt.node {
            return Err(format!(
                "the disk belongs to node {:?}\nhint: adopt it for that node; for a new machine, key-broker disk grant NAME --rebind-from {} follows",
                statement.node, statement.node
            ));
        }
        if statement.slot != adopt.slot || self.cluster.slots.iter().all(|slot| slot.name != adopt.slot) {
            return Err(format!("the disk belongs to slot {:?}, not {:?}", statement.slot, adopt.slot));
        }
        if statement.generation != adopt.generation {
            return Err(format!(
                "the statement on the disk is of generation {}, expected {}: the disk or your number is older\nhint: compare with the last console line of the node, then name the right number with --generation",
                statement.generation, adopt.generation
            ));
        }
        if !(1..GENERATION_LIMIT).contains(&statement.generation) || id::parse(&statement.disk).is_none() {
            return Err("the statement has an id or a generation that no disk has".into());
        }
        Ok(())
    }

    /// The record of the adopted disk.
    fn adopted(
        &self,
        open: &Open,
        statement: &DiskStatement,
        share: &Zeroizing<[u8; 32]>,
        owner: &Bytes32,
    ) -> Result<Disk, Stop> {
        let profile = self
            .cluster
            .slots
            .iter()
            .find(|slot| slot.name == statement.slot)
            .map_or_else(Profile::default, |slot| slot.profile());
        let failed = |text: String| Stop::Unavailable(text);
        let mut disk = Disk::new(&statement.node, &statement.slot, profile).map_err(failed)?;
        disk.id.clone_from(&statement.disk);
        self.wrap(open, &mut disk, share, owner)?;
        disk.recovery = Some(self.sealed_to_recovery_keys(&disk.id, share)?);
        disk.state = "active".into();
        disk.generation = statement.generation;
        disk.header = Some(statement.header);
        disk.committed = true;
        Ok(disk)
    }
}

/// A record of the same disk is older than the disk, or of the same age, and has the same share.
fn check_record(
    open: &Open,
    kept: &Disk,
    node: &Node,
    statement: &DiskStatement,
    share: &Zeroizing<[u8; 32]>,
) -> Result<(), String> {
    if kept.state == "retired" {
        return Err(format!("disk {} is retired: its share was destroyed on purpose", kept.id));
    }
    if statement.generation < kept.generation {
        return Err(format!(
            "the broker has recorded generation {} of disk {}, the statement is of {}: the disk was put back",
            kept.generation, kept.id, statement.generation
        ));
    }
    match unwrapped_for(open, kept, &node.ek) {
        Ok(known) if known == *share => Ok(()),
        Ok(_) => Err(format!(
            "the document has another share than the record of disk {}\nhint: if the record was adopted from a wrong document: key-broker disk grant {} --overwrite, then adopt the disk again",
            kept.id, kept.node
        )),
        // The record gives nothing as it is.
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests;
