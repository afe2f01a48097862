//! What a signed message must agree with: the request, `cluster.json`, and what the broker said before.

use attest::cluster::{Assurance, BrokerCertificate, Cluster};
use attest::message::{Challenge, Purpose, Receipt, Release};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use measurements::Bank;

use crate::Error;

/// A challenge that answers this machine's hello.
pub(crate) fn challenge<E>(
    challenge: &Challenge,
    broker: &BrokerCertificate,
    versions: std::ops::RangeInclusive<u32>,
    banks: &[Bank],
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
        return refuse(format!("the broker requires the bank {}, which is SHA-1 or not active", challenge.bank));
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
    receipt(&release.receipt, cluster)?;
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

/// A receipt is a checkpoint (C2SP tlog-checkpoint) of this cluster's audit log, and says the same as its fields.
pub(crate) fn receipt<E>(receipt: &Receipt, cluster: &Cluster) -> Result<(), Error<E>> {
    let origin = format!("cairn/{}/audit", hex::encode(&cluster.id.0));
    let head = format!("{origin}\n{}\n{}\n", receipt.size, STANDARD.encode(receipt.root.0));
    let is_signed = || receipt.checkpoint[head.len()..].contains(&format!("\u{2014} {origin} "));
    if receipt.size == 0 || !receipt.checkpoint.starts_with(&head) || !is_signed() {
        return Err(Error::ReleaseInvalid("the receipt is not a checkpoint of this cluster's audit log".into()));
    }
    Ok(())
}

/// A log that only grows: a later receipt of a boot has more entries than an earlier one.
pub(crate) fn grows<E>(earlier: &Receipt, later: &Receipt) -> Result<(), Error<E>> {
    if later.size <= earlier.size {
        let (found, before) = (later.size, earlier.size);
        return Err(Error::ReleaseInvalid(format!("the audit log has {found} entries, it had {before} in this boot")));
    }
    Ok(())
}
