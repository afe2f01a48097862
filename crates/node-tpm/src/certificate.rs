//! The certificate of the endorsement key, where whoever made the TPM left one (TCG EK Credential Profile, section 2.2.1.4): in the non-volatile index for RSA 2048.

use tss_esapi::Context;
use tss_esapi::abstraction::nv::read_full;
use tss_esapi::handles::NvIndexTpmHandle;
use tss_esapi::interface_types::resource_handles::NvAuth;
use tss_esapi::interface_types::session_handles::AuthSession;

/// Of RSA 2048, by the default template.
const INDEX: u32 = 0x01c0_0002;

/// The certificate (X.509, DER, perhaps padded); none where the TPM has none. Nothing of it is judged here.
pub fn endorsement_certificate(context: &mut Context) -> Option<Vec<u8>> {
    let index = NvIndexTpmHandle::new(INDEX).ok()?;
    context
        .execute_with_session(Some(AuthSession::Password), |context| {
            let handle = context.execute_without_session(|context| context.tr_from_tpm_public(index.into()))?;
            read_full(context, NvAuth::NvIndex(handle.into()), index)
        })
        .ok()
}
