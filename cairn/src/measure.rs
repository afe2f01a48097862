//! `cairn measure`: from a raw disk image or a UKI to registers, without root, loop device or any other program.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use measurements::boot::{self, Image, Point, UserSpace};
use measurements::tpm::{self, Value};
use measurements::{Bank, Event};
use serde_json::json;

use crate::inputs::{MachineArgs, read};

/// Arguments of `measure`.
#[derive(Args)]
#[command(after_help = "\
Without a machine, what follows from it (PCR 0, 1, 7, and 10 which sums them up) is said to depend on it.

Example: cairn measure target/image/cairn_0.1.0.raw --machine measurements/machines/q35-ovmf-2025.02-2cpus-1gib.machine.json")]
pub struct MeasureArgs {
    /// Raw disk image with an EFI system partition, or a unified kernel image
    image: PathBuf,
    #[command(flatten)]
    machine: MachineArgs,
    /// When the registers are looked at
    #[arg(long, default_value = "running")]
    at: At,
    /// How to say it
    #[arg(long, default_value = "table")]
    format: Format,
    /// Bank of the table
    #[arg(long, default_value = "sha256")]
    bank: BankName,
}

#[derive(Clone, Copy, ValueEnum)]
enum At {
    /// The firmware has handed over to the kernel
    Firmware,
    /// In the initrd
    Initrd,
    /// In the running system
    Running,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line for each register
    Table,
    /// Registers of all banks, for machines
    Json,
    /// Every measurement in order, as JSON
    EventLog,
}

#[derive(Clone, Copy, ValueEnum)]
enum BankName {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

/// Predicts; the text to print.
pub fn run(args: &MeasureArgs) -> Result<String> {
    let bytes = read(&args.image)?;
    let machine = args.machine.read()?;
    let unusable = || format!("Nothing can be predicted from {}", args.image.display());
    let image = Image::parse(&bytes).with_context(unusable)?;
    let user_space = image.user_space().with_context(unusable)?;
    let point = match args.at {
        At::Firmware => Point::Firmware,
        At::Initrd => Point::Initrd,
        At::Running => Point::Running,
    };
    let events = boot::events(&image, &machine, user_space, point).with_context(unusable)?;
    Ok(match args.format {
        Format::Table => table(&events, bank(args.bank), user_space, point),
        Format::Json => document(&events),
        Format::EventLog => event_log(&events),
    })
}

fn bank(name: BankName) -> Bank {
    match name {
        BankName::Sha1 => Bank::Sha1,
        BankName::Sha256 => Bank::Sha256,
        BankName::Sha384 => Bank::Sha384,
        BankName::Sha512 => Bank::Sha512,
    }
}

fn table(events: &[Event], bank: Bank, user_space: UserSpace, point: Point) -> String {
    let mut text = format!("PCR  {bank}\n");
    for (register, value) in tpm::registers(events) {
        let shown = match &value {
            Value::Exact(_) => value.in_bank(bank).map(hex::encode).unwrap_or_default(),
            Value::HostDependent(reason) => format!("depends on more than the image: {reason}"),
        };
        text += &format!("{register:3}  {shown}\n");
    }
    if user_space == UserSpace::Stateless && point != Point::Firmware {
        text += "User space: Cairn without a cluster configuration.\n";
    }
    text
}

fn document(events: &[Event]) -> String {
    let registers = tpm::registers(events).into_iter().map(|(register, value)| match value {
        Value::Exact(values) => json!({"pcr": register, "tag": "exact", "values": digests(values.iter())}),
        Value::HostDependent(reason) => json!({"pcr": register, "tag": "host-dependent", "reason": reason}),
    });
    format!("{}\n", json!({"schema": "cairn.registers/1", "registers": registers.collect::<Vec<_>>()}))
}

fn event_log(events: &[Event]) -> String {
    let events = events.iter().map(|event| {
        let mut line = json!({
            "pcr": event.register,
            "type": format!("{:#x}", event.kind),
            "source": format!("{:?}", event.source).to_lowercase(),
            "input": event.input,
        });
        match &event.digests {
            Ok(values) => line["digests"] = digests(values.iter()),
            Err(reason) => line["unknown"] = json!(reason),
        }
        if let Some(data) = event.data.as_ref().filter(|data| data.len() <= 256) {
            line["data"] = json!(hex::encode(data));
        }
        line
    });
    format!("{}\n", json!({"schema": "cairn.events/1", "events": events.collect::<Vec<_>>()}))
}

fn digests<'a>(values: impl Iterator<Item = (&'a Bank, &'a Vec<u8>)>) -> serde_json::Value {
    values
        .map(|(bank, digest)| (bank.name().to_owned(), json!(hex::encode(digest))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: MeasureArgs,
    }

    fn measure(words: &[&str]) -> Result<String> {
        run(&Line::try_parse_from([&["x"], words].concat())?.args)
    }

    #[test]
    fn what_is_no_image_is_refused_with_its_name_and_the_reason() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0; 4096]).unwrap();
        let error = format!("{:#}", measure(&[file.path().to_str().unwrap()]).unwrap_err());
        assert!(error.contains("partition table") && error.contains(file.path().to_str().unwrap()), "{error}");
        let error = format!("{:#}", measure(&["/nonexistent"]).unwrap_err());
        assert!(error.contains("/nonexistent"), "{error}");
    }
}
