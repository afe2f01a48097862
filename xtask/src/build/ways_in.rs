//! The check that a finished root has no way in, and nothing that nobody foresaw: os/tree.toml's `allow` is the whole
//! truth about generators, enabled and masked units, setuid and world-writable files.
//!
//! Each rule gives a finding in words; any finding fails the build. The debug profile is excused from the rules that its
//! purpose breaks: root's password and the serial console.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result, bail};
use cairn_image::tree::{Kind, Tree};

use crate::config::profile::ProfileConfig;
use crate::config::tree::Allow;

/// Folders that systemd reads units from.
pub(super) const UNIT_FOLDERS: [&str; 4] =
    ["etc/systemd/system", "usr/lib/systemd/system", "usr/local/lib/systemd/system", "run/systemd/system"];
/// Folders that systemd runs generators from.
const GENERATOR_FOLDERS: [&str; 10] = [
    "etc/systemd/system-environment-generators",
    "etc/systemd/user-environment-generators",
    "etc/systemd/system-generators",
    "etc/systemd/user-generators",
    "usr/lib/systemd/system-generators",
    "usr/lib/systemd/user-generators",
    "usr/lib/systemd/system-environment-generators",
    "usr/lib/systemd/user-environment-generators",
    "usr/local/lib/systemd/system-generators",
    "usr/local/lib/systemd/user-generators",
];
/// Programs that let somebody in from outside or from the console.
const SERVERS: [&str; 8] =
    ["sshd", "dropbear", "telnetd", "in.telnetd", "rlogind", "login.socket", "vsftpd", "tinysshd"];

/// A rule that a tree breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// An account can be logged in to.
    Password,
    /// More than one account is root.
    SecondRoot,
    /// A login server is installed.
    Server,
    /// A unit that must be masked is not.
    Unmasked,
    /// A unit is enabled that nobody listed.
    UnexpectedUnit,
    /// A generator is there that nobody listed.
    Generator,
    /// The emergency or rescue system would start a shell.
    EmergencyShell,
    /// A unit talks to whoever is at a terminal.
    Terminal,
    /// Keys that let somebody in.
    AuthorizedKeys,
    /// A setuid or setgid file that nobody listed.
    Setuid,
    /// A file capability.
    Capability,
    /// A world-writable file or folder that nobody listed.
    WorldWritable,
    /// Something that must be there is not.
    Missing,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// The path or unit.
    pub what: String,
    /// What to do.
    pub advice: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}: {}", self.rule, self.what, self.advice)
    }
}

/// Fails with all findings.
pub fn check(tree: &Tree, allow: &Allow, profile: &ProfileConfig) -> Result<()> {
    let findings = find(tree, allow, profile)?;
    if findings.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    bail!("The root has what an image must not have ({} findings):\n  {}", findings.len(), lines.join("\n  "))
}

/// All findings, sorted.
pub fn find(tree: &Tree, allow: &Allow, profile: &ProfileConfig) -> Result<Vec<Finding>> {
    let mut found = BTreeSet::new();
    let mut add = |rule, what: String, advice| {
        found.insert(Finding { rule, what, advice });
    };
    accounts(tree, profile, &mut add)?;
    units(tree, allow, profile, &mut add);
    shells(tree, &mut add)?;
    terminals(tree, allow, profile, &mut add)?;
    files(tree, allow, &mut add);
    Ok(found.into_iter().collect())
}

type Add<'a> = &'a mut dyn FnMut(Rule, String, &'static str);

fn accounts(tree: &Tree, profile: &ProfileConfig, add: Add) -> Result<()> {
    let passwd = text(tree, "etc/passwd")?.context("The root has no /etc/passwd")?;
    let shadow = text(tree, "etc/shadow")?.context("The root has no /etc/shadow")?;
    for line in passwd.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if fields.len() != 7 || fields[1] != "x" {
            add(Rule::Password, format!("/etc/passwd: {line:?}"), "seven fields are expected, and `x` in the second");
        } else if fields[2] == "0" && fields[0] != "root" {
            add(Rule::SecondRoot, format!("/etc/passwd: {}", fields[0]), "only root may have user id 0");
        }
    }
    for line in shadow.lines() {
        let mut fields = line.split(':');
        let (name, password) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let excused = profile.debug && name == "root";
        if !password.starts_with(['!', '*']) && !excused {
            add(
                Rule::Password,
                format!("/etc/shadow: {name}"),
                "lock the account: its second field must begin with ! or *",
            );
        }
    }
    Ok(())
}

fn units(tree: &Tree, allow: &Allow, profile: &ProfileConfig, add: Add) {
    let allowed: BTreeSet<&str> = allow.units.iter().chain(&profile.units).map(String::as_str).collect();
    for folder in UNIT_FOLDERS {
        for target in tree
            .names(folder)
            .filter(|name| name.ends_with(".wants") || name.ends_with(".requires") || name.ends_with(".upholds"))
        {
            for unit in tree.names(&format!("{folder}/{target}")) {
                if !allowed.contains(unit) {
                    let advice = "list it in `units` of os/tree.toml if it is wanted, else in `drop`";
                    add(Rule::UnexpectedUnit, format!("/{folder}/{target}/{unit}"), advice);
                }
            }
        }
    }
    for unit in &allow.masked {
        let excused = profile.debug && profile.units.iter().any(|own| own == unit || template_of(own) == *unit);
        let defined = UNIT_FOLDERS.iter().any(|folder| tree.get(&format!("{folder}/{unit}")).is_some());
        let masked = matches!(
            tree.get(&format!("etc/systemd/system/{unit}")).map(|entry| &entry.kind),
            Some(Kind::Symlink(target)) if target == "/dev/null"
        );
        if defined && !masked && !excused {
            add(Rule::Unmasked, unit.clone(), "link it to /dev/null in os/root/etc/systemd/system");
        }
    }
    for folder in GENERATOR_FOLDERS {
        for generator in tree.names(folder).filter(|name| !allow.generators.iter().any(|allowed| allowed == name)) {
            add(Rule::Generator, format!("/{folder}/{generator}"), "add it to `drop` in os/tree.toml");
        }
    }
}

/// `serial-getty@.service` of `serial-getty@ttyS0.service`.
pub(super) fn template_of(unit: &str) -> String {
    match (unit.find('@'), unit.rfind('.')) {
        (Some(at), Some(dot)) if at < dot => format!("{}{}", &unit[..=at], &unit[dot..]),
        _ => unit.to_owned(),
    }
}

/// The emergency and rescue units must be ours, and must not start a shell.
fn shells(tree: &Tree, add: Add) -> Result<()> {
    for name in ["emergency", "rescue"] {
        let path = format!("etc/systemd/system/{name}.service");
        let safe = text(tree, &path)?.is_some_and(|unit| {
            unit.contains("SuccessAction=poweroff-force")
                && !unit.contains("sulogin")
                && !unit.contains("/bin/sh")
                && !unit.contains("bash")
        });
        if !safe {
            add(Rule::EmergencyShell, format!("/{path}"), "it must power the machine off and start no shell");
        }
    }
    Ok(())
}

/// A unit that reads from a terminal must be masked: nobody at a console is asked, or answered.
fn terminals(tree: &Tree, allow: &Allow, profile: &ProfileConfig, add: Add) -> Result<()> {
    for folder in UNIT_FOLDERS {
        for unit in tree.names(folder).filter(|name| name.ends_with(".service")) {
            let path = format!("{folder}/{unit}");
            let reads = text(tree, &path)?.is_some_and(|text| {
                text.lines().any(|line| line.trim_start().starts_with("StandardInput=tty"))
                    || text.lines().any(|line| line.contains("/bin/sh -i"))
            });
            let is_replaced = folder != UNIT_FOLDERS[0] && tree.get(&format!("{}/{unit}", UNIT_FOLDERS[0])).is_some();
            let excused = profile.debug || is_replaced || allow.masked.iter().any(|masked| masked == unit);
            if reads && !excused {
                add(Rule::Terminal, format!("/{path}"), "mask it, and list it in `masked` of os/tree.toml");
            }
        }
    }
    Ok(())
}

fn files(tree: &Tree, allow: &Allow, add: Add) {
    for (path, entry) in tree.iter() {
        let listed = |list: &[String]| list.iter().any(|allowed| allowed == path);
        let name = path.rsplit('/').next().unwrap_or(path);
        let program = path.starts_with("usr/sbin/") || path.starts_with("usr/bin/") || path.starts_with("usr/libexec/");
        if program && SERVERS.contains(&name) {
            add(Rule::Server, format!("/{path}"), "remove the package that brings it");
        }
        if name.starts_with("authorized_keys") {
            add(Rule::AuthorizedKeys, format!("/{path}"), "remove it: nobody logs in");
        }
        if matches!(entry.kind, Kind::Symlink(_)) {
            continue;
        }
        if entry.mode & 0o6000 != 0 && !listed(&allow.setuid) {
            add(Rule::Setuid, format!("/{path}"), "drop it or give it another mode in os/tree.toml");
        }
        if entry.mode & 0o002 != 0
            && !(listed(&allow.world_writable) && entry.is_directory() && entry.mode & 0o1000 != 0)
        {
            add(Rule::WorldWritable, format!("/{path}"), "give it another mode in os/tree.toml");
        }
        if entry.capability.is_some() && !listed(&allow.setuid) {
            add(
                Rule::Capability,
                format!("/{path}"),
                "a file capability is like setuid: drop it, or list it in `setuid`",
            );
        }
    }
    for path in &allow.required {
        if tree.get(path).is_none() {
            add(Rule::Missing, format!("/{path}"), "add the package that brings it to mkosi.conf");
        }
    }
}

fn text(tree: &Tree, path: &str) -> Result<Option<String>> {
    let Some(Kind::File { content, .. }) = tree.get(path).map(|entry| &entry.kind) else { return Ok(None) };
    let bytes = content.read().with_context(|| format!("Failed to read /{path}"))?;
    Ok(Some(String::from_utf8(bytes).with_context(|| format!("/{path} is not UTF-8"))?))
}

#[cfg(test)]
mod tests {
    use cairn_image::tree::Entry;

    use super::*;

    const EMERGENCY: &str = "[Unit]\nSuccessAction=poweroff-force\n[Service]\nExecStart=/usr/bin/echo";

    fn allow() -> Allow {
        let list = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        Allow {
            generators: vec![],
            setuid: vec![],
            world_writable: list(&["tmp"]),
            units: list(&["good.service"]),
            masked: list(&["getty@.service", "debug-shell.service"]),
            required: list(&["usr/lib/systemd/systemd"]),
        }
    }

    fn put(tree: &mut Tree, path: &str, entry: Entry) {
        let mut at = String::new();
        for part in path.rsplit_once('/').map_or("", |(parent, _)| parent).split('/').filter(|part| !part.is_empty()) {
            at = if at.is_empty() { part.to_owned() } else { format!("{at}/{part}") };
            tree.insert(&at, Entry::directory(0o755)).unwrap();
        }
        tree.insert(path, entry).unwrap();
    }

    fn clean() -> Tree {
        let mut tree = Tree::new();
        for (path, entry) in [
            ("etc/passwd", Entry::file("root:x:0:0:root:/root:/usr/sbin/nologin\n", 0o644)),
            ("etc/shadow", Entry::file("root:!*:1::::::\n", 0o640)),
            ("etc/systemd/system/emergency.service", Entry::file(EMERGENCY, 0o644)),
            ("etc/systemd/system/rescue.service", Entry::file(EMERGENCY, 0o644)),
            ("etc/systemd/system/getty@.service", Entry::symlink("/dev/null")),
            ("usr/lib/systemd/system/getty@.service", Entry::file("x", 0o644)),
            ("usr/lib/systemd/system/a.target.wants/good.service", Entry::symlink("../good.service")),
            ("usr/lib/systemd/systemd", Entry::file("x", 0o755)),
            ("tmp", Entry::directory(0o1777)),
        ] {
            put(&mut tree, path, entry);
        }
        tree
    }

    #[test]
    fn a_clean_root_has_no_finding() {
        assert_eq!(find(&clean(), &allow(), &ProfileConfig::default()).unwrap(), []);
        check(&clean(), &allow(), &ProfileConfig::default()).unwrap();
    }

    #[test]
    fn each_rule_can_fail() {
        let setuid = Entry::file("x", 0o4755);
        let capable = Entry { capability: Some(vec![1]), ..Entry::file("x", 0o755) };
        let passwd = |line: &str| Entry::file(format!("root:x:0:0:root:/root:/usr/sbin/nologin\n{line}\n"), 0o644);
        for (path, entry, rule) in [
            ("etc/shadow", Entry::file("root::1::::::\n", 0o640), Rule::Password),
            ("etc/shadow", Entry::file("root:$y$hash:1::::::\n", 0o640), Rule::Password),
            ("etc/passwd", passwd("evil::1000:1000::/:/bin/sh"), Rule::Password),
            ("etc/passwd", passwd("toor:x:0:0::/:/bin/sh"), Rule::SecondRoot),
            ("usr/sbin/sshd", Entry::file("x", 0o755), Rule::Server),
            ("usr/lib/systemd/system/debug-shell.service", Entry::file("x", 0o644), Rule::Unmasked),
            ("etc/systemd/system/getty@.service", Entry::symlink("/usr/lib/x"), Rule::Unmasked),
            ("etc/systemd/system/b.target.wants/evil.service", Entry::symlink("x"), Rule::UnexpectedUnit),
            ("etc/systemd/system/b.service.requires/evil.service", Entry::symlink("x"), Rule::UnexpectedUnit),
            ("usr/lib/systemd/system-generators/evil", Entry::file("x", 0o755), Rule::Generator),
            (
                "etc/systemd/system/emergency.service",
                Entry::file("ExecStart=/usr/sbin/sulogin", 0o644),
                Rule::EmergencyShell,
            ),
            (
                "etc/systemd/system/rescue.service",
                Entry::file(format!("{EMERGENCY} bash"), 0o644),
                Rule::EmergencyShell,
            ),
            (
                "usr/lib/systemd/system/talks.service",
                Entry::file("[Service]\nExecStart=/usr/bin/x\nStandardInput=tty-force\n", 0o644),
                Rule::Terminal,
            ),
            (
                "etc/systemd/system/shell.service",
                Entry::file("[Service]\nExecStart=/bin/sh -i\n", 0o644),
                Rule::Terminal,
            ),
            ("root/.ssh/authorized_keys", Entry::file("", 0o600), Rule::AuthorizedKeys),
            ("etc/ssh/authorized_keys.d", Entry::directory(0o755), Rule::AuthorizedKeys),
            ("usr/bin/su", setuid, Rule::Setuid),
            ("usr/bin/wall", Entry::file("x", 0o2755), Rule::Setuid),
            ("usr/bin/ping", capable, Rule::Capability),
            ("usr/share/open", Entry::file("x", 0o666), Rule::WorldWritable),
            ("tmp", Entry::directory(0o777), Rule::WorldWritable),
        ] {
            let mut tree = clean();
            put(&mut tree, path, entry);
            let found = find(&tree, &allow(), &ProfileConfig::default()).unwrap();
            assert_eq!(found.iter().map(|finding| finding.rule).collect::<Vec<_>>(), [rule], "{path}: {found:?}");
        }
        let mut tree = clean();
        tree.remove("usr/lib/systemd/systemd");
        assert_eq!(find(&tree, &allow(), &ProfileConfig::default()).unwrap()[0].rule, Rule::Missing);
    }

    #[test]
    fn the_debug_profile_is_excused_for_its_login_and_for_nothing_else() {
        let debug =
            ProfileConfig { debug: true, units: vec!["getty@ttyS0.service".into()], ..ProfileConfig::default() };
        let mut tree = clean();
        put(&mut tree, "etc/shadow", Entry::file("root::1::::::\n", 0o640));
        put(&mut tree, "etc/systemd/system/getty@.service", Entry::symlink("/usr/lib/systemd/system/getty@.service"));
        put(&mut tree, "etc/systemd/system/a.target.wants/getty@ttyS0.service", Entry::symlink("x"));
        assert_eq!(find(&tree, &allow(), &debug).unwrap(), []);
        put(&mut tree, "etc/shadow", Entry::file("root::1::::::\nother::1::::::\n", 0o640));
        put(&mut tree, "usr/lib/systemd/system/debug-shell.service", Entry::file("x", 0o644));
        let rules: Vec<Rule> = find(&tree, &allow(), &debug).unwrap().iter().map(|finding| finding.rule).collect();
        assert_eq!(rules, [Rule::Password, Rule::Unmasked]);
    }
}
