//! Parsers of what hardware says: public areas and quotes of a TPM, reports of SEV-SNP.

use attest::snp::{self, Product};
use attest::tpm::{AttestationKey, EndorsementKey, Evidence, Randomness, check};
use measurements::Bank;
use ring::rand::SystemRandom;
use sha2::{Digest, Sha256};

use super::{known, read};

/// The attestation key of the recorded quote.
const RECORDED: &[u8] = include_bytes!("../../crates/attest/tests/recorded/swtpm/ak.bin");
/// Bytes of a report; its chip's certificate is behind it.
const REPORT: usize = 1184;

/// The public area of a key, for attestation or for endorsement.
pub fn tpm_key(bytes: &[u8]) {
    if let Some(key) = read(AttestationKey::parse(bytes)) {
        assert_eq!(key.name().as_bytes()[2..], Sha256::digest(bytes)[..]);
    }
    if let Some(key) = read(EndorsementKey::parse(bytes)) {
        assert_eq!(key.area(), bytes);
        let name = AttestationKey::parse(RECORDED).expect("it was recorded").name();
        let randomness = Randomness { seed: [1; 32], padding: [2; 32] };
        assert!(read(key.challenge(&[3; 32], &name, &randomness)).is_some(), "what is an endorsement key encrypts");
    }
}

/// A quote, its signature, and the values of registers: the first two have their length before them. Once as they are, and once with a signature of our own.
pub fn tpm_quote(bytes: &[u8]) {
    tpm_quote_is_accepted(bytes);
}

/// As it is, and signed.
pub fn tpm_quote_is_accepted(bytes: &[u8]) -> [bool; 2] {
    let (attest, rest) = sized(bytes);
    let (signature, registers) = sized(rest);
    let registers = (0..=u8::MAX).zip(registers.chunks(32).map(<[u8]>::to_vec)).collect();
    let ours = known::quoter().sign(&SystemRandom::new(), attest).expect("the key signs everything");
    let (r, s) = ours.as_ref().split_at(32);
    let ours = [&[0, 0x18, 0, 0x0b, 0, 32], r, &[0, 32], s].concat();
    [(signature, RECORDED), (&ours, &known::quoter_area())]
        .map(|(signature, area)| is_quote(&Evidence { attest, signature, registers: &registers }, area))
}

/// Whether it is a quote of this key for the known conversation.
fn is_quote(evidence: &Evidence, area: &[u8]) -> bool {
    let key = AttestationKey::parse(area).expect("it is one of an attestation key");
    let quoted = read(check(evidence, &key, Bank::Sha256, &known::binding().extra_data()));
    let Some(quoted) = quoted else { return false };
    assert_eq!((&quoted.registers, quoted.boot.key), (evidence.registers, key.name()));
    assert_eq!(quoted.registers.len(), 16);
    true
}

/// What two bytes of length say, and the rest; all of it where there is less.
fn sized(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk() else { return (bytes, &[]) };
    rest.split_at(rest.len().min(u16::from_be_bytes(*length).into()))
}

/// A report, and the certificate of the chip behind it. No report that a chip has signed is bound to our conversation.
pub fn snp_report(bytes: &[u8]) {
    let (report, certificate) = bytes.split_at(bytes.len().min(REPORT));
    assert_eq!(read(snp::check(report, certificate, Product::Milan, &known::binding())), None);
}
