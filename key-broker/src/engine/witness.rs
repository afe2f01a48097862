//! Witnesses of the audit log: who they are, what each has signed last, and what hinders one.

use std::sync::PoisonError;

use serde_json::{Value, json};
use transparency::verifier_key::VerifierKey;

use super::audit::witness::{self, Cosigned, Next};
use super::{Engine, audit};
use crate::store::Error;

pub use audit::witness::Submission;

/// Why a witness has not signed the newest head.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The witness knows another log than this one: leaves were removed or replaced.
    #[error(
        "the audit log is not the one that it has signed: {0}; keep the database and `key-broker audit head --witness` of all brokers, and find out who changed the log or restored an older database"
    )]
    Conflict(String),
    /// It is tried again.
    #[error("{0}; it is tried again")]
    Waiting(String),
}

impl Trouble {
    /// Of a witness before its first round: it may know another log.
    pub(super) fn not_asked() -> Self {
        Self::Waiting("it was not asked since the broker was started".into())
    }

    const fn token(&self) -> &'static str {
        match self {
            Self::Conflict(_) => "conflict",
            Self::Waiting(_) => "waiting",
        }
    }
}

/// A witness, as metrics show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessFigures {
    /// Its name.
    pub name: String,
    /// Number of leaves of the head that it has signed last.
    pub size: u64,
    /// When, in seconds since 1970.
    pub time: u64,
    /// Whether it knows another log than this one.
    pub has_conflict: bool,
}

impl Engine {
    /// The next request to this witness; none where it has signed the newest head. `has` is the number of leaves that it says it knows.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn submission(&self, key: &VerifierKey, has: Option<u64>) -> Result<Option<Submission>, Trouble> {
        // Rows are read with the broker's keys.
        if self.is_sealed() {
            return Err(Trouble::Waiting("the broker is sealed".into()));
        }
        let is_unknown = self.trouble(key) == Some(Trouble::not_asked());
        match witness::next(&*self.store, &self.bundles, key, has, is_unknown) {
            Ok(Next::Submit(submission)) => Ok(Some(submission)),
            Ok(Next::Nothing) => Ok(None),
            Ok(Next::Ahead { size }) => Err(Trouble::Conflict(format!(
                "it has signed {} leaves, and the log has {size}",
                has.map_or_else(|| "more".into(), |has| has.to_string())
            ))),
            Err(audit::Problem::Changed(found)) => Err(Trouble::Conflict(found)),
            Err(problem) => Err(Trouble::Waiting(problem.to_string())),
        }
    }

    /// Keeps the answer of a witness to a request.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn cosigned(&self, key: &VerifierKey, submission: &Submission, answer: &str) -> Result<(), Trouble> {
        let kept = witness::keep(&*self.store, key, submission, answer);
        kept.map_err(|error| Trouble::Waiting(error.to_string()))?.map_err(|found| Trouble::Waiting(found.into()))
    }

    /// How the last round of a witness ended. What has changed since the round before is printed, except while the broker is sealed.
    pub fn witness_round(&self, key: &VerifierKey, trouble: Option<Trouble>) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        // A witness that has signed another log and does not answer now has signed it all the same.
        let is_conflict = matches!(troubles.get(&key.to_string()), Some(Trouble::Conflict(_)));
        if is_conflict && matches!(trouble, Some(Trouble::Waiting(_))) {
            return;
        }
        match (&trouble, troubles.get(&key.to_string())) {
            (Some(now), before) if before != Some(now) && !self.is_sealed() => {
                eprintln!("key-broker: witness {}: {now}", key.name);
            }
            (None, Some(before)) if *before != Trouble::not_asked() => {
                eprintln!("key-broker: witness {} has signed the newest head of the audit log", key.name)
            }
            _ => {}
        }
        match trouble {
            Some(trouble) => troubles.insert(key.to_string(), trouble),
            None => troubles.remove(&key.to_string()),
        };
    }

    fn trouble(&self, key: &VerifierKey) -> Option<Trouble> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).get(&key.to_string()).cloned()
    }

    /// The first witness that knows another log than this one, in words.
    pub(super) fn conflict(&self) -> Option<String> {
        let conflict = |key| self.trouble(key).filter(|trouble| matches!(trouble, Trouble::Conflict(_)));
        self.settings.witnesses.iter().find_map(|key| Some(format!("witness {}: {}", key.name, conflict(key)?)))
    }

    /// Names of the witnesses that have not answered in their last round, or not been asked: what they know is not compared with the log.
    pub(super) fn silent_witnesses(&self) -> Vec<&str> {
        let is_silent = |key: &&VerifierKey| matches!(self.trouble(key), Some(Trouble::Waiting(_)));
        self.settings.witnesses.iter().filter(is_silent).map(|key| &key.name[..]).collect()
    }

    /// What each witness has signed last.
    pub(super) fn all_cosigned(&self) -> Result<Vec<(&VerifierKey, Cosigned)>, Error> {
        let mut all = Vec::new();
        self.store.look(&mut |open| {
            all.clear();
            for key in &self.settings.witnesses {
                all.push((key, witness::cosigned(open, key)?));
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// For metrics; nothing where the database cannot be read.
    pub fn witness_figures(&self) -> Vec<WitnessFigures> {
        let figures = |(key, Cosigned { size, time, .. }): (&VerifierKey, Cosigned)| WitnessFigures {
            name: key.name.clone(),
            size,
            time,
            has_conflict: matches!(self.trouble(key), Some(Trouble::Conflict(_))),
        };
        self.all_cosigned().unwrap_or_default().into_iter().map(figures).collect()
    }

    /// For `key-broker status`.
    pub(super) fn witnesses_shown(&self) -> Result<Value, Error> {
        let shown = |(key, Cosigned { size, time, .. }): (&VerifierKey, Cosigned)| {
            let trouble = self.trouble(key);
            let time = i64::try_from(time).ok().filter(|time| *time > 0);
            let time = time.and_then(|time| jiff::Timestamp::from_second(time).ok()).map(|time| time.to_string());
            json!({
                "witness": key.name,
                "leaves": size,
                "time": time,
                "state": trouble.as_ref().map_or(if size == 0 { "waiting" } else { "signed" }, Trouble::token),
                "found": trouble.map(|trouble| trouble.to_string()),
            })
        };
        Ok(self.all_cosigned()?.into_iter().map(shown).collect())
    }
}
