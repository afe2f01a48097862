//! `.reference.json`: what will be measured of the image, read back from the disk as it was written.

use std::fs;

use anyhow::{Context, Result};
use measurements::boot::Image;
use measurements::document::build::ImageDocument;
use measurements::document::image::{FileReference, ImageEvents, ImageReference, InitrdFile, SCHEMA};

use super::outputs::Staging;

/// The document's bytes.
pub fn make(image: &ImageDocument, staging: &Staging, initrd: Vec<InitrdFile>) -> Result<Vec<u8>> {
    let path = staging.path("raw");
    let raw = fs::read(&path).with_context(|| format!("Failed to read {}", path.display()))?;
    let parsed = Image::parse(&raw).context("The image that was built cannot be measured: this is a bug")?;
    let file = |suffix: &str| {
        let output =
            image.outputs.get(&staging.name(suffix)).with_context(|| format!("there is no output {suffix}"))?;
        anyhow::Ok(FileReference { sha256: hex::encode(output.sha256.0), size: output.size })
    };
    let reference = ImageReference {
        command_line: image.command_line.clone(),
        debug: image.debug,
        dirty: image.dirty,
        epoch: image.epoch,
        events: ImageEvents::of(&parsed)?,
        id: image.id.clone(),
        initrd,
        lock: hex::encode(image.lock.0),
        locked: image.locked,
        raw: file("raw")?,
        revision: image.revision.clone(),
        root_hash: image.root_hash.clone(),
        schema: SCHEMA.into(),
        toolchain: image.toolchain.clone(),
        uki: file("efi")?,
        variant: image.variant.clone(),
        version: image.version.clone(),
    };
    let bytes = reference.to_bytes()?;
    // What is written must be what is read back.
    ImageReference::parse(&bytes).context("The image reference is not valid: this is a bug")?;
    Ok(bytes)
}
