//! Releases that are signed and logged: only those are taken in production, and each is judged again when a node boots it. The log is a fake, because the real one never lies; the real one is tried by the suite `log`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use attest::bytes::Bytes32;
use attest::message::Purpose;
use cairn_tests::attacks::codes;
use cairn_tests::attester::Boot;
use cairn_tests::broker::Broker;
use cairn_tests::image::Image;
use cairn_tests::suite::Suite;
use transparency::bundle::Bundle;
use transparency::statement::Statement;
use transparency::statement::channel::Standing;

use crate::Row;
use crate::fake::{Fake, Signer, ed25519};
use crate::operation::{plain, with_metrics};
use crate::publisher::{ALLOW, CHANNEL, Publisher, TRUST, give, must, now, reference_of};
use crate::scene::{self, Scene, ask, composition};

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("only_what_is_logged_is_allowed_in_production", production),
        Row::new("a_bundle_that_does_not_hold_is_refused_with_its_code", bundles),
        Row::new("a_forked_log_is_noticed", forked),
        Row::new("an_older_or_expired_channel_state_says_nothing", channels),
        Row::new("a_revoked_release_is_refused_at_the_next_boot", revoked),
        Row::new("a_lower_epoch_is_never_run_again", epochs),
        Row::new("release_without_a_report_raises_the_epoch_of_its_node", epoch_without_report),
        Row::new("a_node_names_its_release_and_a_refusal_is_explained_by_it", named),
        Row::new("a_release_needs_as_many_rebuilders_as_the_policy_says", rebuilt),
        Row::new("disks_are_unlocked_for_a_while_after_the_channel_expired", stale),
    ]
}

pub(crate) fn must_not(given: Result<(), String>, code: &str) -> Result<()> {
    let said = given.err().with_context(|| format!("it was taken, {code} is expected"))?;
    ensure!(said.contains(&format!("{code}: ")), "{said}, not {code}");
    Ok(())
}

/// A broker in production that believes this publisher, and one good release of the production image.
pub(crate) fn begin<'a>(suite: &'a Suite, limits: &str) -> Result<(Scene<'a>, Publisher, Bytes32)> {
    let mut broker = Broker::of_assurance("tpm-virtual", limits)?;
    with_metrics(&broker)?;
    broker.run()?;
    let scene = Scene::without_release(suite, broker)?;
    let mut publisher = Publisher::new()?;
    publisher.is_believed_by(&scene.broker)?;
    let (bundle, statement) = publisher.release(&suite.image, 5)?;
    must(give(&scene.broker, &CHANNEL, &publisher.promote(statement, Standing::Good)?.write()?)?)?;
    must(give(&scene.broker, &ALLOW, &bundle.write()?)?)?;
    Ok((scene, publisher, statement))
}

fn production(suite: &Suite, _: &str) -> Result<()> {
    let [no_entry, another] = codes(37) else { anyhow::bail!("two codes") };
    let mut broker = Broker::of_assurance("tpm-virtual", "")?;
    broker.run()?;
    let mut scene = Scene::without_release(suite, broker)?;
    let mut publisher = Publisher::new()?;
    let (bundle, statement) = publisher.release(&suite.image, 5)?;
    let bytes = bundle.write()?;
    must_not(give(&scene.broker, &ALLOW, &bytes)?, "TRUST_ROOT_MISSING")?;
    let root = publisher.fake.trust_root();
    must(give(&scene.broker, &TRUST, &publisher.fake.sign_trust_root(&root.write()?))?)?;
    must_not(give(&scene.broker, &ALLOW, &bytes)?, "CHANNEL_MISSING")?;
    let (other, another_release) = publisher.release(&suite.debug, 5)?;
    must(give(&scene.broker, &CHANNEL, &publisher.promote(another_release, Standing::Good)?.write()?)?)?;
    must_not(give(&scene.broker, &ALLOW, &bytes)?, "NOT_RELEASED")?;
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Provision)?;
    scene.broker.must_refuse(&response, "RELEASE_NONE_ALLOWED")?;

    // Without an entry of the log, and with another statement's.
    let mut value: serde_json::Value = serde_json::from_slice(&bytes)?;
    value["verificationMaterial"]["tlogEntries"] = serde_json::json!([]);
    must_not(give(&scene.broker, &ALLOW, &serde_json::to_vec(&value)?)?, no_entry)?;
    must_not(give(&scene.broker, &ALLOW, &Bundle { entry: other.entry, ..bundle }.write()?)?, another)?;
    // Nobody's word is enough.
    let reference = suite.image.file("reference.json").display().to_string();
    ensure!(!scene.broker.command(&["release", "allow", &reference])?.status.success(), "a reference is believed");

    must(give(&scene.broker, &CHANNEL, &publisher.promote(statement, Standing::Good)?.write()?)?)?;
    must(give(&scene.broker, &ALLOW, &bytes)?)?;
    let released = scene.provision()?;
    ensure!(released.release.assurance == "tpm-virtual", "it is worth {}", released.release.assurance);
    let list = scene.broker.admin(&["release", "list"])?;
    ensure!(list[0]["verdict"] == "logged", "{list}");
    Ok(())
}

fn bundles(suite: &Suite, _: &str) -> Result<()> {
    let (scene, mut publisher, _) = begin(suite, "")?;
    let (good, statement) = publisher.release(&suite.debug, 5)?;
    must(give(&scene.broker, &CHANNEL, &publisher.promote(statement, Standing::Good)?.write()?)?)?;
    let proof = codes(38)[0];
    let [log_key, witnesses, _] = codes(39) else { anyhow::bail!("three codes") };
    let [signer, time] = codes(40) else { anyhow::bail!("two codes") };
    let allow = |bundle: &Bundle| {
        give(&scene.broker, &[&ALLOW[..2], &["--allow-debug", "--bundle"]].concat(), &bundle.write()?)
    };
    type Change = fn(&mut Bundle);
    let proofs: [Change; 4] = [
        |bundle| bundle.entry.index -= 1,
        |bundle| bundle.entry.size += 1,
        |bundle| bundle.entry.path[0][0] ^= 1,
        |bundle| bundle.entry.root[0] ^= 1,
    ];
    for change in proofs {
        let mut bundle = good.clone();
        change(&mut bundle);
        must_not(allow(&bundle)?, proof)?;
    }
    // Another log's key; one witness instead of two.
    let mut other = Fake::at(publisher.fake.now);
    other.log = ed25519(99);
    let mut bundle = good.clone();
    let head = transparency::checkpoint::Checkpoint {
        origin: crate::fake::ORIGIN.into(),
        size: bundle.entry.size,
        root: bundle.entry.root,
    };
    bundle.entry.checkpoint = other.note(&head);
    must_not(allow(&bundle)?, log_key)?;
    let mut bundle = good.clone();
    let text = bundle.entry.checkpoint.clone();
    bundle.entry.checkpoint = text[..text.trim_end().rfind('\n').context("no lines")? + 1].to_owned();
    must_not(allow(&bundle)?, witnesses)?;
    // A signer whom nobody named; a time outside of the key's validity.
    let theirs = std::mem::replace(&mut publisher.fake.signer, Signer::new());
    must_not(allow(&publisher.release(&suite.debug, 5)?.0)?, signer)?;
    publisher.fake.signer = theirs;
    publisher.fake.now -= 700;
    must_not(allow(&publisher.release(&suite.debug, 5)?.0)?, time)?;
    // What all of them are changes of.
    must(allow(&good)?)
}

fn forked(suite: &Suite, _: &str) -> Result<()> {
    let [.., fork] = codes(39) else { anyhow::bail!("three codes") };
    let (scene, mut publisher, _) = begin(suite, "")?;
    // The log goes back, and shows another last entry under the same number.
    publisher.fake.leaves.pop();
    publisher.channel.least_epoch = 1;
    must_not(give(&scene.broker, &CHANNEL, &publisher.state()?.write()?)?, fork)
}

fn channels(suite: &Suite, _: &str) -> Result<()> {
    let [expired, older] = codes(41) else { anyhow::bail!("two codes") };
    let (mut scene, mut publisher, _) = begin(suite, "")?;
    let newest = publisher.state()?;
    must(give(&scene.broker, &CHANNEL, &newest.write()?)?)?;
    publisher.channel.version -= 2;
    must_not(give(&scene.broker, &CHANNEL, &publisher.state()?.write()?)?, older)?;
    publisher.channel.version += 5;
    publisher.channel.expires = publisher.fake.now - 1;
    must_not(give(&scene.broker, &CHANNEL, &publisher.state()?.write()?)?, expired)?;
    // Two states of one version are a fork; the state of another channel is not of this one.
    publisher.channel.expires = publisher.fake.now + 400;
    publisher.channel.version = 9;
    let tenth = publisher.state()?.write()?;
    must(give(&scene.broker, &CHANNEL, &tenth)?)?;
    must(give(&scene.broker, &CHANNEL, &tenth)?)?;
    publisher.channel.version = 9;
    publisher.channel.least_epoch = 1;
    must_not(give(&scene.broker, &CHANNEL, &publisher.state()?.write()?)?, "LOG_FORK")?;
    publisher.channel.least_epoch = 0;
    publisher.channel.name = "beta".into();
    must_not(give(&scene.broker, &CHANNEL, &publisher.state()?.write()?)?, "CHANNEL_OTHER")?;
    publisher.channel.name = "stable".into();
    // An older trust root, too.
    let root = publisher.fake.sign_trust_root(&publisher.fake.trust_root().write()?);
    must_not(give(&scene.broker, &TRUST, &root)?, "TRUST_ROOT_VERSION")?;
    scene.provision().map(drop)
}

fn revoked(suite: &Suite, _: &str) -> Result<()> {
    let (mut scene, mut publisher, statement) = begin(suite, "")?;
    let replica = scene.broker.replica()?;
    scene.provision()?;
    let mut talks = [&scene.broker, &replica].map(|broker| scene::begin(broker, &scene.node, Purpose::Unlock));
    let list = scene.broker.admin(&["release", "list"])?;
    ensure!(list[0]["now"] == "good", "{list}");
    must(give(&scene.broker, &CHANNEL, &publisher.promote(statement, Standing::Revoked)?.write()?)?)?;
    let list = scene.broker.admin(&["release", "list"])?;
    ensure!(list[0]["now"] == codes(36)[0], "{list}");
    let tail = scene.broker.admin(&["audit", "tail", "1"])?.to_string();
    ensure!(tail.contains("refused from now on: ") && tail.contains("(REVOKED)"), "the operator is not told: {tail}");
    scene.reboot()?;
    // Every broker of the database knows at once, in conversations that had begun, too.
    for talk in &mut talks {
        let talk = talk.as_mut().map_err(|error| anyhow::anyhow!("{error}"))?;
        let evidence = scene.node.evidence(talk)?;
        let response = talk.show(&evidence)?;
        // The key of the boot before: what counts is that nothing is released.
        ensure!(response.status == 403, "a revoked release is answered with {}", response.status);
    }
    for broker in [&scene.broker, &replica] {
        let (_, response) = ask(broker, &mut scene.node, Purpose::Unlock)?;
        scene.broker.must_refuse(&response, codes(36)[0])?;
    }
    must(give(&scene.broker, &CHANNEL, &publisher.promote(statement, Standing::Good)?.write()?)?)?;
    scene.must_still_unlock()
}

fn epochs(suite: &Suite, _: &str) -> Result<()> {
    let [least, rollback] = codes(35) else { anyhow::bail!("two codes") };
    let (mut scene, mut publisher, _) = begin(suite, "")?;
    scene.provision()?;
    let (older, statement) = publisher.release(&suite.debug, 3)?;
    must(give(&scene.broker, &CHANNEL, &publisher.promote(statement, Standing::Good)?.write()?)?)?;
    let allow = [&ALLOW[..2], &["--allow-debug", "--bundle"]].concat();
    must(give(&scene.broker, &allow, &older.write()?)?)?;
    // A node that has run epoch 5 gets nothing for epoch 3; one that has not, does.
    let boot = Boot::of(&composition(&suite.debug, &scene.broker)?);
    scene.node.reboot(&boot)?;
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    scene.broker.must_refuse(&response, rollback)?;
    let mut other = scene.another("two")?;
    other.reboot(&boot)?;
    scene::provision(&scene.broker, &mut other)?;
    // The channel's least epoch is for everybody.
    publisher.channel.least_epoch = 4;
    must(give(&scene.broker, &CHANNEL, &publisher.state()?.write()?)?)?;
    other.reboot(&boot)?;
    let (_, response) = ask(&scene.broker, &mut other, Purpose::Unlock)?;
    scene.broker.must_refuse(&response, least)?;
    scene.reboot()?;
    scene.must_still_unlock()
}

/// Nothing that a node does after its release, or does not do, lowers the epoch that it was released for.
fn epoch_without_report(suite: &Suite, _: &str) -> Result<()> {
    let (mut scene, mut publisher, _) = begin(suite, "")?;
    let (older, statement) = publisher.release(&suite.debug, 3)?;
    must(give(&scene.broker, &CHANNEL, &publisher.promote(statement, Standing::Good)?.write()?)?)?;
    must(give(&scene.broker, &[&ALLOW[..2], &["--allow-debug", "--bundle"]].concat(), &older.write()?)?)?;
    scene::release(&scene.broker, &mut scene.node, Purpose::Provision)?;
    let boot = Boot::of(&composition(&suite.debug, &scene.broker)?);
    scene.node.reboot(&boot)?;
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Provision)?;
    scene.broker.must_refuse(&response, codes(35)[1])?;
    scene.reboot()?;
    scene.provision().map(drop)
}

/// Registers decide; what the node says of its release explains why they are refused.
fn named(suite: &Suite, _: &str) -> Result<()> {
    let (mut scene, mut publisher, _) = begin(suite, "")?;
    let (debug, statement) = publisher.release(&suite.debug, 5)?;
    must(give(&scene.broker, &CHANNEL, &publisher.promote(statement, Standing::Good)?.write()?)?)?;
    let allow = [&ALLOW[..2], &["--allow-debug", "--bundle"]].concat();
    let debug = debug.write()?;
    must(give(&scene.broker, &allow, &debug)?)?;
    let digest =
        |bytes: &[u8]| -> Result<Bytes32> { Ok(Bytes32(measurements::Bank::Sha256.digest(bytes)[..].try_into()?)) };
    let good = Boot::of(&composition(&suite.image, &scene.broker)?);
    let mut bad = Boot::of(&composition(&suite.image, &scene.broker)?);
    bad.firmware.pop().context("a boot without events")?;
    scene.node.reboot(&bad)?;
    let ask_naming = |scene: &mut Scene, release: Option<Bytes32>| -> Result<(String, String)> {
        let mut talk = scene::begin(&scene.broker, &scene.node, Purpose::Provision)?;
        let evidence = attest::message::Evidence { release, ..scene.node.evidence(&talk)? };
        let response = talk.show(&evidence)?;
        let refused: attest::message::Refused = scene.broker.decision(&response)?;
        let told = scene.broker.admin(&["explain", &refused.request])?;
        let text = |field: &str| told[field].as_str().unwrap_or_default().to_owned();
        Ok((text("code"), text("found")))
    };
    let (code, found) = ask_naming(&mut scene, Some(digest(&debug)?))?;
    ensure!(
        code != "RELEASED" && found.contains("(debug)") && !found.contains("no allowed release"),
        "{code}: {found}"
    );
    let (_, found) = ask_naming(&mut scene, Some(Bytes32([7; 32])))?;
    ensure!(found.contains("sha256:0707") && found.contains("that of no allowed release"), "{found}");
    let (_, found) = ask_naming(&mut scene, None)?;
    ensure!(!found.contains("names the bundle"), "{found}");
    // Whatever a node says, a release is given for what it runs.
    scene.node.reboot(&good)?;
    let mut talk = scene.begin(Purpose::Provision)?;
    let evidence = attest::message::Evidence { release: Some(digest(&debug)?), ..scene.node.evidence(&talk)? };
    let response = talk.show(&evidence)?;
    ensure!(scene.broker.judged(&response)? == "RELEASED", "a release is refused for what a node says");
    Ok(())
}

/// Publishes that an image was built again, by the rebuilder with this number.
fn rebuild(publisher: &mut Publisher, rebuilder: usize, image: &Image) -> Result<Vec<u8>> {
    let (reference, files) = reference_of(image, 5)?;
    Ok(publisher.fake.publish_rebuild(rebuilder, &Statement::rebuild(&reference, files)?.write()?).write()?)
}

fn rebuilt(suite: &Suite, _: &str) -> Result<()> {
    const NEEDED: &str = "REBUILDERS";
    let mut broker = Broker::of_assurance("tpm-virtual", "\n[policy]\nleast_rebuilders = 2")?;
    broker.run()?;
    let mut scene = Scene::without_release(suite, broker)?;
    let mut publisher = Publisher::new()?;
    publisher.fake.rebuilders = vec![Signer::new(), Signer::new()];
    publisher.is_believed_by(&scene.broker)?;
    let (bundle, statement) = publisher.release(&suite.image, 5)?;
    must(give(&scene.broker, &CHANNEL, &publisher.promote(statement, Standing::Good)?.write()?)?)?;
    must_not(give(&scene.broker, &ALLOW, &bundle.write()?)?, NEEDED)?;
    let file = scene.broker.file("bundle");
    std::fs::write(&file, bundle.write()?)?;
    let file = file.display().to_string();
    let with_rebuild = [&ALLOW[..], &[&*file, "--rebuild"]].concat();
    let one = rebuild(&mut publisher, 0, &suite.image)?;
    must_not(give(&scene.broker, &with_rebuild, &one)?, NEEDED)?;
    // Of another image; of the same by a rebuilder whom nobody named; the same one twice.
    let other = rebuild(&mut publisher, 1, &suite.debug)?;
    must_not(give(&scene.broker, &with_rebuild, &other)?, "SUBJECT")?;
    let second = std::mem::replace(&mut publisher.fake.rebuilders[1], Signer::new());
    let unknown = rebuild(&mut publisher, 1, &suite.image)?;
    must_not(give(&scene.broker, &with_rebuild, &unknown)?, "KEY_UNKNOWN")?;
    publisher.fake.rebuilders[1] = second;
    let first = scene.broker.file("first");
    std::fs::write(&first, &one)?;
    let first = first.display().to_string();
    let both = [&with_rebuild[..], &[&*first]].concat();
    must_not(give(&scene.broker, &both, &one)?, NEEDED)?;
    let two = rebuild(&mut publisher, 1, &suite.image)?;
    must(give(&scene.broker, &both, &two)?)?;
    scene.provision()?;
    // A rebuilder who is believed no more counts no more, at the next boot.
    let mut root = publisher.fake.trust_root();
    root.version = 2;
    root.keys.pop();
    must(give(&scene.broker, &TRUST, &publisher.fake.sign_trust_root(&root.write()?))?)?;
    scene.reboot()?;
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    scene.broker.must_refuse(&response, NEEDED)?;
    root.version = 3;
    root.keys = publisher.fake.trust_root().keys;
    must(give(&scene.broker, &TRUST, &publisher.fake.sign_trust_root(&root.write()?))?)?;
    scene.reboot()?;
    scene.must_still_unlock()
}

fn stale(suite: &Suite, _: &str) -> Result<()> {
    let expired = codes(41)[0];
    for (limits, goes_on) in [("stale_unlock_days = 1", true), ("stale_unlock_days = 0", false)] {
        let (mut scene, mut publisher, _) = begin(suite, limits)?;
        scene.provision()?;
        let metrics = plain(&scene.broker, "/metrics")?;
        ensure!(metrics.contains("cairn_broker_channel_expired 0\n"), "{metrics}");
        publisher.channel.expires = now()? + 3;
        must(give(&scene.broker, &CHANNEL, &publisher.state()?.write()?)?)?;
        std::thread::sleep(Duration::from_millis(4500));
        scene.reboot()?;
        if goes_on {
            scene.must_still_unlock()?;
            let tail = scene.broker.admin(&["audit", "tail", "1"])?.to_string();
            ensure!(tail.contains("CHANNEL STATE EXPIRED"), "it is not marked: {tail}");
            // Whoever watches the metrics is alarmed.
            let metrics = plain(&scene.broker, "/metrics")?;
            for line in [
                "cairn_broker_channel_expired 1\n",
                &format!("cairn_broker_channel_expires_seconds {}\n", publisher.channel.expires),
                "cairn_broker_releases{standing=\"good\"} 0\n",
                "cairn_broker_releases{standing=\"refused\"} 1\n",
            ] {
                ensure!(metrics.contains(line), "no {line:?} in {metrics}");
            }
        } else {
            let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Unlock)?;
            scene.broker.must_refuse(&response, expired)?;
        }
        let mut new = scene.another("two")?;
        let (_, response) = ask(&scene.broker, &mut new, Purpose::Provision)?;
        scene.broker.must_refuse(&response, expired)?;
    }
    Ok(())
}
