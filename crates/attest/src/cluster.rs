//! What belongs to one cluster: `cluster.json`, whose bytes every node measures into PCR 12 before it reads them; `hints.json`, which is neither measured nor believed; and the certificate by which the cluster's root keys name a broker.

use std::fmt;

use envelope::{Envelope, PublicKey};
use measurements::canonical::{self, Document};
use serde::{Deserialize, Serialize};
use state_disk::layout::Profile;

use crate::bytes::{Bytes32, Hex, at_most};
use crate::{Code, Refusal};

/// Payload type of a [`BrokerCertificate`].
pub const CERTIFICATE_TYPE: &str = "application/vnd.cairn.broker-certificate+json";
/// The configuration partition is 1 MiB; nobody needs so much.
const LARGEST: usize = 64 << 10;
/// More brokers than any cluster has.
const MOST_BROKERS: usize = 16;

/// `cluster.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// The least that evidence must be worth.
    pub assurance: Assurance,
    /// Root keys of the brokers.
    pub broker: Keys,
    /// Brokers with keys of a lower epoch are refused.
    pub epoch: u64,
    /// 32 hexadecimal digits.
    pub id: Hex,
    /// Keys of X25519 that shares are sealed to at provisioning.
    pub recovery: Keys,
    /// Its schema.
    pub schema: String,
    /// Disks that every node has.
    pub slots: Vec<Slot>,
}

/// Public keys, and how many of them are needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// The keys, Ed25519 or X25519.
    pub keys: Vec<Bytes32>,
    /// How many of them.
    pub threshold: u32,
}

/// A disk that every node has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// Which device it is.
    pub device: Device,
    /// How its sectors are protected; [`Profile::Xts`] if missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<Profile>,
    /// Where it is mounted: only `/var` so far.
    pub mount: String,
    /// Its name.
    pub name: String,
}

impl Slot {
    /// How its sectors are protected.
    pub fn profile(&self) -> Profile {
        self.layout.unwrap_or_default()
    }
}

/// Which device a slot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Device {
    /// The only disk that is not the image's.
    OnlyOther,
    /// The disk with this serial, of virtio or NVMe.
    Serial(String),
}

/// What evidence is worth, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Assurance {
    /// References that nobody signed.
    Development,
    /// Hardware that is none.
    Simulated,
    /// A TPM that the host makes: the host is trusted.
    TpmVirtual,
    /// A TPM of a manufacturer; its bus is not covered.
    TpmDiscrete,
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
}

impl Assurance {
    /// All of them, least first.
    pub const ALL: [Self; 6] =
        [Self::Development, Self::Simulated, Self::TpmVirtual, Self::TpmDiscrete, Self::Snp, Self::Tdx];

    /// As documents have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Simulated => "simulated",
            Self::TpmVirtual => "tpm-virtual",
            Self::TpmDiscrete => "tpm-discrete",
            Self::Snp => "snp",
            Self::Tdx => "tdx",
        }
    }
}

impl fmt::Display for Assurance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `hints.json`: where to find the broker, and what the network does not say. Never believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hints {
    /// Addresses of brokers, `IP:PORT`. A node begins at a random one, and goes on to the next after each wait.
    #[serde(deserialize_with = "at_most::<MOST_BROKERS, _, _>")]
    pub brokers: Vec<String>,
    /// Static addresses; without them the network is asked (DHCPv4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<StaticNetwork>,
    /// SHA-256 of the bundle (`*.sigstore.json`) of the release that the image is of, which the node shows to its broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<Bytes32>,
    /// Its schema.
    pub schema: String,
}

/// Static addresses of the one network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticNetwork {
    /// `IP/PREFIX`.
    pub address: String,
    /// IP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

/// By this the root keys of a cluster name a broker: the key of its TLS certificate, and the key that signs its messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerCertificate {
    /// Ed25519 key that signs the heads of its audit log. Missing in certificates of older brokers: nodes cannot verify the receipts of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_key: Option<Bytes32>,
    /// Id of the cluster.
    pub cluster: Hex,
    /// Epoch of these keys.
    pub epoch: u64,
    /// Ed25519 key that signs messages.
    pub message_key: Bytes32,
    /// Its schema.
    pub schema: String,
    /// SHA-256 of the SubjectPublicKeyInfo of its TLS certificate.
    pub tls_key: Bytes32,
}

impl Document for Cluster {
    const NAME: &'static str = "cluster.json";
    const SCHEMA: &'static str = "cairn.cluster/1";
    const LARGEST: usize = LARGEST;
}

impl Document for Hints {
    const NAME: &'static str = "hints.json";
    const SCHEMA: &'static str = "cairn.hints/1";
    const LARGEST: usize = LARGEST;
}

impl Document for BrokerCertificate {
    const NAME: &'static str = "broker's certificate";
    const SCHEMA: &'static str = "cairn.broker-certificate/1";
    const LARGEST: usize = LARGEST;
}

impl Cluster {
    /// Reads the bytes of a `cluster.json`.
    ///
    /// # Errors
    /// [`Code::Malformed`].
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let refuse = |found: String| Refusal::new(Code::Malformed, found);
        let cluster: Self = canonical::read(bytes).map_err(|error| refuse(error.to_string()))?;
        cluster.check().map_err(|found| refuse(format!("cluster.json {found}")))?;
        Ok(cluster)
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`Code::Malformed`].
    pub fn write(&self) -> Result<Vec<u8>, Refusal> {
        let refuse = |found: String| Refusal::new(Code::Malformed, found);
        self.check().map_err(|found| refuse(format!("cluster.json {found}")))?;
        canonical::write(self).map_err(|error| refuse(error.to_string()))
    }

    fn check(&self) -> Result<(), String> {
        const MOST_KEYS: usize = 16;
        for (name, keys) in [("broker", &self.broker), ("recovery", &self.recovery)] {
            let count = keys.keys.len();
            if count > MOST_KEYS || keys.threshold == 0 || keys.threshold as usize > count {
                return Err(format!("needs {} of {count} {name} keys, which cannot be", keys.threshold));
            }
            if keys.keys.iter().enumerate().any(|(index, key)| keys.keys[..index].contains(key)) {
                return Err(format!("has the same {name} key twice"));
            }
        }
        if self.recovery.threshold != 1 {
            return Err("asks for more than one recovery key at a time, which this version cannot do".into());
        }
        if self.id.0.len() != 16 {
            return Err("has an id that is not 32 hexadecimal digits".into());
        }
        let [slot] = &self.slots[..] else {
            return Err(format!("has {} slots, this version uses exactly one", self.slots.len()));
        };
        let is_name = |text: &str| {
            (1..=32).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        if !is_name(&slot.name) {
            return Err("has a slot whose name is not of 1 to 32 of a-z, 0-9 and -".into());
        }
        if slot.mount != "/var" {
            return Err("mounts a slot elsewhere than at /var".into());
        }
        if matches!(&slot.device, Device::Serial(serial) if serial.is_empty() || serial.len() > 64) {
            return Err("names a device by a serial that is not of 1 to 64 characters".into());
        }
        Ok(())
    }

    /// Believes a broker's certificate if enough root keys have signed it for this cluster, and its epoch is not below the least.
    ///
    /// # Errors
    /// [`Code::EnvelopeSignature`], [`Code::BrokerCertificate`], [`Code::Malformed`].
    pub fn certificate(&self, envelope: &[u8]) -> Result<BrokerCertificate, Refusal> {
        let keys: Vec<PublicKey> = self.broker.keys.iter().map(|key| PublicKey::Ed25519(key.0)).collect();
        let payload = Envelope::parse(envelope)?.verify(CERTIFICATE_TYPE, &keys, self.broker.threshold as usize)?;
        let certificate: BrokerCertificate =
            canonical::read(&payload).map_err(|error| Refusal::new(Code::Malformed, error.to_string()))?;
        let refuse = |found: String| Refusal::new(Code::BrokerCertificate, found);
        if certificate.cluster != self.id {
            return Err(refuse("the broker is one of another cluster".into()));
        }
        if certificate.epoch < self.epoch {
            let found =
                format!("the broker's keys are of epoch {}, at least {} is asked", certificate.epoch, self.epoch);
            return Err(refuse(found));
        }
        Ok(certificate)
    }

    /// Believes the broker at the other end of a TLS connection with this key.
    ///
    /// # Errors
    /// As [`Self::certificate`], and where the certificate names another key.
    pub fn broker(&self, envelope: &[u8], tls_key: &[u8; 32]) -> Result<BrokerCertificate, Refusal> {
        let certificate = self.certificate(envelope)?;
        if certificate.tls_key.0 != *tls_key {
            return Err(Refusal::new(Code::BrokerCertificate, "the connection is not the broker's own"));
        }
        Ok(certificate)
    }
}

impl Hints {
    /// Reads the bytes of a `hints.json`.
    ///
    /// # Errors
    /// [`Code::Malformed`].
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let refuse = |found: String| Refusal::new(Code::Malformed, found);
        let hints: Self = canonical::read(bytes).map_err(|error| refuse(error.to_string()))?;
        if hints.brokers.is_empty() {
            return Err(refuse("hints.json names no broker".into()));
        }
        for broker in &hints.brokers {
            let address: Result<std::net::SocketAddr, _> = broker.parse();
            address.map_err(|_| {
                refuse(format!(
                    "hints.json: {broker:?} is no IP:PORT: nodes ask no name server, so name the broker's address, for example 192.0.2.10:7443"
                ))
            })?;
        }
        Ok(hints)
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    fn root(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn cluster() -> Cluster {
        let key = Bytes32(root(1).public_key().as_ref().try_into().unwrap());
        Cluster {
            assurance: Assurance::TpmVirtual,
            broker: Keys { keys: vec![key], threshold: 1 },
            epoch: 2,
            id: Hex(vec![7; 16]),
            recovery: Keys { keys: vec![Bytes32([8; 32])], threshold: 1 },
            schema: Cluster::SCHEMA.into(),
            slots: vec![Slot { device: Device::OnlyOther, layout: None, mount: "/var".into(), name: "state".into() }],
        }
    }

    fn signed(seed: u8, change: impl FnOnce(&mut BrokerCertificate)) -> Vec<u8> {
        let mut certificate = BrokerCertificate {
            audit_key: None,
            cluster: Hex(vec![7; 16]),
            epoch: 2,
            message_key: Bytes32([5; 32]),
            schema: BrokerCertificate::SCHEMA.into(),
            tls_key: Bytes32([6; 32]),
        };
        change(&mut certificate);
        let payload = canonical::write(&certificate).unwrap();
        serde_json::to_vec(&Envelope::sign(CERTIFICATE_TYPE, &payload, "root", &root(seed))).unwrap()
    }

    #[test]
    fn a_broker_is_believed_by_root_key_cluster_epoch_and_connection() {
        let cluster = cluster();
        assert_eq!(cluster.broker(&signed(1, |_| {}), &[6; 32]).unwrap().message_key, Bytes32([5; 32]));
        for (envelope, key, code) in [
            (signed(2, |_| {}), [6; 32], Code::EnvelopeSignature),
            (signed(1, |_| {}), [9; 32], Code::BrokerCertificate),
            (signed(1, |certificate| certificate.epoch = 1), [6; 32], Code::BrokerCertificate),
            (signed(1, |certificate| certificate.cluster = Hex(vec![1; 16])), [6; 32], Code::BrokerCertificate),
            (b"{}".to_vec(), [6; 32], Code::Malformed),
        ] {
            assert_eq!(cluster.broker(&envelope, &key).unwrap_err().code, code);
        }
    }

    #[test]
    fn a_cluster_is_read_as_it_was_written_and_must_be_possible() {
        let good = cluster();
        assert_eq!(Cluster::read(&good.write().unwrap()).unwrap(), good);
        type Change = fn(&mut Cluster);
        let bad: [(Change, &str); 8] = [
            (|cluster| cluster.broker.threshold = 0, "broker keys"),
            (|cluster| cluster.broker.threshold = 2, "broker keys"),
            (|cluster| cluster.broker.keys.extend([cluster.broker.keys[0]]), "twice"),
            (|cluster| cluster.id = Hex(vec![1]), "id"),
            (|cluster| cluster.slots.clear(), "slots"),
            (|cluster| cluster.slots[0].mount = "/".into(), "elsewhere"),
            (|cluster| cluster.slots[0].name = "A".into(), "name"),
            (|cluster| cluster.slots[0].device = Device::Serial(String::new()), "serial"),
        ];
        for (change, word) in bad {
            let mut cluster = good.clone();
            change(&mut cluster);
            let refusal = Cluster::read(&canonical::write(&cluster).unwrap()).unwrap_err();
            assert!(refusal.code == Code::Malformed && refusal.found.contains(word), "{refusal}");
        }
    }

    #[test]
    fn hints_name_brokers_by_address() {
        let hints = |brokers: &[&str]| Hints {
            brokers: brokers.iter().map(|broker| (*broker).to_owned()).collect(),
            network: None,
            release: None,
            schema: Hints::SCHEMA.into(),
        };
        let read = |hints: &Hints| Hints::read(&canonical::write(hints).unwrap());
        assert!(read(&hints(&["10.0.2.2:7443", "[::1]:1"])).is_ok());
        assert!(read(&hints(&["10.0.2.2:7443"; MOST_BROKERS])).is_ok());
        for bad in [&[][..], &["broker.example:7443"], &["10.0.2.2"], &["10.0.2.2:7443"; MOST_BROKERS + 1]] {
            assert_eq!(read(&hints(bad)).unwrap_err().code, Code::Malformed);
        }
    }
}
