//! A bounded run of every target of `fuzz/targets`, without a fuzzer: the whole corpus, and a fixed number of mutations of it that are the same in every run.
//!
//! No call panics, has more memory at once than a multiple of its input, or takes longer than only a hang does. `cargo fuzz` looks for more: `fuzz/README.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod corpus;
mod harness;
mod mutate;
#[path = "../../../fuzz/targets/mod.rs"]
mod targets;
mod valid;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::{Bounds, Input};
use measurements::parse::fv::{self, LARGEST_UNPACKED, Volumes};
use mutate::{Random, mutated};
use state_disk::layout::METADATA;
use targets::{LARGEST_VOLUME, TARGETS, Target};

/// Calls for each target.
const CALLS: usize = 3000;
/// Memory at once for each byte of input: tables of parsed values, and copies of them in several banks.
const FACTOR: usize = 16;
/// Memory at once whatever the input: error texts, the sixteen registers in four banks, the stack of a thread.
const CONSTANT: usize = 16 << 10;
/// Only a hang takes longer.
const TIME: Duration = Duration::from_secs(10);
/// Most bytes of all files of the corpus together.
const CORPUS: usize = 600 << 10;
/// Inputs that take more memory are run as they are, but not mutated.
const MUTABLE: usize = 1 << 20;

fn bounds((name, _): Target) -> Bounds {
    let factor = match name {
        // What has its kind in a field is kept until that is found: 32 bytes for each number, and once more while the list grows.
        "krp_request" => 3 * FACTOR,
        _ => FACTOR,
    };
    let constant = match name {
        // What is unpacked grows by doubling, in the dictionary of the decoder and in its output; then the volumes are taken out of it.
        "fv" => CONSTANT + 4 * LARGEST_UNPACKED as usize,
        // A file may claim the size of its volume.
        "fat_large" => CONSTANT + LARGEST_VOLUME,
        // Each copy is hashed without its checksum.
        "luks2_header" => CONSTANT + METADATA,
        // The known trust root is read beside it, with its certificate.
        "air_gap" | "trust_root" => CONSTANT + (16 << 10),
        // A token's certificates, names and attributes are decoded, too, and each is a large structure.
        "timestamp" => CONSTANT + (64 << 10),
        // What follows from a reference is calculated: sixteen registers in four banks at three points, with and without a cluster.
        "statement" => CONSTANT + (64 << 10),
        // The manufacturer's certificates, and arithmetic with RSA 4096.
        "snp_report" => CONSTANT + (112 << 10),
        _ => CONSTANT,
    };
    Bounds { factor, constant, time: TIME }
}

fn checkout() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn fuzz_folder() -> PathBuf {
    checkout().join("fuzz")
}

/// All files of a folder in the order of their names.
fn files(folder: &Path) -> Vec<Input> {
    let entries = folder.read_dir().unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<Input> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            Input { name, bytes: std::fs::read(path).unwrap() }
        })
        .collect();
    files.sort_by(|one, other| one.name.cmp(&other.name));
    files
}

/// The corpus of a target, and the recorded logs that are not too large.
fn seeds((name, _): Target) -> Vec<Input> {
    let mut seeds = files(&fuzz_folder().join("corpus").join(name));
    if name == "tcg_log" {
        let recorded = files(&checkout().join("measurements/tests/recorded")).into_iter();
        seeds.extend(recorded.filter(|input| input.name.starts_with("tpm-") && input.bytes.len() <= 30 << 10));
    }
    seeds
}

fn mutations((name, _): Target, seeds: &[Input]) -> Vec<Input> {
    let mut random = Random::of(name);
    (seeds.len()..CALLS)
        .map(|number| {
            let seed = &seeds[number % seeds.len()];
            let other = &seeds[random.below(seeds.len())];
            let bytes = mutated(&mut random, &seed.bytes, &other.bytes);
            Input { name: format!("{}, mutation {number}", seed.name), bytes }
        })
        .collect()
}

#[test]
fn every_parser_stays_within_its_bounds_on_the_corpus_and_its_mutations() {
    let _alone = harness::alone();
    for target in TARGETS.iter().copied() {
        let (seeds, start) = (seeds(target), Instant::now());
        let figures = harness::run(target, seeds.clone(), bounds(target)).unwrap_or_else(|problem| panic!("{problem}"));
        let small = seeds.into_iter().zip(figures.each).filter(|(_, memory)| *memory < MUTABLE);
        let mutable: Vec<Input> = small.map(|(seed, _)| seed).collect();
        let inputs = mutations(target, &mutable);
        let more = harness::run(target, inputs, bounds(target)).unwrap_or_else(|problem| panic!("{problem}"));
        let (memory, longest) = (figures.memory.max(more.memory), figures.longest.max(more.longest));
        let calls = figures.calls + more.calls;
        println!(
            "{:15} {calls} calls in {:?}, the longest {longest:?}, {memory} bytes at most",
            target.0,
            start.elapsed()
        );
    }
}

#[test]
fn every_target_has_its_file_and_a_small_corpus() {
    let _alone = harness::alone();
    let manifest = std::fs::read_to_string(fuzz_folder().join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        let file = std::fs::read_to_string(fuzz_folder().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(file.contains(&format!("targets::{name}(bytes)")), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
    let files = TARGETS.iter().flat_map(|(name, _)| files(&fuzz_folder().join("corpus").join(name)));
    let size: usize = files.map(|input| input.bytes.len()).sum();
    assert!(size <= CORPUS, "the corpus has {size} bytes: what libFuzzer keeps belongs elsewhere, see fuzz/README.md");
    for folder in ["corpus", "fuzz_targets"] {
        let entries = fuzz_folder().join(folder).read_dir().unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<_> = entries.map(|path| path.file_stem().unwrap().to_owned()).collect();
        names.sort();
        assert_eq!(names, TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "{folder}");
    }
}

#[test]
fn the_corpus_is_what_the_code_builds() {
    let _alone = harness::alone();
    for (target, name, bytes) in corpus::all() {
        let path = fuzz_folder().join("corpus").join(target).join(&name);
        let found = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(found == bytes, "{target}/{name} differs: cargo test -p cairn-tests --test bounded -- --ignored");
    }
}

#[test]
#[ignore = "writes fuzz/corpus"]
fn write_the_corpus() {
    for (target, name, bytes) in corpus::all() {
        let folder = fuzz_folder().join("corpus").join(target);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}

#[test]
fn what_leaves_the_bounds_is_reported_by_target_and_input() {
    static RELEASED: AtomicBool = AtomicBool::new(false);
    fn greedy(bytes: &[u8]) {
        let factor = if bytes == b"claims much" { 1 << 20 } else { 1 };
        std::hint::black_box(vec![0_u8; bytes.len() * factor]);
    }
    fn panicking(bytes: &[u8]) {
        assert!(bytes != b"claims much", "a slice index is out of range");
    }
    fn hanging(bytes: &[u8]) {
        while bytes == b"claims much" && !RELEASED.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let _alone = harness::alone();
    let input = |bytes: &[u8]| Input { name: String::from_utf8_lossy(bytes).into_owned(), bytes: bytes.to_vec() };
    let inputs = || vec![input(b"claims little"), input(b"claims much"), input(b"never run")];
    let bounds = Bounds { factor: FACTOR, constant: CONSTANT, time: Duration::from_secs(1) };
    for (target, problem) in [
        (("greedy", greedy as fn(&[u8])), "bytes of memory at once for 11 of input; 16560 are its bound"),
        (("panicking", panicking), "panicked: a slice index is out of range"),
        (("hanging", hanging), "has not returned after 1s"),
    ] {
        let report = harness::run(target, inputs(), bounds).unwrap_err();
        assert!(report.starts_with(&format!("target {}, input claims much: it ", target.0)), "{report}");
        assert!(report.contains(problem), "{report}");
        assert!(harness::run(target, vec![input(b"claims little")], bounds).is_ok(), "{}", target.0);
    }
    RELEASED.store(true, Ordering::Relaxed);
}

#[test]
fn firmware_that_claims_to_unpack_to_more_than_the_limit_is_refused_before_it_is_unpacked() {
    let _alone = harness::alone();
    let inputs: Vec<Input> = files(&fuzz_folder().join("corpus/fv"))
        .into_iter()
        .filter(|input| ["claims-more-than-the-largest", "claims-no-size"].contains(&input.name.as_str()))
        .collect();
    assert_eq!(inputs.len(), 2);
    for input in &inputs {
        let error = Volumes::unpack(&input.bytes).unwrap_err();
        assert!(matches!(&error, fv::Error::Lzma(words) if words.starts_with("it claims to hold")), "{error}");
    }
    let fv = TARGETS.iter().copied().find(|(name, _)| *name == "fv").unwrap();
    harness::run(fv, inputs, Bounds { factor: FACTOR, constant: CONSTANT, time: TIME }).unwrap();
}

#[test]
fn mutations_are_the_same_in_every_run_and_differ_from_each_other() {
    let _alone = harness::alone();
    let seeds = seeds(TARGETS[0]);
    let (once, again) = (mutations(TARGETS[0], &seeds), mutations(TARGETS[0], &seeds));
    assert_eq!(once, again);
    let different: std::collections::BTreeSet<&[u8]> = once.iter().map(|input| &input.bytes[..]).collect();
    assert!(different.len() > CALLS * 9 / 10, "{} of {}", different.len(), once.len());
}
