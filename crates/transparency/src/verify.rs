//! The chain from a bundle to a statement that may be believed, without a network, each check with one [`Code`], in this order: bundle, key, signature, leaf, inclusion, the head's signature, origin, witnesses, time, kind of statement;
//! then, by [`Logged::judge`], subject, freshness, and what the channel says.
//!
//! What has passed is a type: a [`Logged`] was signed by a key of the trust root, is in a log that enough witnesses saw, and was signed while its key was valid.

use std::collections::BTreeSet;

use measurements::bytes::Bytes32;

use crate::bundle::{Bundle, Entry};
use crate::checkpoint::{Checkpoint, Note};
use crate::key::Key;
use crate::statement::channel::{Channel, Standing};
use crate::statement::measured_boot::{MeasuredBoot, Reference};
use crate::statement::provenance::Provenance;
use crate::statement::rebuild::Rebuild;
use crate::statement::{PAYLOAD_TYPE, Predicate, Statement, Subject, digest};
use crate::trust_root::{SigningKey, TrustRoot};
use crate::{Code, Refusal, entry, proof, tree};

/// Clocks of witnesses and authorities may be so many seconds ahead of ours.
pub const SKEW: u64 = 300;

/// A statement that is signed and logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged<P> {
    /// The statement.
    pub statement: Statement<P>,
    /// SHA-256 of its bytes.
    pub digest: Bytes32,
    /// How that was shown.
    pub evidence: Evidence,
}

/// How it was shown that a statement is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Fingerprint of the key.
    pub key: Bytes32,
    /// The log.
    pub origin: String,
    /// Number of the entry.
    pub index: u64,
    /// The head in which it was proved.
    pub checkpoint: Checkpoint,
    /// Witnesses that saw that head, and when, in seconds since 1970.
    pub witnesses: Vec<(String, u64)>,
    /// When an authority saw the signature, in seconds since 1970; none where the trust root has no authority.
    pub time: Option<u64>,
}

/// What a statement must be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About<'a> {
    /// A file, by its SHA-256.
    File(&'a [u8; 32]),
    /// A value, by algorithm and digest.
    Value {
        /// Name of the algorithm, such as `sha256`.
        algorithm: &'a str,
        /// The value.
        digest: &'a [u8],
    },
    /// Whatever it is about.
    Anything,
}

/// What is known of releases before one is judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// Seconds since 1970.
    pub now: u64,
    /// The channel's state, which must name the release.
    pub channel: Option<&'a Current>,
    /// The newest statement so far: the one that is judged must be it, or follow it.
    pub newest: Option<Bytes32>,
}

/// The state of a channel that has not expired and is not older than one that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current(Logged<Channel>);

/// Verifies a bundle up to the kind of its statement.
///
/// # Errors
/// [`Refusal`], with the code of the first check that fails.
pub fn logged<P: Predicate>(bundle: &[u8], root: &TrustRoot, now: u64) -> Result<Logged<P>, Refusal> {
    let bundle = Bundle::parse(bundle)?;
    let (key, rights) = key_of(&bundle, root)?;
    let Signed { payload, signature, bytes } = signed_by(&bundle, key)?;
    check_leaf(&bundle.entry, &entry::body(&bytes, &signature, key))?;
    let (note, log, origin) = head(&bundle.entry, root)?;
    let witnesses = witnesses(&note, root, now)?;
    let time = time(&bundle.timestamps, &signature, root, now)?;
    check_validity(rights, time.unwrap_or(now))?;
    let of_log = root.check_validity(&log.spki(), time.unwrap_or(now));
    of_log.map_err(|problem| Refusal::new(Code::KeyValidity, format!("the key of the log {origin:?} {problem}")))?;

    let statement = Statement::<P>::read(&payload)?;
    if !rights.uses.contains(&statement.predicate().needs()) {
        let found = format!("the key may sign for {:?}, not for {:?}", rights.uses, statement.predicate().needs());
        return Err(Refusal::new(Code::KeyUse, found));
    }
    let evidence = Evidence {
        key: Bytes32(key.fingerprint()),
        origin,
        index: bundle.entry.index,
        checkpoint: note.checkpoint,
        witnesses,
        time,
    };
    Ok(Logged { statement, digest: digest(&payload), evidence })
}

/// When a signature was made, as the verifiers of this trust root will see it; none where it names no authority, and they will go by their own clocks. The key must have been valid then.
///
/// # Errors
/// [`Code::Key`], [`Code::TimestampMissing`], [`Code::Timestamp`], [`Code::KeyValidity`].
pub fn signed_at(
    root: &TrustRoot,
    hint: &str,
    signature: &[u8],
    timestamps: &[Vec<u8>],
    now: u64,
) -> Result<Option<u64>, Refusal> {
    let key = root.key(hint);
    let (_, rights) = key.ok_or_else(|| Refusal::new(Code::Key, format!("the trust root has no key {hint:?}")))?;
    let time = time(timestamps, signature, root, now)?;
    check_validity(rights, time.unwrap_or(now))?;
    Ok(time)
}

fn key_of<'a>(bundle: &Bundle, root: &'a TrustRoot) -> Result<(&'a Key, &'a SigningKey), Refusal> {
    let found = root.key(&bundle.hint);
    let found = found.ok_or_else(|| Refusal::new(Code::Key, format!("the bundle names the key {:?}", bundle.hint)))?;
    // The envelope may name its key, too: then it is this one.
    let named = bundle.envelope.signatures().map_err(|error| Refusal::new(Code::Schema, error.to_string()))?;
    match named.first() {
        Some((name, _)) if !name.is_empty() && *name != bundle.hint => {
            Err(Refusal::new(Code::Key, format!("the envelope names another key than the bundle: {name:?}")))
        }
        _ => Ok(found),
    }
}

struct Signed {
    payload: Vec<u8>,
    signature: Vec<u8>,
    /// What was signed: type and payload.
    bytes: Vec<u8>,
}

fn signed_by(bundle: &Bundle, key: &Key) -> Result<Signed, Refusal> {
    let payload = bundle.envelope.verify(PAYLOAD_TYPE, std::slice::from_ref(key.public()), 1);
    let payload = payload.map_err(|error| Refusal::new(Code::Signature, error.to_string()))?;
    let bytes = envelope::pre_authentication_encoding(PAYLOAD_TYPE, &payload);
    Ok(Signed { payload, signature: bundle.signature()?, bytes })
}

fn check_leaf(entry: &Entry, expected: &[u8]) -> Result<(), Refusal> {
    if entry.body != expected {
        return Err(Refusal::new(Code::Leaf, "the entry's body is not made of this statement, signature and key"));
    }
    let found = proof::root_of(tree::leaf(expected), entry.index, entry.size, &entry.path);
    if found != Some(entry.root) {
        let found = format!("the proof does not lead from entry {} of {} to the root", entry.index, entry.size);
        return Err(Refusal::new(Code::Inclusion, found));
    }
    Ok(())
}

fn head<'a>(entry: &'a Entry, root: &'a TrustRoot) -> Result<(Note<'a>, &'a Key, String), Refusal> {
    let note = Note::parse(&entry.checkpoint).map_err(|error| Refusal::new(Code::Checkpoint, error.to_string()))?;
    // By key first: a log that signs with its key for another origin must be found out as such.
    let signer = root.logs().find_map(|(key, origin)| Some((key, origin, note.names_of(key).next()?)));
    let Some((key, origin, name)) = signer else {
        let found = format!("the head of {:?} is signed by no known log", note.checkpoint.origin);
        return Err(Refusal::new(Code::CheckpointSignature, found));
    };
    let head = &note.checkpoint;
    if (head.size, head.root) != (entry.size, entry.root) {
        let found = format!("the log signed a head of {} entries, the proof is for {}", head.size, entry.size);
        return Err(Refusal::new(Code::CheckpointHead, found));
    }
    if head.origin != origin || name != origin || entry.log_id != key.note_id(origin) {
        let found = format!("the head is of {:?}, the key is that of {origin:?}", head.origin);
        return Err(Refusal::new(Code::Origin, found));
    }
    Ok((note, key, origin.to_owned()))
}

pub(crate) fn witnesses(note: &Note, root: &TrustRoot, now: u64) -> Result<Vec<(String, u64)>, Refusal> {
    let all = &root.document().witnesses;
    let seen = all.keys.iter().filter_map(|witness| {
        let time = note.seen_by(&witness.name, witness.key.0).filter(|time| *time <= now.saturating_add(SKEW))?;
        Some((witness.name.clone(), time))
    });
    let seen: Vec<_> = seen.collect();
    if (seen.len() as u64) < all.threshold {
        let found = format!("{} of the {} witnesses that are needed have seen the head", seen.len(), all.threshold);
        return Err(Refusal::new(Code::Witnesses, found));
    }
    Ok(seen)
}

fn time(timestamps: &[Vec<u8>], signature: &[u8], root: &TrustRoot, now: u64) -> Result<Option<u64>, Refusal> {
    if root.authorities.is_empty() {
        return Ok(None);
    }
    if timestamps.is_empty() {
        return Err(Refusal::new(Code::TimestampMissing, "the bundle has no timestamp"));
    }
    let mut found = String::new();
    for response in timestamps {
        for (authority, certificate) in root.authorities.iter().zip(&root.document().timestamp_authorities) {
            found = match authority.time_of(response, signature) {
                Ok(time) if time <= now.saturating_add(SKEW) => match root.check_validity(&certificate.0, time) {
                    Ok(()) => return Ok(Some(time)),
                    Err(problem) => format!("the timestamp authority {problem}"),
                },
                Ok(time) => format!("the timestamp is of the future: {time}"),
                Err(problem) => problem,
            };
        }
    }
    Err(Refusal::new(Code::Timestamp, found))
}

fn check_validity(rights: &SigningKey, time: u64) -> Result<(), Refusal> {
    let SigningKey { not_before, not_after, .. } = rights;
    if time < *not_before || time >= *not_after {
        let found = format!("the key is valid from {not_before} to {not_after}, the statement is of {time}");
        return Err(Refusal::new(Code::KeyValidity, found));
    }
    Ok(())
}

/// Whether a log's newer head contains its older one: both are of signed notes, and `path` is the proof.
///
/// # Errors
/// [`Code::Origin`] for heads of different logs, [`Code::Consistency`] for a log that was forked.
pub fn grows(old: &Checkpoint, new: &Checkpoint, path: &[tree::Hash]) -> Result<(), Refusal> {
    if old.origin != new.origin {
        return Err(Refusal::new(
            Code::Origin,
            format!("one head is of {:?}, the other of {:?}", old.origin, new.origin),
        ));
    }
    if !proof::is_consistent((old.size, old.root), (new.size, new.root), path) {
        let found = format!("the head of {} entries does not begin with that of {}", new.size, old.size);
        return Err(Refusal::new(Code::Consistency, found));
    }
    Ok(())
}

impl<P: Predicate> Logged<P> {
    /// Finds the subject that is this file or value.
    ///
    /// # Errors
    /// [`Code::Subject`].
    pub fn is_about(&self, about: About) -> Result<Option<&Subject>, Refusal> {
        let (algorithm, digest) = match about {
            About::Anything => return Ok(None),
            About::File(digest) => ("sha256", &digest[..]),
            About::Value { algorithm, digest } => (algorithm, digest),
        };
        let is_file = matches!(about, About::File(_));
        let fits = |subject: &&Subject| !(is_file && subject.is_value()) && subject.has(algorithm, digest);
        self.statement.subjects().iter().find(fits).map(Some).ok_or_else(|| {
            Refusal::new(Code::Subject, format!("no subject has the {algorithm} {}", hex::encode(digest)))
        })
    }
}

impl Logged<MeasuredBoot> {
    /// Whether the release is about this, holds now, follows what is known, and is good.
    ///
    /// # Errors
    /// [`Code::Subject`], [`Code::NotYetValid`], [`Code::Expired`], [`Code::Rollback`], and those of [`Current`].
    pub fn judge(&self, about: About, known: &Known) -> Result<(), Refusal> {
        self.is_about(about)?;
        let MeasuredBoot { not_before, not_after, previous, reference } = self.statement.predicate();
        if known.now < *not_before {
            return Err(Refusal::new(Code::NotYetValid, format!("it holds from {not_before}, now is {}", known.now)));
        }
        if known.now >= *not_after {
            return Err(Refusal::new(Code::Expired, format!("it held until {not_after}, now is {}", known.now)));
        }
        if let Some(newest) = known.newest
            && newest != self.digest
            && Some(newest) != *previous
        {
            let found = format!("sha256:{} is known and is not the one before", hex::encode(newest.0));
            return Err(Refusal::new(Code::Rollback, found));
        }
        match (known.channel, reference) {
            (Some(channel), Reference::Image(image)) => channel.judge(&self.digest, image.epoch),
            // Channels are of images: a machine reference is in none.
            (Some(_), Reference::Machine(_)) | (None, _) => Ok(()),
        }
    }
}

impl Logged<Rebuild> {
    /// Whether it is this release that came out the same.
    ///
    /// # Errors
    /// [`Code::Subject`].
    pub fn judge(&self, release: &Logged<MeasuredBoot>) -> Result<(), Refusal> {
        let other = |found: &str| Refusal::new(Code::Subject, format!("the rebuild {found}"));
        let Reference::Image(image) = &release.statement.predicate().reference else {
            return Err(other("is of an image, the statement of a machine"));
        };
        if *self.statement.predicate() != Rebuild::of(image)? {
            return Err(other("is of another image: its reference, revision or lock is not this one's"));
        }
        let has =
            |subject: &&Subject, text: &String| hex::decode(text).is_ok_and(|digest| subject.has("sha256", &digest));
        for (what, text) in [("raw disk", &image.raw.sha256), ("UKI", &image.uki.sha256)] {
            if !self.statement.subjects().iter().any(|subject| has(&subject, text)) {
                return Err(other(&format!("says nothing of this {what}")));
            }
        }
        Ok(())
    }
}

/// Whether as many rebuilders as are needed have made this release again, and who they are, by the fingerprints of their keys. Whoever signed the release is none of them.
///
/// # Errors
/// [`Code::Subject`] for a rebuild of something else, [`Code::Rebuilders`].
pub fn rebuilders(
    release: &Logged<MeasuredBoot>,
    rebuilds: &[Logged<Rebuild>],
    least: u64,
) -> Result<BTreeSet<Bytes32>, Refusal> {
    let mut keys = BTreeSet::new();
    for rebuild in rebuilds {
        rebuild.judge(release)?;
        keys.insert(rebuild.evidence.key);
    }
    keys.remove(&release.evidence.key);
    if (keys.len() as u64) < least {
        let found = format!("{} of {least} rebuilders that are needed", keys.len());
        return Err(Refusal::new(Code::Rebuilders, found));
    }
    Ok(keys)
}

impl Logged<Provenance> {
    /// Whether it is about this.
    ///
    /// # Errors
    /// [`Code::Subject`].
    pub fn judge(&self, about: About) -> Result<(), Refusal> {
        self.is_about(about).map(drop)
    }
}

impl Current {
    /// The state of a channel, if it says something now. `highest` is the highest version seen so far.
    ///
    /// # Errors
    /// [`Code::ChannelExpired`], [`Code::ChannelRollback`].
    pub fn new(channel: Logged<Channel>, highest: u64, now: u64) -> Result<Self, Refusal> {
        let Channel { expires, version, .. } = channel.statement.predicate();
        if now >= *expires {
            return Err(Refusal::new(Code::ChannelExpired, format!("it held until {expires}, now is {now}")));
        }
        if *version < highest {
            let found = format!("it has version {version}, version {highest} is known");
            return Err(Refusal::new(Code::ChannelRollback, found));
        }
        Ok(Self(channel))
    }

    /// What it says, and how that was shown.
    pub fn logged(&self) -> &Logged<Channel> {
        &self.0
    }

    /// Whether a release is good.
    ///
    /// # Errors
    /// [`Code::Revoked`], [`Code::NotReleased`], [`Code::Epoch`].
    pub fn judge(&self, statement: &Bytes32, epoch: u64) -> Result<(), Refusal> {
        let channel = self.0.statement.predicate();
        let name = &channel.name;
        match channel.standing(statement) {
            Some(Standing::Revoked) => Err(Refusal::new(Code::Revoked, format!("the channel {name:?} revoked it"))),
            None => Err(Refusal::new(Code::NotReleased, format!("the channel {name:?} does not name it"))),
            Some(Standing::Good) if epoch < channel.least_epoch => {
                let found = format!("it has epoch {epoch}, the channel {name:?} needs {}", channel.least_epoch);
                Err(Refusal::new(Code::Epoch, found))
            }
            Some(Standing::Good) => Ok(()),
        }
    }
}
