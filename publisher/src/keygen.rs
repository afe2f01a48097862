//! `cargo xtask keygen`: a release key for a start. Later ones live in a token or a key service, behind `--signer`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::files;
use crate::key_file::{self, SCHEME};
use crate::private_key::{PrivateKey, Scheme, write_pem};

/// Make a release key: ECDSA on P-256
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example: cargo xtask keygen signing/release.key --password-file signing/release.password")]
pub struct KeygenArgs {
    /// Where the private key goes; the public one goes beside it, with the ending .pub
    #[arg(value_name = "FILE", default_value = "signing/release.key")]
    path: PathBuf,
    /// File with a password: the key is encrypted, as cosign does
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &KeygenArgs) -> Result<String> {
    make(&args.path, args.password_file.as_deref(), SCHEME)?;
    let public = args.path.with_extension("pub");
    let key = key_file::public_key(&files::read(&public)?)?;
    let warning = protection(args.password_file.as_deref());
    Ok(format!(
        "private key  {} ({warning})\npublic key   {}\nfingerprint  sha256:{}\n",
        args.path.display(),
        public.display(),
        hex::encode(key.fingerprint())
    ))
}

/// How a private key is protected.
pub const fn protection(password_file: Option<&Path>) -> &'static str {
    if password_file.is_some() { "encrypted" } else { "not encrypted: keep it from everybody" }
}

/// Makes a key at `path` and its public half beside it.
pub fn make(path: &Path, password_file: Option<&Path>, scheme: Scheme) -> Result<()> {
    let key = PrivateKey::generate(scheme).context("Failed to make a key")?;
    let private = match password_file {
        None => key.to_pem(),
        Some(file) => key.to_encrypted_pem(&key_file::read_password(file)?).context("Failed to write a key")?,
    };
    let public = write_pem("PUBLIC KEY", &key.public()?.spki());
    files::create(path, private.as_bytes(), true)?;
    files::create(&path.with_extension("pub"), public.as_bytes(), false)
}
