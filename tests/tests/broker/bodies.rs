//! Bodies that begin and never end: they take places that others need, so each network has few of them.

use std::io::copy;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use attest::message::{self, Purpose};
use cairn_tests::broker::Broker;
use cairn_tests::suite::Suite;
use connection::Connection;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::Row;
use crate::scene::{Scene, ask};
use crate::strangers::connect_from;

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("slow_hello_bodies_of_many_connections_delay_no_node", slow_bodies),
        Row::new("large_bodies_of_one_address_leave_places_for_others", large_bodies),
    ]
}

/// More slow bodies than a broker once had places for; each has its own connection.
fn slow_bodies(suite: &Suite, _: &str) -> Result<()> {
    const MANY: usize = 1100;
    // Each connection is a file of this process, too.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let limits = "connections_per_address = 2048\npatience_seconds = 90\nrequests_per_minute = 100000";
    let mut scene = Scene::with(suite, Broker::start_with(limits)?)?;
    let address = scene.broker.address()?;
    let mut slow = Vec::new();
    for _ in 0..MANY {
        let mut connection = connection::Connection::open(address, Duration::from_secs(20))?;
        connection.send(b"POST /krp/1/hello HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")?;
        slow.push(connection);
    }
    scene.provision()?;
    drop(slow);
    scene.reboot()?;
    scene.must_still_unlock()
}

/// Large bodies that a broker reads at a time, of one address and of all (`key-broker/src/server.rs`).
const PER_ADDRESS: usize = 32;
const ADDRESSES: u8 = 4;
/// The broker has read the heads of all requests by then.
const SETTLED: Duration = Duration::from_millis(500);

/// Forwards connections to the broker from this address of the loopback; where it listens.
fn relay(from: Ipv4Addr, to: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let forward = |mut from: TcpStream, mut to: TcpStream| {
        thread::spawn(move || {
            // Each end may close at any time.
            let _ = copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        })
    };
    // It ends with the program.
    thread::spawn(move || -> Result<()> {
        for client in listener.incoming() {
            let (client, broker) = (client?, connect_from(from, to)?);
            client.set_nodelay(true)?;
            broker.set_nodelay(true)?;
            forward(client.try_clone()?, broker.try_clone()?);
            forward(broker, client);
        }
        Ok(())
    });
    Ok(address)
}

/// A hello, and evidence of which only the first byte comes.
fn half_evidence(scene: &Scene, address: SocketAddr) -> Result<Connection> {
    let hello = message::write(&scene.node.hello(Purpose::Unlock)?)?.bytes;
    let mut connection = Connection::open(address, Duration::from_secs(10))?;
    let challenge = connection.post("/krp/1/hello", &hello)?;
    ensure!(challenge.status == 200, "the hello: {}", challenge.status);
    connection.send(b"POST /krp/1/evidence HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n{")?;
    Ok(connection)
}

fn large_bodies(suite: &Suite, _: &str) -> Result<()> {
    let limits = "patience_seconds = 90\nhellos_per_minute = 1000\nrequests_per_minute = 1000";
    let mut scene = Scene::with(suite, Broker::start_with(limits)?)?;
    // A hello with a known key costs the broker little.
    scene.provision()?;
    scene.reboot()?;
    let broker = scene.broker.address()?;
    let hold = |scene: &Scene, last: u8| -> Result<(SocketAddr, Vec<Connection>)> {
        let address = relay(Ipv4Addr::new(127, 0, 0, last), broker)?;
        let held = (0..PER_ADDRESS).map(|_| half_evidence(scene, address)).collect::<Result<_>>()?;
        thread::sleep(SETTLED);
        Ok((address, held))
    };
    let (address, held) = hold(&scene, 2)?;
    let answer = half_evidence(&scene, address)?.receive()?;
    ensure!(answer.status == 503 && answer.retry_after.is_some(), "one body more: {}", answer.status);
    scene.must_still_unlock()?;
    // All places are taken, and each address has no more than it may.
    let mut all = vec![held];
    for last in 3..2 + ADDRESSES {
        all.push(hold(&scene, last)?.1);
    }
    scene.reboot()?;
    let (_, answer) = ask(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    ensure!(answer.status == 503 && answer.retry_after.is_some(), "without a place: {}", answer.status);
    all[0].pop();
    let started = Instant::now();
    while ask(&scene.broker, &mut scene.node, Purpose::Unlock)?.1.status != 200 {
        ensure!(started.elapsed() < Duration::from_secs(10), "the place of a connection that was closed is not free");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
