//! Reports of AMD SEV-SNP (SEV Secure Nested Paging Firmware ABI, publication 56860, section 7.3): signature, chain of certificates up to the manufacturer's root, and what no guest of ours may have.
//!
//! The certificate must be of the chip and of the firmware that the report names (VCEK certificate and KDS interface specification, publication 57230, section 3.1). Revocation lists, floors of firmware versions and
//! the choice of processors are the verifier's next checks, and are not made here: no key is released on a report alone.

use sev::certs::snp::{Certificate, Chain, Verifiable, builtin, ca};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;
use x509_cert::der::asn1::ObjectIdentifier;

use crate::binding::Binding;
use crate::{Code, Refusal};

/// Fields that are read as bytes: policy, key information, TCB version, chip.
const POLICY: usize = 0x08;
const KEY_INFO: usize = 0x48;
const REPORTED_TCB: usize = 0x180;
const CHIP_ID: std::ops::Range<usize> = 0x1a0..0x1e0;
const LENGTH: usize = 1184;
/// Bits of the guest policy (table 9).
const MIGRATE_MA: u64 = 1 << 18;
const DEBUG: u64 = 1 << 19;
/// Extensions of a VCEK: parts of the TCB version, and the chip.
const BOOT_LOADER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1");
const TEE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2");
const SNP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3");
const MICROCODE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8");
const FMC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9");
const CHIP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");

/// Families of processors, each with a root of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004.
    Genoa,
    /// EPYC 9005.
    Turin,
}

impl Product {
    /// The parts of a TCB version, each with its byte in the version (ABI, tables 3 and 4).
    fn tcb_parts(self) -> &'static [(ObjectIdentifier, usize, &'static str)] {
        const FIRST: [(ObjectIdentifier, usize, &str); 4] =
            [(BOOT_LOADER, 0, "boot loader"), (TEE, 1, "TEE"), (SNP, 6, "SNP firmware"), (MICROCODE, 7, "microcode")];
        const TURIN: [(ObjectIdentifier, usize, &str); 5] = [
            (FMC, 0, "FMC"),
            (BOOT_LOADER, 1, "boot loader"),
            (TEE, 2, "TEE"),
            (SNP, 3, "SNP firmware"),
            (MICROCODE, 7, "microcode"),
        ];
        match self {
            Self::Milan | Self::Genoa => &FIRST,
            Self::Turin => &TURIN,
        }
    }

    /// Bytes of the hardware id in the certificate; the rest of CHIP_ID is zero.
    fn hardware_id_bytes(self) -> usize {
        match self {
            Self::Milan | Self::Genoa => 64,
            Self::Turin => 8,
        }
    }
}

/// What a checked report says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// The launch digest.
    pub measurement: [u8; 48],
    /// What the host gave with the guest: the digest of its configuration.
    pub host_data: [u8; 32],
    /// Random for each launch, and the same for its life.
    pub report_id: [u8; 32],
    /// The chip.
    pub chip_id: [u8; 64],
}

/// Checks a report with the chip's certificate (VCEK, DER), bound to `binding`.
///
/// # Errors
/// In this order: [`Code::Malformed`], [`Code::SnpSigningKey`], [`Code::SnpChipHidden`], [`Code::VcekChain`], [`Code::ReportSignature`], [`Code::SnpDebug`], [`Code::SnpMigratable`], [`Code::SnpVmpl`], [`Code::BinderMismatch`].
pub fn check(report: &[u8], vcek: &[u8], product: Product, binding: &Binding) -> Result<Reported, Refusal> {
    check_with_data(report, vcek, product, &binding.report_data())
}

fn check_with_data(report: &[u8], vcek: &[u8], product: Product, data: &[u8; 64]) -> Result<Reported, Refusal> {
    let malformed = |found: String| Refusal::new(Code::Malformed, found);
    if report.len() != LENGTH {
        return Err(malformed(format!("a report has {LENGTH} bytes, this one {}", report.len())));
    }
    let refuse = |code, found: &str| Err(Refusal::new(code, found));
    let info = number(report, KEY_INFO) as u32;
    if info >> 2 & 7 != 0 {
        return refuse(Code::SnpSigningKey, "the report is not signed by the chip's own key");
    }
    if report[CHIP_ID].iter().all(|byte| *byte == 0) {
        return refuse(Code::SnpChipHidden, "the report does not say which chip signed it");
    }
    let parsed = AttestationReport::from_bytes(report).map_err(|error| malformed(format!("the report: {error}")))?;
    let chain = chain(vcek, product)?;
    check_certificate(&chain.vek, report, product)?;
    let signature = (&chain, &parsed).verify();
    signature.map_err(|error| Refusal::new(Code::ReportSignature, format!("the report: {error}")))?;
    // The signature is verified over what was understood of the report: nothing else may be in it.
    if parsed.to_bytes().ok().is_none_or(|bytes| AsRef::<[u8]>::as_ref(&bytes) != report) {
        return refuse(Code::ReportSignature, "a reserved field of the report is not as it was signed");
    }

    let policy = number(report, POLICY);
    if policy & DEBUG != 0 {
        return refuse(Code::SnpDebug, "the guest's policy allows the host to debug it");
    }
    if policy & MIGRATE_MA != 0 {
        return refuse(Code::SnpMigratable, "the guest's policy allows a migration agent");
    }
    if parsed.vmpl != 0 {
        return Err(Refusal::new(Code::SnpVmpl, format!("the report was made at VMPL {}", parsed.vmpl)));
    }
    if parsed.report_data != *data {
        return refuse(Code::BinderMismatch, "the report was made for another conversation, key, purpose or disk");
    }
    let AttestationReport { measurement, host_data, report_id, chip_id, .. } = parsed;
    Ok(Reported { measurement, host_data, report_id, chip_id })
}

fn number(report: &[u8], at: usize) -> u64 {
    report.iter().skip(at).take(8).rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn chain(vcek: &[u8], product: Product) -> Result<Chain, Refusal> {
    let wrong = |error: std::io::Error| Refusal::new(Code::VcekChain, format!("the chip's certificate: {error}"));
    let (ark, ask) = match product {
        Product::Milan => (builtin::milan::ark(), builtin::milan::ask()),
        Product::Genoa => (builtin::genoa::ark(), builtin::genoa::ask()),
        Product::Turin => (builtin::turin::ark(), builtin::turin::ask()),
    };
    let vek = Certificate::from_der(vcek).map_err(wrong)?;
    let chain = Chain { ca: ca::Chain { ark: ark.map_err(wrong)?, ask: ask.map_err(wrong)? }, vek };
    chain.verify().map_err(wrong)?;
    Ok(chain)
}

/// That the certificate is of the chip and the firmware that the report names. How the report is read follows from the chain, not from the report's own word.
fn check_certificate(certificate: &Certificate, report: &[u8], product: Product) -> Result<(), Refusal> {
    let certificate: x509_cert::Certificate = certificate.clone().into();
    let extensions = certificate.tbs_certificate.extensions.unwrap_or_default();
    let value = |id: ObjectIdentifier| {
        extensions.iter().find(|extension| extension.extn_id == id).map(|extension| extension.extn_value.as_bytes())
    };
    for (id, at, name) in product.tcb_parts() {
        let part = report[REPORTED_TCB + at];
        if value(*id).and_then(small_integer) != Some(part) {
            let found = format!("the certificate is not of {name} {part}, which the report names");
            return Err(Refusal::new(Code::VcekChain, found));
        }
    }
    let (hardware_id, rest) = report[CHIP_ID].split_at(product.hardware_id_bytes());
    if value(CHIP) != Some(hardware_id) || rest.iter().any(|byte| *byte != 0) {
        return Err(Refusal::new(Code::VcekChain, "the certificate is of another chip"));
    }
    Ok(())
}

/// A DER INTEGER from 0 to 255.
fn small_integer(der: &[u8]) -> Option<u8> {
    match der {
        [2, 1, value] if *value < 0x80 => Some(*value),
        [2, 2, 0, value] if *value >= 0x80 => Some(*value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &[u8] = include_bytes!("../tests/recorded/snp-report.bin");
    const VCEK: &[u8] = include_bytes!("../tests/recorded/snp-vcek.der");
    const OTHER_REPORT: &[u8] = include_bytes!("../tests/recorded/snp-milan-attestation.bin");
    const OTHER_VCEK: &[u8] = include_bytes!("../tests/recorded/snp-milan-vcek.der");

    fn data(report: &[u8]) -> [u8; 64] {
        report[0x50..0x90].try_into().unwrap()
    }

    #[test]
    fn a_recorded_report_of_a_real_chip_is_accepted_for_its_own_data() {
        let reported = check_with_data(REPORT, VCEK, Product::Milan, &data(REPORT)).unwrap();
        assert_eq!(reported.measurement[..], REPORT[0x90..0xc0]);
        assert_eq!(reported.host_data[..], REPORT[0xc0..0xe0]);
    }

    #[test]
    fn one_change_is_refused_with_its_code() {
        let flipped = |at: usize, bit: u8| {
            let mut report = REPORT.to_vec();
            report[at] ^= bit;
            report
        };
        let hidden = [&REPORT[..0x1a0], &[0; 64], &REPORT[0x1e0..]].concat();
        type Row = (&'static str, Vec<u8>, &'static [u8], Product, Code);
        let rows: [Row; 10] = [
            ("a reserved byte", flipped(0x184, 1), VCEK, Product::Milan, Code::ReportSignature),
            ("measurement", flipped(0x90, 1), VCEK, Product::Milan, Code::ReportSignature),
            ("host data", flipped(0xc0, 1), VCEK, Product::Milan, Code::ReportSignature),
            ("signature", flipped(0x2a0, 1), VCEK, Product::Milan, Code::ReportSignature),
            ("another chip's certificate", REPORT.to_vec(), OTHER_VCEK, Product::Milan, Code::VcekChain),
            ("another product's root", REPORT.to_vec(), VCEK, Product::Genoa, Code::VcekChain),
            ("no certificate", REPORT.to_vec(), &[], Product::Milan, Code::VcekChain),
            ("signed by nobody", flipped(0x48, 7 << 2), VCEK, Product::Milan, Code::SnpSigningKey),
            ("a hidden chip", hidden, VCEK, Product::Milan, Code::SnpChipHidden),
            ("a guest under debugging", OTHER_REPORT.to_vec(), OTHER_VCEK, Product::Milan, Code::SnpDebug),
        ];
        for (name, report, vcek, product, code) in rows {
            let refusal = check_with_data(&report, vcek, product, &data(&report)).unwrap_err();
            assert_eq!(refusal.code, code, "{name}: {refusal}");
        }
        let refusal = check_with_data(REPORT, VCEK, Product::Milan, &[7; 64]).unwrap_err();
        assert_eq!(refusal.code, Code::BinderMismatch);
        for length in [0, 1, LENGTH - 1] {
            let refusal = check_with_data(&REPORT[..length], VCEK, Product::Milan, &[0; 64]).unwrap_err();
            assert_eq!(refusal.code, Code::Malformed);
        }
    }

    const TURIN_REPORT: &[u8] = include_bytes!("../tests/recorded/snp-turin-v5-report.bin");
    const TURIN_VCEK: &[u8] = include_bytes!("../tests/recorded/snp-turin-v5-vcek.der");

    #[test]
    fn recorded_report_of_a_turin_is_accepted_for_its_own_data() {
        let reported = check_with_data(TURIN_REPORT, TURIN_VCEK, Product::Turin, &data(TURIN_REPORT)).unwrap();
        assert_eq!(reported.measurement[..], TURIN_REPORT[0x90..0xc0]);
        assert_eq!(reported.chip_id[..], TURIN_REPORT[CHIP_ID]);
    }

    #[test]
    fn turin_report_of_another_chip_or_firmware_is_refused() {
        let code = |at: usize| {
            let mut report = TURIN_REPORT.to_vec();
            report[at] ^= 1;
            check_with_data(&report, TURIN_VCEK, Product::Turin, &data(&report)).unwrap_err().code
        };
        // The parts of its TCB version; its hardware id, and zeros behind it.
        for at in [0, 1, 2, 3, 7].map(|part| REPORTED_TCB + part).into_iter().chain([0x1a0, 0x1a7, 0x1a8, 0x1df]) {
            assert_eq!(code(at), Code::VcekChain, "{at:#x}");
        }
        assert_eq!(code(REPORTED_TCB + 4), Code::ReportSignature);
        for product in [Product::Milan, Product::Genoa] {
            let refusal = check_with_data(TURIN_REPORT, TURIN_VCEK, product, &data(TURIN_REPORT)).unwrap_err();
            assert_eq!(refusal.code, Code::VcekChain);
        }
    }

    #[test]
    fn small_integers_are_read_as_der_has_them() {
        for (der, value) in [
            (&[2, 1, 0][..], Some(0)),
            (&[2, 1, 0x7f], Some(0x7f)),
            (&[2, 2, 0, 0x80], Some(0x80)),
            (&[2, 1, 0x80], None),
            (&[2, 2, 0, 0x7f], None),
            (&[4, 1, 0], None),
            (&[], None),
        ] {
            assert_eq!(small_integer(der), value, "{der:?}");
        }
    }
}
