//! How two builds that must be the same differ: the first output in the order in which they are made, its stage, and the file in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use measurements::document::build::{ImageDocument, PartitionDocument};
use measurements::parse::pe::Pe;

use crate::sandbox::Sandbox;

/// The outputs in the order of the build, each with the stage that makes it.
pub const OUTPUTS: [(&str, &str); 9] = [
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
const DOCUMENT: &str = ".image.json";
/// Lists an unpacked tree: path, tab, mode, owners, time, link target; then path, tab, digest of each file.
const LIST: &str = "cd /tmp/tree; find . -printf '%P\\t%m %U:%G %T@ %l\\n'; \
                    find . -type f -exec sha256sum {} + | sed 's/^\\([^ ]*\\)  ..\\(.*\\)/\\2\\tsha256 \\1/'";

/// The outputs of a build: the files beside one `*.image.json`.
#[derive(Clone, Debug)]
pub struct Outputs {
    base: PathBuf,
}

impl Outputs {
    /// The one image in `folder`.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        let entries = fs::read_dir(folder).with_context(|| format!("Failed to list {}", folder.display()))?;
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let names: Vec<String> = names.filter(|name| name.ends_with(DOCUMENT)).collect();
        ensure!(
            names.len() == 1,
            "{} holds {} images (*{DOCUMENT}), one is expected: name another folder",
            folder.display(),
            names.len()
        );
        Ok(Self { base: folder.join(names[0].trim_end_matches(DOCUMENT)) })
    }

    /// The output with this suffix, for example `raw`.
    pub fn file(&self, suffix: &str) -> PathBuf {
        let mut path = self.base.clone().into_os_string();
        path.push(".");
        path.push(suffix);
        path.into()
    }

    /// Its bytes.
    pub fn read(&self, suffix: &str) -> Result<Vec<u8>> {
        let path = self.file(suffix);
        fs::read(&path).with_context(|| format!("Failed to read {}", path.display()))
    }

    /// Name without suffix.
    pub fn name(&self) -> String {
        self.base.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What was made of what.
    pub fn document(&self) -> Result<ImageDocument> {
        let path = self.file("image.json");
        ImageDocument::parse(&self.read("image.json")?).with_context(|| format!("{} is not understood", path.display()))
    }
}

/// The first output that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its suffix.
    pub output: &'static str,
    /// The stage that makes it.
    pub stage: &'static str,
    /// What differs in it.
    pub inside: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { output, stage, inside } = self;
        write!(f, "the first output that differs is {output} (stage `{stage}`): {inside}")
    }
}

/// The first difference between two builds; `None` if every output has the same bytes.
pub fn first_difference(sandbox: &Sandbox, ours: &Outputs, theirs: &Outputs) -> Result<Option<Difference>> {
    for (output, stage) in OUTPUTS {
        let (a, b) = (ours.read(output)?, theirs.read(output)?);
        if a == b {
            continue;
        }
        let at = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
        let what = match output {
            "root.erofs" | "initrd" => in_trees(&files(sandbox, ours, output)?, &files(sandbox, theirs, output)?),
            "efi" => in_sections(&a, &b)?,
            "raw" => in_partitions(&ours.document()?.partitions, at as u64),
            _ => "its content".into(),
        };
        let inside = format!("{what}; from byte {at} of {} and {}", a.len(), b.len());
        return Ok(Some(Difference { output, stage, inside }));
    }
    Ok(None)
}

/// The files of the output `root.erofs` or `initrd`: mode, owners, time, target and digest by path.
pub fn files(sandbox: &Sandbox, outputs: &Outputs, output: &str) -> Result<BTreeMap<String, String>> {
    let unpack = match output {
        "initrd" => "mkdir /tmp/tree; zstd -qdc /tmp/file | (cd /tmp/tree; cpio -i --quiet)",
        _ => "fsck.erofs --extract=/tmp/tree /tmp/file >/dev/null 2>&1",
    };
    let sandbox = sandbox.clone().bind_read_only(&outputs.file(output), "/tmp/file");
    let listed = sandbox.command("sh").args(["-c", &format!("{unpack}; {LIST}")]).output();
    let listed = listed.with_context(|| format!("Failed to unpack {output}"))?;
    ensure!(
        listed.status.success() && !listed.stdout.is_empty(),
        "{} cannot be unpacked: {}",
        outputs.file(output).display(),
        String::from_utf8_lossy(&listed.stderr).trim()
    );
    let mut found = BTreeMap::<String, String>::new();
    for (path, what) in String::from_utf8_lossy(&listed.stdout).lines().filter_map(|line| line.split_once('\t')) {
        let entry = found.entry(path.to_owned()).or_default();
        entry.push_str(what);
        entry.push(' ');
    }
    Ok(found)
}

fn in_trees(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> String {
    let path = a.keys().chain(b.keys()).filter(|path| a.get(*path) != b.get(*path)).min();
    let shown = |side: &BTreeMap<String, String>, path: &str| {
        side.get(path).map_or("missing".into(), |text| text.trim().to_owned())
    };
    match path {
        Some(path) => format!("file /{path}: {} and {}", shown(a, path), shown(b, path)),
        None => "its files are alike, their order or packing differs".into(),
    }
}

fn in_sections(a: &[u8], b: &[u8]) -> Result<String> {
    let (a, b) = (Pe::parse(a)?, Pe::parse(b)?);
    let differs = a.sections().iter().zip(b.sections()).find(|(a, b)| a.name != b.name || a.data != b.data);
    Ok(differs.map_or("outside its sections".into(), |(a, _)| format!("section {}", a.name)))
}

fn in_partitions(partitions: &[PartitionDocument], at: u64) -> String {
    let partition =
        partitions.iter().find(|partition| (partition.start..partition.start + partition.size).contains(&at));
    partition.map_or("the partition table".into(), |partition| format!("partition {}", partition.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_that_differs_is_named() {
        let tree = |files: &[(&str, &str)]| -> BTreeMap<String, String> {
            files.iter().map(|(path, what)| ((*path).to_owned(), format!("{what} "))).collect()
        };
        let ours = tree(&[("a", "644 x"), ("b", "644 y"), ("c", "644 z")]);
        assert_eq!(in_trees(&ours, &tree(&[("a", "644 x"), ("b", "600 y")])), "file /b: 644 y and 600 y");
        assert_eq!(in_trees(&ours, &tree(&[("b", "644 y"), ("c", "644 z")])), "file /a: 644 x and missing");
        assert!(in_trees(&ours, &ours).contains("packing"));
    }

    #[test]
    fn a_folder_without_an_image_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = Outputs::in_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("holds 0 images"), "{error}");
        fs::write(folder.path().join("cairn_1.image.json"), "{}").unwrap();
        let outputs = Outputs::in_folder(folder.path()).unwrap();
        assert_eq!(outputs.name(), "cairn_1");
        assert!(outputs.document().unwrap_err().to_string().contains("is not understood"));
    }
}
