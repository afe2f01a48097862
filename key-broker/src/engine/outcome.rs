//! How a question of a node ends without a release. Four kinds, so that none passes for another: a decision, a decision that an operator must make, a session that has ended, and no decision at all.

use std::fmt;

use crate::code::Refusal;
use crate::store::Error;

/// Why nothing is released.
#[derive(Debug)]
pub(super) enum Stop {
    /// A final decision: 403.
    Refused(Refusal),
    /// The operator must decide: 202.
    Held(Refusal),
    /// The session has ended, by time or because its node has had a later boot: 408, which is not a decision. The node begins again.
    Ended,
    /// Nothing could be decided, because the store or the kernel does not do its part: 503. It says nothing about the node, whatever the cause.
    Unavailable(String),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) | Self::Held(refusal) => write!(f, "{}: {}", refusal.code.name(), refusal.found),
            Self::Ended => f.write_str("the session has ended"),
            Self::Unavailable(cause) => f.write_str(cause),
        }
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<attest::Refusal> for Stop {
    fn from(refusal: attest::Refusal) -> Self {
        Self::Refused(refusal.into())
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}
