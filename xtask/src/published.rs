//! Folders whose image was signed: what others may have verified is never overwritten, and is compared with its own statement before anything is said of it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::difference::Outputs;
use crate::digest::Sha256Digest;

/// The statements of an image, as envelope and as bundle.
const SIGNED: [&str; 4] =
    [".measured-boot.dsse.json", ".measured-boot.sigstore.json", ".provenance.dsse.json", ".provenance.sigstore.json"];

/// Refuses a folder in which something was signed.
pub fn refuse(folder: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    match names.filter(|name| SIGNED.iter().any(|signed| name.ends_with(signed))).min() {
        None => Ok(()),
        Some(name) => bail!(
            "{} has a signed statement ({name}): the image that it describes is not overwritten. Name another folder with --out, or move this one away",
            folder.display()
        ),
    }
}

/// Requires that the files beside a statement are those that it names.
pub fn must_be_as_stated(outputs: &Outputs) -> Result<()> {
    for statement in ["measured-boot.json", "provenance.json"] {
        let path = outputs.file(statement);
        let folder = path.parent().unwrap_or(Path::new("."));
        let value: Value = serde_json::from_slice(&outputs.read(statement)?)
            .with_context(|| format!("{} is not understood", path.display()))?;
        let subjects = value["subject"].as_array().with_context(|| format!("{} has no subjects", path.display()))?;
        for subject in subjects {
            let (Some(name), Some(stated)) = (subject["name"].as_str(), subject["digest"]["sha256"].as_str()) else {
                continue;
            };
            // Names of registers are not those of files.
            let file = folder.join(name);
            if name.contains('/') || !file.is_file() {
                continue;
            }
            let (found, _) =
                Sha256Digest::of_file(&file).with_context(|| format!("Failed to read {}", file.display()))?;
            ensure!(
                found.to_string() == stated,
                "{} is not the file that was published: {} names the SHA-256 {stated}, it has {found}. Name the folder as it was published",
                file.display(),
                path.display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_with_a_signed_statement_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        refuse(&folder.path().join("missing")).unwrap();
        refuse(folder.path()).unwrap();
        fs::write(folder.path().join("cairn_0.1.0.measured-boot.json"), "").unwrap();
        refuse(folder.path()).unwrap();
        for name in SIGNED {
            let path = folder.path().join(format!("cairn_0.1.0{name}"));
            fs::write(&path, "").unwrap();
            let error = refuse(folder.path()).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("--out"), "{error}");
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn file_that_is_not_the_stated_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let digest = Sha256Digest::of(b"published").to_string();
        let statement = serde_json::json!({"subject": [
            {"name": "cairn_0.1.0.raw", "digest": {"sha256": digest}},
            {"name": "tpm:pcr4@initrd", "digest": {"sha256": "00", "sha384": "00"}},
        ]});
        fs::write(file("cairn_0.1.0.image.json"), "{}").unwrap();
        for name in ["measured-boot", "provenance"] {
            fs::write(file(&format!("cairn_0.1.0.{name}.json")), statement.to_string()).unwrap();
        }
        fs::write(file("cairn_0.1.0.raw"), "published").unwrap();
        let outputs = Outputs::in_folder(folder.path()).unwrap();
        must_be_as_stated(&outputs).unwrap();
        fs::write(file("cairn_0.1.0.raw"), "overwritten").unwrap();
        let error = must_be_as_stated(&outputs).unwrap_err().to_string();
        assert!(error.contains("cairn_0.1.0.raw is not the file that was published"), "{error}");
        fs::write(file("cairn_0.1.0.measured-boot.json"), "[]").unwrap();
        assert!(must_be_as_stated(&outputs).unwrap_err().to_string().contains("no subjects"));
    }
}
