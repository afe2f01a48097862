//! What operators grant for a disk: that it is overwritten, that it moves to the machine that replaces its node's, that it leaves quarantine, and another generation.

use super::admin::Done;
use super::latch::destroy_reply;
use super::records::{Disk, Grant, Node, get, put};
use super::{Engine, Open};
use crate::store::{Error, Table, Transaction};

/// Limit of a generation that an operator sets. Messages carry generations as integers of canonical JSON, which end at 2^53 - 1, and each boot takes the next one.
pub(super) const GENERATION_LIMIT: u64 = 1 << 52;

/// A grant, as it is asked for.
pub(super) struct Granted<'a> {
    pub node: &'a str,
    pub slot: &'a str,
    pub overwrite: bool,
    /// The node that the disk belonged to.
    pub from: Option<&'a str>,
    pub generation: Option<u64>,
}

/// Forgets what was granted for the disks of a node: its next machine has others.
pub(super) fn forget_grants(transaction: &mut dyn Transaction, node: &str) -> Result<(), Error> {
    let prefix = Disk::key(node, "");
    let grants = transaction.last(Table::Grants, usize::MAX)?;
    for (key, _) in grants.iter().filter(|(key, _)| key.starts_with(&prefix)) {
        transaction.remove(Table::Grants, key)?;
    }
    Ok(())
}

impl Engine {
    pub(super) fn disk_grant(
        &self,
        transaction: &mut dyn Transaction,
        open: &Open,
        granted: &Granted<'_>,
    ) -> Result<Done, Error> {
        let Granted { node, slot, overwrite, from, generation } = *granted;
        if get::<Node>(transaction, Table::Nodes, node.as_bytes())?.is_none() {
            return Ok(Err(format!("there is no node {node:?}: key-broker node list")));
        }
        if let Some(generation) = generation.filter(|generation| *generation >= GENERATION_LIMIT) {
            return Ok(Err(format!(
                "cannot grant generation {generation}: expected a number below 2^52; the last console line of the node names the generation of its disk"
            )));
        }
        let (key, mut what) = (Disk::key(node, slot), Vec::new());
        if let Some(from) = from {
            match self.rebind(transaction, open, slot, (from, node))? {
                Ok(done) => what.push(done),
                Err(problem) => return Ok(Err(problem)),
            }
        }
        let disk: Option<Disk> = get(transaction, Table::Disks, &key)?;
        match (overwrite, disk) {
            (true, disk) => {
                if let Some(disk) = disk {
                    transaction.remove(Table::Disks, &key)?;
                    transaction.remove(Table::DiskIds, disk.id.as_bytes())?;
                    what.push(format!("disk {} forgotten, its share destroyed", disk.id));
                }
                destroy_reply(transaction, node)?;
                put(transaction, Table::Grants, &key, &Grant { overwrite: true })?;
                what.push("the next disk may be overwritten".into());
            }
            (false, Some(mut disk)) => {
                if let Some(generation) = generation {
                    what.push(format!("generation {} is now {generation}", disk.generation));
                    disk.generation = generation;
                }
                if disk.state == "quarantine" {
                    // One that was never committed has no header yet: it is made again.
                    disk.state = if disk.header.is_some() { "active" } else { "pending" }.into();
                    what.push("out of quarantine".into());
                }
                put(transaction, Table::Disks, &key, &disk)?;
            }
            (false, None) => {}
        }
        if what.is_empty() {
            return Ok(Err("nothing is to be granted: name --overwrite, --rebind-from or --generation".into()));
        }
        Ok(Ok((node.to_owned(), format!("slot {slot}: {}", what.join("; ")))))
    }

    /// Moves a disk to the machine that replaces its node's. The share is wrapped for that machine's TPM, and the machine gets it for no release of a lower security epoch than the old one had run.
    fn rebind(
        &self,
        transaction: &mut dyn Transaction,
        open: &Open,
        slot: &str,
        (from, to): (&str, &str),
    ) -> Result<Result<String, String>, Error> {
        let (old, key) = (Disk::key(from, slot), Disk::key(to, slot));
        let owner: Option<Node> = get(transaction, Table::Nodes, from.as_bytes())?;
        let disk: Option<Disk> = get(transaction, Table::Disks, &old)?;
        let (Some(owner), Some(mut disk)) = (owner, disk) else {
            return Ok(Err(format!("node {from:?} has no disk in slot {slot:?}: key-broker disk list")));
        };
        let Some(mut node) = get::<Node>(transaction, Table::Nodes, to.as_bytes())? else {
            return Ok(Err(format!("there is no node {to:?}: key-broker node list")));
        };
        if node.retired {
            return Ok(Err(format!(
                "node {to:?} is retired and gets no disk: enrol its machine again first, with key-broker node enrol"
            )));
        }
        if get::<Disk>(transaction, Table::Disks, &key)?.is_some() {
            return Ok(Err(format!("node {to:?} has a disk in slot {slot:?} already")));
        }
        if let Err(stop) = self.hand_over(open, &mut disk, &owner.ek, &node.ek) {
            return Ok(Err(stop.to_string()));
        }
        disk.node = to.to_owned();
        // The new machine's boots are others: nothing of the old one's last boot counts.
        (disk.released, disk.committed) = (None, false);
        destroy_reply(transaction, from)?;
        // What was granted before was for other disks.
        transaction.remove(Table::Grants, &old)?;
        transaction.remove(Table::Grants, &key)?;
        transaction.remove(Table::Disks, &old)?;
        transaction.put(Table::DiskIds, disk.id.as_bytes(), &key)?;
        put(transaction, Table::Disks, &key, &disk)?;
        node.epoch = node.epoch.max(owner.epoch);
        put(transaction, Table::Nodes, to.as_bytes(), &node)?;
        Ok(Ok(format!("disk {} moved here from {from}", disk.id)))
    }
}
