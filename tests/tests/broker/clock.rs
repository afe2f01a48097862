//! The broker's calendar: it never goes back, and only what is accepted sets it forward.

use anyhow::{Context, Result, ensure};
use attest::message::Purpose;
use cairn_tests::broker::Broker;
use cairn_tests::suite::Suite;

use crate::Row;
use crate::operation::plain;
use crate::published::{begin, must_not};
use crate::publisher::{CHANNEL, give, must};
use crate::scene::ask;

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("clock_that_is_set_back_makes_nothing_good_again", clock_set_back),
        Row::new("refused_channel_state_does_not_set_the_clock_forward", refused_time),
    ]
}

/// By how many seconds the host's clock is behind, as the metrics say.
fn clock_behind(broker: &Broker) -> Result<u64> {
    let metrics = plain(broker, "/metrics")?;
    let behind = metrics.lines().find_map(|line| line.strip_prefix("cairn_broker_clock_behind_seconds "));
    Ok(behind.context("no such metric")?.parse()?)
}

/// Witnesses and the authority sign a time that is 250 s ahead, which verifiers accept.
fn refused_time(suite: &Suite, _: &str) -> Result<()> {
    let (scene, mut publisher, _) = begin(suite, "")?;
    publisher.fake.now += 250;
    publisher.channel.expires = publisher.fake.now + 5000;
    publisher.channel.name = "beta".into();
    must_not(give(&scene.broker, &CHANNEL, &publisher.state()?.write()?)?, "CHANNEL_OTHER")?;
    let behind = clock_behind(&scene.broker)?;
    ensure!(behind < 100, "a state that was refused has set the clock {behind} s forward");
    publisher.channel.name = "stable".into();
    must(give(&scene.broker, &CHANNEL, &publisher.state()?.write()?)?)?;
    let behind = clock_behind(&scene.broker)?;
    ensure!(behind > 150, "the control: a state that was accepted has set the clock {behind} s forward");
    Ok(())
}

/// An attacker with the broker's time source makes no expired state valid again.
fn clock_set_back(suite: &Suite, _: &str) -> Result<()> {
    let (mut scene, mut publisher, _) = begin(suite, "")?;
    publisher.channel.expires = publisher.fake.now + 400;
    must(give(&scene.broker, &CHANNEL, &publisher.state()?.write()?)?)?;
    scene.broker.kill();
    scene.broker.run_with(&[("CAIRN_CLOCK_OFFSET", "1000")])?;
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Provision)?;
    scene.broker.must_refuse(&response, "CHANNEL_EXPIRED")?;
    scene.broker.kill();
    scene.broker.run()?;
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Provision)?;
    scene.broker.must_refuse(&response, "CHANNEL_EXPIRED")?;
    let behind = clock_behind(&scene.broker)?;
    ensure!(behind > 900, "the metrics say that the clock is {behind} s behind");
    let words = String::from_utf8_lossy(&scene.broker.printed()?).into_owned();
    ensure!(words.contains("behind the latest time"), "the broker says {words}");
    // A newer state, and all is well again.
    publisher.channel.expires = publisher.fake.now + 5000;
    must(give(&scene.broker, &CHANNEL, &publisher.state()?.write()?)?)?;
    scene.must_still_release().map(drop)
}
