//! Golden text: what people read.

use std::collections::BTreeMap;

use super::launch::{Report, launch};
use super::neighbours::Neighbours;
use super::{
    Verdict,
    cause::{OTHER_IMAGE, OTHER_MACHINE},
    text,
};
use crate::boot::{BootMethod, Machine, Point};
use crate::compose::{Configuration, LaunchParameters, compose};
use crate::document::image::{FileReference, ImageEvents, ImageReference, InitrdFile, Toolchain};
use crate::document::{EventRecord, Known};
use crate::event::kind;
use crate::parse::tcg_log::Log;
use crate::parse::tcg_log::tests::log_of;
use crate::tpm::Value;
use crate::tpm::{pcr04, pcr05, separator};
use crate::{Bank, Event, Source};

fn table(names: &[&str]) -> Vec<u8> {
    let mut data = vec![0; 100];
    for name in names {
        let mut entry = vec![7; 56];
        entry.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
        entry.resize(128, 0);
        data.extend(entry);
    }
    data
}

fn predicted() -> Vec<Event> {
    let image = |register, kind, input: &str| Event::of(register, kind, Source::Image, input, input.as_bytes());
    vec![
        Event::of(0, kind::CRTM_VERSION, Source::Machine, "version of the firmware", b"1"),
        Event::of(1, kind::BOOT_VARIABLE, Source::Machine, "variable BootOrder of the firmware", b"order"),
        separator(4),
        pcr05::table(&table(&["ESP", "root"])),
        image(4, kind::APPLICATION, "the UKI"),
        image(11, kind::IPL, "content of section .cmdline of the UKI"),
    ]
}

fn log(events: &[Event]) -> Log {
    log_of(events, &[Bank::Sha1, Bank::Sha256])
}

fn after(change: impl FnOnce(&mut Vec<Event>)) -> String {
    let mut events = predicted();
    change(&mut events);
    text(&super::log([&predicted()[..]], &log(&events), &Neighbours::default()))
}

#[test]
fn what_is_as_predicted_matches() {
    assert_eq!(after(|_| ()), "MATCH: all 6 events are as predicted\n");
}

#[test]
fn a_changed_section_is_named_with_both_digests_and_the_next_step() {
    let other = Event::of(11, kind::IPL, Source::Image, "x", b"x");
    let expected = format!(
        "MISMATCH at event 5, PCR 11\ncause     it is not this one: content of section .cmdline of the UKI\n\
         expected  sha256:{}\nfound     sha256:{}\nwhose     the image\nnext      {OTHER_IMAGE}\n",
        hex::encode(Bank::Sha256.digest(b"content of section .cmdline of the UKI")),
        hex::encode(Bank::Sha256.digest(b"x"))
    );
    assert_eq!(after(|events| events[5] = other), expected);
}

#[test]
fn each_change_is_named() {
    let at = |register, kind, bytes: &[u8]| Event::of(register, kind, Source::Machine, "x", bytes);
    let addition: Vec<u8> = "debug\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    type Change = Box<dyn FnOnce(&mut Vec<Event>)>;
    let rows: Vec<(&str, Change, &[&str])> = vec![
        (
            "firmware",
            Box::new(move |events| events[0] = at(0, kind::CRTM_VERSION, b"2")),
            &["event 0, PCR 0", "version of the firmware", "whoever runs it"],
        ),
        (
            "boot order",
            Box::new(move |events| events[1] = at(1, kind::BOOT_VARIABLE, b"x")),
            &["event 1, PCR 1", "BootOrder", "boot entries"],
        ),
        (
            "partition name",
            Box::new(|events| events[3] = pcr05::table(&table(&["ESP", "r00t"]))),
            &["PCR 5", "entry 2 (\"root\", now \"r00t\")"],
        ),
        (
            "new partition",
            Box::new(|events| events[3] = pcr05::table(&table(&["ESP", "root", "home"]))),
            &["one more entry (\"home\")"],
        ),
        (
            "lost partition",
            Box::new(|events| events[3] = pcr05::table(&table(&["ESP"]))),
            &["an entry is missing (\"root\")"],
        ),
        (
            "disk id",
            Box::new(|events| {
                let mut data = table(&["ESP", "root"]);
                data[60] = 1;
                events[3] = pcr05::table(&data);
            }),
            &["only its header"],
        ),
        (
            "another UKI",
            Box::new(move |events| events[4] = at(4, kind::APPLICATION, b"x")),
            &["event 4, PCR 4", "the UKI", "the image"],
        ),
        (
            "add-on",
            Box::new(move |events| events.push(at(4, kind::APPLICATION, b"x"))),
            &["event 6, PCR 4", "one more image was loaded", "no event"],
        ),
        (
            "addition",
            Box::new(move |events| events.insert(5, at(12, kind::IPL, b"x").with_data(addition))),
            &["PCR 12", "\"debug\"", "expected  no event", "gets no keys"],
        ),
        (
            "add-on with a command line",
            Box::new(move |events| {
                let text: Vec<u8> = "debug\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
                events.insert(5, at(4, kind::APPLICATION, b"add-on"));
                events.insert(6, at(12, kind::IPL, b"x").with_data(text));
            }),
            &[
                "event 5, PCR 4",
                "2 events were not predicted: one more image",
                "\"debug\"",
                "whoever runs it",
                "gets no keys",
            ],
        ),
        (
            "two more boot options than are predicted",
            Box::new(|events| {
                for event in pcr04::next_attempt() {
                    events.insert(3, event);
                }
            }),
            &["event 3, PCR 4", "2 events were not predicted: one more boot option failed", "up to 2"],
        ),
        (
            "missing event",
            Box::new(|events| drop(events.remove(2))),
            &["event 2, PCR 4", "the log does not have it: separator", "found     no event", OTHER_MACHINE],
        ),
        ("cut short", Box::new(|events| drop(events.pop())), &["event 5, PCR 11", "cut short", "found     no event"]),
    ];
    for (name, change, words) in rows {
        let text = after(change);
        for word in words {
            assert!(text.contains(word), "{name}: {word:?} is not in {text}");
        }
    }
}

#[test]
fn log_of_another_boot_loader_is_named_by_its_events() {
    let at =
        |register, kind, bytes: &[u8]| Event::of(register, kind, Source::Machine, "x", bytes).with_data(bytes.to_vec());
    let started = |others: &[Event]| {
        after(|events| {
            events.truncate(4);
            events.push(at(4, kind::APPLICATION, b"another image"));
            events.extend_from_slice(others);
        })
    };
    let (shim, grub) = (at(14, kind::IPL, b"MokList\0"), at(8, kind::IPL, b"grub_cmd: set pager=1\0"));
    let text = started(&[shim, grub]);
    assert!(text.contains("the UKI; another boot loader was started (shim, GRUB): the log has no event"), "{text}");
    let text = started(&[]);
    assert!(text.contains("another boot loader was started, or the log is cut short"), "{text}");
}

#[test]
fn log_without_the_action_of_the_firmware_is_not_called_cut_short() {
    let action = pcr04::attempt;
    let moved = || Event { register: 5, ..action() };
    let predicted: Vec<Event> = [action()].into_iter().chain(predicted()).collect();
    let said = |logged: Vec<Event>| text(&super::log([&predicted[..]], &log(&logged), &Neighbours::default()));
    let without = said(predicted[1..].to_vec());
    for words in ["event 0, PCR 4\ncause     the log does not have it: action", "found     no event", OTHER_MACHINE] {
        assert!(without.contains(words) && !without.contains("cut short"), "{words}: {without}");
    }
    let into_5 = said(predicted[1..].iter().cloned().chain([moved()]).collect());
    assert!(into_5.contains("of the firmware; the firmware measured it into PCR 5\n"), "{into_5}");
    // The first image is the boot loader, not one more.
    let first = said(predicted[5..].to_vec());
    assert!(first.contains("the log does not have it: action") && !first.contains("one more image"), "{first}");
}

#[test]
fn registers_that_nobody_predicts_are_left_out_and_named() {
    let mut predicted = predicted();
    let real = log(&predicted);
    predicted[0] = Event::unknown(0, kind::FIRMWARE_BLOB, Source::Machine, "the firmware", "give it");
    let verdict = super::log([&predicted[..]], &real, &Neighbours::default());
    assert_eq!(verdict, Verdict::Match { compared: "all 5 events are".into(), unknown: vec![0] });
    assert!(text(&verdict).contains("PCR 0 was not compared"));
    let none = Log { banks: vec![], ..real };
    assert!(matches!(super::log([&predicted[..]], &none, &Neighbours::default()), Verdict::CannotTell(_)));
}

/// A release whose command line, initrd and UKI follow from these.
fn release(version: &str, command_line: &str, files: &[(&str, &str)]) -> ImageReference {
    let initrd: Vec<u8> = files.iter().flat_map(|(path, content)| format!("{path}{content}").into_bytes()).collect();
    let uki = format!("{command_line}{initrd:?}");
    let content = |name: &str, bytes: &[u8]| {
        Event::of(11, kind::IPL, Source::Image, format!("content of section {name} of the UKI"), bytes)
    };
    let boot = [
        Event::of(4, kind::APPLICATION, Source::Image, "the UKI", uki.as_bytes()),
        content(".cmdline", command_line.as_bytes()),
        content(".initrd", &initrd),
    ];
    let record = |event: &Event| EventRecord::new(event, Known::Calculated, 0);
    let file = || FileReference { sha256: "00".repeat(32), size: 1 };
    let listed = |(path, content): &(&str, &str)| InitrdFile {
        path: path.to_string(),
        sha256: hex::encode(Bank::Sha256.digest(content.as_bytes())),
    };
    ImageReference {
        command_line: command_line.into(),
        debug: false,
        dirty: false,
        epoch: 1,
        events: ImageEvents { boot: boot.iter().map(record).collect(), initrd: vec![], running: vec![] },
        id: "cairn".into(),
        initrd: files.iter().map(listed).collect(),
        lock: "00".repeat(32),
        locked: true,
        raw: file(),
        revision: "1".into(),
        root_hash: "00".repeat(32),
        schema: crate::document::image::SCHEMA.into(),
        toolchain: Toolchain { commit: "1".into(), rustc: "1".into() },
        uki: file(),
        variant: "production".into(),
        version: version.into(),
    }
}

#[test]
fn what_another_release_or_one_word_explains_is_recognised() {
    const LINE: &str = "console=ttyS0 quiet";
    const FILES: [(&str, &str); 2] = [("init", "agent 1"), ("lib/a.so", "a")];
    let own = release("1", LINE, &FILES);
    let predicted = own.measured().unwrap().boot;
    let others = [
        ("line.json", release("2", "console=ttyS0 debug", &FILES)),
        ("initrd.json", release("3", LINE, &[("init", "agent 2"), ("lib/a.so", "a")])),
        ("files.json", release("4", LINE, &[FILES[0], FILES[1], ("lib/b.so", "b")])),
    ];
    let others: Vec<(String, ImageReference)> =
        others.into_iter().map(|(name, reference)| (name.to_owned(), reference)).collect();
    let neighbours = Neighbours { own: Some(own), others: others.clone(), machines: Vec::new() };
    let seen = |reference: &ImageReference| {
        let found = log(&reference.measured().unwrap().boot);
        text(&super::log([&predicted[..]], &found, &neighbours))
    };
    for (reference, words) in [
        (&others[0].1, "it is that of cairn 2 (line.json), with \"debug\" and without \"quiet\""),
        (&others[1].1, "it is that of cairn 3 (initrd.json), with other content of init"),
        (&others[2].1, "it is that of cairn 4 (files.json), with lib/b.so"),
        (&release("5", "console=ttyS0", &FILES), "the word \"quiet\" is missing"),
        (&release("6", "console=ttyS0 quiet init=/bin/sh", &FILES), "the word \"init=/bin/sh\" was added"),
    ] {
        let text = seen(reference);
        assert!(text.contains(words) && text.contains("MISMATCH at event 0, PCR 4"), "{words:?}: {text}");
    }
    let unknown = seen(&release("7", "another line", &FILES));
    assert!(
        unknown.contains("the first part of it that differs is the content of section .cmdline of the UKI\n"),
        "{unknown}"
    );
}

#[test]
fn registers_that_nobody_knows_are_said_by_their_inputs() {
    let machine = Machine::with_events(vec![separator(7)]);
    let image = release("1", "x", &[]).measured().unwrap();
    let composition = compose(&image, &machine, &Configuration::Stateless).unwrap();
    let mut values: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    for (register, value) in composition.registers(Point::Firmware) {
        let legal = match value {
            Value::Exact(legal) => legal,
            // The firmware may refuse once to end its services.
            Value::OneOf(all) => all[1].clone(),
            Value::HostDependent(reason) => panic!("{reason}"),
        };
        values.insert(register, legal[&Bank::Sha256].clone());
    }
    let found = |values: BTreeMap<u8, Vec<u8>>| BTreeMap::from([(Bank::Sha256, values)]);
    let verdict = super::registers::registers(&composition, &found(values.clone()), &[]);
    assert_eq!(text(&verdict), "MATCH: when the firmware handed over, 16 registers (sha256) are as predicted\n");
    let expected = hex::encode(&values[&11]);
    values.insert(11, vec![7; 32]);
    let verdict = super::registers::registers(&composition, &found(values), &[]);
    assert_eq!(
        text(&verdict),
        format!(
            "MISMATCH at PCR 11\ncause     PCR 11 differs: PCR 11 follows from the sections of the UKI, and how far the boot came\n\
             expected  sha256:{expected}\nfound     sha256:{}\nwhose     the image\nnext      {OTHER_IMAGE}\n",
            "07".repeat(32)
        )
    );
    // Of several legal values, each is named.
    let several: Vec<(u8, Vec<Vec<u8>>)> = composition
        .registers(Point::Firmware)
        .into_iter()
        .map(|(register, value)| (register, value.all_in_bank(Bank::Sha256).into_iter().map(<[u8]>::to_vec).collect()))
        .filter(|(_, all): &(u8, Vec<Vec<u8>>)| all.len() > 1)
        .collect();
    let (register, all) = several.first().unwrap();
    let verdict = super::registers::registers(&composition, &found([(*register, vec![7; 32])].into()), &[]);
    let first = format!("expected  sha256:{} or sha256:{}", hex::encode(&all[0]), hex::encode(&all[1]));
    assert!(text(&verdict).contains(&first), "{}", text(&verdict));
    let none = super::registers::registers(&composition, &BTreeMap::new(), &[]);
    assert!(text(&none).starts_with("CANNOT TELL"));
}

#[test]
fn a_launch_digest_is_explained_by_its_neighbours() {
    use ovmf_measure::sev::{CpuSignature, KernelHashes, LaunchDigest, Layout, Range, RangeKind, Vcpu, Vmm};
    let layout = Layout {
        firmware: LaunchDigest([1; 48]),
        hash_table: Some([0x1000, 1024]),
        ranges: vec![Range { address: 0x1000, kind: RangeKind::KernelHashes, size: 0x1000 }],
        reset_eip: Some(0x80_b004),
    };
    let signature = CpuSignature::of_model("EPYC-Milan").unwrap();
    let vcpu = Vcpu { vmm: Vmm::Qemu, signature, features: 1, legacy_fpu: false };
    let parameters = LaunchParameters::SevSnp { layout: layout.clone(), vcpu, cpus: 4 };
    let machine = Machine { launch: Some(parameters), ..Machine::with_events(vec![]).booting(BootMethod::Kernel) };
    let image = release("1", "x", &[]).measured().unwrap();
    let said = |measurement, host_data| {
        let report = Report { measurement, host_data: [host_data; 32] };
        text(&launch(&image, &machine, &Configuration::Stateless, &report, &[], &[]))
    };
    let memory = layout.memory(Some(&KernelHashes::of_image(image.uki))).unwrap();
    let (four, eight) = (memory.with_cpus(&vcpu, 4).unwrap(), memory.with_cpus(&vcpu, 8).unwrap());
    assert_eq!(said(four, 0), "MATCH: MEASUREMENT and HOST_DATA are as predicted\n");
    assert_eq!(
        said(eight, 0),
        format!(
            "MISMATCH at MEASUREMENT\ncause     it matches with 8 vCPUs\nexpected  sha384:{four}\nfound     sha384:{eight}\n\
             whose     the machine, or whoever runs it\nnext      start the machine as its reference says, or use the \
             reference of what it is; nothing but a matching digest proves what runs\n"
        )
    );
    let no_hashes = layout.memory(None).unwrap().with_cpus(&vcpu, 4).unwrap();
    assert!(said(no_hashes, 0).contains("it matches with no kernel hashes\n"));
    let legacy = memory.with_cpus(&Vcpu { legacy_fpu: true, ..vcpu }, 2).unwrap();
    assert!(said(legacy, 0).contains("it matches with 2 vCPUs, a host kernel that leaves MXCSR and FCW at 0\n"));
    assert!(said(four, 1).starts_with("MISMATCH at HOST_DATA\n"));
    assert!(said(LaunchDigest([9; 48]), 0).contains("no neighbour has it"));
}
