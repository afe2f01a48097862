//! The hash tree of 1 GiB, against `veritysetup format` and the rate at which openssl hashes on all CPUs.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cairn_image::verity::{Parameters, write_tree};
use clap::Args;
use serde::{Deserialize, Serialize};

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
    let (mut ours, mut theirs, mut peak) = (f64::MAX, f64::MAX, 0.0_f64);
    for _ in 0..ROUNDS {
        let run = in_child(&data, &folder.join("ours"))?;
        ours = ours.min(run.seconds);
        peak = peak.max(run.peak_mib);
    }
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
        Measure {
            what: "verity, 1 GiB".into(),
            against: "veritysetup".into(),
            unit: "s".into(),
            ours,
            theirs,
            goal: 1.0 / 2.2,
        },
        Measure {
            what: "verity, 1 GiB".into(),
            against: "openssl's rate".into(),
            unit: "s".into(),
            ours,
            theirs: at_limit,
            goal: 1.25,
        },
        Measure {
            what: "verity, memory".into(),
            against: "bound".into(),
            unit: "MiB".into(),
            ours: peak,
            theirs: 64.0,
            goal: 1.0,
        },
    ])
}

/// Arguments of the hidden command `verity-tree`: one run in a process of its own, whose memory nothing else has touched.
#[derive(Args, Clone, Debug)]
pub struct VerityTreeArgs {
    data: PathBuf,
    out: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Run {
    seconds: f64,
    peak_mib: f64,
}

/// Writes a tree and prints what it cost.
pub fn run(args: &VerityTreeArgs) -> Result<()> {
    let out = File::create(&args.out).context("Failed to make a file")?;
    let input = File::open(&args.data).context("Failed to open a file")?;
    let id = uuid::Uuid::from_u128(0x6361_6972_6e00_4000_8000_0000_0000_0000);
    let start = Instant::now();
    write_tree(&input, &out, &Parameters { salt: [7; 32], uuid: id })?;
    let run = Run { seconds: start.elapsed().as_secs_f64(), peak_mib: peak_memory()? as f64 / 1024.0 };
    println!("{}", serde_json::to_string(&run).context("Failed to write JSON")?);
    Ok(())
}

fn in_child(data: &Path, out: &Path) -> Result<Run> {
    let mut child = Command::new("/proc/self/exe");
    let output = child.arg("verity-tree").arg(data).arg(out).output().context("Failed to start a process")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("Failed to read what a run cost")
}

/// VmHWM of this process in KiB: the most memory it has ever held (proc(5)).
fn peak_memory() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/status").context("Failed to read /proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.context("/proc/self/status has no VmHWM")
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
