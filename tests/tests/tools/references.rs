//! Image and machine references: what they say follows from the files that they are about, and `cairn measure` makes the same registers of a disk, a UKI and a reference.

use attest::bytes::{Bytes32, Hex};
use attest::cluster::{Assurance, Cluster, Device, Keys, Slot};
use std::collections::BTreeMap;
use std::process::Command;

use cairn_tests::environment::{output_of, sandbox, variable, xtask};
use cairn_tests::formats::Schema;
use cairn_tests::image::Image;
use cairn_tests::machine::{KnownMachine, checkout};
use cairn_tests::printed::{must_be_printed, output_in};
use measurements::boot::{Image as Measurable, Point};
use measurements::compose::{Configuration, compose};
use measurements::document::image::ImageReference;
use serde_json::Value;
use xtask::digest::Sha256Digest;
use xtask::machine::blobs::Blobs;
use xtask::machine::config::{FOLDER, names};
use xtask::machine::reference;
use xtask::sandbox::WORK;

const MACHINE: &str = "q35-ovmf-2025.02-2cpus-1gib";

fn image() -> Image {
    Image::open(&variable("CAIRN_IMAGE_DIR").unwrap()).unwrap()
}

fn machine_file(name: &str) -> String {
    checkout().unwrap().join(FOLDER).join(format!("{name}.machine.json")).display().to_string()
}

/// `cargo xtask measure` with these words.
fn measure(words: &[&str]) -> String {
    let mut command = Command::new(xtask().unwrap());
    output_of(command.arg("measure").args(words).current_dir(checkout().unwrap().root())).unwrap()
}

#[test]
fn the_readme_shows_what_measure_prints() {
    let printed =
        measure(&[&image().file("reference.json").display().to_string(), "--machine", &machine_file(MACHINE)]);
    let command = format!(
        "cargo xtask measure target/image/cairn_0.1.0.reference.json --machine measurements/machines/{MACHINE}.machine.json"
    );
    must_be_printed("README.md", &command, &printed).unwrap();
}

/// Sizes move with the packages that are locked: a tenth is another number for a reader.
#[test]
fn the_readme_shows_the_sizes_of_the_outputs() {
    let (image, mut sizes) = (image(), 0);
    for line in output_in("README.md", "cargo xtask build-image").unwrap() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, shown, "MB", _digest] = words[..] else { continue };
        let Some(suffix) = name.strip_prefix("cairn_0.1.0.") else { continue };
        let size = std::fs::metadata(image.file(suffix)).unwrap().len() as f64 / 1e6;
        let shown: f64 = shown.parse().unwrap();
        assert!((shown - size).abs() < size / 10.0, "README.md shows {shown} MB for {suffix}, which has {size:.1} MB");
        sizes += 1;
    }
    assert!(sizes > 3, "README.md shows {sizes} sizes");
    let initrd = std::fs::metadata(image.file("initrd")).unwrap().len() as f64 / 1e6;
    let readme = std::fs::read_to_string(checkout().unwrap().join("README.md")).unwrap();
    assert!(readme.contains(&format!(": {initrd:.1} MB compressed.")), "the initrd has {initrd:.1} MB");
}

#[test]
fn the_image_reference_says_what_is_in_the_files() {
    let image = image();
    let bytes = image.read("reference.json").unwrap();
    Schema::get("image-reference").unwrap().check(&serde_json::from_slice(&bytes).unwrap()).unwrap();
    let reference = ImageReference::parse(&bytes).unwrap();
    let (raw, uki) = (image.read("raw").unwrap(), image.read("efi").unwrap());
    assert_eq!(reference.measured().unwrap(), Measurable::parse(&raw).unwrap().measured().unwrap());
    assert_eq!((&reference.raw.sha256, reference.raw.size), (&Sha256Digest::of(&raw).to_string(), raw.len() as u64));
    assert_eq!(reference.uki.sha256, Sha256Digest::of(&uki).to_string());
    assert_eq!(reference.root_hash, image.document.root_hash);
    assert_eq!((&reference.command_line, reference.debug), (&image.document.command_line, false));
}

#[test]
fn the_image_reference_lists_the_files_of_the_initrd() {
    let image = image();
    let reference = ImageReference::parse(&image.read("reference.json").unwrap()).unwrap();
    let listed: BTreeMap<String, String> = reference.initrd.into_iter().map(|file| (file.path, file.sha256)).collect();
    let name = image.file("initrd").file_name().unwrap().to_string_lossy().into_owned();
    let script = format!(
        "mkdir /tmp/tree && cd /tmp/tree && zstd -dc {WORK}/{name} | cpio -i --quiet && \
         find . -type f -exec sha256sum {{}} + && find . -type l -printf '%l  %p\\n'"
    );
    let tools = sandbox().unwrap().bind_read_only(&variable("CAIRN_IMAGE_DIR").unwrap(), WORK);
    let text = output_of(tools.command("sh").args(["-ec", &script])).unwrap();
    let unpacked: BTreeMap<String, String> = text
        .lines()
        .map(|line| {
            let (content, path) = line.split_once("  ./").unwrap();
            let is_digest = content.len() == 64 && !content.contains('/');
            let digest = if is_digest { content.to_owned() } else { Sha256Digest::of(content.as_bytes()).to_string() };
            (path.to_owned(), digest)
        })
        .collect();
    assert!(unpacked.contains_key("init") && unpacked.contains_key("lib"), "{unpacked:?}");
    assert_eq!(listed, unpacked);
}

#[test]
fn every_machine_reference_follows_from_its_firmware_and_the_files_that_are_kept() {
    let checkout = checkout().unwrap();
    for name in names(checkout.root()).unwrap() {
        let known = KnownMachine::get(&name).unwrap();
        let folder = checkout.join(FOLDER).join(&name);
        let blobs = known.config.tpm.map(|_| Blobs::read(&folder).unwrap());
        let firmware = known.firmware().unwrap();
        let made = reference::make(&name, &known.config, &firmware, blobs.as_ref(), &known.reference.vmm).unwrap();
        assert_eq!(
            made, known.reference,
            "{name}: the lock has another build of its firmware, or a file was changed: cargo xtask record-machine {name}"
        );
    }
}

#[test]
fn a_changed_file_of_a_machine_changes_its_reference() {
    let known = KnownMachine::get(MACHINE).unwrap();
    let mut blobs = Blobs::read(&checkout().unwrap().join(FOLDER).join(MACHINE)).unwrap();
    blobs.acpi[3][0] ^= 1;
    let firmware = known.firmware().unwrap();
    let made = reference::make(MACHINE, &known.config, &firmware, Some(&blobs), &known.reference.vmm).unwrap();
    assert_ne!(made.events, known.reference.events);
}

#[test]
fn a_disk_a_uki_and_a_reference_have_the_same_registers() {
    let image = image();
    let file = |suffix: &str| image.file(suffix).display().to_string();
    let machine = machine_file(MACHINE);
    let registers = |suffix: &str| -> Value {
        let text = measure(&[&file(suffix), "--machine", &machine, "--format", "json"]);
        let document = serde_json::from_str(&text).unwrap();
        Schema::get("registers").unwrap().check(&document).unwrap();
        document
    };
    let (disk, mut uki, document) = (registers("raw"), registers("efi"), registers("reference.json"));
    assert_eq!(disk, document);
    // A UKI alone has no partition table: PCR 5, and 10 which sums up.
    for register in [5, 10] {
        assert_ne!(disk["registers"][register], uki["registers"][register]);
        uki["registers"][register] = disk["registers"][register].clone();
    }
    assert_eq!(disk["registers"], uki["registers"]);
    for (failed, after) in disk["after_failed_options"].as_array().unwrap().iter().enumerate() {
        let (disk, uki) = (&after["registers"], &uki["after_failed_options"][failed]["registers"]);
        assert_eq!((disk.as_array().unwrap().len(), uki.as_array().unwrap().len()), (2, 1), "PCR 4, and 10");
        assert_eq!(disk[0], uki[0]);
    }

    let reference = ImageReference::parse(&image.read("reference.json").unwrap()).unwrap();
    let machine = KnownMachine::get(MACHINE).unwrap().reference.machine().unwrap();
    let composition = compose(&reference.measured().unwrap(), &machine, &Configuration::Stateless).unwrap();
    let value = &composition.registers(Point::Running)[&4];
    let expected = hex::encode(value.in_bank(measurements::Bank::Sha384).unwrap());
    assert_eq!(disk["registers"][4]["values"]["sha384"], Value::from(expected));
}

#[test]
fn every_format_of_measure_keeps_to_its_schema_on_every_machine() {
    let reference = image().file("reference.json").display().to_string();
    for name in names(checkout().unwrap().root()).unwrap() {
        for (format, schema) in [("json", "registers"), ("event-log", "events")] {
            let text = measure(&[&reference, "--machine", &machine_file(&name), "--format", format]);
            Schema::get(schema).unwrap().check(&serde_json::from_str(&text).unwrap()).unwrap();
        }
    }
    // Of a machine of which nothing is known, several sequences are legal: boot services end at once or later, images are verified or not, and no, one or two boot options fail before.
    let text: Value = serde_json::from_str(&measure(&[&reference, "--format", "event-log"])).unwrap();
    Schema::get("events").unwrap().check(&text).unwrap();
    assert_eq!(text["or_events"].as_array().unwrap().len(), 2 * 2 * 3 - 1);
    let table = measure(&[&reference, "--machine", &machine_file("qemu-snp-kernel")]);
    assert!(table.contains("MEASUREMENT  ") && table.contains("calculated") && !table.contains("PCR"), "{table}");
    let table = measure(&[&reference, "--machine", &machine_file("qemu-tdx")]);
    let lines: Vec<&str> = table.lines().collect();
    let measured = lines[0].strip_prefix("MRTD  ").unwrap().strip_suffix("  calculated").unwrap();
    assert_eq!((measured.len(), lines.len()), (96, 5), "{table}");
    assert!(lines[1..].iter().all(|line| line.starts_with("RTMR") && line.contains("not modelled")), "{table}");
}

#[test]
fn a_cluster_moves_pcr_12_and_host_data() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = folder.path().join("cluster.json");
    let content = Cluster {
        assurance: Assurance::Development,
        broker: Keys { keys: vec![Bytes32([1; 32])], threshold: 1 },
        epoch: 0,
        id: Hex(vec![7; 16]),
        recovery: Keys { keys: vec![Bytes32([8; 32])], threshold: 1 },
        schema: "cairn.cluster/1".into(),
        slots: vec![Slot { device: Device::OnlyOther, layout: None, mount: "/var".into(), name: "state".into() }],
    };
    let content = content.write().unwrap();
    std::fs::write(&cluster, &content).unwrap();
    let (cluster, reference) = (cluster.display().to_string(), image().file("reference.json").display().to_string());
    let digest = Sha256Digest::of(&content).to_string();
    let snp = measure(&[&reference, "--machine", &machine_file("qemu-snp-kernel"), "--cluster", &cluster]);
    assert!(snp.contains(&format!("HOST_DATA  {digest}")), "{snp}");
    let words = [&reference, "--machine", &machine_file(MACHINE), "--cluster", &cluster, "--format", "event-log"];
    let events: Value = serde_json::from_str(&measure(&words)).unwrap();
    let of_cluster: Vec<&Value> =
        events["events"].as_array().unwrap().iter().filter(|event| event["pcr"] == 12).collect();
    assert_eq!(of_cluster.len(), 1);
    assert_eq!(of_cluster[0]["digests"]["sha256"], Value::from(digest));
    assert_eq!(of_cluster[0]["source"], "configuration");
}

#[test]
fn the_kernel_machine_covers_the_image_and_the_disk_machine_says_that_it_does_not() {
    let covers = |name: &str| KnownMachine::get(name).unwrap().reference.covers.image;
    use measurements::document::machine::ImageCover;
    assert_eq!(covers("qemu-snp-kernel"), ImageCover::LaunchDigest);
    assert_eq!(covers("qemu-snp-disk"), ImageCover::ImageNotCovered);
    let debug = Image::open(&variable("CAIRN_DEBUG_IMAGE_DIR").unwrap()).unwrap();
    let digests = |name: &str| {
        [image().file("reference.json"), debug.file("reference.json")]
            .map(|path: std::path::PathBuf| measure(&[&path.display().to_string(), "--machine", &machine_file(name)]))
    };
    let [one, other] = digests("qemu-snp-kernel");
    assert_ne!(one, other, "another image has another launch digest");
    let [one, other] = digests("qemu-snp-disk");
    assert_eq!(one, other, "the launch digest does not cover the image");
}
