//! Stage `initrd`: the agent, the libraries that it really needs, the kernel modules that it loads, and `boot.json`.
//!
//! No shell, no busybox, no systemd. Layout: `/init`, `/etc/cairn/{boot.json,modules}`, libraries and modules at their
//! usual paths, and the empty folders that the agent mounts on.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cairn_image::verity::Tree;
use cairn_image::{cpio, elf, modules};
use measurements::document::image::InitrdFile;
use serde::Serialize;

use super::Inputs;
use super::document::canonical;
use super::image::Parts;
use super::stage::{Key, Made, Stages};
use crate::digest::Sha256Digest;

/// Name of the output.
pub const INITRD: &str = "initrd";
/// The list of its files.
const FILES: &str = "files.json";
/// Where Debian's shared libraries are.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// `/etc/cairn/boot.json`: what the agent believes about its image. No key and nothing of a deployment is in it.
#[derive(Serialize)]
struct BootDocument<'a> {
    schema: &'static str,
    image: BootImage<'a>,
    root: BootRoot,
    protocol_min: u64,
    time_floor: u64,
}

#[derive(Serialize)]
struct BootImage<'a> {
    id: &'a str,
    version: &'a str,
    variant: &'a str,
    epoch: u64,
}

#[derive(Serialize)]
struct BootRoot {
    hash: String,
    salt: String,
    data_blocks: u64,
    block_size: u64,
    data_partuuid: String,
    hash_partuuid: String,
    hash_offset: u64,
}

/// Makes the compressed initrd.
pub fn make(inputs: &Inputs, stages: &Stages, parts: &Parts, tree: &Tree, salt: &[u8; 32]) -> Result<Made> {
    let boot = boot_document(inputs, tree, salt)?;
    let settings = &inputs.image.initrd;
    let key = Key::new("initrd", 2)
        .digest("agent", &parts.agent.key)
        .digest("kernel", &parts.kernel.made.key)
        .digest("build-root", &parts.tools.made.key)
        .bytes("boot.json", &boot)
        .text("modules", &settings.modules.join(" "))
        .text("libraries", &settings.libraries.join(" "))
        .text("compression", &settings.compression.to_string())
        .text("source date", &inputs.source_date.to_string());
    stages.run("initrd", key, |output| {
        let mut archive = cpio::Archive::new(inputs.source_date)?;
        for folder in ["dev", "proc", "run", "sys", "sysroot"] {
            archive.directory(folder, 0o755)?;
        }
        for (link, target) in [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64"), ("sbin", "usr/sbin")] {
            archive.symlink(link, target)?;
        }
        archive.file("etc/cairn/boot.json", 0o444, boot)?;
        archive.file("init", 0o755, read(&parts.agent.join("init"))?)?;
        add_libraries(&mut archive, parts, &settings.libraries)?;
        add_modules(&mut archive, parts, &settings.modules)?;
        let files: Vec<InitrdFile> = archive.contents().map(described).collect();
        let list = output.join(FILES);
        fs::write(&list, serde_json::to_vec(&files).context("Failed to list the initrd")?)
            .with_context(|| format!("Failed to write {}", list.display()))?;
        let compressed = cpio::compress_zstd(&archive.finish()?, settings.compression)?;
        let path = output.join(INITRD);
        fs::write(&path, compressed).with_context(|| format!("Failed to write {}", path.display()))
    })
}

fn described((path, content): (&str, &[u8])) -> InitrdFile {
    InitrdFile { path: path.to_owned(), sha256: Sha256Digest::of(content).to_string() }
}

/// The files of an initrd that was made here.
pub fn files(made: &Made) -> Result<Vec<InitrdFile>> {
    serde_json::from_slice(&read(&made.join(FILES))?).context("Failed to read the list of the initrd's files")
}

fn boot_document(inputs: &Inputs, tree: &Tree, salt: &[u8; 32]) -> Result<Vec<u8>> {
    let (data, hash) = tree.root_hash.halves();
    canonical(&BootDocument {
        schema: "cairn.boot/1",
        image: BootImage {
            id: &inputs.image.id,
            version: &inputs.image.version,
            variant: inputs.variant(),
            epoch: inputs.image.epoch,
        },
        root: BootRoot {
            hash: tree.root_hash.to_string(),
            salt: hex::encode(salt),
            data_blocks: tree.data_blocks,
            block_size: 4096,
            data_partuuid: data.to_string(),
            hash_partuuid: hash.to_string(),
            hash_offset: tree.hash_offset,
        },
        protocol_min: inputs.image.protocol_min,
        time_floor: inputs.source_date,
    })
}

/// The agent's libraries, and those that are loaded at run time with theirs, out of the build root that it was compiled in.
fn add_libraries(archive: &mut cpio::Archive, parts: &Parts, names: &[String]) -> Result<()> {
    let root = &parts.tools.tree;
    let mut seeds = vec![parts.agent.join("init")];
    seeds.extend(names.iter().map(|name| root.join(LIBRARIES).join(name)));
    let mut objects: BTreeSet<(String, PathBuf)> =
        elf::closure(root, &seeds)?.into_iter().map(|object| (object.path, object.file)).collect();
    for name in names {
        objects.insert((format!("{LIBRARIES}/{name}"), root.join(LIBRARIES).join(name)));
    }
    for (path, file) in objects {
        archive.file(&path, 0o755, read(&file)?)?;
    }
    Ok(())
}

/// The modules in the order in which the agent loads them, and the list that tells it so.
fn add_modules(archive: &mut cpio::Archive, parts: &Parts, wanted: &[String]) -> Result<()> {
    let folder = parts.kernel.modules();
    let mut list = String::new();
    for relative in modules::resolve(&folder, wanted)? {
        let path = format!("usr/lib/modules/{}/{}", parts.kernel.release, relative.display());
        archive.file(&path, 0o644, read(&folder.join(&relative))?)?;
        list += &format!("/{path}\n");
    }
    Ok(archive.file("etc/cairn/modules", 0o444, list.into_bytes())?)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("Failed to read {}", path.display()))
}
