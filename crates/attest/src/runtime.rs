//! What a running node shows of itself to whoever asks: a quote bound to the asker's nonce and to the node's TLS key, and both logs. Nothing is released for it; it is for people and programs that want to know what they talk to.
//!
//! The verdict names what was checked, each thing for itself: image, machine, configuration, cap, volume, and how the attestation key is known.

use measurements::canonical::Document;
use serde::{Deserialize, Serialize};

use crate::binding::framed;
use crate::bytes::{Bytes32, Hex, at_most};
use crate::message::Credential;

/// What somebody asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The asker's nonce.
    pub nonce: Bytes32,
    /// Its schema.
    pub schema: String,
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The attestation key's public area (TPMT_PUBLIC).
    pub ak: Hex,
    /// The bank that is quoted.
    pub bank: measurements::Bank,
    /// The broker's certificate of this node, from the acknowledgement of its boot; an envelope.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The certificate of the broker that signed it; an envelope.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker: Option<String>,
    /// The endorsement key's public area.
    pub ek: Hex,
    /// The certificate of that key (X.509, DER), where the TPM has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ek_certificate: Option<Hex>,
    /// The firmware's log.
    pub event_log: Hex,
    /// TPMS_ATTEST.
    pub quote: Hex,
    /// The newest head of the broker's audit log that the node was given in its boot (C2SP tlog-checkpoint), signed by the log. It is not part of the quote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    /// PCR 0 to 15 of the quoted bank, in order.
    #[serde(deserialize_with = "at_most::<16, _, _>")]
    pub registers: Vec<Hex>,
    /// Its schema.
    pub schema: String,
    /// TPMT_SIGNATURE.
    pub signature: Hex,
    /// systemd's log, with the agent's measurements.
    pub user_space_log: String,
}

/// Asks a node to activate a credential, by which its attestation key is known to be of the TPM with this endorsement key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activate {
    /// What its TPM must activate.
    pub credential: Credential,
    /// Its schema.
    pub schema: String,
}

/// What an activated credential answers: [`activation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activated {
    /// HMAC-SHA-256 under the credential.
    pub proof: Bytes32,
    /// Its schema.
    pub schema: String,
}

macro_rules! documents {
    ($($type:ident, $name:literal, $schema:literal, $largest:expr;)*) => {$(
        impl Document for $type {
            const NAME: &'static str = $name;
            const SCHEMA: &'static str = $schema;
            const LARGEST: usize = $largest;
        }
    )*};
}

documents! {
    Question, "question", "cairn.runtime.question/1", 4 << 10;
    Answer, "answer", "cairn.runtime.answer/1", 1 << 20;
    Activate, "credential", "cairn.runtime.activate/1", 16 << 10;
    Activated, "activation", "cairn.runtime.activated/1", 4 << 10;
}

/// `extraData` of a runtime quote: `krp1-v`, then nonce, SHA-256 of the SubjectPublicKeyInfo of the node's TLS key, and name of the attestation key, each with its length.
pub fn extra_data(nonce: &[u8; 32], tls_key: &[u8; 32], ak_name: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(framed(b"krp1-v", &[nonce, tls_key, ak_name])).into()
}

/// What an activated credential answers in a connection with this TLS key.
pub fn activation(credential: &[u8], tls_key: &[u8; 32]) -> [u8; 32] {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, credential);
    let mut tag = [0; 32];
    tag.copy_from_slice(ring::hmac::sign(&key, &[b"krp1-va", &tls_key[..]].concat()).as_ref());
    tag
}

#[cfg(feature = "verifier")]
pub use verify::{AkTrust, Checked, Verdict, by_certificate, verify};

#[cfg(feature = "verifier")]
mod verify {
    use measurements::Bank;
    use measurements::boot::Point;
    use measurements::compose::Composition;
    use measurements::parse::cel;
    use measurements::parse::tcg_log::Log;
    use measurements::text::cause_of;

    use super::{Answer, extra_data};
    use crate::cluster::{Assurance, Cluster};
    use crate::message::{self, NodeCertificate};
    use crate::policy::{self, CAP};
    use crate::tpm::{AttestationKey, Evidence, Quoted, check};
    use crate::{Code, Refusal};

    /// How an attestation key is known.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum AkTrust {
        /// It activated a credential for an endorsement key of the asker's list.
        EndorsementKey(String),
        /// It activated a credential for an endorsement key (its SHA-256) that an authority (SHA-256 of its certificate) says is one of a TPM of theirs.
        EndorsementCertificate(String, String),
        /// A broker of the cluster has certified one boot of this node with it.
        NodeCertificate(Box<NodeCertificate>),
    }

    /// What was found.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Verdict {
        /// How the attestation key is known.
        pub key: AkTrust,
        /// What the evidence is worth.
        pub assurance: Assurance,
        /// What was checked, in words.
        pub checked: Vec<Checked>,
    }

    /// One thing that was checked.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Checked {
        /// What.
        pub what: &'static str,
        /// What was found.
        pub found: String,
    }

    /// Checks an answer to `nonce` of a node at the other end of a TLS connection with `tls_key`. `key` is how its attestation key is known, which was checked before.
    ///
    /// # Errors
    /// Codes of quotes, logs and registers, as for a release; [`Code::PcrMismatch`] where the boot was not closed as a boot of this cluster is.
    pub fn verify(
        answer: &Answer,
        nonce: &[u8; 32],
        tls_key: &[u8; 32],
        expected: &Composition,
        cluster: &Cluster,
        key: AkTrust,
    ) -> Result<Verdict, Refusal> {
        let ak = AttestationKey::parse(&answer.ak.0)?;
        if answer.bank == Bank::Sha1 {
            return Err(Refusal::new(Code::PcrBank, "the quote is over the bank SHA-1, which nobody should believe"));
        }
        let registers = (0..).zip(answer.registers.iter().map(|value| value.0.clone())).collect();
        let evidence = Evidence { attest: &answer.quote.0, signature: &answer.signature.0, registers: &registers };
        let quoted = check(&evidence, &ak, answer.bank, &extra_data(nonce, tls_key, ak.name().as_bytes()))?;
        let log = Log::parse(&answer.event_log.0)
            .map_err(|error| Refusal::new(Code::Malformed, format!("the firmware's log: {}", cause_of(&error))))?;
        policy::as_predicted(&quoted, &log, expected, Point::Running, &[CAP])?;
        closed(&quoted, answer.user_space_log.as_bytes(), cluster, key)
    }

    /// The verdict on a boot whose registers are as predicted: it was closed as a boot of this cluster, and a certificate that vouches for its key is of this boot.
    pub(super) fn closed(quoted: &Quoted, log: &[u8], cluster: &Cluster, key: AkTrust) -> Result<Verdict, Refusal> {
        let (release, volume) = cap(quoted, log, cluster)?;
        if let AkTrust::NodeCertificate(certificate) = &key {
            of_this_boot(certificate, quoted, &release, &volume)?;
        }
        let assurance = assurance(&key, cluster)?;
        let say = |what, found: String| Checked { what, found };
        let checked = vec![
            say("image", "every event and register of the image is as its reference says".into()),
            say("machine", "firmware, shape and boot order are as the machine's reference says".into()),
            say("configuration", format!("PCR 12 is that of the cluster {}", hex::encode(&cluster.id.0))),
            say("cap", format!("the boot was closed with the release {release} before its disk was opened")),
            say("volume", format!("it runs on the volume {volume}")),
            say("assurance", format!("{assurance}: {}", trusted_with(assurance))),
        ];
        Ok(Verdict { key, assurance, checked })
    }

    /// What a quote of a TPM is worth whose key is known so. A broker's certificate says whether references were signed; whoever asks with an endorsement key vouches for the references that are given.
    fn assurance(key: &AkTrust, cluster: &Cluster) -> Result<Assurance, Refusal> {
        let named = match key {
            AkTrust::NodeCertificate(certificate) => &*certificate.assurance,
            AkTrust::EndorsementKey(_) | AkTrust::EndorsementCertificate(..) => Assurance::TpmVirtual.name(),
        };
        let known = Assurance::ALL.into_iter().find(|assurance| assurance.name() == named);
        known.filter(|assurance| *assurance >= cluster.assurance).ok_or_else(|| {
            let found = format!("the node's evidence is worth {named:?}, cluster.json demands {}", cluster.assurance);
            Refusal::new(Code::AkUnverified, found)
        })
    }

    /// What must be trusted beside the evidence.
    const fn trusted_with(assurance: Assurance) -> &'static str {
        match assurance {
            Assurance::Development => "the references are unsigned, and the host of the machine is trusted",
            Assurance::Simulated => "the hardware is simulated, and the host of the machine is trusted",
            Assurance::TpmVirtual => "the host of the machine is trusted, because the TPM can be the host's",
            Assurance::TpmDiscrete => "everyone with access to the bus of the TPM is trusted",
            Assurance::Snp | Assurance::Tdx => "the maker of the processor is trusted",
        }
    }

    /// A certificate of an earlier boot says nothing about this one.
    pub(super) fn of_this_boot(
        certificate: &NodeCertificate,
        quoted: &Quoted,
        release: &str,
        volume: &str,
    ) -> Result<(), Refusal> {
        let refuse =
            |what: &str| Err(Refusal::new(Code::AkUnverified, format!("the node's certificate is of another {what}")));
        if (certificate.reset, certificate.restart) != (quoted.boot.reset, quoted.boot.restart) {
            return refuse("boot");
        }
        if hex::encode(certificate.release.0) != release {
            return refuse("release");
        }
        if hex::encode(certificate.volume.0) != volume {
            return refuse("volume");
        }
        Ok(())
    }

    /// Release and volume that PCR 15 was extended with: `cluster:<id>`, `release:<digest>`, `volume:<name>`, these three and nothing else.
    fn cap(quoted: &Quoted, log: &[u8], cluster: &Cluster) -> Result<(String, String), Refusal> {
        let refuse = |found: String| Refusal::new(Code::PcrMismatch, found);
        let records =
            cel::parse(log).map_err(|error| Refusal::new(Code::Malformed, format!("systemd's log: {error}")))?;
        let words: Vec<&str> =
            records.iter().filter(|record| record.register == 15).map(|record| record.words.as_str()).collect();
        let [first, second, third] = words[..] else {
            return Err(refuse(format!(
                "PCR 15 was extended {} times, a boot of a cluster extends it three times",
                words.len()
            )));
        };
        if first != format!("cluster:{}", hex::encode(&cluster.id.0)) {
            return Err(refuse(format!("PCR 15 begins with {first:?}, which is not this cluster")));
        }
        let named = |word: &str, name: &str| {
            let digits = word.strip_prefix(name).filter(|rest| rest.len() == 64)?;
            digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| digits.to_owned())
        };
        let (Some(release), Some(volume)) = (named(second, "release:"), named(third, "volume:")) else {
            return Err(refuse(format!(
                "PCR 15 was extended with {second:?} and {third:?}, not with release and volume"
            )));
        };
        let bank = quoted.bank;
        let extended = |value: Vec<u8>, word: &&str| bank.extend(&value, &bank.digest(word.as_bytes()));
        let value = words.iter().fold(vec![0; bank.length()], extended);
        if quoted.registers.get(&15) != Some(&value) {
            return Err(refuse("systemd's log does not lead to the quoted PCR 15".into()));
        }
        Ok((release, volume))
    }

    /// How the attestation key is known by the node's certificate, which a broker of this cluster signed. `now` is in seconds since 1970; `name` is that of the node that is meant, if any node of the cluster will not do.
    ///
    /// # Errors
    /// [`Code::AkUnverified`] without a certificate, or with one of another key, cluster, epoch or node, with less assurance than the cluster demands, or one that has ended; codes of envelopes and of brokers' certificates.
    pub fn by_certificate(
        answer: &Answer,
        cluster: &Cluster,
        name: Option<&str>,
        now: u64,
    ) -> Result<AkTrust, Refusal> {
        let refuse = |found: &str| Refusal::new(Code::AkUnverified, found);
        let (Some(node), Some(broker)) = (&answer.certificate, &answer.broker) else {
            return Err(refuse("the node has no certificate of a broker"));
        };
        let broker = cluster.certificate(broker.as_bytes())?;
        let (certificate, _): (NodeCertificate, _) = message::open(node.as_bytes(), &broker.message_key)?;
        let key = AttestationKey::parse(&answer.ak.0)?;
        if certificate.ak_name.0 != key.name().as_bytes() || certificate.cluster != hex::encode(&cluster.id.0) {
            return Err(refuse("the node's certificate is of another key or another cluster"));
        }
        if certificate.epoch != broker.epoch {
            return Err(refuse("the node's certificate is of another epoch than the broker that signed it"));
        }
        if now > certificate.not_after {
            return Err(refuse("the node's certificate has ended: restart the node"));
        }
        if name.is_some_and(|name| name != certificate.node) {
            return Err(refuse(&format!("this is the node {:?}", certificate.node)));
        }
        let key = AkTrust::NodeCertificate(Box::new(certificate));
        assurance(&key, cluster)?;
        Ok(key)
    }
}

#[cfg(feature = "verifier")]
#[cfg(test)]
mod tests;
