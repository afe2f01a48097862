//! Keys in files: private ones as PKCS#8 in PEM, or encrypted as cosign does, and public ones in PEM.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use transparency::key::Key;
use zeroize::Zeroizing;

use crate::files;
use crate::private_key::{PrivateKey, Scheme};

/// The scheme of release keys.
pub const SCHEME: Scheme = Scheme::EcdsaP256;
/// By which cosign is given passwords, too.
const PASSWORD: &str = "COSIGN_PASSWORD";

/// Opens a private key, encrypted or not.
pub fn read_key(path: &Path, password_file: Option<&Path>) -> Result<PrivateKey> {
    let pem = Zeroizing::new(files::read(path)?);
    if !pem.windows(9).any(|window| window == b"ENCRYPTED") {
        return PrivateKey::from_pem(&pem).with_context(|| format!("{} is no private key", path.display()));
    }
    let password = match password_file {
        Some(file) => read_password(file)?,
        None => match std::env::var(PASSWORD) {
            Ok(text) => Zeroizing::new(text.into_bytes()),
            Err(_) => bail!("{} is encrypted: give --password-file, or set {PASSWORD}", path.display()),
        },
    };
    PrivateKey::from_encrypted_pem(&pem, &password)
        .with_context(|| format!("{} cannot be opened: is the password right?", path.display()))
}

/// The first line of a file.
pub fn read_password(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let text = Zeroizing::new(files::read(path)?);
    let password = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    ensure!(!password.is_empty(), "{} has no password in its first line", path.display());
    Ok(Zeroizing::new(password.to_vec()))
}

/// A public key in PEM.
pub fn public_key(pem: &[u8]) -> Result<Key> {
    use base64::Engine as _;
    let text = String::from_utf8_lossy(pem);
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let spki = base64::engine::general_purpose::STANDARD.decode(body).context("it is no public key in PEM")?;
    Key::from_spki(&spki).context("it is no key of ECDSA on P-256")
}
