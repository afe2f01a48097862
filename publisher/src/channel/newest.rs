//! The states of a channel in a folder, and the newest of them. Nothing here needs a network or a key.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use transparency::statement::Statement;
use transparency::statement::channel::{Channel, Release, Standing};
use transparency::time::shown;

use crate::files;
use crate::known::refused;

/// Names of states have this word in them.
pub const KIND: &str = "channel";

/// Names become names of files.
pub fn check_name(name: &str) -> Result<()> {
    let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    ensure!((1..=32).contains(&name.len()) && name.bytes().all(is_good), "{name:?} is no name: use a-z and 0-9");
    Ok(())
}

/// The newest published state.
pub fn newest(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    check_name(name)?;
    if !folder.exists() {
        return Ok(None);
    }
    let entries = std::fs::read_dir(folder).with_context(|| format!("Failed to list {}", folder.display()))?;
    let (start, end) = (format!("{name}-v"), format!(".{KIND}.sigstore.json"));
    let is_state = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with(&start) && name.ends_with(&end)
    };
    // Numbers have leading zeros.
    Ok(entries.flatten().map(|entry| entry.path()).filter(is_state).max())
}

/// The newest state; what it says is verified by whoever uses it.
pub fn show(name: &str, folder: &Path) -> Result<String> {
    let path = newest(folder, name)?
        .with_context(|| format!("There is no state of {name} in {}: `cargo xtask channel init`", folder.display()))?;
    let bundle = transparency::bundle::Bundle::parse(&files::read(&path)?).map_err(refused)?;
    let statement = Statement::<Channel>::read(&bundle.envelope.unverified_payload()?).map_err(refused)?;
    let Channel { expires, least_epoch, releases, version, .. } = statement.predicate();
    let mut text = format!(
        "{}\nversion      {version}\nleast epoch  {least_epoch}\nexpires      {}\n",
        path.display(),
        shown(*expires)
    );
    for Release { name, standing, statement } in releases {
        let standing = if *standing == Standing::Good { "good" } else { "revoked" };
        text += &format!("{standing:8}     {name}   sha256:{}\n", hex::encode(statement.0));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_state_has_the_highest_number_and_names_are_no_paths() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(newest(folder.path(), "stable").unwrap(), None);
        for name in [
            "stable-v000009.channel.sigstore.json",
            "stable-v000010.channel.sigstore.json",
            "stable-v000011.channel.json",
            "other-v000012.channel.sigstore.json",
        ] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert!(newest(folder.path(), "stable").unwrap().unwrap().ends_with("stable-v000010.channel.sigstore.json"));
        for name in ["", "../x", "a-b", "A"] {
            assert!(newest(folder.path(), name).is_err(), "{name:?}");
        }
    }
}
