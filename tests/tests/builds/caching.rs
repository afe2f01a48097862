//! A stage runs when its inputs changed, and only then.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use cairn_tests::sources::commit;
use serde_json::Value;

use super::Row;
use cairn_tests::workshop::{Bench, Workshop};

/// Too quick to be cached: these run always.
const ALWAYS: [&str; 2] = ["disk", "outputs"];

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("only_stages_whose_inputs_changed_run_again", only_what_changed),
        Row::new("a_new_package_moves_no_other_in_the_lock", new_package),
        Row::new("an_index_older_than_the_lock_s_is_refused", older_index),
    ]
}

/// Resolved with the real mirrors.
fn new_package(shop: &Workshop, row: &str) -> Result<()> {
    let bench = shop.bench(row)?;
    let committed = bench.lock()?;
    let said = bench.must_succeed(&mut bench.xtask(&["lock"]))?;
    ensure!(bench.lock()? == committed, "a lock that answers was changed: {said}");
    // From what the mirrors have today, so that nothing has to move because it is gone.
    bench.must_succeed(&mut bench.xtask(&["lock", "--update"]))?;
    let before = bench.lock()?;
    ensure!(!before.packages.iter().any(|package| package.name == "tree"), "choose another package");
    bench.edit("mkosi.conf", "  e2fsprogs", "  e2fsprogs\n  tree")?;
    let said = bench.must_succeed(&mut bench.xtask(&["lock"]))?;
    ensure!(said.contains("tree: - -> "), "the new package is not named: {said}");
    let after = bench.lock()?;
    for package in &before.packages {
        let same = after.packages.iter().any(|other| (&other.name, other.sha256) == (&package.name, package.sha256));
        ensure!(same, "{} {} has moved", package.name, package.version);
    }
    ensure!(after.packages.len() == before.packages.len() + 1, "more than the new package came");
    bench.must_succeed(&mut bench.xtask(&["lock"]))?;
    ensure!(bench.lock()? == after, "a second run changed the lock");
    Ok(())
}

/// The real mirrors, and a lock of a later date than theirs.
fn older_index(shop: &Workshop, row: &str) -> Result<()> {
    let bench = shop.bench(row)?;
    let lock = bench.lock()?;
    let date = &lock.suites.first().context("the lock has no suite")?.date;
    bench.edit("os/packages.lock", &format!("date = \"{date}\""), "date = \"2999-01-02T03:04:05Z\"")?;
    let before = bench.lock()?;
    let words = ["is of", "os/packages.lock has one of 2999-01-02T03:04:05Z", "CAIRN_DEBIAN_MIRROR"];
    bench.must_fail(&mut bench.xtask(&["lock", "--update"]), &words)?;
    ensure!(bench.lock()? == before, "the lock was changed");
    Ok(())
}

fn only_what_changed(shop: &Workshop, row: &str) -> Result<()> {
    let bench = shop.bench(row)?;
    must_run(&bench, &[])?;
    ensure!(bench.image()?.read("raw")? == shop.image.read("raw")?, "another clone gives another image");

    // A file of os/root: neither packages nor agent.
    bench.edit("os/root/etc/hosts", "127.0.0.1", "# A comment.\n127.0.0.1")?;
    let dirty = must_run(&bench, &["root", "verity", "initrd"])?;
    ensure!(dirty["dirty"] == true, "a changed checkout is not marked: {dirty}");

    // Committed, the same again is nothing to do, and clean.
    commit(&bench.checkout, "Change a file")?;
    let clean = must_run(&bench, &[])?;
    ensure!(clean["dirty"] == false, "a clean checkout is marked: {clean}");

    let path = bench.checkout.join("initrd-agent/src/main.rs");
    let text = fs::read_to_string(&path).context("Failed to read the agent")?;
    fs::write(&path, text + "\n// A comment.\n").context("Failed to change the agent")?;
    must_run(&bench, &["agent", "initrd"]).map(drop)
}

/// Builds; exactly these stages (and those that always run) must have run.
fn must_run(bench: &Bench, expected: &[&str]) -> Result<Value> {
    let output = bench.xtask(&["build-image", "--json"]).output().context("Failed to start xtask")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let built: Value = serde_json::from_str(text.trim()).with_context(|| format!("not one line of JSON: {text}"))?;
    let stages = built["stages"].as_array().context("no stages")?;
    let mut ran: BTreeSet<&str> =
        stages.iter().filter(|stage| stage["cached"] == false).filter_map(|stage| stage["stage"].as_str()).collect();
    // It is filled where an agent is compiled, whatever has changed.
    ran.remove("agent-crates");
    let expected: BTreeSet<&str> = expected.iter().copied().chain(ALWAYS).collect();
    ensure!(ran == expected, "stages {ran:?} ran, not {expected:?}");
    Ok(built)
}
