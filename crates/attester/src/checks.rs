//! What a signed message must agree with: the request, `cluster.json`, and what the broker said before.

use attest::bytes::Bytes32;
use attest::cluster::{Assurance, BrokerCertificate, Cluster};
use attest::message::{Challenge, Purpose, Receipt, Release};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use measurements::Bank;
use ring::signature::{ED25519, UnparsedPublicKey};

use crate::Error;

/// A challenge that answers this machine's hello.
pub(crate) fn challenge<E>(
    challenge: &Challenge,
    broker: &BrokerCertificate,
    versions: std::ops::RangeInclusive<u32>,
    (banks, ek): (&[Bank], &str),
) -> Result<(), Error<E>> {
    let refuse = |what: String| Err(Error::ReleaseInvalid(what));
    if !versions.contains(&challenge.version) {
        return refuse(format!("the broker speaks version {} of the protocol", challenge.version));
    }
    if challenge.epoch != broker.epoch {
        let (found, expected) = (challenge.epoch, broker.epoch);
        return refuse(format!("the broker's challenge is of epoch {found}, its certificate of {expected}"));
    }
    if challenge.bank == Bank::Sha1 || !banks.contains(&challenge.bank) {
        return refuse(format!(
            "the broker requires the bank {} of this machine, ek sha256:{}, which is SHA-1 or not active; enroll the machine with a bank that is active: key-broker node enrol --bank",
            challenge.bank, ek
        ));
    }
    Ok(())
}

/// A release that answers this machine's evidence.
pub(crate) fn release<E>(release: &Release, cluster: &Cluster, slot: &str, purpose: Purpose) -> Result<(), Error<E>> {
    if release.disk.slot != slot {
        return Err(Error::ReleaseInvalid("the release is for another slot".into()));
    }
    let assurance = assurance(&release.assurance)
        .ok_or_else(|| Error::ReleaseInvalid(format!("unknown assurance {:?}", release.assurance)))?;
    if assurance < cluster.assurance {
        let what = format!("the release has assurance {assurance}, cluster.json requires {}", cluster.assurance);
        return Err(Error::ReleaseInvalid(what));
    }
    recovery(release, cluster, purpose)
}

fn assurance(name: &str) -> Option<Assurance> {
    use Assurance::{Development, Simulated, Snp, Tdx, TpmDiscrete, TpmVirtual};
    [Development, Simulated, TpmVirtual, TpmDiscrete, Snp, Tdx].into_iter().find(|one| one.name() == name)
}

/// A disk that is created is sealed to the recovery keys of `cluster.json`, all of them and no other.
fn recovery<E>(release: &Release, cluster: &Cluster, purpose: Purpose) -> Result<(), Error<E>> {
    let Some(recovery) = release.disk.recovery.as_ref().filter(|_| purpose == Purpose::Provision) else {
        return Ok(());
    };
    let mut found: Vec<[u8; 32]> = recovery.shares.iter().map(|share| share.key.0).collect();
    let mut expected: Vec<[u8; 32]> = cluster.recovery.keys.iter().map(|key| key.0).collect();
    found.sort_unstable();
    expected.sort_unstable();
    if found != expected {
        let what = "the recovery document is sealed to other keys than the recovery keys of cluster.json";
        return Err(Error::GrantInvalid(what.into()));
    }
    Ok(())
}

/// A receipt is a checkpoint (C2SP tlog-checkpoint) of this cluster's audit log, says the same as its fields, and is signed with the audit key of a broker that has shown its certificate. A certificate of an older broker has no audit key: then any
/// signature under the log's name is accepted.
pub(crate) fn receipt<E>(receipt: &Receipt, cluster: &Cluster, audit_keys: &[Option<Bytes32>]) -> Result<(), Error<E>> {
    let refuse = |what: &str| Err(Error::ReleaseInvalid(format!("the receipt is not {what}")));
    let origin = format!("cairn/{}/audit", hex::encode(&cluster.id.0));
    let head = format!("{origin}\n{}\n{}\n", receipt.size, STANDARD.encode(receipt.root.0));
    let signatures = receipt.checkpoint.strip_prefix(&head).and_then(|rest| rest.strip_prefix('\n'));
    let Some(signatures) = signatures.filter(|_| receipt.size > 0) else {
        return refuse("a checkpoint of this cluster's audit log");
    };
    let prefix = format!("\u{2014} {origin} ");
    let mut lines = signatures.lines().filter_map(|line| line.strip_prefix(&prefix));
    if !lines.any(|line| audit_keys.iter().any(|key| key.is_none_or(|key| has_signed(&key, &head, line)))) {
        return refuse("signed with the audit key of a broker of this cluster");
    }
    Ok(())
}

/// Whether this key of Ed25519 signed a note; the signature has the key's id of 4 bytes before it (C2SP signed-note).
fn has_signed(key: &Bytes32, note: &str, signature: &str) -> bool {
    const ID_BYTES: usize = 4;
    let signature = STANDARD.decode(signature).unwrap_or_default();
    let verify = |signature| UnparsedPublicKey::new(&ED25519, key.0).verify(note.as_bytes(), signature);
    signature.get(ID_BYTES..).is_some_and(|signature| verify(signature).is_ok())
}

/// A log that only grows: a later receipt of a boot has more entries than an earlier one.
pub(crate) fn grows<E>(earlier: &Receipt, later: &Receipt) -> Result<(), Error<E>> {
    if later.size <= earlier.size {
        let (found, before) = (later.size, earlier.size);
        return Err(Error::ReleaseInvalid(format!("the audit log has {found} entries, it had {before} in this boot")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use attest::bytes::Hex;
    use attest::cluster::{Device, Keys, Slot};
    use measurements::canonical::Document as _;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};
    use transparency::checkpoint::Checkpoint;

    use super::*;

    fn cluster() -> Cluster {
        let keys = Keys { keys: vec![Bytes32([8; 32])], threshold: 1 };
        Cluster {
            assurance: Assurance::Development,
            broker: keys.clone(),
            epoch: 1,
            id: Hex(vec![7; 16]),
            recovery: keys,
            schema: Cluster::SCHEMA.into(),
            slots: vec![Slot { device: Device::OnlyOther, layout: None, mount: "/var".into(), name: "state".into() }],
        }
    }

    #[test]
    fn bank_that_is_not_active_is_refused_with_the_endorsement_key() {
        let broker = BrokerCertificate {
            audit_key: None,
            cluster: Hex(vec![7; 16]),
            epoch: 1,
            message_key: Bytes32([5; 32]),
            schema: BrokerCertificate::SCHEMA.into(),
            tls_key: Bytes32([6; 32]),
        };
        let check = |bank| {
            let asked = Challenge {
                bank,
                credential: None,
                epoch: 1,
                hello: Bytes32([1; 32]),
                nonce: Bytes32([2; 32]),
                schema: Challenge::SCHEMA.into(),
                session: Hex(vec![3; 16]),
                ttl: 60,
                version: 1,
            };
            challenge::<()>(&asked, &broker, 1..=1, (&[Bank::Sha1, Bank::Sha256], "0123"))
        };
        assert!(check(Bank::Sha256).is_ok());
        for bank in [Bank::Sha384, Bank::Sha1] {
            let Err(Error::ReleaseInvalid(what)) = check(bank) else { panic!("{bank} is accepted") };
            assert!(what.contains("ek sha256:0123") && what.contains("node enrol --bank"), "{what}");
        }
    }

    #[test]
    fn receipt_is_verified_with_the_audit_key_of_a_broker() {
        let key = |seed| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let public = |key: &Ed25519KeyPair| Some(Bytes32(key.public_key().as_ref().try_into().unwrap()));
        let (log, other) = (key(1), key(2));
        let origin = format!("cairn/{}/audit", "07".repeat(16));
        let (root, size) = (Bytes32([3; 32]), 9);
        // As the broker signs it.
        let checkpoint = Checkpoint { origin, size, root: root.0 }.sign(&log);
        let good = Receipt { checkpoint, root, size };
        let check = |good: &Receipt, keys: &[Option<Bytes32>]| receipt::<()>(good, &cluster(), keys).is_ok();
        assert!(check(&good, &[public(&log)]));
        assert!(check(&good, &[public(&other), public(&log)]), "another broker sent what this one has signed");
        assert!(check(&good, &[None]), "the certificate of an older broker");
        assert!(!check(&good, &[public(&other)]));
        assert!(!check(&good, &[]));
        let larger = Receipt { size: 10, ..good.clone() };
        let other_log = Receipt { checkpoint: good.checkpoint.replace("0707/audit", "0708/audit"), ..good.clone() };
        let longer = Receipt { checkpoint: good.checkpoint.replacen("\n\n", "\nmore\n\n", 1), ..good };
        for bad in [larger, other_log, longer] {
            assert!(!check(&bad, &[None]) && !check(&bad, &[public(&log)]), "{}", bad.checkpoint);
        }
    }
}
