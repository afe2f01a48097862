//! Verifier keys of signed notes (C2SP signed-note): `name+id+key` in one line. `id` is 8 hexadecimal digits; `key` is base64 of the signature type, one byte, and an Ed25519 public key, 32 bytes.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::key::note_id;

/// What the key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The checkpoints of its own log.
    Log = 1,
    /// Checkpoints of other logs (C2SP tlog-cosignature, version 1).
    Witness = 4,
}

/// A key with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    /// Name in the signature lines of notes.
    pub name: String,
    /// What the key signs.
    pub role: Role,
    /// The Ed25519 public key.
    pub key: [u8; 32],
}

/// Why a text is no verifier key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a verifier key: {0}; expected NAME+ID+KEY with an Ed25519 key, as its owner publishes it")]
pub struct Malformed(&'static str);

impl VerifierKey {
    /// Reads a key that signs this.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn of(text: &str, role: Role) -> Result<Self, Malformed> {
        let key: Self = text.trim().parse()?;
        match (key.role, role) {
            (Role::Log, Role::Witness) => Err(Malformed("it is the key of a log, not of a witness")),
            (Role::Witness, Role::Log) => Err(Malformed("it is the key of a witness, not of a log")),
            _ => Ok(key),
        }
    }

    /// Key id: its first four bytes are in signature lines and in the text of the key.
    pub fn id(&self) -> [u8; 32] {
        note_id(&self.name, self.role as u8, &self.key)
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let key = [&[self.role as u8][..], &self.key].concat();
        write!(formatter, "{}+{}+{}", self.name, hex::encode(&self.id()[..4]), STANDARD.encode(key))
    }
}

impl FromStr for VerifierKey {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Malformed("it does not have three parts"));
        };
        if name.is_empty() || name.contains(|character: char| character.is_whitespace() || character.is_control()) {
            return Err(Malformed("its name is empty or contains white space"));
        }
        let key = STANDARD.decode(key).map_err(|_| Malformed("its key is not base64"))?;
        let (role, key) = key.split_first().ok_or(Malformed("its key is empty"))?;
        let role = [Role::Log, Role::Witness]
            .into_iter()
            .find(|known| *known as u8 == *role)
            .ok_or(Malformed("its signature type is neither 1 (log) nor 4 (witness)"))?;
        let key = key.try_into().map_err(|_| Malformed("its key does not have 32 bytes"))?;
        let parsed = Self { name: name.to_owned(), role, key };
        if hex::encode(&parsed.id()[..4]) != id {
            return Err(Malformed("its id is not that of this name and key"));
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Example of C2SP signed-note.
    const EXAMPLE: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";

    #[test]
    fn key_of_the_specification_is_read_and_written() {
        let key: VerifierKey = EXAMPLE.parse().unwrap();
        assert_eq!((key.name.as_str(), key.role), ("PeterNeumann", Role::Log));
        assert_eq!(key.to_string(), EXAMPLE);
        let witness = VerifierKey { role: Role::Witness, ..key.clone() };
        assert_ne!(witness.id(), key.id());
        assert_eq!(VerifierKey::of(&format!("{witness}\n"), Role::Witness), Ok(witness.clone()));
        assert_eq!(VerifierKey::of(EXAMPLE, Role::Log), Ok(key));
        assert!(VerifierKey::of(EXAMPLE, Role::Witness).is_err());
        assert!(VerifierKey::of(&witness.to_string(), Role::Log).is_err());
    }

    #[test]
    fn what_is_no_verifier_key_is_refused_with_the_reason() {
        let other_type = STANDARD.encode([&[2][..], &[7; 32]].concat());
        for (text, reason) in [
            ("", "three parts"),
            ("PeterNeumann+c74f20a3", "three parts"),
            (&EXAMPLE.replace("PeterNeumann", ""), "name is empty"),
            (&EXAMPLE.replace("Peter", "Peter "), "white space"),
            (&EXAMPLE.replace("Peter", "Paul"), "not that of this name"),
            (&EXAMPLE.replace("c74f", "C74F"), "not that of this name"),
            (&EXAMPLE.replace("ARpc", "A*pc"), "not base64"),
            ("n+c74f20a3+", "empty"),
            (&format!("n+c74f20a3+{other_type}"), "signature type"),
            (&EXAMPLE[..EXAMPLE.len() - 4], "32 bytes"),
        ] {
            let error = text.parse::<VerifierKey>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
