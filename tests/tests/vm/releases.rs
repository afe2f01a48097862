//! Real machines and logged releases: a broker in production opens no disk for an image that is in no log, and none any more for one that is revoked.

use anyhow::{Result, ensure};
use cairn_tests::broker::Broker;
use cairn_tests::node::Node;
use cairn_tests::suite::Suite;
use transparency::statement::channel::Standing;

use crate::Row;
use crate::nodes::{generation, must_be_refused};
use crate::publisher::{ALLOW, CHANNEL, Publisher, give, must};

pub fn rows() -> Vec<Row> {
    vec![Row::new("only_a_logged_release_opens_a_disk_and_a_revoked_one_no_more", logged)]
}

fn logged(suite: &Suite, row: &str) -> Result<()> {
    let mut broker = Broker::of_assurance("tpm-virtual", "")?;
    broker.run()?;
    let node = Node::new(suite, "one", &suite.image, &broker)?;
    must_be_refused(suite, row, &node, &broker, "RELEASE_NONE_ALLOWED")?;

    let mut publisher = Publisher::new()?;
    publisher.is_believed_by(&broker)?;
    let (bundle, statement) = publisher.release(&suite.image, 1)?;
    must(give(&broker, &CHANNEL, &publisher.promote(statement, Standing::Good)?.write()?)?)?;
    must(give(&broker, &ALLOW, &bundle.write()?)?)?;
    let watched = node.must_run(suite, row)?;
    let console = watched.vm.console().text();
    ensure!(
        console.contains("assurance tpm-virtual"),
        "the node does not say what it is worth{}",
        watched.last_lines()
    );
    generation(&broker, "one", 1)?;

    // While it runs; what already runs, goes on running.
    must(give(&broker, &CHANNEL, &publisher.promote(statement, Standing::Revoked)?.write()?)?)?;
    drop(watched);
    must_be_refused(suite, row, &node, &broker, "REVOKED")?;
    generation(&broker, "one", 1)
}
