//! Quotes (TPMS_ATTEST and TPMS_QUOTE_INFO, Part 2, section 10.12; TPM2_Quote, Part 3, section 18.4): an attestation key's signature over a digest of registers and over 32 bytes that the verifier knows.
//!
//! Everything is compared that CVE-2022-0317, CVE-2024-29038 and CVE-2024-29039 show must be: magic, type, signer, bank, and the exact selection of registers.

use std::collections::BTreeMap;

use measurements::Bank;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use super::public::{AttestationKey, Name};
use super::reader::Reader;
use crate::{Code, Refusal};

/// TPM_GENERATED_VALUE.
const MAGIC: u32 = 0xff54_4347;
/// TPM_ST_ATTEST_QUOTE.
const QUOTE: u16 = 0x8018;
const ALG_ECDSA: u16 = 0x18;
const ALG_SHA256: u16 = 0x0b;
/// PCR 0 to 15, and none above.
const SELECTION: [u8; 3] = [0xff, 0xff, 0];
const REGISTERS: u8 = 16;

/// A quote as it is sent.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// TPMS_ATTEST.
    pub attest: &'a [u8],
    /// TPMT_SIGNATURE.
    pub signature: &'a [u8],
    /// The values of PCR 0 to 15 of the quoted bank.
    pub registers: &'a BTreeMap<u8, Vec<u8>>,
}

/// One boot of one machine: a TPM counts its resets and restarts (Part 2, section 10.11.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId {
    /// Name of the attestation key.
    pub key: Name,
    /// How often the TPM was reset.
    pub reset: u32,
    /// How often it was restarted since.
    pub restart: u32,
}

/// What a checked quote says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// The bank.
    pub bank: Bank,
    /// PCR 0 to 15.
    pub registers: BTreeMap<u8, Vec<u8>>,
    /// The boot that it was made in.
    pub boot: BootId,
}

/// Checks a quote of `key` over PCR 0 to 15 of `bank`, with these `extraData`: those of a [binding](crate::binding::Binding) or of a [commitment](crate::binding::Commitment).
///
/// # Errors
/// In this order: [`Code::Malformed`], [`Code::QuoteType`], [`Code::AkMismatch`], [`Code::QuoteSignature`], [`Code::BinderMismatch`], [`Code::PcrBank`], [`Code::PcrSelection`], [`Code::PcrDigest`].
pub fn check(evidence: &Evidence, key: &AttestationKey, bank: Bank, extra_data: &[u8; 32]) -> Result<Quoted, Refusal> {
    let attest = Attest::parse(evidence.attest)?;
    if attest.signer != key.qualified_name().as_bytes() {
        let found = "the quote names another key than the one that is enrolled";
        return Err(Refusal::new(Code::AkMismatch, found));
    }
    let signature = parse_signature(evidence.signature)?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.point())
        .verify(evidence.attest, &signature)
        .map_err(|_| Refusal::new(Code::QuoteSignature, "the signature of the quote is not of the enrolled key"))?;
    if attest.extra_data != extra_data {
        let found = "the quote was made for another conversation, key, purpose or disk";
        return Err(Refusal::new(Code::BinderMismatch, found));
    }
    check_selection(&attest, bank)?;
    check_registers(&attest, bank, evidence.registers)?;
    Ok(Quoted {
        bank,
        registers: evidence.registers.clone(),
        boot: BootId { key: key.name(), reset: attest.reset, restart: attest.restart },
    })
}

fn check_selection(attest: &Attest, bank: Bank) -> Result<(), Refusal> {
    let [(algorithm, selection)] = attest.selections[..] else {
        let found = format!("the quote is over {} banks", attest.selections.len());
        return Err(Refusal::new(Code::PcrSelection, found));
    };
    if algorithm != bank.algorithm() {
        let found = format!("the quote is over the bank {algorithm:#06x}, {bank} is enrolled");
        return Err(Refusal::new(Code::PcrBank, found));
    }
    if selection != SELECTION {
        let found = format!("the quote is over the registers {}, 0 to 15 are expected", hex::encode(selection));
        return Err(Refusal::new(Code::PcrSelection, found));
    }
    Ok(())
}

fn check_registers(attest: &Attest, bank: Bank, registers: &BTreeMap<u8, Vec<u8>>) -> Result<(), Refusal> {
    let all = registers.keys().copied().eq(0..REGISTERS);
    if !all || registers.values().any(|value| value.len() != bank.length()) {
        return Err(Refusal::new(Code::Malformed, "the values are not those of PCR 0 to 15 of the bank"));
    }
    let mut hash = Sha256::new();
    registers.values().for_each(|value| hash.update(value));
    if hash.finalize()[..] != *attest.digest {
        return Err(Refusal::new(Code::PcrDigest, "the values that were sent are not those that were quoted"));
    }
    Ok(())
}

/// TPMS_ATTEST of a quote.
struct Attest<'a> {
    signer: &'a [u8],
    extra_data: &'a [u8],
    reset: u32,
    restart: u32,
    /// Bank and selected registers.
    selections: Vec<(u16, &'a [u8])>,
    digest: &'a [u8],
}

impl<'a> Attest<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        /// More banks than any TPM has.
        const MOST_BANKS: u32 = 16;
        let mut reader = Reader::new(bytes, "quote");
        let (magic, kind) = (reader.u32()?, reader.u16()?);
        if (magic, kind) != (MAGIC, QUOTE) {
            let found = format!("magic {magic:#010x} and type {kind:#06x} are not those of a quote");
            return Err(Refusal::new(Code::QuoteType, found));
        }
        let (signer, extra_data) = (reader.sized()?, reader.sized()?);
        let _clock = reader.u64()?;
        let (reset, restart) = (reader.u32()?, reader.u32()?);
        let (_safe, _firmware) = (reader.u8()?, reader.u64()?);
        let count = reader.u32()?;
        if count > MOST_BANKS {
            return Err(reader.refuse("selects more than 16 banks"));
        }
        let mut selections = Vec::new();
        for _ in 0..count {
            let algorithm = reader.u16()?;
            let length = usize::from(reader.u8()?);
            selections.push((algorithm, reader.take(length)?));
        }
        let digest = reader.sized()?;
        reader.end()?;
        Ok(Self { signer, extra_data, reset, restart, selections, digest })
    }
}

/// TPMT_SIGNATURE of ECDSA with SHA-256: both numbers in 32 bytes each.
fn parse_signature(bytes: &[u8]) -> Result<[u8; 64], Refusal> {
    let mut reader = Reader::new(bytes, "signature of the quote");
    if (reader.u16()?, reader.u16()?) != (ALG_ECDSA, ALG_SHA256) {
        return Err(Refusal::new(Code::QuoteSignature, "the signature is not of ECDSA with SHA-256"));
    }
    let mut signature = [0; 64];
    for half in signature.chunks_mut(32) {
        let number = reader.sized()?;
        let start = 32_usize.checked_sub(number.len()).ok_or_else(|| reader.refuse("has a number of over 32 bytes"))?;
        half[start..].copy_from_slice(number);
    }
    reader.end()?;
    Ok(signature)
}

#[cfg(test)]
pub(crate) mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

    use super::super::public::tests::{AK, area};
    use super::*;
    use crate::binding::tests::binding;
    use crate::binding::{Binding, Purpose};

    /// Stands for a TPM: a fake with one key.
    pub(crate) struct FakeTpm {
        pair: EcdsaKeyPair,
        /// Public area of the key.
        pub(crate) area: Vec<u8>,
        pub(crate) key: AttestationKey,
        pub(crate) registers: BTreeMap<u8, Vec<u8>>,
    }

    /// What goes into a quote.
    struct Parts {
        magic: u32,
        kind: u16,
        signer: Vec<u8>,
        extra_data: Vec<u8>,
        selections: Vec<(u16, Vec<u8>)>,
        registers: BTreeMap<u8, Vec<u8>>,
    }

    impl FakeTpm {
        pub(crate) fn new() -> Self {
            let random = SystemRandom::new();
            let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
            let area = area(pair.public_key().as_ref(), AK);
            let key = AttestationKey::parse(&area).unwrap();
            let registers = (0..16).map(|register| (register, vec![register; 32])).collect();
            Self { pair, area, key, registers }
        }

        fn parts(&self) -> Parts {
            Parts {
                magic: MAGIC,
                kind: QUOTE,
                signer: self.key.qualified_name().as_bytes().to_vec(),
                extra_data: binding().extra_data().to_vec(),
                selections: vec![(ALG_SHA256, SELECTION.to_vec())],
                registers: self.registers.clone(),
            }
        }

        /// A quote with this `extraData`, and its signature.
        pub(crate) fn quote(&self, extra_data: &[u8]) -> (Vec<u8>, Vec<u8>) {
            self.sign(&Parts { extra_data: extra_data.to_vec(), ..self.parts() })
        }

        /// What checking a quote gives.
        fn check(&self, parts: &Parts) -> Result<Quoted, Refusal> {
            let (attest, signature) = self.sign(parts);
            let evidence = Evidence { attest: &attest, signature: &signature, registers: &self.registers };
            check(&evidence, &self.key, Bank::Sha256, &binding().extra_data())
        }

        /// The quote and its signature.
        fn sign(&self, parts: &Parts) -> (Vec<u8>, Vec<u8>) {
            let mut attest = parts.magic.to_be_bytes().to_vec();
            attest.extend(parts.kind.to_be_bytes());
            for field in [&parts.signer, &parts.extra_data] {
                attest.extend((field.len() as u16).to_be_bytes());
                attest.extend(field);
            }
            attest.extend([0; 8]);
            attest.extend(7_u32.to_be_bytes());
            attest.extend(9_u32.to_be_bytes());
            attest.extend([1; 9]);
            attest.extend((parts.selections.len() as u32).to_be_bytes());
            for (algorithm, selection) in &parts.selections {
                attest.extend(algorithm.to_be_bytes());
                attest.push(selection.len() as u8);
                attest.extend(selection);
            }
            let joined: Vec<u8> = parts.registers.values().flatten().copied().collect();
            attest.extend(32_u16.to_be_bytes());
            attest.extend(Sha256::digest(joined));
            let raw = self.pair.sign(&SystemRandom::new(), &attest).unwrap();
            let mut signature = [ALG_ECDSA, ALG_SHA256].map(u16::to_be_bytes).concat();
            for number in raw.as_ref().chunks(32) {
                signature.extend(32_u16.to_be_bytes());
                signature.extend(number);
            }
            (attest, signature)
        }
    }

    #[test]
    fn a_genuine_quote_gives_registers_and_boot() {
        let tpm = FakeTpm::new();
        let quoted = tpm.check(&tpm.parts()).unwrap();
        assert_eq!(quoted.registers, tpm.registers);
        assert_eq!(quoted.boot, BootId { key: tpm.key.name(), reset: 7, restart: 9 });
    }

    #[test]
    fn one_change_is_refused_with_its_code() {
        let tpm = FakeTpm::new();
        let other = FakeTpm::new();
        type Change = Box<dyn Fn(&mut Parts)>;
        let rows: Vec<(&str, Change, Code)> = vec![
            ("magic", Box::new(|parts| parts.magic = 0), Code::QuoteType),
            ("certify", Box::new(|parts| parts.kind = 0x8017), Code::QuoteType),
            (
                "signer",
                Box::new(move |parts| parts.signer = other.key.qualified_name().as_bytes().to_vec()),
                Code::AkMismatch,
            ),
            ("nonce", Box::new(|parts| parts.extra_data[0] ^= 1), Code::BinderMismatch),
            ("short nonce", Box::new(|parts| parts.extra_data.truncate(31)), Code::BinderMismatch),
            ("no selection", Box::new(|parts| parts.selections.clear()), Code::PcrSelection),
            ("subset", Box::new(|parts| parts.selections[0].1 = vec![0xff, 0x7f, 0]), Code::PcrSelection),
            ("superset", Box::new(|parts| parts.selections[0].1 = vec![0xff, 0xff, 1]), Code::PcrSelection),
            ("short selection", Box::new(|parts| parts.selections[0].1 = vec![0xff, 0xff]), Code::PcrSelection),
            ("sha1", Box::new(|parts| parts.selections[0].0 = 4), Code::PcrBank),
            ("two banks", Box::new(|parts| parts.selections.push((4, SELECTION.to_vec()))), Code::PcrSelection),
            ("values", Box::new(|parts| parts.registers.get_mut(&4).unwrap()[0] ^= 1), Code::PcrDigest),
        ];
        for (name, change, code) in rows {
            let mut parts = tpm.parts();
            change(&mut parts);
            assert_eq!(tpm.check(&parts).unwrap_err().code, code, "{name}");
        }
    }

    #[test]
    fn a_quote_of_another_key_under_this_key_s_name_has_a_wrong_signature() {
        let (tpm, other) = (FakeTpm::new(), FakeTpm::new());
        let forger = FakeTpm { key: tpm.key.clone(), ..other };
        assert_eq!(forger.check(&forger.parts()).unwrap_err().code, Code::QuoteSignature);
    }

    /// Made by swtpm for [`binding`], with tpm2-tools: TPM2_Quote over PCR 0 to 15 of SHA-256.
    #[test]
    fn a_quote_of_a_tpm_emulator_is_accepted() {
        let key = AttestationKey::parse(include_bytes!("../../tests/recorded/swtpm/ak.bin")).unwrap();
        let values = measurements::parse::pcrs::parse(include_bytes!("../../tests/recorded/swtpm/pcrs.txt")).unwrap();
        let evidence = Evidence {
            attest: include_bytes!("../../tests/recorded/swtpm/quote.bin"),
            signature: include_bytes!("../../tests/recorded/swtpm/signature.bin"),
            registers: &values[&Bank::Sha256],
        };
        let quoted = check(&evidence, &key, Bank::Sha256, &binding().extra_data()).unwrap();
        assert!(quoted.registers[&4].iter().any(|byte| *byte != 0));
        let other = Binding { purpose: Purpose::Probe, ..binding() };
        assert_eq!(check(&evidence, &key, Bank::Sha256, &other.extra_data()).unwrap_err().code, Code::BinderMismatch);
        assert_eq!(check(&evidence, &key, Bank::Sha384, &binding().extra_data()).unwrap_err().code, Code::PcrBank);
    }

    #[test]
    fn damaged_structures_are_refused_and_never_a_panic() {
        for length in 0..200 {
            let bytes = vec![0xff; length];
            assert!(Attest::parse(&bytes).is_err() && parse_signature(&bytes).is_err(), "{length}");
        }
        let mut endless = MAGIC.to_be_bytes().to_vec();
        endless.extend(QUOTE.to_be_bytes());
        endless.extend([0; 4 + 8 + 8 + 9]);
        endless.extend([0xff; 4]);
        assert_eq!(Attest::parse(&endless).err().unwrap().code, Code::Malformed);
    }
}
