//! What a node asks of its TPM to show what it is: its endorsement key, an attestation key, quotes, and the activation of credentials (TCG TPM 2.0 Library, Part 3). Everything comes out as the bytes that `attest` reads.
//!
//! Both keys are primary keys of the endorsement hierarchy, made anew from its seed each time: nothing is stored, and a TPM gives the same keys as long as it is not cleared. The endorsement key is RSA 2048 by template
//! L-1 of the TCG EK Credential Profile; the attestation key is ECC P-256, restricted to signing what the TPM itself made.

mod certificate;
mod keys;
mod quote;

use std::collections::BTreeMap;

use measurements::Bank;
use tss_esapi::handles::{KeyHandle, SessionHandle};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::{Context, Error as TpmError, WrapperErrorKind};
use zeroize::Zeroizing;

pub use certificate::endorsement_certificate;

/// What could not be done, and what the TPM said.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct Error {
    what: &'static str,
    source: TpmError,
}

fn wrong() -> TpmError {
    TpmError::WrapperError(WrapperErrorKind::WrongValueFromTpm)
}

fn failed(what: &'static str) -> impl Fn(TpmError) -> Error {
    move |source| Error { what, source }
}

/// A quote, and the values that were quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// PCR 0 to 15.
    pub registers: BTreeMap<u8, Vec<u8>>,
}

/// The two keys of a TPM. They are flushed when [`Keys::flush`] is called; a TPM's resource manager does it when the connection ends. Each quote and each activation has a session of its own, so that keys may be kept for as long as the
/// system runs: a session that is kept falls behind the TPM's count of saved sessions, which then starts no other (TCG TPM 2.0 Library, Part 1, section 30.5).
#[derive(Debug)]
pub struct Keys {
    ek: KeyHandle,
    ak: KeyHandle,
    ek_area: Vec<u8>,
    ak_area: Vec<u8>,
}

impl Keys {
    /// Makes both keys.
    ///
    /// # Errors
    /// [`Error`].
    pub fn make(context: &mut Context) -> Result<Self, Error> {
        let (ek, ek_area) = keys::endorsement(context)?;
        let (ak, ak_area) = keys::attestation(context)?;
        Ok(Self { ek, ak, ek_area, ak_area })
    }

    /// The endorsement key's public area (TPMT_PUBLIC).
    pub fn endorsement_key(&self) -> &[u8] {
        &self.ek_area
    }

    /// The attestation key's public area (TPMT_PUBLIC).
    pub fn attestation_key(&self) -> &[u8] {
        &self.ak_area
    }

    /// Quotes PCR 0 to 15 of a bank. Registers that move meanwhile are read again.
    ///
    /// # Errors
    /// [`Error`].
    pub fn quote(&self, context: &mut Context, bank: Bank, extra_data: &[u8; 32]) -> Result<Quote, Error> {
        self.in_session(context, |context, session| quote::quote(context, self, session, bank, extra_data))
    }

    /// Activates a credential that was made for these two keys: `blob` is a TPM2B_ID_OBJECT and `seed` a TPM2B_ENCRYPTED_SECRET, both without their lengths.
    ///
    /// # Errors
    /// [`Error`]: among others, the credential was made for other keys.
    pub fn activate(&self, context: &mut Context, blob: &[u8], seed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.in_session(context, |context, session| keys::activate(context, self, session, blob, seed))
    }

    /// Runs a command in a session that is salted to the endorsement key, and ends the session.
    fn in_session<T>(
        &self,
        context: &mut Context,
        run: impl FnOnce(&mut Context, AuthSession) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let session = keys::salted(context, self.ek)?;
        let done = run(context, session);
        end_session(context, session.into());
        done
    }

    /// Whether the TPM still has both keys: a reset takes them, a command that it refuses does not.
    pub fn are_loaded(&self, context: &mut Context) -> bool {
        [self.ek, self.ak].into_iter().all(|key| context.read_public(key).is_ok())
    }

    /// Takes both keys out of the TPM.
    pub fn flush(self, context: &mut Context) {
        for key in [self.ek, self.ak] {
            flush(context, key.into());
        }
    }
}

/// What cannot be flushed is flushed when the connection ends.
fn flush(context: &mut Context, handle: tss_esapi::handles::ObjectHandle) {
    let _ = context.flush_context(handle);
}

fn end_session(context: &mut Context, session: SessionHandle) {
    flush(context, session.into());
}
