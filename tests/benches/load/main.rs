//! The key broker under load, for `cargo xtask bench --only broker`, which starts this and prints its numbers: the real program with a database on a disk, and a thousand nodes that are nothing but a [fake TPM](cairn_tests::attester::software)
//! each. Nodes and broker share the machine, so the CPU of both is said.
//!
//! Rates are found with a few nodes at a time that never wait; latencies with arrivals at fixed times, whatever the broker does, counted from the time at which a node was due.
//!
//! At last one virtual machine boots against a broker of its own.
//!
//! Arguments: image reference, machine reference, where each node of the storm is written; the variables are those of `cargo xtask test`.

mod arrivals;
mod denials;
mod exchange;
mod fleet;
mod rates;
mod stages;
mod storm;
mod verification;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use xtask::bench::report::Found;
use xtask::bench::rounds::middle;

use cairn_tests::broker::Broker;
use fleet::Fleet;

/// All nodes come from one address, some of them often; else the limits are those of every broker.
const LIMITS: &str = "requests_per_minute = 10000000\nhellos_per_minute = 1000000\nstrangers_per_minute = 1000000";
const STARTS: usize = 5;

fn main() -> Result<()> {
    // Cargo adds an option of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [image, machine, storm] = &arguments[..] else { bail!("usage: load IMAGE-REFERENCE MACHINE-REFERENCE CSV") };
    let mut found = Found::default();
    let broker = started(&mut found)?;
    let mut fleet = Fleet::enrol(broker, Path::new(image), Path::new(machine), &mut found)?;
    storm::measure(&mut fleet, Path::new(storm), &mut found)?;
    rates::exchanges(&mut fleet, &mut found)?;
    rates::challenges(&mut fleet, &mut found)?;
    denials::measure(&mut fleet, &mut found)?;
    verification::measure(&mut fleet, &mut found)?;
    stages::measure(&mut found)?;
    println!("{}", serde_json::to_string(&found).context("Failed to write JSON")?);
    Ok(())
}

/// A broker that is open, and how long one needs until it listens.
fn started(found: &mut Found) -> Result<Broker> {
    let mut broker = Broker::new(LIMITS)?;
    let mut seconds = Vec::new();
    for _ in 0..STARTS {
        broker.kill();
        let start = Instant::now();
        broker.run_sealed()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    found.bounded("broker, from its start until it listens, sealed", "s", middle(seconds), 1.0);
    broker.unseal()?;
    found.figure("broker's memory, idle", "MiB", fleet::mib(broker.memory()?));
    Ok(broker)
}
