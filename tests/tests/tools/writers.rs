//! Each writer of `cairn-image` against the tool that people use for the same thing.

use std::fs::{self, File};
use std::path::Path;

use cairn_image::{cpio, disk, esp, uki, verity};
use cairn_tests::environment::{output_of, sandbox};
use xtask::sandbox::{Sandbox, WORK};

const SALT: [u8; 32] = *b"a salt of thirty-two bytes, yes.";
const ID: uuid::Uuid = uuid::Uuid::from_u128(0x6361_6972_6e00_4000_8000_0000_0000_0001);
const TIME: u64 = 1_700_000_000;

/// The build root with `folder` as work folder.
fn tools(folder: &Path) -> Sandbox {
    sandbox().unwrap().bind(folder, WORK).work_dir(WORK)
}

fn run(folder: &Path, words: &[&str]) -> String {
    output_of(tools(folder).command(words[0]).args(&words[1..])).unwrap()
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn the_verity_tree_is_that_of_veritysetup() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for blocks in [1, 2, 128, 129, 5000, 16384, 16385] {
        fs::write(path("data"), noise(blocks * 4096)).unwrap();
        let parameters = verity::Parameters { salt: SALT, uuid: ID };
        let ours = File::create(path("ours")).unwrap();
        let tree = verity::write_tree(&File::open(path("data")).unwrap(), &ours, &parameters).unwrap();
        let _ = fs::remove_file(path("theirs"));
        let (salt, id) = (format!("--salt={}", hex::encode(SALT)), format!("--uuid={ID}"));
        run(
            folder.path(),
            &["veritysetup", "format", &salt, &id, "--hash=sha256", "data", "theirs", "--root-hash-file=hash"],
        );
        assert_eq!(tree.root_hash.to_string(), fs::read_to_string(path("hash")).unwrap().trim(), "{blocks} blocks");
        let (ours, theirs) = (fs::read(path("ours")).unwrap(), fs::read(path("theirs")).unwrap());
        assert!(ours == theirs, "{blocks} blocks: the files differ");
        run(folder.path(), &["veritysetup", "verify", "data", "ours", &tree.root_hash.to_string()]);
    }
    // And it would notice.
    let hash = fs::read_to_string(path("hash")).unwrap();
    let mut data = fs::read(path("data")).unwrap();
    data[5_000_000] ^= 1;
    fs::write(path("data"), data).unwrap();
    let verify = tools(folder.path()).command("veritysetup").args(["verify", "data", "ours", hash.trim()]).output();
    assert!(!verify.unwrap().status.success());
}

#[test]
fn a_uki_has_the_bytes_of_ukify() {
    const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
    let folder = tempfile::tempdir().unwrap();
    let stub = output_bytes(sandbox().unwrap().command("cat").arg(STUB));
    let (linux, initrd) = (noise(300_001), noise(100_003));
    let sections = uki::Sections {
        os_release: b"ID=cairn\nVERSION_ID=1\n",
        command_line: b"console=ttyS0 panic=-1",
        uname: b"6.12.1",
        linux: &linux,
        initrd: &initrd,
    };
    let ours = uki::assemble(&stub, &sections).unwrap();
    for (name, bytes) in [
        ("linux", sections.linux),
        ("initrd", sections.initrd),
        ("osrel", sections.os_release),
        ("cmdline", sections.command_line),
    ] {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    fs::write(folder.path().join("ours.efi"), &ours).unwrap();
    let build = [
        "ukify",
        "build",
        "--linux=linux",
        "--initrd=initrd",
        "--os-release=@osrel",
        "--cmdline=@cmdline",
        "--uname=6.12.1",
        "--output=theirs.efi",
    ];
    run(folder.path(), &build);
    let theirs = fs::read(folder.path().join("theirs.efi")).unwrap();
    let inspected = run(folder.path(), &["ukify", "inspect", "ours.efi", "--json=short"]);
    assert_eq!(inspected, run(folder.path(), &["ukify", "inspect", "theirs.efi", "--json=short"]));
    for name in [".osrel", ".cmdline", ".uname", ".linux", ".initrd", ".sbat"] {
        assert!(inspected.contains(&format!("\"{name}\"")), "{name} is missing: {inspected}");
    }
    let differs = ours.iter().zip(&theirs).position(|(a, b)| a != b);
    assert!(ours == theirs, "the files differ, first at {differs:?}, sizes {} and {}", ours.len(), theirs.len());
}

fn output_bytes(command: &mut std::process::Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

#[test]
fn an_esp_has_no_problem_and_its_files_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let settings = esp::Settings { size: 48 << 20, volume_id: 0x1234_5678, label: *b"TEST ESP   ", time: TIME };
    let content = noise(3_000_001);
    let bytes =
        esp::write(&settings, &[("EFI/BOOT/BOOTX64.EFI", &content), ("EFI/long name of a file.text", b"x")]).unwrap();
    fs::write(folder.path().join("esp"), bytes).unwrap();
    let found = run(folder.path(), &["fsck.vfat", "-n", "-v", "esp"]);
    assert!(!found.contains("Dirty bit") && !found.to_lowercase().contains("differences"), "{found}");
    run(folder.path(), &["mcopy", "-i", "esp", "::EFI/BOOT/BOOTX64.EFI", "copy"]);
    assert!(fs::read(folder.path().join("copy")).unwrap() == content);
    assert!(run(folder.path(), &["mdir", "-i", "esp", "::EFI"]).contains("long name of a file.text"));
}

#[test]
fn a_disk_has_no_problem_and_its_holes_take_no_room() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("root"), noise(5 << 20)).unwrap();
    fs::write(path("verity"), noise(64 << 10)).unwrap();
    let esp = vec![0; 48 << 20];
    let id = |number: u128| uuid::Uuid::from_u128(ID.as_u128() + number);
    let plan = disk::Plan {
        disk_id: id(1),
        esp_id: id(2),
        configuration_id: id(3),
        root_id: id(4),
        verity_id: id(5),
        esp: &esp,
        root: &path("root"),
        verity: &path("verity"),
    };
    let table = disk::write(&path("disk"), &plan).unwrap();
    let verdict = run(folder.path(), &["sgdisk", "--verify", "disk"]);
    assert!(verdict.contains("No problems found"), "{verdict}");
    for partition in &table {
        let shown = run(folder.path(), &["sgdisk", &format!("--info={}", partition.index), "disk"]).to_lowercase();
        assert!(
            shown.contains(&partition.uuid.to_string()) && shown.contains(&partition.type_guid.to_string()),
            "{shown}"
        );
        assert!(shown.contains(&format!("first sector: {} ", partition.start / 512)), "{shown}");
    }
    let data = fs::metadata(path("disk")).unwrap();
    assert!(data.blocks() * 512 < 7 << 20, "{} bytes take {}", data.len(), data.blocks() * 512);
}

#[test]
fn an_archive_is_unpacked_by_cpio_and_zstd() {
    let folder = tempfile::tempdir().unwrap();
    let mut archive = cpio::Archive::new(TIME).unwrap();
    archive.directory("usr", 0o755).unwrap();
    archive.file("usr/program", 0o755, noise(100_000)).unwrap();
    archive.symlink("init", "usr/program").unwrap();
    let bytes = archive.finish().unwrap();
    fs::write(folder.path().join("archive"), cpio::compress_zstd(&bytes, 19).unwrap()).unwrap();
    run(folder.path(), &["sh", "-c", "zstd -qdc archive | cpio -i --quiet --preserve-modification-time"]);
    assert_eq!(fs::read(folder.path().join("usr/program")).unwrap(), noise(100_000));
    assert_eq!(fs::read_link(folder.path().join("init")).unwrap(), Path::new("usr/program"));
    let listed = run(folder.path(), &["sh", "-c", "zstd -qdc archive | TZ=UTC cpio -itv --quiet --numeric-uid-gid"]);
    assert!(listed.lines().all(|line| line.contains(" 0        0 ") && line.contains("Nov 14  2023")), "{listed}");
}
