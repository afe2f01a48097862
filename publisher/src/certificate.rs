//! The certificate of a timestamp authority in a file.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use transparency::timestamp::Authority;

use crate::files;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// An authority's certificate in a file, DER or PEM; of several in PEM the first, as in chains.
pub fn certificate(path: &Path) -> Result<Vec<u8>> {
    let bytes = files::read(path)?;
    let text = String::from_utf8_lossy(&bytes);
    let inside = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
    let bytes = match inside {
        Some((body, _)) => STANDARD.decode(body.split_whitespace().collect::<String>()).ok(),
        None => Some(bytes),
    };
    let bytes = bytes.with_context(|| format!("{} is no certificate in PEM", path.display()))?;
    ensure!(
        Authority::parse(&bytes).is_some(),
        "{} is no certificate for timestamps alone (X.509, timeStamping, critical): give the authority's own, not that of who issued it",
        path.display()
    );
    Ok(bytes)
}
