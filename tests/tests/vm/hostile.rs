//! What stands between a node and its broker lies, keeps silent, or is not there; and clocks that are wrong.

use std::net::TcpListener;

use anyhow::{Context, Result, ensure};
use attest::cluster::StaticNetwork;
use cairn_tests::attacks::code;
use cairn_tests::broker::Broker;
use cairn_tests::lying_broker::{Lie, LyingBroker};
use cairn_tests::node::Node;
use cairn_tests::suite::Suite;
use cairn_tests::watch::Watched;
use xtask::vm::Machine;

use crate::Row;
use crate::nodes::{broker_for, generation};

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("a_release_that_is_not_of_this_conversation_ends_the_boot", lies),
        Row::new("a_black_hole_and_a_closed_port_beside_a_broker_delay_the_boot", black_hole),
        Row::new("clocks_ten_years_off_change_nothing", clocks),
    ]
}

fn lies(suite: &Suite, row: &str) -> Result<()> {
    let broker = broker_for(&suite.image)?;
    let node = Node::new(suite, "one", &suite.image, &broker)?;
    for lie in Lie::ALL {
        let liar = LyingBroker::start(&broker, lie)?;
        node.configure(&suite.image.file("raw"), &broker.cluster()?, liar.port())?;
        node.must_fail(suite, row, code(52)).with_context(|| format!("{lie:?}"))?;
    }
    // The same node with the honest broker: the lies were what was refused.
    node.configure(&suite.image.file("raw"), &broker.cluster()?, broker.port()?)?;
    node.must_run(suite, row)?;
    generation(&broker, "one", 1)
}

/// A broker of another cluster, a port that nobody listens at, one where nobody answers; then the broker. The address is a static one.
fn black_hole(suite: &Suite, row: &str) -> Result<()> {
    let broker = broker_for(&suite.image)?;
    let stranger = Broker::start()?;
    let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    // Connections are made by the kernel, and nobody ever takes them.
    let black_hole = TcpListener::bind("127.0.0.1:0")?;
    let ports = [stranger.port()?, closed, black_hole.local_addr()?.port(), broker.port()?];
    let node = Node::new(suite, "one", &suite.image, &broker)?;
    let network = StaticNetwork { address: "10.0.2.77/24".into(), gateway: Some("10.0.2.2".into()) };
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
