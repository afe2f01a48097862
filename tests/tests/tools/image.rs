//! The production image as it was built: every part is what the documents say, by the word of independent tools.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use cairn_tests::environment::{output_of, sandbox, variable};
use cairn_tests::image::Image;
use cairn_tests::pe;
use serde_json::Value;
use xtask::digest::Sha256Digest;
use xtask::sandbox::{Sandbox, WORK};

fn image() -> Image {
    Image::open(&variable("CAIRN_IMAGE_DIR").unwrap()).unwrap()
}

/// The build root; the image's files are read-only in the work folder.
fn tools() -> Sandbox {
    sandbox().unwrap().bind_read_only(&variable("CAIRN_IMAGE_DIR").unwrap(), WORK).work_dir(WORK)
}

fn shell(script: &str) -> String {
    output_of(tools().command("sh").args(["-ec", script])).unwrap()
}

fn name(suffix: &str) -> String {
    image().file(suffix).file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn the_document_describes_every_output() {
    let image = image();
    let document: Value = serde_json::from_slice(&image.read("image.json").unwrap()).unwrap();
    assert_eq!(document["schema"], "cairn.image/1");
    assert_eq!(document["variant"], "production");
    let outputs = document["outputs"].as_object().unwrap();
    let described: BTreeSet<&str> = outputs.keys().map(String::as_str).collect();
    let folder = image.file("raw").parent().unwrap().to_owned();
    let present: BTreeSet<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("cairn_") && !name.ends_with(".image.json") && !name.ends_with(".timings.json"))
        .collect();
    assert_eq!(described, present.iter().map(String::as_str).collect());
    for (name, output) in outputs {
        let (digest, size) = Sha256Digest::of_file(&image.file("raw").with_file_name(name)).unwrap();
        assert_eq!(
            (output["sha256"].as_str(), output["size"].as_u64()),
            (Some(digest.to_string().as_str()), Some(size))
        );
    }
}

#[test]
fn the_disk_is_whole_and_holds_the_parts() {
    let verdict = shell(&format!("sgdisk --verify {}", name("raw")));
    assert!(verdict.contains("No problems found"), "{verdict}");
    let (image, raw) = (image(), image().read("raw").unwrap());
    let at = |partition: &str| {
        let partition = image.partition(partition).unwrap();
        &raw[partition.start as usize..][..partition.size as usize]
    };
    for (partition, suffix) in [("root", "root.erofs"), ("root-verity", "root.verity")] {
        let file = image.read(suffix).unwrap();
        assert!(at(partition).starts_with(&file), "{partition} is not {suffix}");
        assert!(at(partition)[file.len()..].iter().all(|byte| *byte == 0), "{partition} has something behind {suffix}");
    }
    assert!(at("configuration").iter().all(|byte| *byte == 0), "the configuration of a released image is empty");
    let esp = tempfile::tempdir().unwrap();
    fs::write(esp.path().join("esp"), at("ESP")).unwrap();
    let in_esp = sandbox().unwrap().bind(esp.path(), WORK).work_dir(WORK);
    output_of(in_esp.command("sh").args(["-ec", "fsck.vfat -n esp; mcopy -i esp ::EFI/BOOT/BOOTX64.EFI uki"])).unwrap();
    assert!(fs::read(esp.path().join("uki")).unwrap() == image.read("efi").unwrap(), "the ESP holds another UKI");
}

#[test]
fn partition_ids_are_the_halves_of_the_root_hash() {
    let image = image();
    let document: Value = serde_json::from_slice(&image.read("image.json").unwrap()).unwrap();
    let id = |name: &str| {
        let mut partitions = document["partitions"].as_array().unwrap().iter();
        partitions.find(|partition| partition["name"] == name).unwrap()["uuid"].as_str().unwrap().replace('-', "")
    };
    assert_eq!(format!("{}{}", id("root"), id("root-verity")), image.document.root_hash);
    assert_eq!(fs::read_to_string(image.file("roothash")).unwrap().trim(), image.document.root_hash);
}

#[test]
fn veritysetup_and_fsck_accept_the_root() {
    let hash = image().document.root_hash;
    shell(&format!(
        "veritysetup verify {} {} {hash}; fsck.erofs {}",
        name("root.erofs"),
        name("root.verity"),
        name("root.erofs")
    ));
}

#[test]
fn the_uki_holds_kernel_initrd_and_command_line() {
    let (image, uki) = (image(), image().read("efi").unwrap());
    assert!(pe::section_data(&uki, ".initrd").unwrap() == image.read("initrd").unwrap());
    assert_eq!(pe::section_data(&uki, ".cmdline").unwrap(), image.document.command_line.as_bytes());
    let listed = shell(&format!("ukify inspect {}", name("efi")));
    assert!(listed.contains(".sbat") && listed.contains("VARIANT_ID=production"), "{listed}");
}

/// ldd runs the loader; we only read ELF. Both must find the same.
#[test]
fn the_initrd_has_the_libraries_that_ldd_finds_and_no_shell() {
    let script = format!(
        "mkdir /tmp/initrd; cd /tmp/initrd; zstd -qdc {WORK}/{} | cpio -i --quiet; find . -type f -printf '%P\\n' | sort; echo --; \
         ldd ./init $(find . -name 'libtss2-tcti-device*') | grep -o '/[^ :]*' | sort -u",
        name("initrd")
    );
    let text = shell(&script);
    let (files, needed) = text.split_once("--\n").unwrap();
    let base = |path: &str| Path::new(path).file_name().unwrap().to_string_lossy().into_owned();
    let libraries: BTreeSet<String> = files.lines().filter(|path| path.contains(".so")).map(base).collect();
    let mut expected: BTreeSet<String> = needed.lines().filter(|path| path.contains(".so")).map(base).collect();
    expected.extend(libraries.iter().filter(|name| name.starts_with("libtss2-tcti-device")).cloned());
    assert_eq!(libraries, expected);
    assert!(libraries.iter().any(|name| name.starts_with("libtss2-tcti-device")), "{files}");
    for name in ["bin/sh", "busybox", "systemd", "mkfs"] {
        assert!(!files.contains(name), "the initrd holds {name}: {files}");
    }
    assert!(files.lines().any(|path| path == "etc/cairn/boot.json"), "{files}");
}

#[test]
fn the_root_has_what_systemd_loads_to_measure_and_nothing_left_over() {
    let listed = shell(&format!(
        "fsck.erofs --extract=/tmp/root {} >&2; cd /tmp/root; find . -printf '%P\\n'",
        name("root.erofs")
    ));
    let has = |path: &str| listed.lines().any(|line| line == path);
    for library in ["libtss2-esys.so.0", "libtss2-mu.so.0", "libtss2-rc.so.0", "libtss2-tcti-device.so.0"] {
        assert!(
            has(&format!("usr/lib/x86_64-linux-gnu/{library}")),
            "{library} is missing: systemd would measure nothing"
        );
    }
    for folder in ["usr/share/doc/", "usr/share/man/", "var/cache/", "var/log/", "var/lib/apt", "var/lib/dpkg", "boot/"]
    {
        assert!(!listed.lines().any(|line| line.starts_with(folder)), "{folder} is not empty");
    }
    for program in ["containerd", "runc", "sshd", "apt-get", "python3"] {
        assert!(!listed.lines().any(|line| line.ends_with(&format!("bin/{program}"))), "the base root holds {program}");
    }
}
