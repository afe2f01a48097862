//! A monitor beside the real log.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use cairn_tests::environment::program;

use crate::Row;
use crate::scene::{Scene, Site, said};

pub fn rows() -> Vec<Row> {
    vec![Row::new("a_monitor_follows_the_real_log_and_finds_what_nobody_published", follows)]
}

fn monitor(site: &Site, log: &str, state: &Path, published: &[&Path]) -> Result<Output> {
    monitor_with(site, log, state, published, &[])
}

fn monitor_with(site: &Site, log: &str, state: &Path, published: &[&Path], acknowledged: &[u64]) -> Result<Output> {
    let mut command = Command::new(program("cairn")?);
    command.arg("monitor").arg(log).arg("--trust-root").arg(site.folder.join("trust-root.json"));
    command.arg("--state").arg(state).arg("--json");
    if !published.is_empty() {
        command.arg("--published").args(published);
    }
    if !acknowledged.is_empty() {
        command.arg("--acknowledge").args(acknowledged.iter().map(u64::to_string));
    }
    command.output().context("Failed to start cairn")
}

fn follows(scene: &Scene, row: &str) -> Result<()> {
    const ALARM: i32 = 3;
    let (site, release) = (scene.site(row)?, scene.release(row)?);
    let (read, state) = (format!("{}/api/v2", site.witnessed.log.read), site.folder.join("monitor.state"));
    let seen = |output: &Output| -> Result<(i32, serde_json::Value)> {
        let code = output.status.code().context("cairn was killed")?;
        let value = serde_json::from_slice(&output.stdout).with_context(|| said(output))?;
        Ok((code, value))
    };
    site.must_publish(&release.folder, &[])?;
    let (code, value) = seen(&monitor(&site, &read, &state, &[&release.folder])?)?;
    ensure!(code == 0 && value["ours"] == 2 && value["read"] == 2 && value["size"] == 2, "{code}: {value}");

    // One more release, whose statements the monitor is not shown.
    let secret = scene.release_of(&format!("{row}-secret"), |image| image.source_date += 1)?;
    site.must_publish(&secret.folder, &[])?;
    let older = fs::read(&state)?;
    let (code, value) = seen(&monitor(&site, &read, &state, &[&release.folder])?)?;
    ensure!(code == ALARM && value["read"] == 2, "{code}: {value}");
    ensure!(value["alarms"].as_array().is_some_and(|alarms| alarms.len() == 2), "{value}");
    ensure!(value["alarms"][0]["code"] == "UNPUBLISHED", "{value}");
    // Each look shows both again, by their numbers, until they are acknowledged: also a look that reads nothing new.
    for _ in 0..2 {
        let (code, value) = seen(&monitor(&site, &read, &state, &[&release.folder, &secret.folder])?)?;
        let numbers: Vec<_> =
            value["alarms"].as_array().context("no alarms")?.iter().map(|alarm| &alarm["number"]).collect();
        ensure!(code == ALARM && value["read"] == 0 && numbers == [1, 2], "{code}: {value}");
    }
    let wrong = monitor_with(&site, &read, &state, &[&release.folder], &[1, 9])?;
    ensure!(wrong.status.code() == Some(1) && said(&wrong).contains("cannot acknowledge alarm 9"), "{}", said(&wrong));
    let (code, value) = seen(&monitor_with(&site, &read, &state, &[&release.folder], &[2])?)?;
    ensure!(code == ALARM && value["alarms"].as_array().is_some_and(|alarms| alarms.len() == 1), "{code}: {value}");
    let answered = monitor_with(&site, &crate::scene::dead_address()?, &state, &[&release.folder], &[1])?;
    ensure!(answered.status.code() == Some(1), "a dead log is fine: {}", said(&answered));
    let (code, value) = seen(&monitor(&site, &read, &state, &[&release.folder])?)?;
    ensure!(code == 0 && value["alarms"].as_array().is_some_and(Vec::is_empty), "{code}: {value}");
    // Shown everything, in one directory of directories, the same two entries are fine.
    let releases = site.folder.join("published");
    fs::create_dir_all(releases.join("stable")).context("Failed to make a directory")?;
    for (folder, name) in [(&release.folder, "first"), (&secret.folder, "stable/second")] {
        let copied = Command::new("cp").arg("-r").arg(folder).arg(releases.join(name)).status();
        ensure!(copied.context("Failed to copy a release")?.success(), "a release cannot be copied");
    }
    fs::write(&state, &older).context("Failed to put a state back")?;
    let (code, value) = seen(&monitor(&site, &read, &state, &[&releases])?)?;
    ensure!(code == 0 && value["alarms"].as_array().is_some_and(Vec::is_empty), "{code}: {value}");
    fs::write(&state, &older).context("Failed to put a state back")?;
    let (code, value) = seen(&monitor(&site, &read, &state, &[&release.folder, &secret.folder])?)?;
    ensure!(code == 0 && value["alarms"].as_array().is_some_and(Vec::is_empty), "{code}: {value}");

    // Somebody shows the monitor files in which one hash of an entry is another: a copy of the log's folder.
    let copy = site.folder.join("copy");
    let from = site.witnessed.log.folder().join("tiles");
    let copied = Command::new("cp").arg("-r").arg(&from).arg(&copy).status().context("Failed to copy the log")?;
    ensure!(copied.success(), "the log cannot be copied");
    let entries = fs::read_dir(copy.join("tile/entries"))?.flatten().map(|entry| entry.path());
    for folder in entries.filter(|path| path.is_dir()) {
        for file in fs::read_dir(folder)?.flatten() {
            let mut bytes = fs::read(file.path())?;
            let last = bytes.len() - 3;
            bytes[last] ^= 1;
            fs::write(file.path(), bytes).context("Failed to change an entry")?;
        }
    }
    fs::write(&state, &older).context("Failed to put a state back")?;
    let log = copy.display().to_string();
    let (code, value) = seen(&monitor(&site, &log, &state, &[&release.folder, &secret.folder])?)?;
    ensure!(code == ALARM && value["alarms"][0]["code"] == "FORK", "{code}: {value}");
    let kept = |bytes: &[u8]| -> Result<serde_json::Value> {
        let mut value: serde_json::Value = serde_json::from_slice(bytes)?;
        value.as_object_mut().context("the state is no object")?.remove("alarms");
        Ok(value)
    };
    ensure!(kept(&fs::read(&state)?)? == kept(&older)?, "what was known before the fork is lost");
    // The log shows its own files again; that it forked stays an alarm.
    let (code, value) = seen(&monitor(&site, &read, &state, &[&releases])?)?;
    ensure!(code == ALARM && value["alarms"][0]["code"] == "FORK" && value["size"] == 4, "{code}: {value}");
    let silent = monitor(&site, &crate::scene::dead_address()?, &state, &[])?;
    ensure!(silent.status.code() == Some(1), "a dead log is fine: {}", said(&silent));
    Ok(())
}
