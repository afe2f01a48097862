//! `cairn measure`: from a raw disk image or a UKI to registers, without root, loop device or any other program.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use measurements::boot::Point;
use measurements::compose::{Composition, Launch, MAX_FAILED_OPTIONS, compose};
use measurements::event::{ByBank, Digests};
use measurements::tpm::Value;
use measurements::{Bank, Event};
use serde_json::json;

use crate::inputs::{MachineArgs, read_image};

/// Arguments of `measure`.
#[derive(Args)]
#[command(after_help = "\
Without a machine, registers that follow from it (PCR 0, 1, 7, and 10 which sums them up) are unknown. PCR 4 has one of
several values as long as --boot and --secure-boot are not known. Files beside the UKI on the EFI system partition are
inputs: add-ons, credentials, extensions. What is not modelled is refused with its path.

Example: cairn measure target/image/cairn_0.1.0.raw --machine measurements/machines/q35-ovmf-2025.02-2cpus-1gib.machine.json")]
pub struct MeasureArgs {
    /// Raw disk image with an EFI system partition, unified kernel image, or image reference
    image: PathBuf,
    #[command(flatten)]
    machine: MachineArgs,
    /// When the registers are looked at
    #[arg(long, default_value = "running")]
    at: At,
    /// How to say it
    #[arg(long, default_value = "table")]
    format: Format,
    /// JSON instead of text: the same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Bank of the table
    #[arg(long, default_value = "sha256")]
    bank: BankName,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum At {
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
    let image = read_image(&args.image)?;
    let (machine, configuration) = (args.machine.read()?, args.machine.configuration()?);
    let unusable = || format!("Nothing can be predicted from {}", args.image.display());
    let composition = compose(image.on(&machine)?, &machine, &configuration).with_context(unusable)?;
    let point = args.at.point();
    let format = if args.json { Format::Json } else { args.format };
    Ok(match format {
        Format::Table => table(&composition, bank(args.bank), point),
        Format::Json => document(&composition, point),
        Format::EventLog => event_log(&composition, point),
    })
}

impl At {
    /// The point in time.
    pub fn point(self) -> Point {
        match self {
            At::Firmware => Point::Firmware,
            At::Initrd => Point::Initrd,
            At::Running => Point::Running,
        }
    }
}

fn bank(name: BankName) -> Bank {
    match name {
        BankName::Sha1 => Bank::Sha1,
        BankName::Sha256 => Bank::Sha256,
        BankName::Sha384 => Bank::Sha384,
        BankName::Sha512 => Bank::Sha512,
    }
}

fn table(composition: &Composition, bank: Bank, point: Point) -> String {
    let mut text = String::new();
    let registers = composition.registers(point);
    if !registers.is_empty() {
        text += &format!("PCR  {bank}\n");
    }
    for (register, value) in registers {
        text += &format!("{register:3}  {}\n", shown(&value, bank));
    }
    for (failed, others) in after_failed_options(composition, point) {
        let options =
            if failed == 1 { "1 boot option that fails".into() } else { format!("{failed} boot options that fail") };
        text += &format!("after {options}, as an empty disk does:\n");
        for (register, value) in others {
            text += &format!("{register:3}  {}\n", shown(&value, bank));
        }
    }
    for (name, value) in launch(composition) {
        text += &match value {
            Ok(value) => format!("{name}  {value}  calculated\n"),
            Err(reason) => format!("{name}  depends on more than the firmware: {reason}\n"),
        };
    }
    if covers_image(composition) == Some(false) {
        text += "image-not-covered: MEASUREMENT says nothing about what the disk holds\n";
    }
    text
}

fn shown(value: &Value, bank: Bank) -> String {
    match value {
        Value::Exact(_) => value.in_bank(bank).map(hex::encode).unwrap_or_default(),
        Value::OneOf(all) => {
            let all: Vec<String> = all.iter().filter_map(|value| value.get(&bank)).map(hex::encode).collect();
            format!("one of {}", all.join(" "))
        }
        Value::HostDependent(reason) => format!("depends on more than the image: {reason}"),
    }
}

/// Registers that are known to have other values where boot options fail before the one that works; by the number of those that fail.
fn after_failed_options(composition: &Composition, point: Point) -> Vec<(usize, BTreeMap<u8, Value>)> {
    let expected = composition.registers(point);
    let after = |failed: usize| {
        let mut others = composition.registers_after(point, failed);
        others.retain(|register, value| {
            !matches!(value, Value::HostDependent(_)) && expected.get(register) != Some(value)
        });
        (failed, others)
    };
    (1..=MAX_FAILED_OPTIONS).map(after).filter(|(_, others)| !others.is_empty()).collect()
}

/// Whether the launch digest of a machine that has one covers the image.
fn covers_image(composition: &Composition) -> Option<bool> {
    match &composition.launch {
        Some(Launch::SevSnp { covers_image, .. }) => Some(*covers_image),
        Some(Launch::Tdx { .. }) | None => None,
    }
}

/// What is measured at launch, by the names that reports have for it; or why it cannot be known.
fn launch(composition: &Composition) -> Vec<(&'static str, Result<String, &'static str>)> {
    const NOT_MODELLED: &str = "runtime measurements of a trust domain are not modelled yet";
    match &composition.launch {
        None => Vec::new(),
        Some(Launch::SevSnp { digest, host_data, .. }) => {
            vec![("MEASUREMENT", Ok(digest.to_string())), ("HOST_DATA", Ok(hex::encode(host_data)))]
        }
        Some(Launch::Tdx { mrtd }) => {
            let runtime = ["RTMR0", "RTMR1", "RTMR2", "RTMR3"].map(|name| (name, Err(NOT_MODELLED)));
            [("MRTD", Ok(hex::encode(mrtd)))].into_iter().chain(runtime).collect()
        }
    }
}

fn registers_document(registers: BTreeMap<u8, Value>) -> Vec<serde_json::Value> {
    let register = |(register, value)| match value {
        Value::Exact(values) => json!({"pcr": register, "tag": "exact", "values": digests(&values)}),
        Value::OneOf(all) => {
            json!({"pcr": register, "tag": "one-of", "values": all.iter().map(digests).collect::<Vec<_>>()})
        }
        Value::HostDependent(reason) => json!({"pcr": register, "tag": "host-dependent", "reason": reason}),
    };
    registers.into_iter().map(register).collect()
}

fn document(composition: &Composition, point: Point) -> String {
    let registers = registers_document(composition.registers(point));
    let mut document = json!({"schema": "cairn.registers/1", "registers": registers});
    let after = after_failed_options(composition, point).into_iter();
    let after: Vec<_> = after
        .map(|(failed, others)| json!({"failed_options": failed, "registers": registers_document(others)}))
        .collect();
    if !after.is_empty() {
        document["after_failed_options"] = json!(after);
    }
    for (name, value) in launch(composition) {
        document["launch"][name] = match value {
            Ok(value) => json!({"tag": "exact", "known": "calculated", "value": value}),
            Err(reason) => json!({"tag": "host-dependent", "reason": reason}),
        };
    }
    if let Some(covers) = covers_image(composition) {
        document["launch_covers_image"] = json!(covers);
    }
    format!("{document}\n")
}

/// The first legal sequence of measurements, and the others where there are any.
fn event_log(composition: &Composition, point: Point) -> String {
    let mut sequences = composition.sequences(point).map(|sequence| events(&sequence));
    let mut document = json!({"schema": "cairn.events/1", "events": sequences.next().unwrap_or_default()});
    let others: Vec<_> = sequences.collect();
    if !others.is_empty() {
        document["or_events"] = json!(others);
    }
    format!("{document}\n")
}

fn events(events: &[Event]) -> Vec<serde_json::Value> {
    let event = |event: &Event| {
        let mut line = json!({
            "pcr": event.register,
            "type": format!("{:#x}", event.kind),
            "source": format!("{:?}", event.source).to_lowercase(),
            "input": event.input,
        });
        match &event.digests {
            Digests::Exact(values) => line["digests"] = digests(values),
            Digests::OneOf(all) => line["one_of"] = all.iter().map(digests).collect(),
            Digests::Unknown(reason) => line["unknown"] = json!(reason),
        }
        if let Some(data) = event.data.as_ref().filter(|data| data.len() <= 256) {
            line["data"] = json!(hex::encode(data));
        }
        line
    };
    events.iter().map(event).collect()
}

fn digests(values: &ByBank) -> serde_json::Value {
    let values = values.iter().map(|(bank, digest)| (bank.name().to_owned(), json!(hex::encode(digest))));
    values.collect::<serde_json::Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use measurements::boot::{Machine, Measured};
    use measurements::compose::Configuration;
    use measurements::document::machine::MachineReference;

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
        std::fs::write(file.path(), b"MZ").unwrap();
        let error = format!("{:#}", measure(&[file.path().to_str().unwrap()]).unwrap_err());
        assert!(error.ends_with("the UKI: not a PE image: the headers are cut short"), "the reason once: {error}");
        let error = format!("{:#}", measure(&["/nonexistent"]).unwrap_err());
        assert!(error.contains("/nonexistent"), "{error}");
    }

    #[test]
    fn every_legal_sequence_of_events_is_printed() {
        let nothing = Measured { uki: [0; 32], boot: vec![], initrd: vec![], running: vec![] };
        let printed = |machine: &Machine| -> serde_json::Value {
            let composition = compose(&nothing, machine, &Configuration::Stateless).unwrap();
            serde_json::from_str(&event_log(&composition, Point::Firmware)).unwrap()
        };
        // How boot services end is not known: with one attempt, or with two. Up to two boot options may fail before: two events each.
        let document = printed(&Machine::unknown());
        let (first, others) = (document["events"].as_array().unwrap(), document["or_events"].as_array().unwrap());
        let more: Vec<usize> = others.iter().map(|other| other.as_array().unwrap().len() - first.len()).collect();
        assert_eq!(more, [2, 2, 4, 4, 6]);
        let machine = include_bytes!("../../measurements/machines/q35-ovmf-2025.02-2cpus-1gib.machine.json");
        let machine = MachineReference::parse(machine).unwrap().machine().unwrap();
        let document = printed(&machine);
        let first = document["events"].as_array().unwrap().len();
        let others = document["or_events"].as_array().unwrap().iter();
        assert_eq!(others.map(|other| other.as_array().unwrap().len() - first).collect::<Vec<_>>(), [2, 4]);
    }

    #[test]
    fn registers_after_failed_boot_options_are_printed_below_the_expected_ones() {
        let nothing = Measured { uki: [0; 32], boot: vec![], initrd: vec![], running: vec![] };
        let machine = include_bytes!("../../measurements/machines/q35-ovmf-2025.02-2cpus-1gib.machine.json");
        let machine = MachineReference::parse(machine).unwrap().machine().unwrap();
        let composition = compose(&nothing, &machine, &Configuration::Stateless).unwrap();
        let text = table(&composition, Bank::Sha256, Point::Firmware);
        assert_eq!(text.lines().count(), 1 + 16 + 2 * 2, "PCR 4 moves: {text}");
        assert!(text.contains("after 1 boot option that fails") && text.contains("after 2 boot options that fail"));
        let document: serde_json::Value = serde_json::from_str(&document(&composition, Point::Running)).unwrap();
        let after = document["after_failed_options"].as_array().unwrap();
        let registers = |of: &serde_json::Value| -> Vec<u64> {
            of["registers"].as_array().unwrap().iter().map(|one| one["pcr"].as_u64().unwrap()).collect()
        };
        assert_eq!((after.len(), registers(&after[1])), (2, vec![4, 10]));
    }

    #[test]
    fn a_launch_digest_that_does_not_cover_the_image_says_so() {
        let nothing = Measured { uki: [0; 32], boot: vec![], initrd: vec![], running: vec![] };
        for (machine, covers) in [
            (&include_bytes!("../../measurements/machines/qemu-snp-disk.machine.json")[..], Some(false)),
            (include_bytes!("../../measurements/machines/qemu-snp-kernel.machine.json"), Some(true)),
            (include_bytes!("../../measurements/machines/qemu-tdx.machine.json"), None),
        ] {
            let machine = MachineReference::parse(machine).unwrap().machine().unwrap();
            let composition = compose(&nothing, &machine, &Configuration::Stateless).unwrap();
            let text = table(&composition, Bank::Sha256, Point::Running);
            assert_eq!(text.contains("image-not-covered"), covers == Some(false), "{text}");
            let document: serde_json::Value = serde_json::from_str(&document(&composition, Point::Running)).unwrap();
            assert_eq!(document["launch_covers_image"].as_bool(), covers);
        }
    }
}
