//! The host's apt, kept in a private state folder: it fetches and verifies the archive's indexes and resolves
//! dependencies. Nothing of the host's own package state is read or changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::Archive;
use crate::mirror::Mirrors;

/// Keyring of the archive as the package `debian-archive-keyring` installs it.
pub const KEYRINGS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];

/// Whether apt refuses indexes that are past their `Valid-Until`, or from the future. Hosts whose mirror is a snapshot turn it off; signatures are checked all the same, and no index may be older than the lock's.
const AGE: [&str; 2] = ["Acquire::Check-Valid-Until", "Acquire::Check-Date"];

/// As apt reads a switch (`StringToBool`).
fn is_off(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "no" | "false" | "without" | "off" | "disable" | "0")
}

/// A suite to resolve in, and the archive that carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Name below `dists/`.
    pub suite: String,
    /// The archive.
    pub archive: Archive,
    /// Base address of the mirror in use.
    pub base: String,
}

/// A private apt.
pub struct Apt {
    folder: PathBuf,
    sources: Vec<Source>,
}

/// A package file as apt's solver chose it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chosen {
    /// Address of the file.
    pub uri: String,
    /// `name_version_architecture.deb`, epoch escaped.
    pub file_name: String,
}

impl Apt {
    /// Makes the state below `folder` and fetches the indexes of `suite` and, in the same archive family, its security
    /// suite if `security` says so. Mirrors are tried in order.
    pub fn open(folder: &Path, suite: &str, security: bool, mirrors: &Mirrors) -> Result<Self> {
        let mut failures = Vec::new();
        for (index, base) in mirrors.of(Archive::Debian).iter().enumerate() {
            let mut sources = vec![Source { suite: suite.into(), archive: Archive::Debian, base: base.clone() }];
            if security {
                let bases = mirrors.of(Archive::DebianSecurity);
                let base = bases.get(index).or(bases.first()).context("No mirror of the security archive is known")?;
                let suite = format!("{suite}-security");
                sources.push(Source { suite, archive: Archive::DebianSecurity, base: base.clone() });
            }
            let apt = Self { folder: folder.to_owned(), sources };
            apt.prepare()?;
            match apt.run("apt-get", &["update"]) {
                Ok(_) => return Ok(apt),
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        bail!(
            "No mirror gave the signed indexes of {suite}. Check the network, the host's apt sources or {}.\n{}",
            crate::mirror::VARIABLE,
            failures.join("\n")
        )
    }

    fn prepare(&self) -> Result<()> {
        let keyring = KEYRINGS
            .iter()
            .find(|path| Path::new(path).exists())
            .context("The archive's keyring is missing on this host: apt-get install debian-archive-keyring")?;
        for folder in ["lists/partial", "cache/archives/partial", "preferences.d"] {
            let path = self.folder.join(folder);
            fs::create_dir_all(&path).with_context(|| format!("Failed to make {}", path.display()))?;
        }
        let mut list = String::new();
        for source in &self.sources {
            list += &format!("deb [signed-by={keyring}] {} {} main\n", source.base, source.suite);
        }
        let write = |name: &str, text: &str| {
            let path = self.folder.join(name);
            fs::write(&path, text).with_context(|| format!("Failed to write {}", path.display()))
        };
        write("sources.list", &list)?;
        write("status", "")?;
        write("preferences", "")?;
        write("apt.conf", &self.configuration())
    }

    fn configuration(&self) -> String {
        let folder = self.folder.display();
        let mut text = String::new();
        for (key, value) in [
            // Files of the host's /etc/apt are read after this one: they would decide.
            ("Dir::Etc::Main", "/dev/null".into()),
            ("Dir::Etc::Parts", "/dev/null".into()),
            ("Acquire::AllowInsecureRepositories", "false".into()),
            ("Acquire::AllowWeakRepositories", "false".into()),
            ("Acquire::AllowDowngradeToInsecureRepositories", "false".into()),
            ("APT::Get::AllowUnauthenticated", "false".into()),
            ("Dir::Etc::SourceList", format!("{folder}/sources.list")),
            ("Dir::Etc::SourceParts", format!("{folder}/preferences.d")),
            ("Dir::Etc::Preferences", format!("{folder}/preferences")),
            ("Dir::Etc::PreferencesParts", format!("{folder}/preferences.d")),
            ("Dir::State::Lists", format!("{folder}/lists")),
            ("Dir::State::status", format!("{folder}/status")),
            ("Dir::State::extended_states", format!("{folder}/extended_states")),
            ("Dir::Cache", format!("{folder}/cache")),
            ("APT::Architecture", "amd64".into()),
            ("APT::Install-Recommends", "false".into()),
            ("APT::Install-Suggests", "false".into()),
            ("APT::Sandbox::User", "root".into()),
            ("APT::Get::List-Cleanup", "false".into()),
            ("Acquire::Languages", "none".into()),
            ("Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled", "false".into()),
            ("Acquire::Retries", "3".into()),
            // Else apt counts itself among the essential packages, and it would be in every image.
            ("pkgCacheGen::ForceEssential", ",".into()),
        ] {
            text += &format!("{key} \"{value}\";\n");
        }
        // All that is kept of the host's own settings: whether the age of an index counts, and the proxy.
        for key in AGE {
            let value =
                if crate::fetch::apt_setting(key).is_some_and(|value| is_off(&value)) { "false" } else { "true" };
            text += &format!("{key} \"{value}\";\n");
        }
        if let Some(proxy) = crate::fetch::apt_proxy() {
            text += &format!("Acquire::http::Proxy \"{proxy}\";\nAcquire::https::Proxy \"{proxy}\";\n");
        }
        text + "#clear APT::Architectures;\nAPT::Architectures { \"amd64\"; };\n#clear DPkg::Pre-Install-Pkgs;\n"
    }

    /// Prefers these versions (`name version`) over newer ones.
    pub fn pin(&self, versions: &[(String, String)]) -> Result<()> {
        let mut text = String::new();
        for (name, version) in versions {
            text += &format!("Package: {name}\nPin: version {version}\nPin-Priority: 1001\n\n");
        }
        let path = self.folder.join("preferences");
        fs::write(&path, text).with_context(|| format!("Failed to write {}", path.display()))
    }

    /// What installing `packages` on an empty system would download; with `closure` false, those alone.
    pub fn choose(&self, packages: &[String], closure: bool) -> Result<Vec<Chosen>> {
        let mut arguments: Vec<&str> = vec!["--print-uris", "--yes"];
        arguments.push(if closure { "install" } else { "download" });
        if closure {
            // What no Debian system lacks, and mkosi installs first.
            arguments.extend(["?essential", "base-files", "?exact-name(usr-is-merged)"]);
        }
        arguments.extend(packages.iter().map(String::as_str));
        let text = self.run("apt-get", &arguments)?;
        let mut chosen: Vec<Chosen> = text.lines().filter_map(parse_uri).collect();
        ensure!(!chosen.is_empty(), "apt chose nothing for {}", packages.join(" "));
        chosen.sort();
        Ok(chosen)
    }

    /// The packages whose names start with `prefix` among the dependencies of `package`.
    pub fn dependencies(&self, package: &str, prefix: &str) -> Result<Vec<String>> {
        let text = self.run("apt-cache", &["depends", package])?;
        let found = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(found.filter(|name| name.starts_with(prefix)).map(str::to_owned).collect())
    }

    /// The index entries of the given `name=version` pairs, as stanzas.
    pub fn show(&self, pairs: &[String]) -> Result<String> {
        let mut arguments = vec!["show"];
        arguments.extend(pairs.iter().map(String::as_str));
        self.run("apt-cache", &arguments)
    }

    /// The sources in use.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The InRelease file of a source as apt keeps it, after apt verified it.
    pub fn in_release(&self, source: &Source) -> Result<PathBuf> {
        let lists = self.folder.join("lists");
        let ending = format!("_dists_{}_InRelease", source.suite);
        for entry in fs::read_dir(&lists).with_context(|| format!("Failed to list {}", lists.display()))? {
            let path = entry.with_context(|| format!("Failed to list {}", lists.display()))?.path();
            if path.to_string_lossy().ends_with(&ending) {
                return Ok(path);
            }
        }
        bail!("apt kept no InRelease of {} in {}: the mirror has no signed index", source.suite, lists.display())
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = Command::new(program)
            .args(arguments)
            .env("APT_CONFIG", self.folder.join("apt.conf"))
            .env("LC_ALL", "C.UTF-8")
            .output()
            .with_context(|| format!("Failed to run {program}: `cargo xtask lock` needs apt (Debian 12 or newer)"))?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        let quiet_failure = arguments == ["update"] && complaint.contains("Some index files failed to download");
        if !output.status.success() || quiet_failure {
            let lines: Vec<&str> =
                complaint.lines().filter(|line| line.starts_with("E:") || line.starts_with("W:")).take(12).collect();
            bail!(
                "{program} {} failed:\n{}\nhint: check the network of this host, or name mirrors that answer in CAIRN_DEBIAN_MIRROR",
                arguments.iter().take(3).copied().collect::<Vec<_>>().join(" "),
                lines.join("\n")
            );
        }
        String::from_utf8(output.stdout).with_context(|| format!("{program} did not print UTF-8"))
    }
}

/// Reads a line `'URI' FILE SIZE HASH` of `--print-uris`.
fn parse_uri(line: &str) -> Option<Chosen> {
    let (uri, rest) = line.strip_prefix('\'')?.split_once("' ")?;
    let file_name = rest.split(' ').next()?;
    file_name.ends_with(".deb").then(|| Chosen { uri: uri.to_owned(), file_name: file_name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of the host's /etc/apt are read after the file of APT_CONFIG, and would win.
    #[test]
    fn settings_of_the_host_do_not_weaken_the_private_apt() {
        let folder = tempfile::tempdir().unwrap();
        let apt = Apt { folder: folder.path().to_owned(), sources: vec![] };
        let parts = folder.path().join("parts");
        fs::create_dir(&parts).unwrap();
        let evil = "Acquire::AllowInsecureRepositories \"true\";\nAPT::Update::Pre-Invoke { \"evil\"; };\n";
        fs::write(parts.join("99evil"), evil).unwrap();
        let dump = |text: &str| {
            let file = folder.path().join("apt.conf");
            fs::write(&file, text).unwrap();
            let output = Command::new("apt-config").arg("dump").env("APT_CONFIG", &file).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let ours = apt.configuration();
        let insecure = |dump: &str| dump.contains("Acquire::AllowInsecureRepositories \"true\"");
        let found = dump(&ours);
        assert!(!insecure(&found) && found.contains("Acquire::AllowInsecureRepositories \"false\""), "{found}");
        let lower = found.to_lowercase();
        assert!(lower.contains("dir::etc::parts \"/dev/null\"") && lower.contains("dir::etc::main \"/dev/null\""));
        assert!(!found.contains("Pre-Invoke::"), "a hook of the host would run: {found}");
        // Read, the same file decides.
        let read = ours.replace("Dir::Etc::Parts \"/dev/null\"", &format!("Dir::Etc::Parts \"{}\"", parts.display()));
        assert!(insecure(&dump(&read)), "the control");
    }

    /// Each switch is in the configuration once, and follows the host.
    #[test]
    fn age_of_an_index_counts_as_the_host_has_it() {
        for (value, expected) in [("false", true), ("No", true), ("0", true), ("true", false), ("", false)] {
            assert_eq!(is_off(value), expected, "{value}");
        }
        let folder = tempfile::tempdir().unwrap();
        let ours = Apt { folder: folder.path().to_owned(), sources: vec![] }.configuration();
        for key in AGE {
            let of_the_host = crate::fetch::apt_setting(key).is_some_and(|value| is_off(&value));
            let line = format!("{key} \"{}\";\n", !of_the_host);
            assert_eq!((ours.matches(key).count(), ours.matches(&line).count()), (1, 1), "{ours}");
        }
    }

    #[test]
    fn a_line_of_print_uris_gives_address_and_file_name() {
        let line = "'http://m.example/debian/pool/main/a/acl/acl_2.3_amd64.deb' acl_1%3a2.3_amd64.deb 24364 MD5Sum:85";
        let chosen = parse_uri(line).unwrap();
        assert_eq!(chosen.uri, "http://m.example/debian/pool/main/a/acl/acl_2.3_amd64.deb");
        assert_eq!(chosen.file_name, "acl_1%3a2.3_amd64.deb");
        assert_eq!(parse_uri("Reading package lists..."), None);
        assert_eq!(parse_uri("'http://m.example/x' InRelease 0 "), None);
    }
}
