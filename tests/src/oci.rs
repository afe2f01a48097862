//! An OCI archive with one layer, as `podman save --format oci-archive` writes it (OCI Image Format, image layout).

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use cairn_image::tree::{Entry, Tree};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Writes the archive of the image `name`, whose one file is `program` at `/hello`.
pub fn write(archive: &Path, name: &str, program: &[u8]) -> Result<()> {
    let mut layer = Tree::new();
    layer.insert("hello", Entry::file(program, 0o755))?;
    let mut bytes = Vec::new();
    layer.write_tar(&mut bytes, 0)?;

    let mut tree = Tree::new();
    for folder in ["blobs", "blobs/sha256"] {
        tree.insert(folder, Entry::directory(0o755))?;
    }
    let layer = add(&mut tree, "application/vnd.oci.image.layer.v1.tar", bytes)?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Cmd": ["/hello"] },
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let config = add(&mut tree, "application/vnd.oci.image.config.v1+json", config.to_string().into_bytes())?;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer] });
    let mut manifest = add(&mut tree, kind, manifest.to_string().into_bytes())?;
    manifest["annotations"] = json!({ "io.containerd.image.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    tree.insert("index.json", Entry::file(index.to_string(), 0o644))?;
    tree.insert("oci-layout", Entry::file(r#"{"imageLayoutVersion":"1.0.0"}"#, 0o644))?;
    let file = File::create(archive).with_context(|| format!("Failed to write {}", archive.display()))?;
    Ok(tree.write_tar(file, 0)?)
}

/// Adds a blob; its descriptor.
fn add(tree: &mut Tree, kind: &str, bytes: Vec<u8>) -> Result<Value> {
    let (digest, size) = (hex::encode(Sha256::digest(&bytes)), bytes.len());
    tree.insert(&format!("blobs/sha256/{digest}"), Entry::file(bytes, 0o644))?;
    Ok(json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": size }))
}
