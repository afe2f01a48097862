//! Versions of systemd-stub, and which rules each of them follows (systemd-stub(7); systemd, `src/boot/stub.c`).
//!
//! A rule counts for the versions that were compared with a real boot, and for the versions between two of them that agree. Between two that do not agree, it is not known when the rule
//! changed: what depends on it is unknown. A stub that does not name its version is refused.

use super::pe::Pe;
use super::uki::Error;

/// Where a program of systemd-boot says who it is.
pub const SDMAGIC: &str = ".sdmagic";
/// Versions that were compared with a real boot.
const OBSERVED: [u32; 4] = [252, 254, 257, 262];

/// What a version of systemd-stub does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stub {
    /// Major version, such as 257.
    pub version: u32,
}

/// The sections that a stub looks at, in the order in which it measures them, each with the first observed version that measures it.
pub(super) const MEASURED: [(&str, u32); 14] = [
    (".linux", 252),
    (".osrel", 252),
    (".cmdline", 252),
    (".initrd", 252),
    (".ucode", 257),
    (".splash", 252),
    (".dtb", 252),
    (".uname", 254),
    (".sbat", 254),
    (".pcrpkey", 252),
    (".profile", 257),
    (".dtbauto", 257),
    (".hwids", 257),
    (".efifw", 262),
];

/// What a program of systemd-boot calls itself in [`SDMAGIC`]: `systemd-stub`, `systemd-boot`, `systemd-addon`; and its major version.
pub fn program(pe: &Pe) -> Option<(String, u32)> {
    let text = String::from_utf8_lossy(pe.section(SDMAGIC)?.data).into_owned();
    let (name, rest) = text.strip_prefix("#### LoaderInfo: ")?.split_once(' ')?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((name.to_owned(), digits.parse().ok()?))
}

/// Name of a PE image without a kernel, as far as its sections show it: of systemd, shim or GRUB (SBAT, https://github.com/rhboot/shim/blob/main/SBAT.md), or a kernel of Linux.
pub(super) fn name(pe: &Pe) -> &'static str {
    let section =
        |name: &str| pe.section(name).map(|section| String::from_utf8_lossy(section.data)).unwrap_or_default();
    let (of_systemd, sbat) = (section(SDMAGIC), section(".sbat"));
    let is_of = |component: &str| sbat.lines().any(|line| line.starts_with(component));
    match () {
        () if of_systemd.contains(": systemd-addon ") => "an add-on of a UKI",
        () if of_systemd.contains(": systemd-stub ") => "systemd-stub alone",
        () if of_systemd.contains(": systemd-boot ") => "the boot loader systemd-boot",
        () if is_of("shim,") => "the boot loader shim",
        () if is_of("grub,") || pe.section("mods").is_some() => "the boot loader GRUB",
        () if is_of("ipxe,") => "the boot loader iPXE",
        () if is_linux(pe.bytes()) => "a kernel of Linux",
        () => "a PE image",
    }
}

/// Whether a file has the boot header of Linux for x86 (Documentation/arch/x86/boot.rst).
pub(crate) fn is_linux(bytes: &[u8]) -> bool {
    bytes.get(0x202..0x206) == Some(b"HdrS")
}

impl Stub {
    pub(super) fn parse(pe: &Pe) -> Result<Self, Error> {
        let Some(section) = pe.section(SDMAGIC) else {
            return Err(Error::Stub(
                "it has no section .sdmagic; it may be older than systemd 252 or not systemd's".into(),
            ));
        };
        let (first, last) = (OBSERVED[0], OBSERVED[OBSERVED.len() - 1]);
        match program(pe) {
            Some((name, version)) if name == "systemd-stub" && (first..=last).contains(&version) => {
                Ok(Self { version })
            }
            _ => {
                let text = String::from_utf8_lossy(section.data);
                let text: String = text.trim_end_matches('\0').chars().take(100).collect();
                Err(Error::Stub(format!("it says {text:?}, and the versions {first} to {last} are understood")))
            }
        }
    }

    /// Whether it follows a rule that `first` is the first observed version of; `None` where that was not observed.
    pub fn follows_since(self, first: u32) -> Option<bool> {
        if self.version >= first {
            return Some(true);
        }
        let before = OBSERVED.into_iter().filter(|observed| *observed < first).max();
        before.filter(|before| self.version <= *before).map(|_| false)
    }

    /// Why a register is unknown that depends on a rule which was not observed.
    pub fn not_observed(self, rule: &str) -> String {
        format!("whether systemd-stub {} {rule} was not compared with a real boot", self.version)
    }

    /// Whether it loads the kernel as an image of its own, so that firmware measures it once more when Secure Boot is off.
    pub fn loads_kernel_by_firmware(self) -> Option<bool> {
        self.follows_since(262).map(|loads_itself| !loads_itself)
    }
}

#[cfg(test)]
mod tests {
    use super::super::pe::tests::image;
    use super::*;

    #[test]
    fn image_without_a_kernel_is_named_by_its_sections() {
        let named = |sections: &[(&str, &[u8])]| name(&Pe::parse(&image(sections)).unwrap());
        assert_eq!(named(&[(SDMAGIC, b"#### LoaderInfo: systemd-addon 257 ####")]), "an add-on of a UKI");
        assert_eq!(named(&[(SDMAGIC, b"#### LoaderInfo: systemd-stub 252 ####")]), "systemd-stub alone");
        assert_eq!(named(&[(SDMAGIC, b"#### LoaderInfo: systemd-boot 257 ####")]), "the boot loader systemd-boot");
        assert_eq!(named(&[(".sbat", b"sbat,1,SBAT\nshim,4,UEFI shim\n")]), "the boot loader shim");
        assert_eq!(named(&[(".sbat", b"sbat,1,SBAT\ngrub,5,FSF\n")]), "the boot loader GRUB");
        assert_eq!(named(&[("mods", b"m")]), "the boot loader GRUB");
        assert_eq!(named(&[(".text", b"t")]), "a PE image");
        assert!(is_linux(&[&[0; 0x202][..], b"HdrS"].concat()) && !is_linux(b"HdrS"));
    }

    #[test]
    fn rule_is_unknown_between_observed_versions_that_differ() {
        let follows =
            |first: u32| [252, 253, 254, 255, 257, 260, 262].map(|version| Stub { version }.follows_since(first));
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(follows(252), [yes; 7]);
        assert_eq!(follows(254), [no, None, yes, yes, yes, yes, yes]);
        assert_eq!(follows(257), [no, no, no, None, yes, yes, yes]);
        assert_eq!(follows(262), [no, no, no, no, no, None, yes]);
    }
}
