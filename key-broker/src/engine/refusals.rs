//! What is answered where nothing is released, and its row of the audit log. A refusal has a row of its own where a quote was made for it, and as many as strangers of its network may cause where none was; a hold has one for each reason.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::Instant;

use attest::bytes::Hex;

use super::audit::{self, Leaf};
use super::outcome::Stop;
use super::records::{Latch, Node, Waiting, get, put};
use super::{Answer, Engine, Reply};
use crate::code::{Own, Refusal};
use crate::store::{Error as StoreError, Table, Transaction};

/// Whom an answer is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Client<'a> {
    /// A node that has proved to be it.
    Node(&'a str),
    /// Somebody at this address.
    Stranger(IpAddr),
}

impl Engine {
    /// The answer of whatever ended without a release.
    pub(super) fn stopped(&self, client: Client<'_>, stop: &Stop) -> Answer {
        match (stop, client) {
            (Stop::Held(refusal), Client::Node(name)) => self.hold(name, refusal),
            (Stop::Refused(refusal) | Stop::Held(refusal), _) => self.refuse(client, refusal),
            (Stop::Ended, _) => self.ended(),
            (Stop::Unavailable(cause), _) => self.unavailable(cause),
        }
    }

    /// The session has ended: the evidence may be good, and is not read.
    pub(super) fn ended(&self) -> Answer {
        self.count_answer("SESSION_ENDED");
        Reply::ended().into()
    }

    fn undecided(&self, stop: &Stop) -> Answer {
        match stop {
            Stop::Ended => self.ended(),
            Stop::Unavailable(cause) => self.unavailable(cause),
            Stop::Refused(refusal) | Stop::Held(refusal) => {
                self.unavailable(&format!("the audit log takes no row: {}", refusal.found))
            }
        }
    }

    /// Nothing was decided: whoever asks may ask again.
    pub(super) fn unavailable(&self, cause: &str) -> Answer {
        eprintln!("key-broker: cannot decide: {cause}");
        self.count_answer("UNAVAILABLE");
        Reply::unavailable().into()
    }

    /// A refusal: written into the audit log, as often as strangers may, and the same to whoever asks. A refusal of a node that cannot be written is none: a decision that ends a boot is in the log.
    pub(super) fn refuse(&self, client: Client<'_>, refusal: &Refusal) -> Answer {
        match self.record(client, refusal) {
            Ok(request) => {
                self.count(refusal.code);
                Answer::Refused { request }
            }
            Err(stop) => self.undecided(&stop),
        }
    }

    /// A hold: written into the audit log when its reason changes, and not each time that the node asks.
    pub(super) fn hold(&self, node: &str, refusal: &Refusal) -> Answer {
        match self.record_hold(node, refusal) {
            Ok(request) => {
                self.count(refusal.code);
                let retry_after = u32::try_from(self.settings.hold.as_secs()).unwrap_or(u32::MAX);
                Answer::Held { request, retry_after }
            }
            Err(stop) => self.undecided(&stop),
        }
    }

    fn leaf(&self, node: &str, request: &str, refusal: &Refusal) -> Leaf {
        Leaf {
            number: 0,
            time: self.now(),
            request: request.to_owned(),
            node: node.to_owned(),
            code: refusal.code.name().to_owned(),
            found: refusal.found.clone(),
        }
    }

    fn record(&self, client: Client<'_>, refusal: &Refusal) -> Result<String, Stop> {
        let request = hex::encode(&self.random::<16>()?[..]);
        let (may, node) = match client {
            Client::Node(name) => (true, name),
            Client::Stranger(address) => {
                let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
                (limits.stranger_may_be_written(address, refusal.code.name(), Instant::now()), "")
            }
        };
        if may && let Some(open) = self.keys() {
            let leaf = self.leaf(node, &request, refusal);
            self.store
                .transact(&mut |transaction| audit::append(transaction, leaf.clone(), &self.signer(&open)).map(drop))?;
        }
        Ok(request)
    }

    /// Writes one row for all refusals of strangers that were not written since the last such row.
    pub(super) fn record_unwritten(&self) {
        let Some(open) = self.keys() else { return };
        let counts = self.limits.lock().unwrap_or_else(PoisonError::into_inner).take_unwritten();
        if counts.is_empty() {
            return;
        }
        let Ok(request) = self.random::<16>() else { return };
        let codes: Vec<String> = counts.iter().map(|(code, count)| format!("{code} {count}")).collect();
        let found = format!("refusals of strangers that have no row of their own: {}", codes.join(", "));
        let leaf = self.leaf("", &hex::encode(&request[..]), &Refusal::new(Own::RateLimited, found));
        let written = self
            .store
            .transact(&mut |transaction| audit::append(transaction, leaf.clone(), &self.signer(&open)).map(drop));
        // A store that cannot be written makes the broker unready, which says why; they are counted again in the next minute.
        if written.is_err() {
            self.limits.lock().unwrap_or_else(PoisonError::into_inner).put_unwritten_back(counts);
        }
    }

    /// The refusal of a report whose quote was verified. The quote does not cover all of a report, so one quote is enough for any number of them: the first refusal of a release is written into the audit log, and what is
    /// refused after it counts as a stranger's.
    pub(super) fn refuse_report(&self, node: &str, address: IpAddr, session: &Hex, refusal: &Refusal) -> Answer {
        match self.record_report(node, session, refusal) {
            Ok(Some(request)) => {
                self.count(refusal.code);
                Answer::Refused { request }
            }
            Ok(None) => self.refuse(Client::Stranger(address), refusal),
            Err(stop) => self.undecided(&stop),
        }
    }

    /// The request under which this refusal is in the audit log; none where another refusal of the same release is.
    fn record_report(&self, name: &str, session: &Hex, refusal: &Refusal) -> Result<Option<String>, Stop> {
        let code = refusal.code.name();
        let kept = |transaction: &dyn Transaction| -> Result<Option<Latch>, StoreError> {
            let latch: Option<Latch> = get(transaction, Table::Latches, name.as_bytes())?;
            Ok(latch.filter(|latch| latch.session == *session))
        };
        let same = |refused: Waiting| (refused.code == code).then_some(refused.request);
        let mut latch = None;
        self.store.look(&mut |transaction| {
            latch = kept(transaction)?;
            Ok(())
        })?;
        match latch {
            Some(Latch { refused: None, .. }) => {}
            latch => return Ok(latch.and_then(|latch| latch.refused).and_then(same)),
        }
        let open = self.keys().ok_or_else(|| Stop::Unavailable("the broker is sealed".into()))?;
        let request = hex::encode(&self.random::<16>()?[..]);
        let leaf = self.leaf(name, &request, refusal);
        let mut written = None;
        self.store.transact(&mut |transaction| {
            let Some(mut latch) = kept(transaction)? else { return Ok(()) };
            if let Some(refused) = latch.refused {
                written = same(refused);
                return Ok(());
            }
            latch.refused = Some(Waiting { code: code.to_owned(), request: request.clone() });
            put(transaction, Table::Latches, name.as_bytes(), &latch)?;
            written = Some(request.clone());
            audit::append(transaction, leaf.clone(), &self.signer(&open)).map(drop)
        })?;
        Ok(written)
    }

    fn record_hold(&self, name: &str, refusal: &Refusal) -> Result<String, Stop> {
        let code = refusal.code.name();
        let kept = |transaction: &dyn Transaction| -> Result<Option<Node>, StoreError> {
            get(transaction, Table::Nodes, name.as_bytes())
        };
        let is_same = |node: &Node| node.waiting.as_ref().is_some_and(|waiting| waiting.code == code);
        let mut request = None;
        self.store.look(&mut |transaction| {
            request = kept(transaction)?.filter(is_same).and_then(|node| node.waiting).map(|waiting| waiting.request);
            Ok(())
        })?;
        if let Some(request) = request {
            return Ok(request);
        }
        let open = self.keys().ok_or_else(|| Stop::Unavailable("the broker is sealed".into()))?;
        let request = hex::encode(&self.random::<16>()?[..]);
        let leaf = self.leaf(name, &request, refusal);
        self.store.transact(&mut |transaction| {
            if let Some(mut node) = kept(transaction)? {
                node.waiting = Some(Waiting { code: code.to_owned(), request: request.clone() });
                put(transaction, Table::Nodes, name.as_bytes(), &node)?;
            }
            audit::append(transaction, leaf.clone(), &self.signer(&open)).map(drop)
        })?;
        Ok(request)
    }
}
