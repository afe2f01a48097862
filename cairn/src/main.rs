//! `cairn`: for those who do not build images, but must know what they measure.

mod explain;
mod inputs;
mod measure;
#[cfg(feature = "verify")]
mod monitor;
mod outputs;
#[cfg(feature = "verify")]
mod pack;
mod receipt;
mod recover;
#[cfg(feature = "verify")]
mod verify;
mod verify_node;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use measurements::text::for_terminal;

/// Know what an image measures.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write man pages and shell completions
    Documents(documents::DocumentsArgs),
    /// Predict the registers of a machine that boots an image
    Measure(measure::MeasureArgs),
    /// Say why a machine did not measure what was predicted
    Explain(explain::ExplainArgs),
    /// Follow a log, and say when it forks, freezes, or has what nobody published
    #[cfg(feature = "verify")]
    Monitor(monitor::MonitorArgs),
    /// Put all that a verifier without a network needs into one file
    #[cfg(feature = "verify")]
    Pack(pack::PackArgs),
    /// Open a state disk without its broker
    Recover(recover::RecoverArgs),
    /// Verify a release without a network
    #[cfg(feature = "verify")]
    Verify(verify::VerifyArgs),
    /// Ask a running node what it is
    VerifyNode(verify_node::VerifyNodeArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Documents(args) => args.write(&Cli::command()).map(|()| (String::new(), ExitCode::SUCCESS)),
        Command::Measure(args) => measure::run(&args).map(|text| (text, ExitCode::SUCCESS)),
        Command::Explain(args) => explain::run(&args),
        #[cfg(feature = "verify")]
        Command::Monitor(args) => {
            // rustls finds two providers of cryptography in this program. It fails only if one was chosen before.
            let _ = rustls::crypto::ring::default_provider().install_default();
            monitor::run(&args)
        }
        #[cfg(feature = "verify")]
        Command::Pack(args) => pack::run(&args),
        Command::Recover(args) => recover::run(&args).map(|text| (text, ExitCode::SUCCESS)),
        #[cfg(feature = "verify")]
        Command::Verify(args) => verify::run(&args),
        Command::VerifyNode(args) => verify_node::run(&args),
    };
    match outcome {
        Ok((text, code)) => {
            print!("{text}");
            code
        }
        Err(error) => {
            eprintln!("error: {}", for_terminal(&error));
            ExitCode::FAILURE
        }
    }
}
