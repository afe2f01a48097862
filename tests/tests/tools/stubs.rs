//! Unified kernel images by somebody else: made by ukify with the stubs of systemd 252, 257 and 262, and with sections that change what is measured. They are predicted where the stub is understood, and
//! refused or said to be unknown where not.

use cairn_tests::environment::{output_of, sandbox, variable};
use cairn_tests::image::Image;
use cairn_tests::machine::locked_file;
use cairn_tests::pe;
use measurements::boot::Image as Measurable;
use measurements::event::Digests;
use measurements::{Bank, Event};
use xtask::sandbox::WORK;

const STUB: &str = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// The stub of a suite's systemd.
fn stub(suite: &str) -> Vec<u8> {
    locked_file("systemd-boot-efi", suite, STUB).unwrap()
}

/// What ukify makes of the image's kernel, a small initrd and a stub.
fn ukify(stub: &[u8], arguments: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let uki = Image::open(&variable("CAIRN_IMAGE_DIR").unwrap()).unwrap().read("efi").unwrap();
    write("linux", pe::section_data(&uki, ".linux").unwrap());
    write("initrd", b"an initrd");
    write("stub", stub);
    let tools = sandbox().unwrap().bind(folder.path(), WORK).work_dir(WORK);
    let common = ["build", "--linux=linux", "--initrd=initrd", "--stub=stub", "--uname=6.1", "--output=out.efi"];
    output_of(tools.command("ukify").args(common).args(arguments)).unwrap();
    std::fs::read(folder.path().join("out.efi")).unwrap()
}

fn events(uki: &[u8]) -> Vec<Event> {
    Measurable::parse(uki).unwrap().measured().unwrap().boot
}

fn known(events: &[Event], register: u8) -> bool {
    events.iter().filter(|event| event.register == register).all(|event| matches!(event.digests, Digests::Exact(_)))
}

#[test]
fn each_stub_is_predicted_by_its_own_rules() {
    let arguments = ["--cmdline=quiet console=ttyS0", "--os-release=ID=other\n"];
    let [old, ours, new] = ["bookworm", "trixie", "forky"].map(|suite| events(&ukify(&stub(suite), &arguments)));
    let sections = |events: &[Event]| {
        let all = events.iter().filter(|event| event.register == 11 && event.input.starts_with("name"));
        all.map(|event| event.input.split(' ').nth(3).unwrap().to_owned()).collect::<Vec<_>>()
    };
    // 252 measures neither .uname nor .sbat, which ukify adds all the same.
    assert_eq!(sections(&old), [".linux", ".osrel", ".cmdline", ".initrd"]);
    assert_eq!(sections(&ours), [".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat"]);
    assert_eq!(sections(&new), sections(&ours));
    // Up to 257 the firmware loads the kernel, and so measures it once more.
    let images = |events: &[Event]| events.iter().filter(|event| event.register == 4).count();
    assert_eq!([images(&old), images(&ours), images(&new)], [2, 2, 1]);
    // 252 passes the initrd as it is, 257 with os-release behind it, 262 with a secret of the machine.
    let initrd = |events: &[Event]| events.iter().filter(|event| event.register == 9).nth(1).cloned().unwrap();
    assert_eq!(initrd(&old).digest(Bank::Sha256).unwrap(), Bank::Sha256.digest(b"an initrd"));
    assert!(known(&ours, 9) && initrd(&ours).digests != initrd(&old).digests);
    assert!(matches!(initrd(&new).digests, Digests::Unknown(reason) if reason.contains("boot secret")));
    // 262 measures what tells one machine from another into PCR 1.
    assert!(known(&old, 1) && known(&ours, 1) && !known(&new, 1));
}

#[test]
fn a_command_line_without_console_is_unknown_with_a_stub_that_adds_one() {
    let arguments = ["--cmdline=quiet", "--os-release=ID=other\n"];
    let load_options =
        |suite: &str| events(&ukify(&stub(suite), &arguments)).into_iter().find(|event| event.register == 9);
    assert!(matches!(load_options("trixie").unwrap().digests, Digests::Exact(_)));
    assert!(matches!(load_options("forky").unwrap().digests, Digests::Unknown(reason) if reason.contains("console")));
}

#[test]
fn user_space_of_somebody_else_is_unknown_and_its_firmware_events_are_known() {
    let uki = ukify(&stub("trixie"), &["--cmdline=quiet", "--os-release=ID=debian\n"]);
    let measured = Measurable::parse(&uki).unwrap().measured().unwrap();
    // A UKI alone does not hold the partition table of its disk.
    assert!((4..12).all(|register| known(&measured.boot, register) == (register != 5)));
    let unknown = measured.initrd.iter().filter(|event| matches!(event.digests, Digests::Unknown(_))).count();
    assert_eq!((unknown, measured.running.len()), (4, 0));
}

#[test]
fn microcode_signature_key_and_profile_change_what_they_are_measured_into() {
    let plain = events(&ukify(&stub("trixie"), &["--cmdline=x"]));
    let of = |events: &[Event], register: u8| -> Vec<Digests> {
        events.iter().filter(|event| event.register == register).map(|event| event.digests.clone()).collect()
    };
    for (section, registers) in [
        ("--section=.ucode:stub", &[4, 9, 11][..]),
        ("--section=.pcrsig:stub", &[4, 9]),
        ("--section=.pcrpkey:stub", &[4, 9, 11]),
        ("--section=.profile:@stub", &[4, 9, 11]),
    ] {
        let changed = events(&ukify(&stub("trixie"), &["--cmdline=x", section]));
        let moved: Vec<u8> = (0..16).filter(|register| of(&plain, *register) != of(&changed, *register)).collect();
        assert_eq!(moved, registers, "{section}");
        assert!([4, 9, 11].iter().all(|register| known(&changed, *register)), "{section}");
    }
}

#[test]
fn what_is_not_modelled_is_refused_with_the_reason() {
    let refused = |uki: &[u8], words: &str| {
        let error = Measurable::parse(uki).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    };
    refused(&ukify(&stub("trixie"), &["--cmdline=x", "--section=.dtbauto:stub"]), "device trees");
    refused(&ukify(&stub("bookworm"), &["--cmdline=x", "--section=.profile:@stub"]), "profiles");
    let good = ukify(&stub("trixie"), &["--cmdline=x"]);
    for length in [0, 2, 63, 64, 512, 4096, good.len() / 2] {
        assert!(Measurable::parse(&good[..length]).is_err(), "{length} bytes");
    }
}
