//! `cairn`: for those who do not build images, but must know what they measure.

mod measure;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Know what an image measures.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Predict the registers of a machine that boots an image
    Measure(measure::MeasureArgs),
}

fn main() -> ExitCode {
    let Command::Measure(args) = Cli::parse().command;
    match measure::run(&args) {
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
