//! A second production image at the price of a copy: the built one, whose UKI calls itself another version of the same length. That is all that differs, so it measures something else and runs as well.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use measurements::boot::Image as Parsed;
use measurements::document::image::{FileReference, ImageEvents, ImageReference};
use sha2::{Digest, Sha256};

use crate::image::Image;
use crate::pe;

/// The version of the newer release, and of its nodes' `.osrel`.
pub const VERSION: &str = "9.9.9";

/// Makes the newer release in an empty folder: disk, UKI, and the reference that follows from them.
pub fn newer(image: &Image, folder: &Path) -> Result<Image> {
    let mut reference = ImageReference::parse(&image.read("reference.json")?)?;
    ensure!(reference.version.len() == VERSION.len(), "{} is not as long as {VERSION}", reference.version);
    let place = |suffix: &str| folder.join(format!("newer.{suffix}"));
    let uki = image.read("efi")?;
    let old = pe::section_data(&uki, ".osrel")?;
    let new = String::from_utf8_lossy(old).replace(&reference.version, VERSION).into_bytes();
    ensure!(new.len() == old.len() && new != old, "the UKI does not name its version");

    cairn_image::disk::copy_file(&image.file("raw"), &place("raw"))?;
    let mut raw = image.read("raw")?;
    // In the EFI system partition, which is the first; the root has the same text, and nobody measures that.
    let at = memchr::memmem::find(&raw, old).context("the disk does not have the UKI in one piece")?;
    raw[at..at + new.len()].copy_from_slice(&new);
    let disk = File::options().write(true).open(place("raw")).context("Failed to open the copy")?;
    disk.write_all_at(&new, at as u64).context("Failed to change the copy")?;
    let mut changed = uki.clone();
    let at = memchr::memmem::find(&uki, old).context("the UKI does not have its own section")?;
    changed[at..at + new.len()].copy_from_slice(&new);

    let parsed = Parsed::parse(&raw)?;
    let file = |bytes: &[u8]| FileReference { sha256: hex::encode(Sha256::digest(bytes)), size: bytes.len() as u64 };
    (reference.raw, reference.uki, reference.events) = (file(&raw), file(&changed), ImageEvents::of(&parsed)?);
    ensure!(reference.measured()?.uki == parsed.measured()?.uki, "the disk has another UKI");
    reference.version = VERSION.into();
    let write = |suffix: &str, bytes: &[u8]| {
        fs::write(place(suffix), bytes).with_context(|| format!("Failed to write {}", place(suffix).display()))
    };
    write("efi", &changed)?;
    write("reference.json", &reference.to_bytes()?)?;
    write("image.json", &image.read("image.json")?)?;
    Image::open(folder)
}
