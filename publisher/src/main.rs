//! `publisher`: signs what was built and measured, and writes it to a transparency log. `cargo xtask publish`, `channel` and `keygen` run it.
//!
//! It is a program of its own so that building an image compiles nothing of it.

mod channel;
mod files;
mod http;
mod keygen;
mod log;
mod publish;
mod rekor_v1;
mod signer;
mod statements;
mod timestamps;
mod trust;
mod trust_root;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Publish releases to a transparency log.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a release key
    Keygen(keygen::KeygenArgs),
    /// Say which releases are good
    #[command(subcommand)]
    Channel(Box<channel::ChannelCommand>),
    /// Sign an image or a machine reference, and log it
    Publish(Box<publish::PublishArgs>),
    /// See whether key and trust root are there and belong together
    #[command(hide = true)]
    Check(Box<publish::CheckArgs>),
    /// Say that an image was built again, and came out the same (`cargo xtask rebuild` does it)
    #[command(hide = true)]
    Rebuilt(Box<publish::RebuiltArgs>),
    /// Say whom verifiers believe
    #[command(subcommand)]
    TrustRoot(Box<trust_root::TrustRootCommand>),
}

fn main() -> ExitCode {
    // rustls finds two providers of cryptography in this program. It fails only if one was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let outcome = match Cli::parse().command {
        Command::Channel(command) => channel::run(&command),
        Command::Check(args) => publish::check(&args),
        Command::Keygen(args) => keygen::run(&args),
        Command::Publish(args) => publish::run(&args),
        Command::Rebuilt(args) => publish::rebuilt(&args),
        Command::TrustRoot(command) => trust_root::run(&command),
    };
    match outcome {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
