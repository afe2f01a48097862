//! What evidence is bound to, so that it proves nothing in another conversation: the transcript of the messages and of the TLS connection, the key that a secret is sealed to, and what it is asked for
//! (docs of the protocol KRP/1, "binder").
//!
//! Every field has its length before it, so that no two different sets of fields give the same bytes.

use sha2::{Digest, Sha256, Sha512};

/// SHA-256 over the two messages that began a conversation and the exporter of the TLS connection that carried them (RFC 8446, section 7.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transcript([u8; 32]);

impl Transcript {
    /// `hello` and `challenge` are the SHA-256 of the messages as they were sent.
    pub fn new(hello: &[u8; 32], challenge: &[u8; 32], exporter: &[u8; 32]) -> Self {
        let hash = Sha256::new().chain_update(b"krp1-t");
        Self(hash.chain_update(hello).chain_update(challenge).chain_update(exporter).finalize().into())
    }

    /// The digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// What a disk is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A disk is made.
    Provision,
    /// A disk is opened.
    Unlock,
    /// A running system shows what it is.
    Probe,
}

impl Purpose {
    /// The word in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Provision => "provision",
            Self::Unlock => "unlock",
            Self::Probe => "probe",
        }
    }
}

/// All that evidence is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding<'a> {
    /// The conversation.
    pub transcript: Transcript,
    /// Public key of this boot that the secret is sealed to (RFC 9180).
    pub hpke_key: &'a [u8],
    /// Name of the attestation key; empty without a TPM.
    pub ak_name: &'a [u8],
    /// What is asked for.
    pub purpose: Purpose,
    /// The disk's id; empty where there is none yet.
    pub disk_id: &'a [u8],
    /// SHA-256 of the disk's header; empty where there is none yet.
    pub header_digest: &'a [u8],
}

impl Binding<'_> {
    /// `extraData` of a TPM's quote: 32 bytes, which every TPM takes.
    pub fn extra_data(&self) -> [u8; 32] {
        Sha256::digest(self.framed(b"krp1-q")).into()
    }

    /// Report data of a TEE's report: 64 bytes.
    pub fn report_data(&self) -> [u8; 64] {
        Sha512::digest(self.framed(b"krp1-r")).into()
    }

    fn framed(&self, label: &[u8]) -> Vec<u8> {
        let purpose = self.purpose.name().as_bytes();
        framed(label, &[&self.transcript.0, self.hpke_key, self.ak_name, purpose, self.disk_id, self.header_digest])
    }
}

/// All that the quote of a commit is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commitment<'a> {
    /// SHA-256 of the release's payload.
    pub release: &'a [u8; 32],
    /// SHA-256 of the disk's header; empty where nothing was opened.
    pub header_digest: &'a [u8],
    /// What names the volume key; empty where nothing was opened.
    pub volume: &'a [u8],
    /// What the generation block says.
    pub generation: u64,
}

impl Commitment<'_> {
    /// `extraData` of a TPM's quote.
    pub fn extra_data(&self) -> [u8; 32] {
        let generation = self.generation.to_be_bytes();
        let fields = [&self.release[..], self.header_digest, self.volume, &generation];
        Sha256::digest(framed(b"krp1-c", &fields)).into()
    }
}

/// What an activated credential answers, with which key: HMAC-SHA-256 under the credential.
pub fn activation(credential: &[u8], transcript: &Transcript) -> [u8; 32] {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, credential);
    let mut tag = [0; 32];
    tag.copy_from_slice(ring::hmac::sign(&key, &[b"krp1-a", &transcript.0[..]].concat()).as_ref());
    tag
}

/// Digest of the request that a refusal or a hold answers, on the connection with this exporter: a decision for another request, or on another connection (which a man-in-the-middle with a stolen TLS key would have), has another digest.
pub fn answered(request: &[u8], exporter: &[u8; 32]) -> [u8; 32] {
    let request = Sha256::digest(request);
    Sha256::new().chain_update(b"krp1-d").chain_update(request).chain_update(exporter).finalize().into()
}

/// The exporter of the TLS connection that carries a conversation (RFC 8446, section 7.5): label, and the context is empty. 32 bytes.
pub const EXPORTER: &[u8] = b"EXPORTER-krp1";

pub(crate) fn framed(label: &[u8], fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = label.to_vec();
    for field in fields {
        bytes.extend((field.len() as u64).to_be_bytes());
        bytes.extend(*field);
    }
    bytes
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One that tests begin with.
    pub(crate) fn binding() -> Binding<'static> {
        Binding {
            transcript: Transcript::new(&[1; 32], &[2; 32], &[3; 32]),
            hpke_key: b"key",
            ak_name: b"name",
            purpose: Purpose::Unlock,
            disk_id: b"disk",
            header_digest: b"header",
        }
    }

    #[test]
    fn every_field_moves_the_binding() {
        let all = [
            binding(),
            Binding { transcript: Transcript::new(&[1; 32], &[2; 32], &[4; 32]), ..binding() },
            Binding { transcript: Transcript::new(&[2; 32], &[1; 32], &[3; 32]), ..binding() },
            Binding { hpke_key: b"other", ..binding() },
            Binding { ak_name: b"", ..binding() },
            Binding { purpose: Purpose::Provision, ..binding() },
            // The same bytes in a row, cut at another place.
            Binding { disk_id: b"diskh", header_digest: b"eader", ..binding() },
            Binding { header_digest: b"", ..binding() },
        ];
        for (index, one) in all.iter().enumerate() {
            for other in &all[index + 1..] {
                assert_ne!(one.extra_data(), other.extra_data());
                assert_ne!(one.report_data(), other.report_data());
            }
        }
        assert_eq!(binding().extra_data(), binding().extra_data());
    }

    #[test]
    fn every_field_moves_the_commitment_and_it_is_no_binding() {
        let commitment = Commitment { release: &[1; 32], header_digest: b"header", volume: b"volume", generation: 1 };
        let all = [
            commitment,
            Commitment { release: &[2; 32], ..commitment },
            Commitment { header_digest: b"", ..commitment },
            Commitment { volume: b"", ..commitment },
            Commitment { generation: 2, ..commitment },
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(all[index + 1..].iter().all(|other| one.extra_data() != other.extra_data()));
            assert_ne!(one.extra_data(), binding().extra_data());
        }
    }

    #[test]
    fn a_decision_answers_one_request_on_one_connection() {
        let all = [answered(b"one", &[1; 32]), answered(b"other", &[1; 32]), answered(b"one", &[2; 32])];
        assert!(all[0] != all[1] && all[0] != all[2] && all[1] != all[2]);
        assert_eq!(all[0], answered(b"one", &[1; 32]));
    }

    #[test]
    fn an_activation_answers_one_conversation() {
        let (one, other) = (binding().transcript, Transcript::new(&[9; 32], &[2; 32], &[3; 32]));
        assert_eq!(activation(b"secret", &one), activation(b"secret", &one));
        assert_ne!(activation(b"secret", &one), activation(b"secret", &other));
        assert_ne!(activation(b"secret", &one), activation(b"other", &one));
    }
}
