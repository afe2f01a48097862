//! The last stages: verity tree, initrd, UKI, ESP and disk, and the documents that describe them.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use cairn_image::{disk, esp, uki, verity};
use measurements::bytes::Bytes32;
use measurements::canonical::Document;
use measurements::document::build::{ImageDocument, PartitionDocument};
use measurements::document::image::{InitrdFile, Toolchain};

use super::Inputs;
use super::document::{PackagesDocument, canonical};
use super::initrd;
use super::kernel::Kernel;
use super::outputs::{Built, Staging};
use super::owners;
use super::reference;
use super::root_tree::EROFS;
use super::stage::{Key, Made, Stages};
use super::tools::Tools;
use crate::lock::{Package, sets};

/// Where the UKI is on the ESP: the path that firmware boots without being told (UEFI 2.10, 3.5.1.1).
pub const UKI_PATH: &str = "EFI/BOOT/BOOTX64.EFI";
/// systemd-stub in the build root.
const STUB: &str = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";
const VERITY: &str = "root.verity";

/// What the earlier stages made.
pub struct Parts<'a> {
    /// The build root.
    pub tools: &'a Tools,
    /// Kernel and modules.
    pub kernel: &'a Kernel,
    /// The agent.
    pub agent: &'a Made,
    /// The root file system.
    pub root: &'a Made,
}

/// Makes the image in the folder `out`.
pub fn make(inputs: &Inputs, stages: &Stages, parts: &Parts, out: &Path) -> Result<Built> {
    let erofs = parts.root.join(EROFS);
    let salt = inputs.seed.salt("verity salt");
    let (hashes, tree) = make_verity(inputs, stages, parts, &erofs, &salt)?;
    let made = initrd::make(inputs, stages, parts, &tree, &salt)?;
    let initrd = made.join(initrd::INITRD);

    let staging = Staging::begin(out, &inputs.base_name(), stages.progress())?;
    let table = stages.time("disk", || {
        let uki = make_uki(inputs, parts, &initrd)?;
        staging.write("efi", &uki)?;
        make_disk(inputs, &tree, &uki, &erofs, &hashes, &staging.path("raw"))
    })?;
    stages
        .time("outputs", || {
            staging.copy("root.erofs", &erofs)?;
            staging.copy("root.verity", &hashes)?;
            staging.write("roothash", format!("{}\n", tree.root_hash).as_bytes())?;
            staging.copy("initrd", &initrd)?;
            let files = initrd::files(&made)?;
            staging.write("packages.json", &packages_document(inputs, parts, &files)?)?;
            let document = image_document(inputs, parts, &tree, table, &staging)?;
            staging.write("reference.json", &reference::make(&document, &staging, files)?)?;
            let document = ImageDocument { outputs: staging.describe()?, ..document };
            staging.write("image.json", &document.to_bytes()?)?;
            let outputs = staging.describe()?;
            let base = inputs.base_name();
            Ok(Built {
                folder: staging.finish()?,
                base,
                variant: document.variant,
                root_hash: document.root_hash,
                dirty: document.dirty,
                locked: document.locked,
                outputs,
                timings: Vec::new(),
            })
        })
        .map(|built| Built { timings: stages.timings(), ..built })
}

fn make_verity(
    inputs: &Inputs,
    stages: &Stages,
    parts: &Parts,
    erofs: &Path,
    salt: &[u8; 32],
) -> Result<(std::path::PathBuf, verity::Tree)> {
    let parameters = verity::Parameters { salt: *salt, uuid: inputs.seed.uuid("verity superblock") };
    let key = Key::new("verity", 1)
        .digest("root", &parts.root.key)
        .bytes("salt", salt)
        .text("uuid", &parameters.uuid.to_string());
    let made = stages.run("verity", key, |output| {
        let path = output.join(VERITY);
        let data = File::open(erofs).with_context(|| format!("Failed to open {}", erofs.display()))?;
        let hashes = File::create_new(&path).with_context(|| format!("Failed to write {}", path.display()))?;
        let tree = verity::write_tree(&data, &hashes, &parameters)?;
        let document = serde_json::json!({"root_hash": tree.root_hash.to_string(), "data_blocks": tree.data_blocks});
        fs::write(output.join("tree.json"), document.to_string()).context("Failed to write the root hash")
    })?;
    let text = fs::read(made.join("tree.json")).context("Failed to read the root hash")?;
    let value: serde_json::Value = serde_json::from_slice(&text).context("Failed to read the root hash")?;
    let root_hash = value["root_hash"].as_str().context("The verity stage names no root hash")?.parse()?;
    let data_blocks = value["data_blocks"].as_u64().context("The verity stage names no size")?;
    let path = made.join(VERITY);
    let size = fs::metadata(&path).with_context(|| format!("Failed to inspect {}", path.display()))?.len();
    let tree = verity::Tree { root_hash, data_blocks, hash_offset: verity::BLOCK_SIZE, hash_size: size };
    Ok((path, tree))
}

fn make_uki(inputs: &Inputs, parts: &Parts, initrd: &Path) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("Failed to read {}", path.display()));
    let stub = read(&parts.tools.tree.join(STUB))?;
    let (linux, initrd) = (read(&parts.kernel.vmlinuz())?, read(initrd)?);
    let (os_release, command_line) = (inputs.os_release(), inputs.command_line());
    let sections = uki::Sections {
        os_release: os_release.as_bytes(),
        command_line: command_line.as_bytes(),
        uname: parts.kernel.release.as_bytes(),
        linux: &linux,
        initrd: &initrd,
    };
    Ok(uki::assemble(&stub, &sections)?)
}

fn make_disk(
    inputs: &Inputs,
    tree: &verity::Tree,
    uki: &[u8],
    erofs: &Path,
    hashes: &Path,
    raw: &Path,
) -> Result<Vec<PartitionDocument>> {
    let seed = &inputs.seed;
    let settings = esp::Settings {
        size: inputs.image.disk.esp_mib << 20,
        volume_id: seed.u32("ESP volume id"),
        label: *b"CAIRN-ESP  ",
        time: inputs.source_date,
    };
    let esp = esp::write(&settings, &[(UKI_PATH, uki)])
        .context("The UKI does not fit into the ESP: raise disk.esp_mib in os/image.toml, or shrink the initrd")?;
    let (data, hash) = tree.root_hash.halves();
    let plan = disk::Plan {
        disk_id: seed.uuid("disk"),
        esp_id: seed.uuid("ESP"),
        configuration_id: seed.uuid("configuration"),
        root_id: data,
        verity_id: hash,
        esp: &esp,
        root: erofs,
        verity: hashes,
    };
    let table = disk::write(raw, &plan)?;
    Ok(table
        .into_iter()
        .map(|partition| PartitionDocument {
            index: partition.index,
            name: partition.name,
            type_guid: partition.type_guid.to_string(),
            uuid: partition.uuid.to_string(),
            start: partition.start,
            size: partition.size,
        })
        .collect())
}

/// Every package with bytes in the image: of the root, of the kernel, and of the build root those with libraries of the initrd and the stub.
fn packages_document(inputs: &Inputs, parts: &Parts, initrd: &[InitrdFile]) -> Result<Vec<u8>> {
    let set = inputs.root_set()?;
    let libraries = initrd.iter().map(|file| file.path.as_str()).filter(|path| path.contains(".so."));
    let owners = owners::of(&parts.tools.tree, libraries.chain([STUB]))?;
    let in_image = |package: &&Package| {
        let is_of_build_root = package.sets.contains(sets::BUILD_ROOT) && owners.contains(&package.name);
        package.sets.contains(&set) || package.sets.contains(sets::KERNEL) || is_of_build_root
    };
    canonical(&PackagesDocument::new(inputs.sources.lock.packages.iter().filter(in_image)))
}

fn image_document(
    inputs: &Inputs,
    parts: &Parts,
    tree: &verity::Tree,
    partitions: Vec<PartitionDocument>,
    staging: &Staging,
) -> Result<ImageDocument> {
    let revision = inputs.checkout.revision()?;
    Ok(ImageDocument {
        schema: ImageDocument::SCHEMA.into(),
        id: inputs.image.id.clone(),
        version: inputs.image.version.clone(),
        variant: inputs.variant().to_owned(),
        debug: inputs.profile.as_ref().is_some_and(|profile| profile.config.debug),
        epoch: inputs.image.epoch,
        revision: revision.commit,
        dirty: revision.dirty,
        lock: Bytes32(*inputs.sources.lock.digest().as_bytes()),
        locked: inputs.sources.locked,
        source_date: inputs.source_date,
        toolchain: Toolchain { rustc: inputs.toolchain.release.clone(), commit: inputs.toolchain.commit.clone() },
        kernel: parts.kernel.release.clone(),
        command_line: inputs.command_line(),
        root_hash: tree.root_hash.to_string(),
        partitions,
        outputs: staging.describe()?,
    })
}
