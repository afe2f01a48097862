//! Decisions as they are sent: refusals and holds are signed with the message key and name the request and the connection that they answer ([`attest::binding::answered`]), because they end or delay the boot of a node. Everything
//! else that is not a message of the protocol says nothing about the node, and is not signed.

use attest::binding::answered;
use attest::bytes::Bytes32;
use attest::message::{self, Hold, Refused};
use measurements::canonical::Document;

use super::{Engine, Open, Reply};

/// Result of a request of a node, before it is bound to the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A message, or no decision.
    Reply(Reply),
    /// 403.
    Refused {
        /// What the operator asks for.
        request: String,
    },
    /// 202.
    Held {
        /// What the operator asks for.
        request: String,
        /// Seconds.
        retry_after: u32,
    },
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}

impl Engine {
    /// The answer to this request, which came over a connection with this exporter.
    pub fn bind(&self, answer: Answer, request: &[u8], exporter: &[u8; 32]) -> Reply {
        let answers = Bytes32(answered(request, exporter));
        match answer {
            Answer::Reply(reply) => reply,
            Answer::Refused { request } => {
                self.signed(403, &Refused { answers, request, schema: Refused::SCHEMA.into() }, None)
            }
            Answer::Held { request, retry_after } => {
                let hold = Hold { answers, request, retry_after, schema: Hold::SCHEMA.into() };
                self.signed(202, &hold, Some(retry_after))
            }
        }
    }

    fn signed<D: Document>(&self, status: u16, decision: &D, retry_after: Option<u32>) -> Reply {
        let sign = |open: &Open| message::sign(decision, "broker", &open.keys.message).ok();
        match self.keys().and_then(|open| sign(&open)) {
            Some(sent) => Reply { status, body: sent.bytes, retry_after },
            None => Reply::unavailable(),
        }
    }
}
