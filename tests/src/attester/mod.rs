//! The node's side of KRP/1 without a machine around it: a TPM that holds what a boot would have measured, the log of it, and the messages, each of which a test may change before it is sent.
//!
//! It is written apart from the agent, so that both must speak the same protocol. With [`emulated`] the TPM is a real emulator, with [`software`] a fake that is cheap enough for a thousand nodes.

pub mod emulated;
pub mod software;
mod talk;

use anyhow::{Context, Result};
use attest::binding::{Binding, Commitment, Transcript};
use attest::bytes::{Bytes32, Hex};
use attest::hpke::PrivateKey;
use attest::message::{self, Commit, CommitResult, DiskState, Evidence, Hello, Purpose, Release};
use measurements::boot::Point;
use measurements::canonical::Document;
use measurements::compose::{Composition, Configuration, compose};
use measurements::document::image::ImageReference;
use measurements::document::machine::MachineReference;
use measurements::parse::tcg_log::Log;
use measurements::{Bank, Event};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::event_log;

pub use talk::{Answered, Talk, Wire};

/// Where all state disks of the tests are.
pub const SLOT: &str = "state";
/// What the header of a disk that never was has for its digest, and its volume key for its name.
pub const HEADER: Bytes32 = Bytes32([0x11; 32]);
/// Name of the volume key that nodes of tests report.
pub const VOLUME: Bytes32 = Bytes32([0x22; 32]);
/// The register of the cap.
const CAP: u8 = 15;

/// What a node with this image, in this machine and of this cluster measures: the bytes of the image's reference, of the machine's, and of cluster.json.
pub fn composition(image: &[u8], machine: &[u8], cluster: &[u8]) -> Result<Composition> {
    let (image, machine) = (ImageReference::parse(image)?.measured()?, MachineReference::parse(machine)?.machine()?);
    Ok(compose(&image, &machine, &Configuration::cluster(cluster))?)
}

/// Something that a TPM has signed, and the registers that it is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// PCR 0 to 15.
    pub registers: Vec<Vec<u8>>,
}

/// What an attester asks of its TPM.
pub trait AttesterTpm {
    /// Public area of the endorsement key.
    fn endorsement_key(&self) -> &[u8];
    /// Public area of the attestation key.
    fn attestation_key(&self) -> &[u8];
    /// Loses power, and has it again: another boot.
    ///
    /// # Errors
    /// What the TPM says.
    fn reset(&mut self) -> Result<()>;
    /// Extends a register in all active banks.
    ///
    /// # Errors
    /// What the TPM says.
    fn extend(&mut self, register: u8, digests: &[(Bank, Vec<u8>)]) -> Result<()>;
    /// Quotes PCR 0 to 15.
    ///
    /// # Errors
    /// What the TPM says.
    fn quote(&mut self, bank: Bank, extra_data: &[u8; 32]) -> Result<Quote>;
    /// Activates a credential.
    ///
    /// # Errors
    /// What the TPM says: among others, the credential is for another TPM.
    fn activate(&mut self, blob: &[u8], seed: &[u8]) -> Result<Vec<u8>>;
}

/// What a boot measures until its node attests.
#[derive(Clone, Debug)]
pub struct Boot {
    /// What is in the firmware's log.
    pub firmware: Vec<Event>,
    /// What the kernel and the agent measure.
    pub later: Vec<Event>,
    /// The active banks.
    pub banks: Vec<Bank>,
}

impl Boot {
    /// As predicted, in all banks.
    pub fn of(composition: &Composition) -> Self {
        let (firmware, all) = (composition.events(Point::Firmware), composition.events(Point::Initrd));
        Self { firmware: firmware.to_vec(), later: all[firmware.len()..].to_vec(), banks: Bank::ALL.to_vec() }
    }
}

/// A release that was opened.
pub struct Released {
    /// As the broker signed it.
    pub release: Release,
    /// SHA-256 of its payload.
    pub digest: [u8; 32],
    /// The envelope, as it came.
    pub body: Vec<u8>,
    /// The share.
    pub share: Zeroizing<Vec<u8>>,
    /// The session.
    pub session: Hex,
    /// The bank that was quoted.
    pub bank: Bank,
}

/// A node.
pub struct Attester<T> {
    /// Its TPM.
    pub tpm: T,
    /// The firmware's log.
    pub log: Log,
    /// What it says of its disk.
    pub disk: DiskState,
    /// The key of this boot that a secret is sealed to.
    pub hpke: PrivateKey,
}

/// 32 random bytes.
pub fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow::anyhow!("The kernel gives no random bytes"))?;
    Ok(bytes)
}

/// A key of a new boot.
pub fn hpke_key() -> Result<PrivateKey> {
    Ok(PrivateKey::from_seed(&Zeroizing::new(random()?)))
}

impl<T: AttesterTpm> Attester<T> {
    /// A node whose TPM has just been powered on, after this boot.
    pub fn booted(mut tpm: T, boot: &Boot) -> Result<Self> {
        measure(&mut tpm, boot)?;
        let log = event_log::of(&boot.firmware, &boot.banks);
        Ok(Self { tpm, log, disk: DiskState::Blank, hpke: hpke_key()? })
    }

    /// Ends this boot and begins another.
    pub fn reboot(&mut self, boot: &Boot) -> Result<()> {
        self.tpm.reset()?;
        measure(&mut self.tpm, boot)?;
        self.log = event_log::of(&boot.firmware, &boot.banks);
        self.hpke = hpke_key()?;
        Ok(())
    }

    /// What it says first.
    pub fn hello(&self, purpose: Purpose) -> Result<Hello> {
        Ok(Hello {
            ak: Hex(self.tpm.attestation_key().to_vec()),
            disk: self.disk.clone(),
            ek: Hex(self.tpm.endorsement_key().to_vec()),
            hpke_key: Bytes32(self.hpke.public()),
            nonce: Bytes32(random()?),
            purpose,
            schema: Hello::SCHEMA.into(),
            slot: SLOT.into(),
            versions: [1, 1],
        })
    }

    /// What its evidence must be bound to.
    pub fn extra_data(&self, talk: &Talk) -> Result<[u8; 32]> {
        let (disk_id, header_digest) = match (talk.hello.purpose, &talk.hello.disk) {
            (Purpose::Unlock, DiskState::Luks { uuid, digest }) => (uuid.as_bytes(), &digest.0[..]),
            _ => (&[][..], &[][..]),
        };
        Ok(Binding {
            transcript: talk.transcript(),
            hpke_key: &self.hpke.public(),
            ak_name: &name(self.tpm.attestation_key()),
            purpose: talk.hello.purpose.into(),
            disk_id,
            header_digest,
        }
        .extra_data())
    }

    /// Its evidence.
    pub fn evidence(&mut self, talk: &Talk) -> Result<Evidence> {
        let activation = match &talk.challenge.credential {
            Some(credential) => {
                let secret = self.tpm.activate(&credential.blob.0, &credential.seed.0)?;
                Some(Bytes32(attest::binding::activation(&secret, &talk.transcript())))
            }
            None => None,
        };
        let quote = self.tpm.quote(talk.challenge.bank, &self.extra_data(talk)?)?;
        Ok(Evidence {
            activation,
            event_log: Hex(event_log::write(&self.log)),
            quote: Hex(quote.attest),
            registers: quote.registers.into_iter().map(Hex).collect(),
            release: None,
            schema: Evidence::SCHEMA.into(),
            session: talk.challenge.session.clone(),
            signature: Hex(quote.signature),
            user_space_log: String::new(),
        })
    }

    /// Opens a release that answers this talk.
    pub fn open(&self, talk: &Talk, body: &[u8]) -> Result<Released> {
        let (release, digest): (Release, _) = message::open(body, &talk.message_key)?;
        let transcript = talk.transcript();
        let context = attest::hpke::Context::Release(transcript.as_bytes());
        let share = self.hpke.open(&release.share, context)?;
        let (session, bank) = (talk.challenge.session.clone(), talk.challenge.bank);
        Ok(Released { release, digest, body: body.to_vec(), share, session, bank })
    }

    /// Closes the boot, as before a disk is opened.
    pub fn cap(&mut self, cluster: &[u8], release: &[u8; 32]) -> Result<()> {
        self.say(&format!("cluster:{}", hex::encode(cluster)))?;
        self.say(&format!("release:{}", hex::encode(release)))
    }

    /// Measures words into PCR 15.
    pub fn say(&mut self, words: &str) -> Result<()> {
        let digests: Vec<_> = Bank::ALL.into_iter().map(|bank| (bank, bank.digest(words.as_bytes()))).collect();
        self.tpm.extend(CAP, &digests)
    }

    /// Closes the boot, and reports that the disk was made or opened.
    pub fn report(&mut self, cluster: &[u8], released: &Released, purpose: Purpose) -> Result<Commit> {
        self.cap(cluster, &released.digest)?;
        self.say(&format!("volume:{}", hex::encode(VOLUME.0)))?;
        let result = match purpose {
            Purpose::Provision => CommitResult::Formatted { header: HEADER, volume: VOLUME },
            Purpose::Unlock => CommitResult::Opened { header: HEADER, volume: VOLUME },
        };
        self.commit(released, result, released.release.disk.generation + 1)
    }

    /// It has the disk of this release from now on.
    pub fn keep(&mut self, released: &Released) {
        self.disk = DiskState::Luks { uuid: released.release.disk.id.clone(), digest: HEADER };
    }

    /// The report of what became of a release, with a second quote.
    pub fn commit(&mut self, released: &Released, result: CommitResult, generation: u64) -> Result<Commit> {
        let (header_digest, volume) = match &result {
            CommitResult::Formatted { header, volume } | CommitResult::Opened { header, volume } => {
                (&header.0[..], &volume.0[..])
            }
            CommitResult::Failed { .. } => (&[][..], &[][..]),
        };
        let commitment = Commitment { release: &released.digest, header_digest, volume, generation };
        let quote = self.tpm.quote(released.bank, &commitment.extra_data())?;
        Ok(Commit {
            generation,
            quote: Hex(quote.attest),
            registers: quote.registers.into_iter().map(Hex).collect(),
            release: Bytes32(released.digest),
            result,
            schema: Commit::SCHEMA.into(),
            session: released.session.clone(),
            signature: Hex(quote.signature),
            stages: [("attestation".to_owned(), 1)].into(),
        })
    }
}

/// Measures a boot into a TPM that was just powered on.
pub fn measure(tpm: &mut impl AttesterTpm, boot: &Boot) -> Result<()> {
    for event in boot.firmware.iter().chain(&boot.later) {
        let legal = event.digests.legal().first().with_context(|| format!("{} is not predicted", event.input))?;
        let digests: Vec<_> = legal.clone().into_iter().filter(|(bank, _)| boot.banks.contains(bank)).collect();
        tpm.extend(event.register, &digests)?;
    }
    Ok(())
}

/// Name of a key with this public area (TCG TPM 2.0 Library, Part 1, section 16).
pub fn name(area: &[u8]) -> Vec<u8> {
    const ALG_SHA256: [u8; 2] = [0, 0x0b];
    [&ALG_SHA256[..], &Bank::Sha256.digest(area)].concat()
}

/// The transcript of a conversation.
pub fn transcript(hello: &[u8; 32], challenge: &[u8; 32], exporter: &[u8; 32]) -> Transcript {
    Transcript::new(hello, challenge, exporter)
}
