//! What predictions cost in this process, for `cargo xtask bench --only launch`, which starts it and prints its rows: it is compiled as neighbours are, and the crate `sev`
//! is linked here so that neither `xtask` nor a release knows it.
//!
//! Arguments: firmware file, UKI, image reference, folder of machine references. Both sides read their files, and both must say the same.

use std::hint::black_box;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use measurements::boot::Point;
use measurements::compose::{Configuration, compose};
use measurements::document::image::ImageReference;
use measurements::document::machine::MachineReference;
use measurements::parse::uki::Uki;
use measurements::tpm::{self, pcr11};
use ovmf_measure::Firmware;
use ovmf_measure::sev::{CpuSignature, KernelHashes, LaunchDigest, Memory, Vcpu, Vmm};
use sev::measurement::snp::{SnpMeasurementArgs, snp_calc_launch_digest};
use sev::measurement::vcpu_types::CpuType;
use sev::measurement::vmsa::{GuestFeatures, VMMType};
use xtask::bench::launch::{APPEND, CPUS, InProcess, MODEL, Pcr11};
use xtask::bench::report::Measure;
use xtask::bench::rounds::{ROUNDS, alternate, median};

fn main() -> Result<()> {
    // Cargo adds an option of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [firmware, uki, reference, machines] = &arguments[..] else {
        bail!("usage: launch FIRMWARE UKI REFERENCE MACHINES")
    };
    let measures = vec![
        digest(Path::new(firmware))?,
        table(Path::new(firmware))?,
        predictions(Path::new(reference), Path::new(machines))?,
    ];
    let document = InProcess { measures, pcr11: pcr11(Path::new(uki))? };
    println!("{}", serde_json::to_string(&document).context("Failed to write JSON")?);
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("Failed to read {}", path.display()))
}

/// What was calculated is not needed, but it must not be optimised away.
fn finished<T>(result: Result<T>) -> Result<()> {
    black_box(result).map(|_| ())
}

fn vcpu() -> Result<Vcpu> {
    let signature = CpuSignature::of_model(MODEL).context("the model is not known")?;
    Ok(Vcpu { vmm: Vmm::Qemu, signature, features: 1, legacy_fpu: false })
}

/// Kernel and initrd are empty: what is compared is the digest, not how fast files are hashed.
fn memory(firmware: &Path) -> Result<Memory> {
    let image = read(firmware)?;
    let hashes = KernelHashes::new(b"", b"", APPEND.as_bytes());
    Ok(Memory::measure(&Firmware::parse(&image)?, Some(&hashes), Vmm::Qemu)?)
}

fn ours(firmware: &Path, cpus: u32) -> Result<LaunchDigest> {
    Ok(memory(firmware)?.with_cpus(&vcpu()?, cpus)?)
}

fn theirs(firmware: &Path, cpus: u32) -> Result<String> {
    let digest = snp_calc_launch_digest(SnpMeasurementArgs {
        vcpus: cpus,
        vcpu_type: CpuType::try_from(MODEL)?,
        ovmf_file: firmware.to_owned(),
        guest_features: GuestFeatures(1),
        kernel_file: Some("/dev/null".into()),
        initrd_file: Some("/dev/null".into()),
        append: Some(APPEND),
        ovmf_hash_str: None,
        vmm_type: Some(VMMType::QEMU),
    })?;
    Ok(digest.get_hex_ld())
}

fn digest(firmware: &Path) -> Result<Measure> {
    let (own, said) = (ours(firmware, CPUS)?.to_string(), theirs(firmware, CPUS)?);
    ensure!(own == said, "the launch digest is {own}, the crate sev says {said}");
    let (ours, theirs) = alternate(|| finished(ours(firmware, CPUS)), || finished(theirs(firmware, CPUS)))?;
    Ok(Measure {
        what: format!("SNP launch digest, {CPUS} vCPUs"),
        against: "crate sev".into(),
        unit: "ms".into(),
        ours,
        theirs,
        goal: 0.5,
    })
}

fn table(firmware: &Path) -> Result<Measure> {
    const MOST: u32 = 256;
    let all = || -> Result<Vec<LaunchDigest>> { Ok(memory(firmware)?.up_to(&vcpu()?, MOST)?) };
    for (count, digest) in (1..).zip(all()?) {
        ensure!(digest == ours(firmware, count)?, "the table and the single digest differ at {count} vCPUs");
    }
    let (ours, theirs) = alternate(|| finished(all()), || finished(ours(firmware, CPUS)))?;
    Ok(Measure {
        what: format!("SNP launch digests, 1 to {MOST} vCPUs"),
        against: "one digest".into(),
        unit: "ms".into(),
        ours,
        theirs,
        goal: 1.5,
    })
}

/// Every register in every bank at every point in time, of one image on eight machines, from their documents.
fn predictions(reference: &Path, machines: &Path) -> Result<Measure> {
    const MACHINES: usize = 8;
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(machines).context("Failed to list the machines")? {
        paths.push(entry.context("Failed to list the machines")?.path());
    }
    paths.retain(|path| path.to_string_lossy().ends_with(".machine.json"));
    paths.sort();
    paths.truncate(MACHINES);
    ensure!(paths.len() == MACHINES, "there are only {} machines", paths.len());
    let predict = || -> Result<usize> {
        let image = ImageReference::parse(&read(reference)?)?.measured()?;
        let mut registers = 0;
        for path in &paths {
            let machine = MachineReference::parse(&read(path)?)?.machine()?;
            let composition = compose(&image, &machine, &Configuration::Stateless)?;
            for point in [Point::Firmware, Point::Initrd, Point::Running] {
                registers += composition.registers(point).len();
            }
        }
        Ok(registers)
    };
    ensure!(predict()? > 0, "no machine has registers");
    Ok(Measure {
        what: format!("all registers, {MACHINES} machines"),
        against: "bound".into(),
        unit: "ms".into(),
        ours: median(ROUNDS, || finished(predict()))?,
        theirs: 100.0,
        goal: 1.0,
    })
}

fn pcr11(path: &Path) -> Result<Pcr11> {
    let predict = || -> Result<tpm::Value> {
        let bytes = read(path)?;
        let mut events = pcr11::sections(&Uki::parse(&bytes)?);
        events.push(pcr11::phase(pcr11::ENTER_INITRD));
        Ok(tpm::value(11, events.iter()))
    };
    let tpm::Value::Exact(banks) = predict()? else { bail!("PCR 11 of {} is not known", path.display()) };
    let values = banks.iter().map(|(bank, value)| (bank.name().to_owned(), hex::encode(value))).collect();
    Ok(Pcr11 { milliseconds: median(ROUNDS, || finished(predict()))?, values })
}
