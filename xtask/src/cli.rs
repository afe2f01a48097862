//! The command line of `cargo xtask`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::boot::BootArgs;
use crate::build::{self, BuildArgs};
use crate::checkout::Checkout;
use crate::config::image::ImageConfig;
use crate::lock::sets;
use crate::progress::{Progress, Style};
use crate::sandbox::InRootArgs;
use crate::store::Store;

/// Build, boot and test Cairn images.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build and measure an image
    BuildImage(BuildArgs),
    /// Resolve the packages of all sets and write os/packages.lock
    Lock(LockArgs),
    /// Start an image in a virtual machine
    Boot(BootArgs),
    /// Run a program inside the build root
    InRoot(InRootArgs),
}

/// Arguments of `lock`.
#[derive(Args)]
#[command(after_help = "Example: cargo xtask lock --update systemd linux-image-cloud-amd64")]
pub struct LockArgs {
    /// Move these packages, or all if none is named, to the newest versions of their suites
    #[arg(long, num_args = 0.., value_name = "PACKAGE")]
    pub update: Option<Vec<String>>,
    /// JSON lines instead of text
    #[arg(long)]
    pub json: bool,
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    // rustls may find two providers in the tree; this one is ours. It fails only if it was installed before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    run(Cli::parse().command).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::BuildImage(args) => build::run(&args, &progress(args.json)).map(|_| ExitCode::SUCCESS),
        Command::Lock(args) => crate::lock::command::run(&args, &progress(args.json)).map(|()| ExitCode::SUCCESS),
        Command::Boot(args) => {
            let tools = build_root(&progress(false))?;
            crate::boot::run(&args, &tools.tree, &Checkout::find()?.target().join("image"))
        }
        Command::InRoot(args) => {
            let tools = build_root(&progress(false))?;
            let code = args.run(&tools.tree)?;
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
        }
    }
}

/// The build root of the checkout, made if need be.
pub fn build_root(progress: &Progress) -> Result<build::tools::Tools> {
    let checkout = Checkout::find()?;
    let store = Store::open()?;
    let image = ImageConfig::read(&checkout.join("os/image.toml"))?;
    let sources = build::sources::Sources::get(&checkout, &[sets::BUILD_ROOT], false, &store, progress)?;
    build::tools::Tools::get(&checkout, &image, &sources, &build::stage::Stages::new(&store, progress))
}

fn progress(json: bool) -> Progress {
    Progress::new(if json { Style::Json } else { Style::Human })
}
