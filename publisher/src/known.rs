//! Logs and witnesses by their verifier keys, and refusals with the next step.

use anyhow::{Context, Result, anyhow};
use measurements::bytes::Hex;
use transparency::Refusal;
use transparency::key::Key;
use transparency::trust_root::Log;
use transparency::verifier_key::{Role, VerifierKey};

/// Reads the verifier key of a log.
pub fn known_log(text: &str) -> Result<Log> {
    let key = verifier_key(text, Role::Log)?;
    Ok(Log { key: Hex(Key::ed25519(key.key).spki()), origin: key.name })
}

/// Reads the verifier key of a witness: its name and its key.
pub fn known_witness(text: &str) -> Result<(String, [u8; 32])> {
    let key = verifier_key(text, Role::Witness)?;
    Ok((key.name, key.key))
}

fn verifier_key(text: &str, role: Role) -> Result<VerifierKey> {
    VerifierKey::of(text, role).with_context(|| format!("cannot use the key {text:?}"))
}

/// A refusal with what to do.
pub fn refused(refusal: Refusal) -> anyhow::Error {
    anyhow!("{refusal} (next: {})", refusal.code.next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_key_that_contradicts_itself_is_refused() {
        let good = "log.cairn.invalid+11d33fc1+AZIa7syODAeiqqp2GpIOpgi5q5VS6TRDov2J1VHr2wyO";
        assert_eq!(known_log(good).unwrap().origin, "log.cairn.invalid");
        for (from, to) in [("11d", "11e"), ("log.", "lag."), ("AZI", "BZI"), ("+AZ", "AZ"), ("yO", "")] {
            assert!(known_log(&good.replacen(from, to, 1)).is_err(), "{to}");
        }
    }
}
