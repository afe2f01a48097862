//! `cargo xtask package`: Debian packages of the programs for hosts that build nothing.
//!
//! The programs are compiled in the locked build root, as the agent is, and packed there by its own dpkg-deb. Two builds of one
//! revision give the same bytes. `publisher` is not packaged: it runs beside the checkout whose images it signs.

mod compile;
mod debian;
mod dependencies;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::build::agent::Compiler;
use crate::build::pinned_toolchain;
use crate::build::sources::Sources;
use crate::build::stage::Stages;
use crate::build::tools::Tools;
use crate::checkout::Checkout;
use crate::config::image::ImageConfig;
use crate::digest::Sha256Digest;
use crate::lock::sets;
use crate::progress::{Progress, megabytes};
use crate::store::Store;
use debian::PACKAGES;

/// Build Debian packages of cairn and key-broker
#[derive(Args, Clone, Debug, Default)]
#[command(after_help = "Example: cargo xtask package --locked && sudo apt install ./target/packages/cairn_*.deb")]
pub struct PackageArgs {
    /// Directory for the packages [default: target/packages]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Build from os/packages.lock and the pinned toolchain or not at all
    #[arg(long)]
    pub locked: bool,
    /// JSON lines instead of text
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(args: &PackageArgs, progress: &Progress) -> Result<()> {
    let (checkout, store) = (Checkout::find()?, Store::open()?);
    let out = args.out.clone().unwrap_or_else(|| checkout.target().join("packages"));
    fs::create_dir_all(&out)
        .with_context(|| format!("cannot create {}\nhint: name another directory with --out", out.display()))?;
    let stages = Stages::new(&store, progress);
    let image = ImageConfig::read(&checkout.join("os/image.toml"))?;
    let toolchain = pinned_toolchain(&checkout, args.locked, progress)?;
    let sources = Sources::get(&checkout, &[sets::BUILD_ROOT], args.locked, &store, progress)?;
    let tools = Tools::get(&checkout, &image, &sources, &stages)?;
    let compiler = Compiler { build_root: &tools.made, tools: &tools.tree, toolchain: &toolchain, checkout: &checkout };
    let programs = compile::make(&compiler, &stages)?;
    for package in &PACKAGES {
        let made = package.make(&compiler, &stages, &programs, sources.lock.source_date()?)?;
        let path = out.join(package.file_name());
        replace(&made.join(&package.file_name()), &path)?;
        let (digest, size) = Sha256Digest::of_file(&path)?;
        println!("{}", line(&path, size, &digest, args.json));
    }
    Ok(())
}

/// Copies a file to its place in one step.
fn replace(from: &Path, to: &Path) -> Result<()> {
    let partial = to.with_extension("partial");
    fs::copy(from, &partial).with_context(|| format!("cannot write {}", partial.display()))?;
    fs::rename(&partial, to).with_context(|| format!("cannot write {}", to.display()))
}

fn line(path: &Path, size: u64, digest: &Sha256Digest, json: bool) -> String {
    let path = path.display().to_string();
    match json {
        true => serde_json::json!({"path": path, "sha256": digest.to_string(), "size": size}).to_string(),
        false => format!("{path}  {}  {digest}", megabytes(size)),
    }
}
