//! Files beside a UKI, and boot loaders before it, that are refused by name or ignored.

use cairn_image::esp;

use super::{Error, Image};
use crate::parse::pe::tests::image as pe;

const UKI: &str = "EFI/BOOT/BOOTX64.EFI";
const OWN: &str = "EFI/BOOT/BOOTX64.EFI.extra.d";

fn uki(version: u32) -> Vec<u8> {
    let magic = format!("#### LoaderInfo: systemd-stub {version}.1 ####");
    pe(&[(".sdmagic", magic.as_bytes()), (".linux", &pe(&[])), (".cmdline", b"console=ttyS0"), (".uname", b"6")])
}

fn add_on(sections: &[(&str, &[u8])]) -> Vec<u8> {
    pe(&[&[(".sdmagic", &b"#### LoaderInfo: systemd-addon 257.1 ####"[..])], sections].concat())
}

fn systemd_boot(version: u32) -> Vec<u8> {
    pe(&[(".sdmagic", format!("#### LoaderInfo: systemd-boot {version}.1 ####").as_bytes())])
}

/// A disk whose only partition is an EFI system partition with these files.
fn disk(files: &[(&str, &[u8])]) -> Vec<u8> {
    let settings = esp::Settings { size: 8 << 20, volume_id: 1, label: *b"TEST       ", time: 1_700_000_000 };
    let esp = esp::write(&settings, files).unwrap();
    let mut disk = vec![0; 64 * 512];
    disk.extend(&esp);
    let entry = 1024;
    disk[entry..entry + 16].copy_from_slice(&super::image::ESP);
    disk[entry + 32..entry + 40].copy_from_slice(&64_u64.to_le_bytes());
    disk[entry + 40..entry + 48].copy_from_slice(&(63 + esp.len() as u64 / 512).to_le_bytes());
    disk[512..520].copy_from_slice(b"EFI PART");
    for (at, value) in [(12, 92_u8), (72, 2), (80, 4), (84, 128)] {
        disk[512 + at] = value;
    }
    let array = crc32fast::hash(&disk[entry..entry + 4 * 128]);
    disk[512 + 88..512 + 92].copy_from_slice(&array.to_le_bytes());
    let header = crc32fast::hash(&disk[512..512 + 92]);
    disk[512 + 16..512 + 20].copy_from_slice(&header.to_le_bytes());
    disk
}

/// Registers that files beside a UKI of this stub move.
fn moved(version: u32, files: &[(&str, &[u8])]) -> Result<Vec<u8>, Error> {
    let uki = uki(version);
    let events = |files: &[(&str, &[u8])]| -> Result<_, Error> {
        Image::parse(&disk(&[&[(UKI, &uki[..])], files].concat()))?.measured().map(|measured| measured.boot)
    };
    let (before, after) = (events(&[])?, events(files)?);
    let of = |events: &[crate::Event], register: u8| -> Vec<_> {
        events.iter().filter(|event| event.register == register).map(|event| event.digests.clone()).collect()
    };
    Ok((0..16).filter(|register| of(&before, *register) != of(&after, *register)).collect())
}

#[test]
fn files_that_the_stub_reads_move_registers_and_others_do_not() {
    let words = add_on(&[(".cmdline", b"debug")]);
    let own = |name: &str| format!("{OWN}/{name}");
    let rows: [(u32, String, &[u8], &[u8]); 14] = [
        (257, own("a.addon.efi"), &words, &[4, 9, 12]),
        (257, own("A.ADDON.EFI"), &words, &[4, 9, 12]),
        (257, "loader/addons/a.addon.efi".into(), &words, &[4, 9, 12]),
        (252, own("a.addon.efi"), &words, &[]),
        (257, own("a.cred"), b"x", &[9, 12]),
        (252, own("a.cred"), b"x", &[9, 12]),
        (257, "loader/credentials/a.cred".into(), b"x", &[9, 12]),
        (257, own("a.raw"), b"x", &[9, 13]),
        (257, own("a.sysext.raw"), b"x", &[9, 13]),
        (257, own("a.confext.raw"), b"x", &[9, 12]),
        (257, own("a.efi"), &words, &[]),
        (257, own("a.txt"), b"x", &[]),
        (257, "loader/extensions/a.raw".into(), b"x", &[]),
        (257, "EFI/Linux/other.efi".into(), b"x", &[]),
    ];
    for (version, path, content, expected) in rows {
        assert_eq!(moved(version, &[(&path, content)]).as_deref(), Ok(expected), "{version}: {path}");
    }
}

#[test]
fn file_that_is_not_modelled_is_refused_with_its_path() {
    let words = add_on(&[(".cmdline", b"debug")]);
    let own = |name: &str| format!("{OWN}/{name}");
    let rows: [(u32, String, Vec<u8>, &str); 9] = [
        (257, own("a.addon.efi"), add_on(&[(".initrd", b"x")]), "\".initrd\""),
        (257, own("a.addon.efi"), add_on(&[(".uname", b"7")]), "another kernel"),
        (257, own("a.addon.efi"), b"MZ".to_vec(), "not a PE image"),
        (253, own("a.addon.efi"), words.clone(), "systemd-stub 253"),
        (254, own("a.addon.efi"), words.clone(), "systemd-stub 254"),
        (256, "loader/addons/a.addon.efi".into(), words, "systemd-stub 256"),
        (252, own("a.confext.raw"), vec![7], "systemd-stub 252"),
        (262, "loader/extensions/a.sysext.raw".into(), vec![7], "systemd-stub 262"),
        (260, "loader/extensions/a.confext.raw".into(), vec![7], "systemd-stub 260"),
    ];
    for (version, path, content, words) in rows {
        let Err(Error::Companion(found, problem)) = moved(version, &[(&path, &content)]) else {
            panic!("{version}: {path}")
        };
        assert!(found == path && problem.contains(words), "{path}: {found} {problem}");
    }
}

#[test]
fn more_companions_than_are_read_are_refused() {
    let names: Vec<String> = (0..257).map(|number| format!("{OWN}/{number}.cred")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (&name[..], &b"x"[..])).collect();
    assert!(moved(257, &files[1..]).is_ok());
    assert!(matches!(moved(257, &files), Err(Error::Companion(_, problem)) if problem.contains("256")));
}

/// What is wrong with a disk where systemd-boot stands before these files.
fn refusal(files: &[(&str, &[u8])]) -> String {
    let loader = systemd_boot(257);
    let disk = disk(&[&[(UKI, &loader[..])], files].concat());
    Image::parse(&disk).map(|_| "nothing".to_owned()).unwrap_or_else(|error| error.to_string())
}

#[test]
fn systemd_boot_with_one_uki_is_understood_and_with_more_is_refused() {
    let uki = uki(257);
    let one = ("EFI/Linux/one.efi", &uki[..]);
    assert_eq!(refusal(&[one]), "nothing");
    for (more, words) in [
        (vec![], "no unified kernel image"),
        (vec![one, ("EFI/Linux/two.efi", &uki[..])], "one.efi and two.efi"),
        (vec![("EFI/Linux/one+3.efi", &uki[..])], "counts its boots"),
        (vec![one, ("loader/entries/a.conf", b"title x")], "loader/entries/a.conf"),
        (vec![one, ("EFI/systemd/drivers/x.efi", b"x")], "EFI/systemd/drivers/x.efi"),
        (vec![one, ("loader/keys/auto/db.auth", b"x")], "loader/keys/auto"),
    ] {
        let found = refusal(&more);
        assert!(found.contains(words), "{words}: {found}");
    }
}

#[test]
fn systemd_boot_of_another_version_makes_registers_unknown() {
    let uki = uki(257);
    let unknown = |version: u32| -> Vec<u8> {
        let loader = systemd_boot(version);
        let disk = disk(&[(UKI, &loader), ("EFI/Linux/one.efi", &uki), ("loader/loader.conf", b"timeout 0\n")]);
        let boot = Image::parse(&disk).unwrap().measured().unwrap().boot;
        let unknown =
            |register: &u8| boot.iter().any(|event| event.register == *register && event.digests.legal().is_empty());
        // Without an initrd of its own, PCR 9 of this UKI is unknown anyhow.
        (0..16).filter(unknown).filter(|register| *register != 9).collect()
    };
    assert_eq!(unknown(257), [0_u8; 0]);
    assert_eq!(unknown(252), [4, 5, 12]);
}

#[test]
fn file_that_is_not_a_disk_is_named_with_what_to_give() {
    let error = |bytes: &[u8]| Image::parse(bytes).unwrap_err().to_string();
    let text = error(b"\x7fELF\x02\x01");
    assert!(
        text.contains("it is an ELF program, not a raw disk") && text.contains("hint: give the raw disk"),
        "{text}"
    );
    assert!(error(&[0; 4096]).contains("there is no GUID partition table"));
    let text = refusal(&[(UKI, &add_on(&[]))]);
    assert!(text.contains("the image is an add-on of a UKI, not a UKI"), "{text}");
}

#[test]
fn firmware_that_is_not_a_known_build_names_the_files_that_are() {
    let code = crate::parse::fv::tests::image(&[b"the first volume", b"the second"]);
    let events = super::firmware_events(&code, None, None).unwrap();
    let text = format!("{:?}", events[0]);
    let words =
        "this file of OVMF is not a known build: known is OVMF_CODE_4M.fd of the packages ovmf 2022.11-6+deb12u2";
    assert!(text.contains(words), "{text}");
}
