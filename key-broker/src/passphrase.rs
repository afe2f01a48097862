//! Where a passphrase comes from. It is never an argument.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::seal::{SHORTEST, passphrase_of};

/// Where the passphrase comes from: a file, the systemd credential `key-broker-passphrase`, or the terminal.
#[derive(Args, Clone)]
pub struct PassphraseArgs {
    /// File with the passphrase, that nobody else reads
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

/// The passphrase: from a file, from systemd, or from the terminal; a new one is asked for twice.
pub fn passphrase(args: &PassphraseArgs, new: bool) -> Result<Zeroizing<Vec<u8>>> {
    if let Some(path) = &args.passphrase_file {
        return passphrase_of(path);
    }
    if let Some(path) = credential() {
        return passphrase_of(&path);
    }
    ensure!(std::io::stdin().is_terminal(), "There is no terminal to ask for the passphrase: use --passphrase-file");
    let first = ask("Passphrase: ")?;
    let next = if new { "choose a longer one" } else { "it is not the broker's; try again" };
    ensure!(first.len() >= SHORTEST, "The passphrase has fewer than {SHORTEST} characters: {next}");
    if new && ask("Again: ")? != first {
        bail!("These are two different passphrases: try again");
    }
    Ok(first)
}

/// What systemd hands over (systemd.exec(5), LoadCredential=).
pub fn credential() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join("key-broker-passphrase");
    path.exists().then_some(path)
}

fn ask(prompt: &str) -> Result<Zeroizing<Vec<u8>>> {
    eprint!("{prompt}");
    let stdin = std::io::stdin();
    let shown = tcgetattr(&stdin).context("Failed to read the terminal's mode")?;
    let mut hidden = shown.clone();
    hidden.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(&stdin, SetArg::TCSANOW, &hidden).context("Failed to hide what is typed")?;
    let mut line = Zeroizing::new(String::new());
    let read = stdin.read_line(&mut line);
    tcsetattr(&stdin, SetArg::TCSANOW, &shown).context("Failed to show again what is typed")?;
    eprintln!();
    read.context("Failed to read the passphrase")?;
    Ok(Zeroizing::new(line.trim_end_matches(['\n', '\r']).as_bytes().to_vec()))
}
