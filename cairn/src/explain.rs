//! `cairn explain`: why a machine did not measure what was predicted.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use measurements::boot::{self, Image, Point};
use measurements::explain::{Verdict, explain, text};
use measurements::parse::tcg_log::Log;
use serde_json::json;

use crate::inputs::{MachineArgs, read};

/// Arguments of `explain`.
#[derive(Args)]
#[command(after_help = "\
Exit codes: 0 everything is as predicted; 3 something is not; 4 nothing can be compared; 1 a file cannot be used.

The log is what the machine's kernel shows in /sys/kernel/security/tpm0/binary_bios_measurements.

Example: cairn explain --image cairn_0.1.0.raw --machine q35.machine.json --event-log log.bin")]
pub struct ExplainArgs {
    /// The image that the machine should have booted: raw disk or UKI
    #[arg(long)]
    image: PathBuf,
    #[command(flatten)]
    machine: MachineArgs,
    /// The firmware's log of the machine
    #[arg(long, value_name = "FILE")]
    event_log: PathBuf,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Explains; the text to print and the exit code.
pub fn run(args: &ExplainArgs) -> Result<(String, ExitCode)> {
    let unusable = |path: &PathBuf| format!("{} cannot be used", path.display());
    let image = Image::parse(&read(&args.image)?).with_context(|| unusable(&args.image))?;
    let machine = args.machine.read()?;
    let log = Log::parse(&read(&args.event_log)?).with_context(|| unusable(&args.event_log))?;
    let user_space = image.user_space().with_context(|| unusable(&args.image))?;
    let predicted =
        boot::events(&image, &machine, user_space, Point::Firmware).with_context(|| unusable(&args.image))?;
    let verdict = explain(&predicted, &log);
    let shown = if args.json { document(&verdict) } else { text(&verdict) };
    Ok((shown, ExitCode::from(code(&verdict))))
}

fn code(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Match { .. } => 0,
        Verdict::Mismatch(_) => 3,
        Verdict::CannotTell(_) => 4,
    }
}

fn document(verdict: &Verdict) -> String {
    let value = match verdict {
        Verdict::Match { events, unknown } => json!({"verdict": "match", "events": events, "not_compared": unknown}),
        Verdict::CannotTell(reason) => json!({"verdict": "cannot-tell", "reason": reason}),
        Verdict::Mismatch(mismatch) => json!({
            "verdict": "mismatch",
            "event": mismatch.position,
            "pcr": mismatch.register,
            "bank": mismatch.bank.name(),
            "expected": mismatch.expected,
            "found": mismatch.found,
            "cause": mismatch.cause,
            "whose": format!("{:?}", mismatch.whose).to_lowercase(),
            "next": mismatch.next,
        }),
    };
    format!("{value}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_has_its_exit_code() {
        let all = Verdict::Match { events: 3, unknown: vec![1] };
        assert_eq!((code(&all), code(&Verdict::CannotTell("x"))), (0, 4));
        assert_eq!(document(&all), "{\"events\":3,\"not_compared\":[1],\"verdict\":\"match\"}\n");
    }
}
