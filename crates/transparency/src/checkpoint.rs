//! Signed heads of a log (C2SP tlog-checkpoint, in the form of signed-note): origin, size, root, and Ed25519 signatures.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use crate::tree::Hash;

/// Signature type of Ed25519.
const ALGORITHM: u8 = 1;
/// Longer notes are not read.
const LARGEST: usize = 16 << 10;

/// The head of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Root of the tree.
    pub root: Hash,
}

/// Why a note is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is none.
    #[error("the checkpoint cannot be read: {0}")]
    Malformed(&'static str),
    /// It is of another log.
    #[error("the checkpoint is of another log")]
    Origin,
    /// The expected key has not signed it.
    #[error("the checkpoint is not signed by the expected key")]
    Signature,
}

impl Checkpoint {
    fn body(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// Signs it as its origin.
    pub fn sign(&self, key: &Ed25519KeyPair) -> String {
        let body = self.body();
        let public = key.public_key();
        let mut signature = key_id(&self.origin, public.as_ref()).to_vec();
        signature.extend(key.sign(body.as_bytes()).as_ref());
        format!("{body}\n\u{2014} {} {}\n", self.origin, STANDARD.encode(signature))
    }

    /// Reads a note of this log, which this key must have signed.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(note: &str, origin: &str, key: &[u8; 32]) -> Result<Self, Error> {
        if note.len() > LARGEST {
            return Err(Error::Malformed("it has more than 16 KiB"));
        }
        let (body, signatures) = note.split_once("\n\n").ok_or(Error::Malformed("it has no signatures"))?;
        let signed = format!("{body}\n");
        // Lines end with one byte: "\r\n" would be another way to write the same head.
        let mut lines = body.split('\n');
        if lines.next() != Some(origin) {
            return Err(Error::Origin);
        }
        let size = lines.next().ok_or(Error::Malformed("it has no size"))?;
        let root = lines.next().ok_or(Error::Malformed("it has no root"))?;
        let number: u64 = size.parse().map_err(|_| Error::Malformed("its size is no number"))?;
        if number.to_string() != size {
            return Err(Error::Malformed("its size is written in another way"));
        }
        let root = STANDARD.decode(root).ok().and_then(|root| root.try_into().ok());
        let root = root.ok_or(Error::Malformed("its root is no digest"))?;
        let is_ours = |line: &str| {
            let rest = line.strip_prefix("\u{2014} ").and_then(|line| line.strip_prefix(origin))?;
            let bytes = STANDARD.decode(rest.strip_prefix(' ')?).ok()?;
            let (id, signature) = bytes.split_at_checked(4)?;
            let right = UnparsedPublicKey::new(&ED25519, key).verify(signed.as_bytes(), signature).is_ok();
            (id == key_id(origin, key) && right).then_some(())
        };
        if !signatures.lines().any(|line| is_ours(line).is_some()) {
            return Err(Error::Signature);
        }
        Ok(Self { origin: origin.to_owned(), size: number, root })
    }
}

/// The first four bytes of `SHA-256(name || "\n" || algorithm || key)`.
fn key_id(name: &str, key: &[u8]) -> [u8; 4] {
    let hash = Sha256::new().chain_update(name).chain_update([b'\n', ALGORITHM]).chain_update(key).finalize();
    [hash[0], hash[1], hash[2], hash[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> (Ed25519KeyPair, [u8; 32]) {
        let key = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let public = key.public_key().as_ref().try_into().unwrap();
        (key, public)
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: "cairn/audit".into(), size: 7, root: [3; 32] }
    }

    #[test]
    fn a_checkpoint_is_read_as_it_was_signed() {
        let ((pair, public), (_, other)) = (key(1), key(2));
        let note = checkpoint().sign(&pair);
        assert_eq!(Checkpoint::open(&note, "cairn/audit", &public), Ok(checkpoint()));
        let more = format!("{note}\u{2014} witness.example AAAAAAAAAA==\n");
        assert_eq!(Checkpoint::open(&more, "cairn/audit", &public), Ok(checkpoint()), "others may sign, too");
        assert_eq!(Checkpoint::open(&note, "cairn/audit", &other), Err(Error::Signature));
        assert_eq!(Checkpoint::open(&note, "another", &public), Err(Error::Origin));
    }

    #[test]
    fn one_change_is_refused() {
        let (pair, public) = key(1);
        let note = checkpoint().sign(&pair);
        for (from, to) in
            [("\n7\n", "\n8\n"), ("\n7\n", "\n07\n"), ("\n7\n", "\n-7\n"), ("AwMD", "AwME"), ("\n\n", "\n")]
        {
            assert!(note.contains(from), "{from:?}");
            assert!(Checkpoint::open(&note.replacen(from, to, 1), "cairn/audit", &public).is_err(), "{to:?}");
        }
        // Whoever signs it: a head is written in one way.
        let windows = checkpoint().body().replacen('\n', "\r\n", 2);
        let mut signature = key_id("cairn/audit", &public).to_vec();
        signature.extend(pair.sign(windows.as_bytes()).as_ref());
        let windows = format!("{windows}\n\u{2014} cairn/audit {}\n", STANDARD.encode(signature));
        assert!(Checkpoint::open(&windows, "cairn/audit", &public).is_err());
        for end in 0..note.len() - 1 {
            if note.is_char_boundary(end) {
                assert!(Checkpoint::open(&note[..end], "cairn/audit", &public).is_err(), "{end}");
            }
        }
    }
}
