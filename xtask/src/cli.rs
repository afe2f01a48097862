//! The command line of `cargo xtask`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use measurements::text::for_terminal;

use crate::bench::BenchArgs;
use crate::bench::verity::VerityTreeArgs;
use crate::boot::BootArgs;
use crate::build::{self, BuildArgs};
use crate::checkout::Checkout;
use crate::config::image::ImageConfig;
use crate::configure::ConfigureArgs;
use crate::host;
use crate::interrupt;
use crate::lock::sets;
use crate::log_server::{self, LogServerArgs};
use crate::machine::record::RecordArgs;
use crate::mutants::MutantsArgs;
use crate::neighbours::hand_over;
use crate::package::PackageArgs;
use crate::progress::{Progress, Style};
use crate::rebuild::RebuildArgs;
use crate::release::ReleaseArgs;
use crate::sandbox::InRootArgs;
use crate::store::Store;
use crate::test::TestArgs;

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
    /// Fetch every locked package and crate that builds need, so that they need no network
    Fetch(FetchArgs),
    /// Start an image in a virtual machine
    Boot(BootArgs),
    /// Write a copy of an image that belongs to a cluster
    Configure(ConfigureArgs),
    /// Build Debian packages of cairn and key-broker
    Package(PackageArgs),
    /// Run every test; the last line counts them
    Test(TestArgs),
    /// Take each check of the security core out, and require that a test fails
    Mutants(MutantsArgs),
    /// Measure the promises in numbers against peers
    Bench(BenchArgs),
    /// One run for the benchmark of the hash tree
    #[command(hide = true)]
    VerityTree(VerityTreeArgs),
    /// Start a transparency log on this host
    LogServer(LogServerArgs),
    /// Record what a machine of a shape measures
    RecordMachine(RecordArgs),
    /// Predict the registers of a machine that boots an image (`cairn measure`)
    #[command(disable_help_flag = true)]
    Measure(HandedOver),
    /// Say why a machine did not measure what was predicted (`cairn explain`)
    #[command(disable_help_flag = true)]
    Explain(HandedOver),
    /// Make a release key (`publisher keygen`)
    #[command(disable_help_flag = true)]
    Keygen(HandedOver),
    /// Say which releases are good: init, promote, revoke, renew, show (`publisher channel`)
    #[command(disable_help_flag = true)]
    Channel(HandedOver),
    /// Sign an image or a machine reference, and write it to a transparency log (`publisher publish`)
    #[command(disable_help_flag = true)]
    Publish(HandedOver),
    /// Build, try, publish and promote a release, and write its page
    Release(ReleaseArgs),
    /// Build a published image again, and compare every output and every event
    Rebuild(RebuildArgs),
    /// Say whom verifiers believe: keygen, make, sign, show (`publisher trust-root`)
    #[command(disable_help_flag = true)]
    TrustRoot(HandedOver),
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
    /// JSON instead of text, one object a line
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `fetch`.
#[derive(Args)]
pub struct FetchArgs {
    /// JSON instead of text, one object a line
    #[arg(long)]
    pub json: bool,
}

/// Arguments for another program of the workspace.
#[derive(Args)]
pub struct HandedOver {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<std::ffi::OsString>,
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    crate::fetch::choose_provider();
    run(Cli::parse().command).unwrap_or_else(|error| {
        interrupt::wait_if_ending();
        eprintln!("error: {}", for_terminal(&error));
        if let Some(hint) = hint_of(&error) {
            eprintln!("hint: {hint}");
        }
        ExitCode::FAILURE
    })
}

/// What to do about a full disk, where the error does not name it already.
fn hint_of(error: &anyhow::Error) -> Option<&'static str> {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let is_full = |cause: &std::io::Error| [QuotaExceeded, StorageFull].contains(&cause.kind());
    let has_hint = format!("{error:#}").contains("\nhint: ");
    let is_full = error.chain().filter_map(|cause| cause.downcast_ref()).any(is_full);
    (is_full && !has_hint).then_some("make room on the disk of the file that the error names, and run again")
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::BuildImage(args) => {
            begin()?;
            build::run(&args, &progress(args.json)).map(|_| ExitCode::SUCCESS)
        }
        Command::Lock(args) => {
            begin()?;
            crate::lock::command::run(&args, &progress(args.json)).map(|()| ExitCode::SUCCESS)
        }
        Command::Fetch(args) => {
            begin()?;
            fetch(&progress(args.json)).map(|()| ExitCode::SUCCESS)
        }
        Command::Package(args) => {
            begin()?;
            crate::package::run(&args, &progress(args.json)).map(|()| ExitCode::SUCCESS)
        }
        Command::Configure(args) => crate::configure::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Test(args) => crate::test::run(&args),
        Command::Mutants(args) => crate::test::run_mutants(&args),
        Command::Bench(args) => crate::bench::run(&args),
        Command::VerityTree(args) => crate::bench::verity::run(&args).map(|()| ExitCode::SUCCESS),
        Command::LogServer(args) => {
            interrupt::handle()?;
            log_server::run(&args, &progress(false))
        }
        Command::RecordMachine(args) => {
            let tools = build_root(&progress(false))?;
            let path = crate::machine::record::run(&args, &Checkout::find()?, &tools, &progress(false))?;
            println!("{}", path.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Measure(args) => hand_over("measure", &args.arguments),
        Command::Explain(args) => hand_over("explain", &args.arguments),
        Command::Channel(args) => hand_over("channel", &args.arguments),
        Command::Keygen(args) => hand_over("keygen", &args.arguments),
        Command::Publish(args) => hand_over("publish", &args.arguments),
        Command::Release(args) => {
            begin()?;
            crate::release::run(&args, &progress(false)).map(|()| ExitCode::SUCCESS)
        }
        Command::Rebuild(args) => {
            begin()?;
            crate::rebuild::run(&args, &progress(args.json))
        }
        Command::TrustRoot(args) => hand_over("trust-root", &args.arguments),
        Command::Boot(args) => {
            host::require(host::TO_BUILD)?;
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

fn begin() -> Result<()> {
    host::require(host::TO_BUILD)?;
    interrupt::handle()
}

fn fetch(progress: &Progress) -> Result<()> {
    let (checkout, store) = (Checkout::find()?, Store::open()?);
    build::agent::fetch_sources(&checkout)?;
    let sets = sets::read(checkout.root())?;
    // No build needs the logs of the tests, and their suite forgets versions quickly.
    let is_log = |name: &str| [sets::LOG, sets::LOG_V1].contains(&name);
    let names: Vec<&str> = sets.keys().map(String::as_str).filter(|name| !is_log(name)).collect();
    let sources = build::sources::Sources::get(&checkout, &names, true, &store, progress)?;
    progress.note(&format!("{} packages are in the cache", sources.files.len()));
    Ok(())
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

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn full_disk_has_a_hint_and_other_errors_have_none_of_it() {
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(hint_of(&Err::<(), _>(full()).context("Failed to write x").unwrap_err()).is_some());
        assert_eq!(hint_of(&anyhow!("x")), None);
        let named = Err::<(), _>(full()).context("cannot write x\nhint: y").unwrap_err();
        assert_eq!(hint_of(&named), None, "two hints");
    }
}
