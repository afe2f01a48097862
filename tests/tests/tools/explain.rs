//! `cairn explain` as people use it: its verdicts, its exit codes and its words, on files.

use std::path::{Path, PathBuf};
use std::process::Command;

use cairn_tests::attester::Boot;
use cairn_tests::environment::{variable, xtask};
use cairn_tests::event_log;
use cairn_tests::formats::Schema;
use cairn_tests::image::Image;
use cairn_tests::machine::{KnownMachine, checkout};
use cairn_tests::printed::must_be_printed;
use measurements::Bank;
use measurements::boot::Point;
use measurements::compose::{Composition, Configuration, Launch, compose};
use measurements::document::image::ImageReference;
use xtask::machine::config::FOLDER;

const MACHINE: &str = "q35-ovmf-2025.02-2cpus-1gib";
const OTHER: &str = "q35-ovmf-2026.08-2cpus-2gib";
/// Where a report has its measurement (SEV Secure Nested Paging Firmware ABI, table 23).
const MEASUREMENT: usize = 0x90;
const HOST_DATA: usize = 0xc0;

/// The references under test, and a folder for evidence.
struct Files {
    folder: tempfile::TempDir,
    reference: PathBuf,
    debug: PathBuf,
}

impl Files {
    fn new() -> Self {
        let file = |name: &str| Image::open(&variable(name).unwrap()).unwrap().file("reference.json");
        let folder = tempfile::tempdir().unwrap();
        Self { folder, reference: file("CAIRN_IMAGE_DIR"), debug: file("CAIRN_DEBUG_IMAGE_DIR") }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Exit code and output of `cargo xtask explain` for the production image.
    fn explain(&self, machine: &str, evidence: &str, file: &Path, more: &[&str]) -> (i32, String) {
        let mut command = Command::new(xtask().unwrap());
        command.current_dir(checkout().unwrap().root()).args(["explain", "--reference"]).arg(&self.reference);
        command.arg("--machine").arg(machine_file(machine)).arg(evidence).arg(file).args(more);
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
    }
}

fn machine_file(name: &str) -> PathBuf {
    checkout().unwrap().join(FOLDER).join(format!("{name}.machine.json"))
}

fn composition(reference: &Path, machine: &str) -> Composition {
    let reference = ImageReference::parse(&std::fs::read(reference).unwrap()).unwrap();
    let machine = KnownMachine::get(machine).unwrap().reference.machine().unwrap();
    compose(&reference.measured().unwrap(), &machine, &Configuration::Stateless).unwrap()
}

#[test]
fn the_readme_shows_what_explain_prints() {
    let files = Files::new();
    let boot = Boot::of(&composition(&files.reference, "q35-ovmf-2025.02-1cpu-1gib"));
    let log = event_log::write(&event_log::of(&boot.firmware, &[Bank::Sha256, Bank::Sha384]));
    let log = files.write("log", &log);
    let machines: Vec<String> = xtask::machine::config::names(checkout().unwrap().root())
        .unwrap()
        .iter()
        .map(|name| machine_file(name).display().to_string())
        .collect();
    let also: Vec<&str> = std::iter::once("--also").chain(machines.iter().map(String::as_str)).collect();
    let (code, printed) = files.explain(MACHINE, "--event-log", &log, &also);
    assert_eq!(code, 3, "{printed}");
    let command = format!(
        "cargo xtask explain --reference target/image/cairn_0.1.0.reference.json --machine measurements/machines/{MACHINE}.machine.json --event-log node.log --also measurements/machines/*.machine.json"
    );
    must_be_printed("README.md", &command, &printed).unwrap();
}

/// As `tpm2_pcrread` prints registers.
fn pcrread(composition: &Composition, point: Point) -> String {
    let mut text = "  sha256:\n".to_owned();
    for (register, value) in composition.registers(point) {
        text += &format!("    {register:2}: 0x{}\n", hex::encode_upper(value.in_bank(Bank::Sha256).unwrap()));
    }
    text
}

#[test]
fn registers_without_a_log_match_at_their_point_in_time_or_are_those_of_a_neighbour() {
    let files = Files::new();
    let own = composition(&files.reference, MACHINE);
    for (point, words) in [(Point::Running, "in the running system"), (Point::Initrd, "in the initrd")] {
        let file = files.write("pcrs", pcrread(&own, point).as_bytes());
        let (code, text) = files.explain(MACHINE, "--pcrs", &file, &[]);
        assert_eq!(code, 0, "{text}");
        assert_eq!(text, format!("MATCH: {words}, 16 registers (sha256) are as predicted\n"));
    }
    let rows = [
        (
            composition(&files.reference, OTHER),
            machine_file(OTHER),
            "PCR 0",
            "the machine q35-ovmf-2026.08-2cpus-2gib (",
        ),
        (composition(&files.debug, MACHINE), files.debug.clone(), "PCR 4", "the image of "),
    ];
    for (found, also, register, words) in rows {
        let file = files.write("pcrs", pcrread(&found, Point::Running).as_bytes());
        let (code, text) = files.explain(MACHINE, "--pcrs", &file, &["--also", also.to_str().unwrap()]);
        assert_eq!(code, 3, "{text}");
        assert!(text.contains(words) && text.contains("in the running system"), "{words}: {text}");
        let (code, text) = files.explain(MACHINE, "--pcrs", &file, &[]);
        assert_eq!(code, 3);
        assert!(!text.contains("all are those of"), "{register}: {text}");
    }
}

#[test]
fn a_report_matches_or_is_that_of_a_neighbour() {
    let files = Files::new();
    let recorded = checkout().unwrap().join("measurements/tests/recorded/snp-report.bin");
    let recorded = std::fs::read(recorded).unwrap();
    let report = |measurement: &[u8], host_data: u8| {
        let mut report = recorded.clone();
        report[MEASUREMENT..MEASUREMENT + 48].copy_from_slice(measurement);
        report[HOST_DATA..HOST_DATA + 32].fill(host_data);
        report
    };
    let digest = |reference: &Path, change: &dyn Fn(&mut measurements::document::machine::MachineReference)| {
        let mut machine = KnownMachine::get("qemu-snp-kernel").unwrap().reference;
        change(&mut machine);
        let reference = ImageReference::parse(&std::fs::read(reference).unwrap()).unwrap();
        let machine = machine.machine().unwrap();
        match compose(&reference.measured().unwrap(), &machine, &Configuration::Stateless).unwrap().launch {
            Some(Launch::SevSnp { digest, .. }) => digest.0,
            other => panic!("{other:?}"),
        }
    };
    let own = digest(&files.reference, &|_| ());
    let eight = digest(&files.reference, &|machine| machine.shape.cpus = 8);
    let features = digest(&files.reference, &|machine| {
        if let Some(measurements::document::machine::LaunchReference::SevSnp(snp)) = &mut machine.launch {
            snp.features = 0x21;
        }
    });
    let debug = digest(&files.debug, &|_| ());
    let rows: [(&[u8], u8, i32, &[&str]); 6] = [
        (&own, 0, 0, &["MATCH"]),
        (&own, 1, 3, &["MISMATCH at HOST_DATA", "whose     the cluster's configuration"]),
        (&eight, 0, 3, &["MISMATCH at MEASUREMENT", "it matches with 8 vCPUs", "whose     the machine"]),
        (&features, 0, 3, &["it matches with the guest features 0x21"]),
        (&debug, 0, 3, &["it matches with the image of ", "whose     the image"]),
        (&[7; 48], 0, 3, &["no neighbour has it", "1 to 256 CPUs"]),
    ];
    for (measurement, host_data, expected, words) in rows {
        let file = files.write("report", &report(measurement, host_data));
        let also = ["--also", files.debug.to_str().unwrap()];
        let (code, text) = files.explain("qemu-snp-kernel", "--snp-report", &file, &also);
        assert_eq!(code, expected, "{text}");
        for words in words {
            assert!(text.contains(words), "{words:?}: {text}");
        }
    }
    let file = files.write("report", &report(&own, 0));
    let (code, text) = files.explain(MACHINE, "--snp-report", &file, &[]);
    assert_eq!(code, 4, "{text}");
}

#[test]
fn the_machine_that_a_log_is_of_is_named_with_its_shape() {
    let files = Files::new();
    let folder = checkout().unwrap().join(FOLDER);
    for (other, shape) in [
        ("q35-ovmf-2025.02-1cpu-1gib", "(1 CPU, 1024 MiB, TPM by crb, ovmf 2025.02"),
        ("q35-ovmf-2025.02-2cpus-2gib", "(2 CPUs, 2048 MiB, TPM by crb, ovmf 2025.02"),
        ("q35-ovmf-2025.02-2cpus-1gib-tis", "(2 CPUs, 1024 MiB, TPM by tis, ovmf 2025.02"),
        ("q35-ovmf-2026.08-2cpus-2gib", "(2 CPUs, 2048 MiB, TPM by crb, ovmf-generic 2026.08"),
    ] {
        let log = folder.join(other).join("log");
        let also = machine_file(other);
        let (code, text) = files.explain(MACHINE, "--event-log", &log, &["--also", also.to_str().unwrap()]);
        let words = format!("what the firmware measured is that of the machine {other} {shape}");
        assert!(code == 3 && text.contains(&words), "{words}: {text}");
    }
}

#[test]
fn a_log_of_another_machine_does_not_match_and_json_keeps_to_its_schema() {
    let files = Files::new();
    let log = checkout().unwrap().join("measurements/tests/recorded/tpm-gcp-uki-eventlog.bin");
    let (code, text) = files.explain(MACHINE, "--event-log", &log, &[]);
    assert_eq!(code, 3, "{text}");
    assert!(text.starts_with("MISMATCH at event 0, PCR 0") && text.contains("version of the firmware"), "{text}");
    let (_, text) = files.explain(MACHINE, "--event-log", &log, &["--json"]);
    Schema::get("verdict").unwrap().check(&serde_json::from_str(&text).unwrap()).unwrap();
}

#[test]
fn log_must_lead_to_the_registers_beside_it_and_alone_it_says_that_it_proves_nothing() {
    let files = Files::new();
    // Recorded with another image than the one under test.
    let log = checkout().unwrap().join(FOLDER).join(MACHINE).join("log");
    let (_, text) = files.explain(MACHINE, "--event-log", &log, &[]);
    assert!(text.contains("note      a log alone proves nothing"), "{text}");
    let own = composition(&files.reference, MACHINE);
    let pcrs = files.write("pcrs", pcrread(&own, Point::Running).as_bytes());
    let (code, text) = files.explain(MACHINE, "--event-log", &log, &["--pcrs", pcrs.to_str().unwrap()]);
    assert!(code == 3 && text.starts_with("MISMATCH at PCR 4\n"), "{code}: {text}");
    assert!(text.contains("the log does not lead to the register") && !text.contains("note  "), "{text}");
}

#[test]
fn evidence_that_cannot_be_used_is_refused_with_what_to_give() {
    let files = Files::new();
    let file = files.write("evidence", b"hello");
    for (evidence, words) in [
        ("--pcrs", "tpm2_pcrread"),
        ("--snp-report", "is not an attestation report of SEV-SNP"),
        ("--event-log", "cannot be used"),
    ] {
        let (code, text) = files.explain(MACHINE, evidence, &file, &[]);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains(words) && text.contains("evidence"), "{evidence}: {text}");
    }
    let (code, text) = files.explain("q35-that-is-not-there", "--pcrs", &file, &[]);
    assert_eq!(code, 1);
    assert!(text.contains("q35-that-is-not-there.machine.json"), "{text}");
}
