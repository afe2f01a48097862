//! `cairn explain`: why a machine did not measure what was predicted.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use input_file::Kind;
use measurements::boot::{Machine, Measured, Point};
use measurements::compose::{Composition, Configuration, compose};
use measurements::document::image::ImageReference;
use measurements::document::machine::MachineReference;
use measurements::explain::launch::{Report, launch};
use measurements::explain::neighbours;
use measurements::explain::registers::{Registers, registers};
use measurements::explain::{self, Verdict, text};
use measurements::parse::pcrs;
use measurements::parse::tcg_log::Log;
use ovmf_measure::sev::LaunchDigest;
use serde_json::json;
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;

use crate::inputs::{ImageFile, MachineArgs, read, read_image, unusable};

/// Arguments of `explain`.
#[derive(Args)]
#[command(after_help = "\
Exit codes: 0 everything is as predicted; 3 something is not; 4 nothing can be compared; 1 a file cannot be used.

A log is what the machine's kernel shows in /sys/kernel/security/tpm0/binary_bios_measurements, and says most.
Its events are counted from 0, without the header and others that extend nothing (EV_NO_ACTION).
Without one, neighbours are tried: other machines and releases that are named with --also, numbers of CPUs, features.

Example: cairn explain --reference cairn_0.1.0.reference.json --machine q35.machine.json --event-log log.bin")]
pub struct ExplainArgs {
    /// What the machine should have booted: image reference, raw disk or UKI
    #[arg(long, value_name = "FILE", visible_alias = "image")]
    reference: PathBuf,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    evidence: Evidence,
    /// Image references and machine references that the machine may be of instead
    #[arg(long, value_name = "FILE", num_args = 1..)]
    also: Vec<PathBuf>,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

/// What the machine measured.
#[derive(Args)]
#[group(required = true, multiple = true)]
struct Evidence {
    /// Firmware's event log of the machine
    #[arg(long, value_name = "FILE")]
    event_log: Option<PathBuf>,
    /// Registers of the machine, as `tpm2_pcrread` prints them; with --event-log, of the same boot
    #[arg(long, value_name = "FILE")]
    pcrs: Option<PathBuf>,
    /// Attestation report of SEV-SNP; its signature is not verified
    #[arg(long, value_name = "FILE", conflicts_with_all = ["event_log", "pcrs"])]
    snp_report: Option<PathBuf>,
}

/// What the machine may be instead.
#[derive(Default)]
struct Neighbours {
    releases: Vec<(String, ImageReference)>,
    images: Vec<(String, Measured)>,
    machines: Vec<(String, Machine)>,
}

/// What was expected.
struct Expected {
    image: ImageFile,
    machine: Machine,
    configuration: Configuration,
    neighbours: Neighbours,
}

/// Explains; the text to print and the exit code.
pub fn run(args: &ExplainArgs) -> Result<(String, ExitCode)> {
    let expected = Expected {
        image: read_image(&args.reference)?,
        machine: args.machine.read()?,
        configuration: args.machine.configuration()?,
        neighbours: Neighbours::read(&args.also)?,
    };
    let Evidence { event_log, pcrs, snp_report } = &args.evidence;
    let verdict = match (event_log, pcrs, snp_report) {
        (Some(log), Some(registers), _) => expected.explain_both(log, registers)?,
        (Some(log), None, _) => expected.explain_log(&read_log(log)?)?,
        (None, Some(registers), _) => expected.explain_registers(&read_registers(registers)?)?,
        (None, None, Some(report)) => expected.explain_report(report)?,
        (None, None, None) => bail!("name what the machine measured: --event-log, --pcrs or --snp-report"),
    };
    let mut shown = if args.json { document(&verdict) } else { text(&verdict) };
    if event_log.is_some() && pcrs.is_none() && !args.json && !matches!(verdict, Verdict::CannotTell(_)) {
        shown += LOG_ALONE;
    }
    Ok((shown, ExitCode::from(code(&verdict))))
}

/// Whoever sends a log may have written it.
const LOG_ALONE: &str = "note      a log alone proves nothing: give the registers of the same boot with --pcrs, or read a quote's verdict\n";

fn read_log(path: &Path) -> Result<Log> {
    Log::parse(&read(path)?).with_context(|| unusable(path))
}

fn read_registers(path: &Path) -> Result<Registers> {
    pcrs::parse(&read(path)?).with_context(|| unusable(path))
}

fn read_report(path: &Path) -> Result<AttestationReport> {
    let bytes = read(path)?;
    AttestationReport::from_bytes(&bytes).map_err(|error| {
        let (kind, path) = (Kind::of(&bytes), path.display());
        let hint = hint_for_report(kind);
        anyhow!("{path} is not an attestation report of SEV-SNP: it is {kind}; {error}\nhint: {hint}")
    })
}

/// How to get a report from a file of another kind.
fn hint_for_report(kind: Kind) -> String {
    match kind {
        Kind::Encoded(encoding) => format!("run `{} > report.bin`, then give report.bin", encoding.command),
        Kind::HclReport => "run `tail -c +33 FILE | head -c 1184 > report.bin`, then give report.bin".into(),
        Kind::TdxQuote => {
            "`ovmf-measure --mode tdx` prints the MRTD to compare; give the report of an SEV-SNP machine".into()
        }
        _ => "give the 1184 bytes of the report, as `snpguest report` writes them".into(),
    }
}

impl Neighbours {
    fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut neighbours = Self::default();
        for path in paths {
            let (bytes, name) = (read(path)?, path.display().to_string());
            match MachineReference::parse(&bytes) {
                Ok(reference) => {
                    let machine = reference.machine().with_context(|| unusable(path))?;
                    neighbours.machines.push((described(&reference), machine));
                }
                Err(measurements::document::Error::Schema { .. }) => {
                    let reference = ImageReference::parse(&bytes).with_context(|| unusable(path))?;
                    neighbours.images.push((name.clone(), reference.measured().with_context(|| unusable(path))?));
                    neighbours.releases.push((name, reference));
                }
                Err(error) => return Err(error).with_context(|| unusable(path)),
            }
        }
        Ok(neighbours)
    }
}

/// Name and shape of a machine.
fn described(reference: &MachineReference) -> String {
    let MachineReference { name, shape, firmware, .. } = reference;
    let tpm = shape.tpm.as_ref().map(|tpm| format!(", TPM by {tpm}")).unwrap_or_default();
    let cpus = if shape.cpus == 1 { "1 CPU".to_owned() } else { format!("{} CPUs", shape.cpus) };
    format!("{name} ({cpus}, {} MiB{tpm}, {})", shape.memory_mib, firmware.package)
}

impl Expected {
    fn compose(&self, image: &Measured, machine: &Machine) -> Result<Composition> {
        compose(image, machine, &self.configuration).context("Nothing can be predicted for this machine")
    }

    /// The log must lead to the registers; then it says more than they do, but for what user space measured.
    fn explain_both(&self, log: &Path, registers: &Path) -> Result<Verdict> {
        let (log, found) = (read_log(log)?, read_registers(registers)?);
        if !log.is_confidential
            && let Err(verdict) = explain::replay(&log, &found)
        {
            return Ok(verdict);
        }
        let of_log = self.explain_log(&log)?;
        let Verdict::Match { compared: events, .. } = &of_log else { return Ok(of_log) };
        Ok(match self.explain_registers(&found)? {
            Verdict::Match { compared, unknown } => {
                let compared = format!("{events} as predicted and lead to the registers; {compared}");
                Verdict::Match { compared, unknown }
            }
            Verdict::CannotTell(_) => of_log,
            mismatch => mismatch,
        })
    }

    fn explain_log(&self, log: &Log) -> Result<Verdict> {
        let machine = self.machine.clone().as_logged(log);
        let composition = self.compose(self.image.on(&machine)?, &machine)?;
        let neighbours = neighbours::Neighbours {
            own: self.image.reference.clone(),
            others: self.neighbours.releases.clone(),
            machines: self.neighbours.machines.clone(),
        };
        Ok(explain::log(composition.sequences(Point::Firmware), log, &neighbours))
    }

    fn explain_registers(&self, found: &Registers) -> Result<Verdict> {
        let composition = self.compose(self.image.on(&self.machine)?, &self.machine)?;
        let mut others = Vec::new();
        for (name, image) in &self.neighbours.images {
            others.push((format!("the image of {name}"), self.compose(image, &self.machine)?));
        }
        for (name, machine) in &self.neighbours.machines {
            others.push((format!("the machine {name}"), self.compose(&self.image.measured, machine)?));
        }
        if self.configuration != Configuration::Stateless {
            let none = compose(&self.image.measured, &self.machine, &Configuration::Stateless)?;
            others.push(("a node without a cluster".into(), none));
        }
        Ok(registers(&composition, found, &others))
    }

    fn explain_report(&self, path: &Path) -> Result<Verdict> {
        let report = read_report(path)?;
        let report = Report { measurement: LaunchDigest(report.measurement), host_data: report.host_data };
        let Neighbours { images, machines, .. } = &self.neighbours;
        Ok(launch(&self.image.measured, &self.machine, &self.configuration, &report, images, machines))
    }
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
        Verdict::Match { compared, unknown } => {
            json!({"verdict": "match", "compared": compared, "not_compared": unknown})
        }
        Verdict::CannotTell(reason) => json!({"verdict": "cannot-tell", "reason": reason}),
        Verdict::Mismatch(mismatch) => json!({
            "verdict": "mismatch",
            "event": mismatch.event,
            "register": mismatch.register,
            "algorithm": mismatch.algorithm,
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
    fn file_that_is_not_a_report_is_named_with_the_command_that_gives_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        let hcl = [&b"HCLA\x01\0\0\0\0\0\0\0\x02\0\0\0"[..], &[0xff; 40]].concat();
        for (content, words) in [
            ("00ff".repeat(1184).as_bytes(), ["it is hexadecimal text", "hint: run `xxd -r -p FILE > report.bin`"]),
            (&hcl, ["an HCL report of Azure", "hint: run `tail -c +33 FILE"]),
            (b"hello", ["it is text", "hint: give the 1184 bytes"]),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = read_report(&path).unwrap_err().to_string();
            assert!(words.iter().all(|words| error.contains(words)), "{words:?}: {error}");
        }
    }

    #[test]
    fn every_verdict_has_its_exit_code() {
        let all = Verdict::Match { compared: "all 3 events are".into(), unknown: vec![1] };
        assert_eq!((code(&all), code(&Verdict::CannotTell("x".into()))), (0, 4));
        assert_eq!(document(&all), "{\"compared\":\"all 3 events are\",\"not_compared\":[1],\"verdict\":\"match\"}\n");
    }
}
