//! Who publishes for these rows: releases and a channel in a fake log, and the words by which a broker is told of them.

use std::fs;

use anyhow::{Context, Result};
use attest::bytes::Bytes32;
use cairn_tests::broker::Broker;
use cairn_tests::image::Image;
use measurements::document::image::ImageReference;
use transparency::bundle::Bundle;
use transparency::statement::channel::{Channel, Release, Standing};
use transparency::statement::measured_boot::{MeasuredBoot, Reference};
use transparency::statement::{Statement, Subject, digest};

use crate::fake::Fake;

pub const ALLOW: [&str; 3] = ["release", "allow", "--bundle"];
pub const CHANNEL: [&str; 2] = ["channel", "set"];
pub const TRUST: [&str; 2] = ["trust", "set"];

pub fn must(given: Result<(), String>) -> Result<()> {
    given.map_err(|said| anyhow::anyhow!("it was refused: {said}"))
}

pub fn now() -> Result<u64> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs())
}

/// A publisher: a log, and releases with their standing in one channel.
pub struct Publisher {
    pub fake: Fake,
    pub channel: Channel,
}

impl Publisher {
    pub fn new() -> Result<Self> {
        let fake = Fake::at(now()?);
        let expires = fake.now + 400;
        let channel = Channel { expires, least_epoch: 0, name: "stable".into(), releases: vec![], version: 0 };
        Ok(Self { fake, channel })
    }

    /// Publishes what an image measures; its bundle, and the digest of its statement.
    pub fn release(&mut self, image: &Image, epoch: u64) -> Result<(Bundle, Bytes32)> {
        let (reference, files) = reference_of(image, epoch)?;
        let reference = Reference::Image(Box::new(reference));
        let (not_before, not_after) = (self.fake.now - 300, self.fake.now + 3000);
        let predicate = MeasuredBoot { not_after, not_before, previous: None, reference };
        let statement = Statement::measured_boot(files, predicate)?.write()?;
        Ok((self.fake.publish(&statement), digest(&statement)))
    }

    /// The channel's next state, in which this release stands so.
    pub fn promote(&mut self, statement: Bytes32, standing: Standing) -> Result<Bundle> {
        self.channel.releases.retain(|release| release.statement != statement);
        self.channel.releases.push(Release { name: hex::encode(&statement.0[..4]), standing, statement });
        self.state()
    }

    /// The channel's next state.
    pub fn state(&mut self) -> Result<Bundle> {
        self.channel.version += 1;
        Ok(self.fake.publish(&Statement::channel(self.channel.clone())?.write()?))
    }

    /// Gives its trust root to a broker.
    pub fn is_believed_by(&self, broker: &Broker) -> Result<()> {
        let root = self.fake.sign_trust_root(&self.fake.trust_root().write()?);
        must(give(broker, &TRUST, &root)?)
    }
}

/// What an image measures, and its files.
pub fn reference_of(image: &Image, epoch: u64) -> Result<(ImageReference, Vec<Subject>)> {
    let reference = ImageReference::parse(&image.read("reference.json")?)?;
    // Tests are run with changes that nobody has committed.
    let reference = ImageReference { epoch, dirty: false, locked: true, ..reference };
    let file = |name: &str, digest: &[u8]| Ok::<_, anyhow::Error>(Subject::file(name, digest.try_into()?));
    let files = vec![
        file("image.raw", &hex::decode(&reference.raw.sha256)?)?,
        file("image.efi", &hex::decode(&reference.uki.sha256)?)?,
        file("image.reference.json", &measurements::Bank::Sha256.digest(&reference.to_bytes()?))?,
    ];
    Ok((reference, files))
}

/// Hands a file to the broker; what it says if it does not take it.
pub fn give(broker: &Broker, words: &[&str], bytes: &[u8]) -> Result<Result<(), String>> {
    let file = broker.file("given");
    fs::write(&file, bytes).context("Failed to write a file")?;
    let name = file.display().to_string();
    let output = broker.command(&[words, &[name.as_str()]].concat())?;
    Ok(if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) })
}
