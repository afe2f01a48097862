//! A real transparency log on this host, for tests and for trying things out: Rekor v2 (rekor-tiles) with fresh keys, its files for
//! readers, a witness, and a timestamp authority. All of it on loopback, as an ordinary user; nothing that is logged there is public.

mod go;
pub mod keys;
mod process;
pub mod programs;
pub mod rekor;
pub mod rekor_v1;
mod ssh_agent;
mod tiles;
pub mod timestamps;
pub mod trust;
pub mod witness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::checkout::Checkout;
use crate::host;
use crate::interrupt;
use crate::progress::Progress;
use crate::store::Store;
use programs::Programs;
use rekor::Log;
use timestamps::TimestampAuthority;
use witness::Witness;

/// The origin of a log that is nobody's: names below `.invalid` belong to nobody (RFC 2606).
pub const ORIGIN: &str = "log.cairn.invalid";
/// The name of its witness.
pub const WITNESS: &str = "witness.cairn.invalid";

/// Start a transparency log (Rekor v2), a witness and a timestamp authority on this host, until Ctrl-C
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example: cargo xtask log-server --port 3000")]
pub struct LogServerArgs {
    /// Port that takes entries; a free one if not given
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// Port that serves checkpoint and tiles; a free one if not given
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    read_port: u16,
    /// Where keys, entries and trust root are kept; a log that is there goes on
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Remove what is there first
    #[arg(long)]
    fresh: bool,
    /// Without a witness
    #[arg(long)]
    no_witness: bool,
    /// Without a timestamp authority
    #[arg(long)]
    no_timestamps: bool,
}

/// A log and the witness that it asks.
pub struct Witnessed {
    /// The log.
    pub log: Log,
    /// The witness.
    pub witness: Witness,
}

impl Witnessed {
    /// Starts both in `folder`.
    pub fn start(programs: &Programs, folder: &Path, origin: &str) -> Result<Self> {
        let mut log = Log::open(&programs.rekor, folder, origin, 0)?;
        let witness = Witness::start(programs, &folder.join("witness"), WITNESS, origin, &log.verifier_key())?;
        log.start(0, Some(&witness.policy()))?;
        Ok(Self { log, witness })
    }
}

/// Runs the command.
pub fn run(args: &LogServerArgs, progress: &Progress) -> Result<ExitCode> {
    host::require(host::TO_SERVE)?;
    let checkout = Checkout::find()?;
    let programs = Programs::get(&checkout, &Store::open()?, progress)?;
    let folder = args.folder.clone().unwrap_or_else(|| checkout.target().join("log-server"));
    if args.fresh {
        interrupt::remove_tree(&folder)?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("Failed to make {}", folder.display()))?;
    let folder = folder.canonicalize().with_context(|| format!("Failed to resolve {}", folder.display()))?;
    let mut log = Log::open(&programs.rekor, &folder, ORIGIN, args.read_port)?;
    let witness = (!args.no_witness)
        .then(|| Witness::start(&programs, &folder.join("witness"), WITNESS, ORIGIN, &log.verifier_key()))
        .transpose()?;
    log.start(args.port, witness.as_ref().map(Witness::policy).as_deref())?;
    let timestamps =
        (!args.no_timestamps).then(|| TimestampAuthority::start(&programs.timestamp_server, &folder)).transpose()?;
    let trust = folder.join("trusted_root.json");
    let root = trust::trusted_root(&log, timestamps.as_ref());
    fs::write(&trust, root).with_context(|| format!("Failed to write {}", trust.display()))?;
    println!("{}", describe(&log, witness.as_ref(), timestamps.as_ref(), &trust, &programs));
    loop {
        std::thread::park();
    }
}

fn describe(
    log: &Log,
    witness: Option<&Witness>,
    timestamps: Option<&TimestampAuthority>,
    trust: &Path,
    programs: &Programs,
) -> String {
    let mut text = format!(
        "origin       {}\nlog          {}\nreaders      {}/api/v2/\nlog key      {}\n",
        log.origin,
        log.write,
        log.read,
        log.verifier_key(),
    );
    if let Some(witness) = witness {
        text += &format!("witness      {}\nwitness key  {}\n", witness.address, witness.verifier_key());
    }
    let mut options = format!("--log {} --read-log {}", log.write, log.read);
    let mut believed = format!("--log-key {}", log.verifier_key());
    if let Some(witness) = witness {
        believed += &format!(" --witness-key {}", witness.verifier_key());
    }
    if let Some(timestamps) = timestamps {
        let certificate = timestamps.certificate();
        text += &format!("timestamps   {}\ncertificate  {}\n", timestamps.address, certificate.display());
        options += &format!(" --tsa {}", timestamps.address);
        believed += &format!(" --timestamp-authority {}", certificate.display());
    }
    text += &format!("trust root   {}\nof           {}\n\n", trust.display(), programs.versions.join(", "));
    text += "Keys, once:  cargo xtask keygen signing/release.key && cargo xtask trust-root keygen signing/root.key\n";
    text += &format!(
        "Believe it:  cargo xtask trust-root make signing/trust-root.json --root-key signing/root.key --release-key signing/release.pub {believed}\n"
    );
    text + &format!(
        "Release:     cargo xtask release stable --key signing/release.key --trust-root signing/trust-root.json {options}\nCtrl-C ends it."
    )
}
