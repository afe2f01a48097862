//! `cargo xtask bench`: what this design promises in numbers, each against a peer in the same run on the same machine.
//!
//! Ratios are ours divided by the peer's, so less is better and every goal is an upper bound. Nothing here passes or fails a test.

mod boot;
mod broker;
mod builds;
pub mod launch;
mod pypi;
pub mod report;
pub mod rounds;
mod verify;
pub mod verity;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::build::outputs::Built;
use crate::build::sources::Sources;
use crate::build::stage::Stages;
use crate::build::tools::Tools;
use crate::build::{self, BuildArgs};
use crate::checkout::Checkout;
use crate::config::image::ImageConfig;
use crate::host;
use crate::interrupt::Scratch;
use crate::lock::sets;
use crate::progress::{Progress, Style};
use crate::store::Store;
use report::Found;

/// Measure the promises in numbers against peers; writes bench.json
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example: cargo xtask bench --only verity")]
pub struct BenchArgs {
    /// Only these groups
    #[arg(long, value_enum, num_args = 1..)]
    only: Vec<Group>,
    /// Where bench.json and bench.txt go [default: target/bench]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What is measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Time of builds and sizes of outputs, against mkosi
    Builds,
    /// The hash tree, against veritysetup and openssl
    Verity,
    /// From PID 1 to the root, against systemd's initrd
    Boot,
    /// Launch digests and PCR 11, against the crate sev, sev-snp-measure and systemd-measure
    Launch,
    /// The key broker under load
    Broker,
    /// Bundles verified, published and watched, against cosign and Python's sigstore
    Verify,
}

/// What all groups share.
struct Bench {
    checkout: Checkout,
    store: Store,
    image: ImageConfig,
    sources: Sources,
    tools: Tools,
    progress: Progress,
    scratch: Scratch,
    /// An image, built before anything is measured.
    first: Built,
}

/// Runs the benchmarks.
pub fn run(args: &BenchArgs) -> Result<ExitCode> {
    host::require(host::TO_BUILD)?;
    crate::interrupt::handle()?;
    let bench = Bench::prepare()?;
    let wanted = |group: Group| args.only.is_empty() || args.only.contains(&group);
    let out = args.out.clone().unwrap_or_else(|| bench.checkout.target().join("bench"));
    let mut found = Found::default();
    if wanted(Group::Verity) {
        found.measures.extend(verity::measure(&bench)?);
    }
    if wanted(Group::Launch) {
        found.measures.extend(launch::measure(&bench)?);
    }
    if wanted(Group::Broker) {
        found.extend(broker::measure(&bench, &out)?);
    }
    if wanted(Group::Verify) {
        found.extend(verify::measure(&bench)?);
    }
    if wanted(Group::Builds) || wanted(Group::Boot) {
        // Boots need the images that builds make.
        let (images, rows) = builds::measure(&bench)?;
        found.measures.extend(rows);
        if wanted(Group::Boot) {
            found.measures.extend(boot::measure(&bench, &images)?);
        }
    }
    print!("{}", report::write(&found, &out)?);
    Ok(ExitCode::SUCCESS)
}

impl Bench {
    /// Everything that is not measured is made first: packages, build root, agent.
    fn prepare() -> Result<Self> {
        let (checkout, store, progress) = (Checkout::find()?, Store::open()?, Progress::new(Style::Human));
        let image = ImageConfig::read(&checkout.join("os/image.toml"))?;
        let sets = [sets::BUILD_ROOT, sets::KERNEL, sets::ROOT, sets::BENCH];
        let sources = Sources::get(&checkout, &sets, true, &store, &progress)?;
        let tools = Tools::get(&checkout, &image, &sources, &Stages::new(&store, &progress))?;
        let target = checkout.target();
        std::fs::create_dir_all(&target).with_context(|| format!("Failed to make {}", target.display()))?;
        let scratch = Scratch::new(&target)?;
        let first = BuildArgs { out: Some(scratch.path().join("first")), locked: true, ..BuildArgs::default() };
        let first = build::run_in(&checkout, &store, &first, &progress)?;
        Ok(Self { checkout, store, image, sources, tools, progress, scratch, first })
    }
    /// Cargo in this checkout.
    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).current_dir(self.checkout.root());
        command
    }
}

/// Runs a command that must succeed; its standard output.
fn output_of(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("Failed to start {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} wrote no text"))
}
