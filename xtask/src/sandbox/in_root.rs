//! `cargo xtask in-root`: runs one program inside the build root, for trying things by hand.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Network, Sandbox, WORK};

/// Run a program inside the build root, without root and without network.
///
/// Example: cargo xtask in-root fsck.erofs --extract target/image/cairn_0.1.0.root.erofs
#[derive(clap::Args, Clone, Debug)]
pub struct InRootArgs {
    /// Folder that is mounted, writable, at /tmp/work, where the program starts [default: the current folder].
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Another file or folder to show inside, writable; may be repeated.
    #[arg(long, value_name = "HOST=GUEST", value_parser = parse_bind)]
    bind: Vec<(PathBuf, PathBuf)>,
    /// Give the program the host's network.
    #[arg(long)]
    network: bool,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl InRootArgs {
    /// Runs the program; the result is the exit code for this process.
    pub fn run(&self, build_root: &Path) -> Result<i32> {
        let work = self.work.as_deref().unwrap_or(Path::new("."));
        let work = work.canonicalize().with_context(|| format!("Failed to find the folder {}", work.display()))?;
        let mut sandbox = Sandbox::new(build_root).bind(&work, WORK).work_dir(WORK);
        for (host, guest) in &self.bind {
            sandbox = sandbox.bind(host, guest);
        }
        if self.network {
            sandbox = sandbox.network(Network::Host);
        }
        let (program, arguments) = self.command.split_first().context("there is no program to run")?;
        let status = sandbox.command(program).args(arguments).status().context("Failed to start the sandbox")?;
        Ok(status.code().unwrap_or(super::EXIT_NOT_ENTERED))
    }
}

fn parse_bind(text: &str) -> Result<(PathBuf, PathBuf), String> {
    match text.split_once('=') {
        Some((host, guest)) if !host.is_empty() && guest.starts_with('/') => Ok((host.into(), guest.into())),
        _ => Err(format!("{text:?} is not HOST=GUEST with an absolute GUEST, for example ./data=/tmp/data")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: InRootArgs,
    }

    #[test]
    fn options_of_the_program_are_not_ours() {
        let line = Line::try_parse_from(["x", "--work", "w", "ls", "--network", "-l"]).unwrap();
        assert!(!line.args.network);
        assert_eq!(line.args.command, ["ls", "--network", "-l"]);
    }

    #[test]
    fn a_bind_needs_both_halves() {
        for (text, good) in [("a=/tmp/b", true), ("a", false), ("=/tmp/b", false), ("a=b", false)] {
            assert_eq!(parse_bind(text).is_ok(), good, "{text}");
        }
    }
}
