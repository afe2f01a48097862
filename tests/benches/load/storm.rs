//! A storm: all nodes are powered on within ten seconds, and each gets the first key of its disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use attest::message::Purpose;
use cairn_tests::broker::Broker;
use xtask::bench::report::Found;

use crate::arrivals::{Latencies, at_fixed_times};
use crate::exchange::{Story, persistent};
use crate::fleet::{Fleet, NODES, mib};

const WITHIN: Duration = Duration::from_secs(10);
/// How often the broker's memory is looked at.
const LOOK: Duration = Duration::from_millis(10);

pub fn measure(fleet: &mut Fleet, csv: &Path, found: &mut Found) -> Result<()> {
    let every = WITHIN / NODES as u32;
    let Fleet { broker, home, nodes, .. } = fleet;
    let (stories, memory) = with_memory(broker, || {
        at_fixed_times(nodes, every, |due, node| persistent(home, due, node, Purpose::Provision))
    })?;
    write(csv, every, &stories)?;

    let what = |number: &str| format!("storm, {NODES} nodes in {} s, {number}", WITHIN.as_secs());
    let keys = Latencies::of(stories.iter().filter_map(|story| story.key))?;
    for (name, part) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        found.figure(&what(&format!("key, {name}")), "ms", keys.within(part));
    }
    let done = Latencies::of(stories.iter().filter_map(|story| story.done))?;
    found.figure(&what("acknowledgement, p99"), "ms", done.within(0.99));
    let last = (0..).zip(&stories).filter_map(|(number, story)| Some(every * number + story.key?)).max();
    found.figure(&what("last key"), "s", last.unwrap_or_default().as_secs_f64());
    let served = stories.iter().filter(|story| story.done.is_some()).count();
    found.figure(&what("nodes that were not served"), "", (NODES - served) as f64);
    let mut answers: BTreeMap<&str, u32> = BTreeMap::new();
    for attempt in stories.iter().flat_map(|story| &story.attempts) {
        *answers.entry(attempt).or_default() += 1;
    }
    for (answer, count) in answers {
        found.figure(&what(&format!("answers {answer}")), "", count.into());
    }
    found.figure(&what("broker's memory, most"), "MiB", mib(memory));
    // To unseal is what takes most.
    found.figure("broker's memory, most ever", "MiB", mib(broker.process()?.most_memory()?));
    Ok(())
}

/// Does something, and looks at the broker's memory meanwhile: the most, in bytes.
fn with_memory<T>(broker: &Broker, work: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    let (process, over) = (broker.process()?, AtomicBool::new(false));
    thread::scope(|threads| {
        let watch = threads.spawn(|| -> Result<u64> {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = most.max(process.memory()?);
                thread::sleep(LOOK);
            }
            Ok(most)
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        let most = watch.join().map_err(|_| anyhow!("the thread that looks at the memory panicked"))??;
        Ok((done?, most))
    })
}

/// One line for each node.
fn write(csv: &Path, every: Duration, stories: &[Story]) -> Result<()> {
    let mut text = String::from("node,due_ms,key_ms,done_ms,attempts\n");
    let time = |time: Option<Duration>| time.map(|time| format!("{:.3}", time.as_secs_f64() * 1000.0));
    for (number, story) in (0..).zip(stories) {
        let (key, done) = (time(story.key).unwrap_or_default(), time(story.done).unwrap_or_default());
        let (due, attempts) = ((every * number).as_millis(), story.attempts.join(" "));
        text += &format!("{number},{due},{key},{done},{attempts}\n");
    }
    std::fs::write(csv, text).with_context(|| format!("Failed to write {}", csv.display()))
}
