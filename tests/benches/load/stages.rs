//! Where the time of an attested boot goes. One virtual machine makes its disk, and at its next boot opens it; the agent says in its report when each of its stages ended, and the broker keeps that in its audit log.

use anyhow::{Context, Result};
use cairn_tests::broker::Broker;
use cairn_tests::node::Node;
use cairn_tests::suite::Suite;
use xtask::bench::report::Found;

const NAME: &str = "stages";
/// What the agent says last, with its time.
const HANDING_OVER: &str = "handing over after ";

pub fn measure(found: &mut Found) -> Result<()> {
    let folder = tempfile::tempdir().context("Failed to make a folder")?;
    let suite = Suite::from_environment(folder.path().to_owned())?;
    let broker = Broker::start()?;
    broker.allow(&suite.image.file("reference.json"))?;
    let node = Node::new(&suite, NAME, &suite.image, &broker)?;
    for boot in ["first boot, makes its disk", "next boot"] {
        let watched = node.must_run(&suite, NAME)?;
        let what = |stage: &str| format!("{boot}: {stage}");
        let mut before = 0;
        for (stage, end) in stages(&broker)? {
            found.figure(&what(&stage), "ms", (end - before) as f64);
            before = end;
        }
        let console = watched.vm.console().text();
        let after = console.split_once(HANDING_OVER).and_then(|(_, rest)| rest.split_once(' '));
        let whole = after.and_then(|(time, _)| time.parse().ok()).context("the agent names no time")?;
        found.figure(&what("PID 1 to switch-root"), "ms", whole);
    }
    Ok(())
}

/// Of the last report: the stages and their ends, in milliseconds since PID 1 began, in the order of time.
fn stages(broker: &Broker) -> Result<Vec<(String, u64)>> {
    let rows = broker.admin(&["audit", "tail"])?;
    let rows = rows.as_array().context("the audit log is no list")?;
    let last = rows.iter().rfind(|row| row["code"] == "COMMITTED").context("nothing was committed")?;
    let text = last["found"].as_str().and_then(|text| text.split_once("; ")).context("the report has no stages")?.1;
    let stage = |text: &str| -> Option<(String, u64)> {
        let (name, time) = text.strip_suffix(" ms")?.split_once(' ')?;
        Some((name.to_owned(), time.parse().ok()?))
    };
    let stages: Option<Vec<_>> = text.split(", ").map(stage).collect();
    let mut stages = stages.with_context(|| format!("these are no stages: {text}"))?;
    stages.sort_by_key(|(_, end)| *end);
    Ok(stages)
}
