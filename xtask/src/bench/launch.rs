//! Predictions: SNP launch digests, against the crate `sev` in process and `sev-snp-measure` as a program, and PCR 11 of a UKI, against `systemd-measure`.
//!
//! What runs in process is a bench of the package `cairn-tests`, compiled as a release is. Peers are only compared where they say the same as we do: another value is an
//! error, not a row.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use measurements::Bank;
use measurements::parse::uki::Uki;
use measurements::tpm::pcr11;
use serde::{Deserialize, Serialize};

use super::report::Measure;
use super::rounds::{ROUNDS, alternate, median};
use super::{Bench, output_of, pypi};
use crate::machine::config::{FOLDER, MachineConfig};
use crate::machine::firmware::Firmware;
use crate::sandbox::{Sandbox, WORK};

/// QEMU's model of the machine.
pub const MODEL: &str = "EPYC-v4";
/// Virtual CPUs of the machine.
pub const CPUS: u32 = 4;
/// Its command line; kernel and initrd are empty files.
pub const APPEND: &str = "console=ttyS0 loglevel=7";

const MACHINE: &str = "qemu-snp-kernel";
const PEER: &str = "sev-snp-measure";
const PEER_VERSION: &str = "0.0.13";
const SYSTEMD_MEASURE: &str = "/usr/lib/systemd/systemd-measure";

/// What the bench `launch` of `cairn-tests` prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InProcess {
    /// Finished rows.
    pub measures: Vec<Measure>,
    /// Our side of a row.
    pub pcr11: Pcr11,
}

/// PCR 11 when the initrd is entered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pcr11 {
    /// Median time.
    pub milliseconds: f64,
    /// Its value in each bank.
    pub values: BTreeMap<String, String>,
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Measure>> {
    let folder = bench.scratch.path().join("launch");
    fs::create_dir(&folder).context("Failed to make a folder")?;
    let firmware = firmware(bench)?;
    let uki = bench.first.path("efi");
    let InProcess { mut measures, pcr11 } = in_process(bench, &firmware, &uki, &bench.first.path("reference.json"))?;
    match as_programs(bench, &folder, &firmware)? {
        Ok(row) => measures.insert(1, row),
        Err(Skipped(reason)) => bench.progress.warn(&format!("skipped: {PEER} as a program: {reason}")),
    }
    measures.push(systemd_measure(bench, &folder, &uki, &pcr11)?);
    Ok(measures)
}

/// The firmware of the confidential machine.
fn firmware(bench: &Bench) -> Result<PathBuf> {
    let config = MachineConfig::read(&bench.checkout, MACHINE)?;
    Ok(Firmware::get(&config.firmware, &bench.checkout, &bench.store, &bench.progress)?.code)
}

fn in_process(bench: &Bench, firmware: &Path, uki: &Path, reference: &Path) -> Result<InProcess> {
    bench.progress.note("bench: launch digests in process, compiled as a release ...");
    let mut command =
        bench.cargo(&["bench", "--quiet", "-p", "cairn-tests", "--features", "end-to-end", "--bench", "launch", "--"]);
    command.args([firmware, uki, reference]).arg(bench.checkout.join(FOLDER));
    serde_json::from_str(&output_of(&mut command)?).context("Failed to read what the bench says")
}

/// Why a row is left out.
struct Skipped(String);

/// Our program beside the peer's, which comes from PyPI.
fn as_programs(bench: &Bench, folder: &Path, firmware: &Path) -> Result<Result<Measure, Skipped>> {
    bench.progress.note("bench: launch digests as programs ...");
    let peer = match pypi::install(&folder.join("venv"), PEER, PEER_VERSION) {
        Ok(programs) => programs.join(PEER),
        Err(error) => return Ok(Err(Skipped(format!("{error:#}")))),
    };
    output_of(&mut bench.cargo(&["build", "--quiet", "--release", "-p", "ovmf-measure"]))?;
    let ours = bench.checkout.target().join("release/ovmf-measure");
    let run = |program: &Path| -> Result<String> {
        let mut command = Command::new(program);
        command.args(["--mode", "snp", "--vcpu-type", MODEL, "--vcpus", &CPUS.to_string(), "--append", APPEND]);
        command.args(["--kernel", "/dev/null", "--initrd", "/dev/null", "--ovmf"]).arg(firmware);
        output_of(&mut command)
    };
    let (own, said) = (run(&ours)?, run(&peer)?);
    ensure!(own.trim() == said.trim(), "the launch digest is {own}, {PEER} says {said}");
    let (ours, theirs) = alternate(|| run(&ours).map(drop), || run(&peer).map(drop))?;
    Ok(Ok(Measure {
        what: format!("SNP launch digest, {CPUS} vCPUs, program"),
        against: PEER.into(),
        unit: "ms".into(),
        ours,
        theirs,
        goal: 1.0 / 12.0,
    }))
}

/// PCR 11, against systemd's own program in the build root. It gets the sections as files, so it need not read the UKI; what it costs to enter the build root is
/// not counted.
fn systemd_measure(bench: &Bench, folder: &Path, uki: &Path, ours: &Pcr11) -> Result<Measure> {
    bench.progress.note("bench: PCR 11 by systemd-measure ...");
    let folder = folder.join("sections");
    fs::create_dir(&folder).context("Failed to make a folder")?;
    let bytes = fs::read(uki).with_context(|| format!("Failed to read {}", uki.display()))?;
    let mut arguments = vec!["calculate".to_owned(), format!("--phase={}", pcr11::ENTER_INITRD)];
    arguments.extend(Bank::ALL.map(|bank| format!("--bank={bank}")));
    for (name, content) in Uki::parse(&bytes)?.measured_sections() {
        let name = name.trim_start_matches('.');
        fs::write(folder.join(name), content).context("Failed to write a section")?;
        arguments.push(format!("--{name}={name}"));
    }
    let sandbox = Sandbox::new(&bench.tools.tree).bind_read_only(&folder, WORK).work_dir(WORK);
    let run = || output_of(sandbox.command(SYSTEMD_MEASURE).args(&arguments));
    let said = values(&run()?);
    ensure!(said == ours.values, "PCR 11 is {:?}, systemd-measure says {said:?}", ours.values);
    let enter = median(ROUNDS, || output_of(&mut sandbox.command("true")).map(drop))?;
    let theirs = median(ROUNDS, || run().map(drop))? - enter;
    Ok(Measure {
        what: "PCR 11 of the UKI, 4 banks".into(),
        against: "systemd-measure".into(),
        unit: "ms".into(),
        ours: ours.milliseconds,
        theirs,
        goal: 1.0,
    })
}

/// From lines such as `11:sha256=0123...`, the value in each bank.
fn values(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("11:")?.split_once('='));
    lines.map(|(bank, value)| (bank.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_from_between_comments() {
        let found = values("# PCR[11] Phase <enter-initrd>\n11:sha1=aa\n11:sha256=bb\n\n");
        assert_eq!(found, BTreeMap::from([("sha1".into(), "aa".into()), ("sha256".into(), "bb".into())]));
    }
}
