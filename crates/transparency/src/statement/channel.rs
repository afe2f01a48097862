//! The predicate for which releases are good (`https://cairn.example/attestation/channel/v1`). A channel's state is numbered and expires; it is signed, logged and verified as a release is. Its subjects are the statements of its releases.

use measurements::bytes::{Bytes32, at_most};
use serde::{Deserialize, Serialize};

use super::{MOST_SUBJECTS, Predicate, Statement, Subject};
use crate::Refusal;
use crate::trust_root::Use;

/// The state of a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Channel {
    /// From when on it says nothing any more, seconds since 1970.
    pub expires: u64,
    /// Releases with a lower security epoch are not good, whatever else is said.
    pub least_epoch: u64,
    /// Which channel.
    pub name: String,
    /// Releases, in the order of their statements' digests.
    #[serde(deserialize_with = "at_most::<MOST_SUBJECTS, _, _>")]
    pub releases: Vec<Release>,
    /// A later state has a higher number.
    pub version: u64,
}

/// A release in a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Release {
    /// Name, such as `cairn_0.1.0`.
    pub name: String,
    /// Whether it is good.
    pub standing: Standing,
    /// SHA-256 of its measured-boot statement.
    pub statement: Bytes32,
}

/// Whether a release is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It is.
    Good,
    /// It was, or should never have been.
    Revoked,
}

impl Channel {
    /// How a release stands; `None` if the channel does not name it.
    pub fn standing(&self, statement: &Bytes32) -> Option<Standing> {
        self.releases.iter().find(|release| release.statement == *statement).map(|release| release.standing)
    }
}

impl Statement<Channel> {
    /// The statement of a channel's state.
    ///
    /// # Errors
    /// [`Code::Statement`](crate::Code::Statement).
    pub fn channel(mut state: Channel) -> Result<Self, Refusal> {
        state.releases.sort_by_key(|release| release.statement.0);
        Self::new(state.releases.iter().map(subject).collect(), state)
    }
}

impl Predicate for Channel {
    const NAME: &'static str = "channel statement";
    const TYPE: &'static str = "https://cairn.example/attestation/channel/v1";

    fn needs(&self) -> Use {
        Use::Channel
    }

    fn problem(&self, subjects: &[Subject]) -> Option<String> {
        if self.name.is_empty() || self.version == 0 {
            return Some("the channel has no name, or its first version is not 1".into());
        }
        if !self.releases.is_sorted_by(|one, other| one.statement.0 < other.statement.0) {
            return Some("its releases are not in the order of their statements' digests, each once".into());
        }
        if subjects.iter().any(Subject::is_value) {
            return Some("a release is called as a value is".into());
        }
        let named = self.releases.iter().map(subject).eq(subjects.iter().cloned());
        (!named).then(|| "its subjects are not the statements of its releases".into())
    }
}

fn subject(release: &Release) -> Subject {
    Subject::file(&release.name, release.statement.0)
}
