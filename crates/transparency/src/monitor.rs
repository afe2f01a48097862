//! Following a log from head to head: every entry is read, the tree is computed anew from what was kept, and compared with the head that the log signs now. A log that forgot, changed or hid an entry cannot make that head.
//!
//! An entry under one of our keys that nobody has published is the alarm that a log is kept for: the key is in other hands. An alarm stays in the monitor's state until an operator acknowledges it.

mod alarms;

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use measurements::bytes::Bytes32;
use measurements::canonical::Document;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::checkpoint::Note;
use crate::statement::PAYLOAD_TYPE;
use crate::tiles::{Files, Problem, Tiles};
use crate::tree::{Frontier, leaf};
use crate::trust_root::TrustRoot;
use crate::verify::witnesses;
use crate::{Code, Refusal};

pub use alarms::{Alarm, OpenAlarm, OpenAlarms};

/// What a monitor keeps between its runs (`cairn.monitor/1`).
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
    /// Which log.
    pub origin: String,
    /// Entries under one of our keys.
    pub ours: u64,
    /// Roots of the tree's perfect subtrees, largest first.
    pub roots: Vec<Bytes32>,
    /// `cairn.monitor/1`.
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
            origin: origin.to_owned(),
            ours: 0,
            roots: vec![],
            schema: Self::SCHEMA.into(),
            size: 0,
        }
    }
}

impl Document for Followed {
    const NAME: &'static str = "monitor's state";
    const SCHEMA: &'static str = "cairn.monitor/1";
    // The heads of forks are 16 KiB each at most.
    const LARGEST: usize = 512 << 10;
}

/// What one look at a log gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The state to be kept, with all open alarms; where the log forked, head and entries are those of before.
    pub followed: Followed,
    /// Entries that were read now.
    pub read: u64,
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

/// Looks at a log whose newest head is `note`.
///
/// # Errors
/// [`Error`].
pub fn look(before: Before, note: &str, files: &impl Files) -> Result<Look, Error> {
    let Before { root, followed, published, now, patience } = before;
    let parsed = Note::parse(note).map_err(|error| Refusal::new(Code::Checkpoint, error.to_string()))?;
    let head = parsed.checkpoint.clone();
    let signer = root.logs().find(|(key, origin)| parsed.names_of(key).any(|name| name == *origin));
    if signer.is_none_or(|(_, origin)| origin != head.origin) {
        let found = format!("the head of {:?} is not signed by a log of the trust root", head.origin);
        return Err(Refusal::new(Code::CheckpointSignature, found).into());
    }
    witnesses(&parsed, root, now)?;

    let kept = followed.as_ref();
    let roots = kept.map(|kept| kept.roots.iter().map(|root| root.0).collect()).unwrap_or_default();
    let from = kept.map_or(0, |kept| kept.size);
    let mut tree = Frontier::new(from, roots).ok_or(Error::State)?;
    if kept.is_some_and(|kept| kept.origin != head.origin) {
        return Err(Error::State);
    }
    let mut alarms = kept.map(|kept| kept.alarms.clone()).unwrap_or_default();
    let forked = |found: String| {
        let mut followed = followed.clone().unwrap_or_else(|| Followed::of_nothing(&head.origin, now));
        followed.alarms.raise(Alarm::Fork { found, head: note.to_owned() }, now);
        Ok(Look { followed, read: 0 })
    };
    if head.size < from {
        return forked(format!("it has {} entries, and had {from}", head.size));
    }
    let mut ours = kept.map_or(0, |kept| kept.ours);
    let tiles = Tiles::new(files, head.size);
    while tree.size() < head.size {
        let entries = tiles.entries(tree.size(), head.size)?;
        if entries.is_empty() {
            return Err(Problem("The log's entries end before its head says".into()).into());
        }
        for entry in entries {
            if let Some(digest) = digest_of_ours(&entry, root) {
                ours += 1;
                if !published.contains(&digest) {
                    alarms.raise(Alarm::Unpublished { index: tree.size(), digest: Bytes32(digest) }, now);
                }
            }
            tree.append(leaf(&entry));
        }
    }
    if tree.root() != head.root {
        return forked(format!("the head of {} entries is not made of its entries", head.size));
    }
    let grown = if head.size > from { now } else { kept.map_or(now, |kept| kept.grown) };
    if now.saturating_sub(grown) > patience {
        alarms.raise(Alarm::Frozen { seconds: now - grown }, now);
    }
    let followed = Followed {
        alarms,
        grown,
        head: note.to_owned(),
        origin: head.origin,
        ours,
        roots: tree.roots().iter().copied().map(Bytes32).collect(),
        schema: Followed::SCHEMA.into(),
        size: head.size,
    };
    Ok(Look { followed, read: head.size - from })
}

/// SHA-256 of what was signed, if the entry is under a key of the trust root. Entries of others may be anything.
fn digest_of_ours(entry: &[u8], root: &TrustRoot) -> Option<[u8; 32]> {
    let entry: Value = serde_json::from_slice(entry).ok()?;
    let entry = &entry["spec"]["hashedRekordV002"];
    let bytes = |value: &Value| STANDARD.decode(value.as_str()?).ok();
    let key = bytes(&entry["signature"]["verifier"]["publicKey"]["rawBytes"])?;
    root.document().keys.iter().find(|known| known.key.0 == key)?;
    bytes(&entry["data"]["digest"])?.try_into().ok()
}
