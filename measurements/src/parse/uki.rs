//! Unified kernel images: a stub, what it carries, and which rules the stub follows (UAPI Group, Unified Kernel Image specification; systemd-stub(7)).
//!
//! Which sections a stub measures, and how it starts the kernel, depends on its version ([`Stub`]). A UKI with profiles is read as its stub starts it when nothing names a profile: the sections before the first
//! `.profile`, and over them those of profile 0. Refused: sections that appear twice in one profile, and sections that the stub finds otherwise in memory than they are in the file.

use super::pe::{self, Pe, Section};
use super::stub::{self, MEASURED, SDMAGIC, Stub};

/// A UKI.
#[derive(Clone, Debug)]
pub struct Uki<'a> {
    /// The whole image.
    pub pe: Pe<'a>,
    /// The rules of its stub.
    pub stub: Stub,
    /// The sections of its first profile.
    sections: Vec<Section<'a>>,
}

/// Why an image is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is no PE image.
    #[error(transparent)]
    Pe(#[from] pe::Error),
    /// It has no kernel.
    #[error(
        "the image is {0}, not a UKI: it has no section .linux\nhint: give the UKI that ukify built, or the raw disk that has it"
    )]
    NoKernel(&'static str),
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

/// Where the sections of a profile begin.
const PROFILE: &str = ".profile";

impl<'a> Uki<'a> {
    /// Reads a UKI.
    ///
    /// # Errors
    /// [`Error`] says what is not understood.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let pe = Pe::parse(bytes)?;
        if pe.section(".linux").is_none_or(|section| section.virtual_size == 0) {
            return Err(Error::NoKernel(stub::name(&pe)));
        }
        let stub = Stub::parse(&pe)?;
        if pe.section(".dtbauto").is_some() {
            return Err(Error::NotModelled("device trees that the stub chooses from"));
        }
        if pe.section(PROFILE).is_some() && stub.follows_since(257) != Some(true) {
            return Err(Error::NotModelled("profiles and a stub that is not known to read them"));
        }
        let sections = of_first_profile(&pe)?;
        check_memory(&pe, &sections, stub)?;
        Ok(Self { pe, stub, sections })
    }

    /// The sections that the stub measures into PCR 11, in its order: name and content. One without content is none to the stub.
    pub fn measured_sections(&self) -> Vec<(&'static str, &'a [u8])> {
        self.sections_by_rule(Some(true)).collect()
    }

    /// Sections of which it is not known whether this version of the stub reads them.
    pub fn unobserved_sections(&self) -> Vec<&'static str> {
        self.sections_by_rule(None).map(|(name, _)| name).collect()
    }

    fn sections_by_rule(&self, follows: Option<bool>) -> impl Iterator<Item = (&'static str, &'a [u8])> {
        let rule = move |(_, since): &&(&str, u32)| self.stub.follows_since(*since) == follows;
        let sections = MEASURED.iter().filter(rule).map(|(name, _)| (*name, self.section(name)));
        sections.filter(|(_, content)| !content.is_empty())
    }

    /// The content of a section, empty if there is none.
    pub fn section(&self, name: &str) -> &'a [u8] {
        self.sections.iter().find(|section| section.name == name).map_or(&[], |section| section.data)
    }

    /// The kernel, an image of its own.
    ///
    /// # Errors
    /// [`pe::Error`].
    pub fn kernel(&self) -> Result<Pe<'a>, pe::Error> {
        Pe::parse(self.section(".linux"))
    }
}

/// The sections before the first profile, and over them those of that profile.
fn of_first_profile<'a>(pe: &Pe<'a>) -> Result<Vec<Section<'a>>, Error> {
    let starts: Vec<usize> =
        (0..).zip(pe.sections()).filter(|(_, section)| section.name == PROFILE).map(|(at, _)| at).collect();
    let ends = starts.iter().copied().chain([pe.sections().len()]);
    let parts: Vec<&[Section]> = [0]
        .into_iter()
        .chain(starts.iter().copied())
        .zip(ends)
        .map(|(start, end)| &pe.sections()[start..end])
        .collect();
    let (base, first) = (parts[0], parts.get(1).copied().unwrap_or_default());
    for part in &parts {
        if let Some(name) = appears_twice(part) {
            return Err(Error::Twice(name.into()));
        }
    }
    let is_replaced = |section: &&Section| !first.iter().any(|other| other.name == section.name);
    Ok(base.iter().filter(is_replaced).chain(first).cloned().collect())
}

fn appears_twice(sections: &[Section]) -> Option<&'static str> {
    let count = |name: &str| sections.iter().filter(|section| section.name == name).count();
    MEASURED.iter().map(|(name, _)| *name).chain([SDMAGIC, ".pcrsig"]).find(|name| count(name) > 1)
}

/// The stub measures sections where they lie in memory, as many bytes as they have there: that must be what they have in the file, and nothing else may lie there. Of other sections, some
/// do overlap: ukify puts more into the `.sbat` of an old stub than there is room for.
fn check_memory(pe: &Pe, read: &[Section], stub: Stub) -> Result<(), Error> {
    for (name, _) in MEASURED.iter().filter(|(_, since)| stub.follows_since(*since) != Some(false)) {
        let Some(section) = read.iter().find(|section| section.name == *name) else { continue };
        let refuse = |problem| Err(Error::Memory((*name).into(), problem));
        if section.data.len() < section.virtual_size {
            return refuse("is larger in memory than in the file");
        }
        let meets = |other: &pe::Section| {
            section.address < other.address.saturating_add(other.virtual_size)
                && other.address < section.address.saturating_add(section.virtual_size)
        };
        let others = pe.sections().iter().filter(|other| *other != section);
        if section.virtual_size > 0 && (section.address < pe.headers() || others.into_iter().any(meets)) {
            return refuse("shares memory with something else");
        }
    }
    // Whatever it is, EDK2 (`PeCoffLoaderLoadImage`) then starts nothing of the image.
    let is_outside = |section: &&Section| section.address.saturating_add(section.virtual_size) > pe.size();
    if let Some(section) = pe.sections().iter().find(is_outside) {
        let problem = "lies outside of the image in memory, so no firmware starts it: build the UKI again, with ukify";
        return Err(Error::Memory(section.name.clone(), problem));
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
        let text = parse(&[(".text", b"x")]);
        assert!(text.contains("a PE image, not a UKI: it has no section .linux\nhint: give the UKI"), "{text}");
        assert!(parse(&[(".linux", b"x")]).contains(".sdmagic"));
        assert!(parse(&[(".linux", b"x"), (".sdmagic", b"#### LoaderInfo: systemd-stub 300 ####")]).contains("300"));
        assert!(parse(&[(".linux", b"x"), (".linux", b"y"), (".sdmagic", MAGIC)]).contains("twice"));
        assert!(parse(&[(".linux", b"x"), (".sdmagic", MAGIC), (".sdmagic", MAGIC)]).contains("twice"));
        let old = b"#### LoaderInfo: systemd-stub 256 ####";
        assert!(parse(&[(".linux", b"x"), (".profile", b"y"), (".sdmagic", old)]).contains("profiles"));
        assert!(parse(&[(".linux", b"x"), (".dtbauto", b"y"), (".sdmagic", MAGIC)]).contains("device trees"));
        assert!(
            parse(&[(".linux", b"x"), (".profile", b"y"), (".uname", b"a"), (".uname", b"b"), (".sdmagic", MAGIC)])
                .contains("twice")
        );
        assert!(parse(&[(".linux", b""), (".sdmagic", MAGIC)]).contains(".linux"));
    }

    #[test]
    fn first_profile_overrides_what_stands_before_it_and_later_profiles_are_ignored() {
        let bytes = image(&[
            (".sdmagic", MAGIC),
            (".linux", b"l"),
            (".cmdline", b"base"),
            (".profile", b"ID=a"),
            (".cmdline", b"first"),
            (".profile", b"ID=b"),
            (".cmdline", b"second"),
            (".osrel", b"second"),
        ]);
        let uki = Uki::parse(&bytes).unwrap();
        let expected: [(&str, &[u8]); 3] = [(".linux", b"l"), (".cmdline", b"first"), (".profile", b"ID=a")];
        assert_eq!(uki.measured_sections(), expected);
    }

    #[test]
    fn section_of_an_unobserved_rule_is_named() {
        let magic = b"#### LoaderInfo: systemd-stub 255.4 ####";
        let bytes = image(&[(".sdmagic", magic), (".linux", b"l"), (".ucode", b"u"), (".uname", b"6")]);
        let uki = Uki::parse(&bytes).unwrap();
        assert_eq!((uki.unobserved_sections(), uki.measured_sections().len()), (vec![".ucode"], 2));
    }

    #[test]
    fn a_section_without_content_is_not_measured() {
        let bytes = image(&[(".sdmagic", MAGIC), (".linux", b"l"), (".cmdline", b""), (".uname", b"6")]);
        let uki = Uki::parse(&bytes).unwrap();
        let names: Vec<&str> = uki.measured_sections().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, [".linux", ".uname"]);
    }

    #[test]
    fn image_whose_sections_lie_outside_of_its_size_is_refused() {
        let mut bytes = image(&[(".sdmagic", MAGIC), (".linux", b"l"), (".cmdline", b"c")]);
        assert!(Uki::parse(&bytes).is_ok());
        let size = 0x58 + 56;
        let smaller = bytes.len() as u32 - 0x200;
        bytes[size..size + 4].copy_from_slice(&smaller.to_le_bytes());
        let error = Uki::parse(&bytes).unwrap_err().to_string();
        assert!(error.contains("section .cmdline") && error.contains("no firmware starts it"), "{error}");
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
