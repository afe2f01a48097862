//! How much of one kind of work the broker does in a second, and what a node waits when half of that arrives.

use std::time::{Duration, Instant};

use anyhow::Result;
use attest::message::Purpose;
use cairn_tests::usage::Process;
use xtask::bench::report::Found;

use crate::arrivals::{Latencies, at_fixed_times, without_pause};
use crate::exchange;
use crate::fleet::{Fleet, Home, Node};

/// Enough that the broker always has work.
const AT_A_TIME: usize = 8;
/// CPU of the broker for a full exchange, in milliseconds.
const CPU_OF_AN_EXCHANGE: f64 = 1.5;

/// Hello and challenge, over a connection each, of nodes that are known.
pub fn challenges(fleet: &mut Fleet, found: &mut Found) -> Result<()> {
    let rate = measure(fleet, |home, node| home.wire()?.begin(node.hello(Purpose::Unlock)?).map(drop))?;
    rate.tell("challenge", &[("p50", 0.5), ("p99", 0.99)], found);
    found.figure("challenge, broker's CPU", "ms", rate.broker);
    Ok(())
}

/// All six messages, of nodes that open their disks.
pub fn exchanges(fleet: &mut Fleet, found: &mut Found) -> Result<()> {
    let rate = measure(fleet, |home, node| exchange::whole(home, node, Purpose::Unlock))?;
    rate.tell("full exchange", &[("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)], found);
    found.bounded("full exchange, broker's CPU", "ms", rate.broker, CPU_OF_AN_EXCHANGE);
    found.figure("full exchange, load's own CPU", "ms", rate.load);
    Ok(())
}

struct Rate {
    per_second: f64,
    /// CPU for each, in milliseconds.
    broker: f64,
    load: f64,
    latencies: Latencies,
    /// Of those that arrived at fixed times, how many were told to come again, or were cut off.
    turned_away: usize,
}

impl Rate {
    fn tell(&self, what: &str, parts: &[(&str, f64)], found: &mut Found) {
        found.figure(&format!("{what}, most"), "/s", self.per_second);
        for (name, part) in parts {
            let what = format!("{what}, at {:.0}/s, {name}", self.per_second / 2.0);
            found.figure(&what, "ms", self.latencies.within(*part));
        }
        if self.turned_away > 0 {
            found.figure(
                &format!("{what}, at {:.0}/s, turned away", self.per_second / 2.0),
                "",
                self.turned_away as f64,
            );
        }
    }
}

/// Every node once without a pause, then once more, after another boot, at half of the rate that was found.
fn measure(fleet: &mut Fleet, work: impl Fn(&Home, &mut Node) -> Result<()> + Sync) -> Result<Rate> {
    fleet.reboot()?;
    let (broker, load) = (fleet.broker.process()?, Process::this());
    let before = (broker.cpu()?, load.cpu()?);
    let took = without_pause(&mut fleet.nodes, AT_A_TIME, |node| work(&fleet.home, node))?;
    let count = fleet.nodes.len() as f64;
    let each = |now: Duration, before: Duration| (now - before).as_secs_f64() * 1000.0 / count;
    let (of_broker, of_load) = (each(broker.cpu()?, before.0), each(load.cpu()?, before.1));

    fleet.reboot()?;
    let every = took * 2 / fleet.nodes.len() as u32;
    let timed = |due: Instant, node: &mut Node| work(&fleet.home, node).map(|()| due.elapsed());
    let (mut times, mut turned_away) = (Vec::new(), 0);
    for outcome in at_fixed_times(&mut fleet.nodes, every, timed)? {
        match outcome {
            Ok(time) => times.push(time),
            Err(error) if exchange::is_for_now(&error) => turned_away += 1,
            Err(error) => return Err(error),
        }
    }
    let (per_second, latencies) = (count / took.as_secs_f64(), Latencies::of(times)?);
    Ok(Rate { per_second, broker: of_broker, load: of_load, latencies, turned_away })
}
