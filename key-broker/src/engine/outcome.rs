//! How a question of a node ends without a release. Three kinds, so that none passes for another: a decision, a decision that an operator must make, and no decision at all.

use crate::code::Refusal;
use crate::store::Error;

/// Why nothing is released.
#[derive(Debug)]
pub(super) enum Stop {
    /// A final decision: 403.
    Refused(Refusal),
    /// The operator must decide: 202.
    Held(Refusal),
    /// Nothing could be decided, because the store or the kernel does not do its part: 503. It says nothing about the node, whatever the cause.
    Unavailable(String),
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
