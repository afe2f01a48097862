//! What a backup takes from the engine, and what a restore proves with it: every row can be read, every share can be unwrapped, and the manifest is signed with the broker's own key.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use attest::bytes::Bytes32;
use attest::message;
use measurements::canonical::Document;
use measurements::document::machine::MachineReference;

use super::audit::{self, Bundles};
use super::records::{self, Disk, Grant, Latch, Node, Release, get};
use super::share::unwrapped_for;
use super::{Engine, Open, row_key};
use crate::backup::manifest::Manifest;
use crate::fault;
use crate::store::{Error, Sqlite, Store, Table, Transaction};

/// Numbers of rows that were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Nodes, retired ones too.
    pub nodes: usize,
    /// Disks with a share.
    pub disks: usize,
}

impl Engine {
    /// Reads every record, and unwraps the share of every disk that has one.
    ///
    /// # Errors
    /// The broker is sealed, or the first record or share that cannot be used.
    pub fn check_rows(&self) -> Result<Rows> {
        let open = self.keys().context("the broker is sealed\nhint: key-broker unseal")?;
        rows_of(&*self.store, &open)
    }

    /// Copies the database to a new file.
    ///
    /// # Errors
    /// [`Error`].
    pub fn copy_database(&self, to: &Path) -> Result<(), Error> {
        self.store.backup(to)
    }

    /// The same of a copy of the database, which has the authentication code of every row: no request waits for it.
    ///
    /// # Errors
    /// The broker is sealed, or the first row without its code, or the first record or share that cannot be used.
    pub fn check_copy(&self, copy: &Path) -> Result<Rows> {
        let open = self.keys().context("the broker is sealed\nhint: key-broker unseal")?;
        let copy = Sqlite::open(copy)?;
        copy.authenticate(row_key(&open.keys)?)?;
        rows_of(&copy, &open)
    }

    /// Compares the audit log with its signed head: all of it, or the head alone where older leaves are missing.
    ///
    /// # Errors
    /// The log was changed.
    pub fn verify_log(&self, has_all_leaves: bool) -> Result<()> {
        if !has_all_leaves {
            return self.verify_head();
        }
        let key = self.audit_public_key().map_err(|problem| anyhow!(problem))?;
        audit::verify(&*self.store, &self.bundles, &self.origin, &key, &[])?;
        Ok(())
    }

    /// The bundles of the audit log beside the database.
    pub fn bundles(&self) -> &Bundles {
        &self.bundles
    }

    /// Leaves in a bundle.
    pub fn bundle_width(&self) -> u64 {
        audit::WIDTH
    }

    /// Number of bundles that hold the leaves which a copy of the database does not have.
    ///
    /// # Errors
    /// The copy cannot be used.
    pub fn bundles_before(&self, copy: &Path) -> Result<u64> {
        Ok(audit::first_in_database(&Sqlite::open(copy)?)?.div_ceil(audit::WIDTH))
    }

    /// Signs the manifest of a backup that has so many bytes with this SHA-256 before it.
    ///
    /// # Errors
    /// The broker is sealed.
    pub fn sign_manifest(&self, bytes: u64, digest: [u8; 32], first_leaf: u64) -> Result<Vec<u8>> {
        let open = self.keys().context("the broker is sealed\nhint: key-broker unseal")?;
        let manifest = Manifest {
            bytes,
            cluster: hex::encode(&self.cluster.id.0),
            created: self.now(),
            digest: Bytes32(digest),
            first_leaf,
            schema: Manifest::SCHEMA.into(),
        };
        message::sign(&manifest, "broker", &open.keys.message)
            .map(|sent| sent.bytes)
            .map_err(|refusal| anyhow!("cannot sign the manifest: {refusal}"))
    }

    /// That the newest head of the audit log is signed with the broker's key; for a database whose older leaves are elsewhere.
    ///
    /// # Errors
    /// The head has another signature, or the broker is sealed.
    pub fn verify_head(&self) -> Result<()> {
        let mut head = String::new();
        self.store.look(&mut |transaction| {
            head = audit::head(transaction)?;
            Ok(())
        })?;
        if head.is_empty() {
            return Ok(());
        }
        let key = self.audit_public_key().map_err(|problem| anyhow!(problem))?;
        let opened = transparency::checkpoint::Checkpoint::open(&head, &self.origin, &key);
        opened.map(drop).map_err(|error| anyhow!("the head of the audit log: {error}"))
    }
}

fn rows_of(store: &dyn Store, open: &Open) -> Result<Rows> {
    let mut rows = Ok(Rows::default());
    store.look(&mut |transaction| {
        rows = check_rows(transaction, open)?;
        Ok(())
    })?;
    rows.map_err(|problem| anyhow!(problem))
}

fn check_rows(transaction: &dyn Transaction, open: &Open) -> Result<Result<Rows, String>, Error> {
    fault::point("rows-of-a-backup");
    let nodes = records::all::<Node>(transaction, Table::Nodes)?;
    records::all::<Release>(transaction, Table::Releases)?;
    records::all::<Grant>(transaction, Table::Grants)?;
    records::all::<Latch>(transaction, Table::Latches)?;
    for (digest, machine) in transaction.last(Table::Machines, usize::MAX)? {
        if let Err(error) = MachineReference::parse(&machine) {
            return Ok(Err(format!("the machine reference sha256:{} cannot be used: {error}", hex::encode(digest))));
        }
    }
    let mut rows = Rows { nodes: nodes.len(), disks: 0 };
    for (key, disk) in records::all::<Disk>(transaction, Table::Disks)? {
        if transaction.get(Table::DiskIds, disk.id.as_bytes())?.as_ref() != Some(&key) {
            return Ok(Err(format!("the index of disk ids does not name disk {} of node {}", disk.id, disk.node)));
        }
        if disk.share.is_none() {
            continue;
        }
        let Some(node) = get::<Node>(transaction, Table::Nodes, disk.node.as_bytes())? else {
            return Ok(Err(format!("disk {} belongs to node {:?}, which has no record", disk.id, disk.node)));
        };
        if let Err(stop) = unwrapped_for(open, &disk, &node.ek) {
            return Ok(Err(stop.to_string()));
        }
        rows.disks += 1;
    }
    Ok(Ok(rows))
}

#[cfg(test)]
mod tests;
