//! Statements (in-toto Statement v1): what is said (a predicate) of which files and values (subjects). The bytes are canonical JSON, because a log keeps their digest only.
//!
//! Values that a machine shows, not only files, are subjects: whoever holds nothing but a register finds its statement. A statement that contradicts itself cannot be made and is not read.

pub mod channel;
pub mod measured_boot;
pub mod provenance;
pub mod rebuild;

use std::collections::{BTreeMap, BTreeSet};

use measurements::bytes::{Bytes32, Hex, at_most};
use measurements::canonical::{self, Document};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::trust_root::Use;
use crate::{Code, Refusal};

/// Type of a statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// Payload type of an envelope with a statement.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// Larger statements are not read.
pub const LARGEST: usize = 512 << 10;
/// Statements with more subjects are not read.
pub const MOST_SUBJECTS: usize = 1024;
const SHA256: &str = "sha256";

/// What a statement says.
pub trait Predicate: Serialize + DeserializeOwned {
    /// What the statement is called in errors.
    const NAME: &'static str;
    /// URI of the type.
    const TYPE: &'static str;

    /// What a key must be for to say this.
    fn needs(&self) -> Use;

    /// Why the predicate contradicts itself or the subjects; `None` if it does not.
    fn problem(&self, subjects: &[Subject]) -> Option<String>;
}

/// What something is said of: a file, or a value that a machine shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// Digests by name of the algorithm.
    pub digest: BTreeMap<String, Hex>,
    /// Name of the file, or `tpm:`, `snp:`, `tdx:` and the value's name.
    pub name: String,
}

impl Subject {
    /// A file.
    pub fn file(name: impl Into<String>, sha256: [u8; 32]) -> Self {
        Self { digest: BTreeMap::from([(SHA256.into(), Hex(sha256.into()))]), name: name.into() }
    }

    /// Whether it is a value of a machine.
    pub fn is_value(&self) -> bool {
        ["tpm:", "snp:", "tdx:"].into_iter().any(|kind| self.name.starts_with(kind))
    }

    fn has_digests(&self) -> bool {
        let is_one = |(algorithm, digest): (&String, &Hex)| match algorithm.as_str() {
            SHA256 => digest.0.len() == 32,
            "sha384" => digest.0.len() == 48,
            "sha512" => digest.0.len() == 64,
            _ => (1..=64).contains(&digest.0.len()),
        };
        (1..=4).contains(&self.digest.len()) && self.digest.iter().all(is_one)
    }

    /// Whether it has this digest.
    pub fn has(&self, algorithm: &str, digest: &[u8]) -> bool {
        self.digest.get(algorithm).is_some_and(|found| found.0 == digest)
    }
}

/// A statement. Fields stand in the order of canonical JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "P: DeserializeOwned"))]
pub struct Statement<P> {
    #[serde(rename = "_type")]
    kind: String,
    predicate: P,
    predicate_type: String,
    #[serde(deserialize_with = "at_most::<MOST_SUBJECTS, _, _>")]
    subject: Vec<Subject>,
}

impl<P: Predicate> Document for Statement<P> {
    const NAME: &'static str = P::NAME;
    const SCHEMA: &'static str = STATEMENT_TYPE;
    const LARGEST: usize = LARGEST;
}

impl<P: Predicate> Statement<P> {
    /// Says something of some subjects.
    ///
    /// # Errors
    /// [`Code::Statement`] where it would contradict itself.
    pub fn new(subject: Vec<Subject>, predicate: P) -> Result<Self, Refusal> {
        let statement = Self { kind: STATEMENT_TYPE.into(), predicate, predicate_type: P::TYPE.into(), subject };
        statement.checked()
    }

    /// Reads a statement.
    ///
    /// # Errors
    /// [`Code::PredicateType`], [`Code::Statement`].
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let found = predicate_type(bytes)?;
        if found != P::TYPE {
            return Err(Refusal::new(Code::PredicateType, format!("it is a {found:?}, a {:?} is expected", P::TYPE)));
        }
        canonical::read::<Self>(bytes).map_err(unreadable)?.checked()
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`Code::Statement`] where a number cannot be written.
    pub fn write(&self) -> Result<Vec<u8>, Refusal> {
        canonical::write(self).map_err(unreadable)
    }

    /// What it says.
    pub fn predicate(&self) -> &P {
        &self.predicate
    }

    /// What it says it of.
    pub fn subjects(&self) -> &[Subject] {
        &self.subject
    }

    fn checked(self) -> Result<Self, Refusal> {
        let refuse = |found: String| Err(Refusal::new(Code::Statement, found));
        let names: BTreeSet<&str> = self.subject.iter().map(|subject| subject.name.as_str()).collect();
        if names.len() != self.subject.len() || self.subject.len() > MOST_SUBJECTS || names.contains("") {
            return refuse(format!("its subjects do not have a name each, or are more than {MOST_SUBJECTS}"));
        }
        if let Some(subject) = self.subject.iter().find(|subject| !subject.has_digests()) {
            return refuse(format!("its subject {:?} does not have one to four digests of their length", subject.name));
        }
        if !self.subject.iter().any(|subject| !subject.is_value() && subject.digest.contains_key(SHA256)) {
            return refuse("it has no file with a SHA-256 among its subjects".into());
        }
        match self.predicate.problem(&self.subject) {
            Some(problem) => refuse(problem),
            None => Ok(self),
        }
    }
}

/// SHA-256 of a statement's bytes, by which channels and later statements name it.
pub fn digest(statement: &[u8]) -> Bytes32 {
    Bytes32(Sha256::digest(statement).into())
}

/// What kind of statement these bytes are.
///
/// # Errors
/// [`Code::Statement`].
pub fn predicate_type(statement: &[u8]) -> Result<String, Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Header {
        predicate_type: String,
        #[serde(rename = "predicate")]
        _predicate: IgnoredAny,
    }
    if statement.len() > LARGEST {
        let found = format!("the statement has {} bytes, at most {LARGEST} are read", statement.len());
        return Err(Refusal::new(Code::Statement, found));
    }
    let header: Header = serde_json::from_slice(statement)
        .map_err(|error| Refusal::new(Code::Statement, format!("the statement cannot be read: {error}")))?;
    Ok(header.predicate_type)
}

fn unreadable(error: canonical::Error) -> Refusal {
    Refusal::new(Code::Statement, error.to_string())
}
