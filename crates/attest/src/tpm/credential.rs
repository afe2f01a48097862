//! Credential activation, the verifier's side (TCG TPM 2.0 Library, Part 1, section 24; TPM2_MakeCredential, Part 3, section 12.6): a secret that only the TPM with this endorsement key can read, and only if it holds the
//! attestation key with this name. So an attestation key is tied to a TPM that a manufacturer or an operator has vouched for.
//!
//! All randomness is given. RSA is used for public-key encryption only.

use aes::Aes128;
use aes::cipher::{AsyncStreamCipher, KeyIvInit};
use ring::hmac;
use rsa::{BigUint, Oaep, RsaPublicKey};
use sha2::Sha256;

use super::public::Name;
use super::reader::Reader;
use crate::{Code, Refusal};

const ALG_RSA: u16 = 0x01;
const ALG_AES: u16 = 0x06;
const ALG_SHA256: u16 = 0x0b;
const ALG_NULL: u16 = 0x10;
const ALG_CFB: u16 = 0x43;
/// restricted, decrypt, fixedTPM, fixedParent, sensitiveDataOrigin: what the templates of the EK Credential Profile have.
const ATTRIBUTES: u32 = 1 << 16 | 1 << 17 | 1 << 1 | 1 << 4 | 1 << 5;
const SIGN: u32 = 1 << 18;
const BITS: u16 = 2048;
const EXPONENT: u32 = 65537;

/// An endorsement key of RSA 2048 (TCG EK Credential Profile, template L-1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndorsementKey {
    area: Vec<u8>,
    key: RsaPublicKey,
}

/// What is sent to the TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// TPM2B_ID_OBJECT, without its length.
    pub credential_blob: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET, without its length.
    pub encrypted_seed: Vec<u8>,
}

/// Random bytes of one challenge, each used once.
#[derive(Clone, Copy)]
pub struct Randomness {
    /// The seed that is sent under the endorsement key.
    pub seed: [u8; 32],
    /// The seed of the padding (RFC 8017, section 7.1.1).
    pub padding: [u8; 32],
}

impl EndorsementKey {
    /// Reads a public area (TPMT_PUBLIC).
    ///
    /// # Errors
    /// [`Code::Malformed`], [`Code::EkAttributes`].
    pub fn parse(area: &[u8]) -> Result<Self, Refusal> {
        let refuse = |found: &str| Refusal::new(Code::EkAttributes, format!("the endorsement key {found}"));
        let mut reader = Reader::new(area, "public area of the endorsement key");
        if (reader.u16()?, reader.u16()?) != (ALG_RSA, ALG_SHA256) {
            return Err(refuse("is not of RSA with names of SHA-256"));
        }
        let attributes = reader.u32()?;
        if attributes & ATTRIBUTES != ATTRIBUTES || attributes & SIGN != 0 {
            return Err(refuse("does not have the attributes of one"));
        }
        let _policy = reader.sized()?;
        if (reader.u16()?, reader.u16()?, reader.u16()?) != (ALG_AES, 128, ALG_CFB) {
            return Err(refuse("does not protect with AES-128 in CFB mode"));
        }
        let (scheme, bits, exponent) = (reader.u16()?, reader.u16()?, reader.u32()?);
        if (scheme, bits) != (ALG_NULL, BITS) || !matches!(exponent, 0 | EXPONENT) {
            return Err(refuse("is not a plain key of RSA 2048"));
        }
        let modulus = BigUint::from_bytes_be(reader.sized()?);
        reader.end()?;
        // What it says of its length is not enough: nothing could be encrypted with less.
        if modulus.bits() != usize::from(BITS) {
            return Err(refuse("has a modulus that is not of 2048 bits"));
        }
        let key =
            RsaPublicKey::new(modulus, EXPONENT.into()).map_err(|error| refuse(&format!("is no key: {error}")))?;
        Ok(Self { area: area.to_vec(), key })
    }

    /// The key itself.
    pub(super) fn rsa(&self) -> &RsaPublicKey {
        &self.key
    }

    /// Its public area, whose digest names it in lists of known keys.
    pub fn area(&self) -> &[u8] {
        &self.area
    }

    /// Seals `credential` to the TPM with this key, for an attestation key of this name.
    ///
    /// # Errors
    /// [`Code::EkAttributes`] where the key cannot encrypt, and credentials of over 32 bytes.
    pub fn challenge(&self, credential: &[u8], name: &Name, randomness: &Randomness) -> Result<Challenge, Refusal> {
        if credential.len() > 32 {
            return Err(Refusal::new(Code::Malformed, "a credential has at most 32 bytes"));
        }
        // The label's NUL is part of it (Part 1, annex B.10.3).
        let padding = Oaep::new_with_label::<Sha256, _>("IDENTITY\0");
        let encrypted_seed = self
            .key
            .encrypt(&mut Given(&randomness.padding), padding, &randomness.seed)
            .map_err(|error| Refusal::new(Code::EkAttributes, format!("the endorsement key: {error}")))?;
        let mut identity = (credential.len() as u16).to_be_bytes().to_vec();
        identity.extend(credential);
        let key = derive(&randomness.seed, "STORAGE", name.as_bytes(), 128);
        let cipher = cfb_mode::Encryptor::<Aes128>::new_from_slices(&key[..16], &[0; 16]);
        cipher.map_err(|_| Refusal::new(Code::Malformed, "a key of a wrong length"))?.encrypt(&mut identity);
        let integrity = hmac::Key::new(hmac::HMAC_SHA256, &derive(&randomness.seed, "INTEGRITY", &[], 256));
        let tag = hmac::sign(&integrity, &[&identity[..], name.as_bytes()].concat());
        let mut credential_blob = (tag.as_ref().len() as u16).to_be_bytes().to_vec();
        credential_blob.extend(tag.as_ref());
        credential_blob.extend(identity);
        Ok(Challenge { credential_blob, encrypted_seed })
    }
}

/// KDFa with SHA-256 (Part 1, section 11.4.10.2), for up to 256 bits: counter, label with its NUL, context, bits.
fn derive(key: &[u8], label: &str, context: &[u8], bits: u32) -> [u8; 32] {
    let mut input = 1_u32.to_be_bytes().to_vec();
    input.extend(label.bytes().chain([0]));
    input.extend(context);
    input.extend(bits.to_be_bytes());
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &input);
    let mut derived = [0; 32];
    derived.copy_from_slice(tag.as_ref());
    derived
}

/// Bytes that were given, for a library that asks for a generator.
struct Given<'a>(&'a [u8; 32]);

impl rsa::rand_core::RngCore for Given<'_> {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill_bytes(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, to: &mut [u8]) {
        to.iter_mut().zip(self.0.iter().cycle()).for_each(|(to, from)| *to = *from);
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), rsa::rand_core::Error> {
        self.fill_bytes(to);
        Ok(())
    }
}

/// The caller vouches for the bytes.
impl rsa::rand_core::CryptoRng for Given<'_> {}

#[cfg(test)]
pub(super) mod tests {
    use aes::cipher::AsyncStreamCipher as _;
    use rsa::RsaPrivateKey;
    use rsa::traits::PublicKeyParts as _;

    use super::super::public::AttestationKey;
    use super::super::public::tests::{AK, area};
    use super::*;

    const RANDOMNESS: Randomness = Randomness { seed: [1; 32], padding: [2; 32] };

    /// Stands for a TPM: a fake that holds an endorsement key and does what TPM2_ActivateCredential says.
    struct FakeTpm {
        private: RsaPrivateKey,
    }

    impl FakeTpm {
        fn new() -> Self {
            // Made once, for this test alone.
            let number = |text: &str| BigUint::parse_bytes(text.as_bytes(), 16).unwrap();
            let primes = [
                number(include_str!("../../tests/recorded/p.txt").trim()),
                number(include_str!("../../tests/recorded/q.txt").trim()),
            ];
            Self { private: RsaPrivateKey::from_p_q(primes[0].clone(), primes[1].clone(), EXPONENT.into()).unwrap() }
        }

        fn area(&self) -> Vec<u8> {
            area_of(&self.private.to_public_key())
        }

        /// The credential, if the attestation key that it holds has the name that the challenge is for.
        fn activate(&self, challenge: &Challenge, name: &Name) -> Option<Vec<u8>> {
            let padding = Oaep::new_with_label::<Sha256, _>("IDENTITY\0");
            let seed = self.private.decrypt(padding, &challenge.encrypted_seed).ok()?;
            let (tag, identity) = challenge.credential_blob[2..].split_at(32);
            let integrity = hmac::Key::new(hmac::HMAC_SHA256, &derive(&seed, "INTEGRITY", &[], 256));
            hmac::verify(&integrity, &[identity, name.as_bytes()].concat(), tag).ok()?;
            let key = derive(&seed, "STORAGE", name.as_bytes(), 128);
            let mut plain = identity.to_vec();
            cfb_mode::Decryptor::<Aes128>::new_from_slices(&key[..16], &[0; 16]).unwrap().decrypt(&mut plain);
            Some(plain[2..].to_vec())
        }
    }

    /// The public area of an endorsement key with this modulus.
    fn area_of(key: &RsaPublicKey) -> Vec<u8> {
        let mut area = [ALG_RSA, ALG_SHA256].map(u16::to_be_bytes).concat();
        area.extend((ATTRIBUTES | 1 << 7).to_be_bytes());
        area.extend(32_u16.to_be_bytes());
        area.extend([7; 32]);
        area.extend([ALG_AES, 128, ALG_CFB, ALG_NULL, BITS].map(u16::to_be_bytes).concat());
        area.extend([0; 4]);
        let modulus = key.n().to_bytes_be();
        area.extend((modulus.len() as u16).to_be_bytes());
        area.extend(modulus);
        area
    }

    /// The endorsement key with this modulus.
    pub fn endorsement_key(key: &RsaPublicKey) -> EndorsementKey {
        EndorsementKey::parse(&area_of(key)).unwrap()
    }

    fn name(byte: u8) -> Name {
        AttestationKey::parse(&area(&[byte; 65], AK)).unwrap().name()
    }

    #[test]
    fn only_a_tpm_with_both_keys_reads_the_credential() {
        let tpm = FakeTpm::new();
        let key = EndorsementKey::parse(&tpm.area()).unwrap();
        let challenge = key.challenge(b"credential", &name(4), &RANDOMNESS).unwrap();
        assert_eq!(tpm.activate(&challenge, &name(4)).unwrap(), b"credential");
        assert_eq!(tpm.activate(&challenge, &name(5)), None, "another attestation key");
        let mut changed = challenge.clone();
        *changed.credential_blob.last_mut().unwrap() ^= 1;
        assert_eq!(tpm.activate(&changed, &name(4)), None);
        assert!(key.challenge(&[0; 33], &name(4), &RANDOMNESS).is_err());
        let other = key.challenge(b"credential", &name(4), &Randomness { seed: [3; 32], ..RANDOMNESS }).unwrap();
        assert_ne!(other.credential_blob, challenge.credential_blob);
    }

    #[test]
    fn other_keys_are_refused() {
        let good = FakeTpm::new().area();
        assert_eq!(EndorsementKey::parse(&good).unwrap().area(), good);
        for (at, bit, code) in [
            (1, 0x20, Code::EkAttributes),
            (3, 1, Code::EkAttributes),
            (5, 1, Code::EkAttributes),
            (5, 4, Code::EkAttributes),
            (43, 1, Code::EkAttributes),
            (9, 1, Code::EkAttributes),
        ] {
            let mut bad = good.clone();
            bad[at] ^= bit;
            let refusal = EndorsementKey::parse(&bad).unwrap_err();
            assert!(refusal.code == code || refusal.code == Code::Malformed, "byte {at}: {refusal}");
        }
        for length in 0..good.len() {
            assert!(EndorsementKey::parse(&good[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_modulus_of_another_length_is_refused() {
        let good = FakeTpm::new().area();
        let start = good.len() - 256;
        for modulus in
            [&[][..], &[0; 256], &[0xff; 4], &[0xff; 255], &[0xff; 257], &[&[0x7f; 1][..], &[0xff; 255]].concat()]
        {
            let bad = [&good[..start - 2], &(modulus.len() as u16).to_be_bytes(), modulus].concat();
            assert_eq!(EndorsementKey::parse(&bad).unwrap_err().code, Code::EkAttributes, "{} bytes", modulus.len());
        }
    }

    /// The keys are swtpm's, which activated this very challenge and gave the credential back.
    #[test]
    fn a_challenge_is_the_one_that_a_tpm_emulator_activated() {
        let ek = EndorsementKey::parse(include_bytes!("../../tests/recorded/swtpm/ek.bin")).unwrap();
        let ak = AttestationKey::parse(include_bytes!("../../tests/recorded/swtpm/ak.bin")).unwrap();
        let Challenge { credential_blob, encrypted_seed } =
            ek.challenge(b"the credential of a test", &ak.name(), &RANDOMNESS).unwrap();
        let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
        let recorded = include_bytes!("../../tests/recorded/swtpm/challenge.bin");
        assert_eq!([sized(&credential_blob), sized(&encrypted_seed)].concat(), recorded);
    }

    /// Annex of NIST SP 800-108: a counter of 32 bits before the label, the length behind the context.
    #[test]
    fn keys_are_derived_as_the_specification_says() {
        let expected = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"key"), b"\0\0\0\x01STORAGE\0context\0\0\0\x80");
        assert_eq!(derive(b"key", "STORAGE", b"context", 128), expected.as_ref());
    }
}
