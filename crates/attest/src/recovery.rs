//! Shares sealed to the recovery keys of `cluster.json`, so that a lost broker loses no disk: one [`Recovery`] for each disk, kept by the broker and written on the disk itself.

use measurements::canonical::{self, Document};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::bytes::Bytes32;
use crate::cluster::Cluster;
use crate::hpke::{Context, PrivateKey, seal};
use crate::message::{self, Sealed};
use crate::{Code, Refusal};

/// A disk's share, sealed to each of the recovery keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    /// Id of the disk.
    pub disk: String,
    /// Its schema.
    pub schema: String,
    /// The share, once for each key.
    pub shares: Vec<ToKey>,
}

/// The share for one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToKey {
    /// The public key.
    pub key: Bytes32,
    /// The share, sealed to it.
    pub share: Sealed,
}

impl Document for Recovery {
    const NAME: &'static str = "recovery document";
    const SCHEMA: &'static str = "cairn.recovery/1";
    const LARGEST: usize = 16 << 10;
}

impl Recovery {
    /// Seals a share to all keys; `random` gives 32 fresh bytes for each.
    ///
    /// # Errors
    /// [`Code::Malformed`] where bytes are no key.
    pub fn seal(
        disk: &str,
        share: &[u8; 32],
        keys: &[Bytes32],
        mut random: impl FnMut() -> Zeroizing<[u8; 32]>,
    ) -> Result<Self, Refusal> {
        let to_key =
            |key: &Bytes32| Ok(ToKey { key: *key, share: seal(share, &key.0, Context::Recovery(disk), &random())? });
        let shares = keys.iter().map(to_key).collect::<Result<_, Refusal>>()?;
        Ok(Self { disk: disk.to_owned(), schema: Self::SCHEMA.to_owned(), shares })
    }

    /// The share.
    ///
    /// # Errors
    /// [`Code::SealedSecret`] where it was not sealed to this key.
    pub fn open(&self, key: &PrivateKey) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let public = Bytes32(key.public());
        let refuse = || Refusal::new(Code::SealedSecret, "the disk's share was not sealed to this recovery key");
        let found = self.shares.iter().find(|share| share.key == public).ok_or_else(refuse)?;
        key.open(&found.share, Context::Recovery(&self.disk))
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`Code::Malformed`].
    pub fn write(&self) -> Result<Vec<u8>, Refusal> {
        canonical::write(self).map_err(|error| Refusal::new(Code::Malformed, error.to_string()))
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`Code::Malformed`].
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        canonical::read(bytes).map_err(|error| Refusal::new(Code::Malformed, error.to_string()))
    }
}

/// What a broker says of a disk that was committed. Signed with the key of its messages, and written beside the header together with the broker's certificate, so that it can be verified when there is no broker any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskStatement {
    /// Id of the cluster.
    pub cluster: String,
    /// Id of the disk.
    pub disk: String,
    /// How often the disk was committed, with this commit.
    pub generation: u64,
    /// SHA-256 of the header's whole area, without the mark of an unfinished disk and this statement.
    pub header: Bytes32,
    /// Name of the node.
    pub node: String,
    /// Its schema.
    pub schema: String,
    /// Its slot there.
    pub slot: String,
}

impl Document for DiskStatement {
    const NAME: &'static str = "disk statement";
    const SCHEMA: &'static str = "cairn.disk/1";
    const LARGEST: usize = 4 << 10;
}

/// A statement with the certificate of the broker that signed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedStatement {
    /// The envelope of the broker's certificate.
    pub certificate: String,
    /// Its schema.
    pub schema: String,
    /// The envelope of the [`DiskStatement`].
    pub statement: String,
}

impl Document for SignedStatement {
    const NAME: &'static str = "signed disk statement";
    const SCHEMA: &'static str = "cairn.signed-disk/1";
    /// A copy's place on the disk.
    const LARGEST: usize = 8 << 10;
}

impl SignedStatement {
    /// Its bytes.
    ///
    /// # Errors
    /// [`Code::Malformed`] where it is too long.
    pub fn write(certificate: &[u8], statement: &str) -> Result<Vec<u8>, Refusal> {
        let certificate = String::from_utf8_lossy(certificate).into_owned();
        let document = Self { certificate, schema: Self::SCHEMA.to_owned(), statement: statement.to_owned() };
        canonical::write(&document).map_err(|error| Refusal::new(Code::Malformed, error.to_string()))
    }

    /// The statement, if a broker of this cluster has signed it.
    ///
    /// # Errors
    /// [`Code::Malformed`]; codes of envelopes and of brokers' certificates.
    pub fn verify(bytes: &[u8], cluster: &Cluster) -> Result<DiskStatement, Refusal> {
        let signed: Self = canonical::read(bytes).map_err(|error| Refusal::new(Code::Malformed, error.to_string()))?;
        let broker = cluster.certificate(signed.certificate.as_bytes())?;
        let (statement, _): (DiskStatement, _) = message::open(signed.statement.as_bytes(), &broker.message_key)?;
        if statement.cluster != hex::encode(&cluster.id.0) {
            return Err(Refusal::new(Code::Malformed, "the statement is about a disk of another cluster"));
        }
        Ok(statement)
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;
    use crate::bytes::Hex;
    use crate::cluster::{Assurance, BrokerCertificate, CERTIFICATE_TYPE, Device, Keys, Slot};

    /// The broker's keys are those of this cluster; the cluster of the statement is another one.
    #[test]
    fn statement_about_a_disk_of_another_cluster_is_refused() {
        let [root, broker] = [1, 5].map(|seed| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap());
        let public = |key: &Ed25519KeyPair| Bytes32(key.public_key().as_ref().try_into().unwrap());
        let cluster = Cluster {
            assurance: Assurance::TpmVirtual,
            broker: Keys { keys: vec![public(&root)], threshold: 1 },
            epoch: 0,
            id: Hex(vec![7; 16]),
            recovery: Keys { keys: vec![Bytes32([8; 32])], threshold: 1 },
            schema: Cluster::SCHEMA.into(),
            slots: vec![Slot { device: Device::OnlyOther, layout: None, mount: "/var".into(), name: "state".into() }],
        };
        let certificate = BrokerCertificate {
            audit_key: None,
            cluster: cluster.id.clone(),
            epoch: 0,
            message_key: public(&broker),
            schema: BrokerCertificate::SCHEMA.into(),
            tls_key: Bytes32([6; 32]),
        };
        let certificate = canonical::write(&certificate).unwrap();
        let certificate = envelope::Envelope::sign(CERTIFICATE_TYPE, &certificate, "root", &root);
        let certificate = serde_json::to_vec(&certificate).unwrap();
        let verify = |id: [u8; 16]| {
            let statement = DiskStatement {
                cluster: hex::encode(id),
                disk: "disk".into(),
                generation: 1,
                header: Bytes32([3; 32]),
                node: "one".into(),
                schema: DiskStatement::SCHEMA.into(),
                slot: "state".into(),
            };
            let signed = message::sign(&statement, "broker", &broker).unwrap().bytes;
            let signed = SignedStatement::write(&certificate, std::str::from_utf8(&signed).unwrap()).unwrap();
            SignedStatement::verify(&signed, &cluster).map(|verified| verified == statement)
        };
        assert_eq!(verify([7; 16]), Ok(true));
        let refusal = verify([9; 16]).unwrap_err();
        assert!(refusal.code == Code::Malformed && refusal.found.contains("another cluster"), "{refusal}");
    }

    #[test]
    fn each_recovery_key_opens_the_share_and_no_other_does() {
        let keys = [1, 2, 3].map(|seed| PrivateKey::from_seed(&Zeroizing::new([seed; 32])));
        let public: Vec<Bytes32> = keys[..2].iter().map(|key| Bytes32(key.public())).collect();
        let recovery = Recovery::seal("disk", &[7; 32], &public, || Zeroizing::new([9; 32])).unwrap();
        let read = Recovery::read(&recovery.write().unwrap()).unwrap();
        assert_eq!(read, recovery);
        for key in &keys[..2] {
            assert_eq!(**read.open(key).unwrap(), [7; 32]);
        }
        assert_eq!(read.open(&keys[2]).unwrap_err().code, Code::SealedSecret);
        let moved = Recovery { disk: "another".into(), ..recovery };
        assert_eq!(moved.open(&keys[0]).unwrap_err().code, Code::SealedSecret);
    }
}
