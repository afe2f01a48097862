//! `publisher`: signs what was built and measured, and writes it to a transparency log. `cargo xtask publish`, `channel` and `keygen` run it.
//!
//! It is a program of its own so that building an image compiles nothing of it. Without its feature `log` it has keys, trust roots and what else needs
//! neither a network nor the verifiers of others, and compiles in a fraction of the time.

mod certificate;
mod channel;
mod files;
#[cfg(feature = "log")]
mod http;
mod key_file;
mod keygen;
mod known;
#[cfg(feature = "log")]
mod log;
mod private_key;
#[cfg(feature = "log")]
mod publish;
#[cfg(feature = "log")]
mod rekor_v1;
#[cfg(feature = "log")]
mod signer;
#[cfg(feature = "log")]
mod statements;
#[cfg(feature = "log")]
mod timestamps;
#[cfg(feature = "log")]
mod trust;
mod trust_root;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use measurements::text::for_terminal;

/// Publish releases to a transparency log.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Of a subcommand that other programs call with the options that they were given.
#[cfg(feature = "log")]
const LOG_USAGE: &str = "cargo xtask release|rebuild [...] with the options of `cargo xtask publish`";

#[derive(Subcommand)]
enum Command {
    /// Make a release key
    Keygen(keygen::KeygenArgs),
    /// Say which releases are good
    #[command(subcommand)]
    Channel(Box<channel::ChannelCommand>),
    #[cfg(feature = "log")]
    /// Sign an image or a machine reference, and log it
    Publish(Box<publish::PublishArgs>),
    #[cfg(feature = "log")]
    /// See whether key and trust root are there and belong together
    #[command(hide = true, override_usage = LOG_USAGE)]
    Check(Box<publish::CheckArgs>),
    #[cfg(feature = "log")]
    /// Say that an image was built again, and came out the same (`cargo xtask rebuild` does it)
    #[command(hide = true, override_usage = LOG_USAGE)]
    Rebuilt(Box<publish::RebuiltArgs>),
    /// Say whom verifiers believe
    #[command(subcommand)]
    TrustRoot(Box<trust_root::TrustRootCommand>),
}

fn main() -> ExitCode {
    // rustls finds two providers of cryptography in this program. It fails only if one was chosen before.
    #[cfg(feature = "log")]
    let _ = rustls::crypto::ring::default_provider().install_default();
    let outcome = match Cli::parse().command {
        Command::Channel(command) => channel::run(&command),
        #[cfg(feature = "log")]
        Command::Check(args) => publish::check(&args),
        Command::Keygen(args) => keygen::run(&args),
        #[cfg(feature = "log")]
        Command::Publish(args) => publish::run(&args),
        #[cfg(feature = "log")]
        Command::Rebuilt(args) => publish::rebuilt(&args),
        Command::TrustRoot(command) => trust_root::run(&command),
    };
    match outcome {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {}", for_terminal(&error));
            ExitCode::FAILURE
        }
    }
}
