//! The program takes the command lines of `sev-snp-measure` 0.0.13 and prints what that prints; `golden/record_command_line.py` made the answers.

#![allow(clippy::unwrap_used)]

mod images;

use std::path::Path;
use std::process::{Command, Output};

use images::{HASH_TABLE, METADATA, RESET_BLOCK, numbers};
use serde::Deserialize;

#[derive(Deserialize)]
struct Line {
    arguments: String,
    output: Option<String>,
}

/// The firmware of the recorded command lines.
fn firmware() -> Vec<u8> {
    let sections = [[0x80_0000, 0x3000, 1], [0x80_3000, 0x1000, 2], [0x80_4000, 0x1000, 3], [0x81_0000, 0x1000, 0x10]];
    let entries =
        [(RESET_BLOCK, numbers(&[0x80_b004])), (HASH_TABLE, numbers(&[0x81_0c00, 1024])), (METADATA, Vec::new())];
    images::image(7, 8, &sections, &entries)
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in
        [("FIRMWARE", &firmware()[..]), ("KERNEL", b"a kernel"), ("INITRD", b"an initrd"), ("NOISE", &[7; 8192])]
    {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn run(folder: &Path, arguments: &str) -> Output {
    let words = arguments.split_whitespace();
    Command::new(env!("CARGO_BIN_EXE_ovmf-measure")).args(words).current_dir(folder).output().unwrap()
}

fn printed(folder: &Path, arguments: &str) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn command_lines_of_sev_snp_measure_print_what_it_prints() {
    let folder = folder();
    let recorded = include_str!("golden/command-line.jsonl").lines();
    let lines: Vec<Line> = recorded.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().filter(|line| line.output.is_some()).count() >= 26 && lines.len() >= 36);
    for Line { arguments, output } in lines {
        match output {
            Some(expected) => assert_eq!(printed(folder.path(), &arguments), expected, "{arguments}"),
            None => {
                let refused = run(folder.path(), &arguments);
                assert!(!refused.status.success() && refused.stdout.is_empty(), "{arguments}");
                assert!(!refused.stderr.is_empty(), "{arguments}");
            }
        }
    }
}

#[test]
fn what_sev_snp_measure_does_not_have_is_there() {
    let folder = folder();
    let printed = |arguments: &str| printed(folder.path(), arguments);
    let snp = "--mode snp --ovmf FIRMWARE --vcpu-type EPYC-v4 --vcpus";
    let table = printed(&format!("{snp} 3 --table"));
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3);
    for (cpus, line) in (1..).zip(&lines) {
        assert_eq!(line.trim_start(), format!("{cpus} {}", printed(&format!("{snp} {cpus}")).trim_end()));
    }
    let differs = |one: &str, other: &str| assert_ne!(printed(one), printed(other), "{other}");
    differs(&format!("{snp} 1"), &format!("{snp} 1 --legacy-fpu"));
    let ec2 = "--mode snp --ovmf FIRMWARE --vcpus 1 --vmm-type";
    differs(&format!("{ec2} ec2"), &format!("{ec2} ec2-rdx0"));
    // That program takes signature 0 for none.
    differs(&format!("{snp} 1"), "--mode snp --ovmf FIRMWARE --vcpus 1 --vcpu-sig 0");
}

#[test]
fn save_areas_are_written_as_they_are_measured() {
    let folder = folder();
    printed(folder.path(), "--mode seves --ovmf FIRMWARE --vcpu-type EPYC --vcpus 2 --dump-vmsa");
    let area = |index: usize| std::fs::read(folder.path().join(format!("vmsa{index}.bin"))).unwrap();
    assert_eq!((area(0).len(), area(1).len()), (4096, 4096));
    assert_eq!((&area(0)[0x178..0x17a], &area(1)[0x178..0x17a]), (&[0xf0, 0xff][..], &[4, 0xb0][..]));
}

#[test]
fn file_without_a_table_is_refused_with_the_reason_of_the_mode() {
    let folder = folder();
    for (mode, words) in [
        ("snp --vcpus 1 --vcpu-type EPYC", "SEV metadata"),
        ("seves --vcpus 2 --vcpu-type EPYC", "a firmware volume"),
        ("sev", "a firmware volume"),
        ("tdx", "TDX metadata"),
    ] {
        let refused = run(folder.path(), &format!("--ovmf NOISE --mode {mode}"));
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && text.contains(words), "{mode}: {text}");
    }
}
