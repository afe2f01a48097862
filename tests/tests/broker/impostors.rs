//! Clients that send the public keys of an enrolled node: nothing that they do is counted against the node, in limits or in the audit log.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use attest::message::{Hello, Purpose};
use cairn_tests::attester::Wire;
use cairn_tests::broker::Broker;
use cairn_tests::suite::Suite;

use crate::Row;
use crate::scene::{Scene, ask};
use crate::strangers::connect_from;

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("client_at_another_address_with_the_key_of_a_node_spends_no_hello_of_the_node", other_address),
        Row::new("wrong_signatures_under_the_key_of_a_node_are_few_rows_and_name_no_node", wrong_signatures),
        Row::new("refusal_at_one_address_is_in_the_log_while_another_address_floods", flooded_log),
    ]
}

/// Starts a relay, which connects to the broker from `from` for each client; its address. It ends with the test program.
fn relay(from: Ipv4Addr, broker: SocketAddr) -> Result<SocketAddr> {
    fn copy(mut from: TcpStream, mut to: TcpStream) {
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = connect_from(from, broker) else { continue };
            if let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) {
                copy(from_client, server);
                copy(from_server, client);
            }
        }
    });
    Ok(address)
}

/// The public endorsement key of the node, and an attestation key of the client's own.
fn other_address(suite: &Suite, _: &str) -> Result<()> {
    const HELLOS: usize = 3;
    let mut scene = Scene::with(suite, Broker::start_with(&format!("hellos_per_minute = {HELLOS}"))?)?;
    let client = scene.stranger()?;
    let own = client.hello(Purpose::Provision)?;
    let hello = Hello { ek: scene.node.hello(Purpose::Provision)?.ek, ..own };
    let address = relay(Ipv4Addr::new(127, 0, 0, 2), scene.broker.address()?)?;
    let mut wire = Wire::open(address, &scene.broker.cluster_document()?)?;
    let mut statuses = Vec::new();
    while statuses.last() != Some(&429) && statuses.len() < 60 {
        statuses.push(wire.say("/krp/1/hello", &hello)?.status);
    }
    let (last, granted) = statuses.split_last().context("no answer")?;
    ensure!(*last == 429, "one address may say hello as often as it likes: {statuses:?}");
    ensure!(granted.len() >= HELLOS && granted.iter().all(|status| *status == 200), "{statuses:?}");
    scene.must_still_release().map(drop)
}

/// Both keys of the node, which are public, and quotes that its TPM did not sign.
fn wrong_signatures(suite: &Suite, _: &str) -> Result<()> {
    const FLOOD: usize = 16;
    const PER_MINUTE: usize = 3;
    let limits = format!("hellos_per_minute = 1000\nstrangers_per_minute = {PER_MINUTE}");
    let mut scene = Scene::with(suite, Broker::start_with(&limits)?)?;
    scene.provision()?;
    scene.reboot()?;
    let rows = |scene: &Scene| -> Result<usize> {
        let rows = scene.broker.admin(&["audit", "verify"])?["leaves"].as_u64().context("no number of leaves")?;
        Ok(rows.try_into()?)
    };
    let (before, started) = (rows(&scene)?, Instant::now());
    for number in 0..FLOOD {
        let mut talk = scene.begin(Purpose::Unlock)?;
        let mut evidence = scene.node.evidence(&talk)?;
        *evidence.signature.0.last_mut().context("no signature")? ^= 1;
        let status = talk.show(&evidence)?.status;
        ensure!(status == 403, "a wrong signature, number {number}: {status}");
    }
    let added = rows(&scene)? - before;
    // Tokens come back while the flood lasts.
    let most = PER_MINUTE + PER_MINUTE * usize::try_from(started.elapsed().as_secs())? / 60 + 1;
    ensure!(most < FLOOD, "the flood took {:?}: the row says nothing", started.elapsed());
    ensure!((1..=most).contains(&added), "{FLOOD} wrong signatures are {added} rows, at most {most} are expected");
    let tail = scene.broker.admin(&["audit", "tail", &added.to_string()])?;
    for leaf in tail.as_array().context("no leaves")? {
        // Once a minute, what has no row is counted in one.
        let is_expected = leaf["code"] == "QUOTE_SIGNATURE" || leaf["code"] == "RATE_LIMITED";
        ensure!(is_expected && leaf["node"] == "", "the row of a wrong signature: {leaf}");
    }
    scene.must_still_unlock()
}

/// Whoever fills the log with refusals hides nobody else's, and what has no row is counted.
fn flooded_log(suite: &Suite, _: &str) -> Result<()> {
    const FLOOD: usize = 100;
    const SHARE: usize = 10;
    let mut scene = Scene::with(suite, Broker::start_with("strangers_per_minute = 40")?)?;
    scene.provision()?;
    let address = relay(Ipv4Addr::new(127, 0, 0, 2), scene.broker.address()?)?;
    let mut wire = Wire::open(address, &scene.broker.cluster_document()?)?;
    for number in 0..FLOOD {
        let status = wire.resume(&attest::bytes::Hex(vec![number as u8; 16]))?.status;
        ensure!(status == 403, "a resumption of nothing: {status}");
    }
    let mut stranger = scene.stranger()?;
    let (_, response) = ask(&scene.broker, &mut stranger, Purpose::Provision)?;
    scene.broker.must_refuse(&response, "EK_UNTRUSTED").context("behind a flood")?;
    // Each refusal has a row, or is counted by that of its minute.
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let tail = scene.broker.admin(&["audit", "tail", "1000"])?;
        let rows = tail.as_array().context("no leaves")?;
        let own = rows.iter().filter(|row| row["code"] == "SESSION_INVALID").count();
        let counted = rows.iter().filter(|row| row["code"] == "RATE_LIMITED");
        let counted =
            counted.filter_map(|row| row["found"].as_str()?.rsplit_once("SESSION_INVALID ")?.1.parse::<usize>().ok());
        let counted: usize = counted.sum();
        // Room for one more comes every 6 s.
        ensure!((SHARE..FLOOD / 2).contains(&own), "{FLOOD} refusals at one address have {own} rows");
        if own + counted == FLOOD {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{own} of {FLOOD} refusals have a row, and {counted} are counted");
        thread::sleep(Duration::from_millis(500));
    }
}
