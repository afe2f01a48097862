//! `cairn verify` as its user runs it: files, text, JSON, exit codes.

#![allow(clippy::unwrap_used)]

#[path = "../../crates/transparency/tests/fake/mod.rs"]
mod fake;

use std::path::Path;
use std::process::Command;

use fake::{Fake, documents};
use serde_json::Value;
use transparency::statement::Statement;
use transparency::statement::measured_boot::{MeasuredBoot, Reference};
use transparency::trust_root::{TrustRootDocument, Witnesses};

/// A release that holds at whatever time this runs, and a trust root that needs nobody's clock.
fn write(folder: &Path) {
    let mut fake = Fake::new();
    let none = Witnesses { keys: Vec::new(), threshold: 0 };
    let mut root = TrustRootDocument { witnesses: none, timestamp_authorities: Vec::new(), ..fake.trust_root() };
    (root.keys[0].not_before, root.keys[0].not_after) = (0, 1 << 52);
    let reference = Reference::Image(Box::new(documents::image()));
    let (files, predicate) = (documents::files(&reference), documents::predicate(reference));
    let statement =
        Statement::measured_boot(files, MeasuredBoot { not_before: 0, not_after: 1 << 52, ..predicate }).unwrap();
    let bundle = fake.publish(&statement.write().unwrap()).write().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    write("bundle.json", &bundle);
    write("root.json", &fake.sign_trust_root(&root.write().unwrap()));
    write("release.raw", documents::RAW);
    write("other.raw", b"something else");
}

/// Exit code, and what was printed.
fn verify(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    let output = command.arg("verify").args(arguments).current_dir(folder).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_release_is_verified_refused_or_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let with = |more: &[&str]| {
        let all = [&["--trust-root", "root.json", "--bundle", "bundle.json"], more].concat();
        verify(folder.path(), &all)
    };
    let (code, text) = with(&["release.raw"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("VERIFIED\nstatement      measured-boot sha256:"), "{text}");
    assert!(
        text.contains("about          cairn_0.1.0.raw\n") && text.contains("verifiers      cairn, sigstore-verify"),
        "{text}"
    );

    let (code, text) = with(&["other.raw"]);
    assert_eq!(code, Some(3));
    assert!(text.starts_with("REFUSED SUBJECT\nfound          no subject has the sha256 "), "{text}");
    assert!(text.contains("\nnext           use the bundle that was published with this file"), "{text}");

    let (code, text) = with(&["--digest", &"07".repeat(48), "--algorithm", "sha384", "--json"]);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &value["verdict"], &value["code"]), (Some(3), &"refused".into(), &"SUBJECT".into()));

    let (code, text) = with(&["--json", "--show"]);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &value["verdict"]), (Some(0), &"verified".into()));
    assert!(value["commands"].as_str().unwrap().contains("\ncosign verify-blob-attestation --key release.pub"));

    assert_eq!(with(&["no such file"]), (Some(1), String::new()));
    assert_eq!(with(&["--digest", "xyz"]), (Some(1), String::new()));
    // No statement has a value of this length under this name: it is not refused, it is mistyped.
    assert_eq!(with(&["--digest", &"07".repeat(48)]), (Some(1), String::new()));
    assert_eq!(with(&["--digest", &"07".repeat(48), "--algorithm", "sha385"]), (Some(1), String::new()));
    assert_eq!(verify(folder.path(), &["release.raw", "--bundle", "bundle.json"]).0, Some(2), "nobody is believed");
    let swapped = ["--trust-root", "bundle.json", "--bundle", "root.json"];
    let (code, text) = verify(folder.path(), &swapped);
    assert!(code == Some(3) && text.starts_with("REFUSED TRUST_ROOT\n"), "{text}");
}

/// serde prints names of unknown fields as they are.
#[test]
fn escape_codes_in_input_files_do_not_reach_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    for (name, first) in [
        ("root-forged.json", ""),
        ("bundle-forged.json", r#""mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","#),
        ("air-gap-forged.json", r#""schema":"cairn.air-gap/1","#),
        ("state-forged.json", r#""schema":"cairn.monitor/2","#),
    ] {
        let text = format!(r#"{{{first}"\u001b[2J\u009bx\nVERIFIED": 1}}"#);
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let cases: [(&[&str], i32); 6] = [
        (&["verify", "--trust-root", "root.json", "--bundle", "\u{1b}[2Jmissing.json"], 1),
        (&["verify", "--trust-root", "root.json", "--bundle", "bundle-forged.json"], 3),
        (&["verify", "--trust-root", "root-forged.json", "--bundle", "bundle.json"], 3),
        (&["verify", "--trust-root", "root.json", "--air-gap", "air-gap-forged.json"], 3),
        (&["monitor", "nowhere", "--trust-root", "root-forged.json", "--state", "x"], 1),
        (&["monitor", "nowhere", "--trust-root", "root.json", "--state", "state-forged.json"], 1),
    ];
    for (arguments, expected) in cases {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
        let output = command.args(arguments).current_dir(folder.path()).output().unwrap();
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(expected), "{printed:?}");
        assert!(printed.contains("\\u{1b}[2J"), "{arguments:?}: {printed:?}");
        assert!(!printed.contains(|letter: char| letter.is_control() && letter != '\n'), "{arguments:?}: {printed:?}");
        assert!(!printed.contains("\nVERIFIED"), "{arguments:?}: {printed:?}");
    }
}

#[test]
fn option_that_judges_nothing_of_its_kind_is_refused_before_a_file_is_read() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, option, value) in [
        ("provenance", "--channel", "state.json"),
        ("provenance", "--channel-version", "3"),
        ("provenance", "--newest", &"07".repeat(32)),
        ("rebuild", "--channel", "state.json"),
        ("rebuild", "--channel-version", "3"),
        ("rebuild", "--newest", &"07".repeat(32)),
        ("channel", "--channel", "state.json"),
        ("channel", "--newest", &"07".repeat(32)),
    ] {
        for source in [&["--bundle", "b.json", "--trust-root", "r.json"][..], &["--air-gap", "a.json"]] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
            command.args(["verify", "--kind", kind, option, value]).args(source);
            let output = command.current_dir(folder.path()).output().unwrap();
            let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            let expected = format!("error: cannot use {option} with --kind {kind}: ");
            assert!(printed.starts_with(&expected) && printed.contains("\nhint: "), "{printed}");
            assert_eq!(output.status.code(), Some(1));
        }
    }
}

#[test]
fn state_of_an_earlier_monitor_is_refused_with_the_next_step() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let state = r#"{"grown":1,"head":"","origin":"x","ours":0,"roots":[],"schema":"cairn.monitor/1","size":0}"#;
    std::fs::write(folder.path().join("log.state"), format!("{state}\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    command.args(["monitor", "http://log.invalid", "--trust-root", "root.json", "--state", "log.state"]);
    let output = command.current_dir(folder.path()).output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(printed.contains("schema \"cairn.monitor/1\"") && printed.contains("\nhint: keep this file"), "{printed}");
}
