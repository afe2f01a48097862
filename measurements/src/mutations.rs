//! One change at a time to everything that a boot follows from: exactly the registers move that must, and `explain` names the change.

use std::collections::BTreeMap;
use std::fs;

use cairn_image::{disk, esp};
use uuid::Uuid;

use crate::boot::{Image, Machine, Point};
use crate::compose::{Composition, Configuration, compose};
use crate::event::kind;
use crate::explain::neighbours::Neighbours;
use crate::explain::{self, text};
use crate::parse::pe::tests::image as pe;
use crate::parse::tcg_log::Log;
use crate::parse::tcg_log::tests::log_of;
use crate::parse::variables::Variables;
use crate::parse::variables::tests::flash;
use crate::tpm::pcr05::Exit;
use crate::tpm::{Value, pcr00, pcr01, pcr07, separator};
use crate::{Bank, Event, Source};

/// What a boot follows from.
#[derive(Clone)]
struct Parts {
    sections: Vec<(&'static str, Vec<u8>)>,
    plan: [u128; 5],
    root: usize,
    names: Vec<(u32, &'static str)>,
    firmware: [&'static [u8]; 3],
    secure_boot: pcr07::SecureBootOff,
    tables: [&'static [u8]; 4],
    smbios: &'static [u8],
    boot_variables: Vec<&'static [u8]>,
    other_file: Option<&'static [u8]>,
    cluster: Option<&'static [u8]>,
    exit: Exit,
}

impl Parts {
    fn new() -> Self {
        let section = |name, content: &[u8]| (name, content.to_vec());
        Self {
            sections: vec![
                section(".sdmagic", b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####\0"),
                section(".text", b"the code of the stub"),
                section(".sbat", b"sbat,1\n"),
                section(".osrel", b"ID=cairn\nVERSION_ID=1\n"),
                section(".cmdline", b"console=ttyS0 quiet"),
                section(".uname", b"6.12"),
                section(".splash", b"a picture"),
                section(".dtb", b"a device tree"),
                section(".hwids", b"ids"),
                (".linux", pe(&[(".text", b"the kernel")])),
                section(".initrd", b"an initrd!"),
            ],
            plan: [1, 2, 3, 4, 5],
            root: 1 << 20,
            names: vec![],
            firmware: [b"version", b"PEI", b"DXE"],
            secure_boot: pcr07::SecureBootOff::NotBuilt,
            tables: [b"loader", b"rsdp", b"log", b"tables"],
            smbios: b"SMBIOS",
            boot_variables: vec![b"order", b"first", b"second"],
            other_file: None,
            cluster: None,
            exit: Exit::AtOnce,
        }
    }

    fn set(&mut self, name: &str, content: &[u8]) {
        if let Some((_, old)) = self.sections.iter_mut().find(|(found, _)| *found == name) {
            *old = content.to_vec();
        }
    }

    fn uki(&self) -> Vec<u8> {
        let sections: Vec<(&str, &[u8])> = self.sections.iter().map(|(name, content)| (*name, &content[..])).collect();
        pe(&sections)
    }

    fn raw(&self) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let uki = self.uki();
        let mut files: Vec<(&str, &[u8])> = vec![("EFI/BOOT/BOOTX64.EFI", &uki)];
        files.extend(self.other_file.map(|content| ("other.txt", content)));
        let settings = esp::Settings { size: 8 << 20, volume_id: 1, label: *b"TEST       ", time: 1_700_000_000 };
        let esp = esp::write(&settings, &files).unwrap();
        fs::write(path("root"), vec![7; self.root]).unwrap();
        fs::write(path("verity"), vec![8; 4096]).unwrap();
        let [disk_id, esp_id, configuration_id, root_id, verity_id] = self.plan.map(Uuid::from_u128);
        let (root, verity) = (path("root"), path("verity"));
        let plan = disk::Plan {
            disk_id,
            esp_id,
            configuration_id,
            root_id,
            verity_id,
            esp: &esp,
            root: &root,
            verity: &verity,
        };
        disk::write(&path("disk"), &plan).unwrap();
        let mut raw = fs::read(path("disk")).unwrap();
        for (number, name) in &self.names {
            rename(&mut raw, *number, name);
        }
        raw
    }

    fn machine(&self) -> Machine {
        let event =
            |register, kind, input: &str, bytes: &[u8]| Event::of(register, kind, Source::Machine, input, bytes);
        let [version, pei, dxe] = self.firmware;
        let mut events = vec![
            event(0, kind::CRTM_VERSION, "version of the firmware", version),
            event(0, kind::FIRMWARE_BLOB, pcr00::PEI, pei),
            event(0, kind::FIRMWARE_BLOB, pcr00::DXE, dxe),
        ];
        let store = flash(&[]);
        events.extend(pcr07::events(Some(self.secure_boot), &Variables::parse(&store).unwrap()).unwrap());
        events.push(separator(7));
        events.extend(pcr01::ACPI.iter().zip(self.tables).map(|(name, blob)| pcr01::acpi(name, blob)));
        events.push(event(1, kind::HANDOFF_TABLES, "SMBIOS table of the machine", self.smbios));
        for (number, variable) in (0..).zip(&self.boot_variables) {
            let name = if number == 0 { "BootOrder".to_owned() } else { format!("Boot{number:04}") };
            events.push(pcr01::boot_variable(&name, variable));
        }
        Machine { exits: vec![self.exit], ..Machine::with_events(events) }
    }

    fn composition(&self) -> Composition {
        let image = Image::parse(&self.raw()).unwrap().measured().unwrap();
        let configuration = self.cluster.map_or(Configuration::Stateless, Configuration::cluster);
        compose(&image, &self.machine(), &configuration).unwrap()
    }

    fn events(&self, point: Point) -> Vec<Event> {
        self.composition().events(point).to_vec()
    }

    fn registers(&self) -> BTreeMap<u8, Value> {
        self.composition().registers(Point::Initrd)
    }
}

/// Gives a partition another name, with right checksums.
fn rename(raw: &mut [u8], number: u32, name: &str) {
    let at = 1024 + 128 * (number as usize - 1) + 56;
    raw[at..at + 72].fill(0);
    for (place, unit) in (at..).step_by(2).zip(name.encode_utf16()) {
        raw[place..place + 2].copy_from_slice(&unit.to_le_bytes());
    }
    let array = crc32fast::hash(&raw[1024..1024 + 128 * 128]);
    raw[512 + 88..512 + 92].copy_from_slice(&array.to_le_bytes());
    raw[512 + 16..512 + 20].fill(0);
    let header = crc32fast::hash(&raw[512..512 + 92]);
    raw[512 + 16..512 + 20].copy_from_slice(&header.to_le_bytes());
}

fn log(events: &[Event]) -> Log {
    log_of(events, &Bank::ALL)
}

/// A name, what is changed, the registers that move, and what `explain` says.
type Row = (&'static str, fn(&mut Parts), &'static [u8], &'static str);

/// PCR 10 sums up 0 to 9, and moves with any of them.
const ROWS: [Row; 34] = [
    (
        "a word more",
        |parts| parts.set(".cmdline", b"console=ttyS0 quiet debug"),
        &[4, 9, 10, 11],
        "content of section .cmdline",
    ),
    (
        "a blank at the end",
        |parts| parts.set(".cmdline", b"console=ttyS0 quiet "),
        &[4, 10, 11],
        "content of section .cmdline",
    ),
    (
        "a byte of the initrd",
        |parts| parts.set(".initrd", b"an initrd?"),
        &[4, 9, 10, 11],
        "content of section .initrd",
    ),
    (
        "a longer initrd",
        |parts| parts.set(".initrd", b"an initrd! and more"),
        &[4, 9, 10, 11],
        "content of section .initrd",
    ),
    (
        "the kernel",
        |parts| parts.set(".linux", &pe(&[(".text", b"a kernel")])),
        &[4, 10, 11],
        "content of section .linux",
    ),
    (
        "os-release",
        |parts| parts.set(".osrel", b"ID=cairn\nVERSION_ID=2\n"),
        &[4, 9, 10, 11],
        "content of section .osrel",
    ),
    ("the kernel's name", |parts| parts.set(".uname", b"6.13"), &[4, 10, 11], "content of section .uname"),
    ("SBAT", |parts| parts.set(".sbat", b"sbat,2\n"), &[4, 10, 11], "content of section .sbat"),
    ("the picture", |parts| parts.set(".splash", b"another"), &[4, 10, 11], "content of section .splash"),
    ("the device tree", |parts| parts.set(".dtb", b"another"), &[4, 10, 11], "content of section .dtb"),
    ("hardware ids", |parts| parts.set(".hwids", b"other"), &[4, 10, 11], "content of section .hwids"),
    (
        "code of the stub",
        |parts| parts.set(".text", b"other code of the stub"),
        &[4, 10],
        "the stub or a header differs",
    ),
    (
        "a section less",
        |parts| parts.sections.retain(|(name, _)| *name != ".splash"),
        &[4, 10, 11],
        "name of section .splash",
    ),
    ("sections in another order", |parts| parts.sections.swap(3, 4), &[4, 10], "the stub or a header differs"),
    ("the disk's id", |parts| parts.plan[0] = 99, &[5, 10], "only its header"),
    ("the ESP's id", |parts| parts.plan[1] = 99, &[5, 10], "entry 1"),
    ("the configuration's id", |parts| parts.plan[2] = 99, &[5, 10], "entry 2"),
    ("the root's id", |parts| parts.plan[3] = 99, &[5, 10], "entry 3"),
    ("the hash tree's id", |parts| parts.plan[4] = 99, &[5, 10], "entry 4"),
    ("a larger root", |parts| parts.root = 3 << 20, &[5, 10], "the partition table differs"),
    ("a partition's name", |parts| parts.names.push((3, "r00t")), &[5, 10], "now \"r00t\""),
    ("another file on the ESP", |parts| parts.other_file = Some(b"x"), &[], "MATCH"),
    ("another firmware", |parts| parts.firmware = [b"other", b"other", b"other"], &[0, 10], "another build"),
    (
        "another firmware of that version",
        |parts| parts.firmware = [b"version", b"other", b"other"],
        &[0, 10],
        "PEI volume of the firmware: another build",
    ),
    (
        "memory that the firmware writes into its volume",
        |parts| parts.firmware[1] = b"other",
        &[0, 10],
        "another number of CPUs or another size of memory",
    ),
    (
        "Secure Boot built in",
        |parts| parts.secure_boot = pcr07::SecureBootOff::Disabled,
        &[7, 10],
        "variable SecureBoot",
    ),
    (
        "memory",
        |parts| parts.tables[3] = b"other tables",
        &[1, 10],
        "etc/acpi/tables of the machine: another size of memory",
    ),
    ("CPUs", |parts| parts.tables = [b"l2", b"r2", b"log", b"t2"], &[1, 10], "another number of CPUs"),
    (
        "another interface of the TPM",
        |parts| parts.tables = [b"l3", b"r3", b"log", b"t3"],
        &[1, 10],
        "another interface of the TPM",
    ),
    ("another CPU", |parts| parts.smbios = b"other", &[1, 10], "another model of CPU"),
    (
        "boot services that end later",
        |parts| parts.exit = Exit::AtSecondAttempt,
        &[5, 10],
        "action \"Exit Boot Services Returned with Success\"",
    ),
    (
        "the cluster's configuration",
        |parts| parts.cluster = Some(b"{}\n"),
        &[12],
        "all are those of a node without a cluster",
    ),
    ("boot order", |parts| parts.boot_variables[0] = b"other order", &[1, 10], "variable BootOrder"),
    ("a boot entry more", |parts| parts.boot_variables.push(b"third"), &[1, 10], "that nobody predicted"),
];

#[test]
fn exactly_the_registers_move_that_must_and_explain_names_the_change() {
    let (parts, before) = (Parts::new(), Parts::new().registers());
    let predicted = parts.events(Point::Firmware);
    assert!(before.values().all(|value| matches!(value, Value::Exact(_))), "{before:?}");
    for (name, change, registers, words) in ROWS {
        let mut changed = parts.clone();
        change(&mut changed);
        let after = changed.registers();
        let moved: Vec<u8> = before.keys().copied().filter(|register| before[register] != after[register]).collect();
        assert_eq!(moved, registers, "{name}");
        let found = log(&changed.events(Point::Firmware));
        let mut said = text(&explain::log([&predicted[..]], &found, &Neighbours::default()));
        if moved == [12] {
            // No firmware logs it: the registers say it.
            assert!(said.starts_with("MATCH"), "{name}: {said}");
            let own = ("a node without a cluster".to_owned(), parts.composition());
            let found = [(Bank::Sha256, in_bank(&before, Bank::Sha256))].into();
            said = text(&explain::registers::registers(&changed.composition(), &found, &[own]));
        }
        assert!(said.contains(words), "{name}: {said}");
    }
}

fn in_bank(registers: &BTreeMap<u8, Value>, bank: Bank) -> BTreeMap<u8, Vec<u8>> {
    registers.iter().filter_map(|(register, value)| Some((*register, value.in_bank(bank)?.to_vec()))).collect()
}
