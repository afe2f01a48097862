//! Documents and logs in JSON: machine references, and systemd's records of user space.

use measurements::boot::BootMethod;
use measurements::document::image::{FileReference, ImageEvents, ImageReference, InitrdFile, Toolchain};
use measurements::document::machine::{
    ConfigurationCover, Covers, FirmwareReference, ImageCover, MachineReference, SCHEMA, Shape,
};
use measurements::document::{EventRecord, Known};
use measurements::event::kind;
use measurements::tpm::pcr05::Exit;
use measurements::{Event, Source};

use super::{File, file};

pub fn files() -> Vec<File> {
    [machines(), images(), records()].concat()
}

fn event(register: u8, input: &str) -> EventRecord {
    let event = Event::of(register, kind::CONFIG_FLAGS, Source::Machine, input, input.as_bytes());
    EventRecord::new(&event.with_data(input), Known::Recorded, 64)
}

/// A machine reference with these events.
pub fn reference(inputs: &[&str]) -> String {
    let reference = MachineReference {
        boot: BootMethod::Disk,
        covers: Covers { configuration: ConfigurationCover::Pcr12, image: ImageCover::Tpm },
        events: inputs.iter().map(|input| event(1, input)).collect(),
        exit_boot_services: (!inputs.is_empty()).then_some(Exit::AtOnce),
        firmware: FirmwareReference { package: "ovmf 1".into(), sha256: "00".repeat(32) },
        launch: None,
        name: "test".into(),
        schema: SCHEMA.into(),
        shape: Shape { cpus: 2, memory_mib: 1024, tpm: (!inputs.is_empty()).then(|| "crb".into()) },
        vmm: "QEMU 10".into(),
    };
    String::from_utf8(reference.to_bytes().unwrap()).unwrap()
}

/// An image reference with two events.
pub fn image() -> String {
    let digest = || "00".repeat(32);
    let file = || FileReference { sha256: digest(), size: 1 };
    let reference = ImageReference {
        command_line: "quiet".into(),
        debug: false,
        dirty: false,
        epoch: 1,
        events: ImageEvents { boot: vec![event(4, "UKI")], initrd: vec![event(11, "phase")], running: vec![] },
        id: "cairn".into(),
        initrd: vec![InitrdFile { path: "init".into(), sha256: digest() }],
        lock: digest(),
        locked: true,
        raw: file(),
        revision: "1".into(),
        root_hash: digest(),
        schema: measurements::document::image::SCHEMA.into(),
        toolchain: Toolchain { commit: "1".into(), rustc: "1".into() },
        uki: file(),
        variant: "production".into(),
        version: "1".into(),
    };
    String::from_utf8(reference.to_bytes().unwrap()).unwrap()
}

fn images() -> Vec<File> {
    let good = image();
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    vec![
        file("image_reference", "two-events", good.clone()),
        file("image_reference", "register-16", with("\"pcr\":4", "\"pcr\":16")),
        file("image_reference", "size-that-is-no-integer", with("\"size\":1", "\"size\":1.5")),
        file("image_reference", "size-beyond-2-to-53", with("\"size\":1", "\"size\":9007199254740993")),
        file("image_reference", "unknown-event", with("\"recorded\"", "\"unknown\"")),
        file("image_reference", "cut", &good.as_bytes()[..300]),
    ]
}

fn machines() -> Vec<File> {
    let good = reference(&["ACPI DATA", "boot order"]);
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    vec![
        file("machine", "two-events", good.clone()),
        file("machine", "no-events", reference(&[])),
        file("machine", "text-with-escapes", reference(&["\u{1}\"\\\u{e9}\u{1f600}"])),
        file("machine", "other-schema", with("machine/1", "machine/2")),
        file("machine", "blank-before-a-field", with(",\"pcr\"", ", \"pcr\"")),
        file("machine", "field-twice", with("\"vmm\"", "\"vmm\":\"\",\"vmm\"")),
        file("machine", "unknown-field", with("\"vmm\"", "\"unknown\":1,\"vmm\"")),
        file("machine", "register-4", with("\"pcr\":1", "\"pcr\":4")),
        file("machine", "register-300", with("\"pcr\":1", "\"pcr\":300")),
        file("machine", "more-cpus-than-numbers", with("\"cpus\":2", "\"cpus\":4294967296")),
        file("machine", "digest-with-a-digit-more", with("\"sha1\":\"", "\"sha1\":\"0")),
        file("machine", "bank-twice", with("\"sha1\":", "\"sha1\":\"\",\"sha1\":")),
        file("machine", "thousand-arrays", "[".repeat(1000)),
        file("machine", "cut", &good.as_bytes()[..200]),
    ]
}

fn records() -> Vec<File> {
    let record = |word: &str| {
        let (sha1, sha256) = ("ab".repeat(20), "cd".repeat(32));
        format!(
            "\u{1e}{{\"pcr\":11,\"digests\":[{{\"hashAlg\":\"sha1\",\"digest\":\"{sha1}\"}},{{\"hashAlg\":\"sha256\",\"digest\":\"{sha256}\"}}],\
             \"content_type\":\"systemd\",\"content\":{{\"string\":\"{word}\",\"bootId\":\"0\",\"timestamp\":1,\"eventType\":\"phase\"}}}}\n"
        )
    };
    let good = record("enter-initrd") + &record("leave-initrd");
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    vec![
        file("cel", "two-phases", good.clone()),
        file("cel", "nothing", ""),
        file("cel", "separators-alone", "\u{1e}\n".repeat(100)),
        file("cel", "other-content", with("systemd", "pcclient_std")),
        file("cel", "content-with-control-characters", with("systemd", &"\\u0001".repeat(200))),
        file("cel", "digest-that-is-no-number", with("abab", "xyab")),
        file("cel", "digest-of-19-bytes", with("abab", "ab")),
        file("cel", "bank-that-is-not-known", with("sha1", "sm3_256")),
        file("cel", "register-300", with("\"pcr\":11", "\"pcr\":300")),
        file("cel", "separator-in-a-record", with("enter-", "enter\u{1e}")),
        file("cel", "thousand-arrays", with("\"0\"", &"[".repeat(1000))),
        file("cel", "cut", &good.as_bytes()[..good.len() / 2 + 60]),
    ]
}
