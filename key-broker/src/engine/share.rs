//! The share of a disk's key: made once, and kept wrapped (AES-256-GCM) under the key of an epoch, for the node whose endorsement key owns the disk. What is authenticated with it names the disk, the epoch and the
//! endorsement key: a record that is moved to another node in the database gives that node nothing. Records of schema 1 do not name the endorsement key, and are wrapped again when the broker is unsealed.

use attest::bytes::{Bytes32, Hex};
use attest::recovery::Recovery;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::outcome::Stop;
use super::records::{self, Disk, Node, get, put};
use super::{Engine, Open};
use crate::store::{Error, Table, Transaction};

const NONCE_BYTES: usize = 12;
type Share = Zeroizing<[u8; 32]>;

/// What is authenticated with a share; `owner` is the SHA-256 of an endorsement key's public area.
fn authenticated(disk: &Disk, owner: Option<&Bytes32>) -> Aad<Vec<u8>> {
    let owner = owner.map(|owner| format!(" {}", hex::encode(owner.0))).unwrap_or_default();
    Aad::from(format!("{} {}{owner}", disk.id, disk.epoch).into_bytes())
}

/// The key that wraps shares of this epoch.
fn wrapping_key(open: &Open, epoch: u64) -> Option<LessSafeKey> {
    let key = UnboundKey::new(&AES_256_GCM, &open.keys.epochs.get(&epoch)?[..]).ok()?;
    Some(LessSafeKey::new(key))
}

fn unwrapped(open: &Open, disk: &Disk, owner: Option<&Bytes32>) -> Option<Share> {
    let (nonce, sealed) = disk.share.as_ref()?.0.split_first_chunk::<NONCE_BYTES>()?;
    let mut bytes = Zeroizing::new(sealed.to_vec());
    let key = wrapping_key(open, disk.epoch)?;
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let plain = key.open_in_place(nonce, authenticated(disk, owner), &mut bytes).ok()?;
    let mut share = Zeroizing::new([0; 32]);
    if plain.len() != share.len() {
        return None;
    }
    share.copy_from_slice(plain);
    Some(share)
}

/// The share, for the node with this endorsement key.
pub(super) fn unwrapped_for(open: &Open, disk: &Disk, owner: &Bytes32) -> Result<Share, Stop> {
    unwrapped(open, disk, Some(owner)).ok_or_else(|| {
        Stop::Unavailable(format!(
            "cannot unwrap the share of disk {}: it is damaged, or is not wrapped for the TPM of node {}; restore a backup",
            disk.id, disk.node
        ))
    })
}

impl Engine {
    /// Wraps the share under the newest epoch's key, for the node with this endorsement key.
    pub(super) fn wrap(&self, open: &Open, disk: &mut Disk, share: &Share, owner: &Bytes32) -> Result<(), Stop> {
        let failed = |id: &str| Stop::Unavailable(format!("cannot wrap the share of disk {id}"));
        let nonce = Nonce::assume_unique_for_key(*self.random::<NONCE_BYTES>()?);
        let nonce_bytes = *nonce.as_ref();
        disk.epoch = open.certificate.epoch;
        let key = wrapping_key(open, disk.epoch).ok_or_else(|| failed(&disk.id))?;
        let mut sealed = share.to_vec();
        let wrapped = key.seal_in_place_append_tag(nonce, authenticated(disk, Some(owner)), &mut sealed);
        wrapped.map_err(|_| failed(&disk.id))?;
        disk.share = Some(Hex([&nonce_bytes[..], &sealed].concat()));
        disk.schema = Disk::SCHEMA;
        Ok(())
    }

    /// The share of a disk of the node with this endorsement key: unwrapped, or made, wrapped, and sealed to the recovery keys.
    pub(super) fn share(&self, open: &Open, disk: &mut Disk, owner: &Bytes32) -> Result<Share, Stop> {
        if disk.share.is_some() {
            return unwrapped_for(open, disk, owner);
        }
        let share = self.random::<32>()?;
        self.wrap(open, disk, &share, owner)?;
        disk.recovery = Some(self.sealed_to_recovery_keys(&disk.id, &share)?);
        Ok(share)
    }

    /// Seals a share to each recovery key of the cluster, with randomness of its own.
    pub(super) fn sealed_to_recovery_keys(&self, disk: &str, share: &Share) -> Result<Recovery, Stop> {
        let mut failed = None;
        let recovery = Recovery::seal(disk, share, &self.cluster.recovery.keys, || {
            self.random::<32>().unwrap_or_else(|stop| {
                failed = Some(stop);
                Zeroizing::new([0; 32])
            })
        })?;
        failed.map_or(Ok(recovery), Err)
    }

    /// Gives the share of a disk, if it has one, to a node with another endorsement key.
    pub(super) fn hand_over(&self, open: &Open, disk: &mut Disk, from: &Bytes32, to: &Bytes32) -> Result<(), Stop> {
        if disk.share.is_none() {
            return Ok(());
        }
        let share = unwrapped_for(open, disk, from)?;
        self.wrap(open, disk, &share, to)
    }

    /// Wraps the shares of records of schema 1 again. One that cannot be unwrapped stays as it is, and gives no share.
    pub(super) fn bind_shares(&self, open: &Open) -> Result<(), Error> {
        let is_unbound = |disk: &Disk| disk.schema == 1 && disk.share.is_some();
        let mut has_unbound = false;
        self.store.look(&mut |transaction| {
            has_unbound = records::all::<Disk>(transaction, Table::Disks)?.iter().any(|(_, disk)| is_unbound(disk));
            Ok(())
        })?;
        if !has_unbound {
            return Ok(());
        }
        self.store.transact(&mut |transaction| {
            // A share without the name of its owner.
            transaction.destroys();
            for (key, mut disk) in records::all::<Disk>(transaction, Table::Disks)? {
                if is_unbound(&disk) && self.bind_share(transaction, open, &mut disk)? {
                    put(transaction, Table::Disks, &key, &disk)?;
                }
            }
            Ok(())
        })
    }

    fn bind_share(&self, transaction: &dyn Transaction, open: &Open, disk: &mut Disk) -> Result<bool, Error> {
        let node: Option<Node> = get(transaction, Table::Nodes, disk.node.as_bytes())?;
        let (Some(node), Some(share)) = (node, unwrapped(open, disk, None)) else {
            eprintln!("key-broker: cannot unwrap the share of disk {}: restore a backup", disk.id);
            return Ok(false);
        };
        self.wrap(open, disk, &share, &node.ek).map_err(|stop| Error::Work(stop.to_string()))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use state_disk::layout::Profile;

    use super::super::AdminCommand;
    use super::super::tests::{enrol_with, init, open as open_broker};
    use super::*;

    const ONE: Bytes32 = Bytes32([1; 32]);
    const TWO: Bytes32 = Bytes32([2; 32]);
    const SLOT: &str = "state";

    /// A broker with two nodes.
    fn broker(folder: &std::path::Path) -> Engine {
        let engine = open_broker(&init(folder)).unwrap();
        enrol_with(&engine, "one", ONE).unwrap();
        enrol_with(&engine, "two", TWO).unwrap();
        engine
    }

    fn made(engine: &Engine, node: &str, owner: &Bytes32) -> (Disk, Share) {
        let mut disk = Disk::new(node, SLOT, Profile::default()).unwrap();
        let share = engine.share(&engine.keys().unwrap(), &mut disk, owner).unwrap();
        (disk, share)
    }

    fn keep(engine: &Engine, disk: &Disk) {
        let key = Disk::key(&disk.node, SLOT);
        engine.store.transact(&mut |transaction| put(transaction, Table::Disks, &key, disk)).unwrap();
    }

    fn kept<T: serde::de::DeserializeOwned>(engine: &Engine, table: Table, key: &[u8]) -> T {
        let mut found = None;
        let look = &mut |transaction: &dyn Transaction| {
            found = get(transaction, table, key)?;
            Ok(())
        };
        engine.store.look(look).unwrap();
        found.unwrap()
    }

    #[test]
    fn share_is_unwrapped_for_the_endorsement_key_of_its_node_alone() {
        let folder = tempfile::tempdir().unwrap();
        let engine = broker(folder.path());
        let open = engine.keys().unwrap();
        let (mut disk, share) = made(&engine, "one", &ONE);
        assert_eq!(engine.share(&open, &mut disk, &ONE).unwrap(), share);
        let error = engine.share(&open, &mut disk, &TWO).unwrap_err().to_string();
        assert!(error.contains("is not wrapped for the TPM of node one"), "{error}");
        engine.hand_over(&open, &mut disk, &TWO, &TWO).unwrap_err();
        engine.hand_over(&open, &mut disk, &ONE, &TWO).unwrap();
        assert_eq!(engine.share(&open, &mut disk, &TWO).unwrap(), share);
        engine.share(&open, &mut disk, &ONE).unwrap_err();
    }

    #[test]
    fn share_of_an_older_record_is_wrapped_again_when_the_broker_is_unsealed() {
        let folder = tempfile::tempdir().unwrap();
        let engine = broker(folder.path());
        let (mut old, share) = made(&engine, "one", &ONE);
        let nonce = [7; NONCE_BYTES];
        let mut sealed = share.to_vec();
        wrapping_key(&engine.keys().unwrap(), old.epoch)
            .unwrap()
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(format!("{} {}", old.id, old.epoch).into_bytes()),
                &mut sealed,
            )
            .unwrap();
        (old.schema, old.share) = (1, Some(Hex([&nonce[..], &sealed].concat())));
        // Until then, the record gives nothing: what is not bound may have been moved.
        engine.share(&engine.keys().unwrap(), &mut old.clone(), &ONE).unwrap_err();
        keep(&engine, &old);
        // Somebody says that a record which names its owner does not.
        let (mut moved, _) = made(&engine, "one", &ONE);
        (moved.schema, moved.node) = (1, "two".into());
        keep(&engine, &moved);
        drop(engine);
        for _ in 0..2 {
            let engine = open_broker(&folder.path().join("broker")).unwrap();
            let open = engine.keys().unwrap();
            let mut disk: Disk = kept(&engine, Table::Disks, b"one/state");
            assert_eq!((disk.schema, &disk.recovery), (Disk::SCHEMA, &old.recovery));
            assert_eq!(engine.share(&open, &mut disk, &ONE).unwrap(), share);
            engine.share(&open, &mut disk, &TWO).unwrap_err();
            let mut disk: Disk = kept(&engine, Table::Disks, b"two/state");
            assert_eq!(disk, moved);
            engine.share(&open, &mut disk, &TWO).unwrap_err();
        }
    }

    #[test]
    fn security_epoch_of_a_node_goes_with_its_disk() {
        for (from, to, expected) in [(Some(7), None, Some(7)), (Some(7), Some(9), Some(9)), (None, Some(3), Some(3))] {
            let folder = tempfile::tempdir().unwrap();
            let engine = broker(folder.path());
            let (disk, share) = made(&engine, "one", &ONE);
            keep(&engine, &disk);
            for (name, epoch) in [("one", from), ("two", to)] {
                let node = Node { epoch, ..kept(&engine, Table::Nodes, name.as_bytes()) };
                let write =
                    &mut |transaction: &mut dyn Transaction| put(transaction, Table::Nodes, name.as_bytes(), &node);
                engine.store.transact(write).unwrap();
            }
            let (node, slot, rebind_from) = ("two".into(), SLOT.into(), Some("one".into()));
            let grant = AdminCommand::DiskGrant { node, slot, overwrite: false, rebind_from, generation: None };
            engine.admin(&grant).unwrap();
            assert_eq!(kept::<Node>(&engine, Table::Nodes, b"two").epoch, expected);
            let mut disk: Disk = kept(&engine, Table::Disks, b"two/state");
            assert_eq!(engine.share(&engine.keys().unwrap(), &mut disk, &TWO).unwrap(), share);
        }
    }
}
