//! What operators look at: nodes, disks, releases, and why a request was decided as it was. Nothing is changed here, and no secret is shown.

use serde_json::{Value, json};

use super::Engine;
use super::admin::Outcome;
use super::audit::{self, Bundles};
use super::records::{self, Disk, Node, get};
use crate::code::{Code, Own};
use crate::store::{Error, Store, Table, Transaction};

pub(super) fn nodes(transaction: &dyn Transaction) -> Result<Value, Error> {
    let nodes = records::all::<Node>(transaction, Table::Nodes)?;
    Ok(nodes.iter().map(|(_, node)| shown(node)).collect())
}

/// What ends the hold of this code: `key-broker node approve`, or a decision about the disk.
fn waiting_for(code: &str) -> &'static str {
    let is_of = |own: Own| Code::from(own).name() == code;
    if [Own::NodeHeld, Own::AkChanged, Own::TpmCleared, Own::CommitMissing].into_iter().any(is_of) {
        "approval"
    } else {
        "disk_grant"
    }
}

fn shown(node: &Node) -> Value {
    let state = match (node.retired, node.held) {
        (true, _) => "retired",
        (_, true) => "held",
        _ => "enrolled",
    };
    json!({
        "node": node.name,
        "state": state,
        "waiting_for": node.waiting.as_ref().filter(|_| !node.retired).map(|waiting| waiting_for(&waiting.code)),
        "waiting": node.waiting.as_ref().map(|waiting| &waiting.code),
        "waiting_request": node.waiting.as_ref().map(|waiting| &waiting.request),
        "machine": node.machine_name,
        "bank": node.bank,
        "ek": hex::encode(node.ek.0),
        "release": node.release,
        "seen": node.seen,
    })
}

pub(super) fn node_show(transaction: &dyn Transaction, name: &str) -> Result<Outcome, Error> {
    let Some(node) = get::<Node>(transaction, Table::Nodes, name.as_bytes())? else {
        return Ok(Err(format!("there is no node {name:?}: key-broker node list")));
    };
    let disks = records::all::<Disk>(transaction, Table::Disks)?;
    let mut value = shown(&node);
    value["disks"] = disks.iter().filter(|(_, disk)| disk.node == name).map(|(_, disk)| disk_shown(disk)).collect();
    Ok(Ok(value))
}

fn disk_shown(disk: &Disk) -> Value {
    json!({
        "node": disk.node,
        "slot": disk.slot,
        "disk": disk.id,
        "state": disk.state,
        "generation": disk.generation,
        "committed": disk.committed,
        "unreported_boots": disk.unreported,
    })
}

pub(super) fn disks(transaction: &dyn Transaction) -> Result<Value, Error> {
    let disks = records::all::<Disk>(transaction, Table::Disks)?;
    Ok(disks.iter().map(|(_, disk)| disk_shown(disk)).collect())
}

/// Disks that are read in one look: hellos are answered between two pages.
const PAGE: usize = 256;

impl Engine {
    /// Predictions that are kept.
    pub fn predictions(&self) -> usize {
        self.compositions.len()
    }

    /// The highest number of boots in a row that got the share of one disk and did not report; none where the database cannot be read.
    pub fn unreported_boots(&self) -> Option<u32> {
        let (mut most, mut last) = (0, None::<Vec<u8>>);
        loop {
            let mut page = Vec::new();
            let read = self.store.look(&mut |transaction| {
                page = transaction.after(Table::Disks, last.as_deref(), PAGE)?;
                Ok(())
            });
            read.ok()?;
            let Some((key, _)) = page.last() else { return Some(most) };
            last = Some(key.clone());
            for (_, disk) in page {
                let disk: Disk = serde_json::from_slice(&disk).ok()?;
                // The share of a retired disk is gone: no report will come.
                most = most.max(if disk.state == "retired" { 0 } else { disk.unreported });
            }
        }
    }
}

pub(super) fn explain(store: &dyn Store, bundles: &Bundles, request: &str) -> Outcome {
    let found = audit::of_request(store, bundles, request).map_err(|problem| problem.to_string())?;
    let Some(leaf) = found else {
        return Err(format!(
            "the audit log has no request {request:?}: it is of another broker, or one of too many refusals of strangers in that minute"
        ));
    };
    let code = Code::named(&leaf.code);
    Ok(json!({
        "request": leaf.request,
        "time": leaf.time,
        "node": leaf.node,
        "code": leaf.code,
        "meaning": code.map_or("", Code::meaning),
        "found": leaf.found,
        "next": code.map_or("", Code::next),
    }))
}
