//! Makes a lock: each package set is resolved by the host's apt against signed indexes, and every chosen file is written
//! down with the SHA-256 of the index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use percent_encoding::percent_decode_str;

use super::apt::{Apt, Chosen};
use super::sets::{self, PackageSet};
use super::{Lock, Package, Suite, VERSION, archive};
use crate::mirror::Mirrors;
use crate::time;

/// Which packages may move to newer versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// None, as long as the mirror still has them.
    Nothing,
    /// These names.
    Only(BTreeSet<String>),
    /// All.
    Everything,
}

/// Resolves `sets` with private state below `state`.
pub fn resolve(
    sets: &BTreeMap<String, PackageSet>,
    old: Option<&Lock>,
    update: &Update,
    mirrors: &Mirrors,
    state: &Path,
) -> Result<Lock> {
    let mut suites = BTreeMap::new();
    let mut packages: BTreeMap<(String, String, String), Package> = BTreeMap::new();
    let names: BTreeSet<&String> = sets.values().map(|set| &set.suite).collect();
    for suite in names {
        // Only a stable release has a security suite of its own; the firmware's newer suite gets fixes by itself.
        let security = sets[sets::ROOT].suite == *suite;
        let apt = Apt::open(&state.join(suite), suite, security, mirrors)?;
        for source in apt.sources() {
            let release = archive::verify(&apt.in_release(source)?, state)?;
            let suite = Suite {
                name: source.suite.clone(),
                archive: source.archive,
                date: time::format_rfc3339(release.date)?,
                sha256: release.sha256,
                signers: release.signers,
            };
            refuse_an_older_index(old, &suite)?;
            suites.insert(suite.name.clone(), suite);
        }
        apt.pin(&pins(old, update, suite))?;
        for (name, set) in sets.iter().filter(|(_, set)| set.suite == *suite && !set.packages.is_empty()) {
            let wanted = if name == sets::KERNEL { kernel_images(&apt, &set.packages)? } else { set.packages.clone() };
            let chosen =
                apt.choose(&wanted, set.closure).with_context(|| format!("Failed to resolve the set {name}"))?;
            for mut package in describe(&apt, &chosen)? {
                let key = (package.name.clone(), package.architecture.clone(), package.version.clone());
                package.sets.insert(name.clone());
                packages.entry(key).and_modify(|known| known.sets.extend(package.sets.clone())).or_insert(package);
            }
        }
    }
    let mut lock = Lock {
        version: VERSION,
        inputs: sets::digest(sets),
        suites: suites.into_values().collect(),
        packages: packages.into_values().collect(),
    };
    if let Some(old) = old {
        lock.keep_indexes_of(old);
    }
    // What is written must be what is read back.
    Lock::parse(&lock.render()).context("The resolved lock is not valid: this is a bug of `cargo xtask lock`")
}

/// An index that is older than the one in the lock has forgotten what was fixed since.
fn refuse_an_older_index(old: Option<&Lock>, suite: &Suite) -> Result<()> {
    let Some(known) = old.and_then(|old| old.suites.iter().find(|known| known.name == suite.name)) else {
        return Ok(());
    };
    let (then, now) = (time::parse_rfc3339(&known.date)?, time::parse_rfc3339(&suite.date)?);
    ensure!(
        then <= now,
        "The mirror's signed index of {} is of {}, and os/packages.lock has one of {}: the mirror is behind, or an old index is replayed. Try again later, or name another mirror in {}",
        suite.name,
        suite.date,
        known.date,
        crate::mirror::VARIABLE
    );
    Ok(())
}

fn pins(old: Option<&Lock>, update: &Update, suite: &str) -> Vec<(String, String)> {
    let Some(old) = old else { return Vec::new() };
    let security = format!("{suite}-security");
    let stays = |package: &&Package| {
        (package.suite == suite || package.suite == security)
            && match update {
                Update::Nothing => true,
                Update::Only(names) => !names.contains(&package.name),
                Update::Everything => false,
            }
    };
    old.packages.iter().filter(stays).map(|p| (p.name.clone(), p.version.clone())).collect()
}

/// The kernel is named by a metapackage; the image itself is its dependency.
fn kernel_images(apt: &Apt, packages: &[String]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for package in packages {
        found.extend(apt.dependencies(package, "linux-image-")?);
    }
    ensure!(
        found.len() == packages.len(),
        "{} should depend on one kernel image each, found {found:?}",
        packages.join(", ")
    );
    Ok(found)
}

fn describe(apt: &Apt, chosen: &[Chosen]) -> Result<Vec<Package>> {
    let mut pairs = Vec::new();
    for file in chosen {
        let (name, version, _) = split_file_name(&file.file_name)?;
        pairs.push(format!("{name}={version}"));
    }
    let text = apt.show(&pairs)?;
    let stanzas: BTreeMap<&str, BTreeMap<&str, &str>> =
        text.split("\n\n").map(parse_stanza).filter_map(|stanza| Some((*stanza.get("Filename")?, stanza))).collect();
    chosen.iter().map(|file| describe_one(apt, file, &stanzas)).collect()
}

fn describe_one(apt: &Apt, file: &Chosen, stanzas: &BTreeMap<&str, BTreeMap<&str, &str>>) -> Result<Package> {
    let (name, version, architecture) = split_file_name(&file.file_name)?;
    let source = apt.sources().iter().find(|source| file.uri.starts_with(&format!("{}/pool/", source.base)));
    let source = source.with_context(|| format!("{} is from none of the archives asked", file.uri))?;
    let path = percent_decode_str(&file.uri[source.base.len() + 1..]).decode_utf8_lossy().into_owned();
    let stanza = stanzas.get(path.as_str()).with_context(|| format!("The index has no entry for {path}"))?;
    let field = |name: &str| {
        stanza.get(name).copied().with_context(|| format!("The index entry of {path} lacks the field {name}"))
    };
    ensure!(
        field("Package")? == name && field("Version")? == version,
        "The index entry of {path} is of {} {}",
        field("Package")?,
        field("Version")?
    );
    Ok(Package {
        name,
        version: version.clone(),
        architecture,
        suite: source.suite.clone(),
        path: path.clone(),
        size: field("Size")?.parse().with_context(|| format!("The size of {path} is not a number"))?,
        sha256: field("SHA256")?.parse()?,
        source: source_of(stanza, field("Package")?, &version),
        sets: BTreeSet::new(),
    })
}

/// `Source: name (version)`; both parts are left out where they equal the binary package's.
fn source_of(stanza: &BTreeMap<&str, &str>, package: &str, version: &str) -> String {
    match stanza.get("Source").map(|source| source.split_once(" (")) {
        None => format!("{package} {version}"),
        Some(None) => format!("{} {version}", stanza["Source"]),
        Some(Some((source, rest))) => format!("{source} {}", rest.trim_end_matches(')')),
    }
}

fn split_file_name(file_name: &str) -> Result<(String, String, String)> {
    let parts: Vec<&str> = file_name.trim_end_matches(".deb").split('_').collect();
    let [name, version, architecture] = parts[..] else {
        bail!("apt names a file {file_name:?}; name_version_architecture.deb is expected");
    };
    Ok((name.to_owned(), percent_decode_str(version).decode_utf8_lossy().into_owned(), architecture.to_owned()))
}

/// The one-line fields of a stanza; continuation lines are of no interest.
fn parse_stanza(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter(|line| !line.starts_with([' ', '\t']))
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key, value.trim()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stanza_s_source_is_filled_in_from_the_package() {
        for (text, expected) in [
            ("Package: acl\nVersion: 2.3", "acl 2.3"),
            ("Package: libacl1\nSource: acl\nVersion: 2.3", "acl 2.3"),
            ("Package: x\nSource: acl (2.2-1)\nVersion: 2.3\nDescription: a\n longer: one", "acl 2.2-1"),
        ] {
            let stanza = parse_stanza(text);
            assert_eq!(source_of(&stanza, stanza["Package"], stanza["Version"]), expected);
        }
    }

    #[test]
    fn a_file_name_gives_name_version_and_architecture() {
        assert_eq!(
            split_file_name("libcap2_1%3a2.75-10+b3_amd64.deb").unwrap(),
            ("libcap2".into(), "1:2.75-10+b3".into(), "amd64".into())
        );
        assert!(split_file_name("strange.deb").is_err());
    }

    #[test]
    fn an_index_older_than_the_lock_s_is_refused() {
        let suite = |date: &str| Suite {
            name: "trixie".into(),
            archive: super::super::Archive::Debian,
            date: date.into(),
            sha256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".parse().unwrap(),
            signers: vec![],
        };
        let old = Lock {
            version: VERSION,
            inputs: suite("").sha256,
            suites: vec![suite("2026-01-02T03:04:05Z")],
            packages: vec![],
        };
        for (date, refused) in
            [("2026-01-02T03:04:04Z", true), ("2026-01-02T03:04:05Z", false), ("2026-02-01T00:00:00Z", false)]
        {
            assert_eq!(refuse_an_older_index(Some(&old), &suite(date)).is_err(), refused, "{date}");
        }
        assert!(refuse_an_older_index(None, &suite("2020-01-01T00:00:00Z")).is_ok());
    }

    #[test]
    fn pins_hold_what_may_not_move() {
        let text = "version = 1\ninputs = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"\n\
            [[suite]]\nname = \"trixie\"\narchive = \"debian\"\ndate = \"2026-01-02T03:04:05Z\"\n\
            sha256 = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"\nsigners = []\n\
            [[package]]\nname = \"acl\"\nversion = \"2.3\"\narchitecture = \"amd64\"\nsuite = \"trixie\"\n\
            path = \"pool/a.deb\"\nsize = 1\nsource = \"acl 2.3\"\nsets = [\"root\"]\n\
            sha256 = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"\n";
        let lock = Lock::parse(text).unwrap();
        let pinned = vec![("acl".to_owned(), "2.3".to_owned())];
        assert_eq!(pins(Some(&lock), &Update::Nothing, "trixie"), pinned);
        assert_eq!(pins(Some(&lock), &Update::Nothing, "forky"), []);
        assert_eq!(pins(Some(&lock), &Update::Only(BTreeSet::from(["bash".into()])), "trixie"), pinned);
        assert_eq!(pins(Some(&lock), &Update::Only(BTreeSet::from(["acl".into()])), "trixie"), []);
        assert_eq!(pins(Some(&lock), &Update::Everything, "trixie"), []);
        assert_eq!(pins(None, &Update::Nothing, "trixie"), []);
    }
}
