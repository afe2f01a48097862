//! The broker's own files: its state in figures, and the audit log, which is verified and moves to files.

use std::sync::PoisonError;
use std::time::Instant;

use attest::bytes::Bytes32;
use serde_json::json;
use transparency::checkpoint::Checkpoint;
use transparency::verifier_key::{Role, VerifierKey};

use super::Engine;
use super::admin::Outcome;
use super::audit::{self, KeptHead};
use super::records::{self, Disk};
use crate::store::Table;

impl Engine {
    pub(super) fn status(&self) -> Outcome {
        let mut sizes = serde_json::Map::new();
        self.store
            .look(&mut |transaction| {
                for table in [Table::Nodes, Table::Releases, Table::Disks] {
                    sizes.insert(table.name().into(), transaction.count(table)?.into());
                }
                if !self.is_sealed() {
                    sizes.insert(Table::Audit.name().into(), audit::size(transaction)?.into());
                }
                sizes.insert("audit_leaves_in_database".into(), transaction.count(Table::Audit)?.into());
                Ok(())
            })
            .map_err(|error| error.to_string())?;
        let witnesses = (!self.is_sealed()).then(|| self.witnesses_shown()).transpose();
        Ok(json!({
            "state": if self.is_sealed() { "sealed" } else { "serving" },
            "cluster": hex::encode(&self.cluster.id.0),
            "least_assurance": self.cluster.assurance,
            "sizes": sizes,
            "audit_directory": self.moving().unwrap_or_else(|| "ok".into()),
            "decisions": self.counts(),
            "destroyed_shares": self.destroyed_shares(),
            "witnesses": witnesses.map_err(|error| error.to_string())?,
        }))
    }

    /// The newest head, or the one that a witness has signed last.
    pub(super) fn audit_head(&self, witness: Option<&str>) -> Outcome {
        let Some(name) = witness else {
            return self.look(|transaction| Ok(Ok(json!({"head": audit::head(transaction)?}))));
        };
        let all = self.all_cosigned().map_err(|error| error.to_string())?;
        let found = all.into_iter().find(|(key, _)| key.name == name);
        let (_, cosigned) = found.ok_or_else(|| format!("broker.toml has no witness {name:?}: key-broker status"))?;
        if cosigned.size == 0 {
            return Err(format!("witness {name:?} has signed no head yet: key-broker status"));
        }
        Ok(json!({"head": cosigned.checkpoint}))
    }

    /// The verifier key of the audit log (C2SP signed-note).
    pub(super) fn audit_key(&self) -> Outcome {
        let key = self.audit_public_key()?;
        let key = VerifierKey { name: self.origin.clone(), role: Role::Log, key };
        Ok(json!({"key": format!("{key}\n")}))
    }

    pub(super) fn audit_public_key(&self) -> Result<[u8; 32], String> {
        let open = self.keys().ok_or("the broker is sealed: key-broker unseal")?;
        let public = ring::signature::KeyPair::public_key(&open.keys.audit);
        public.as_ref().try_into().map_err(|_| "the key of the audit log is none of Ed25519".into())
    }

    /// Compares the log with its signed head, with the receipts of all disks, and with heads that were kept elsewhere. It fails while a witness knows another log, too.
    pub(super) fn audit_verify(&self, heads: &[String]) -> Outcome {
        let key = self.audit_public_key()?;
        let mut kept = Vec::new();
        for head in heads {
            let checkpoint = Checkpoint::open(head, &self.origin, &key)
                .map_err(|error| format!("a head is not one of this log, or not signed by it: {error}"))?;
            kept.push(KeptHead { size: checkpoint.size, root: Bytes32(checkpoint.root) });
        }
        self.store
            .look(&mut |transaction| {
                kept.extend(
                    records::all::<Disk>(transaction, Table::Disks)?.iter().filter_map(|(_, disk)| disk.receipt),
                );
                Ok(())
            })
            .map_err(|error| error.to_string())?;
        for (_, cosigned) in self.all_cosigned().map_err(|error| error.to_string())? {
            kept.push(cosigned.head().map_err(|error| error.to_string())?);
        }
        let size = audit::verify(&*self.store, &self.bundles, &self.origin, &key, &kept)
            .map_err(|problem| problem.to_string())?;
        if let Some(conflict) = self.conflict() {
            return Err(conflict);
        }
        Ok(json!({
            "leaves": size,
            "origin": self.origin,
            "compared_with_heads": kept.len(),
            "not_compared_with": self.silent_witnesses(),
            "verified": true,
        }))
    }

    /// Writes what strangers were refused without a row, and the time into the database once a minute while the broker is open, so that a broker which answers but decides nothing does not lose the time that it has used when it is restarted.
    fn record_time(&self) {
        if !self.clock.is_record_due(Instant::now()) {
            return;
        }
        let now = self.seconds();
        // A store that cannot be written makes the broker unready, which says why; the next minute is tried again.
        let _ = self.store.transact(&mut |open| audit::at_least(open, now));
        self.record_unwritten();
    }

    /// The work of each second: overwrites what was destroyed, records the time, and moves older leaves of the audit log from the database to files. A failure is printed once, delays moving, and stops nothing else.
    pub fn move_leaves(&self) {
        self.retry_overwriting();
        if self.is_sealed() {
            return;
        }
        self.record_time();
        let problem = audit::move_leaves(&*self.store, &self.bundles).err().map(|problem| problem.to_string());
        let mut last = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        match (&problem, &*last) {
            (Some(problem), last) if last.as_ref() != Some(problem) => {
                eprintln!("key-broker: cannot move leaves of the audit log to files: {problem}");
            }
            (None, Some(_)) => eprintln!("key-broker: leaves of the audit log move to files again"),
            _ => {}
        }
        *last = problem;
    }

    /// Removes what brokers left that ended while they moved leaves.
    pub fn remove_abandoned(&self) {
        self.bundles.remove_abandoned();
    }

    fn moving(&self) -> Option<String> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
