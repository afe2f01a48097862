//! PCR 9: what the kernel's EFI stub was given (Linux, `drivers/firmware/efi/libstub/efi-stub-helper.c`): load options and initrd, both as the kernel sees them, after systemd-stub has made them.
//!
//! systemd-stub passes the initrd of the UKI with archives of its own around it: microcode before it; behind it credentials and extensions that stand beside the UKI, then sections of the UKI: a signature of PCR
//! values and its key, and since version 257 `.osrel` and `.profile`. From version 262 on it also passes a secret that it makes for this machine when the firmware has random numbers.

use super::utf16;
use crate::archive::{Place, archive};
use crate::boot::companions::Companions;
use crate::event::kind;
use crate::parse::uki::Uki;
use crate::{Event, Source};

/// First observed version of systemd-stub that may pass a boot secret, and that completes a command line without console.
const SECRET_AND_CONSOLE_SINCE: u32 = 262;
/// First observed version that passes `.osrel` as `.extra/os-release`, and a profile as `.extra/profile`.
const OS_RELEASE_SINCE: u32 = 257;

/// The load options: the command line in UTF-16 with its NUL, and behind it that of the add-ons.
pub fn load_options(uki: &Uki, companions: &Companions) -> Event {
    let input = "section .cmdline of the UKI, the kernel command line";
    let mut words = command_line(uki.section(".cmdline"));
    if words.is_empty() {
        let reason = "without a command line of its own, the kernel is started with what the firmware hands over";
        return Event::unknown(9, kind::TAG, Source::Image, input, reason);
    }
    if let Some(added) = companions.command_line() {
        words = format!("{words} {added}");
    }
    if uki.stub.follows_since(SECRET_AND_CONSOLE_SINCE) != Some(false)
        && !words.split(' ').any(|word| word.starts_with("console="))
    {
        let reason =
            "this systemd-stub adds a console to a command line that names none; which one depends on the machine";
        return Event::unknown(9, kind::TAG, Source::Image, input, reason);
    }
    Event::of(9, kind::TAG, Source::Image, input, &utf16(&words))
        .with_data(tagged(0x8f3b_22ed, "LOADED_IMAGE::LoadOptions"))
        .under_secure_boot(companions.under_secure_boot())
}

/// EV_EVENT_TAG: id, length, and here a text with its NUL (section 10.4.2.1).
fn tagged(id: u32, text: &str) -> Vec<u8> {
    let mut data = id.to_le_bytes().to_vec();
    data.extend((text.len() as u32 + 1).to_le_bytes());
    data.extend(text.bytes().chain([0]));
    data
}

/// The initrd as the stub serves it.
pub fn initrd(uki: &Uki, companions: &Companions) -> Event {
    let input = "section .initrd of the UKI, with .osrel behind it";
    let unknown = |reason: String| Event::unknown(9, kind::TAG, Source::Image, input, reason);
    if uki.stub.follows_since(SECRET_AND_CONSOLE_SINCE) != Some(false) {
        return unknown("this systemd-stub passes a boot secret that differs from machine to machine".into());
    }
    let passes_os_release = uki.stub.follows_since(OS_RELEASE_SINCE);
    if passes_os_release.is_none() && !uki.section(".osrel").is_empty() {
        return unknown(uki.stub.not_observed("passes .osrel with the initrd"));
    }
    if uki.unobserved_sections().contains(&".ucode") {
        return unknown(uki.stub.not_observed("passes .ucode with the initrd"));
    }
    let mut parts: Vec<Vec<u8>> = Vec::new();
    if uki.measured_sections().iter().any(|(name, _)| *name == ".ucode") {
        parts.push(uki.section(".ucode").into());
    }
    parts.push(uki.section(".initrd").into());
    parts.extend(companions.archives().into_iter().map(|archive| archive.bytes));
    let passed = [
        (".pcrsig", "tpm2-pcr-signature.json", true),
        (".pcrpkey", "tpm2-pcr-public-key.pem", true),
        (".osrel", "os-release", passes_os_release == Some(true)),
        (".profile", "profile", passes_os_release == Some(true)),
    ];
    let sections =
        passed.into_iter().filter(|(.., passes)| *passes).map(|(section, name, _)| (uki.section(section), name));
    let sections = sections.filter(|(content, _)| !content.is_empty());
    parts.extend(sections.map(|(content, name)| archive(Place::SECTIONS, &[(name, content)])));
    parts.retain(|part| !part.is_empty());
    if parts.is_empty() {
        return unknown("without an initrd of its own, the kernel takes what the firmware offers, if anything".into());
    }
    Event::of(9, kind::TAG, Source::Image, input, &joined(parts)).with_data(tagged(0x8f3b_22ec, "Linux initrd"))
}

/// One part as it is; several with zeros behind each up to a multiple of 4.
fn joined(mut parts: Vec<Vec<u8>>) -> Vec<u8> {
    if parts.len() > 1 {
        parts.iter_mut().for_each(|part| part.resize(part.len().next_multiple_of(4), 0));
    }
    parts.concat()
}

/// As the stub reads it: no blanks around it, control characters are blanks.
pub(crate) fn command_line(section: &[u8]) -> String {
    let text = String::from_utf8_lossy(section);
    let text = text.trim_end_matches('\0').trim_matches(|character: char| character <= ' ');
    text.chars().map(|character| if character < ' ' { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_options(uki: &Uki) -> Event {
        super::load_options(uki, &Companions::default())
    }

    fn initrd(uki: &Uki) -> Event {
        super::initrd(uki, &Companions::default())
    }

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
        assert_eq!(unknown(255, &[(".cmdline", b"quiet"), (".osrel", b"ID=x"), (".initrd", b"i")]), [false, true]);
        assert_eq!(unknown(260, &[(".cmdline", b"console=x"), (".initrd", b"i")]), [false, true]);
    }

    #[test]
    fn tags_are_as_linux_writes_them() {
        let data = tagged(0x8f3b_22ec, "Linux initrd");
        assert_eq!(data, b"\xec\x22\x3b\x8f\x0d\0\0\0Linux initrd\0");
    }
}
