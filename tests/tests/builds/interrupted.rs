//! Builds that are interrupted, share their place, or have no network.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Row;
use cairn_tests::workshop::{Bench, Workshop};

/// All stages that come before the outputs, except the build root.
const STAGES: [&str; 6] = ["kernel", "packages", "root", "agent", "verity", "initrd"];

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("an_interrupted_build_leaves_nothing_and_the_next_needs_no_network", interrupted),
        Row::new("two_builds_at_once_give_one_image", two_at_once),
    ]
}

fn interrupted(shop: &Workshop, row: &str) -> Result<()> {
    let bench = shop.bench(row)?;
    bench.forget_stages(&STAGES)?;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        interrupt(&bench, "packages ...", signal)?;
        must_end(&bench)?;
        if signal != Signal::SIGKILL {
            bench.must_be_clean()?;
        }
    }
    let left = fs::read_dir(bench.checkout.join("target/image")).map_or(0, Iterator::count);
    ensure!(left == 0, "an interrupted build left {left} outputs");

    // An empty network namespace: not even loopback is up.
    let build = bench.xtask(&["build-image", "--locked"]);
    let mut alone = Command::new("unshare");
    alone.args(["--user", "--map-root-user", "--net"]).arg(build.get_program()).args(build.get_args());
    alone.current_dir(&bench.checkout).env("XDG_CACHE_HOME", &bench.cache).env_remove("CARGO_TARGET_DIR");
    bench.must_succeed(&mut alone)?;
    ensure!(bench.image()?.read("raw")? == shop.image.read("raw")?, "it gives another image");
    bench.must_be_clean()
}

/// Starts a build and sends a signal two seconds after it says `text`.
fn interrupt(bench: &Bench, text: &str, signal: Signal) -> Result<()> {
    let mut child = bench.xtask(&["build-image"]).stderr(Stdio::piped()).spawn().context("Failed to start xtask")?;
    let errors = child.stderr.take().context("no standard error")?;
    let mut lines = BufReader::new(errors).lines().map_while(std::result::Result::ok);
    if !lines.any(|line| line.contains(text)) {
        bail!("the build ended without saying {text:?}: {:?}", child.wait());
    }
    std::thread::sleep(Duration::from_secs(2));
    kill(Pid::from_raw(child.id().cast_signed()), signal).context("Failed to send a signal")?;
    let rest: Vec<String> = lines.collect();
    let status = child.wait().context("Failed to wait for xtask")?;
    if signal != Signal::SIGKILL {
        ensure!(status.code() == Some(130), "after {signal}: {status:?} {rest:?}");
        ensure!(rest.iter().any(|line| line.starts_with("Interrupted.")), "it does not say so: {rest:?}");
    }
    Ok(())
}

/// No process that works in the row's folder outlives the build for long.
fn must_end(bench: &Bench) -> Result<()> {
    let folder = bench.folder.to_string_lossy().into_owned();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let processes = fs::read_dir("/proc").context("Failed to list processes")?.flatten();
        let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        let alive: Vec<String> = lines
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| line.contains(&folder))
            .collect();
        if alive.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "processes are left: {alive:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn two_at_once(shop: &Workshop, row: &str) -> Result<()> {
    let bench = shop.bench(row)?;
    bench.forget_stages(&["root", "verity", "initrd"])?;
    let start = || {
        bench
            .xtask(&["build-image"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("Failed to start xtask")
    };
    let (first, second) = (start()?, start()?);
    for build in [first, second] {
        let output = build.wait_with_output().context("Failed to wait for xtask")?;
        ensure!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    ensure!(bench.image()?.read("raw")? == shop.image.read("raw")?, "it is another image");
    bench.must_be_clean()
}
