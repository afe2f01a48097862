//! `key-broker explain REQUEST --event-log FILE`: writes what `cairn explain` needs, and the command that reads it.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Writes the log and, beside it, the references that it was compared with. Returns the next command.
///
/// # Errors
/// A file exists, or cannot be written.
pub fn write(answer: &Value, file: &Path, cluster: &Path) -> Result<String> {
    let log = answer["event_log"].as_str().and_then(|log| hex::decode(log).ok());
    create(file, &log.context("the broker's answer has no event log: use the key-broker of this version")?)?;
    let mut command = "cairn explain".to_owned();
    for (field, option) in [("reference", "--reference"), ("machine", "--machine")] {
        let Some(text) = answer[field].as_str() else { continue };
        let path = beside(file, field);
        create(&path, text.as_bytes())?;
        command += &format!(" {option} {}", quoted(&path));
    }
    Ok(format!("{command} --cluster {} --event-log {}", quoted(cluster), quoted(file)))
}

/// `FILE.machine.json` and `FILE.reference.json`.
fn beside(file: &Path, kind: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{kind}.json"));
    name.into()
}

/// As a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@%=,".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn create(path: &Path, bytes: &[u8]) -> Result<()> {
    let opened = File::options().write(true).create_new(true).mode(0o600).open(path);
    match opened.and_then(|mut file| file.write_all(bytes)) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("cannot write {}: the file exists\nhint: name another file with --event-log", path.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn written_files_are_those_of_the_printed_command_and_none_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a log");
        let answer = json!({"event_log": "0102", "machine": "{}", "reference": null});
        let command = write(&answer, &file, Path::new("cluster.json")).unwrap();
        let name = file.display();
        assert_eq!(
            command,
            format!("cairn explain --machine '{name}.machine.json' --cluster cluster.json --event-log '{name}'")
        );
        assert_eq!(std::fs::read(&file).unwrap(), [1, 2]);
        let text = format!("{:#}", write(&answer, &file, Path::new("cluster.json")).unwrap_err());
        assert!(text.contains("the file exists\nhint: "), "{text}");
    }
}
