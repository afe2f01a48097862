//! A key broker whose audit log a real witness signs: it finds leaves that were removed or replaced.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cairn_tests::broker::Broker;
use cairn_tests::node::Node as Machine;
use serde_json::Value;
use xtask::log_server::witness::Witness;

use crate::Row;
use crate::scene::Scene;

const NAME: &str = "witness.broker.invalid";
/// The broker asks the witness each second.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("witness_of_the_audit_log_finds_that_it_was_cut", cut),
        Row::new("witness_of_the_audit_log_finds_that_it_was_replaced", replaced),
    ]
}

/// A broker with some decisions in its log.
fn broker() -> Result<Broker> {
    let broker = Broker::start_with("")?;
    broker.enrol_idle(&Machine::machine_reference()?)?;
    broker.fill_audit(5)?;
    Ok(broker)
}

/// A witness that knows the log of this broker, which is told of it and started again.
fn witnessed(scene: &Scene, row: &str, broker: &mut Broker) -> Result<Witness> {
    let output = broker.command(&["audit", "key"])?;
    let key = String::from_utf8(output.stdout)?;
    let origin = key.split('+').next().context("the key has no name")?;
    let witness = Witness::start(&scene.programs, &scene.folder(row), NAME, origin, key.trim())?;
    let text = format!(
        "[audit]\nwitness_seconds = 1\n[[audit.witness]]\nurl = \"{}\"\nkey = \"{}\"\n",
        witness.address,
        witness.verifier_key()
    );
    let toml = broker.file("broker.toml");
    let text = fs::read_to_string(&toml)? + &text;
    fs::write(&toml, text).context("Failed to configure a witness")?;
    broker.kill();
    broker.run()?;
    Ok(witness)
}

/// Waits until the only witness is so.
fn wait(broker: &Broker, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
    let start = Instant::now();
    loop {
        let status = broker.admin(&["status"])?;
        let witness = &status["witnesses"][0];
        if is_so(witness) {
            return Ok(witness.clone());
        }
        if start.elapsed() > PATIENCE {
            bail!("the witness stays so: {witness}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Waits until the witness has signed all leaves; how many.
fn signed(broker: &Broker) -> Result<u64> {
    let leaves = broker.admin(&["audit", "verify"])?["leaves"].as_u64().context("no leaves")?;
    wait(broker, |witness| witness["state"] == "signed" && witness["leaves"] == leaves)?;
    Ok(leaves)
}

/// A copy of the database while the broker does not run.
fn with_copy(broker: &mut Broker, work: impl FnOnce(&mut Broker) -> Result<()>) -> Result<()> {
    let copy = broker.file("copy");
    broker.admin(&["backup", &copy.display().to_string()])?;
    work(broker)?;
    broker.kill();
    let restored = broker.restore(&copy, &["--replace"])?;
    ensure!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    broker.run()
}

fn cut(scene: &Scene, row: &str) -> Result<()> {
    let mut broker = broker()?;
    let mut witness = witnessed(scene, row, &mut broker)?;
    let first = signed(&broker)?;
    // The head that it has signed is an ordinary head of the log, for whoever keeps it.
    let head = broker.command(&["audit", "head", "--witness", NAME])?.stdout;
    let kept = broker.file("head");
    fs::write(&kept, &head)?;
    ensure!(String::from_utf8_lossy(&head).contains(NAME), "it has no signature of the witness");
    broker.admin(&["audit", "verify", "--heads", &kept.display().to_string()])?;

    // A witness that is away is a wait: the broker decides as before.
    witness.stop();
    broker.fill_audit(3)?;
    wait(&broker, |witness| witness["state"] == "waiting")?;
    witness.start_again()?;
    ensure!(signed(&broker)? > first, "the log has not grown");

    with_copy(&mut broker, |broker| {
        broker.fill_audit(4)?;
        signed(broker).map(drop)
    })?;
    broker.fill_audit(1)?;
    let found = wait(&broker, |witness| witness["state"] == "conflict")?;
    ensure!(found["found"].as_str().is_some_and(|found| found.contains("not the one that it has signed")), "{found}");
    let printed = String::from_utf8_lossy(&broker.printed()?).into_owned();
    ensure!(printed.contains(NAME), "the broker prints nothing: {printed}");
    // An operator's decisions go on: the finding is an alarm.
    broker.fill_audit(1)
}

/// As [`cut`], and the log has grown beyond the witness's head before it asks again.
fn replaced(scene: &Scene, row: &str) -> Result<()> {
    let mut broker = broker()?;
    let mut witness = witnessed(scene, row, &mut broker)?;
    signed(&broker)?;
    with_copy(&mut broker, |broker| {
        broker.fill_audit(4)?;
        signed(broker)?;
        witness.stop();
        Ok(())
    })?;
    broker.fill_audit(9)?;
    wait(&broker, |witness| witness["state"] == "waiting")?;
    witness.start_again()?;
    wait(&broker, |witness| witness["state"] == "conflict")?;
    Ok(())
}
