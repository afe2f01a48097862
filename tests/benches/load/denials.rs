//! What the time of a refusal tells: to strangers all refusals look alike, and a stranger who is refused early might learn which nodes are enrolled.

use std::time::Instant;

use anyhow::{Result, ensure};
use attest::message::Purpose;
use measurements::{Event, Source};
use xtask::bench::report::Found;
use xtask::bench::rounds::middle;

use crate::fleet::{Fleet, Home, Node};

const ROUNDS: usize = 200;

pub fn measure(fleet: &mut Fleet, found: &mut Found) -> Result<()> {
    let mut boot = fleet.boot.clone();
    boot.firmware.push(Event::of(4, 0x8000_0003, Source::Image, "another UKI", b"another UKI"));
    fleet.known.reboot(&boot)?;
    let (mut unknown, mut known) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        unknown.push(refusal(&fleet.home, &mut fleet.stranger)?);
        known.push(refusal(&fleet.home, &mut fleet.known)?);
    }
    let (unknown, known) = (middle(unknown), middle(known));
    found.figure("refusal of an unknown node", "ms", unknown);
    found.figure("refusal of a known node, the difference", "ms", known - unknown);
    Ok(())
}

/// From the evidence to its refusal, in milliseconds.
fn refusal(home: &Home, node: &mut Node) -> Result<f64> {
    let mut talk = home.wire()?.begin(node.hello(Purpose::Provision)?)?;
    let evidence = node.evidence(&talk)?;
    let start = Instant::now();
    let response = talk.show(&evidence)?;
    let took = start.elapsed();
    ensure!(response.status == 403, "a node that must be refused was answered with {}", response.status);
    Ok(took.as_secs_f64() * 1000.0)
}
