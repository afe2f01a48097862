//! What anybody on the network may do: ask without being known, send too much, too often, too slowly, and compare the answers.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use attest::bytes::Hex;
use attest::message::{self, Purpose, Refused};
use cairn_tests::attacks::{code, codes};
use cairn_tests::broker::Broker;
use cairn_tests::node::Node as Machine;
use cairn_tests::suite::Suite;
use measurements::parse::tcg_log::Log;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};

use crate::Row;
use crate::scene::{self, Scene, ask, begin};

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("a_machine_that_nobody_enrolled_gets_nothing", unknown),
        Row::new("a_name_is_enrolled_once", conflict),
        Row::new("bombs_are_refused_and_memory_stays", bombs),
        Row::new("hostile_text_neither_fills_the_audit_log_nor_reaches_a_terminal", hostile_text),
        Row::new("silent_connections_of_one_address_keep_no_other_from_the_broker", silent_address),
        Row::new("full_broker_closes_the_oldest_silent_connection_and_no_node", full),
        Row::new("clients_of_one_address_do_not_spend_what_a_node_needs_after_its_hello", shared_address),
        Row::new("evidence_without_hello_is_refused_unread", unread),
        Row::new("slow_connections_end_and_nodes_are_served", slow),
        Row::new("floods_are_turned_away_and_keep_nothing", floods),
        Row::new("denials_look_alike", alike),
    ]
}

fn unknown(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let mut stranger = scene.stranger()?;
    let (_, response) = ask(&scene.broker, &mut stranger, Purpose::Provision)?;
    scene.broker.must_refuse(&response, code(10))?;
    scene.must_still_release().map(drop)
}

fn conflict(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    scene.provision()?;
    let before = scene.broker.admin(&["node", "show", "one"])?;
    let stranger = scene.stranger()?;
    let machine = Machine::machine_reference()?.display().to_string();
    let (ours, theirs) = (scene.node.tpm.endorsement_key_digest(), stranger.tpm.endorsement_key_digest());
    // Another machine under a name that is taken; a machine that is enrolled under another name.
    for (name, ek) in [("one", &theirs), ("two", &ours)] {
        let refused = scene.broker.command(&["node", "enrol", name, "--ek", ek, "--machine", &machine])?;
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && words.contains(code(12)), "enrolling {name}: {words}");
    }
    ensure!(scene.broker.admin(&["node", "show", "one"])? == before, "the old record was touched");
    scene.reboot()?;
    scene.must_still_unlock()
}

fn bombs(suite: &Suite, _: &str) -> Result<()> {
    /// What a broker may need on top while it looks at a body of 1 MiB.
    const MORE: u64 = 48 << 20;
    let [too_long, malformed, log] = codes(59) else { anyhow::bail!("three codes") };
    let mut scene = Scene::new(suite)?;
    let before = scene.broker.memory()?;
    let hello = message::write(&scene.node.hello(Purpose::Provision)?)?.bytes;
    let nested = [b"{\"a\":".repeat(3000), b"1".to_vec(), b"}".repeat(3000)].concat();
    let padded = [&hello[..hello.len() - 2], &b" ".repeat(16 << 10), b"}\n"].concat();
    let long = vec![b'['; (1 << 20) + 1];
    for (path, body, expected) in [
        ("hello", padded, *too_long),
        ("evidence", long.clone(), too_long),
        ("commit", long, too_long),
        ("hello", nested[..16 << 10].to_vec(), malformed),
        ("hello", b"\xff\xfe\xfd".to_vec(), malformed),
        ("hello", vec![], malformed),
        ("evidence", vec![b'['; 1 << 20], malformed),
        ("resume", b"{\"schema\":\"cairn.krp.resume/1\",\"schema\":\"\",\"session\":\"\"}\n".to_vec(), malformed),
        ("commit", vec![b'0'; 16 << 10], malformed),
    ] {
        // Evidence is read only after a hello.
        let mut wire = if path == "evidence" { scene.begin(Purpose::Provision)?.wire } else { scene.broker.wire()? };
        let response = wire.post(&format!("/krp/1/{path}"), &body)?;
        scene.broker.must_refuse(&response, expected).with_context(|| format!("{path} of {} bytes", body.len()))?;
    }
    // As many events as there is room for.
    scene.must_refuse(log, |node, _, evidence| {
        let empty = Log { events: vec![], ..node.log.clone() };
        let header = cairn_tests::event_log::write(&empty);
        evidence.event_log = Hex([header, [[9, 0, 0, 0, 4, 0, 0, 0], [0; 8]].concat().repeat(29_000)].concat());
        Ok(())
    })?;
    let after = scene.broker.memory()?;
    ensure!(after < before + MORE, "memory went from {before} to {after} bytes");
    scene.must_still_release().map(drop)
}

/// Field names and values that somebody chose: stored and shown they are bounded, printable, and one line.
fn hostile_text(suite: &Suite, _: &str) -> Result<()> {
    const MANY: usize = 50;
    /// Rows of the audit log, and the write-ahead log that they pass through.
    const MORE: u64 = 2 << 20;
    // All of them have rows: one network has a quarter.
    let mut scene = Scene::with(suite, Broker::start_with("strangers_per_minute = 300")?)?;
    let size = |scene: &Scene| -> Result<u64> {
        let files = ["database", "database-wal"].map(|name| std::fs::metadata(scene.broker.file(name)));
        Ok(files.into_iter().flatten().map(|file| file.len()).sum())
    };
    let long = format!("{{\"schema\":\"cairn.krp.evidence/1\",\"{}\":1}}\n", "x".repeat((1 << 20) - 100));
    let before = size(&scene)?;
    for _ in 0..MANY {
        let response = scene.begin(Purpose::Provision)?.wire.post("/krp/1/evidence", long.as_bytes())?;
        ensure!(response.status == 403, "a long name is answered with {}", response.status);
    }
    let forged = "\\u001b]0;owned\\u0007\\u001b[2J\\nRELEASED  web-1  all is well";
    let name = format!("{{\"schema\":\"cairn.krp.hello/1\",\"{forged}\":1}}\n");
    let response = scene.broker.wire()?.post("/krp/1/hello", name.as_bytes())?;
    let request = scene.broker.decision::<Refused>(&response)?.request;
    // Behind authentication: the UUID of a header that the node's host wrote.
    let hello = message::write(&scene.node.hello(Purpose::Provision)?)?.bytes;
    let hello = String::from_utf8(hello)?;
    let blank = "{\"state\":\"blank\"}";
    ensure!(hello.contains(blank), "the hello describes no blank disk");
    let disk = format!("{{\"digest\":\"{}\",\"state\":\"luks\",\"uuid\":\"{forged}\"}}", "00".repeat(32));
    let response = scene.broker.wire()?.post("/krp/1/hello", hello.replace(blank, &disk).as_bytes())?;
    scene.broker.must_refuse(&response, "MALFORMED")?;
    let grown = size(&scene)?.saturating_sub(before);
    ensure!(grown < MORE, "{MANY} requests made the database grow by {grown} bytes");
    for words in [&["audit", "tail", "60"][..], &["explain", &request], &["audit", "verify"], &["node", "list"]] {
        let shown = scene.broker.command(words)?;
        ensure!(shown.status.success(), "{words:?}: {}", String::from_utf8_lossy(&shown.stderr));
        let is_plain = |byte: &u8| matches!(byte, b'\n' | b' '..=b'~');
        ensure!(shown.stdout.iter().all(is_plain), "{words:?} prints control characters");
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        ensure!(
            !text.lines().any(|line| line.starts_with("RELEASED")),
            "{words:?} prints a line that was forged: {text}"
        );
    }
    scene.must_still_release().map(drop)
}

/// Connects from another address of the loopback.
pub fn connect_from(from: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0)))?;
    let SocketAddr::V4(to) = to else { anyhow::bail!("the broker listens at {to}") };
    connect(socket.as_raw_fd(), &SockaddrIn::from(to))?;
    Ok(TcpStream::from(socket))
}

/// Whether the broker closes this connection within this time.
fn is_closed(connection: &mut TcpStream, within: Duration) -> Result<bool> {
    connection.set_read_timeout(Some(within))?;
    match connection.read(&mut [0]) {
        Ok(0) => Ok(true),
        Ok(_) => anyhow::bail!("the broker speaks first"),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(true),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

fn silent_address(suite: &Suite, _: &str) -> Result<()> {
    const PLACES: usize = 64;
    let limits = format!("connections = {PLACES}\nconnections_per_address = 16\nhandshake_seconds = 20");
    let mut scene = Scene::with(suite, Broker::start_with(&limits)?)?;
    let address = scene.broker.address()?;
    let other = Ipv4Addr::new(127, 0, 0, 2);
    // There are places left in all, and none for this address.
    let mut connections = (0..17).map(|_| connect_from(other, address)).collect::<Result<Vec<_>>>()?;
    ensure!(is_closed(&mut connections[16], Duration::from_secs(5))?, "one address has more places than it may");
    ensure!(!is_closed(&mut connections[0], Duration::from_millis(200))?, "the first connection was closed for it");
    drop(connections);
    // More than there are places in all, and each is taken again as soon as it is free.
    let silent = (0..2 * PLACES).map(|_| connect_from(other, address)).collect::<Result<Vec<_>>>()?;
    scene.provision()?;
    drop(silent);
    scene.reboot()?;
    scene.must_still_unlock()
}

/// Eight networks hold all connections, as often as they like.
fn full(suite: &Suite, _: &str) -> Result<()> {
    const PLACES: usize = 16;
    let limits = format!("connections = {PLACES}\nhandshake_seconds = 20\nconnection_seconds = 60");
    let mut scene = Scene::with(suite, Broker::start_with(&limits)?)?;
    let address = scene.broker.address()?;
    let flood = |from: u8| -> Result<Vec<TcpStream>> {
        (0..PLACES).map(|_| connect_from(Ipv4Addr::new(127, 0, 0, from), address)).collect()
    };
    let mut silent = flood(2)?;
    let (mut talk, response) = ask(&scene.broker, &mut scene.node, Purpose::Provision)?;
    ensure!(response.status == 200, "no release: {}", scene.broker.judged(&response)?);
    let released = scene.node.open(&talk, &response.body)?;
    ensure!(is_closed(&mut silent.remove(0), Duration::from_secs(5))?, "the oldest connection stays open");
    // The node's connection is the oldest now, and is not closed for another.
    for from in 3..6 {
        silent.extend(flood(from)?);
    }
    let commit = scene::report(&scene.broker, &mut scene.node, &released, Purpose::Provision)?;
    talk.wire.must_acknowledge(&commit).map(drop)
}

/// Many nodes and an attacker behind one address.
fn shared_address(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::with(suite, Broker::start_with("requests_per_minute = 12")?)?;
    let mut stranger = connection::Connection::open(scene.broker.address()?, Duration::from_secs(20))?;
    let mut spend_all = || -> Result<()> {
        for _ in 0..40 {
            if stranger.get("/health")?.status == 429 {
                return Ok(());
            }
        }
        anyhow::bail!("one address may ask as often as it likes")
    };
    let mut talk = scene.begin(Purpose::Provision)?;
    spend_all()?;
    let evidence = scene.node.evidence(&talk)?;
    let response = talk.show(&evidence)?;
    ensure!(response.status == 200, "evidence after a hello: {}", response.status);
    let released = scene.node.open(&talk, &response.body)?;
    let commit = scene::report(&scene.broker, &mut scene.node, &released, Purpose::Provision)?;
    spend_all()?;
    talk.wire.must_acknowledge(&commit)?;
    ensure!(talk.wire.resume(&commit.session)?.status == 200, "no resumption");
    // Not for ever.
    spend_all()?;
    for _ in 0..40 {
        if talk.wire.resume(&commit.session)?.status == 429 {
            return Ok(());
        }
    }
    anyhow::bail!("a connection of a node may ask as often as it likes")
}

fn unread(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let mut connection = connection::Connection::open(scene.broker.address()?, Duration::from_secs(20))?;
    // The answer comes although the body does not.
    connection.send(b"POST /krp/1/evidence HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n[[[")?;
    let response = connection.receive()?;
    scene.broker.must_refuse(&response, "SESSION_INVALID")?;
    scene.must_still_release().map(drop)
}

fn slow(suite: &Suite, _: &str) -> Result<()> {
    const MANY: usize = 48;
    let broker =
        Broker::start_with("connections = 64\nhandshake_seconds = 1\npatience_seconds = 1\nconnection_seconds = 30")?;
    let mut scene = Scene::with(suite, broker)?;
    let address = scene.broker.address()?;
    let mut silent = (0..MANY).map(|_| TcpStream::connect(address)).collect::<std::io::Result<Vec<_>>>()?;
    // Half of a handshake in each other one.
    for socket in silent.iter_mut().step_by(2) {
        socket.write_all(&[0x16, 3, 1, 2])?;
    }
    scene.provision()?;
    for mut socket in silent {
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut rest = Vec::new();
        // Closed, or reset; not left open.
        if let Err(error) = socket.read_to_end(&mut rest) {
            ensure!(error.kind() == std::io::ErrorKind::ConnectionReset, "a silent connection stays open: {error}");
        }
    }
    scene.reboot()?;
    // After a handshake: a head that never ends, and a body that never comes.
    let head = "POST /krp/1/hello HTTP/1.1\r\nContent-Length: 100\r\n";
    for slow in [head.to_owned(), format!("{head}\r\n{{")] {
        let mut connection = connection::Connection::open(scene.broker.address()?, Duration::from_secs(20))?;
        connection.send(slow.as_bytes())?;
        match connection.receive() {
            Ok(response) => ensure!(response.status == 408, "a slow request is answered with {}", response.status),
            // Closed without a word; a time-out of our own would say that it may take for ever.
            Err(error) => ensure!(!error.to_string().contains("silent for"), "{error}"),
        }
    }
    scene.must_still_unlock()
}

fn floods(suite: &Suite, _: &str) -> Result<()> {
    const SPOOFED: usize = 200;
    let scene = Scene::with(suite, Broker::start_with("hellos_per_minute = 5\nstrangers_per_minute = 3")?)?;
    let mut other = scene.another("two")?;
    let mut statuses = Vec::new();
    let mut wire = scene.broker.wire()?;
    for _ in 0..10 {
        let response = wire.say("/krp/1/hello", &scene.node.hello(Purpose::Provision)?)?;
        ensure!(response.status != 429 || response.retry_after.is_some(), "no Retry-After");
        statuses.push(response.status.to_string());
    }
    ensure!(statuses.iter().filter(|status| *status == code(61)).count() >= 4, "{statuses:?}");
    scene::provision(&scene.broker, &mut other)?;

    let size = |scene: &Scene| -> Result<u64> {
        let audit = scene.broker.admin(&["status"])?;
        audit["sizes"]["audit"].as_u64().context("the status has no size of the audit log")
    };
    let before = size(&scene)?;
    let mut wire = scene.broker.wire()?;
    let good = scene.node.hello(Purpose::Provision)?;
    for number in 0..SPOOFED {
        let mut hello = good.clone();
        // Another modulus: the last byte stays odd.
        let at = hello.ek.0.len() - 2 - number / 250;
        hello.ek.0[at] ^= (number % 250 + 1) as u8;
        let response = wire.say("/krp/1/hello", &hello)?;
        ensure!(response.status == 200, "hello {number}: {}", response.status);
    }
    ensure!(size(&scene)? == before, "hellos are kept");
    // Refusals of strangers are counted, and only a few are written.
    let mut stranger = scene.stranger()?;
    for _ in 0..5 {
        let (_, response) = ask(&scene.broker, &mut stranger, Purpose::Provision)?;
        ensure!(response.status == 403, "a stranger is told {}", response.status);
    }
    let after = size(&scene)?;
    // One more counts the others.
    ensure!(after > before && after <= before + 3 + 1, "{} rows of the audit log are strangers'", after - before);

    let mut one_address = Scene::with(suite, Broker::start_with("requests_per_minute = 30")?)?;
    let mut wire = one_address.broker.wire()?;
    let mut statuses = Vec::new();
    // A broker that turns somebody away closes the connection, too.
    while statuses.last() != Some(&code(61).to_owned()) && statuses.len() < 60 {
        let hello = one_address.node.hello(Purpose::Provision)?;
        statuses.push(wire.say("/krp/1/hello", &hello)?.status.to_string());
    }
    ensure!((20..60).contains(&statuses.len()), "{statuses:?}");
    one_address.broker.kill();
    one_address.broker.run()?;
    one_address.must_still_release().map(drop)
}

/// What a stranger sees of a denial.
fn shape(broker: &Broker, response: &connection::Response) -> Result<(u16, usize, Option<u32>)> {
    let refused: Refused = broker.decision(response)?;
    ensure!(refused.request.len() == 32, "the request is {:?}", refused.request);
    Ok((response.status, response.body.len(), response.retry_after))
}

fn alike(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let mut shapes = BTreeSet::new();
    let mut stranger = scene.stranger()?;
    let (_, response) = ask(&scene.broker, &mut stranger, Purpose::Provision)?;
    shapes.insert(shape(&scene.broker, &response)?);
    // A known node: with a changed register, a changed log, another's disk, and retired.
    for change in [
        (|evidence| evidence.registers[0].0[0] ^= 1) as fn(&mut attest::message::Evidence),
        |evidence| evidence.event_log.0.truncate(100),
        |evidence| evidence.session.0[0] ^= 1,
        |evidence| evidence.activation = None,
    ] {
        let mut talk = scene.begin(Purpose::Provision)?;
        let mut evidence = scene.node.evidence(&talk)?;
        change(&mut evidence);
        shapes.insert(shape(&scene.broker, &talk.show(&evidence)?)?);
    }
    scene.broker.admin(&["node", "retire", "one"])?;
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Provision)?;
    shapes.insert(shape(&scene.broker, &response)?);
    let mut wire = scene.broker.wire()?;
    shapes.insert(shape(&scene.broker, &wire.post("/krp/1/hello", b"{}\n")?)?);
    shapes.insert(shape(&scene.broker, &wire.resume(&Hex(vec![1; 16]))?)?);
    ensure!(shapes.len() == 1, "denials differ: {shapes:?}");
    ensure!(shapes.iter().all(|(status, ..)| status.to_string() == code(65)), "{shapes:?}");
    // Challenges, too: a stranger's is as long as that of a node whose key is not known yet.
    let two = scene.another("two")?;
    let lengths = [&two, &stranger].map(|node| begin(&scene.broker, node, Purpose::Provision));
    let [known, unknown] =
        lengths.map(|talk| talk.map(|talk| message::write(&talk.challenge).map(|sent| sent.bytes.len())));
    ensure!(known?? == unknown??, "challenges differ");
    Ok(())
}
