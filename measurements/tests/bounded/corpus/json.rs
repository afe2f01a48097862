//! Documents and logs in JSON: machine references, and systemd's records of user space.

use measurements::event::kind;
use measurements::machine::{FirmwareReference, Known, MachineEvent, MachineReference, SCHEMA, Shape};
use measurements::{Event, Source};

use super::{File, file};

pub fn files() -> Vec<File> {
    [machines(), records()].concat()
}

fn reference(inputs: &[&str]) -> String {
    let event = |input: &&str| {
        let event = Event::of(1, kind::CONFIG_FLAGS, Source::Machine, *input, input.as_bytes());
        MachineEvent::new(&event, Known::Recorded).unwrap()
    };
    let reference = MachineReference {
        events: inputs.iter().map(event).collect(),
        firmware: FirmwareReference { sha256: "00".repeat(32), version: "1".into() },
        name: "test".into(),
        schema: SCHEMA.into(),
        shape: Shape { cpus: 2, memory_mib: 1024, tpm: "crb".into() },
        vmm: "QEMU 10".into(),
    };
    String::from_utf8(reference.to_bytes().unwrap()).unwrap()
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
