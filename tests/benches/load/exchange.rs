//! All six messages of one node, as the agent speaks them: on one connection, for as long as the broker keeps it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, bail};
use attest::message::Purpose;
use cairn_tests::attester::{Answered, Released, Wire};

use crate::fleet::{Home, Node};

/// How often a node asks before it gives up.
const TRIES: usize = 20;
/// How long it waits where the broker names no time.
const PAUSE: Duration = Duration::from_secs(1);

/// M1 to M4, and the connection.
pub fn release(home: &Home, node: &mut Node, purpose: Purpose) -> Result<(Released, Wire)> {
    let mut talk = home.wire()?.begin(node.hello(purpose)?)?;
    let evidence = node.evidence(&talk)?;
    let response = talk.must_release(&evidence)?;
    Ok((node.open(&talk, &response.body)?, talk.wire))
}

/// M1 to M6, which must all succeed at once.
pub fn whole(home: &Home, node: &mut Node, purpose: Purpose) -> Result<()> {
    let (released, mut wire) = release(home, node, purpose)?;
    let commit = node.report(&home.cluster.id.0, &released, purpose)?;
    wire.must_acknowledge(&commit)?;
    node.keep(&released);
    Ok(())
}

/// What became of a node that asks until it has its key.
#[derive(Default)]
pub struct Story {
    /// From the time at which it was due until it had its key.
    pub key: Option<Duration>,
    /// Until its report was acknowledged.
    pub done: Option<Duration>,
    /// What each of its attempts came to: a status, or a word.
    pub attempts: Vec<String>,
}

/// M1 to M6 of a node that was due at this time, again and again while the broker asks for patience.
pub fn persistent(home: &Home, due: Instant, node: &mut Node, purpose: Purpose) -> Story {
    let mut story = Story::default();
    // Why it failed is the last of its attempts.
    let _ = told(home, due, node, purpose, &mut story);
    story
}

fn told(home: &Home, due: Instant, node: &mut Node, purpose: Purpose, story: &mut Story) -> Result<()> {
    let (released, wire) = insist(&mut story.attempts, || release(home, node, purpose))?;
    story.key = Some(due.elapsed());
    let commit = node.report(&home.cluster.id.0, &released, purpose)?;
    let mut kept = Some(wire);
    insist(&mut story.attempts, || match kept.take() {
        Some(mut wire) => wire.must_acknowledge(&commit),
        None => home.wire()?.must_acknowledge(&commit),
    })?;
    story.done = Some(due.elapsed());
    node.keep(&released);
    Ok(())
}

fn insist<T>(attempts: &mut Vec<String>, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 0..TRIES {
        let error = match ask() {
            Ok(answer) => {
                attempts.push("200".into());
                return Ok(answer);
            }
            Err(error) => error,
        };
        let answered = error.downcast_ref::<Answered>();
        attempts.push(match answered {
            Some(Answered { response, .. }) => response.status.to_string(),
            None if is_for_now(&error) => "broken".into(),
            None => "invalid".into(),
        });
        if !is_for_now(&error) {
            return Err(error);
        }
        let seconds = answered.and_then(|answered| answered.response.retry_after);
        sleep(seconds.map_or(PAUSE, |seconds| Duration::from_secs(seconds.into())));
    }
    bail!("the broker asked for patience too often")
}

/// The broker is busy, or the connection broke: the same may succeed later.
pub fn is_for_now(error: &Error) -> bool {
    match error.downcast_ref::<Answered>() {
        Some(Answered { response, .. }) => matches!(response.status, 408 | 429 | 503),
        None => error.is::<connection::Error>(),
    }
}
