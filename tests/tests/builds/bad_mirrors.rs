//! Mirrors that are down, slow, lie, or have forgotten a package. The lock decides what is believed; what arrived is not lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cairn_tests::mirror::{FakeMirror, Manner};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::lock::Package;

use super::Row;
use super::bad_hosts::{inside, on_small_disk};
use cairn_tests::workshop::{Bench, Workshop, text_of};

const MIRROR: &str = "CAIRN_DEBIAN_MIRROR";

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("a_mirror_that_is_down_is_named", |shop, row| {
            let bench = Victim::prepare(shop, row)?.bench;
            let mut fetch = bench.xtask(&["fetch"]);
            bench
                .must_fail(fetch.env(MIRROR, "http://127.0.0.1:1/debian"), &["127.0.0.1:1", "the next run goes on"])?;
            bench.must_be_clean()
        }),
        Row::new("mirror_that_refuses_connections_ends_a_build_within_seconds", |shop, row| {
            from_nothing(shop, row, "http://127.0.0.1:1/debian", "Connection refused")
        }),
        Row::new("mirror_that_has_nothing_ends_a_build_within_seconds", |shop, row| {
            let mirror = FakeMirror::start(BTreeMap::new(), Manner::Absent)?;
            from_nothing(shop, row, &mirror.address, "has none of")
        }),
        Row::new("mirror_that_sends_web_pages_ends_a_build_within_seconds", |shop, row| {
            let mirror = FakeMirror::start(BTreeMap::new(), Manner::WebPage)?;
            from_nothing(shop, row, &mirror.address, "web page")
        }),
        Row::new("host_without_a_network_ends_a_build_within_seconds", without_network),
        Row::new("full_disk_ends_a_download_at_once", full_disk),
        Row::new("a_mirror_that_sends_other_bytes_is_not_believed", |shop, row| {
            refused(shop, row, Manner::OtherBytes, "the mirror sent other bytes")
        }),
        Row::new("a_mirror_that_sends_too_much_is_not_believed", |shop, row| {
            refused(shop, row, Manner::TooMuch, "the server sends more than")
        }),
        Row::new("a_mirror_that_sends_too_little_is_not_believed", |shop, row| {
            refused(shop, row, Manner::TooLittle, "the lock says")
        }),
        Row::new("a_mirror_that_hangs_or_lies_is_left_for_the_next", next_mirror),
        Row::new("a_forgotten_package_is_an_error_with_locked", |shop, row| {
            let victim = Victim::prepare(shop, row)?;
            let mirror = FakeMirror::start(victim.files()?, Manner::Absent)?;
            let mut build = victim.bench.xtask(&["build-image", "--locked"]);
            let words = [&*victim.package.name, &*victim.package.version, "Ways on", "cargo xtask lock", "snapshot"];
            victim.bench.must_fail(build.env(MIRROR, &mirror.address), &words)
        }),
        Row::new("a_forgotten_package_is_resolved_anew_and_the_image_marked", resolved_anew).in_full(),
        Row::new("an_interrupted_download_is_continued", continued),
        Row::new("a_damaged_package_in_the_cache_is_fetched_again", damaged),
    ]
}

/// Longest that a command works on a cause that no waiting changes. It takes less than ten seconds on a quiet host.
const SECONDS: Duration = Duration::from_secs(40);

/// A build with an empty cache ends soon, and prints one error of two lines: the cause, and what to do.
fn must_end_soon(command: &mut Command, causes: &[&str], hint: &str) -> Result<()> {
    let started = Instant::now();
    let output = command.output().context("Failed to start xtask")?;
    let (took, text) = (started.elapsed(), text_of(&output));
    ensure!(output.status.code() == Some(1), "{:?}: {text}", output.status);
    ensure!(took < SECONDS, "it ended after {took:?}: {text}");
    let error = text.split_once("error: ").map_or("", |(_, error)| error);
    let lines: Vec<&str> = error.trim_end().lines().collect();
    let [cause, advice] = lines[..] else { bail!("the error has {} lines: {text}", lines.len()) };
    ensure!(causes.iter().any(|words| cause.contains(words)), "the error does not name {causes:?}: {cause}");
    ensure!(advice.starts_with("hint: ") && advice.contains(hint), "the hint is {advice:?}");
    Ok(())
}

fn from_nothing(shop: &Workshop, row: &str, mirror: &str, cause: &str) -> Result<()> {
    let bench = shop.bench(row)?;
    bench.forget_everything()?;
    must_end_soon(bench.xtask(&["build-image"]).env(MIRROR, mirror), &[cause], MIRROR)?;
    bench.must_be_clean()
}

/// In a network namespace without interfaces.
fn without_network(shop: &Workshop, row: &str) -> Result<()> {
    let bench = shop.bench(row)?;
    bench.forget_everything()?;
    let mut build = bench.xtask(&["build-image"]);
    let build = build.env(MIRROR, "http://mirror.invalid/debian");
    let mut command = inside(build, &["--net"], &[]);
    must_end_soon(&mut command, &["lookup address", "name resolution", "unreachable"], MIRROR)?;
    bench.must_be_clean()
}

fn full_disk(shop: &Workshop, row: &str) -> Result<()> {
    let victim = Victim::prepare(shop, row)?;
    let Victim { bench, .. } = &victim;
    bench.forget_everything()?;
    fs::create_dir_all(&bench.cache).context("Failed to make a cache")?;
    let mirror = FakeMirror::start(of_all(shop, bench)?, Manner::Honest)?;
    let mut fetch = bench.xtask(&["fetch"]);
    let mut command = on_small_disk(fetch.env(MIRROR, &mirror.address), &bench.cache, "true", "true")?;
    must_end_soon(&mut command, &["is full"], "XDG_CACHE_HOME")
}

/// Every locked package.
fn of_all(shop: &Workshop, bench: &Bench) -> Result<BTreeMap<String, PathBuf>> {
    let packages = bench.lock()?.packages;
    Ok(packages.into_iter().map(|package| (package.path, shop.store.package(&package.sha256))).collect())
}

/// A package that the cache of a row lacks.
struct Victim<'a> {
    bench: Bench<'a>,
    package: Package,
    original: PathBuf,
}

impl<'a> Victim<'a> {
    fn prepare(shop: &'a Workshop, row: &str) -> Result<Self> {
        let bench = shop.bench(row)?;
        let lock = bench.lock()?;
        // One of the image's own, large enough to be cut in halves.
        let package = lock.packages.iter().find(|package| package.name == "libcryptsetup12");
        let package = package.context("the lock has no libcryptsetup12: choose another victim")?.clone();
        let original = shop.store.package(&package.sha256);
        fs::remove_file(bench.cached(package.sha256)).context("the victim is not in the cache")?;
        Ok(Self { bench, package, original })
    }

    fn files(&self) -> Result<BTreeMap<String, PathBuf>> {
        ensure!(self.original.exists(), "{} is not in the user's cache", self.original.display());
        Ok(BTreeMap::from([(self.package.path.clone(), self.original.clone())]))
    }

    fn must_be_fetched(&self) -> Result<()> {
        let (found, expected) = (fs::read(self.bench.cached(self.package.sha256))?, fs::read(&self.original)?);
        ensure!(found == expected, "the package in the cache has other bytes");
        Ok(())
    }
}

fn refused(shop: &Workshop, row: &str, manner: Manner, message: &str) -> Result<()> {
    let victim = Victim::prepare(shop, row)?;
    let mirror = FakeMirror::start(victim.files()?, manner)?;
    let mut fetch = victim.bench.xtask(&["fetch"]);
    victim.bench.must_fail(fetch.env(MIRROR, &mirror.address), &[message, &victim.package.path])?;
    ensure!(!victim.bench.cached(victim.package.sha256).exists(), "bytes that nobody asked for are in the cache");
    victim.bench.must_be_clean()
}

fn next_mirror(shop: &Workshop, row: &str) -> Result<()> {
    let victim = Victim::prepare(shop, row)?;
    let bad =
        [Manner::Stalls, Manner::OtherBytes, Manner::Absent].map(|manner| FakeMirror::start(victim.files()?, manner));
    let good = FakeMirror::start(victim.files()?, Manner::Honest)?;
    let mut list = String::new();
    for mirror in bad {
        list += &format!("{}, ", mirror?.address);
    }
    let mut fetch = victim.bench.xtask(&["fetch"]);
    victim.bench.must_succeed(fetch.env(MIRROR, list + &good.address))?;
    victim.must_be_fetched()
}

/// The clone's lock names a version that never was; the real mirrors have another.
fn resolved_anew(shop: &Workshop, row: &str) -> Result<()> {
    let bench = shop.bench(row)?;
    let package = bench.lock()?.packages.into_iter().find(|package| package.name == "libcryptsetup12");
    let package = package.context("the lock has no libcryptsetup12: choose another victim")?;
    let path = package.path.replace("libcryptsetup12_", "libcryptsetup12_0gone");
    bench.edit("os/packages.lock", &package.path, &path)?;
    bench.edit("os/packages.lock", &package.sha256.to_string(), &"0".repeat(64))?;
    let text = bench.must_succeed(&mut bench.xtask(&["build-image"]))?;
    for words in ["no mirror has libcryptsetup12", "\"locked\": false", "cannot be published"] {
        ensure!(text.contains(words), "the build does not say {words:?}: {text}");
    }
    let document: serde_json::Value = serde_json::from_slice(&bench.image()?.read("image.json")?)?;
    ensure!(document["locked"] == false && document["dirty"] == true, "{document}");
    bench.must_be_clean()
}

fn continued(shop: &Workshop, row: &str) -> Result<()> {
    let victim = Victim::prepare(shop, row)?;
    let slow = FakeMirror::start(victim.files()?, Manner::HangsHalfway)?;
    let mut child =
        victim.bench.xtask(&["fetch"]).env(MIRROR, &slow.address).spawn().context("Failed to start xtask")?;
    let partial = victim.bench.cached(victim.package.sha256).with_extension("partial");
    let half = victim.package.size / 2;
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::metadata(&partial).map_or(0, |data| data.len()) < half {
        ensure!(Instant::now() < deadline, "half of the package does not arrive");
        std::thread::sleep(Duration::from_millis(50));
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).context("Failed to interrupt")?;
    let status = child.wait().context("Failed to wait")?;
    ensure!(status.code() == Some(130), "after an interrupt: {status:?}");

    let good = FakeMirror::start(victim.files()?, Manner::Honest)?;
    victim.bench.must_succeed(victim.bench.xtask(&["fetch"]).env(MIRROR, &good.address))?;
    let from: Vec<usize> = good.requests().iter().map(|request| request.from).collect();
    ensure!(from == [usize::try_from(half)?], "the download was not continued at byte {half}: {from:?}");
    victim.must_be_fetched()
}

fn damaged(shop: &Workshop, row: &str) -> Result<()> {
    let victim = Victim::prepare(shop, row)?;
    let mut bytes = fs::read(&victim.original)?;
    bytes[1000] ^= 1;
    fs::write(victim.bench.cached(victim.package.sha256), bytes)?;
    let mirror = FakeMirror::start(victim.files()?, Manner::Honest)?;
    let text = victim.bench.must_succeed(victim.bench.xtask(&["fetch"]).env(MIRROR, &mirror.address))?;
    ensure!(text.contains("is damaged: fetching it again"), "{text}");
    victim.must_be_fetched()
}
