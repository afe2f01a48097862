//! What the finished root can do on its own: services that are started on request, rules of udev, drop-ins, temporary files, hooks. `os/activation.toml` lists all of it, and the build fails where tree and list differ, in either direction.

mod execution;
mod text;
mod udev;
mod units;

#[cfg(test)]
mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, bail};
use cairn_image::tree::{Entry, Kind, Tree};
use serde::Deserialize;

use crate::config::read_toml;

/// One kind of activation.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kinds {
    /// Folders in which everything counts, with all below them. `*` is anything within one name.
    folders: Vec<String>,
    /// Only names that end so; all if none is named.
    #[serde(default)]
    endings: Vec<String>,
    /// Everything that may be there, as paths; a link as `path -> target`.
    files: BTreeSet<String>,
}

/// `os/activation.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activation {
    /// What rules of udev start, load, import, or write to the kernel.
    udev: BTreeSet<String>,
    /// Units that can start.
    units: BTreeSet<String>,
    /// Kinds by their names.
    kinds: BTreeMap<String, Kinds>,
    /// Units of a profile, which may start and be enabled.
    #[serde(skip)]
    own_units: BTreeSet<String>,
}

/// Kind of units that can start.
const UNITS: &str = "units";
/// Kind of files below `etc/systemd/system`, as the list names it.
const UNITS_OF_ETC: &str = "units_of_etc";

impl Activation {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self> {
        read_toml(path)
    }

    /// With the units of a profile: each may start, be enabled, and be defined below `etc/systemd/system`.
    #[must_use]
    pub fn with_units(self, units: &[String]) -> Self {
        Self { own_units: units.iter().cloned().collect(), ..self }
    }

    fn is_own(&self, kind: &str, entry: &str) -> bool {
        let path = entry.split(" -> ").next().unwrap_or(entry);
        match kind {
            UNITS => self.own_units.contains(entry),
            UNITS_OF_ETC => path.rsplit('/').next().is_some_and(|name| self.own_units.contains(name)),
            _ => false,
        }
    }

    /// Fails with everything that differs. `more` are entries that a profile adds: each must be there, too.
    pub fn check(&self, tree: &Tree, more: &BTreeSet<String>) -> Result<()> {
        let differences = self.differences(tree, more)?;
        if differences.is_empty() {
            return Ok(());
        }
        bail!(
            "os/activation.toml does not say what the root can do on its own ({} differences); drop it in os/tree.toml, or list it there, or in `activation` of the profile that brings it:\n  {}",
            differences.len(),
            differences.join("\n  ")
        )
    }

    fn differences(&self, tree: &Tree, more: &BTreeSet<String>) -> Result<Vec<String>> {
        let mut differences = Vec::new();
        let mut unused = more.clone();
        let mut compare = |kind: &str, found: &BTreeMap<String, String>, listed: &BTreeSet<String>| {
            for (entry, reason) in found.iter().filter(|(entry, _)| !listed.contains(*entry)) {
                unused.remove(entry);
                if !more.contains(entry) && !self.is_own(kind, entry) {
                    let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
                    differences.push(format!("{kind}: {entry:?} is not listed{reason}"));
                }
            }
            let absent = listed.iter().filter(|entry| !found.contains_key(*entry));
            differences.extend(absent.map(|entry| format!("{kind}: {entry:?} is listed and not there")));
        };
        let without_reason = |found: BTreeSet<String>| found.into_iter().map(|entry| (entry, String::new())).collect();
        for (name, kind) in &self.kinds {
            compare(name, &without_reason(kind.found(tree)), &kind.files);
        }
        compare("udev", &without_reason(udev::found(tree)?), &self.udev);
        compare(UNITS, &units::found(tree)?, &self.units);
        differences.extend(execution::found(tree)?);
        differences.extend(unused.iter().map(|entry| format!("profile.toml: {entry:?} is listed and not there")));
        let forbidden = modprobe_commands(tree)?.into_iter();
        differences.extend(
            forbidden.map(|line| format!("modprobe_commands: {line:?} is not listed and cannot be: remove it")),
        );
        Ok(differences)
    }
}

impl Kinds {
    fn found(&self, tree: &Tree) -> BTreeSet<String> {
        let ends = |path: &str| self.endings.is_empty() || self.endings.iter().any(|ending| path.ends_with(ending));
        let is_in = |path: &str| self.folders.iter().any(|folder| is_below(folder, path)) && ends(path);
        tree.iter().filter(|(path, _)| is_in(path)).filter_map(|(path, entry)| name_of(path, entry)).collect()
    }
}

/// What an entry is called in the list. A link to `/dev/null` masks something: it activates nothing, and `masked` of `os/tree.toml` says where it must be.
fn name_of(path: &str, entry: &Entry) -> Option<String> {
    match &entry.kind {
        Kind::Directory => None,
        Kind::File { .. } => Some(path.to_owned()),
        Kind::Symlink(target) if target == "/dev/null" => None,
        Kind::Symlink(target) => Some(format!("{path} -> {target}")),
    }
}

/// Whether a path is a folder's, or below it.
fn is_below(folder: &str, path: &str) -> bool {
    let (mut parts, mut names) = (folder.split('/'), path.split('/'));
    loop {
        match (parts.next(), names.next()) {
            (None, _) => return true,
            (Some(_), None) => return false,
            (Some(part), Some(name)) => {
                let is_match = match part.split_once('*') {
                    Some((start, end)) => {
                        name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
                    }
                    None => part == name,
                };
                if !is_match {
                    return false;
                }
            }
        }
    }
}

/// Lines of modprobe.d(5) that run a command where a module would be loaded or removed.
fn modprobe_commands(tree: &Tree) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for (path, entry) in tree.iter().filter(|(path, _)| path.contains("modprobe.d/")) {
        let is_command = |line: &String| matches!(line.split_whitespace().next(), Some("install" | "remove"));
        let lines = text::joined_lines(&text::read(tree, path, entry)?);
        found.extend(lines.into_iter().filter(is_command).map(|line| format!("/{path}: {line}")));
    }
    Ok(found)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Files by path and text; `-> x` is a link to `x`.
    pub fn tree(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::new();
        for (path, text) in files {
            let mut at = String::new();
            for part in path.rsplit_once('/').map_or("", |(parent, _)| parent).split('/') {
                at = if at.is_empty() { part.to_owned() } else { format!("{at}/{part}") };
                if at.is_empty() {
                    continue;
                }
                tree.insert(&at, Entry::directory(0o755)).unwrap();
            }
            let entry = text.strip_prefix("-> ").map_or_else(|| Entry::file(*text, 0o644), Entry::symlink);
            tree.insert(path, entry).unwrap();
        }
        tree
    }

    fn activation() -> Activation {
        let text = r#"
            udev = ["/usr/bin/good", "builtin kmod"]
            units = []
            [kinds.dbus]
            folders = ["usr/share/dbus-1/system-services"]
            files = ["usr/share/dbus-1/system-services/good.service"]
            [kinds.drop_ins]
            folders = ["etc/systemd/system/*.d", "usr/lib/systemd/system/*.d"]
            endings = [".conf"]
            files = []
            [kinds.network]
            folders = ["etc/systemd/network", "usr/lib/systemd/network"]
            files = []
            [kinds.name_services]
            folders = ["etc/nsswitch.conf", "usr/lib/*/libnss_*"]
            files = []
        "#;
        toml::from_str(text).unwrap()
    }

    const GOOD: [(&str, &str); 3] = [
        ("usr/share/dbus-1/system-services/good.service", "x"),
        (
            "usr/lib/udev/rules.d/50.rules",
            "# RUN+=\"/bin/comment\"\nACTION==\"add\", RUN+=\"/usr/bin/good a\", RUN{builtin}+=\"kmod load x\"\n",
        ),
        (
            "usr/lib/modprobe.d/50.conf",
            "# install x /bin/comment\nblacklist install\noptions remove a=1\nalias x install\n",
        ),
    ];

    #[test]
    fn what_is_listed_passes_and_each_difference_is_named() {
        let nothing = BTreeSet::new();
        activation().check(&tree(&GOOD), &nothing).unwrap();
        for (path, text, words) in [
            ("usr/share/dbus-1/system-services/evil.service", "x", "dbus"),
            ("usr/lib/systemd/system/good.service.d/evil.conf", "x", "drop_ins"),
            ("etc/systemd/system/x.d/evil.conf", "x", "drop_ins"),
            ("etc/systemd/network/1.network", "x", "network"),
            ("usr/lib/systemd/network/1.link", "x", "network"),
            ("usr/lib/systemd/network/1.network.d/evil.conf", "x", "network"),
            ("etc/nsswitch.conf", "hosts: evil", "name_services"),
            ("usr/lib/x86_64-linux-gnu/libnss_evil.so.2", "x", "name_services"),
            ("etc/modprobe.d/1.conf", "install x /bin/evil", "modprobe_commands: \"/etc/modprobe.d/1.conf: install x"),
            ("usr/lib/modprobe.d/50.conf", "alias a b\n \tremove\tx /bin/evil", "modprobe_commands"),
            ("usr/lib/modprobe.d/50.conf", "install\\\n  x /bin/evil", "modprobe_commands"),
            ("etc/udev/rules.d/1.rules", "SUBSYSTEM==\"block\", RUN+=\"/dev/vda\"", "udev: \"/dev/vda\""),
            ("etc/udev/rules.d/1.rules", "IMPORT{program}=\"evil x\"", "udev: \"evil\""),
            ("etc/udev/rules.d/1.rules", "A==\"b\", \\\n  PROGRAM==\"evil x\"", "udev: \"evil\""),
            ("etc/udev/rules.d/1.rules", "IMPORT{builtin}=\"evil x\"", "udev: \"builtin evil\""),
            ("etc/udev/rules.d/1.rules", "# comment \\\nRUN+=\"/bin/evil\"", "udev: \"/bin/evil\""),
            ("etc/udev/rules.d/1.rules", "RU\\\n  N+=\"/bin/evil\"", "udev: \"/bin/evil\""),
            ("etc/systemd/network/1.network", "-> /run/1.network", "1.network -> /run/1.network\" is not listed"),
            ("usr/lib/systemd/system/default.target", "x", "units: \"default.target\" is not listed (by its name)"),
        ] {
            let changed = tree(&[&GOOD[..], &[(path, text)]].concat());
            let error = format!("{:#}", activation().check(&changed, &nothing).unwrap_err());
            assert!(error.contains(words) && error.contains("is not listed"), "{path}: {error}");
        }
        let error = activation().check(&tree(&GOOD[1..]), &nothing).unwrap_err().to_string();
        assert!(error.contains("is listed and not there"), "{error}");
        // A profile adds its own.
        let own = tree(&[&GOOD[..], &[("usr/share/dbus-1/system-services/own.service", "x")]].concat());
        let more = BTreeSet::from(["usr/share/dbus-1/system-services/own.service".into()]);
        activation().check(&own, &more).unwrap();
        let error = activation().check(&tree(&GOOD), &more).unwrap_err().to_string();
        assert!(error.contains("profile.toml: ") && error.contains("is listed and not there"), "{error}");
        // So do its units.
        let enabled = [
            ("etc/systemd/system/multi-user.target.wants/own.service", "-> /usr/lib/systemd/system/own.service"),
            ("usr/lib/systemd/system/own.service", "x"),
            ("usr/lib/systemd/system/default.target", "x"),
            ("usr/lib/systemd/system/multi-user.target", "x"),
        ];
        let enabled = tree(&[&GOOD[..], &enabled].concat());
        let named = |activation: Activation| activation.differences(&enabled, &nothing).unwrap().join("\n");
        let text = "[kinds.units_of_etc]\nfolders = [\"etc/systemd/system\"]\nfiles = []";
        let of_etc: BTreeMap<String, BTreeMap<String, Kinds>> = toml::from_str(text).unwrap();
        let all = || Activation { kinds: of_etc["kinds"].clone(), ..activation() };
        assert!(named(all()).contains("own.service"), "{}", named(all()));
        let mine = all().with_units(&["own.service".into()]);
        assert!(!named(mine.clone()).contains("own.service"), "{}", named(mine));
        let another = all().with_units(&["other.service".into()]);
        assert!(named(another).contains("units_of_etc: \"etc/systemd/system/multi-user.target.wants/own.service"));
        // A mask activates nothing.
        let masked = tree(&[&GOOD[..], &[("etc/systemd/network/1.network", "-> /dev/null")]].concat());
        activation().check(&masked, &nothing).unwrap();
    }
}
