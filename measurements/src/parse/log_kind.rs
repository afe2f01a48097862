//! Logs that are not the firmware's log of a TPM, known by how they begin, so that a refusal names what was given and what to give.

use super::bytes::At;
use super::container::container;

/// What a file is, and what to do.
pub(super) type Kind = (&'static str, &'static str);

const READ: &str = "read /sys/kernel/security/tpm0/binary_bios_measurements of the machine as root";
/// More registers than a TPM has.
const REGISTERS: u32 = 24;
/// Bytes of TCG_PCR_EVENT before its data: register, type, SHA-1, length.
const SHA1_EVENT: usize = 32;
/// Types of events have these bits (TCG PC Client Platform Firmware Profile, section 10.4.1).
const EVENT_TYPES: u32 = 0x8000_0fff;
/// Longest name of a template of IMA, and its register.
const MAX_TEMPLATE_BYTES: usize = 32;
const IMA_REGISTER: u32 = 10;

/// What a file is that is no firmware log.
pub(super) fn of(bytes: &[u8]) -> Option<Kind> {
    if bytes.is_empty() {
        return Some((
            "the log is empty",
            "read it again as root; a machine whose log is empty has firmware that hands no log to the kernel, and can only be compared by --pcrs",
        ));
    }
    if bytes.iter().all(|byte| *byte == bytes[0] && matches!(byte, 0 | 0xff)) {
        return Some(("the log has no event", READ));
    }
    if let Some(found) = container(bytes) {
        return Some((found.name, READ));
    }
    text(bytes).or_else(|| binary(bytes))
}

fn binary(bytes: &[u8]) -> Option<Kind> {
    if is_cel_tlv(bytes) {
        return Some(("it is a log in CEL-TLV (TCG Canonical Event Log), which is not read", READ));
    }
    if is_ima(bytes) {
        return Some(("it is the log of IMA (PCR 10)", READ));
    }
    is_sha1_format(bytes).then_some((
        "it is a log in the SHA-1 format of TPM 1.2 (TCG_PCR_EVENT), whose events have no other digest",
        "give the log of a machine with a TPM 2.0; SHA-1 proves nothing",
    ))
}

fn text(bytes: &[u8]) -> Option<Kind> {
    let start = String::from_utf8_lossy(bytes.get(..256).unwrap_or(bytes)).into_owned();
    let start = start.trim_start();
    if start.starts_with(['\u{1e}', '{', '[']) {
        return Some(("it is a log in JSON, as systemd keeps of user space (CEL-JSON)", READ));
    }
    if start.starts_with("---") || start.starts_with("version:") {
        return Some(("it is what tpm2_eventlog prints", "give the binary log that was printed"));
    }
    if ["sha1:", "sha256:", "sha384:", "sha512:"].iter().any(|bank| start.starts_with(bank)) {
        return Some(("these are registers, as tpm2_pcrread prints them", "give them with --pcrs"));
    }
    let mut words = start.split_ascii_whitespace();
    let is_ima = words.next() == Some("10")
        && words.next().is_some_and(|digest| digest.len() >= 40 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    is_ima.then_some(("it is the log of IMA (PCR 10)", READ))
}

/// Records of type, length (big-endian) and value: number of the record, then register.
fn is_cel_tlv(bytes: &[u8]) -> bool {
    let field = |at: usize| Some((bytes.byte(at)?, bytes.word(at + 1)?.swap_bytes() as usize));
    let Some((0, length @ (4 | 8))) = field(0) else { return false };
    matches!(field(5 + length), Some((1 | 108, 1 | 4)))
}

/// Register, SHA-1 of the entry, name of the template.
fn is_ima(bytes: &[u8]) -> bool {
    let Some(length) = bytes.word(24).map(|length| length as usize).filter(|length| *length <= MAX_TEMPLATE_BYTES)
    else {
        return false;
    };
    bytes.word(0) == Some(IMA_REGISTER) && bytes.range(28, length).is_some_and(|name| name.starts_with(b"ima"))
}

/// Events one behind the other, from the first byte on: all of them, or the first three.
fn is_sha1_format(bytes: &[u8]) -> bool {
    let mut at = 0;
    for _ in 0..3 {
        let (Some(register), Some(kind), Some(length)) = (bytes.word(at), bytes.word(at + 4), bytes.word(at + 28))
        else {
            return false;
        };
        if register >= REGISTERS || kind & !EVENT_TYPES != 0 || bytes.range(at + SHA1_EVENT, length as usize).is_none()
        {
            return false;
        }
        at += SHA1_EVENT + length as usize;
        if at == bytes.len() {
            return true;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_of_another_kind_is_named() {
        let event = |kind: u32, data: &[u8]| {
            let mut event = [7_u32, kind].iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
            event.extend([0; 20]);
            event.extend((data.len() as u32).to_le_bytes());
            event.extend(data);
            event
        };
        let mut ima = 10_u32.to_le_bytes().to_vec();
        ima.extend([3; 20]);
        ima.extend(6_u32.to_le_bytes());
        ima.extend(b"ima-ng");
        let tlv = [&[0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 4][..], &[3; 40]].concat();
        let line = format!("10 {} ima-ng sha256:00 boot_aggregate\n", "ab".repeat(20));
        let rows: [(&[u8], &str); 12] = [
            (b"", "is empty"),
            (&[0; 64], "no event"),
            (&[0xff; 64], "no event"),
            (&event(8, b"version"), "SHA-1 format"),
            (&event(8, b"version").repeat(4), "SHA-1 format"),
            (&ima, "IMA"),
            (line.as_bytes(), "IMA"),
            (&tlv, "CEL-TLV"),
            (b"\x1e{\"pcr\":11}", "CEL-JSON"),
            (b"---\nversion: 1\n", "tpm2_eventlog"),
            (b"  sha256:\n    0 : 0x00\n", "tpm2_pcrread"),
            (b"\x1f\x8b\x08\0", "gzip"),
        ];
        for (bytes, words) in rows {
            let found = of(bytes).map(|(name, _)| name).unwrap_or_default();
            assert!(found.contains(words), "{words}: {found}");
        }
        assert_eq!((of(b"hello"), of(&[1; 100])), (None, None));
    }
}
