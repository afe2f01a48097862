//! The endorsement key, the attestation key, and credentials for both.

use tss_esapi::Context;
use tss_esapi::abstraction::AsymmetricAlgorithmSelection;
use tss_esapi::abstraction::ek::create_ek_public_from_default_template_2;
use tss_esapi::attributes::{ObjectAttributesBuilder, SessionAttributesBuilder};
use tss_esapi::constants::SessionType;
use tss_esapi::handles::{AuthHandle, KeyHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::{EccSchemeAlgorithm, HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    EccPoint, EccScheme, EncryptedSecret, IdObject, KeyDerivationFunctionScheme, Public, PublicBuilder,
    PublicEccParametersBuilder, SymmetricDefinition, SymmetricDefinitionObject,
};
use tss_esapi::traits::Marshall;
use zeroize::Zeroizing;

use crate::{Error, Keys, end_session, failed, wrong};

/// A primary key of the endorsement hierarchy, and its public area.
fn primary(context: &mut Context, public: Public, what: &'static str) -> Result<(KeyHandle, Vec<u8>), Error> {
    let made = context
        .execute_with_session(Some(AuthSession::Password), |context| {
            context.create_primary(Hierarchy::Endorsement, public, None, None, None, None)
        })
        .map_err(failed(what))?;
    let area = made.out_public.marshall().map_err(failed(what))?;
    Ok((made.key_handle, area))
}

/// RSA 2048, template L-1.
pub(crate) fn endorsement(context: &mut Context) -> Result<(KeyHandle, Vec<u8>), Error> {
    const WHAT: &str = "making the endorsement key";
    let rsa = AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048);
    let public = create_ek_public_from_default_template_2(rsa, None).map_err(failed(WHAT))?;
    primary(context, public, WHAT)
}

/// ECC P-256, ECDSA with SHA-256, restricted, bound to this TPM.
pub(crate) fn attestation(context: &mut Context) -> Result<(KeyHandle, Vec<u8>), Error> {
    const WHAT: &str = "making the attestation key";
    let public = attestation_template().map_err(failed(WHAT))?;
    primary(context, public, WHAT)
}

fn attestation_template() -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        // Its authorization is empty: there is nothing to guess. Without this a TPM counts each loss of power as a guess (Part 1, section 19.8), and refuses to quote after a few.
        .with_no_da(true)
        .with_restricted(true)
        .with_sign_encrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new()
        .with_ecc_scheme(EccScheme::create(EccSchemeAlgorithm::EcDsa, Some(HashingAlgorithm::Sha256), None)?)
        .with_curve(EccCurve::NistP256)
        .with_is_signing_key(true)
        .with_is_decryption_key(false)
        .with_restricted(true)
        .with_symmetric(SymmetricDefinitionObject::Null)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

/// A session whose salt only the TPM with this endorsement key can read (Part 1, section 19.6.8). Whoever listens between processor and TPM sees neither what goes into it nor what comes out, and cannot change it unnoticed.
pub(crate) fn salted(context: &mut Context, ek: KeyHandle) -> Result<AuthSession, Error> {
    const WHAT: &str = "beginning a salted session";
    let symmetric = SymmetricDefinition::AES_128_CFB;
    let session =
        context.start_auth_session(Some(ek), None, None, SessionType::Hmac, symmetric, HashingAlgorithm::Sha256);
    let session = session.map_err(failed(WHAT))?.ok_or(Error { what: WHAT, source: wrong() })?;
    let attributes = SessionAttributesBuilder::new();
    let (attributes, mask) = attributes.with_continue_session(true).with_decrypt(true).with_encrypt(true).build();
    if let Err(error) = context.tr_sess_set_attributes(session, attributes, mask) {
        end_session(context, session.into());
        return Err(failed(WHAT)(error));
    }
    Ok(session)
}

/// The endorsement key is used by its policy: who proves the hierarchy's authorization, which is empty (TPM2_PolicySecret).
pub(crate) fn activate(
    context: &mut Context,
    Keys { ak, ek, .. }: &Keys,
    salted: AuthSession,
    blob: &[u8],
    seed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    const WHAT: &str = "activating a credential";
    let (blob, seed) = (IdObject::try_from(blob), EncryptedSecret::try_from(seed));
    let (blob, seed) = (blob.map_err(failed(WHAT))?, seed.map_err(failed(WHAT))?);
    let proved = policy(context).map_err(failed(WHAT))?;
    let handle = SessionHandle::from(proved);
    let sessions = (Some(salted), Some(proved), None);
    let activate = |context: &mut Context| context.activate_credential(*ak, *ek, blob, seed);
    let activated = context.execute_with_sessions(sessions, activate);
    end_session(context, handle);
    Ok(Zeroizing::new(activated.map_err(failed(WHAT))?.to_vec()))
}

/// A policy session in which the endorsement hierarchy's authorization was proved.
fn policy(context: &mut Context) -> tss_esapi::Result<AuthSession> {
    let symmetric = SymmetricDefinition::AES_128_CFB;
    let session =
        context.start_auth_session(None, None, None, SessionType::Policy, symmetric, HashingAlgorithm::Sha256)?;
    let session = session.ok_or_else(wrong)?;
    let (attributes, mask) = SessionAttributesBuilder::new().build();
    context.tr_sess_set_attributes(session, attributes, mask)?;
    let proved = context.execute_with_session(Some(AuthSession::Password), |context| {
        context.policy_secret(
            PolicySession::try_from(session)?,
            AuthHandle::Endorsement,
            Default::default(),
            Default::default(),
            Default::default(),
            None,
        )
    });
    if proved.is_err() {
        end_session(context, session.into());
    }
    proved.map(|_| session)
}
