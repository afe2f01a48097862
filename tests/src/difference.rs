//! How two builds that must be the same differ: the first output in the order in which they are made, its stage, and the file in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use xtask::sandbox::Sandbox;

use crate::environment::output_of;
use crate::image::Image;
use crate::pe;

/// The outputs in the order of the build, each with the stage that makes it.
const OUTPUTS: [(&str, &str); 9] = [
    ("packages.json", "lock"),
    ("root.erofs", "root"),
    ("root.verity", "verity"),
    ("roothash", "verity"),
    ("initrd", "initrd"),
    ("efi", "disk"),
    ("raw", "disk"),
    ("reference.json", "outputs"),
    ("image.json", "outputs"),
];

/// Describes the first difference between two builds; `None` if every output has the same bytes.
pub fn first_difference(sandbox: &Sandbox, ours: &Image, theirs: &Image) -> Result<Option<String>> {
    for (suffix, stage) in OUTPUTS {
        let (a, b) = (ours.read(suffix)?, theirs.read(suffix)?);
        if a == b {
            continue;
        }
        let at = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
        let inside = match suffix {
            "root.erofs" => {
                in_trees(sandbox, ours, theirs, "fsck.erofs --extract=/tmp/tree /tmp/file >/dev/null 2>&1", suffix)?
            }
            "initrd" => in_trees(
                sandbox,
                ours,
                theirs,
                "mkdir /tmp/tree; zstd -qdc /tmp/file | (cd /tmp/tree; cpio -i --quiet)",
                suffix,
            )?,
            "efi" => in_sections(&a, &b)?,
            "raw" => in_partitions(ours, at as u64),
            _ => "its content".into(),
        };
        return Ok(Some(format!(
            "the first output that differs is {suffix} (stage `{stage}`), at byte {at} of {} and {}: {inside}",
            a.len(),
            b.len()
        )));
    }
    Ok(None)
}

/// Unpacks both and compares names, modes, owners, times and contents.
fn in_trees(sandbox: &Sandbox, ours: &Image, theirs: &Image, unpack: &str, suffix: &str) -> Result<String> {
    let list = |image: &Image| -> Result<BTreeMap<String, String>> {
        let script = format!(
            "{unpack}; cd /tmp/tree; find . -printf '%P\\t%m %U:%G %T@ %l\\n'; find . -type f -exec sha256sum {{}} + | sed 's/^\\([^ ]*\\)  ..\\(.*\\)/\\2\\tsha256 \\1/'"
        );
        let sandbox = sandbox.clone().bind_read_only(&image.file(suffix), "/tmp/file");
        let text = output_of(sandbox.command("sh").args(["-c", &script]))?;
        let mut found = BTreeMap::<String, String>::new();
        for (path, what) in text.lines().filter_map(|line| line.split_once('\t')) {
            let entry = found.entry(path.to_owned()).or_default();
            entry.push_str(what);
            entry.push(' ');
        }
        Ok(found)
    };
    let (a, b) = (list(ours)?, list(theirs)?);
    let path = a.keys().chain(b.keys()).filter(|path| a.get(*path) != b.get(*path)).min();
    let shown = |side: &BTreeMap<String, String>, path: &str| side.get(path).cloned().unwrap_or("missing".into());
    Ok(match path {
        Some(path) => format!("file /{path}: {} and {}", shown(&a, path), shown(&b, path)),
        None => "its files are alike, their order or packing differs".into(),
    })
}

fn in_sections(a: &[u8], b: &[u8]) -> Result<String> {
    let (a, b) = (pe::sections(a)?, pe::sections(b)?);
    let differs = a.iter().zip(&b).find(|(a, b)| a.name != b.name || a.data != b.data);
    Ok(differs.map_or("outside its sections".into(), |(a, _)| format!("section {}", a.name)))
}

fn in_partitions(image: &Image, at: u64) -> String {
    let mut partitions = image.document.partitions.iter();
    let partition = partitions.find(|partition| (partition.start..partition.start + partition.size).contains(&at));
    partition.map_or("the partition table".into(), |partition| format!("partition {}", partition.name))
}

/// Copies the outputs of a build, to change one.
pub fn copy_outputs(image: &Image, folder: &Path) -> Result<Image> {
    for (suffix, _) in OUTPUTS {
        let from = image.file(suffix);
        let name = from.file_name().context("an output without name")?;
        fs::copy(&from, folder.join(name)).with_context(|| format!("Failed to copy {}", from.display()))?;
    }
    Image::open(folder)
}
