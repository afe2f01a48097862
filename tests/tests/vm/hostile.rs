//! What stands between a node and its broker lies, keeps silent, or is not there; and clocks that are wrong.

use std::net::TcpListener;

use anyhow::{Context, Result, ensure};
use attest::cluster::StaticNetwork;
use cairn_tests::attacks::code;
use cairn_tests::broker::Broker;
use cairn_tests::lying_broker::{Identity, Lie, LyingBroker, Then};
use cairn_tests::node::Node;
use cairn_tests::suite::Suite;
use cairn_tests::watch::Watched;
use xtask::vm::Machine;

use crate::Row;
use crate::nodes::{broker_for, generation};

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("lies_without_a_signature_delay_a_boot_and_signed_ones_end_it", lies),
        Row::new("a_black_hole_and_a_closed_port_beside_a_broker_delay_the_boot", black_hole),
        Row::new("clocks_ten_years_off_change_nothing", clocks),
    ]
}

/// A liar with the message key ends the boot. One without it, which has a certificate or a TLS key at most, delays it: the last connection goes to the honest broker.
fn lies(suite: &Suite, row: &str) -> Result<()> {
    const UNSIGNED: [Lie; 4] =
        [Lie::CopiedCertificate, Lie::AnotherHello, Lie::UnsignedRefusal, Lie::RefusalOfAnotherConnection];
    let broker = broker_for(&suite.image)?;
    let node = Node::new(suite, "one", &suite.image, &broker)?;
    let identity = Identity::of(&broker)?;
    let liar = LyingBroker::start(&identity, &[Lie::FlippedBit], Then::Honest)?;
    node.configure(&suite.image.file("raw"), &broker.cluster()?, liar.port())?;
    node.must_fail(suite, row, code(52))?;
    let liar = LyingBroker::start(&identity, &UNSIGNED, Then::Forward(broker.port()?))?;
    node.configure(&suite.image.file("raw"), &broker.cluster()?, liar.port())?;
    node.must_run(suite, row)?;
    let expected = ["/krp/1/hello", "/krp/1/hello", "/krp/1/evidence", "/krp/1/resume"];
    ensure!(liar.requests() == expected, "the liar was asked {:?}", liar.requests());
    generation(&broker, "one", 1)
}

/// A broker of another cluster, a port that nobody listens at, one where nobody answers; then the broker. The address is a static one, and its gateway outside of its prefix.
fn black_hole(suite: &Suite, row: &str) -> Result<()> {
    let broker = broker_for(&suite.image)?;
    let stranger = Broker::start()?;
    let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    // Connections are made by the kernel, and nobody ever takes them.
    let black_hole = TcpListener::bind("127.0.0.1:0")?;
    let ports = [stranger.port()?, closed, black_hole.local_addr()?.port(), broker.port()?];
    let node = Node::new(suite, "one", &suite.image, &broker)?;
    let network = StaticNetwork { address: "10.0.2.77/32".into(), gateway: Some("10.0.2.2".into()) };
    node.configure_network(&suite.image.file("raw"), &broker.cluster()?, &ports, Some(network))?;
    node.must_run(suite, row)?;
    generation(&broker, "one", 1)?;
    let strangers = stranger.admin(&["audit", "tail"])?;
    ensure!(
        strangers.as_array().is_some_and(Vec::is_empty),
        "a node spoke to a broker of another cluster: {strangers}"
    );
    Ok(())
}

fn clocks(suite: &Suite, row: &str) -> Result<()> {
    let broker = broker_for(&suite.image)?;
    let node = Node::new(suite, "one", &suite.image, &broker)?;
    for (number, date) in (1..).zip(["2016-01-01T00:00:00", "2037-01-01T00:00:00"]) {
        let machine = node.machine(&node.disk())?;
        let extra = [machine.extra.clone(), vec!["-rtc".into(), format!("base={date}")]].concat();
        let mut watched = Watched::start(suite, row, &Machine { extra, ..machine })?;
        watched.must_run().with_context(|| format!("in {date}"))?;
        drop(watched);
        generation(&broker, "one", number)?;
    }
    Ok(())
}
