//! A fake TPM for load, and for nothing else: **it protects nothing**. A thousand of them fit in one process and answer in microseconds, where each emulator is a process that takes milliseconds; so what is measured is the broker.
//!
//! It answers as a TPM does (TCG TPM 2.0 Library, Part 1, sections 16 and 24; Part 2, sections 10.12 and 12.2.4), with secrets that lie in memory. Its endorsement keys are worse than that: they share their primes with
//! each other, because a thousand keys of RSA take minutes to make, so whoever has two of the public keys has both private ones.

use std::collections::BTreeMap;

use aes::Aes128;
use aes::cipher::{AsyncStreamCipher, KeyIvInit};
use anyhow::{Context, Result, anyhow, ensure};
use measurements::Bank;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use rsa::rand_core::OsRng;
use rsa::traits::{PrivateKeyParts as _, PublicKeyParts as _};
use rsa::{BigUint, Oaep, RsaPrivateKey};
use xtask::vm::tpm_commands::{SigningKey, endorsement_area, signing_area};

use super::{AttesterTpm, Quote, name};

const BITS: usize = 2048;
const EXPONENT: u32 = 65537;
/// PCR 0 to 15: all that a node quotes.
const REGISTERS: u8 = 16;
/// TPM_GENERATED_VALUE and TPM_ST_ATTEST_QUOTE.
const QUOTE: [u8; 6] = [0xff, 0x54, 0x43, 0x47, 0x80, 0x18];
/// TPM_ALG_ECDSA and TPM_ALG_SHA256.
const ECDSA_SHA256: [u8; 4] = [0, 0x18, 0, 0x0b];
/// TPM_RH_ENDORSEMENT.
const ENDORSEMENT: [u8; 4] = [0x40, 0, 0, 0x0b];

/// A fake TPM. It protects nothing.
pub struct SoftwareTpm {
    endorsement: RsaPrivateKey,
    endorsement_area: Vec<u8>,
    attestation: EcdsaKeyPair,
    attestation_area: Vec<u8>,
    banks: BTreeMap<Bank, Vec<Vec<u8>>>,
    resets: u32,
}

/// So many of them, each with an endorsement key that no other has.
///
/// # Errors
/// A key cannot be made.
pub fn several(count: usize) -> Result<Vec<SoftwareTpm>> {
    let mut primes: Vec<BigUint> = Vec::new();
    while primes.len() * primes.len().saturating_sub(1) / 2 < count {
        primes.extend_from_slice(RsaPrivateKey::new(&mut OsRng, BITS).context("Failed to make primes")?.primes());
    }
    let pairs = primes.iter().enumerate().flat_map(|(at, p)| primes[..at].iter().map(move |q| (p, q)));
    pairs.take(count).map(|(p, q)| SoftwareTpm::new(p, q)).collect()
}

impl SoftwareTpm {
    /// One whose endorsement key has these primes.
    fn new(p: &BigUint, q: &BigUint) -> Result<Self> {
        let endorsement =
            RsaPrivateKey::from_p_q(p.clone(), q.clone(), EXPONENT.into()).context("Failed to make a key of RSA")?;
        let modulus = endorsement.n().to_bytes_be().try_into();
        let modulus = modulus.map_err(|_| anyhow!("the product of two primes has not {BITS} bits"))?;
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .map_err(|_| anyhow!("Failed to make a key of ECDSA"))?;
        let attestation = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random)
            .map_err(|error| anyhow!("Failed to read a key of ECDSA: {error}"))?;
        // A point begins with the byte that says that it is not compressed.
        let (x, y) = attestation.public_key().as_ref()[1..].split_at(32);
        let attestation_area = signing_area(SigningKey::Attestation(0), x.try_into()?, y.try_into()?);
        let endorsement_area = endorsement_area(&modulus);
        Ok(Self { endorsement, endorsement_area, attestation, attestation_area, banks: zero(), resets: 1 })
    }

    /// TPMS_ATTEST of a quote over PCR 0 to 15 of one bank.
    fn attest(&self, bank: Bank, extra_data: &[u8], registers: &[Vec<u8>]) -> Vec<u8> {
        let signer = name(&[&ENDORSEMENT[..], &name(&self.attestation_area)].concat());
        let mut attest = QUOTE.to_vec();
        attest.extend(sized(&signer));
        attest.extend(sized(extra_data));
        // The clock, which nobody reads.
        attest.extend([0; 8]);
        attest.extend(self.resets.to_be_bytes());
        // No restart; the clock is safe; a version of the firmware.
        attest.extend([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        attest.extend(1_u32.to_be_bytes());
        attest.extend(bank.algorithm().to_be_bytes());
        attest.extend([3, 0xff, 0xff, 0]);
        attest.extend(sized(&Bank::Sha256.digest(&registers.concat())));
        attest
    }
}

fn zero() -> BTreeMap<Bank, Vec<Vec<u8>>> {
    Bank::ALL.into_iter().map(|bank| (bank, vec![vec![0; bank.length()]; REGISTERS.into()])).collect()
}

/// Bytes with their length before them, as in all structures of a TPM.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// KDFa with SHA-256 (Part 1, section 11.4.10.2), for at most one digest.
fn derive(key: &[u8], label: &str, context: &[u8], bits: u32) -> hmac::Tag {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let input = [&1_u32.to_be_bytes()[..], label.as_bytes(), &[0], context, &bits.to_be_bytes()].concat();
    hmac::sign(&key, &input)
}

impl AttesterTpm for SoftwareTpm {
    fn endorsement_key(&self) -> &[u8] {
        &self.endorsement_area
    }

    fn attestation_key(&self) -> &[u8] {
        &self.attestation_area
    }

    fn reset(&mut self) -> Result<()> {
        self.banks = zero();
        self.resets += 1;
        Ok(())
    }

    fn extend(&mut self, register: u8, digests: &[(Bank, Vec<u8>)]) -> Result<()> {
        for (bank, digest) in digests {
            let registers = self.banks.get_mut(bank).context("the bank is not active")?;
            let value = registers.get_mut(usize::from(register)).context("there is no such register")?;
            *value = bank.extend(value, digest);
        }
        Ok(())
    }

    fn quote(&mut self, bank: Bank, extra_data: &[u8; 32]) -> Result<Quote> {
        let registers = self.banks.get(&bank).context("the bank is not active")?.clone();
        let attest = self.attest(bank, extra_data, &registers);
        let signed = self.attestation.sign(&SystemRandom::new(), &attest);
        let signed = signed.map_err(|_| anyhow!("Failed to sign a quote"))?;
        let (r, s) = signed.as_ref().split_at(32);
        Ok(Quote { attest, signature: [&ECDSA_SHA256[..], &sized(r), &sized(s)].concat(), registers })
    }

    fn activate(&mut self, blob: &[u8], seed: &[u8]) -> Result<Vec<u8>> {
        let name = name(&self.attestation_area);
        // The label's NUL is part of it (Part 1, annex B.10.3).
        let padding = Oaep::new_with_label::<sha2::Sha256, _>("IDENTITY\0");
        let seed = self.endorsement.decrypt(padding, seed).context("the seed is for another endorsement key")?;
        ensure!(blob.len() > 34, "the credential is too short");
        let (tag, identity) = blob[2..].split_at(32);
        let integrity = hmac::Key::new(hmac::HMAC_SHA256, derive(&seed, "INTEGRITY", &[], 256).as_ref());
        hmac::verify(&integrity, &[identity, &name].concat(), tag)
            .map_err(|_| anyhow!("the credential is for another attestation key"))?;
        let key = derive(&seed, "STORAGE", &name, 128);
        let mut plain = identity.to_vec();
        cfb_mode::Decryptor::<Aes128>::new_from_slices(&key.as_ref()[..16], &[0; 16])?.decrypt(&mut plain);
        Ok(plain.split_off(2))
    }
}

#[cfg(test)]
mod tests {
    use attest::tpm::{AttestationKey, EndorsementKey, Evidence, Quoted, Randomness, check};
    use measurements::{Event, Source};

    use super::super::{Attester, Boot};
    use super::*;

    const EXTRA_DATA: [u8; 32] = [7; 32];

    fn quoted(tpm: &mut SoftwareTpm) -> Quoted {
        let quote = tpm.quote(Bank::Sha384, &EXTRA_DATA).unwrap();
        let registers = (0..).zip(quote.registers).collect();
        let evidence = Evidence { attest: &quote.attest, signature: &quote.signature, registers: &registers };
        let key = AttestationKey::parse(tpm.attestation_key()).unwrap();
        check(&evidence, &key, Bank::Sha384, &EXTRA_DATA).unwrap()
    }

    #[test]
    fn the_verifier_takes_its_quotes_and_sees_each_boot() {
        let boot = Boot {
            firmware: vec![Event::of(4, 1, Source::Image, "the UKI", b"the UKI")],
            later: vec![Event::of(11, 1, Source::Image, "a phase", b"a phase")],
            banks: Bank::ALL.to_vec(),
        };
        let mut node = Attester::booted(several(1).unwrap().remove(0), &boot).unwrap();
        let first = quoted(&mut node.tpm);
        let expected = Bank::Sha384.extend(&[0; 48], &Bank::Sha384.digest(b"the UKI"));
        assert_eq!((&first.registers[&4], &first.registers[&15]), (&expected, &vec![0; 48]));
        node.say("failed:TEST").unwrap();
        assert_ne!(quoted(&mut node.tpm).registers[&15], vec![0; 48]);
        node.reboot(&boot).unwrap();
        let second = quoted(&mut node.tpm);
        assert_eq!(second.registers, first.registers);
        assert_ne!(second.boot, first.boot);
    }

    #[test]
    fn it_activates_what_is_for_its_keys_and_nothing_else() {
        let mut tpms = several(3).unwrap();
        let key = EndorsementKey::parse(tpms[0].endorsement_key()).unwrap();
        let name = |tpm: &SoftwareTpm| AttestationKey::parse(tpm.attestation_key()).unwrap().name();
        let randomness = Randomness { seed: [1; 32], padding: [2; 32] };
        let made = key.challenge(b"credential", &name(&tpms[0]), &randomness).unwrap();
        assert_eq!(tpms[0].activate(&made.credential_blob, &made.encrypted_seed).unwrap(), b"credential");
        assert!(tpms[1].activate(&made.credential_blob, &made.encrypted_seed).is_err());
        let other = key.challenge(b"credential", &name(&tpms[1]), &randomness).unwrap();
        assert!(tpms[0].activate(&other.credential_blob, &other.encrypted_seed).is_err());
        let areas: std::collections::BTreeSet<_> = tpms.iter().map(AttesterTpm::endorsement_key).collect();
        assert_eq!(areas.len(), 3);
    }
}
