//! Images and logs that Cairn did not make: each is predicted as a real machine measured it, is refused with the reason, or is unknown. What each file is stands in `foreign/README.md`.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::io::Read;
use std::path::Path;

use measurements::boot::{BootMethod, Image, Machine, Measured, Point};
use measurements::compose::{Composition, Configuration, compose};
use measurements::event::{SecureBoot, kind};
use measurements::explain::neighbours::Neighbours;
use measurements::explain::{self, text};
use measurements::parse::tcg_log::{Log, LogEvent, NO_ACTION};
use measurements::parse::{pcrs, tcg_log};
use measurements::tpm::Value;
use measurements::{Bank, Event};

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if !name.ends_with(".gz") {
        return bytes;
    }
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut unpacked).unwrap();
    unpacked
}

fn log(name: &str) -> Log {
    Log::parse(&file(name)).unwrap()
}

fn measured(name: &str) -> Measured {
    Image::parse(&file(name)).unwrap().measured().unwrap()
}

/// The UKI of the plain disk, alone.
fn plain_uki() -> Measured {
    let disk = Image::parse(&file("disk-plain.raw.gz")).unwrap();
    Image::parse(disk.uki().unwrap().pe.bytes()).unwrap().measured().unwrap()
}

fn composed(image: &Measured, machine: &Machine) -> Composition {
    compose(image, machine, &Configuration::Stateless).unwrap()
}

/// Without Secure Boot, from a disk.
fn from_disk() -> Machine {
    Machine::unknown().booting(BootMethod::Disk).with_secure_boot(SecureBoot::Off)
}

fn register(composition: &Composition, register: u8) -> Value {
    composition.registers(Point::Firmware)[&register].clone()
}

fn exact(image: &Measured, number: u8) -> String {
    match register(&composed(image, &from_disk()), number) {
        value @ Value::Exact(_) => hex::encode(value.in_bank(Bank::Sha256).unwrap()),
        other => panic!("PCR {number}: {other:?}"),
    }
}

fn real(name: &str, register: u8) -> String {
    hex::encode(&pcrs::parse(&file(name)).unwrap()[&Bank::Sha256][&register])
}

fn of_register(events: &[Event], register: u8) -> Vec<&Event> {
    events.iter().filter(|event| event.register == register).collect()
}

/// What `explain` says of a log of the plain UKI.
fn explained(log: &Log) -> String {
    let composition = composed(&plain_uki(), &Machine::unknown().as_logged(log));
    text(&explain::log(composition.sequences(Point::Firmware), log, &Neighbours::default()))
}

#[test]
fn add_on_beside_the_uki_is_predicted_as_an_input() {
    let (plain, image) = (measured("disk-plain.raw.gz"), measured("F01-disk-addon.raw.gz"));
    assert_eq!(exact(&image, 12), real("F01-real-boot.pcrs.txt", 12));
    assert_eq!(of_register(&image.boot, 4).len(), of_register(&plain.boot, 4).len() + 1);
    let add_on = of_register(&image.boot, 4)[1];
    assert!(add_on.input.contains("EFI/BOOT/BOOTX64.EFI.extra.d/a.addon.efi"), "{}", add_on.input);
    // Load options, which the add-on appends to.
    assert_ne!(of_register(&image.boot, 9)[0].digests, of_register(&plain.boot, 9)[0].digests);
    assert_eq!(exact(&plain, 12), "00".repeat(32));
    // With Secure Boot, the add-on's signature decides.
    let verifying = Machine::unknown().with_secure_boot(SecureBoot::On);
    for number in [4, 9, 12] {
        assert!(matches!(register(&composed(&image, &verifying), number), Value::HostDependent(_)), "PCR {number}");
    }
}

#[test]
fn credential_beside_the_uki_is_predicted_as_an_input() {
    let (plain, image) = (measured("disk-plain.raw.gz"), measured("F03-disk-credential.raw.gz"));
    assert_eq!(exact(&image, 12), real("F03-real-boot.pcrs.txt", 12));
    assert_eq!(exact(&image, 4), exact(&plain, 4));
    assert_ne!(exact(&image, 9), exact(&plain, 9), "the credential is behind the initrd");
}

/// Register and type of what the firmware measures from the UKI on, without what follows from the disk's size.
fn places(events: impl Iterator<Item = (u32, u32)>) -> Vec<(u32, u32)> {
    events.skip_while(|place| *place != (5, kind::GPT)).collect()
}

#[test]
fn kernel_is_measured_only_without_secure_boot() {
    let image = measured("disk-plain.raw.gz");
    for (name, state) in [("F06-secure-boot-257.evlog", SecureBoot::On), ("F07-disk-boot-257.evlog", SecureBoot::Off)] {
        let log = log(name);
        let machine = Machine::unknown().as_logged(&log);
        assert_eq!(machine, Machine::unknown().with_secure_boot(state), "{name}");
        let composition = composed(&image, &machine);
        let predicted = composition.events(Point::Firmware).iter().map(|event| (event.register.into(), event.kind));
        let logged = log.events.iter().filter(|event| event.kind != NO_ACTION);
        assert_eq!(places(predicted), places(logged.map(|event| (event.register, event.kind))), "{name}");
    }
    // Where the state is not known, both values are legal.
    let Value::OneOf(legal) = register(&composed(&image, &Machine::unknown()), 4) else { panic!() };
    assert_eq!(legal.len(), 2);
}

#[test]
fn uki_alone_has_another_answer_for_each_way_to_boot_it() {
    let (disk, uki) = (measured("disk-plain.raw.gz"), plain_uki());
    let known = Machine::unknown().with_secure_boot(SecureBoot::Off);
    let value = |method: Option<BootMethod>, number: u8| {
        let machine = method.map_or(known.clone(), |method| known.clone().booting(method));
        register(&composed(&uki, &machine), number)
    };
    let from_disk = value(Some(BootMethod::Disk), 4);
    assert_eq!(from_disk, register(&composed(&disk, &known), 4));
    assert!(matches!(value(Some(BootMethod::Disk), 5), Value::HostDependent(reason) if reason.contains("raw disk")));
    let (direct, table) = (value(Some(BootMethod::Kernel), 4), value(Some(BootMethod::Kernel), 5));
    assert!(matches!(direct, Value::Exact(_)) && direct != from_disk);
    // Boot services may end at the first or at the second attempt.
    assert!(matches!(table, Value::OneOf(all) if all.len() == 2));
    assert_eq!(value(None, 4), from_disk.or(direct));
    assert!(matches!(value(None, 5), Value::HostDependent(_)));
}

#[test]
fn events_that_come_between_are_named_with_whose_doing_they_are() {
    let text = explained(&log("plain.evlog"));
    assert!(text.starts_with("MATCH as far as can be told: all "), "{text}");
    let text = explained(&log("F08-addon.evlog"));
    for words in [
        "MISMATCH at event 30, PCR 4",
        "2 events",
        "an add-on",
        "\"fromaddon=1\"",
        "whose     the machine",
        "gets no keys",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn log_without_the_kernel_s_event_is_not_whole_where_secure_boot_is_off() {
    let text = explained(&log("F11-no-kernel-event.evlog"));
    for words in ["the kernel", "the log says that Secure Boot is off", "whose     the machine", "--pcrs"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn log_of_another_kind_is_named_with_the_next_step() {
    for (bytes, words) in
        [(file("F12b-sha1-format.evlog"), ["SHA-1 format", "TPM 2.0"]), (Vec::new(), ["empty", "--pcrs"])]
    {
        let error = Log::parse(&bytes).unwrap_err();
        assert!(matches!(error, tcg_log::Error::Other(..)), "{error}");
        assert!(words.iter().all(|words| error.to_string().contains(words)), "{error}");
    }
    let text = explained(&log("F10-ccel.bin"));
    assert!(
        text.starts_with("CANNOT TELL: it is a CC event log") && text.contains("binary_bios_measurements"),
        "{text}"
    );
}

fn section_names(image: &Measured) -> Vec<String> {
    let names = image.boot.iter().filter(|event| event.register == 11 && event.input.starts_with("name"));
    names.map(|event| event.input.split(' ').nth(3).unwrap().to_owned()).collect()
}

/// The digest of a section's content in a log.
fn logged_section<'a>(log: &'a Log, name: &str) -> &'a LogEvent {
    let is = |event: &&LogEvent| {
        event.register == 11 && String::from_utf16_lossy(&units(&event.data)).trim_end_matches('\0') == name
    };
    log.events.iter().filter(is).nth(1).unwrap()
}

fn units(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// The real boot had the sections of the UKI whose log is F07, and another stub.
#[test]
fn stub_of_systemd_254_is_predicted_by_its_own_rules() {
    let (image, log) = (measured("M01-stub254.efi.gz"), log("F07-disk-boot-257.evlog"));
    let names = section_names(&image);
    assert_eq!(names, [".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat"]);
    let digest = |event: &LogEvent| event.digests.iter().find(|(bank, _)| *bank == Bank::Sha256).unwrap().1.clone();
    // Another stub has another .sbat: without it, the registers of both boots part there.
    let extended = names[..5].iter().fold(vec![0; 32], |value, name| {
        let value = Bank::Sha256.extend(&value, &Bank::Sha256.digest(format!("{name}\0").as_bytes()));
        Bank::Sha256.extend(&value, &digest(logged_section(&log, name)))
    });
    let sbat = Image::parse(&file("M01-stub254.efi.gz")).unwrap().uki().unwrap().section(".sbat").to_vec();
    let value = Bank::Sha256.extend(&extended, &Bank::Sha256.digest(b".sbat\0"));
    let value = Bank::Sha256.extend(&value, &Bank::Sha256.digest(&sbat));
    assert_eq!(hex::encode(value), real("M01-real-boot.pcrs.txt", 11));
    // The initrd is passed as it is: stub 254 adds no os-release.
    let initrd = of_register(&image.boot, 9)[1].digest(Bank::Sha256).unwrap();
    assert_eq!(initrd, of_section(&image, ".initrd"));
    let options = log.events.iter().find(|event| event.register == 9).unwrap();
    let value = Bank::Sha256.extend(&[0; 32], &digest(options));
    let value = Bank::Sha256.extend(&value, &digest(logged_section(&log, ".initrd")));
    assert_eq!(hex::encode(value), real("M01-real-boot.pcrs.txt", 9));
}

fn of_section<'a>(image: &'a Measured, name: &str) -> &'a [u8] {
    let input = format!("content of section {name} of the UKI");
    image.boot.iter().find(|event| event.input == input).unwrap().digest(Bank::Sha256).unwrap()
}

#[test]
fn signature_of_registers_is_in_pcr_9_and_its_key_in_pcr_11_too() {
    let (plain, image) = (plain_uki(), measured("M02-pcrsig.efi.gz"));
    assert_eq!(section_names(&image).last().unwrap(), ".pcrpkey");
    assert!(!section_names(&image).contains(&".pcrsig".to_owned()));
    assert_ne!(of_register(&image.boot, 9)[1].digests, of_register(&plain.boot, 9)[1].digests);
}

#[test]
fn first_profile_of_a_uki_is_predicted() {
    let image = measured("F13-profiles.efi.gz");
    assert_eq!(section_names(&image).last().unwrap(), ".profile");
    assert_eq!(of_section(&image, ".cmdline"), of_section(&plain_uki(), ".cmdline"), "that of profile 0");
}

#[test]
fn systemd_boot_is_measured_before_the_uki_that_it_starts() {
    let (plain, image) = (measured("disk-plain.raw.gz"), measured("M04-disk-sdboot.raw.gz"));
    let images: Vec<&str> = of_register(&image.boot, 4).iter().map(|event| &event.input[..]).collect();
    assert_eq!(images, ["systemd-boot", "the UKI", "section .linux of the UKI, the kernel"]);
    for number in [9, 11, 12] {
        assert_eq!(exact(&image, number), exact(&plain, number), "PCR {number}");
    }
}

#[test]
fn disk_with_blocks_of_4096_bytes_differs_in_pcr_5_alone() {
    let (plain, image) = (measured("disk-plain.raw.gz"), measured("M05-disk-4k-sectors.raw.gz"));
    for number in [4, 9, 11, 12] {
        assert_eq!(exact(&image, number), exact(&plain, number), "PCR {number}");
    }
    assert!(image.boot[0].kind == kind::GPT && image.boot[0].digests != plain.boot[0].digests);
}

#[test]
fn disk_in_another_form_is_named_with_the_command_that_unpacks_it() {
    let error = Image::parse(&file("F17-qcow2-head.bin")).unwrap_err().to_string();
    assert!(error.contains("a qcow2 disk") && error.contains("qemu-img convert -O raw"), "{error}");
}
