//! The broker's calendar: it never goes back and never stands still, only what is accepted sets it forward, and no step of the host's clock makes a report late.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use attest::message::Purpose;
use cairn_tests::broker::Broker;
use cairn_tests::node::Node as Machine;
use cairn_tests::suite::Suite;
use rusqlite::Connection as Database;

use crate::Row;
use crate::availability::{await_readiness, get};
use crate::operation::{plain, with_metrics};
use crate::published::{begin, must_not};
use crate::publisher::{CHANNEL, give, must, now};
use crate::scene::{Scene, ask, release, report};

/// Sets the host's clock of a broker.
const OFFSET: &str = "CAIRN_CLOCK_OFFSET";
const DAY: u64 = 24 * 3600;

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("clock_that_is_set_back_makes_nothing_good_again", clock_set_back),
        Row::new("refused_channel_state_does_not_set_the_clock_forward", refused_time),
        Row::new("accepted_channel_states_do_not_add_up_their_skew", skew),
        Row::new("calendar_goes_on_while_the_clock_of_the_host_is_behind", behind),
        Row::new("time_of_a_broker_that_decides_nothing_survives_a_restart", idle),
        Row::new("clock_that_is_set_after_a_release_makes_no_report_late_or_good", stepped),
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
    scene.broker.run_with(&[(OFFSET, "1000")])?;
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

/// Each state is 200 s ahead of the calendar that the one before has set forward.
fn skew(suite: &Suite, _: &str) -> Result<()> {
    let (scene, mut publisher, _) = begin(suite, "")?;
    let host = publisher.fake.now;
    for ahead in [200, 400] {
        publisher.fake.now = host + ahead;
        publisher.channel.expires = publisher.fake.now + 5000;
        must(give(&scene.broker, &CHANNEL, &publisher.state()?.write()?)?)?;
        let behind = clock_behind(&scene.broker)?;
        ensure!(behind <= 300, "witnesses have set the clock {behind} s forward");
        ensure!(behind + 30 > ahead.min(300), "the control: a state of {ahead} s ahead has set it {behind} s forward");
    }
    await_readiness(&scene.broker, 200)
}

/// Within what `/ready` accepts; the deadline of a release that another process gave is a time of the calendar.
fn behind(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::with(suite, Broker::start_with("commit_seconds = 3")?)?;
    scene.broker.kill();
    scene.broker.run_with(&[(OFFSET, "320")])?;
    scene.broker.enrol_idle(&Machine::machine_reference()?)?;
    scene.broker.kill();
    scene.broker.run()?;
    await_readiness(&scene.broker, 200)?;
    let released = release(&scene.broker, &mut scene.node, Purpose::Provision)?;
    let late = report(&scene.broker, &mut scene.node, &released, Purpose::Provision)?;
    scene.broker.kill();
    scene.broker.run()?;
    thread::sleep(Duration::from_secs(6));
    let response = scene.broker.wire()?.say("/krp/1/commit", &late)?;
    scene.broker.must_refuse(&response, "COMMIT_LATE")
}

/// The time of the audit log in the database.
fn recorded(broker: &Broker) -> Result<u64> {
    let database = Database::open(broker.file("database"))?;
    let value: Vec<u8> =
        database.query_row("SELECT value FROM state WHERE key = ?1", [b"audit head"], |row| row.get(0))?;
    let head: serde_json::Value = serde_json::from_slice(&value)?;
    head["time"].as_u64().context("the head has no time")
}

/// It answers, and shows what has expired, but writes no leaf.
fn idle(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    scene.broker.kill();
    with_metrics(&scene.broker)?;
    scene.broker.run_with(&[(OFFSET, &(30 * DAY).to_string())])?;
    await_readiness(&scene.broker, 200)?;
    scene.broker.admin(&["release", "list"])?;
    let started = Instant::now();
    while recorded(&scene.broker)? < now()? + 29 * DAY && started.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(100));
    }
    scene.broker.kill();
    scene.broker.run()?;
    let behind = clock_behind(&scene.broker)?;
    ensure!(behind > 29 * DAY, "the clock is {behind} s behind");
    let ready = get(&scene.broker, "/ready")?;
    ensure!(ready.status == 503, "a broker whose clock is 30 days behind is ready: {}", ready.status);
    Ok(())
}

/// The host's clock is set 700 s forward, behind the deadline, and then 700 s back, before it.
fn stepped(suite: &Suite, _: &str) -> Result<()> {
    let mut broker = Broker::new("commit_seconds = 10")?;
    let offset = broker.file("offset");
    let variable = format!("@{}", offset.display());
    broker.run_with(&[(OFFSET, &variable)])?;
    let mut scene = Scene::with(suite, broker)?;
    let released = release(&scene.broker, &mut scene.node, Purpose::Provision)?;
    std::fs::write(&offset, "700")?;
    let in_time = report(&scene.broker, &mut scene.node, &released, Purpose::Provision)?;
    scene.broker.wire()?.must_acknowledge(&in_time)?;
    scene.node.keep(&released);
    ensure!(recorded(&scene.broker)? > now()? + 600, "the control: the broker's clock was not set");

    scene.reboot()?;
    let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    std::fs::write(&offset, "0")?;
    let late = report(&scene.broker, &mut scene.node, &released, Purpose::Unlock)?;
    thread::sleep(Duration::from_secs(11));
    let response = scene.broker.wire()?.say("/krp/1/commit", &late)?;
    scene.broker.must_refuse(&response, "COMMIT_LATE")
}
