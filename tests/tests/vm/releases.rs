//! Real machines and logged releases: a broker in production opens no disk for an image that is in no log, none any more for one that is revoked or too old, and disks of two releases while one follows the other.

use anyhow::{Context, Result, ensure};
use cairn_tests::broker::Broker;
use cairn_tests::image::Image;
use cairn_tests::newer::{VERSION, newer};
use cairn_tests::node::Node;
use cairn_tests::suite::Suite;
use transparency::statement::channel::Standing;

use crate::Row;
use crate::nodes::{generation, must_be_refused};
use crate::publisher::{ALLOW, CHANNEL, Publisher, give, must};

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("only_a_logged_release_opens_a_disk_and_a_revoked_one_no_more", logged),
        Row::new("a_logged_release_below_the_least_epoch_opens_no_disk", below_the_least_epoch),
        Row::new("old_and_new_release_run_side_by_side_until_the_old_one_is_retired", side_by_side).in_full(),
    ]
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
    let watched = node.must_open(suite, row)?;
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

/// Security epochs of the two releases.
const OLD: u64 = 1;
const NEW: u64 = 2;

/// A broker in production that allows the image under test, and a newer release of it.
struct Upgrade {
    broker: Broker,
    publisher: Publisher,
    new: Image,
    _folder: tempfile::TempDir,
}

impl Upgrade {
    fn begin(suite: &Suite) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("cairn-newer-").tempdir().context("Failed to make a folder")?;
        let new = newer(&suite.image, folder.path())?;
        let mut broker = Broker::of_assurance("tpm-virtual", "")?;
        broker.run()?;
        let mut publisher = Publisher::new()?;
        publisher.is_believed_by(&broker)?;
        for (image, epoch) in [(&suite.image, OLD), (&new, NEW)] {
            let (bundle, statement) = publisher.release(image, epoch)?;
            must(give(&broker, &CHANNEL, &publisher.promote(statement, Standing::Good)?.write()?)?)?;
            must(give(&broker, &ALLOW, &bundle.write()?)?)?;
        }
        Ok(Self { broker, publisher, new, _folder: folder })
    }

    /// From now on, the old release is too old for everybody.
    fn raise(&mut self) -> Result<()> {
        self.publisher.channel.least_epoch = NEW;
        must(give(&self.broker, &CHANNEL, &self.publisher.state()?.write()?)?)
    }

    /// Puts this image into the node, whose disk stays.
    fn change(&self, node: &Node, image: &Image) -> Result<()> {
        node.configure(&image.file("raw"), &self.broker.cluster()?, self.broker.port()?)
    }

    /// The broker has found the node to run the newer release, or not.
    fn runs(&self, node: &Node, is_new: bool) -> Result<()> {
        let release = self.broker.admin(&["node", "show", &node.name])?["release"].to_string();
        ensure!(release.contains(VERSION) == is_new, "the node {} runs {release}", node.name);
        Ok(())
    }
}

fn below_the_least_epoch(suite: &Suite, row: &str) -> Result<()> {
    let mut upgrade = Upgrade::begin(suite)?;
    upgrade.raise()?;
    let node = Node::new(suite, "one", &suite.image, &upgrade.broker)?;
    must_be_refused(suite, row, &node, &upgrade.broker, "EPOCH")?;
    let shown = upgrade.broker.admin(&["node", "show", "one"])?;
    ensure!(shown["disks"].as_array().is_some_and(Vec::is_empty), "the refused node has a disk: {shown}");
    // That nothing else was wrong with it is what the next row shows.
    Ok(())
}

fn side_by_side(suite: &Suite, row: &str) -> Result<()> {
    let mut upgrade = Upgrade::begin(suite)?;
    let one = Node::new(suite, "one", &suite.image, &upgrade.broker)?;
    let two = Node::new(suite, "two", &upgrade.new, &upgrade.broker)?;
    // Both run at once, and so does what comes after the reboot.
    for expected in [1, 2] {
        let mut both = [one.boot(suite, row)?, two.boot(suite, &format!("{row}-two"))?];
        for watched in &mut both {
            watched.must_run()?;
        }
        upgrade.runs(&one, false)?;
        upgrade.runs(&two, true)?;
        generation(&upgrade.broker, "one", expected)?;
        generation(&upgrade.broker, "two", expected)?;
    }
    let disk = upgrade.broker.disk("one", "disk")?;
    upgrade.change(&one, &upgrade.new)?;
    one.must_run(suite, row)?;
    upgrade.runs(&one, true)?;
    generation(&upgrade.broker, "one", 3)?;
    ensure!(upgrade.broker.disk("one", "disk")? == disk, "the newer release has made another disk");
    upgrade.raise()?;
    upgrade.change(&one, &suite.image)?;
    must_be_refused(suite, row, &one, &upgrade.broker, "EPOCH")?;
    generation(&upgrade.broker, "one", 3)
}
