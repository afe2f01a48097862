//! Man pages and shell completions of a program, written from the definitions of its command line.
//!
//! The layout is that of `/usr/share` and of `~/.local/share`: man(1), bash-completion and fish find the files there. zsh
//! searches `zsh/vendor-completions` of the former on Debian, and elsewhere what `fpath` names.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::{Shell, generate_to};

/// Directory below the output of each shell's completions.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions"),
    (Shell::Fish, "fish/vendor_completions.d"),
    (Shell::Zsh, "zsh/vendor-completions"),
];

/// Arguments of `documents`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "The directory ~/.local/share is searched by man, bash and fish.")]
pub struct DocumentsArgs {
    /// Directory to write to; created if missing, files of the same names are replaced
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl DocumentsArgs {
    /// Writes the man pages and completions of `command`.
    pub fn write(&self, command: &Command) -> Result<()> {
        write(command, &self.folder)
    }
}

/// Writes the man pages and completions of `command` below `folder`.
///
/// # Errors
/// A directory or file cannot be created.
pub fn write(command: &Command, folder: &Path) -> Result<()> {
    let name = command.get_name().to_owned();
    let manual = created(folder, "man/man1")?;
    clap_mangen::generate_to(command.clone(), &manual)
        .with_context(|| format!("cannot write man pages to {}", manual.display()))?;
    for (shell, place) in COMPLETIONS {
        let place = created(folder, place)?;
        let path = generate_to(shell, &mut command.clone(), &name, &place)
            .with_context(|| format!("cannot write completions of {shell} to {}", place.display()))?;
        // bash-completion loads a file of the program's own name.
        if shell == Shell::Bash {
            fs::rename(&path, place.join(&name)).with_context(|| format!("cannot rename {}", path.display()))?;
        }
    }
    Ok(())
}

fn created(folder: &Path, place: &str) -> Result<PathBuf> {
    let path = folder.join(place);
    fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_visible_command_has_a_man_page_and_every_shell_its_completions() {
        let command = Command::new("sample")
            .version("1.2.3")
            .about("Show a sample")
            .subcommand(Command::new("seen").about("See it"))
            .subcommand(Command::new("concealed").hide(true));
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            write(&command, folder.path()).unwrap();
        }
        let read = |path: &str| fs::read_to_string(folder.path().join(path)).unwrap();
        let page = read("man/man1/sample.1");
        assert!(page.contains("sample 1.2.3") && page.contains("Show a sample"), "{page}");
        assert!(read("man/man1/sample-seen.1").contains("See it"));
        assert!(!folder.path().join("man/man1/sample-concealed.1").exists());
        for path in [
            "bash-completion/completions/sample",
            "fish/vendor_completions.d/sample.fish",
            "zsh/vendor-completions/_sample",
        ] {
            let text = read(path);
            assert!(text.contains("sample") && text.contains("seen"), "{path}: {text}");
        }
        let error = write(&command, Path::new("/proc/none")).unwrap_err().to_string();
        assert!(error.starts_with("cannot create /proc/none/man/man1"), "{error}");
    }
}
