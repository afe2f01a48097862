//! One change at a time to an image that boots, or to the machine that boots it: exactly the registers move that must, the changed boot measures what is predicted of it, and `explain`, which knows
//! only the references of the unchanged image and machine, names the change. Other machines (firmware build, memory, CPUs, the TPM's interface) are in `predictions.rs`.

use anyhow::{Context, Result, bail, ensure};
use cairn_tests::disk::Disk;
use cairn_tests::machine::KnownMachine;
use cairn_tests::pe::section_data;
use cairn_tests::settled::settled;
use cairn_tests::suite::Suite;
use cairn_tests::uki::with_sections;
use cairn_tests::watch::{Verdict, Watched};
use measurements::Bank;
use measurements::boot::{Image, Machine, Measured, Point};
use measurements::compose::{Composition, Configuration, compose};
use measurements::document::image::ImageReference;
use measurements::explain::neighbours::Neighbours;
use measurements::explain::{self, text};
use measurements::parse::tcg_log::Log;
use xtask::machine::record::LOG;
use xtask::vm::Ending;
use xtask::vm::pcr::Pcrs;
use xtask::vm::shell::Shell;

use crate::Row;

/// The machine that all rows begin with.
const MACHINE: &str = "q35-ovmf-2025.02-2cpus-1gib";
const UKI: &str = "EFI/BOOT/BOOTX64.EFI";
const CLUSTER: &[u8] = b"{\"schema\":\"cairn.cluster/1\"}\n";

/// A change to sections of the UKI.
type Change = fn(&str, Vec<u8>) -> Vec<u8>;

struct Section {
    row: &'static str,
    name: &'static str,
    change: Change,
    registers: &'static [u8],
    says: &'static [&'static str],
}

const SECTIONS: [Section; 4] = [
    Section {
        row: "a_word_more_on_the_command_line_is_explained",
        name: ".cmdline",
        change: |_, old| [&old[..], b" nokaslr"].concat(),
        registers: &[4, 9, 10, 11],
        says: &["content of section .cmdline", "the word \"nokaslr\" was added", "whose     the image"],
    },
    Section {
        row: "a_word_less_on_the_command_line_is_explained",
        name: ".cmdline",
        change: |_, old| String::from_utf8_lossy(&old).replace(" loglevel=5", "").into_bytes(),
        registers: &[4, 9, 10, 11],
        says: &["content of section .cmdline", "the word \"loglevel=5\" is missing"],
    },
    Section {
        row: "a_byte_more_in_the_initrd_is_explained",
        name: ".initrd",
        change: |_, old| [&old[..], &[0; 4]].concat(),
        registers: &[4, 9, 10, 11],
        says: &["content of section .initrd", "whose     the image"],
    },
    Section {
        row: "another_name_of_the_kernel_is_explained",
        name: ".uname",
        change: |_, old| [&old[..], b"x"].concat(),
        registers: &[4, 10, 11],
        says: &["content of section .uname"],
    },
];

/// The row of a word that was added stands for these.
const IN_FULL: [&str; 3] = [
    "a_word_less_on_the_command_line_is_explained",
    "a_byte_more_in_the_initrd_is_explained",
    "another_name_of_the_kernel_is_explained",
];

pub fn rows() -> Vec<Row> {
    let sections = SECTIONS.iter().map(|section| Row::new(section.row, |suite, row| of_section(suite, row, section)));
    let mut rows: Vec<Row> = sections.map(|row| row.in_full_if_among(&IN_FULL)).collect();
    rows.push(Row::new("another_name_of_a_partition_is_explained", partition_name).in_full());
    rows.push(Row::new("another_boot_order_is_explained", boot_order));
    rows.push(Row::new("a_cluster_configuration_moves_pcr_12_and_ends_the_boot", configuration));
    rows
}

/// What was released, and what follows from it.
struct Released {
    reference: ImageReference,
    image: Measured,
    machine: Machine,
    known: KnownMachine,
}

impl Released {
    fn get(suite: &Suite) -> Result<Self> {
        let reference = ImageReference::parse(&suite.debug.read("reference.json")?)?;
        let known = KnownMachine::get(MACHINE)?;
        Ok(Self { image: reference.measured()?, machine: known.reference.machine()?, reference, known })
    }

    fn composition(&self) -> Result<Composition> {
        Ok(compose(&self.image, &self.machine, &Configuration::Stateless)?)
    }

    /// What `explain` says of a log.
    fn explained(&self, log: &Log) -> Result<String> {
        let neighbours = Neighbours { own: Some(self.reference.clone()), ..Neighbours::default() };
        Ok(text(&explain::log(self.composition()?.sequences(Point::Firmware), log, &neighbours)))
    }
}

/// The UKI that ukify makes of the released one's parts differs in more than the section (alignment, order), so PCR 4 moves anyway; the unchanged parts must be explained as unchanged.
fn of_section(suite: &Suite, row: &str, section: &Section) -> Result<()> {
    let released = Released::get(suite)?;
    let old = suite.debug.read("efi")?;
    let new = (section.change)(section.name, section_data(&old, section.name)?.to_vec());
    let uki = with_sections(&suite.sandbox, &old, &[(section.name, &new)])?;
    let disk = Disk::copy_of(&suite.debug)?;
    disk.put_on_esp(&suite.debug, &[(UKI, &uki)])?;
    changed(suite, row, &released, &disk, &uki, section.registers, section.says)
}

fn partition_name(suite: &Suite, row: &str) -> Result<()> {
    let released = Released::get(suite)?;
    let index = suite.debug.partition("configuration")?.index;
    let disk = Disk::copy_of(&suite.debug)?;
    disk.edit_table(|entries| {
        entries.entry(index).and_modify(|entry| entry.name = "renamed".into());
    })?;
    let says = ["PCR 5", "(\"configuration\", now \"renamed\")", "whose     the image"];
    changed(suite, row, &released, &disk, &suite.debug.read("efi")?, &[5, 10], &says)
}

/// Boots a changed disk: it measures what is predicted of it, these registers moved, and `explain` says these words.
fn changed(
    suite: &Suite,
    row: &str,
    released: &Released,
    disk: &Disk,
    uki: &[u8],
    registers: &[u8],
    says: &[&str],
) -> Result<()> {
    let raw = std::fs::read(disk.path()).context("Failed to read the changed disk")?;
    let predicted = compose(&Image::parse(&raw)?.measured()?, &released.machine, &Configuration::Stateless)?;
    let mut watched = Watched::start(suite, row, &released.known.real(&disk.path())?)?;
    watched.must_run()?;
    let pcrs = settled(&watched, uki)?;
    let log = Log::parse(&Shell::log_in(&mut watched.vm)?.read_file(LOG)?)?;
    ensure!(differing(&predicted, Point::Running, &pcrs).is_empty(), "the changed boot is not as predicted of it");
    moved(released, Point::Running, &pcrs, registers)?;
    says_all(&released.explained(&log)?, says)
}

/// The host takes the disk out of its boot order: the same entries, in the firmware's own order.
fn boot_order(suite: &Suite, row: &str) -> Result<()> {
    let released = Released::get(suite)?;
    let mut machine = released.known.real(&suite.debug.file("raw"))?;
    machine.extra = vec!["-set".into(), "device.device0.bootindex=-1".into()];
    let mut watched = Watched::start(suite, row, &machine)?;
    watched.must_run()?;
    let pcrs = settled(&watched, &suite.debug.read("efi")?)?;
    let log = Log::parse(&Shell::log_in(&mut watched.vm)?.read_file(LOG)?)?;
    moved(&released, Point::Running, &pcrs, &[1, 10])?;
    says_all(&released.explained(&log)?, &["PCR 1", "variable BootOrder", "whose     the machine"])
}

fn configuration(suite: &Suite, row: &str) -> Result<()> {
    let released = Released::get(suite)?;
    let disk = Disk::copy_of(&suite.debug)?;
    disk.write_at(suite.debug.partition("configuration")?.start, CLUSTER)?;
    let mut watched = Watched::start(suite, row, &released.known.real(&disk.path())?)?;
    match watched.verdict()? {
        Verdict::Ended(Ending::Failed { code, .. }) if code == "CONFIGURATION_INVALID" => {}
        other => bail!("the boot ended in {other:?}{}", watched.last_lines()),
    }
    let predicted = compose(&released.image, &released.machine, &Configuration::cluster(CLUSTER))?;
    let states = watched.vm.pcr_states()?;
    // The last register to move is that of the failure.
    let at_initrd = states.iter().rfind(|state| differing(&predicted, Point::Initrd, state).is_empty());
    let at_initrd = at_initrd.context("the TPM never held what is predicted of this configuration")?;
    moved(&released, Point::Initrd, at_initrd, &[12])?;
    let found = Bank::ALL.map(|bank| {
        let registers = (0..16).filter_map(|index| Some((index, at_initrd.get(bank, index.into())?.to_vec())));
        (bank, registers.collect())
    });
    let without = [("a node without a cluster".to_owned(), released.composition()?)];
    let verdict = explain::registers::registers(&released.composition()?, &found.clone().into(), &without);
    says_all(&text(&verdict), &["MISMATCH at PCR 12", "the cluster's configuration"])?;
    says_all(&text(&explain::registers::registers(&predicted, &found.into(), &[])), &["MATCH", "in the initrd"])
}

/// Registers that are not as predicted, in any bank.
fn differing(predicted: &Composition, point: Point, pcrs: &Pcrs) -> Vec<u8> {
    let registers = predicted.registers(point).into_iter();
    let differs = registers.filter(|(register, value)| {
        Bank::ALL.iter().any(|bank| pcrs.get(*bank, usize::from(*register)) != value.in_bank(*bank))
    });
    differs.map(|(register, _)| register).collect()
}

fn moved(released: &Released, point: Point, pcrs: &Pcrs, registers: &[u8]) -> Result<()> {
    let found = differing(&released.composition()?, point, pcrs);
    ensure!(found == registers, "registers {found:?} moved, not {registers:?}");
    Ok(())
}

fn says_all(text: &str, words: &[&str]) -> Result<()> {
    for words in words {
        ensure!(text.contains(words), "{words:?} is not in what explain says: {text}");
    }
    Ok(())
}
