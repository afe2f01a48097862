//! Files that the page's own instructions name, beside the release: the trust root that it was published by, and the newest state of its channel.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// File name of the trust root beside a release.
pub const TRUST_ROOT: &str = "trust-root.json";

/// File name of the channel's state beside a release.
pub fn channel_file(channel: &str) -> String {
    format!("{channel}.channel.sigstore.json")
}

/// Copies both into the release's folder; the trust root only where one was given.
///
/// # Errors
/// A file cannot be copied.
pub fn copy(folder: &Path, channels: &Path, channel: &str, sign: &[OsString]) -> Result<Vec<String>> {
    let state = newest(channels, channel)?;
    let copies = [(Some(state), channel_file(channel)), (trust_root(sign), TRUST_ROOT.to_owned())];
    let mut names = Vec::new();
    for (from, name) in copies {
        let Some(from) = from else { continue };
        let to = folder.join(&name);
        fs::copy(&from, &to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        names.push(name);
    }
    Ok(names)
}

/// The state with the highest number.
fn newest(channels: &Path, channel: &str) -> Result<PathBuf> {
    let (start, end) = (format!("{channel}-v"), ".channel.sigstore.json");
    let entries = fs::read_dir(channels).with_context(|| format!("cannot read directory {}", channels.display()))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let version = |name: &String| name.strip_prefix(&start)?.strip_suffix(end)?.parse::<u64>().ok();
    let newest = names.filter_map(|name| Some((version(&name)?, name))).max();
    let (_, name) =
        newest.with_context(|| format!("cannot find a state of the channel {channel:?} in {}", channels.display()))?;
    Ok(channels.join(name))
}

/// The last trust root among the options of `publish`: of several, each allows the next.
fn trust_root(sign: &[OsString]) -> Option<PathBuf> {
    const OPTION: &str = "--trust-root";
    let at = sign.iter().rposition(|word| word.to_string_lossy().starts_with(OPTION))?;
    if let Some((_, path)) = sign[at].to_string_lossy().split_once('=') {
        return Some(path.into());
    }
    let values = sign[at + 1..].iter().take_while(|word| !word.to_string_lossy().starts_with("--"));
    values.last().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_state_and_last_trust_root_are_copied_beside_the_release() {
        let folder = tempfile::tempdir().unwrap();
        let (out, channels) = (folder.path().join("out"), folder.path().join("channels"));
        fs::create_dir(&out).unwrap();
        fs::create_dir(&channels).unwrap();
        for name in ["stable-v000009", "stable-v000010", "beta-v000011"] {
            fs::write(channels.join(format!("{name}.channel.sigstore.json")), name).unwrap();
        }
        let root = folder.path().join("2.json");
        fs::write(&root, "second root").unwrap();
        let sign: Vec<OsString> = ["--key", "k", "--trust-root", "1.json", &root.display().to_string(), "--log", "u"]
            .map(OsString::from)
            .into();
        let names = copy(&out, &channels, "stable", &sign).unwrap();
        assert_eq!(names, ["stable.channel.sigstore.json", "trust-root.json"]);
        assert_eq!(fs::read_to_string(out.join(&names[0])).unwrap(), "stable-v000010");
        assert_eq!(fs::read_to_string(out.join(&names[1])).unwrap(), "second root");
        assert_eq!(trust_root(&["--trust-root=x.json".into()]), Some("x.json".into()));
        assert!(copy(&out, &channels, "none", &sign).is_err());
    }
}
