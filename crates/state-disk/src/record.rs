//! What the broker knows of a disk, and what it answers: one record for each slot of a node, and the rules by which it changes. A disk whose record says that it holds data is never formatted, and one boot is
//! released once: asked again, it gets the same stored bytes.
//!
//! Nothing is stored here and no clock is asked: whoever keeps records does both in one transaction with the audit log.

/// What identifies one boot of one machine; opaque here.
pub type BootId = Vec<u8>;

/// Where a disk is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// A share was released for making it, in this boot; nothing is known to be on it.
    Pending(BootId),
    /// It holds data.
    Active,
    /// Something was wrong: a person decides.
    Quarantine,
    /// Its share was destroyed.
    Retired,
}

/// The digests of a header: the one that is on the disk, and one that is about to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderDigests {
    /// On the disk.
    pub current: [u8; 32],
    /// Announced and not yet confirmed.
    pub pending: Option<[u8; 32]>,
}

/// A disk's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The node that it belongs to.
    pub node: String,
    /// Where it is in its life.
    pub state: State,
    /// How often it was released and committed.
    pub generation: u64,
    /// Its header; none before the first commit.
    pub header: Option<HeaderDigests>,
    /// The boot of the last release, which may ask for the same bytes again.
    pub released: Option<BootId>,
    /// Whether that boot has reported.
    pub committed: bool,
}

/// What a node asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// To make the disk.
    Provision,
    /// To open it.
    Unlock,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such disk.
    NoDisk,
    /// It was never made to the end.
    NotReady,
    /// It holds data: it must not be made anew.
    DiskExpected,
    /// A person must decide.
    Hold,
    /// It is gone for good.
    Retired,
    /// It belongs to another node.
    DiskNodeMismatch,
    /// The header is none of those that are known.
    HeaderDigest,
}

impl Refusal {
    /// As audit logs have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoDisk => "NO_DISK",
            Self::NotReady => "NOT_READY",
            Self::DiskExpected => "DISK_EXPECTED",
            Self::Hold => "HOLD",
            Self::Retired => "RETIRED",
            Self::DiskNodeMismatch => "DISK_NODE_MISMATCH",
            Self::HeaderDigest => "HEADER_DIGEST",
        }
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The share is released, and the record becomes this.
    Release(Record),
    /// The stored reply of this boot is sent again; nothing changes.
    Resend,
    /// Nothing is released.
    Refuse(Refusal),
}

/// Answers a node that an operator has approved or not. `record` is that of the disk that it names.
pub fn answer(record: Option<&Record>, node: &str, boot: &BootId, request: Request, approved: bool) -> Answer {
    let Some(record) = record else {
        return match (request, approved) {
            (Request::Unlock, _) => Answer::Refuse(Refusal::NoDisk),
            (Request::Provision, false) => Answer::Refuse(Refusal::Hold),
            (Request::Provision, true) => Answer::Release(Record {
                node: node.to_owned(),
                state: State::Pending(boot.clone()),
                generation: 0,
                header: None,
                released: Some(boot.clone()),
                committed: false,
            }),
        };
    };
    if record.node != node {
        return Answer::Refuse(Refusal::DiskNodeMismatch);
    }
    let again = record.released.as_ref() == Some(boot);
    let released = |state: State| {
        let released = Some(boot.clone());
        Record { state, released, committed: false, ..record.clone() }
    };
    match (&record.state, request) {
        (State::Retired, _) => Answer::Refuse(Refusal::Retired),
        (State::Quarantine, _) => Answer::Refuse(Refusal::Hold),
        (State::Pending(_), Request::Unlock) => Answer::Refuse(Refusal::NotReady),
        (State::Active, Request::Provision) => Answer::Refuse(Refusal::DiskExpected),
        (State::Pending(_), Request::Provision) | (State::Active, Request::Unlock) if again => Answer::Resend,
        // Nothing was committed: making it again loses nothing.
        (State::Pending(_), Request::Provision) => Answer::Release(released(State::Pending(boot.clone()))),
        (State::Active, Request::Unlock) => Answer::Release(released(State::Active)),
    }
}

/// What a node reports after a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// It made the disk, which has this header.
    Formatted([u8; 32]),
    /// It opened the disk with this header.
    Opened([u8; 32]),
    /// Identity, header or generation was not as it must be.
    Alarm,
}

/// The record after a node's report in the boot of its last release. The same report twice changes nothing more.
///
/// # Errors
/// [`Refusal`]: the report does not fit the record, which stays as it is.
pub fn commit(record: &Record, node: &str, boot: &BootId, report: Report) -> Result<Record, Refusal> {
    if record.node != node {
        return Err(Refusal::DiskNodeMismatch);
    }
    if record.released.as_ref() != Some(boot) {
        return Err(Refusal::NotReady);
    }
    let known = |digest: &[u8; 32]| {
        record.header.is_some_and(|header| header.current == *digest || header.pending.as_ref() == Some(digest))
    };
    let opened = |digest: [u8; 32], generation: u64| Record {
        state: State::Active,
        generation,
        header: Some(HeaderDigests { current: digest, pending: None }),
        committed: true,
        ..record.clone()
    };
    match (&record.state, report) {
        (State::Retired, _) => Err(Refusal::Retired),
        (State::Pending(_) | State::Active, Report::Alarm) => Ok(Record { state: State::Quarantine, ..record.clone() }),
        (State::Quarantine, _) => Err(Refusal::Hold),
        (State::Pending(_), Report::Formatted(digest)) => Ok(opened(digest, 1)),
        (State::Pending(_), Report::Opened(_)) => Err(Refusal::NotReady),
        // A lost acknowledgement: the node says again what it said.
        (State::Active, Report::Formatted(digest)) if record.generation == 1 && known(&digest) => Ok(record.clone()),
        (State::Active, Report::Formatted(_)) => Err(Refusal::DiskExpected),
        (State::Active, Report::Opened(digest)) if record.committed && known(&digest) => Ok(record.clone()),
        (State::Active, Report::Opened(digest)) if known(&digest) => Ok(opened(digest, record.generation + 1)),
        (State::Active, Report::Opened(_)) => Err(Refusal::HeaderDigest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "node";
    const HEADER: [u8; 32] = [1; 32];

    fn boot(number: u8) -> BootId {
        vec![number]
    }

    fn record(state: State, released: u8) -> Record {
        let header = match state {
            State::Pending(_) => None,
            _ => Some(HeaderDigests { current: HEADER, pending: Some([2; 32]) }),
        };
        Record { node: NODE.into(), state, generation: 5, header, released: Some(boot(released)), committed: false }
    }

    #[test]
    fn every_state_answers_every_request() {
        use Request::{Provision, Unlock};
        let pending = || record(State::Pending(boot(1)), 1);
        let refuse = |refusal| Err(refusal);
        // State, request, boot, approved; then what is answered: a release, the stored bytes (false), or a refusal.
        type Row = (Option<Record>, Request, u8, bool, Result<bool, Refusal>);
        let rows: Vec<Row> = vec![
            (None, Unlock, 1, true, refuse(Refusal::NoDisk)),
            (None, Provision, 1, false, refuse(Refusal::Hold)),
            (None, Provision, 1, true, Ok(true)),
            (Some(pending()), Unlock, 2, true, refuse(Refusal::NotReady)),
            (Some(pending()), Provision, 1, false, Ok(false)),
            (Some(pending()), Provision, 2, false, Ok(true)),
            (Some(record(State::Active, 1)), Unlock, 2, false, Ok(true)),
            (Some(record(State::Active, 1)), Unlock, 1, false, Ok(false)),
            (Some(record(State::Active, 1)), Provision, 2, true, refuse(Refusal::DiskExpected)),
            (Some(record(State::Active, 1)), Provision, 1, true, refuse(Refusal::DiskExpected)),
            (Some(record(State::Quarantine, 1)), Unlock, 1, true, refuse(Refusal::Hold)),
            (Some(record(State::Quarantine, 1)), Provision, 2, true, refuse(Refusal::Hold)),
            (Some(record(State::Retired, 1)), Unlock, 1, true, refuse(Refusal::Retired)),
            (Some(record(State::Retired, 1)), Provision, 2, true, refuse(Refusal::Retired)),
        ];
        for (record, request, number, approved, expected) in rows {
            let found = match answer(record.as_ref(), NODE, &boot(number), request, approved) {
                Answer::Release(after) => {
                    assert_eq!(after.released, Some(boot(number)));
                    let before = record.as_ref();
                    assert_eq!(
                        before.map_or(0, |before| before.generation),
                        after.generation,
                        "a release is no commit"
                    );
                    Ok(true)
                }
                Answer::Resend => Ok(false),
                Answer::Refuse(refusal) => Err(refusal),
            };
            assert_eq!(found, expected, "{record:?} {request:?} {number}");
            if record.is_some() {
                let other = answer(record.as_ref(), "other", &boot(number), request, approved);
                assert_eq!(other, Answer::Refuse(Refusal::DiskNodeMismatch));
            }
        }
    }

    #[test]
    fn a_disk_is_made_once_and_its_generation_rises_with_every_commit() {
        let Answer::Release(pending) = answer(None, NODE, &boot(1), Request::Provision, true) else { panic!() };
        assert_eq!(commit(&pending, NODE, &boot(1), Report::Opened(HEADER)), Err(Refusal::NotReady));
        let active = commit(&pending, NODE, &boot(1), Report::Formatted(HEADER)).unwrap();
        assert_eq!((&active.state, active.generation), (&State::Active, 1));
        assert_eq!(commit(&active, NODE, &boot(1), Report::Formatted(HEADER)), Ok(active.clone()), "said twice");
        assert_eq!(commit(&active, NODE, &boot(1), Report::Formatted([9; 32])), Err(Refusal::DiskExpected));
        let Answer::Release(opened) = answer(Some(&active), NODE, &boot(2), Request::Unlock, false) else { panic!() };
        let second = commit(&opened, NODE, &boot(2), Report::Opened(HEADER)).unwrap();
        assert_eq!(second.generation, 2);
        assert_eq!(commit(&second, NODE, &boot(2), Report::Opened(HEADER)), Ok(second.clone()), "said twice");
        assert_eq!(commit(&opened, NODE, &boot(2), Report::Opened([9; 32])), Err(Refusal::HeaderDigest));
        assert_eq!(commit(&opened, NODE, &boot(3), Report::Opened(HEADER)), Err(Refusal::NotReady), "another boot");
        assert_eq!(commit(&opened, "other", &boot(2), Report::Opened(HEADER)), Err(Refusal::DiskNodeMismatch));
    }

    #[test]
    fn a_header_that_was_announced_becomes_the_current_one() {
        let opened = commit(&record(State::Active, 1), NODE, &boot(1), Report::Opened([2; 32])).unwrap();
        assert_eq!(opened.header, Some(HeaderDigests { current: [2; 32], pending: None }));
    }

    #[test]
    fn an_alarm_leads_to_a_person_and_stays_there() {
        let alarmed = commit(&record(State::Active, 1), NODE, &boot(1), Report::Alarm).unwrap();
        assert_eq!(alarmed.state, State::Quarantine);
        assert_eq!(commit(&alarmed, NODE, &boot(1), Report::Opened(HEADER)), Err(Refusal::Hold));
        assert_eq!(commit(&record(State::Retired, 1), NODE, &boot(1), Report::Alarm), Err(Refusal::Retired));
    }
}
