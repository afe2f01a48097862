//! Signed heads of a log (C2SP tlog-checkpoint, in the form of signed-note): origin, size, root, and signatures of the log (Ed25519 or ECDSA) and of witnesses (C2SP tlog-cosignature, version 1).
//!
//! A head is written in one way only. Lines behind the root, and signatures of others, may be there and say nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use crate::key::{Key, note_id};
use crate::tree::Hash;
use crate::verifier_key::Role;

/// Longer notes are not read.
pub(crate) const LARGEST: usize = 16 << 10;
/// Notes with more signatures are not read.
const MOST_SIGNATURES: usize = 64;

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

/// A head with its signatures, none of which is verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note<'a> {
    /// The head that is signed.
    pub checkpoint: Checkpoint,
    signed: &'a str,
    signatures: Vec<Signature<'a>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Signature<'a> {
    name: &'a str,
    id: [u8; 4],
    bytes: Vec<u8>,
}

impl<'a> Note<'a> {
    /// Reads a note.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn parse(note: &'a str) -> Result<Self, Error> {
        if note.len() > LARGEST {
            return Err(Error::Malformed("it has more than 16 KiB"));
        }
        let end = note.find("\n\n").ok_or(Error::Malformed("it has no signatures"))?;
        let (signed, signatures) = (&note[..=end], &note[end + 2..]);
        let signatures = signatures.strip_suffix('\n').ok_or(Error::Malformed("its last line does not end"))?;
        let checkpoint = Checkpoint::parse(signed)?;
        if signatures.split('\n').count() > MOST_SIGNATURES {
            return Err(Error::Malformed("it has more than 64 signatures"));
        }
        let signatures = signatures.split('\n').map(Signature::parse).collect::<Option<_>>();
        Ok(Self { checkpoint, signed, signatures: signatures.ok_or(Error::Malformed("a signature is none"))? })
    }

    /// The names under which this key has signed the head.
    pub fn names_of(&self, key: &Key) -> impl Iterator<Item = &'a str> {
        self.signatures.iter().filter_map(|signature| {
            let by_key = key.note_id(signature.name).starts_with(&signature.id)
                && key.public().has_signed(self.signed.as_bytes(), &signature.bytes);
            by_key.then_some(signature.name)
        })
    }

    /// When this witness saw the head, in seconds since 1970; none if it did not.
    pub fn seen_by(&self, name: &str, key: [u8; 32]) -> Option<u64> {
        let id = note_id(name, Role::Witness as u8, &key);
        let key = Key::ed25519(key);
        self.signatures.iter().filter(|line| line.name == name && id.starts_with(&line.id)).find_map(|line| {
            let (time, signature) = line.bytes.split_at_checked(8)?;
            let time = u64::from_be_bytes(time.try_into().ok()?);
            key.public().has_signed(self.cosigned(time).as_bytes(), signature).then_some(time)
        })
    }

    fn cosigned(&self, time: u64) -> String {
        format!("cosignature/v1\ntime {time}\n{}", self.signed)
    }
}

impl<'a> Signature<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (name, bytes) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
        let bytes = STANDARD.decode(bytes).ok()?;
        let (id, bytes) = bytes.split_first_chunk::<4>()?;
        let is_name = !name.is_empty() && !name.contains(|letter: char| letter.is_whitespace() || letter == '+');
        (is_name && !bytes.is_empty()).then(|| Self { name, id: *id, bytes: bytes.to_vec() })
    }

    fn line(name: &str, id: [u8; 32], bytes: &[u8]) -> String {
        format!("\u{2014} {name} {}\n", STANDARD.encode([&id[..4], bytes].concat()))
    }
}

impl Checkpoint {
    /// What is signed of it.
    pub fn body(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// Signs it as its origin.
    pub fn sign(&self, key: &Ed25519KeyPair) -> String {
        let body = self.body();
        let id = note_id(&self.origin, Role::Log as u8, key.public_key().as_ref());
        format!("{body}\n{}", Signature::line(&self.origin, id, key.sign(body.as_bytes()).as_ref()))
    }

    /// The line by which a witness says that it saw this head at a time.
    pub fn cosign(&self, name: &str, key: &Ed25519KeyPair, time: u64) -> String {
        let id = note_id(name, Role::Witness as u8, key.public_key().as_ref());
        let signed = format!("cosignature/v1\ntime {time}\n{}", self.body());
        Signature::line(name, id, &[&time.to_be_bytes()[..], key.sign(signed.as_bytes()).as_ref()].concat())
    }

    /// Reads a note of this log, which this key must have signed.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(note: &str, origin: &str, key: &[u8; 32]) -> Result<Self, Error> {
        let note = Note::parse(note)?;
        if note.checkpoint.origin != origin {
            return Err(Error::Origin);
        }
        if !note.names_of(&Key::ed25519(*key)).any(|name| name == origin) {
            return Err(Error::Signature);
        }
        Ok(note.checkpoint)
    }

    fn parse(signed: &str) -> Result<Self, Error> {
        // Lines end with one byte: "\r\n" would be another way to write the same head.
        let mut lines = signed.split('\n');
        let origin = lines.next().filter(|origin| !origin.is_empty()).ok_or(Error::Malformed("it has no origin"))?;
        let size = lines.next().ok_or(Error::Malformed("it has no size"))?;
        let root = lines.next().ok_or(Error::Malformed("it has no root"))?;
        let number: u64 = size.parse().map_err(|_| Error::Malformed("its size is no number"))?;
        if number.to_string() != size {
            return Err(Error::Malformed("its size is written in another way"));
        }
        let root = STANDARD.decode(root).ok().and_then(|root| root.try_into().ok());
        let root = root.ok_or(Error::Malformed("its root is no digest"))?;
        Ok(Self { origin: origin.to_owned(), size: number, root })
    }
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
    fn a_witness_says_when_it_saw_a_head() {
        let ((log, _), (witness, public), (_, other)) = (key(1), key(2), key(3));
        let cosigned = checkpoint().sign(&log) + &checkpoint().cosign("witness.example", &witness, 1_700_000_000);
        let seen = |text: &str, name, key| Note::parse(text).unwrap().seen_by(name, key);
        assert_eq!(seen(&cosigned, "witness.example", public), Some(1_700_000_000));
        assert_eq!(seen(&cosigned, "witness.example", other), None);
        assert_eq!(seen(&cosigned, "another.example", public), None);
        assert_eq!(seen(&cosigned.replacen("\n7\n", "\n8\n", 1), "witness.example", public), None);
        // A log that signs as its own witness has signed something else.
        let own = checkpoint().sign(&witness);
        assert_eq!(seen(&own, "cairn/audit", public), None);
    }

    /// The signatures are right, and their key ids are those of other keys.
    #[test]
    fn signature_with_the_key_id_of_another_key_is_refused() {
        let ((log, public), (witness, other)) = (key(1), key(2));
        let body = checkpoint().body();
        let signed = |id| format!("{body}\n{}", Signature::line("cairn/audit", id, log.sign(body.as_bytes()).as_ref()));
        let open = |key: &[u8; 32]| Checkpoint::open(&signed(note_id("cairn/audit", 1, key)), "cairn/audit", &public);
        assert_eq!((open(&public), open(&other)), (Ok(checkpoint()), Err(Error::Signature)));

        let time = 1_700_000_000_u64;
        let cosigned = format!("cosignature/v1\ntime {time}\n{body}");
        let bytes = [&time.to_be_bytes()[..], witness.sign(cosigned.as_bytes()).as_ref()].concat();
        let seen = |id| {
            let note = checkpoint().sign(&log) + &Signature::line("witness.example", id, &bytes);
            Note::parse(&note).unwrap().seen_by("witness.example", other)
        };
        assert_eq!(seen(note_id("witness.example", Role::Witness as u8, &other)), Some(time));
        assert_eq!(seen(note_id("witness.example", Role::Witness as u8, &public)), None);
    }

    /// The name of a signature is not signed: a log with the same key could lend its checkpoints.
    #[test]
    fn checkpoint_of_another_log_with_the_same_key_is_refused() {
        let (pair, public) = key(1);
        let id = note_id("cairn/audit", 1, &public);
        let open = |origin: &str| {
            let body = Checkpoint { origin: origin.into(), ..checkpoint() }.body();
            let line = Signature::line("cairn/audit", id, pair.sign(body.as_bytes()).as_ref());
            Checkpoint::open(&format!("{body}\n{line}"), "cairn/audit", &public)
        };
        assert_eq!((open("cairn/audit"), open("another")), (Ok(checkpoint()), Err(Error::Origin)));
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
        let id = note_id("cairn/audit", 1, &public);
        let windows =
            format!("{windows}\n{}", Signature::line("cairn/audit", id, pair.sign(windows.as_bytes()).as_ref()));
        assert!(Checkpoint::open(&windows, "cairn/audit", &public).is_err());
        for end in 0..note.len() {
            if note.is_char_boundary(end) {
                assert!(Checkpoint::open(&note[..end], "cairn/audit", &public).is_err(), "{end}");
            }
        }
    }
}
