//! Unified kernel images: a stub, what it carries, and which rules the stub follows (UAPI Group, Unified Kernel Image specification; systemd-stub(7)).
//!
//! Which sections a stub measures, and how it starts the kernel, depends on its version, which it names in `.sdmagic`. A stub that names none is taken for version 252 only
//! where it says that it is systemd's; an unknown version is refused: no value is built on a guess.

use super::pe::{self, Pe};

/// A UKI.
#[derive(Clone, Debug)]
pub struct Uki<'a> {
    /// The whole image.
    pub pe: Pe<'a>,
    /// The rules of its stub.
    pub stub: Stub,
}

/// What a version of systemd-stub does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stub {
    /// Major version, such as 257.
    pub version: u32,
}

/// Why an image is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is no PE image.
    #[error(transparent)]
    Pe(#[from] pe::Error),
    /// It has no kernel.
    #[error("the image is no UKI: it has no section .linux")]
    NoKernel,
    /// A section appears twice.
    #[error("the section {0} appears twice, outside profiles: which one counts is not defined")]
    Twice(String),
    /// The stub would not find in memory what the file says.
    #[error("section {0}: it {1}")]
    Memory(String, &'static str),
    /// A feature that is not modelled.
    #[error("the UKI has {0}, which is not modelled")]
    NotModelled(&'static str),
    /// Who wrote the stub is not known.
    #[error("the stub of the UKI is not known: {0}")]
    Stub(String),
}

/// Where a stub says who it is.
const SDMAGIC: &str = ".sdmagic";

/// The sections that a stub looks at, in the order in which it measures them.
const MEASURED: [(&str, u32); 14] = [
    (".linux", 252),
    (".osrel", 252),
    (".cmdline", 252),
    (".initrd", 252),
    (".ucode", 257),
    (".splash", 252),
    (".dtb", 252),
    (".uname", 257),
    (".sbat", 257),
    (".pcrpkey", 252),
    (".profile", 257),
    (".dtbauto", 257),
    (".hwids", 257),
    (".efifw", 258),
];

impl Stub {
    /// Versions whose rules are known.
    const KNOWN: [std::ops::RangeInclusive<u32>; 3] = [252..=252, 257..=257, 258..=262];

    fn parse(pe: &Pe) -> Result<Self, Error> {
        let Some(section) = pe.section(SDMAGIC) else {
            return Err(Error::Stub(
                "it has no section .sdmagic; it may be older than systemd 252 or not systemd's".into(),
            ));
        };
        let text = String::from_utf8_lossy(section.data).trim_end_matches('\0').to_owned();
        let version = text.strip_prefix("#### LoaderInfo: systemd-stub ").and_then(|rest| {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        });
        match version {
            Some(version) if Self::KNOWN.iter().any(|range| range.contains(&version)) => Ok(Self { version }),
            _ => Err(Error::Stub(format!("it says {text:?}, and the versions 252, 257 and 258 to 262 are understood"))),
        }
    }

    /// Whether it loads the kernel as an image of its own, so that firmware measures it once more when Secure Boot is off.
    pub fn loads_kernel_by_firmware(self) -> bool {
        self.version <= 257
    }

    /// Whether it adds the section `.osrel` to the initrd as `.extra/os-release`.
    pub fn passes_os_release(self) -> bool {
        self.version >= 257
    }
}

impl<'a> Uki<'a> {
    /// Reads a UKI.
    ///
    /// # Errors
    /// [`Error`] says what is not understood.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let pe = Pe::parse(bytes)?;
        if pe.section(".linux").is_none_or(|section| section.virtual_size == 0) {
            return Err(Error::NoKernel);
        }
        let stub = Stub::parse(&pe)?;
        for name in MEASURED.iter().map(|(name, _)| *name).chain([SDMAGIC]) {
            if pe.sections().iter().filter(|section| section.name == name).count() > 1 {
                return Err(Error::Twice(name.into()));
            }
        }
        for (name, what) in [
            (".profile", "profiles"),
            (".ucode", "microcode in a section of its own"),
            (".dtbauto", "device trees that the stub chooses from"),
            (".pcrsig", "a PCR signature, which becomes part of the initrd"),
            (".pcrpkey", "a PCR key, which becomes part of the initrd"),
        ] {
            if pe.section(name).is_some() {
                return Err(Error::NotModelled(what));
            }
        }
        check_memory(&pe, stub)?;
        Ok(Self { pe, stub })
    }

    /// The sections that the stub measures into PCR 11, in its order: name and content. One without content is none to the stub.
    pub fn measured_sections(&self) -> Vec<(&'static str, &'a [u8])> {
        let of_version = MEASURED.iter().filter(|(_, since)| *since <= self.stub.version);
        let sections = of_version.filter_map(|(name, _)| Some((*name, self.pe.section(name)?.data)));
        sections.filter(|(_, content)| !content.is_empty()).collect()
    }

    /// The content of a section, empty if there is none.
    pub fn section(&self, name: &str) -> &'a [u8] {
        self.pe.section(name).map_or(&[], |section| section.data)
    }

    /// The kernel, an image of its own.
    ///
    /// # Errors
    /// [`pe::Error`].
    pub fn kernel(&self) -> Result<Pe<'a>, pe::Error> {
        Pe::parse(self.section(".linux"))
    }
}

/// The stub measures sections where they lie in memory, as many bytes as they have there: that must be what they have in the file, and nothing else may lie there. Of other sections, some
/// do overlap: ukify puts more into the `.sbat` of an old stub than there is room for.
fn check_memory(pe: &Pe, stub: Stub) -> Result<(), Error> {
    for (name, _) in MEASURED.iter().filter(|(_, since)| *since <= stub.version) {
        let Some(section) = pe.section(name) else { continue };
        let refuse = |problem| Err(Error::Memory((*name).into(), problem));
        if section.data.len() < section.virtual_size {
            return refuse("is larger in memory than in the file");
        }
        let meets = |other: &pe::Section| {
            section.address < other.address.saturating_add(other.virtual_size)
                && other.address < section.address.saturating_add(section.virtual_size)
        };
        let others = pe.sections().iter().filter(|other| other.name != section.name);
        if section.virtual_size > 0 && (section.address < pe.headers() || others.into_iter().any(meets)) {
            return refuse("shares memory with something else");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::pe::tests::image;
    use super::*;

    const MAGIC: &[u8] = b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####\0";

    #[test]
    fn sections_are_measured_in_the_stub_s_order_whatever_the_file_s() {
        let bytes =
            image(&[(".sdmagic", MAGIC), (".uname", b"6"), (".osrel", b"o"), (".linux", b"l"), (".cmdline", b"c")]);
        let uki = Uki::parse(&bytes).unwrap();
        let names: Vec<&str> = uki.measured_sections().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, [".linux", ".osrel", ".cmdline", ".uname"]);
        let old = MAGIC.to_vec().iter().map(|byte| if *byte == b'7' { b'2' } else { *byte }).collect::<Vec<u8>>();
        let bytes = image(&[(".sdmagic", &old), (".uname", b"6"), (".linux", b"l")]);
        assert_eq!(Uki::parse(&bytes).unwrap().measured_sections().len(), 1, "252 does not measure .uname");
    }

    #[test]
    fn what_is_not_understood_is_refused_with_the_reason() {
        let parse = |sections: &[(&str, &[u8])]| Uki::parse(&image(sections)).unwrap_err().to_string();
        assert!(parse(&[(".text", b"x")]).contains(".linux"));
        assert!(parse(&[(".linux", b"x")]).contains(".sdmagic"));
        assert!(parse(&[(".linux", b"x"), (".sdmagic", b"#### LoaderInfo: systemd-stub 300 ####")]).contains("300"));
        assert!(parse(&[(".linux", b"x"), (".linux", b"y"), (".sdmagic", MAGIC)]).contains("twice"));
        assert!(parse(&[(".linux", b"x"), (".sdmagic", MAGIC), (".sdmagic", MAGIC)]).contains("twice"));
        assert!(parse(&[(".linux", b"x"), (".profile", b"y"), (".sdmagic", MAGIC)]).contains("profiles"));
        assert!(parse(&[(".linux", b""), (".sdmagic", MAGIC)]).contains(".linux"));
    }

    #[test]
    fn a_section_without_content_is_not_measured() {
        let bytes = image(&[(".sdmagic", MAGIC), (".linux", b"l"), (".cmdline", b""), (".uname", b"6")]);
        let uki = Uki::parse(&bytes).unwrap();
        let names: Vec<&str> = uki.measured_sections().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, [".linux", ".uname"]);
    }

    #[test]
    fn sections_that_the_stub_finds_otherwise_in_memory_are_refused() {
        let good = image(&[(".sdmagic", MAGIC), (".linux", b"l"), (".cmdline", b"c"), (".text", b"t")]);
        let with = |index: usize, field: usize, value: u32| {
            let mut bytes = good.clone();
            let at = 0x148 + 40 * index + field;
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            Uki::parse(&bytes).map(|_| ())
        };
        let refused = |name: &str, problem| Err(Error::Memory(name.into(), problem));
        let (larger, shares) = ("is larger in memory than in the file", "shares memory with something else");
        assert_eq!(with(2, 8, 513), refused(".cmdline", larger));
        assert_eq!(with(2, 8, u32::MAX), refused(".cmdline", larger));
        assert_eq!(with(3, 8, 4096), Ok(()), "the stub's own data may have zeros behind them");
        assert_eq!(with(2, 12, 0x600), refused(".linux", shares));
        assert_eq!(with(2, 12, 0x9ff), Ok(()), "beside .text is not in it");
        assert_eq!(with(2, 12, 0xa00), refused(".cmdline", shares));
        assert_eq!(with(1, 12, 0), refused(".linux", shares));
        assert_eq!(with(0, 8, 4096), refused(".linux", shares), "the stub's own data may not reach into it");
    }
}
