//! Which image `boot` starts: the one that was built last, or one that is a disk at all.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Signature of a partition table's header (UEFI, 5.3.2), in the second block of a disk.
const GPT: &[u8; 8] = b"EFI PART";
const BLOCK_SIZES: [u64; 2] = [512, 4096];

/// The disk image of the build in `folder` that ended last. Configured copies have no `*.image.json`.
pub fn newest(folder: &Path) -> Result<PathBuf> {
    let advice = || format!("There is no image in {}: make one with `cargo xtask build-image`", folder.display());
    let entries = folder.read_dir().with_context(advice)?;
    let built = entries.flatten().map(|entry| entry.path()).filter_map(|path| {
        let base = path.file_name()?.to_str()?.strip_suffix(".image.json")?.to_owned();
        let image = path.with_file_name(format!("{base}.raw"));
        Some((path.metadata().ok()?.modified().ok()?, image)).filter(|(_, image)| image.is_file())
    });
    match built.max() {
        Some((_, path)) => Ok(path),
        None => bail!(advice()),
    }
}

/// Requires a raw disk image with a partition table: firmware says of anything else only that there is nothing to boot.
pub fn must_be_disk(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("Failed to read {}", path.display()))?;
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    let has_table = BLOCK_SIZES.iter().any(|at| {
        let mut found = [0; GPT.len()];
        is_file && file.read_exact_at(&mut found, *at).is_ok() && &found == GPT
    });
    if has_table {
        return Ok(());
    }
    let mut first = [0; 4];
    let _ = file.read_at(&mut first, 0);
    let hint = match &first {
        [b'M', b'Z', ..] => "it is an EFI program: name the .raw file beside it",
        [b'Q', b'F', b'I', 0xfb] => "it is a qcow2 image: convert it with `qemu-img convert -O raw`",
        _ => "name a .raw file that `cargo xtask build-image` has made",
    };
    bail!("{} is no raw disk image with a partition table (GPT): {hint}", path.display())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn image_that_was_built_last_is_the_default_and_not_its_configured_copy() {
        let folder = tempfile::tempdir().unwrap();
        let message = newest(folder.path()).unwrap_err().to_string();
        assert!(message.contains("cargo xtask build-image"), "{message}");
        for (name, seconds) in [
            ("cairn_0.2.0.raw", 20),
            ("cairn_0.2.0.image.json", 21),
            ("cairn_0.10.0.raw", 10),
            ("cairn_0.10.0.image.json", 11),
            ("cairn_0.2.0.configured.raw", 40),
            ("cairn_0.3.0.image.json", 50),
        ] {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        }
        assert_eq!(newest(folder.path()).unwrap(), folder.path().join("cairn_0.2.0.raw"));
    }

    #[test]
    fn folder_that_is_missing_gets_the_same_advice() {
        let message = newest(Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(message.contains("cargo xtask build-image"), "{message}");
    }

    #[test]
    fn what_is_no_disk_is_refused_with_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let disk = |block: usize| [vec![0; block], GPT.to_vec()].concat();
        for good in [disk(512), disk(4096)] {
            std::fs::write(&path, good).unwrap();
            must_be_disk(&path).unwrap();
        }
        for (bytes, hint) in [
            (b"MZ\x90\x00".to_vec(), "EFI program"),
            (b"QFI\xfb".to_vec(), "qcow2"),
            (Vec::new(), ".raw file"),
            (vec![0; 1 << 16], ".raw file"),
            (disk(512)[..519].to_vec(), ".raw file"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = must_be_disk(&path).unwrap_err().to_string();
            assert!(error.contains(hint), "{error}");
        }
        assert!(must_be_disk(folder.path()).is_err());
        assert!(must_be_disk(&folder.path().join("missing")).is_err());
    }
}
