//! PCR 9: what the kernel's EFI stub was given (Linux, `drivers/firmware/efi/libstub/efi-stub-helper.c`): load options and initrd, both as the kernel sees them, after systemd-stub has made them.
//!
//! systemd-stub passes the initrd of the UKI with archives of its own behind it: since version 257 one with `.osrel` as `.extra/os-release`. From version 262 on it also passes
//! a secret that it makes for this machine when the firmware has random numbers.

use crate::event::kind;
use crate::parse::uki::Uki;
use crate::{Event, Source};

/// First version of systemd-stub that may pass a boot secret, and that completes a command line without console.
const BOOT_SECRET_SINCE: u32 = 262;
/// First version that completes a command line which names no console.
const CONSOLE_SINCE: u32 = 258;

/// The load options: the command line in UTF-16 with its NUL.
pub fn load_options(uki: &Uki) -> Event {
    let input = "section .cmdline of the UKI, the kernel command line";
    let words = command_line(uki.section(".cmdline"));
    if words.is_empty() {
        let reason = "without a command line of its own, the kernel is started with what the firmware hands over";
        return Event::unknown(9, kind::TAG, Source::Image, input, reason);
    }
    if uki.stub.version >= CONSOLE_SINCE && !words.split(' ').any(|word| word.starts_with("console=")) {
        let reason =
            "this systemd-stub adds a console to a command line that names none; which one depends on the machine";
        return Event::unknown(9, kind::TAG, Source::Image, input, reason);
    }
    let bytes: Vec<u8> = words.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    Event::of(9, kind::TAG, Source::Image, input, &bytes).with_data(tagged(0x8f3b_22ed, "LOADED_IMAGE::LoadOptions"))
}

/// EV_EVENT_TAG: id, length, and here a text with its NUL (section 10.4.2.1).
fn tagged(id: u32, text: &str) -> Vec<u8> {
    let mut data = id.to_le_bytes().to_vec();
    data.extend((text.len() as u32 + 1).to_le_bytes());
    data.extend(text.bytes().chain([0]));
    data
}

/// The initrd as the stub serves it.
pub fn initrd(uki: &Uki) -> Event {
    let input = "section .initrd of the UKI, with .osrel behind it";
    if uki.stub.version >= BOOT_SECRET_SINCE {
        let reason = "this systemd-stub passes a boot secret that differs from machine to machine";
        return Event::unknown(9, kind::TAG, Source::Image, input, reason);
    }
    let mut initrd = uki.section(".initrd").to_vec();
    let os_release = uki.section(".osrel");
    if uki.stub.passes_os_release() && !os_release.is_empty() {
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        initrd.extend(archive(".extra", "os-release", os_release));
    }
    if initrd.is_empty() {
        let reason = "without an initrd of its own, the kernel takes what the firmware offers, if anything";
        return Event::unknown(9, kind::TAG, Source::Image, input, reason);
    }
    Event::of(9, kind::TAG, Source::Image, input, &initrd).with_data(tagged(0x8f3b_22ec, "Linux initrd"))
}

/// As the stub reads it: no blanks around it, control characters are blanks.
fn command_line(section: &[u8]) -> String {
    let text = String::from_utf8_lossy(section);
    let text = text.trim_end_matches('\0').trim_matches(|character: char| character <= ' ');
    text.chars().map(|character| if character < ' ' { ' ' } else { character }).collect()
}

/// The stub has it as a constant: the only upper-case digit of its archives, and one NUL more than the name has.
const TRAILER: &[u8; 124] = b"0707010000000000000000000000000000000000000001000000000000000000000000\
      0000000000000000000000000000000B00000000TRAILER!!!\0\0\0\0";

/// A cpio archive (newc) of one folder and one file, as systemd-stub writes it.
fn archive(folder: &str, name: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    entry(&mut archive, [1, 0o040_555, 1], folder, &[]);
    entry(&mut archive, [2, 0o100_444, 1], &format!("{folder}/{name}"), content);
    archive.extend(TRAILER);
    archive
}

/// `numbers` are inode, mode and links; all others are zero.
fn entry(archive: &mut Vec<u8>, numbers: [u32; 3], name: &str, content: &[u8]) {
    let [inode, mode, links] = numbers;
    let (size, length) = (content.len() as u32, name.len() as u32 + 1);
    archive.extend(b"070701");
    for number in [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, length, 0] {
        archive.extend(format!("{number:08x}").bytes());
    }
    archive.extend(name.bytes().chain([0]));
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_loses_its_blanks_at_the_ends() {
        for (section, expected) in
            [(&b"a b"[..], "a b"), (b" a\tb\n\0", "a b"), (b"", ""), ("\u{e9} x".as_bytes(), "\u{e9} x")]
        {
            assert_eq!(command_line(section), expected);
        }
    }

    #[test]
    fn what_a_uki_does_not_have_is_not_taken_for_empty() {
        let magic = |version: u32| format!("#### LoaderInfo: systemd-stub {version}.1 ####");
        let unknown = |version: u32, sections: &[(&str, &[u8])]| {
            let magic = magic(version);
            let all = [&[(".sdmagic", magic.as_bytes()), (".linux", b"kernel")], sections].concat();
            let bytes = crate::parse::pe::tests::image(&all);
            let uki = Uki::parse(&bytes).unwrap();
            [load_options(&uki), initrd(&uki)].map(|event| event.digests.legal().is_empty())
        };
        assert_eq!(unknown(257, &[]), [true, true]);
        assert_eq!(unknown(257, &[(".cmdline", b" \n"), (".initrd", b"")]), [true, true]);
        assert_eq!(unknown(257, &[(".cmdline", b"quiet"), (".osrel", b"ID=x")]), [false, false]);
        assert_eq!(unknown(252, &[(".cmdline", b"quiet"), (".osrel", b"ID=x")]), [false, true]);
    }

    #[test]
    fn tags_are_as_linux_writes_them() {
        let data = tagged(0x8f3b_22ec, "Linux initrd");
        assert_eq!(data, b"\xec\x22\x3b\x8f\x0d\0\0\0Linux initrd\0");
    }

    #[test]
    fn the_archive_is_aligned_and_ends_with_a_trailer() {
        let bytes = archive(".extra", "os-release", b"ID=x\n");
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            text.starts_with("07070100000001000041")
                && text.contains(".extra/os-release\0")
                && text.contains("TRAILER!!!")
        );
    }
}
