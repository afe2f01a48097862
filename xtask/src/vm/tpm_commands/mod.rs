//! The TPM 2.0 commands that tests and tools of this repository give to an emulated TPM, over whatever channel it has (TCG TPM 2.0 Library, Part 3). No libtss2: what a node sends is made here apart from the code that
//! nodes run, so that both must be right.
//!
//! Only what an emulator under our own hands needs: no parameter encryption, no audit, empty passwords.

mod keys;
mod wire;

use std::io::{Read, Write};

use measurements::Bank;

pub use keys::{SigningKey, endorsement_area, signing_area};
use wire::{Authorisation, Command, Response};

const RH_NULL: Handle = Handle(0x4000_0007);
const RH_LOCKOUT: Handle = Handle(0x4000_000a);
const RH_ENDORSEMENT: Handle = Handle(0x4000_000b);
const ALG_SHA256: u16 = 0x0b;
/// TPM_SE_POLICY.
const POLICY_SESSION: u8 = 1;
/// TPM_ST_HASHCHECK.
const HASH_CHECK: u16 = 0x8024;

/// A command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// The TPM cannot be reached.
    #[error("Failed to talk to the TPM ({command}): {source}; has swtpm ended?")]
    Channel {
        /// The command.
        command: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The TPM refused.
    #[error("the TPM answered {command} with 0x{code:03x} (TPM 2.0 Library, Part 2, section 6.6)")]
    Refused {
        /// The command.
        command: &'static str,
        /// TPM_RC.
        code: u32,
    },
    /// The response is cut short.
    #[error("the TPM's response to {command} is cut short")]
    Short {
        /// The command.
        command: &'static str,
    },
}

/// A loaded object, a session, a hierarchy or a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle(u32);

/// A loaded key.
#[derive(Clone, Debug)]
pub struct Key {
    /// Where it is loaded.
    pub handle: Handle,
    /// Its public area (TPMT_PUBLIC).
    pub area: Vec<u8>,
}

/// Something that a TPM has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
}

/// Registers of one bank, as a bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The bank.
    pub bank: Bank,
    /// Bit 0 is PCR 0.
    pub registers: u32,
}

impl Selection {
    /// PCR 0 to 15, which a node quotes.
    pub const fn of_a_node(bank: Bank) -> Self {
        Self { bank, registers: 0xffff }
    }

    /// TPMS_PCR_SELECTION.
    fn write(&self) -> Vec<u8> {
        let [a, b, c, _] = self.registers.to_le_bytes();
        [&self.bank.algorithm().to_be_bytes()[..], &[3, a, b, c]].concat()
    }
}

fn selections(all: &[Selection]) -> Vec<u8> {
    let mut bytes = (all.len() as u32).to_be_bytes().to_vec();
    bytes.extend(all.iter().flat_map(Selection::write));
    bytes
}

/// A TPM that takes commands over `C`.
#[derive(Debug)]
pub struct TpmCommands<C> {
    channel: C,
}

impl<C: Read + Write> TpmCommands<C> {
    /// A TPM at the other end of `channel`.
    pub fn new(channel: C) -> Self {
        Self { channel }
    }

    fn execute(&mut self, command: Command) -> Result<Response, TpmError> {
        command.execute(&mut self.channel)
    }

    /// TPM2_Startup(TPM_SU_CLEAR).
    pub fn startup(&mut self) -> Result<(), TpmError> {
        self.execute(Command::new("TPM2_Startup", 0x144).u16(0)).map(drop)
    }

    /// TPM2_Shutdown(TPM_SU_CLEAR).
    pub fn shutdown(&mut self) -> Result<(), TpmError> {
        self.execute(Command::new("TPM2_Shutdown", 0x145).u16(0)).map(drop)
    }

    /// TPM2_Clear by the lockout hierarchy, whose password is empty: the owner's keys and the counts of resets go, the endorsement key stays.
    pub fn clear(&mut self) -> Result<(), TpmError> {
        self.execute(Command::new("TPM2_Clear", 0x126).authorised(RH_LOCKOUT, Authorisation::Password)).map(drop)
    }

    /// The endorsement key, made anew from its template: each time the same.
    pub fn endorsement_key(&mut self) -> Result<Key, TpmError> {
        self.create_primary(&keys::endorsement())
    }

    /// A signing key under the endorsement hierarchy: of one template each time the same.
    pub fn signing_key(&mut self, key: SigningKey) -> Result<Key, TpmError> {
        self.create_primary(&keys::signing(key))
    }

    /// TPM2_CreatePrimary in the endorsement hierarchy: no password, no data, no creation PCRs.
    fn create_primary(&mut self, template: &[u8]) -> Result<Key, TpmError> {
        let command = Command::new("TPM2_CreatePrimary", 0x131)
            .authorised(RH_ENDORSEMENT, Authorisation::Password)
            .gives_handle()
            .sized(&[0; 4])
            .sized(template)
            .sized(&[])
            .u32(0);
        let mut response = self.execute(command)?;
        Ok(Key { handle: Handle(response.u32()?), area: response.sized()? })
    }

    /// TPM2_FlushContext.
    pub fn flush(&mut self, handle: Handle) -> Result<(), TpmError> {
        self.execute(Command::new("TPM2_FlushContext", 0x165).handle(handle)).map(drop)
    }

    /// TPM2_GetRandom: at most 32 bytes.
    pub fn random(&mut self, count: u16) -> Result<Vec<u8>, TpmError> {
        self.execute(Command::new("TPM2_GetRandom", 0x17b).u16(count))?.sized()
    }

    /// TPM2_PCR_Extend with a digest for each of these banks; those that are not active ignore theirs.
    pub fn extend<'a>(
        &mut self,
        register: u8,
        digests: impl IntoIterator<Item = (Bank, &'a [u8])>,
    ) -> Result<(), TpmError> {
        let digests: Vec<(Bank, &[u8])> = digests.into_iter().collect();
        let mut command = Command::new("TPM2_PCR_Extend", 0x182)
            .authorised(Handle(register.into()), Authorisation::Password)
            .u32(digests.len() as u32);
        for (bank, digest) in digests {
            command = command.u16(bank.algorithm()).bytes(digest);
        }
        self.execute(command).map(drop)
    }

    /// The value of one register, by TPM2_PCR_Read; empty where the bank is not active.
    pub fn read(&mut self, bank: Bank, register: u8) -> Result<Vec<u8>, TpmError> {
        let selection = selections(&[Selection { bank, registers: 1 << register }]);
        let mut response = self.execute(Command::new("TPM2_PCR_Read", 0x17e).bytes(&selection))?;
        // The counter of updates, then what was selected.
        response.take(4)?;
        for _ in 0..response.u32()? {
            response.take(2)?;
            let length = usize::from(response.u8()?);
            response.take(length)?;
        }
        if response.u32()? == 0 { Ok(vec![]) } else { response.sized() }
    }

    /// TPM2_Quote.
    pub fn quote(&mut self, key: &Key, extra_data: &[u8], all: &[Selection]) -> Result<Attested, TpmError> {
        let command = Command::new("TPM2_Quote", 0x158)
            .authorised(key.handle, Authorisation::Password)
            .sized(extra_data)
            .u16(keys::ALG_NULL)
            .bytes(&selections(all));
        attested(self.execute(command)?)
    }

    /// TPM2_GetTime: attests the clock, which is no quote.
    pub fn get_time(&mut self, key: &Key, extra_data: &[u8]) -> Result<Attested, TpmError> {
        let command = Command::new("TPM2_GetTime", 0x14c)
            .authorised(RH_ENDORSEMENT, Authorisation::Password)
            .authorised(key.handle, Authorisation::Password)
            .sized(extra_data)
            .u16(keys::ALG_NULL);
        attested(self.execute(command)?)
    }

    /// TPM2_Certify of a key by itself: attests its name, which is no quote.
    pub fn certify(&mut self, key: &Key, extra_data: &[u8]) -> Result<Attested, TpmError> {
        let command = Command::new("TPM2_Certify", 0x148)
            .authorised(key.handle, Authorisation::Password)
            .authorised(key.handle, Authorisation::Password)
            .sized(extra_data)
            .u16(keys::ALG_NULL);
        attested(self.execute(command)?)
    }

    /// TPM2_Hash, then TPM2_Sign: any bytes, as long as they do not look like something that a TPM made (TPM_GENERATED_VALUE), where the key is restricted.
    pub fn sign(&mut self, key: &Key, bytes: &[u8]) -> Result<Vec<u8>, TpmError> {
        let hash = Command::new("TPM2_Hash", 0x17d).sized(bytes).u16(ALG_SHA256).u32(RH_ENDORSEMENT.0);
        let mut hashed = self.execute(hash)?;
        let digest = hashed.sized()?;
        hashed.take(2)?;
        let (hierarchy, ticket) = (hashed.u32()?, hashed.sized()?);
        let command = Command::new("TPM2_Sign", 0x15d)
            .authorised(key.handle, Authorisation::Password)
            .sized(&digest)
            .u16(keys::ALG_NULL)
            .u16(HASH_CHECK)
            .u32(hierarchy)
            .sized(&ticket);
        self.execute(command)?.signature()
    }

    /// TPM2_ActivateCredential, with the policy of the endorsement key: the credential, if both keys are of this TPM.
    pub fn activate(&mut self, key: &Key, endorsement: &Key, blob: &[u8], seed: &[u8]) -> Result<Vec<u8>, TpmError> {
        let session = self.endorsement_session()?;
        let command = Command::new("TPM2_ActivateCredential", 0x147)
            .authorised(key.handle, Authorisation::Password)
            .authorised(endorsement.handle, Authorisation::Policy(session))
            .sized(blob)
            .sized(seed);
        let result = self.execute(command).and_then(|mut response| response.sized());
        self.flush(session)?;
        result
    }

    /// A policy session in which the endorsement hierarchy has been authorised.
    fn endorsement_session(&mut self) -> Result<Handle, TpmError> {
        let nonce = self.random(16)?;
        let start = Command::new("TPM2_StartAuthSession", 0x176)
            .handle(RH_NULL)
            .handle(RH_NULL)
            .gives_handle()
            .sized(&nonce)
            .sized(&[])
            .u8(POLICY_SESSION)
            .u16(keys::ALG_NULL)
            .u16(ALG_SHA256);
        let session = Handle(self.execute(start)?.u32()?);
        let policy = Command::new("TPM2_PolicySecret", 0x151)
            .authorised(RH_ENDORSEMENT, Authorisation::Password)
            .handle(session)
            .sized(&[])
            .sized(&[])
            .sized(&[])
            .u32(0);
        self.execute(policy)?;
        Ok(session)
    }
}

fn attested(mut response: Response) -> Result<Attested, TpmError> {
    Ok(Attested { attest: response.sized()?, signature: response.signature()? })
}
