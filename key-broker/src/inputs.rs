//! Files that commands name, read and recognized before the broker is asked: a file of another kind is refused here, with its kind and the command that takes it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use input_file::{Kind, Statement};

/// Maximum size of a reference: its hexadecimal digits must fit into a line of the admin socket.
const MAX_REFERENCE_BYTES: u64 = 7 << 20;
/// Maximum size of a bundle or a trust root, as their reader has it.
const MAX_BUNDLE_BYTES: u64 = transparency::bundle::LARGEST as u64;
/// Maximum size of a head with the lines of witnesses.
const MAX_HEAD_BYTES: u64 = 64 << 10;
/// Maximum size of certificates, keys and configuration files.
const MAX_CONFIGURATION_BYTES: u64 = 1 << 20;

/// What a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Image reference.
    ImageReference,
    /// Machine reference.
    MachineReference,
    /// Sigstore bundle of a statement of this kind.
    Bundle(Statement),
    /// Signed trust root.
    TrustRoot,
    /// Head of the audit log.
    Head,
}

impl Expected {
    fn name(self) -> &'static str {
        match self {
            Self::ImageReference => "an image reference",
            Self::MachineReference => "a machine reference",
            Self::Bundle(Statement::MeasuredBoot) => "the bundle of a measured-boot statement",
            Self::Bundle(Statement::Rebuild) => "the bundle of a rebuild",
            Self::Bundle(Statement::Channel) => "a channel state",
            Self::Bundle(_) => "a bundle",
            Self::TrustRoot => "a trust root",
            Self::Head => "a head of the audit log",
        }
    }

    /// How names of such files end, and an example.
    fn suffix(self) -> (&'static str, &'static str) {
        match self {
            Self::ImageReference => {
                (".reference.json", "cairn_VERSION.reference.json, which `cargo xtask build-image` writes")
            }
            Self::MachineReference => (".machine.json", "NAME.machine.json of measurements/machines"),
            Self::Bundle(Statement::MeasuredBoot) => {
                (".measured-boot.sigstore.json", "NAME.measured-boot.sigstore.json, which `cargo xtask publish` writes")
            }
            Self::Bundle(Statement::Rebuild) => {
                (".rebuild.sigstore.json", "NAME.rebuild.sigstore.json, which `cargo xtask rebuild` writes")
            }
            Self::Bundle(_) => {
                (".channel.sigstore.json", "NAME.channel.sigstore.json, which `cargo xtask channel` writes")
            }
            Self::TrustRoot => ("trust-root.json", "trust-root.json, which `cargo xtask trust-root sign` completes"),
            Self::Head => (".head", "the output of `key-broker audit head`, or a node's receipt"),
        }
    }

    const fn max_bytes(self) -> u64 {
        match self {
            Self::ImageReference | Self::MachineReference => MAX_REFERENCE_BYTES,
            Self::Bundle(_) | Self::TrustRoot => MAX_BUNDLE_BYTES,
            Self::Head => MAX_HEAD_BYTES,
        }
    }

    /// Whether the command can use such a file. What cannot be recognized, but may be a damaged file of the kind, is the reader's to refuse.
    fn takes(self, kind: Kind) -> bool {
        match (self, kind) {
            (Self::ImageReference, Kind::ImageReference)
            | (Self::MachineReference, Kind::MachineReference)
            | (Self::TrustRoot, Kind::TrustRoot)
            | (Self::Head, Kind::Format("text")) => true,
            (Self::Bundle(expected), Kind::Bundle(found)) => expected == found,
            _ => false,
        }
    }
}

/// Reads a file that must be of this kind.
///
/// # Errors
/// It cannot be read, is too large, or is of another kind.
pub fn read(path: &Path, expected: Expected) -> Result<Vec<u8>> {
    let cannot = || format!("cannot use {} as {}", path.display(), expected.name());
    let (bytes, kind) = match input_file::read(path, expected.max_bytes()) {
        Ok(bytes) => {
            let kind = Kind::of(&bytes);
            (bytes, kind)
        }
        Err(input_file::Error::TooLarge { kind, size, max, .. }) => {
            let size = size.map_or_else(|| "more bytes than allowed".to_owned(), |size| format!("{size} bytes"));
            bail!("{}: it is {kind}, and has {size} (maximum {max})\n{}", cannot(), hint(path, kind, expected));
        }
        Err(input_file::Error::NotAFile { found, .. }) => {
            bail!("{}: it is {found}\n{}", cannot(), hint(path, Kind::Format(found), expected))
        }
        Err(error) => return Err(error.into()),
    };
    ensure!(expected.takes(kind), "{}: it is {kind}\n{}", cannot(), hint(path, kind, expected));
    Ok(bytes)
}

/// Reads a file of configuration or keys.
///
/// # Errors
/// It cannot be read, or is too large.
pub fn configuration(path: &Path) -> Result<Vec<u8>> {
    Ok(input_file::read(path, MAX_CONFIGURATION_BYTES)?)
}

/// The same, as text.
///
/// # Errors
/// The same, or it is not UTF-8.
pub fn configuration_text(path: &Path) -> Result<String> {
    String::from_utf8(configuration(path)?).with_context(|| format!("cannot read {}: it is not UTF-8", path.display()))
}

/// The command that takes the file, or the file that the command takes.
fn hint(path: &Path, kind: Kind, expected: Expected) -> String {
    let name = path.display();
    match kind {
        Kind::Bundle(Statement::MeasuredBoot) => return format!("hint: key-broker release allow --bundle {name}"),
        Kind::Bundle(Statement::Rebuild) => {
            return format!("hint: key-broker release allow --bundle BUNDLE --rebuild {name}");
        }
        Kind::Bundle(Statement::Channel) => return format!("hint: key-broker channel set {name}"),
        Kind::TrustRoot => return format!("hint: key-broker trust set {name}"),
        Kind::ImageReference => {
            return format!("hint: key-broker release allow --unsigned-development {name}");
        }
        Kind::MachineReference => return format!("hint: key-broker node enrol NAME --ek EK --machine {name}"),
        _ => {}
    }
    let (suffix, example) = expected.suffix();
    match beside(path, suffix) {
        Some(found) => format!("hint: give {}", found.display()),
        None => format!("hint: give {example}"),
    }
}

/// The only file with this end of its name in a directory, or beside a file.
fn beside(path: &Path, suffix: &str) -> Option<PathBuf> {
    /// Maximum number of entries that are read.
    const MAX_ENTRIES: usize = 1000;
    let directory = if path.is_dir() { path } else { path.parent()? };
    let entries = fs::read_dir(directory).ok()?.take(MAX_ENTRIES).flatten().map(|entry| entry.path());
    let mut found = entries.filter(|entry| {
        entry.file_name().is_some_and(|name| name.to_string_lossy().ends_with(suffix)) && entry != path
    });
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &Path, expected: Expected) -> String {
        format!("{:#}", read(path, expected).unwrap_err())
    }

    #[test]
    fn file_of_another_kind_is_refused_with_its_kind_and_the_command_that_takes_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let trust = at("root.json");
        fs::write(&trust, br#"{"payloadType":"application/vnd.cairn.trust-root+json"}"#).unwrap();
        let text = refused(&trust, Expected::ImageReference);
        assert!(text.contains("as an image reference: it is a trust root\nhint: key-broker trust set "), "{text}");
        assert!(read(&trust, Expected::TrustRoot).is_ok());

        // Of a disk and of a directory: the reference that lies there.
        let (disk, reference) = (at("cairn_0.1.0.raw"), at("cairn_0.1.0.reference.json"));
        let mut bytes = vec![0; 4096];
        bytes[512..520].copy_from_slice(b"EFI PART");
        fs::write(&disk, bytes).unwrap();
        fs::write(&reference, br#"{"schema":"cairn.image-reference/1"}"#).unwrap();
        let hint = format!("\nhint: give {}", reference.display());
        for (path, kind) in [(&disk, "a raw disk"), (&folder.path().to_owned(), "a directory")] {
            let text = refused(path, Expected::ImageReference);
            assert!(text.ends_with(&hint) && text.contains(&format!("it is {kind}\n")), "{text}");
        }
        let text = refused(&reference, Expected::MachineReference);
        assert!(text.contains("it is an image reference\nhint: key-broker release allow "), "{text}");
        assert!(read(&reference, Expected::ImageReference).is_ok());
    }

    #[test]
    fn devices_and_large_files_are_refused_before_they_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let sparse = folder.path().join("sparse");
        fs::File::create(&sparse).unwrap().set_len(5 << 30).unwrap();
        let start = std::time::Instant::now();
        for expected in [Expected::ImageReference, Expected::TrustRoot, Expected::Head] {
            let text = refused(&sparse, expected);
            assert!(text.contains("it is only zero bytes, and has 5368709120 bytes (maximum "), "{text}");
            let text = refused(Path::new("/dev/zero"), expected);
            assert!(text.contains("it is a character device\nhint: give "), "{text}");
        }
        assert!(start.elapsed().as_secs() < 2, "they were read");
    }
}
