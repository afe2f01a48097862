//! Logs that are not the firmware's log of a TPM, known by how they begin, so that a refusal names what was given and what to give.

use super::bytes::At;
use super::container::container;
use super::encoding::encoding;
use super::log_json;

/// What a file is, and what to do.
pub(super) type Kind = (String, String);

pub(super) fn kind(name: &str, hint: &str) -> Kind {
    (name.into(), hint.into())
}

pub(super) const READ: &str = "read /sys/kernel/security/tpm0/binary_bios_measurements of the machine as root";
/// More registers than a TPM has.
const REGISTERS: u32 = 24;
/// Bytes of TCG_PCR_EVENT before its data: register, type, SHA-1, length.
const SHA1_EVENT: usize = 32;
/// Types of events have these bits (TCG PC Client Platform Firmware Profile, section 10.4.1).
const EVENT_TYPES: u32 = 0x8000_0fff;
/// Longest name of a template of IMA, and its register.
const MAX_TEMPLATE_BYTES: usize = 32;
const IMA_REGISTER: u32 = 10;
/// Place of the signature in the header of a log, and as far behind it as it is searched for.
const SIGNATURE: (usize, &[u8]) = (32, b"Spec ID Event03");
const MAX_PREFIX_BYTES: usize = 16;
/// Bytes of the ACPI table CCEL (ACPI 6.5, section 5.2.34).
const CCEL_BYTES: u32 = 56;
/// Characters of a text that are enough to recognize it.
const RECOGNIZED_BYTES: usize = 512;

/// What a file is that is no firmware log.
pub(super) fn of(bytes: &[u8]) -> Option<Kind> {
    if bytes.is_empty() {
        return Some(kind(
            "the log is empty",
            "read it again as root; a machine whose log is empty has firmware that hands no log to the kernel, and can only be compared by --pcrs",
        ));
    }
    if bytes.iter().all(|byte| *byte == bytes[0] && matches!(byte, 0 | 0xff)) {
        return Some(kind("the log has no event", READ));
    }
    if let Some(found) = container(bytes) {
        let hint = found.printing_command().map_or_else(|| READ.into(), to_log);
        return Some((format!("it is {}", found.name), hint));
    }
    text(bytes).or_else(|| binary(bytes))
}

/// The command that writes a log with what `command` prints.
pub(super) fn to_log(command: &str) -> String {
    format!("run `{command} > log.bin`, then give log.bin")
}

fn binary(bytes: &[u8]) -> Option<Kind> {
    let (name, hint) = match () {
        () if is_moved(bytes) => ("it has other bytes before the log", "copy the log again, as a binary file"),
        () if is_cel_tlv(bytes) => ("it is a log in CEL-TLV (TCG Canonical Event Log), which is not read", READ),
        () if is_ima(bytes) => ("it is the log of IMA (PCR 10)", READ),
        () if bytes.starts_with(b"CCEL") && bytes.word(4) == Some(CCEL_BYTES) => (
            "it is the ACPI table CCEL, which only points to a CC event log",
            "RTMRs are not predicted: give the log of the machine's TPM (binary_bios_measurements), or compare MRTD",
        ),
        () if is_variable_update(bytes) => ("it is an authenticated update of a UEFI variable", READ),
        () if is_sha1_format(bytes) => (
            "it is a log in the SHA-1 format of TPM 1.2 (TCG_PCR_EVENT), whose events have no other digest",
            "if the machine has a TPM 2.0, read its log with Linux 5.3 or newer, or compare its registers by --pcrs; TPM 1.2 is not supported",
        ),
        () => return None,
    };
    Some(kind(name, hint))
}

fn text(bytes: &[u8]) -> Option<Kind> {
    if let Some(bytes) = bytes.strip_prefix(b"\xef\xbb\xbf") {
        return text(bytes);
    }
    if bytes.starts_with(b"\xff\xfe") {
        let units = bytes.chunks_exact(2).skip(1).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        let decoded = char::decode_utf16(units.take(RECOGNIZED_BYTES)).collect::<Result<String, _>>().ok()?;
        return of_words(&decoded).or_else(|| Some(kind("it is text in UTF-16, not an event log", READ)));
    }
    if let Ok(json) = std::str::from_utf8(bytes)
        && let Some(found) = log_json::of(json.trim_ascii_start())
    {
        return Some(found);
    }
    if let Some(found) = encoding(bytes) {
        return Some((format!("it is {}", found.name), to_log(found.command)));
    }
    let start = String::from_utf8_lossy(bytes.get(..RECOGNIZED_BYTES).unwrap_or(bytes)).into_owned();
    let is_text = start.chars().all(|char| char.is_ascii_whitespace() || !(char.is_control() || char == '\u{fffd}'));
    of_words(&start).or_else(|| is_text.then(|| kind("it is text, not an event log", READ)))
}

fn of_words(start: &str) -> Option<Kind> {
    let start = start.trim_start();
    let begins = |words: &[&str]| words.iter().any(|word| start.starts_with(word));
    if begins(&["pcrs:"]) || begins(&["sha1:", "sha256:", "sha384:", "sha512:"]) {
        return Some(kind("these are registers, as tpm2_pcrread prints them", "give them with --pcrs"));
    }
    if begins(&["---", "version:"]) {
        return Some(kind("it is what tpm2_eventlog prints", "give the binary log that was printed"));
    }
    if begins(&["<!DOCTYPE", "<!doctype", "<html"]) {
        return Some(kind("it is an HTML page", READ));
    }
    list_of_kernel(start).map(|name| kind(name, READ))
}

/// A list of the kernel: register, digest, then the name of a template (IMA) or the type of an event.
fn list_of_kernel(start: &str) -> Option<&'static str> {
    let mut words = start.split_ascii_whitespace();
    let is_hex = |word: &str| word.bytes().all(|byte| byte.is_ascii_hexdigit());
    words.next()?.parse().ok().filter(|register: &u32| *register < REGISTERS)?;
    words.next().filter(|digest| digest.len() >= 40 && is_hex(digest))?;
    match words.next() {
        Some(kind) if is_hex(kind) => Some("it is the kernel's list ascii_bios_measurements"),
        _ => Some("it is the log of IMA (PCR 10)"),
    }
}

/// The header of a log, not at the beginning.
fn is_moved(bytes: &[u8]) -> bool {
    let (at, signature) = SIGNATURE;
    (1..=MAX_PREFIX_BYTES).any(|moved| bytes.range(at + moved, signature.len()) == Some(signature))
}

/// EFI_VARIABLE_AUTHENTICATION_2 (UEFI 2.10, section 8.2.2): a time, then a certificate of revision 2.0 and type EFI_GUID.
fn is_variable_update(bytes: &[u8]) -> bool {
    bytes.range(20, 4) == Some(&[0x00, 0x02, 0xf1, 0x0e])
        && bytes.byte(2).is_some_and(|month| (1..=12).contains(&month))
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
        let mut update = vec![0; 64];
        update[..4].copy_from_slice(&[0xda, 0x07, 3, 6]);
        update[20..24].copy_from_slice(&[0x00, 0x02, 0xf1, 0x0e]);
        let table = [&b"CCEL"[..], &[56, 0, 0, 0], &[1; 48]].concat();
        let moved = [&[b'\n'; 33][..], b"Spec ID Event03\0", &[1; 40]].concat();
        let printed = "\u{feff}---\nversion: 1\n".to_owned();
        let utf16 = printed.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let events = format!(" 0 {} 08 [S-CRTM Version]\n", "ab".repeat(20));
        let custom = line.replacen("10 ", "11 ", 1);
        let (base64, hex) = ("AAMA".repeat(30), "000003".repeat(30));
        let rows: [(&[u8], &str); 26] = [
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
            (b"\x1f\x8b\x08\0", "it is compressed with gzip: run `gzip -dc FILE > log.bin"),
            (base64.as_bytes(), "it is text in base64: run `base64 -d FILE > log.bin"),
            (hex.as_bytes(), "hexadecimal text: run `xxd -r -p FILE > log.bin"),
            (b"00000000: 0000 0000 0300 0000", "xxd: run `xxd -r FILE > log.bin"),
            (&update, "authenticated update"),
            (&table, "ACPI table CCEL"),
            (&moved, "other bytes before the log"),
            (printed.as_bytes(), "tpm2_eventlog"),
            (&utf16, "tpm2_eventlog"),
            (b"pcrs:\n  sha1:\n", "--pcrs"),
            (events.as_bytes(), "ascii_bios_measurements"),
            (custom.as_bytes(), "IMA"),
            (b"<!DOCTYPE html>\n", "HTML"),
            (b"cat: Permission denied\n", "it is text"),
            (b"{}", "JSON, not an event log"),
        ];
        for (bytes, words) in rows {
            let found = of(bytes).map(|(name, hint)| format!("{name}: {hint}")).unwrap_or_default();
            assert!(found.contains(words), "{words}: {found}");
        }
        assert_eq!(of(&[1; 100]), None);
    }
}
