//! Why a machine waits. The kind is what a reason is compared by; the detail, in which request ids and texts of a peer may stand, is only printed.

use std::fmt;
use std::net::SocketAddr;

/// Kind of a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// No connection, or it broke.
    Unreachable,
    /// Nothing showed that the peer is a broker of the cluster.
    NotABroker,
    /// The broker is sealed, busy or without its store.
    Unavailable,
    /// An answer that is not a decision: not signed, or signed for another request.
    NotADecision,
    /// Signed for this request: operator approval is required.
    Held,
}

/// A reason to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) kind: Kind,
    /// Nothing where it concerns no single broker.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) detail: String,
    /// Seconds that the broker asked for.
    pub(crate) asked: Option<u32>,
}

impl Wait {
    pub(crate) fn new(kind: Kind, address: SocketAddr, detail: impl Into<String>) -> Self {
        Self { kind, address: Some(address), detail: detail.into(), asked: None }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind, self.address) {
            (Kind::Unreachable, _) => write!(f, "broker unreachable: {}", self.detail),
            (Kind::Held, _) => write!(f, "hold: {}", self.detail),
            (_, Some(address)) => write!(f, "broker {address}: {}", self.detail),
            (_, None) => f.write_str(&self.detail),
        }
    }
}
