//! Following a log from head to head: every entry is read, the tree is computed anew from what was kept, and compared with the head that the log signs now. A log that forgot, changed or hid an entry cannot make that head.
//!
//! An entry under one of our keys that nobody has published is the alarm that a log is kept for: the key is in other hands. An alarm stays in the monitor's state until an operator acknowledges it.

mod alarms;
mod keys;

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use measurements::bytes::Bytes32;
use measurements::canonical::Document;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::checkpoint::{self, Checkpoint, Note};
use crate::key::Key;
use crate::statement::PAYLOAD_TYPE;
use crate::tiles::{Files, Problem, Tiles};
use crate::tree::{Frontier, leaf};
use crate::trust_root::TrustRoot;
use crate::verify::witnesses;
use crate::{Code, Refusal};

pub use alarms::{Alarm, OpenAlarm, OpenAlarms};
pub use keys::Keys;

/// Maximum number of bytes in JSON for one byte of a text: a control character is written as `\\u001b`.
const MAX_ESCAPED: usize = 6;
/// Maximum size of everything in the state but heads and origin: alarms (256 of less than 256 bytes), keys (256 of less than 160), roots.
const MAX_REST: usize = 128 << 10;

/// What a monitor keeps between its runs (`cairn.monitor/2`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Followed {
    /// Alarms that no operator has acknowledged. Not there where no alarm was ever raised.
    #[serde(default, skip_serializing_if = "OpenAlarms::is_unused")]
    pub alarms: OpenAlarms,
    /// When the log was last seen to grow, seconds since 1970.
    pub grown: u64,
    /// The head, as the log signed it: with a later one that contradicts it, the proof of a fork.
    pub head: String,
    /// Keys under which the entries were read.
    pub keys: Keys,
    /// Which log.
    pub origin: String,
    /// Roots of the tree's perfect subtrees, largest first.
    pub roots: Vec<Bytes32>,
    /// `cairn.monitor/2`.
    pub schema: String,
    /// Entries that were read.
    pub size: u64,
}

impl Followed {
    /// The state of a monitor that has accepted no head of this log.
    fn of_nothing(origin: &str, now: u64) -> Self {
        Self {
            alarms: OpenAlarms::default(),
            grown: now,
            head: String::new(),
            keys: Keys::default(),
            origin: origin.to_owned(),
            roots: vec![],
            schema: Self::SCHEMA.into(),
            size: 0,
        }
    }

    /// Number of entries under one of our keys, those that have left the trust root included.
    pub fn ours(&self) -> u64 {
        self.keys.ours()
    }

    fn tree(&self) -> Option<Frontier> {
        Frontier::new(self.size, self.roots.iter().map(|root| root.0).collect())
    }
}

impl Document for Followed {
    const NAME: &'static str = "monitor's state";
    const SCHEMA: &'static str = "cairn.monitor/2";
    // As written: the heads of all forks, the newest head, and the origin, which is a line of it.
    const LARGEST: usize = (alarms::MAX_FORKS + 2) * checkpoint::LARGEST * MAX_ESCAPED + MAX_REST;
}

/// What one look at a log gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The state to be kept, with all open alarms; where the log forked, head and entries are those of before.
    pub followed: Followed,
    /// Entries that were read now.
    pub read: u64,
    /// Those of them that were read before, under other keys.
    pub read_again: u64,
}

/// What a monitor knows before it looks.
pub struct Before<'a> {
    /// Whom to believe.
    pub root: &'a TrustRoot,
    /// What was kept.
    pub followed: Option<Followed>,
    /// SHA-256 of what was signed, of every statement that is published ([`signed`]).
    pub published: &'a BTreeSet<[u8; 32]>,
    /// Seconds since 1970.
    pub now: u64,
    /// After so many seconds without a new entry the log is frozen.
    pub patience: u64,
}

/// Why nothing can be said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The head is not one of a log that is believed.
    #[error(transparent)]
    Head(#[from] Refusal),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] Problem),
    /// What was kept cannot be used.
    #[error("the monitor's state is of another log, or damaged: begin anew with an empty one, and keep the old one")]
    State,
}

/// SHA-256 of what is signed for a statement, by which a log knows it.
pub fn signed(statement: &[u8]) -> [u8; 32] {
    Sha256::digest(envelope::pre_authentication_encoding(PAYLOAD_TYPE, statement)).into()
}

/// Looks at a log whose newest head is `note`. All entries are read again if a key of the trust root is not one under which they were read.
///
/// # Errors
/// [`Error`].
pub fn look(before: Before, note: &str, files: &impl Files) -> Result<Look, Error> {
    let Before { root, followed, published, now, patience } = before;
    let head = accepted(note, root, now)?;
    let kept = followed.unwrap_or_else(|| Followed::of_nothing(&head.origin, now));
    let known = kept.tree().filter(|_| kept.origin == head.origin && kept.keys.is_within(kept.size));
    let known = known.ok_or(Error::State)?;
    let forked = |found: String| {
        let mut followed = kept.clone();
        followed.alarms.raise(Alarm::Fork { found, head: note.to_owned() }, now);
        Ok(Look { followed, read: 0, read_again: 0 })
    };
    if head.size < kept.size {
        return forked(format!("it has {} entries, and had {}", head.size, kept.size));
    }
    let trusted: Vec<Bytes32> = root.keys.iter().map(|(key, _)| Bytes32(key.fingerprint())).collect();
    let is_read = kept.keys.has_read(&trusted, kept.size);
    let mut tree = if is_read { known.clone() } else { Frontier::default() };
    let from = tree.size();
    let mut reading = Reading { root, published, now, keys: kept.keys.clone(), alarms: kept.alarms.clone() };
    let tiles = Tiles::new(files, head.size);
    while tree.size() < head.size {
        let entries = tiles.entries(tree.size(), head.size)?;
        if entries.is_empty() {
            return Err(Problem("The log's entries end before its head says".into()).into());
        }
        for entry in entries {
            reading.judge(&entry, tree.size());
            tree.append(leaf(&entry));
            if tree.size() == kept.size && tree != known {
                return forked(format!("its first {} entries are not those that were read before", kept.size));
            }
        }
    }
    if tree.root() != head.root {
        return forked(format!("the head of {} entries is not made of its entries", head.size));
    }
    let Reading { mut keys, mut alarms, .. } = reading;
    keys.finish(&trusted, head.size);
    let grown = if head.size > kept.size { now } else { kept.grown };
    if now.saturating_sub(grown) > patience {
        alarms.raise(Alarm::Frozen { seconds: now - grown }, now);
    }
    let followed = Followed {
        alarms,
        grown,
        head: note.to_owned(),
        keys,
        origin: head.origin,
        roots: tree.roots().iter().copied().map(Bytes32).collect(),
        schema: Followed::SCHEMA.into(),
        size: head.size,
    };
    Ok(Look { followed, read: head.size - from, read_again: kept.size - from })
}

/// The head of a note that a log of the trust root and enough witnesses have signed.
fn accepted(note: &str, root: &TrustRoot, now: u64) -> Result<Checkpoint, Refusal> {
    let parsed = Note::parse(note).map_err(|error| Refusal::new(Code::Checkpoint, error.to_string()))?;
    let head = &parsed.checkpoint;
    let signer = root.logs().find(|(key, origin)| parsed.names_of(key).any(|name| name == *origin));
    if signer.is_none_or(|(_, origin)| origin != head.origin) {
        let found = format!("the head of {:?} is not signed by a log of the trust root", head.origin);
        return Err(Refusal::new(Code::CheckpointSignature, found));
    }
    witnesses(&parsed, root, now)?;
    Ok(parsed.checkpoint)
}

/// Entries while they are read.
struct Reading<'a> {
    root: &'a TrustRoot,
    published: &'a BTreeSet<[u8; 32]>,
    now: u64,
    keys: Keys,
    alarms: OpenAlarms,
}

impl Reading<'_> {
    fn judge(&mut self, entry: &[u8], index: u64) {
        let Some((key, digest)) = ours(entry, self.root) else { return };
        if self.keys.count(key, index) && !self.published.contains(&digest) {
            self.alarms.raise(Alarm::Unpublished { index, digest: Bytes32(digest) }, self.now);
        }
    }
}

/// Fingerprint of the key and SHA-256 of what was signed, if the entry is under a key of the trust root. Entries of others may be anything.
fn ours(entry: &[u8], root: &TrustRoot) -> Option<(Bytes32, [u8; 32])> {
    let entry: Value = serde_json::from_slice(entry).ok()?;
    let entry = &entry["spec"]["hashedRekordV002"];
    let bytes = |value: &Value| STANDARD.decode(value.as_str()?).ok();
    let key = Key::from_spki(&bytes(&entry["signature"]["verifier"]["publicKey"]["rawBytes"])?)?;
    root.keys.iter().find(|(known, _)| *known == key)?;
    Some((Bytes32(key.fingerprint()), bytes(&entry["data"]["digest"])?.try_into().ok()?))
}
