//! The hash tree of 1 GiB, against `veritysetup format` and the rate at which openssl hashes on all CPUs.

use std::fs::{self, File};
use std::io::Read;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cairn_image::verity::{Parameters, write_tree};

use super::Bench;
use super::report::Measure;
use crate::sandbox::{Sandbox, WORK};

const GIB: u64 = 1 << 30;
const ROUNDS: usize = 3;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Measure>> {
    bench.progress.note("bench: verity tree of 1 GiB ...");
    let folder = bench.scratch.path().join("verity");
    fs::create_dir(&folder).context("Failed to make a folder")?;
    let data = folder.join("data");
    let mut noise = File::open("/dev/urandom").context("Failed to open /dev/urandom")?.take(GIB);
    let mut file = File::create(&data).context("Failed to make a file")?;
    std::io::copy(&mut noise, &mut file).context("Failed to fill a file of 1 GiB")?;
    drop(file);

    let sandbox = Sandbox::new(&bench.tools.tree).bind(&folder, WORK).work_dir(WORK);
    let (mut ours, mut theirs) = (f64::MAX, f64::MAX);
    let before = memory("VmRSS")?;
    // Since this, the peak counts anew (proc(5)).
    fs::write("/proc/self/clear_refs", "5").context("Failed to reset the peak of memory")?;
    for _ in 0..ROUNDS {
        let out = File::create(folder.join("ours")).context("Failed to make a file")?;
        let input = File::open(&data).context("Failed to open a file")?;
        let parameters = Parameters { salt: [7; 32], uuid: bench_uuid() };
        let start = Instant::now();
        write_tree(&input, &out, &parameters)?;
        ours = ours.min(start.elapsed().as_secs_f64());
    }
    let peak = memory("VmHWM")?.saturating_sub(before);
    for _ in 0..ROUNDS {
        let mut format = sandbox.command("veritysetup");
        let start = Instant::now();
        let output = format.args(["format", "--hash=sha256", "data", "theirs"]).output();
        theirs = theirs.min(start.elapsed().as_secs_f64());
        ensure!(output.context("Failed to start veritysetup")?.status.success(), "veritysetup failed");
    }
    let limit = openssl(&sandbox)?;
    fs::remove_dir_all(&folder).context("Failed to remove a folder")?;
    let at_limit = GIB as f64 / limit;
    Ok(vec![
        Measure { what: "verity, 1 GiB", against: "veritysetup", unit: "s", ours, theirs, goal: 1.0 / 2.2 },
        Measure { what: "verity, 1 GiB", against: "openssl's rate", unit: "s", ours, theirs: at_limit, goal: 1.25 },
        Measure {
            what: "verity, memory",
            against: "bound",
            unit: "MiB",
            ours: peak as f64 / 1024.0,
            theirs: 64.0,
            goal: 1.0,
        },
    ])
}

fn bench_uuid() -> uuid::Uuid {
    uuid::Uuid::from_u128(0x6361_6972_6e00_4000_8000_0000_0000_0000)
}

/// A line of /proc/self/status, in KiB.
fn memory(field: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/self/status").context("Failed to read /proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("/proc/self/status has no {field}"))
}

/// Bytes per second of SHA-256 on all CPUs.
fn openssl(sandbox: &Sandbox) -> Result<f64> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let mut command = sandbox.command("openssl");
    let output = command.args(["speed", "-multi", &cpus, "-seconds", "2", "-bytes", "16384", "sha256"]).output();
    let text = String::from_utf8_lossy(&output.context("Failed to start openssl")?.stdout).into_owned();
    let last = text.lines().rev().find(|line| line.starts_with("sha256"));
    let rate = last.and_then(|line| line.split_whitespace().last()?.trim_end_matches('k').parse::<f64>().ok());
    Ok(rate.with_context(|| format!("openssl speed says no rate: {text}"))? * 1000.0)
}
