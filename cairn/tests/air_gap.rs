//! `cairn pack` and `cairn verify --air-gap` as their users run them: one file goes over, and one digest by another way.

#![allow(clippy::unwrap_used)]

#[path = "../../crates/transparency/tests/fake/mod.rs"]
mod fake;

use std::path::Path;
use std::process::Command;

use fake::{Fake, documents, ed25519, public};
use measurements::bytes::Bytes32;
use serde_json::Value;
use sha2::{Digest, Sha256};
use transparency::air_gap::{AirGap, NamedBundle};
use transparency::statement::channel::{Channel, Standing};
use transparency::statement::measured_boot::{MeasuredBoot, Reference};
use transparency::statement::{Statement, digest};
use transparency::trust_root::{TrustRootDocument, Witnesses};

const FOREVER: u64 = 1 << 52;

/// A release, its provenance, a machine and two states of a channel that hold at whatever time this runs, two trust roots, and one of a stranger.
fn write(folder: &Path) {
    let mut fake = Fake::new();
    let none = Witnesses { keys: Vec::new(), threshold: 0 };
    let mut root = TrustRootDocument { witnesses: none, timestamp_authorities: Vec::new(), ..fake.trust_root() };
    (root.keys[0].not_before, root.keys[0].not_after) = (0, FOREVER);
    let measured_boot = |reference: Reference| {
        let (files, predicate) = (documents::files(&reference), documents::predicate(reference));
        let predicate = MeasuredBoot { not_before: 0, not_after: FOREVER, ..predicate };
        Statement::measured_boot(files, predicate).unwrap().write().unwrap()
    };
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    let release = measured_boot(Reference::Image(Box::new(documents::image())));
    let machine = measured_boot(Reference::Machine(Box::new(documents::machine())));
    write("image.sigstore.json", &fake.publish(&release).write().unwrap());
    write("machine.sigstore.json", &fake.publish(&machine).write().unwrap());
    let provenance = documents::provenance().write().unwrap();
    write("provenance.sigstore.json", &fake.publish(&provenance).write().unwrap());
    for (standing, name) in [(Standing::Good, "good.json"), (Standing::Revoked, "revoked.json")] {
        let channel = Channel { expires: FOREVER, ..documents::channel(digest(&release), standing) };
        write(name, &fake.publish(&Statement::channel(channel).unwrap().write().unwrap()).write().unwrap());
    }
    write("root-1.json", &fake.sign_trust_root(&root.write().unwrap()));
    root.version = 2;
    write("root-2.json", &fake.sign_trust_root(&root.write().unwrap()));
    // Whoever makes an air-gap file of their own can sign everything in it.
    fake.roots = [ed25519(21), ed25519(22), ed25519(23)];
    root.root.keys = fake.roots.iter().map(|key| Bytes32(public(key))).collect();
    write("stranger.json", &fake.sign_trust_root(&root.write().unwrap()));
    write("release.raw", documents::RAW);
    write("other.raw", b"something else");
}

/// Exit code, and what was printed, errors behind the rest.
fn cairn(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_cairn")).args(arguments).current_dir(folder).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

const BUNDLES: [&str; 3] = ["image.sigstore.json", "machine.sigstore.json", "provenance.sigstore.json"];

fn pack(folder: &Path, roots: &[&str], more: &[&str]) -> (Option<i32>, String) {
    let words = [&["pack", "x.air-gap.json", "--trust-root"], roots, &["--bundle"], &BUNDLES, more].concat();
    cairn(folder, &words)
}

fn sha256(folder: &Path, name: &str) -> String {
    hex::encode(Sha256::digest(std::fs::read(folder.join(name)).unwrap()))
}

#[test]
fn one_file_verifies_images_values_and_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder);
    let (code, said) = pack(folder, &["root-1.json", "root-2.json"], &["--channel", "good.json"]);
    let root = sha256(folder, "root-1.json");
    assert!(code == Some(0) && said.contains(&format!("trust root     sha256:{root}\n")), "{said}");
    // Nothing but the file and the digest is there.
    let behind = tempfile::tempdir().unwrap();
    for name in ["x.air-gap.json", "release.raw", "other.raw"] {
        std::fs::rename(folder.join(name), behind.path().join(name)).unwrap();
    }
    let verify = |more: &[&str]| {
        let words = ["verify", "--air-gap", "x.air-gap.json", "--trust-root-digest", &root];
        cairn(behind.path(), &[&words[..], more].concat())
    };
    let release = documents::release();
    let register = release.subjects().iter().find(|subject| subject.name == "tpm:pcr4@initrd").unwrap();
    let register = hex::encode(&register.digest["sha384"].0);
    let machine = documents::files(&Reference::Machine(Box::new(documents::machine())));
    let machine = hex::encode(machine[0].digest["sha256"].0.clone());
    for (more, words) in [
        (&["release.raw"][..], "about          cairn_0.1.0.raw\n"),
        (&["release.raw"], "channel        stable, version 4"),
        (&["--algorithm", "sha384", "--digest", &register], "about          tpm:pcr4@"),
        (&["--kind", "provenance"], "statement      provenance sha256:"),
        (&["--kind", "channel"], "statement      channel"),
        (&["--kind", "channel", "--channel-version", "4"], "statement      channel"),
        (
            &["--digest", &machine],
            "channel        not judged: a channel lists images, and the statement is of a machine",
        ),
    ] {
        let (code, said) = verify(more);
        assert!(code == Some(0) && said.starts_with("VERIFIED\n") && said.contains(words), "{more:?}: {said}");
    }
    for (more, expected) in [
        (&["other.raw"][..], "REFUSED SUBJECT\n"),
        (&["release.raw", "--channel-version", "5"], "REFUSED CHANNEL_ROLLBACK\n"),
        (&["--kind", "channel", "--channel-version", "5"], "REFUSED CHANNEL_ROLLBACK\n"),
        (&["release.raw", "--newest", &"07".repeat(32)], "REFUSED ROLLBACK\n"),
    ] {
        let (code, said) = verify(more);
        assert!(code == Some(3) && said.starts_with(expected), "{more:?}: {said}");
    }
    let (code, said) = verify(&[]);
    assert!(code == Some(1) && said.contains("image.sigstore.json, machine.sigstore.json"), "{said}");
    let (code, said) = verify(&["release.raw", "--show"]);
    let unpacked = "\n# The bundle.\ncat > image.sigstore.json <<'END'\n{\"mediaType\"";
    assert!(code == Some(0) && said.contains(unpacked) && said.contains("--bundle image.sigstore.json"), "{said}");
}

#[test]
fn a_file_does_not_vouch_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder);
    let verify =
        |more: &[&str]| cairn(folder, &[&["verify", "release.raw", "--air-gap", "x.air-gap.json"], more].concat());
    assert_eq!(pack(folder, &["root-1.json", "root-2.json"], &[]).0, Some(0));
    let (first, second) = (sha256(folder, "root-1.json"), sha256(folder, "root-2.json"));
    let (code, said) = verify(&[]);
    assert!(code == Some(3) && said.starts_with("REFUSED TRUST_ROOT_UNKNOWN\n"), "{said}");
    assert!(said.contains(&first) && said.contains("told you by another way"), "{said}");
    let (code, said) = verify(&["--trust-root-digest", &second, "--json"]);
    let value: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &value["code"]), (Some(3), &"TRUST_ROOT_UNKNOWN".into()), "the first one counts");
    assert_eq!(verify(&["--trust-root-digest", "abc"]).0, Some(1));
    assert_eq!(verify(&["--trust-root-digest", &first, "--trust-root", "root-1.json"]).0, Some(2));
    // A root that came another way, the older or the newer, or both.
    for roots in [&["root-1.json"][..], &["root-2.json"], &["root-1.json", "root-2.json"]] {
        let (code, said) = verify(&[&["--trust-root"], roots].concat());
        assert_eq!(code, Some(0), "{roots:?}: {said}");
    }
    let (code, said) = verify(&["--trust-root", "image.sigstore.json"]);
    assert!(code == Some(3) && said.starts_with("REFUSED TRUST_ROOT\n"), "{said}");

    // A stranger's file, with everything in it signed well.
    assert_eq!(pack(folder, &["stranger.json"], &[]).0, Some(0));
    assert!(verify(&["--trust-root-digest", &first]).1.starts_with("REFUSED TRUST_ROOT_UNKNOWN\n"));
    assert!(verify(&["--trust-root", "root-1.json"]).1.starts_with("REFUSED TRUST_ROOT_SIGNATURE\n"));
    std::fs::write(folder.join("x.air-gap.json"), "{}").unwrap();
    assert!(verify(&["--trust-root", "root-1.json"]).1.starts_with("REFUSED AIR_GAP\n"));
}

#[test]
fn a_bad_bundle_in_the_file_hides_no_good_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder);
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let good = text("image.sigstore.json");
    let named = |name: &str, text: &str| NamedBundle { name: name.into(), text: text.into() };
    let bad = named("a.json", &good.replacen("\"sig\":\"M", "\"sig\":\"N", 1));
    let verify = |bundles: Vec<NamedBundle>| {
        let air_gap = AirGap::new(vec![text("root-1.json")], bundles, None).unwrap();
        std::fs::write(folder.join("x.air-gap.json"), air_gap.write().unwrap()).unwrap();
        let words = ["verify", "release.raw", "--air-gap", "x.air-gap.json", "--trust-root", "root-1.json"];
        cairn(folder, &words)
    };
    assert_eq!(verify(vec![bad.clone(), named("b.json", &good)]).0, Some(0));
    let (code, said) = verify(vec![bad, named("z.json", &text("machine.sigstore.json"))]);
    assert!(code == Some(3) && said.starts_with("REFUSED SIGNATURE\n"), "{said}");
    let (code, said) = verify(vec![named("b.json", &text("provenance.sigstore.json"))]);
    assert!(code == Some(1) && said.contains("no bundle of this kind, but b.json"), "{said}");
}

#[test]
fn what_does_not_verify_is_not_packed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder);
    let text = std::fs::read_to_string(folder.join("image.sigstore.json")).unwrap();
    let changed = text.replacen("\"sig\":\"M", "\"sig\":\"N", 1);
    assert_ne!(text, changed);
    for (roots, more, expected) in [
        (&["root-2.json", "root-1.json"][..], &[][..], "REFUSED TRUST_ROOT_VERSION\n"),
        (&["root-1.json", "stranger.json"], &[], "REFUSED TRUST_ROOT_SIGNATURE\n"),
        (&["root-1.json"], &["--channel", "revoked.json"], "REFUSED REVOKED\nfound          image.sigstore.json: "),
        (&["root-1.json"], &["--channel", "image.sigstore.json"], "REFUSED PREDICATE_TYPE\n"),
    ] {
        let (code, said) = pack(folder, roots, more);
        assert!(code == Some(3) && said.starts_with(expected), "{said}");
    }
    let (code, said) = pack(folder, &["root-1.json"], &["good.json"]);
    assert!(code == Some(1) && said.contains("give a channel as --channel"), "{said}");
    let (code, said) = pack(folder, &["root-1.json"], &["./image.sigstore.json"]);
    assert!(code == Some(1) && said.contains("Two bundles are called image.sigstore.json"), "{said}");
    std::fs::write(folder.join("image.sigstore.json"), changed).unwrap();
    let (code, said) = pack(folder, &["root-1.json"], &[]);
    assert!(code == Some(3) && said.starts_with("REFUSED SIGNATURE\nfound          image.sigstore.json: "), "{said}");
    assert!(!folder.join("x.air-gap.json").exists(), "something was written");
}
