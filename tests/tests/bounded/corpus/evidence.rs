//! Public areas and quotes of a TPM, reports of SEV-SNP: recorded ones, and a quote of the key that the targets know.

use measurements::Bank;
use measurements::parse::pcrs;
use sha2::{Digest, Sha256};

use super::{File, file, patched};
use crate::targets::known;

const AK: &[u8] = include_bytes!("../../../../crates/attest/tests/recorded/swtpm/ak.bin");
const EK: &[u8] = include_bytes!("../../../../crates/attest/tests/recorded/swtpm/ek.bin");
const QUOTE: &[u8] = include_bytes!("../../../../crates/attest/tests/recorded/swtpm/quote.bin");
const SIGNATURE: &[u8] = include_bytes!("../../../../crates/attest/tests/recorded/swtpm/signature.bin");
const REGISTERS: &[u8] = include_bytes!("../../../../crates/attest/tests/recorded/swtpm/pcrs.txt");
const REPORT: &[u8] = include_bytes!("../../../../crates/attest/tests/recorded/snp-report.bin");
const VCEK: &[u8] = include_bytes!("../../../../crates/attest/tests/recorded/snp-vcek.der");
const DEBUGGED: &[u8] = include_bytes!("../../../../crates/attest/tests/recorded/snp-milan-attestation.bin");
const DEBUGGED_VCEK: &[u8] = include_bytes!("../../../../crates/attest/tests/recorded/snp-milan-vcek.der");

/// Where the modulus of the endorsement key begins, with its length before it.
const MODULUS: usize = EK.len() - 256;

pub fn files() -> Vec<File> {
    [keys(), quotes(), reports()].concat()
}

fn keys() -> Vec<File> {
    let modulus = |bytes: &[u8]| {
        let length = (bytes.len() as u16).to_be_bytes();
        [&EK[..MODULUS - 2], &length, bytes].concat()
    };
    let area = known::quoter_area();
    let short = [&area[..20], &[0, 1, 7], &[0, 0]].concat();
    vec![
        file("tpm_key", "attestation-key", AK),
        file("tpm_key", "attestation-key-whose-point-is-short", short),
        file("tpm_key", "attestation-key-with-a-number-of-33-bytes", patched(&area, 20, &[0, 33])),
        file("tpm_key", "attestation-key-with-a-policy-of-64-kib", patched(&area, 8, &[0xff; 2])),
        file("tpm_key", "attestation-key-that-decrypts", patched(&area, 5, &[7])),
        file("tpm_key", "endorsement-key", EK),
        file("tpm_key", "endorsement-key-whose-modulus-is-even", patched(EK, EK.len() - 1, &[2])),
        file("tpm_key", "endorsement-key-with-a-modulus-of-no-bytes", modulus(&[])),
        file("tpm_key", "endorsement-key-with-a-modulus-of-4-bytes", modulus(&[0xff; 4])),
        file("tpm_key", "endorsement-key-with-a-modulus-of-zeros", modulus(&[0; 256])),
        file("tpm_key", "endorsement-key-with-a-modulus-of-257-bytes", modulus(&[0xff; 257])),
        file("tpm_key", "endorsement-key-with-a-modulus-of-1-kib", modulus(&[0xff; 1024])),
        file("tpm_key", "endorsement-key-with-another-exponent", patched(EK, MODULUS - 6, &[0, 0, 0, 3])),
        file("tpm_key", "cut", &EK[..100]),
    ]
}

/// A quote, a signature and registers, as the target takes them apart.
fn parts(quote: &[u8], signature: &[u8], registers: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| (bytes.len() as u16).to_be_bytes();
    [&length(quote)[..], quote, &length(signature), signature, registers].concat()
}

/// A quote of the known key, with these selections of registers.
fn quote(selections: &[&[u8]], registers: &[u8]) -> Vec<u8> {
    let name = known::quoter_name();
    let mut quote = [&b"\xffTCG\x80\x18\0\x22"[..], &name, &[0, 32], &known::binding().extra_data()].concat();
    quote.extend([0; 8]);
    quote.extend([0, 0, 0, 7, 0, 0, 0, 9, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
    quote.extend((selections.len() as u32).to_be_bytes());
    quote.extend(selections.concat());
    quote.extend([0, 32]);
    quote.extend(Sha256::digest(registers));
    quote
}

fn quotes() -> Vec<File> {
    const ALL: &[u8] = &[0, 0x0b, 3, 0xff, 0xff, 0];
    let recorded = pcrs::parse(REGISTERS).unwrap()[&Bank::Sha256].values().flatten().copied().collect::<Vec<u8>>();
    let values = (0..16).flat_map(|register| [register; 32]).collect::<Vec<u8>>();
    let ours = quote(&[ALL], &values);
    let ours_with = |at: usize, bytes: &[u8]| parts(&patched(&ours, at, bytes), &[], &values);
    let (count, digest) = (ours.len() - 44, ours.len() - 34);
    vec![
        file("tpm_quote", "recorded", parts(QUOTE, SIGNATURE, &recorded)),
        file(
            "tpm_quote",
            "recorded-with-a-number-of-33-bytes",
            parts(QUOTE, &patched(SIGNATURE, 4, &[0, 33]), &recorded),
        ),
        file("tpm_quote", "recorded-with-short-numbers", parts(QUOTE, &[0, 0x18, 0, 0x0b, 0, 1, 1, 0, 0], &recorded)),
        file(
            "tpm_quote",
            "recorded-with-a-signature-of-rsa",
            parts(QUOTE, &patched(SIGNATURE, 0, &[0, 0x14]), &recorded),
        ),
        file("tpm_quote", "recorded-with-15-registers", parts(QUOTE, SIGNATURE, &recorded[..480])),
        file("tpm_quote", "signed-by-us", parts(&ours, &[], &values)),
        file("tpm_quote", "signed-by-us-for-another-conversation", ours_with(44, &[0xff])),
        file("tpm_quote", "selection-of-255-bytes", ours_with(count + 6, &[0xff])),
        file("tpm_quote", "selections-of-4-gib", ours_with(count, &[0xff; 4])),
        file("tpm_quote", "no-selection", parts(&quote(&[], &values), &[], &values)),
        file("tpm_quote", "two-selections", parts(&quote(&[ALL, ALL], &values), &[], &values)),
        file("tpm_quote", "selections-of-no-registers", parts(&quote(&[&[0, 0x0b, 0][..]; 16], &values), &[], &values)),
        file("tpm_quote", "digest-of-64-kib", ours_with(digest, &[0xff; 2])),
        file("tpm_quote", "name-of-no-bytes", ours_with(6, &[0, 0])),
        file("tpm_quote", "certification-of-a-key", ours_with(5, &[0x17])),
        file("tpm_quote", "17-registers", parts(&ours, &[], &[7; 17 * 32])),
        file("tpm_quote", "cut", &parts(&ours, &[], &values)[..90]),
    ]
}

fn reports() -> Vec<File> {
    let with = |at: usize, bytes: &[u8]| [&patched(REPORT, at, bytes), VCEK].concat();
    let certificate = |at: usize, bytes: &[u8]| [REPORT, &patched(VCEK, at, bytes)].concat();
    vec![
        file("snp_report", "recorded", [REPORT, VCEK].concat()),
        file("snp_report", "recorded-of-a-guest-under-debugging", [DEBUGGED, DEBUGGED_VCEK].concat()),
        file("snp_report", "with-the-certificate-of-another-chip", [REPORT, DEBUGGED_VCEK].concat()),
        file("snp_report", "without-a-certificate", REPORT),
        file("snp_report", "version-of-4-gib", with(0, &[0xff; 4])),
        file("snp_report", "version-5", with(0, &[5, 0, 0, 0])),
        file("snp_report", "policy-of-ones", with(8, &[0xff; 8])),
        file("snp_report", "family-of-turin", with(0x188, &[0x1a, 0x11, 1])),
        file("snp_report", "signature-of-zeros", with(0x2a0, &[0; 144])),
        file("snp_report", "certificate-of-4-gib", certificate(0, &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff])),
        file("snp_report", "bytes-behind-the-certificate", [REPORT, VCEK, &[0]].concat()),
        file("snp_report", "cut", &REPORT[..1183]),
    ]
}
