//! What operators decide about nodes: approval of what a node is held for, and its retirement.

use super::admin::Done;
use super::grant::forget_grants;
use super::latch::{approve_counts, destroy_reply};
use super::records::{self, Disk, Node, get, put};
use crate::code::{Code, Own};
use crate::store::{Error, Table, Transaction};

fn unknown(name: &str) -> String {
    format!("there is no node {name:?}: key-broker node list")
}

/// Approves the reason that the node is held for, which the audit log names, and no other: a reason that comes later is a new hold. With a code, it approves nothing if the node is held for another reason.
pub(super) fn node_approve(transaction: &mut dyn Transaction, name: &str, code: Option<&str>) -> Result<Done, Error> {
    let Some(mut node) = get::<Node>(transaction, Table::Nodes, name.as_bytes())? else {
        return Ok(Err(unknown(name)));
    };
    // A node that was enrolled with --hold may not have booted yet.
    let held = node.held.then(|| Code::from(Own::NodeHeld).name());
    let waiting = node.waiting.as_ref().map(|waiting| waiting.code.as_str()).or(held);
    if let Some(code) = code.filter(|code| Some(*code) != waiting) {
        return Ok(Err(format!(
            "cannot approve {code} of node {name}: the node waits for {}\nhint: key-broker node show {name}",
            waiting.unwrap_or("nothing")
        )));
    }
    node.held = false;
    let reason = node.waiting.take().and_then(|waiting| Code::named(&waiting.code));
    match reason {
        Some(Code::Own(Own::AkChanged)) => node.ak = None,
        Some(Code::Own(Own::TpmCleared)) => {
            approve_counts(transaction, name)?;
            // A later boot may have the counts of the last release.
            change_disks(transaction, name, |disk| (disk.released, disk.committed) = (None, false))?;
        }
        Some(Code::Own(Own::CommitMissing)) => change_disks(transaction, name, |disk| disk.unreported = 0)?,
        _ => {}
    }
    put(transaction, Table::Nodes, name.as_bytes(), &node)?;
    let reason = reason.map(|code| format!(": {}", code.name())).unwrap_or_default();
    Ok(Ok((name.to_owned(), format!("approved{reason}"))))
}

/// Changes each disk of a node.
fn change_disks(transaction: &mut dyn Transaction, name: &str, mut change: impl FnMut(&mut Disk)) -> Result<(), Error> {
    for (key, mut disk) in records::all::<Disk>(transaction, Table::Disks)? {
        if disk.node == name {
            change(&mut disk);
            put(transaction, Table::Disks, &key, &disk)?;
        }
    }
    Ok(())
}

/// The node's disks cannot be opened any more: their shares are destroyed, also in the reply that is stored for its last boot.
pub(super) fn node_retire(transaction: &mut dyn Transaction, name: &str) -> Result<Done, Error> {
    let Some(mut node) = get::<Node>(transaction, Table::Nodes, name.as_bytes())? else {
        return Ok(Err(unknown(name)));
    };
    let mut destroyed = Vec::new();
    change_disks(transaction, name, |disk| {
        disk.state = "retired".into();
        disk.share = None;
        destroyed.push(disk.id.clone());
    })?;
    destroy_reply(transaction, name)?;
    forget_grants(transaction, name)?;
    node.retired = true;
    put(transaction, Table::Nodes, name.as_bytes(), &node)?;
    let destroyed = if destroyed.is_empty() { "none".to_owned() } else { destroyed.join(", ") };
    Ok(Ok((name.to_owned(), format!("retired; shares destroyed: {destroyed}"))))
}
