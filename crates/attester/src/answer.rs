//! What an answer of a broker is: a message, a decision, or neither. Only what is signed for this request on this connection is a decision.

use std::net::SocketAddr;

use attest::binding::answered;
use attest::bytes::Bytes32;
use attest::message::{self, Hold, Refused};
use connection::Response;
use measurements::canonical::Document;

use crate::KnownBroker;
use crate::wait::{Kind, Wait};

/// What a broker answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer<M> {
    /// A message that a known broker signed, the digest of its payload, and the key that signed it. Whether it is of this conversation is for the caller to check.
    Message(M, [u8; 32], Bytes32),
    /// Final, for this request.
    Refused {
        /// What the operator asks for.
        request: String,
    },
    /// For this request.
    Held {
        /// What the operator asks for.
        request: String,
        /// Seconds.
        retry_after: u32,
    },
    /// Neither.
    Wait(Wait),
}

/// A request and the connection that it was sent over.
pub(crate) struct Asked<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) request: &'a [u8],
    pub(crate) exporter: &'a [u8; 32],
    /// Message key of the broker at the other end, which alone decides.
    pub(crate) key: Bytes32,
    /// Brokers that may have signed a message that is sent again.
    pub(crate) known: &'a [KnownBroker],
}

impl Asked<'_> {
    /// Reads the answer.
    pub(crate) fn read<M: Document>(&self, response: &Response) -> Answer<M> {
        match response.status {
            200 => self.message(response),
            202 => self.decision::<Hold, _>(response, |hold| {
                let Hold { request, retry_after, .. } = hold;
                (hold.answers, Answer::Held { request, retry_after })
            }),
            403 => self.decision::<Refused, _>(response, |refused| {
                (refused.answers, Answer::Refused { request: refused.request })
            }),
            408 => Answer::Wait(Wait::new(Kind::Unavailable, self.address, "the session has ended")),
            429 | 503 => {
                let wait = Wait::new(Kind::Unavailable, self.address, "sealed, busy or without its store");
                Answer::Wait(Wait { asked: response.retry_after, ..wait })
            }
            status => self.wait(format!("status {status}")),
        }
    }

    fn wait<M>(&self, what: String) -> Answer<M> {
        Answer::Wait(Wait::new(Kind::NotADecision, self.address, format!("not a signed decision: {what}")))
    }

    fn message<M: Document>(&self, response: &Response) -> Answer<M> {
        let mut refusal = None;
        for key in std::iter::once(&self.key).chain(self.known.iter().map(|broker| &broker.message_key)) {
            match message::open(&response.body, key) {
                Ok((message, digest)) => return Answer::Message(message, digest, *key),
                Err(found) => refusal = Some(found),
            }
        }
        self.wait(refusal.map(|refusal| refusal.to_string()).unwrap_or_default())
    }

    fn decision<D: Document, M>(&self, response: &Response, read: impl FnOnce(D) -> (Bytes32, Answer<M>)) -> Answer<M> {
        let decision = match message::open::<D>(&response.body, &self.key) {
            Ok((decision, _)) => decision,
            Err(refusal) => return self.wait(format!("status {} with {refusal}", response.status)),
        };
        let (answers, answer) = read(decision);
        if answers.0 != answered(self.request, self.exporter) {
            return self.wait(format!("status {}, signed for another request or connection", response.status));
        }
        answer
    }
}
