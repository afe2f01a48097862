//! What stands beside a UKI on the EFI system partition and is read by its stub: the UKI's own in the directory `NAME.extra.d`, and global ones below `loader` (systemd-stub(7), "Companion Files").
//!
//! Add-ons, credentials and extensions are inputs of a prediction; what is not modelled is refused with its path. Files that the stub does not read are ignored.

use crate::archive::{Place, archive};
use crate::boot::Error;
use crate::event::{UnderSecureBoot, kind};
use crate::parse::fat::Fat;
use crate::parse::pe::Pe;
use crate::parse::stub::Stub;
use crate::parse::uki::Uki;
use crate::tpm::pcr09::command_line;
use crate::tpm::{pcr04, pcr12, utf16};
use crate::{Event, Source};

const GLOBAL_ADD_ONS: &str = "loader/addons";
const GLOBAL_CREDENTIALS: &str = "loader/credentials";
const GLOBAL_EXTENSIONS: &str = "loader/extensions";
const ADD_ON: &str = ".addon.efi";
const CONFIGURATION_EXTENSION: &str = ".confext.raw";
/// First observed versions of systemd-stub that read these. Versions before 257 measure each directory of add-ons by itself, which was observed with one add-on in each only.
const ADD_ONS_SINCE: u32 = 254;
const ADD_ONS_JOINED_SINCE: u32 = 257;
const CONFIGURATION_EXTENSIONS_SINCE: u32 = 257;
const GLOBAL_EXTENSIONS_SINCE: u32 = 262;
/// Most companions of one kind.
const MAX_FILES: usize = 256;
/// Longest name that the stub reads.
const MAX_NAME_CHARACTERS: usize = 255;
/// What an add-on may have, beside a command line, without changing what is measured.
const IN_ADD_ONS: [&str; 8] = [".text", ".rodata", ".data", ".reloc", ".sdmagic", ".sbat", ".cmdline", ".uname"];

/// Files of one kind, which the stub packs into one archive behind the initrd.
struct Group {
    directory: &'static str,
    suffix: &'static str,
    place: Place,
    register: u8,
    /// What stands in the log.
    description: &'static str,
    input: &'static str,
}

const fn place(directory: &'static str, directory_mode: u32, file_mode: u32) -> Place {
    Place { directory, directory_mode, file_mode }
}

/// In the order in which the stub reads them. The empty directory is the UKI's own.
const GROUPS: [Group; 4] = [
    Group {
        directory: "",
        suffix: ".cred",
        place: place(".extra/credentials", 0o500, 0o400),
        register: 12,
        description: "Credentials initrd",
        input: "credentials beside the UKI",
    },
    Group {
        directory: GLOBAL_CREDENTIALS,
        suffix: ".cred",
        place: place(".extra/global_credentials", 0o500, 0o400),
        register: 12,
        description: "Global credentials initrd",
        input: "credentials in loader/credentials",
    },
    Group {
        directory: "",
        suffix: ".raw",
        place: place(".extra/sysext", 0o555, 0o444),
        register: 13,
        description: "System extension initrd",
        input: "system extensions beside the UKI",
    },
    Group {
        directory: "",
        suffix: CONFIGURATION_EXTENSION,
        place: place(".extra/confext", 0o555, 0o444),
        register: 12,
        description: "Configuration extension initrd",
        input: "configuration extensions beside the UKI",
    },
];

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    name: String,
    path: String,
    content: Vec<u8>,
}

/// An archive of companions, which the stub measures and passes to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    register: u8,
    description: &'static str,
    input: &'static str,
    /// The archive.
    pub bytes: Vec<u8>,
}

/// The companions of one UKI.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Companions {
    /// Global ones, then the UKI's own.
    add_ons: Vec<File>,
    archives: Vec<Archive>,
}

impl Companions {
    /// Those that the stub of `uki`, at `path`, reads.
    ///
    /// # Errors
    /// [`Error::Companion`] with the path of a file that is not modelled, [`Error::Fat`].
    pub fn read(fat: &Fat, path: &str, uki: &Uki) -> Result<Self, Error> {
        let mut reader = Reader { fat, own: format!("{path}.extra.d"), left: fat.size() };
        refuse_unknown(&mut reader, uki.stub)?;
        let mut companions = Self::default();
        if uki.stub.follows_since(ADD_ONS_JOINED_SINCE) == Some(true) {
            for directory in [GLOBAL_ADD_ONS, ""] {
                companions.add_ons.extend(reader.files(directory, ADD_ON, None)?);
            }
        }
        companions.add_ons.iter().try_for_each(|add_on| check_add_on(add_on, uki))?;
        for group in GROUPS {
            let except = (group.suffix == ".raw").then_some(CONFIGURATION_EXTENSION);
            let files = reader.files(group.directory, group.suffix, except)?;
            let contents: Vec<(&str, &[u8])> = files.iter().map(|file| (&file.name[..], &file.content[..])).collect();
            if !contents.is_empty() {
                let Group { register, description, input, place, .. } = group;
                companions.archives.push(Archive { register, description, input, bytes: archive(place, &contents) });
            }
        }
        Ok(companions)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.add_ons.is_empty() && self.archives.is_empty()
    }

    /// What the add-ons add to the command line, if anything.
    pub fn command_line(&self) -> Option<String> {
        let all = self.add_ons.iter().filter_map(|add_on| command_line_of(&add_on.content));
        let lines: Vec<String> = all.filter(|line| !line.is_empty()).collect();
        (!lines.is_empty()).then(|| lines.join(" "))
    }

    /// What the stub packs, in the order in which the kernel gets it.
    pub fn archives(&self) -> Vec<Archive> {
        self.archives.clone()
    }

    /// Whether the firmware accepts an add-on with Secure Boot is not modelled.
    pub fn under_secure_boot(&self) -> UnderSecureBoot {
        if self.add_ons.is_empty() {
            return UnderSecureBoot::Same;
        }
        UnderSecureBoot::Unknown("with Secure Boot, an add-on counts only if the firmware accepts its signature")
    }

    /// The add-ons as the firmware loads them, and their command line.
    pub fn add_on_events(&self) -> Vec<Event> {
        let image = |add_on: &File| {
            let pe = Pe::parse(&add_on.content).ok()?;
            Some(pcr04::other(&format!("add-on {}", add_on.path), &pe))
        };
        let images = self.add_ons.iter().filter_map(image);
        let all = images.chain(self.command_line().map(|text| pcr12::add_ons(&text)));
        all.map(|event| event.under_secure_boot(self.under_secure_boot())).collect()
    }

    /// The archives as the stub measures them.
    pub fn archive_events(&self) -> Vec<Event> {
        let event = |archive: &Archive| {
            Event::of(archive.register, kind::IPL, Source::Image, archive.input, &archive.bytes)
                .with_data(utf16(archive.description))
        };
        self.archives.iter().map(event).collect()
    }
}

fn command_line_of(add_on: &[u8]) -> Option<String> {
    let pe = Pe::parse(add_on).ok()?;
    Some(command_line(pe.section(".cmdline")?.data))
}

fn check_add_on(add_on: &File, uki: &Uki) -> Result<(), Error> {
    let refuse = |problem: String| Err(Error::Companion(add_on.path.clone(), problem));
    let pe = match Pe::parse(&add_on.content) {
        Ok(pe) => pe,
        Err(error) => return refuse(error.to_string()),
    };
    if let Some(section) = pe.sections().iter().find(|section| !IN_ADD_ONS.contains(&section.name.as_str())) {
        return refuse(format!("an add-on with the section {:?} is not modelled", section.name));
    }
    let kernel = pe.section(".uname").map(|section| section.data).unwrap_or_default();
    if !kernel.is_empty() && kernel != uki.section(".uname") {
        return refuse("an add-on for another kernel than the UKI's is not modelled".into());
    }
    Ok(())
}

/// Files that this version of the stub may read, or read in another way than the observed versions.
fn refuse_unknown(reader: &mut Reader, stub: Stub) -> Result<(), Error> {
    let own = reader.own.clone();
    let are_add_ons_understood =
        stub.follows_since(ADD_ONS_JOINED_SINCE) == Some(true) || stub.follows_since(ADD_ONS_SINCE) == Some(false);
    for (directory, suffix, is_understood) in [
        (GLOBAL_ADD_ONS, ADD_ON, are_add_ons_understood),
        (&own, ADD_ON, are_add_ons_understood),
        (&own, CONFIGURATION_EXTENSION, stub.follows_since(CONFIGURATION_EXTENSIONS_SINCE) == Some(true)),
        (GLOBAL_EXTENSIONS, ".raw", stub.follows_since(GLOBAL_EXTENSIONS_SINCE) == Some(false)),
    ] {
        let names = if is_understood { Vec::new() } else { reader.names(directory, suffix, None)? };
        if let Some(name) = names.first() {
            let problem = format!("what systemd-stub {} makes of it is not modelled", stub.version);
            return Err(Error::Companion(format!("{directory}/{name}"), problem));
        }
    }
    Ok(())
}

/// Reads files as the stub does, and no more of them than the volume has bytes.
struct Reader<'a> {
    fat: &'a Fat<'a>,
    own: String,
    left: usize,
}

impl Reader<'_> {
    fn files(&mut self, directory: &str, suffix: &str, except: Option<&str>) -> Result<Vec<File>, Error> {
        let directory = if directory.is_empty() { self.own.clone() } else { directory.to_owned() };
        let mut files = Vec::new();
        for name in self.names(&directory, suffix, except)? {
            let path = format!("{directory}/{name}");
            let content = self.fat.read(&path).map_err(Error::Fat)?.unwrap_or_default();
            let left = self.left.checked_sub(content.len());
            let problem = || Error::Companion(path.clone(), "the companions are larger than the volume".into());
            self.left = left.ok_or_else(problem)?;
            files.push(File { name, path, content });
        }
        Ok(files)
    }

    /// Sorted, as the stub sorts them.
    fn names(&self, directory: &str, suffix: &str, except: Option<&str>) -> Result<Vec<String>, Error> {
        let ends = |name: &str, suffix: &str| name.to_ascii_lowercase().ends_with(suffix);
        let entries = self.fat.list(directory).map_err(Error::Fat)?.unwrap_or_default();
        let files = entries.into_iter().filter(|entry| !entry.is_folder).map(|entry| entry.name);
        let is_read = |name: &String| {
            ends(name, suffix)
                && !except.is_some_and(|except| ends(name, except))
                && name.is_ascii()
                && !name.starts_with('.')
                && name.len() <= MAX_NAME_CHARACTERS
        };
        let mut names: Vec<String> = files.filter(is_read).collect();
        if names.len() > MAX_FILES {
            let problem = format!("more than {MAX_FILES} files of one kind are not read");
            return Err(Error::Companion(directory.into(), problem));
        }
        names.sort();
        Ok(names)
    }
}
