//! Which releases are good, said in the real log; and a key broker that believes nothing else.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use cairn_tests::broker::Broker;
use cairn_tests::environment::program;

use crate::Row;
use crate::scene::{MEASURED_BOOT, Scene, Site, must_fail, said};

pub fn rows() -> Vec<Row> {
    vec![Row::new("a_broker_allows_what_the_real_log_has_and_the_channel_calls_good", allowed)]
}

/// Runs `publisher channel`.
pub fn channel(site: &Site, words: &[&str]) -> Result<Output> {
    let log = &site.witnessed.log;
    let mut command = Command::new(program("publisher")?);
    command.arg("channel").args(words).arg("--folder").arg(site.folder.join("channels"));
    if words[0] != "show" {
        command.args(["--log", &log.write, "--read-log", &log.read]).arg("--key").arg(site.folder.join("release.key"));
        if !words.contains(&"--trust-root") {
            command.arg("--trust-root").arg(site.folder.join("trust-root.json"));
        }
    }
    command.output().context("Failed to start the publisher")
}

pub fn must(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{}", said(output));
    Ok(said(output))
}

fn give(broker: &Broker, words: &[&str], path: &Path) -> Result<Output> {
    broker.command(&[words, &[&*path.display().to_string()]].concat())
}

fn allowed(scene: &Scene, row: &str) -> Result<()> {
    let (site, release) = (scene.site(row)?, scene.release(row)?);
    site.must_publish(&release.folder, &[])?;
    let bundle = release.of(MEASURED_BOOT, "sigstore.json");
    let name = bundle.display().to_string();
    let state = |version: u32| site.folder.join(format!("channels/stable-v{version:06}.channel.sigstore.json"));
    must_fail(&channel(&site, &["show", "stable"])?, &["channel init"])?;
    must(&channel(&site, &["init", "stable", &name])?)?;
    must_fail(&channel(&site, &["init", "stable", &name])?, &["is there already"])?;

    let mut broker = Broker::of_assurance("tpm-virtual", "")?;
    broker.run()?;
    let allow = ["release", "allow", "--bundle"];
    must_fail(&give(&broker, &allow, &bundle)?, &["TRUST_ROOT_MISSING"])?;
    must(&give(&broker, &["trust", "set"], &site.folder.join("trust-root.json"))?)?;
    must_fail(&give(&broker, &allow, &bundle)?, &["CHANNEL_MISSING"])?;
    must(&give(&broker, &["channel", "set"], &state(1))?)?;
    must(&give(&broker, &allow, &bundle)?)?;
    let list = broker.admin(&["release", "list"])?;
    ensure!(list[0]["verdict"] == "logged", "{list}");

    must(&channel(&site, &["promote", "stable", &name, "--least-epoch", "1000"])?)?;
    must(&give(&broker, &["channel", "set"], &state(2))?)?;
    must_fail(&give(&broker, &allow, &bundle)?, &["EPOCH"])?;
    must_fail(&channel(&site, &["renew", "stable", "--least-epoch", "1"])?, &["never falls"])?;
    must(&channel(&site, &["revoke", "stable", "cairn_0.1.0"])?)?;
    let shown = must(&channel(&site, &["show", "stable"])?)?;
    ensure!(shown.contains("version      3") && shown.contains("revoked      cairn_0.1.0"), "{shown}");
    must(&give(&broker, &["channel", "set"], &state(3))?)?;
    must_fail(&give(&broker, &allow, &bundle)?, &["REVOKED"])?;
    must_fail(&channel(&site, &["promote", "stable", &name])?, &["is revoked, and stays so"])?;
    // An older state is not taken again.
    must_fail(&give(&broker, &["channel", "set"], &state(1))?, &["CHANNEL_ROLLBACK"])?;
    // A newest state that somebody exchanged is not built upon.
    fs::copy(&bundle, state(4)).context("Failed to put a file")?;
    must_fail(&channel(&site, &["renew", "stable"])?, &["is not believed"])
}
