//! The package sets that a lock answers: which names are asked for, in which suite, for which purpose.
//!
//! The image's root and its profiles come from `mkosi.conf` and `os/profiles/*/mkosi.conf`, the build root from
//! `xtask/build-root/mkosi.conf`, kernel and firmware from `os/image.toml`, the transparency log of the tests from
//! `xtask/log-server/packages.toml`. A profile's set is complete by itself: the
//! root's packages and its own, resolved together.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::config::{image::ImageConfig, log_server::LogServerConfig, mkosi_conf, profile};
use crate::digest::Sha256Digest;

/// The set of the image's root without a profile.
pub const ROOT: &str = "root";
/// The tools that the build runs with.
pub const BUILD_ROOT: &str = "build-root";
/// The kernel package, which is unpacked and never installed.
pub const KERNEL: &str = "kernel";
/// What the names of sets of firmware begin with; their suite follows. They are unpacked and never installed.
pub const FIRMWARE: &str = "firmware-";
/// What only `cargo xtask bench` needs: the peer's initrd.
pub const BENCH: &str = "bench";
/// The transparency log that tests and `cargo xtask log-server` start. It is compiled from unpacked packages.
pub const LOG: &str = "log";
/// What a log of the older kind, Rekor v1, needs beyond that one: only `cargo xtask test --with-rekor-v1` fetches it.
pub const LOG_V1: &str = "log-v1";

/// One set: the names to resolve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageSet {
    /// Suite (and, if it has one, its security suite) that it is resolved in.
    pub suite: String,
    /// Whether dependencies belong to the set; kernel, firmware and the log's sources are taken alone.
    pub closure: bool,
    /// Package names.
    pub packages: Vec<String>,
}

/// All sets of a checkout, by name.
pub fn read(checkout: &Path) -> Result<BTreeMap<String, PackageSet>> {
    let image = ImageConfig::read(&checkout.join("os/image.toml"))?;
    let suite = image.packages.suite.clone();
    let closure = |packages: Vec<String>| PackageSet { suite: suite.clone(), closure: true, packages };
    let root = mkosi_conf::packages(&checkout.join("mkosi.conf"))?;

    let mut sets = BTreeMap::new();
    for name in profile::names(checkout)? {
        let own = profile::packages(checkout, &name)?;
        ensure!(!is_reserved(&name), "The profile os/profiles/{name} has the name of another package set: rename it");
        if !own.is_empty() {
            sets.insert(name, closure(root.iter().cloned().chain(own).collect()));
        }
    }
    sets.insert(ROOT.into(), closure(root));
    let tools = mkosi_conf::packages(&checkout.join("xtask/build-root/mkosi.conf"))?;
    sets.insert(BUILD_ROOT.into(), closure(tools));
    sets.insert(BENCH.into(), closure(mkosi_conf::packages(&checkout.join("xtask/bench/mkosi.conf"))?));
    let alone = |suite: &str, packages: Vec<String>| PackageSet { suite: suite.into(), closure: false, packages };
    sets.insert(KERNEL.into(), alone(&suite, vec![image.packages.kernel.clone()]));
    for firmware in &image.packages.firmware {
        sets.insert(format!("{FIRMWARE}{}", firmware.suite), alone(&firmware.suite, firmware.packages.clone()));
    }
    let log = LogServerConfig::read(checkout)?;
    sets.insert(LOG.into(), alone(&log.suite, log.packages()));
    sets.insert(LOG_V1.into(), alone(&log.suite, log.rekor_v1_sources));
    Ok(sets)
}

fn is_reserved(name: &str) -> bool {
    [ROOT, BUILD_ROOT, KERNEL, BENCH, LOG, LOG_V1].contains(&name) || name.starts_with(FIRMWARE)
}

/// A digest over the sets: a lock carries it, so that a changed `mkosi.conf` is noticed.
pub fn digest(sets: &BTreeMap<String, PackageSet>) -> Sha256Digest {
    let mut text = String::new();
    for (name, set) in sets {
        let mut packages = set.packages.clone();
        packages.sort();
        packages.dedup();
        text += &format!("{name} {} {} {}\n", set.suite, set.closure, packages.join(" "));
    }
    Sha256Digest::of(text.as_bytes())
}

/// The set that an image with `profile` is built from.
pub fn of_profile(sets: &BTreeMap<String, PackageSet>, profile: Option<&str>) -> Result<String> {
    match profile {
        Some(name) if sets.contains_key(name) && !is_reserved(name) => Ok(name.to_owned()),
        _ => sets.contains_key(ROOT).then(|| ROOT.to_owned()).context("There is no package set for the root"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(packages: &[&str]) -> PackageSet {
        let packages = packages.iter().map(|name| name.to_string()).collect();
        PackageSet { suite: "trixie".into(), closure: true, packages }
    }

    #[test]
    fn the_digest_follows_names_and_suites_but_not_the_order_of_names() {
        let sets = |packages: &[&str]| BTreeMap::from([(ROOT.to_owned(), set(packages))]);
        assert_eq!(digest(&sets(&["a", "b"])), digest(&sets(&["b", "a", "a"])));
        assert_ne!(digest(&sets(&["a", "b"])), digest(&sets(&["a"])));
        let mut other = sets(&["a", "b"]);
        other.get_mut(ROOT).unwrap().suite = "forky".into();
        assert_ne!(digest(&sets(&["a", "b"])), digest(&other));
    }

    #[test]
    fn a_profile_without_packages_is_built_from_the_root_set() {
        let sets = BTreeMap::from([(ROOT.to_owned(), set(&["a"])), ("container".to_owned(), set(&["a", "runc"]))]);
        assert_eq!(of_profile(&sets, None).unwrap(), ROOT);
        assert_eq!(of_profile(&sets, Some("debug")).unwrap(), ROOT);
        assert_eq!(of_profile(&sets, Some("container")).unwrap(), "container");
        assert_eq!(of_profile(&sets, Some("kernel")).unwrap(), ROOT);
    }
}
