//! `os/packages.lock`: every .deb that a build touches, by name, version, place in the archive and SHA-256.
//!
//! The file is TOML, sorted, with one field a line, so that a change of a package reads well in a diff. Reading it is
//! strict: unknown fields, a wrong order or a package twice are errors, because a lock edited by hand would otherwise
//! mean something else than it says. Resolution (which versions, from which signed index) is in [`resolve`].

pub mod apt;
pub mod archive;
pub mod command;
pub mod resolve;
pub mod sets;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::digest::Sha256Digest;

/// The format that this code writes and reads.
pub const VERSION: u32 = 1;

/// The whole lock.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Format of the file.
    pub version: u32,
    /// Digest of the package sets that were resolved: tells whether the lock still answers the question.
    pub inputs: Sha256Digest,
    /// The signed indexes that the packages were taken from.
    #[serde(rename = "suite")]
    pub suites: Vec<Suite>,
    /// The packages, sorted by name, architecture and version.
    #[serde(rename = "package")]
    pub packages: Vec<Package>,
}

/// One suite of an archive, at the moment of resolution.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// Name below `dists/`, such as `trixie-security`.
    pub name: String,
    /// Which archive carries it.
    pub archive: Archive,
    /// `Date` of the InRelease file, in RFC 3339, UTC.
    pub date: String,
    /// SHA-256 of the InRelease file.
    pub sha256: Sha256Digest,
    /// Fingerprints of the keys whose signatures were verified.
    pub signers: Vec<String>,
}

/// The two archives of Debian. A mirror carries them beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Archive {
    /// The main archive.
    Debian,
    /// The security archive.
    DebianSecurity,
}

impl Archive {
    /// The name in the lock, which is also the last part of a mirror's address.
    pub fn name(self) -> &'static str {
        match self {
            Archive::Debian => "debian",
            Archive::DebianSecurity => "debian-security",
        }
    }
}

/// One .deb.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Binary package name.
    pub name: String,
    /// Version, with its epoch.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// Suite it came from.
    pub suite: String,
    /// Path below the archive's base address.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: Sha256Digest,
    /// Source package and its version.
    pub source: String,
    /// The sets that need it.
    pub sets: BTreeSet<String>,
}

impl Package {
    /// `name_version_architecture.deb`, with the epoch's colon escaped as apt does.
    pub fn file_name(&self) -> String {
        format!("{}_{}_{}.deb", self.name, self.version.replace(':', "%3a"), self.architecture)
    }

    fn key(&self) -> (&str, &str, &str) {
        (&self.name, &self.architecture, &self.version)
    }
}

impl Lock {
    /// Reads and checks the lock at `path`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!(
                "Failed to read the lock {}. `cargo xtask lock` makes it, `git checkout` restores it",
                path.display()
            )
        })?;
        Self::parse(&text).with_context(|| {
            format!(
                "{} is not a lock that this version can use. Undo the edit (`git checkout`) or resolve anew (`cargo xtask lock --update`)",
                path.display()
            )
        })
    }

    /// Parses the text of a lock.
    pub fn parse(text: &str) -> Result<Self> {
        let lock: Self = toml::from_str(text)?;
        ensure!(lock.version == VERSION, "the lock has version {}, version {VERSION} is understood", lock.version);
        for pair in lock.packages.windows(2) {
            ensure!(
                pair[0].key() < pair[1].key(),
                "package {} {} stands twice or out of order",
                pair[1].name,
                pair[1].version
            );
        }
        for package in &lock.packages {
            lock.check_package(package)?;
        }
        Ok(lock)
    }

    fn check_package(&self, package: &Package) -> Result<()> {
        let name = &package.name;
        let safe = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.~:_".contains(&b))
                && text != ".."
        };
        for field in [name, &package.version, &package.architecture] {
            ensure!(safe(field), "package {name:?}: {field:?} is not a name, version or architecture of Debian");
        }
        if !package.path.starts_with("pool/") || package.path.split('/').any(|part| !safe(part) || part == ".") {
            bail!("package {name}: the path {:?} is not below pool/", package.path);
        }
        ensure!(
            self.suites.iter().any(|suite| suite.name == package.suite),
            "package {name} is from suite {:?}, which the header does not list",
            package.suite
        );
        ensure!(!package.sets.is_empty(), "package {name} belongs to no set");
        Ok(())
    }

    /// The packages of one set, in the lock's order.
    pub fn set<'a>(&'a self, set: &'a str) -> impl Iterator<Item = &'a Package> {
        self.packages.iter().filter(move |package| package.sets.contains(set))
    }

    /// The archive that carries `package`.
    pub fn archive(&self, package: &Package) -> Result<Archive> {
        self.suites
            .iter()
            .find(|suite| suite.name == package.suite)
            .map(|suite| suite.archive)
            .with_context(|| format!("The lock lists no suite {}", package.suite))
    }

    /// The date of the newest index, in seconds since 1970: every time stamp in an image.
    pub fn source_date(&self) -> Result<u64> {
        let mut newest = 0;
        for suite in &self.suites {
            let date = crate::time::parse_rfc3339(&suite.date)
                .with_context(|| format!("The lock's suite {} has no usable date", suite.name))?;
            newest = newest.max(date);
        }
        ensure!(newest > 0, "The lock lists no suite: run `cargo xtask lock --update`");
        Ok(newest)
    }

    /// The text of the file.
    pub fn render(&self) -> String {
        let mut text = String::from(
            "# Every package that a build touches. Written by `cargo xtask lock`; `--update [PACKAGE...]` moves versions.\n",
        );
        let _ = writeln!(text, "version = {}\ninputs = \"{}\"", self.version, self.inputs);
        for suite in &self.suites {
            let signers: Vec<String> = suite.signers.iter().map(|key| format!("\"{key}\"")).collect();
            let _ = write!(
                text,
                "\n[[suite]]\nname = \"{}\"\narchive = \"{}\"\ndate = \"{}\"\nsha256 = \"{}\"\nsigners = [{}]\n",
                suite.name,
                suite.archive.name(),
                suite.date,
                suite.sha256,
                signers.join(", ")
            );
        }
        for package in &self.packages {
            let sets: Vec<String> = package.sets.iter().map(|set| format!("\"{set}\"")).collect();
            let _ = write!(
                text,
                "\n[[package]]\nname = \"{}\"\nversion = \"{}\"\narchitecture = \"{}\"\nsuite = \"{}\"\npath = \"{}\"\nsize = {}\nsha256 = \"{}\"\nsource = \"{}\"\nsets = [{}]\n",
                package.name,
                package.version,
                package.architecture,
                package.suite,
                package.path,
                package.size,
                package.sha256,
                package.source,
                sets.join(", ")
            );
        }
        text
    }

    /// Digest of the rendered text: names the lock in `image.json`.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(self.render().as_bytes())
    }

    /// Keeps the index of `old` for each suite of which no package is another one: a newer index that says the same moves nothing, least of all every time stamp in the images.
    pub fn keep_indexes_of(&mut self, old: &Lock) {
        let files = |lock: &Lock, suite: &str| -> BTreeSet<(String, Sha256Digest)> {
            let of_suite = lock.packages.iter().filter(|package| package.suite == suite);
            of_suite.map(|package| (package.path.clone(), package.sha256)).collect()
        };
        let packages = self.clone();
        for suite in &mut self.suites {
            let known = old.suites.iter().find(|known| known.name == suite.name);
            if let Some(known) = known.filter(|_| files(&packages, &suite.name).is_subset(&files(old, &suite.name))) {
                *suite = known.clone();
            }
        }
    }

    /// Lines `name old -> new` for what differs from `old`, sorted by name.
    pub fn changes_since(&self, old: &Lock) -> Vec<String> {
        let versions = |lock: &Lock| -> BTreeSet<(String, String)> {
            lock.packages.iter().map(|p| (p.name.clone(), format!("{} ({})", p.version, p.suite))).collect()
        };
        let (before, after) = (versions(old), versions(self));
        let names: BTreeSet<&String> = before.symmetric_difference(&after).map(|(name, _)| name).collect();
        let describe = |set: &BTreeSet<(String, String)>, name: &String| {
            let found: Vec<&str> = set.iter().filter(|(n, _)| n == name).map(|(_, version)| version.as_str()).collect();
            if found.is_empty() { "-".to_owned() } else { found.join(", ") }
        };
        names
            .into_iter()
            .map(|name| format!("{name}: {} -> {}", describe(&before, name), describe(&after, name)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Lock {
        let package = |name: &str, version: &str| Package {
            name: name.into(),
            version: version.into(),
            architecture: "amd64".into(),
            suite: "trixie".into(),
            path: format!("pool/main/a/{name}/{name}_1_amd64.deb"),
            size: 12,
            sha256: Sha256Digest::of(name.as_bytes()),
            source: "acl 2.3-1".into(),
            sets: BTreeSet::from(["root".into()]),
        };
        Lock {
            version: VERSION,
            inputs: Sha256Digest::of(b"sets"),
            suites: vec![Suite {
                name: "trixie".into(),
                archive: Archive::Debian,
                date: "2026-01-02T03:04:05Z".into(),
                sha256: Sha256Digest::of(b"InRelease"),
                signers: vec!["ABCD".into()],
            }],
            packages: vec![package("acl", "1:2.3-1"), package("bash", "5.2-1")],
        }
    }

    #[test]
    fn a_lock_reads_back_as_it_was_written() {
        let lock = sample();
        let text = lock.render();
        assert_eq!(Lock::parse(&text).unwrap(), lock);
        assert_eq!(Lock::parse(&text).unwrap().render(), text);
    }

    #[test]
    fn a_lock_edited_by_hand_is_refused_with_the_reason() {
        let good = sample().render();
        for (edit, with, reason) in [
            ("version = 1\n", "version = 9\n", "version 1 is understood"),
            ("name = \"bash\"", "name = \"aardvark\"", "out of order"),
            ("path = \"pool/main/a/acl/", "path = \"pool/../../etc/", "not below pool/"),
            ("path = \"pool/main/a/acl/", "path = \"/etc/", "not below pool/"),
            (
                "suite = \"trixie\"\npath = \"pool/main/a/acl",
                "suite = \"sid\"\npath = \"pool/main/a/acl",
                "does not list",
            ),
            ("sets = [\"root\"]", "sets = []", "no set"),
            ("size = 12", "size = 12\ncolour = 3", "unknown field"),
            ("version = \"1:2.3-1\"", "version = \"1;rm\"", "not a name, version"),
        ] {
            assert!(good.contains(edit), "the sample lacks {edit}");
            let error = format!("{:#}", Lock::parse(&good.replacen(edit, with, 1)).unwrap_err());
            assert!(error.contains(reason), "{with}: {error}");
        }
    }

    #[test]
    fn changes_name_old_and_new_version() {
        let old = sample();
        let mut new = old.clone();
        new.packages[1].version = "5.3-1".into();
        new.packages.remove(0);
        assert_eq!(new.changes_since(&old), ["acl: 1:2.3-1 (trixie) -> -", "bash: 5.2-1 (trixie) -> 5.3-1 (trixie)"]);
        assert!(old.changes_since(&old).is_empty());
    }

    #[test]
    fn an_index_that_moves_no_package_stays_and_so_do_all_time_stamps() {
        let (old, mut new) = (sample(), sample());
        let later = |lock: &mut Lock| {
            lock.suites[0].date = "2026-02-03T04:05:06Z".into();
            lock.suites[0].sha256 = Sha256Digest::of(b"a later InRelease");
        };
        later(&mut new);
        // A package that goes is in the old index, too.
        new.packages.pop();
        new.keep_indexes_of(&old);
        assert_eq!(new.suites, old.suites);
        let mut moved = sample();
        later(&mut moved);
        moved.packages[1].sha256 = Sha256Digest::of(b"another file");
        moved.keep_indexes_of(&old);
        assert_ne!(moved.suites, old.suites);
    }

    #[test]
    fn the_source_date_is_the_newest_index() {
        assert_eq!(sample().source_date().unwrap(), 1_767_323_045);
    }
}
