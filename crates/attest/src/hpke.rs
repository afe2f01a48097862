//! Secrets sealed to one boot's key, and to recovery keys: HPKE (RFC 9180) in base mode with X25519, HKDF-SHA256 and AES-256-GCM. Post-quantum suites come later; a suite has its place in the
//! messages' version.

use ::hpke::aead::AesGcm256;
use ::hpke::kdf::HkdfSha256;
use ::hpke::kem::X25519HkdfSha256;
use ::hpke::rand_core::{TryCryptoRng, TryRng};
use ::hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable, single_shot_open, single_shot_seal_with_rng};
use zeroize::Zeroizing;

use crate::bytes::{Bytes32, Hex};
use crate::message::Sealed;
use crate::{Code, Refusal};

type Suite = X25519HkdfSha256;

/// What is sealed, so that one thing is never opened as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context<'a> {
    /// A share, in the conversation with this transcript.
    Release(&'a [u8; 32]),
    /// A share, for the recovery of the disk with this id.
    Recovery(&'a str),
}

impl Context<'_> {
    fn info(&self) -> Vec<u8> {
        match self {
            Self::Release(transcript) => [b"krp1-release", &transcript[..]].concat(),
            Self::Recovery(disk) => [b"krp1-recovery", disk.as_bytes()].concat(),
        }
    }
}

/// A private key. It is forgotten when it is dropped, and has no `Debug`.
pub struct PrivateKey(<Suite as Kem>::PrivateKey);

impl PrivateKey {
    /// Derives the key from 32 random bytes (RFC 9180, section 7.1.3).
    pub fn from_seed(seed: &Zeroizing<[u8; 32]>) -> Self {
        Self(Suite::derive_keypair(&seed[..]).0)
    }

    /// Its public half.
    pub fn public(&self) -> [u8; 32] {
        Suite::sk_to_pk(&self.0).to_bytes().into()
    }

    /// Opens what was sealed to this key.
    ///
    /// # Errors
    /// [`Code::SealedSecret`].
    pub fn open(&self, sealed: &Sealed, context: Context) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let refuse = || Refusal::new(Code::SealedSecret, "the sealed share cannot be opened with this boot's key");
        let encapsulated = <Suite as Kem>::EncappedKey::from_bytes(&sealed.encapsulated.0).map_err(|_| refuse())?;
        let (mode, info) = (OpModeR::Base, context.info());
        single_shot_open::<AesGcm256, HkdfSha256, Suite>(
            &mode,
            &self.0,
            &encapsulated,
            &info,
            &sealed.ciphertext.0,
            &[],
        )
        .map(Zeroizing::new)
        .map_err(|_| refuse())
    }
}

/// Seals a secret to a public key. `random` are 32 random bytes, used for nothing else.
///
/// # Errors
/// [`Code::Malformed`] where the bytes are no public key.
pub fn seal(
    secret: &[u8],
    public: &[u8; 32],
    context: Context,
    random: &Zeroizing<[u8; 32]>,
) -> Result<Sealed, Refusal> {
    let refuse = |_| Refusal::new(Code::Malformed, "the key that a secret is to be sealed to is none of X25519");
    let public = <Suite as Kem>::PublicKey::from_bytes(public).map_err(refuse)?;
    let (mode, info) = (OpModeS::Base, context.info());
    let (encapsulated, ciphertext) = single_shot_seal_with_rng::<AesGcm256, HkdfSha256, Suite>(
        &mode,
        &public,
        &info,
        secret,
        &[],
        &mut Given(random),
    )
    .map_err(refuse)?;
    Ok(Sealed { ciphertext: Hex(ciphertext), encapsulated: Bytes32(encapsulated.to_bytes().into()) })
}

/// Bytes that were given, for a library that asks for a generator once.
struct Given<'a>(&'a Zeroizing<[u8; 32]>);

impl TryRng for Given<'_> {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Self::Error> {
        to.iter_mut().zip(self.0.iter().cycle()).for_each(|(to, from)| *to = *from);
        Ok(())
    }
}

impl TryCryptoRng for Given<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_and_the_context_that_a_secret_was_sealed_to_open_it() {
        let key = PrivateKey::from_seed(&Zeroizing::new([1; 32]));
        let other = PrivateKey::from_seed(&Zeroizing::new([2; 32]));
        let sealed = seal(b"share", &key.public(), Context::Release(&[3; 32]), &Zeroizing::new([4; 32])).unwrap();
        assert_eq!(**key.open(&sealed, Context::Release(&[3; 32])).unwrap(), *b"share");
        let code = |result: Result<Zeroizing<Vec<u8>>, Refusal>| result.err().map(|refusal| refusal.code);
        assert_eq!(code(key.open(&sealed, Context::Release(&[4; 32]))), Some(Code::SealedSecret));
        assert_eq!(code(key.open(&sealed, Context::Recovery("disk"))), Some(Code::SealedSecret));
        assert_eq!(code(other.open(&sealed, Context::Release(&[3; 32]))), Some(Code::SealedSecret));
        for index in 0..sealed.ciphertext.0.len() {
            let mut changed = sealed.clone();
            changed.ciphertext.0[index] ^= 1;
            assert_eq!(code(key.open(&changed, Context::Release(&[3; 32]))), Some(Code::SealedSecret));
        }
    }

    /// RFC 9180, appendix A.1: DHKEM(X25519, HKDF-SHA256), the recipient's key.
    #[test]
    fn keys_are_derived_as_the_specification_has_it() {
        let mut seed = Zeroizing::new([0; 32]);
        hex::decode_to_slice("6db9df30aa07dd42ee5e8181afdb977e538f5e1fec8a06223f33f7013e525037", &mut seed[..])
            .unwrap();
        assert_eq!(
            hex::encode(PrivateKey::from_seed(&seed).public()),
            "3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d"
        );
    }
}
