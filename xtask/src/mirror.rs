//! Where packages come from: the host's own apt sources, or `CAIRN_DEBIAN_MIRROR`.
//!
//! Only base addresses are taken from there, suites come from the lock. No address is written into any committed file.
//! What a mirror sends is never trusted: the lock's SHA-256 decides.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::lock::Archive;

/// The variable that replaces the host's apt sources: one or more base addresses, tried in order. `{date}` stands for
/// the lock's date, for a snapshot service of the archive.
pub const VARIABLE: &str = "CAIRN_DEBIAN_MIRROR";

/// The mirrors of both archives, in the order in which they are tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrors {
    main: Vec<String>,
    security: Vec<String>,
}

impl Mirrors {
    /// The mirrors of this host. `date` (seconds since 1970) fills `{date}`.
    pub fn find(date: u64) -> Result<Self> {
        match std::env::var(VARIABLE) {
            Ok(list) if !list.trim().is_empty() => Self::parse(&list, date),
            _ => Self::from_host(),
        }
    }

    /// Reads the value of [`VARIABLE`].
    pub fn parse(list: &str, date: u64) -> Result<Self> {
        let date = crate::time::snapshot_name(date)?;
        let (mut main, mut security) = (Vec::new(), Vec::new());
        for word in list.split([' ', ',', '\t', '\n']).filter(|word| !word.is_empty()) {
            let base = word.replace("{date}", &date);
            ensure!(
                base.starts_with("http://") || base.starts_with("https://"),
                "{VARIABLE}: {word:?} is not an http or https address"
            );
            let base = base.trim_end_matches('/').to_owned();
            security.push(security_beside(&base));
            main.push(base);
        }
        Ok(Self { main, security })
    }

    fn from_host() -> Result<Self> {
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let codename = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .map(|name| name.trim_matches('"').to_owned())
            .unwrap_or_default();
        let output = Command::new("apt-get")
            .args(["update", "--print-uris"])
            .output()
            .context("Failed to run apt-get, which knows the mirrors of this host")?;
        let text = String::from_utf8_lossy(&output.stdout);
        Self::from_uris(&text, &codename).with_context(|| {
            format!(
                "The apt sources of this host name no Debian mirror. Set {VARIABLE} to the base address of one (it ends in /debian)"
            )
        })
    }

    /// Reads what `apt-get update --print-uris` printed on a host of release `codename`.
    fn from_uris(text: &str, codename: &str) -> Result<Self> {
        let (mut main, mut security) = (Vec::new(), Vec::new());
        for line in text.lines() {
            let Some(uri) = line.strip_prefix('\'').and_then(|rest| rest.split('\'').next()) else { continue };
            let Some((base, suite)) = uri.trim_end_matches("/InRelease").split_once("/dists/") else { continue };
            let suite = suite.trim_end_matches('/');
            if !(base.starts_with("http://") || base.starts_with("https://")) {
                continue;
            }
            let into = if is_release(suite, codename) {
                &mut main
            } else if suite.strip_suffix("-security").is_some_and(|release| is_release(release, codename)) {
                &mut security
            } else {
                continue;
            };
            if !into.iter().any(|known| known == base) {
                into.push(base.to_owned());
            }
        }
        if main.is_empty() {
            bail!("No http(s) source carries the suite {codename:?}");
        }
        let beside: Vec<String> = main.iter().map(|base| security_beside(base)).collect();
        security.extend(beside.into_iter().filter(|base| !security.contains(base)).collect::<Vec<_>>());
        Ok(Self { main, security })
    }

    /// The base addresses of one archive.
    pub fn of(&self, archive: Archive) -> &[String] {
        match archive {
            Archive::Debian => &self.main,
            Archive::DebianSecurity => &self.security,
        }
    }
}

fn is_release(suite: &str, codename: &str) -> bool {
    const ALIASES: [&str; 6] = ["stable", "testing", "unstable", "sid", "oldstable", "oldoldstable"];
    (!codename.is_empty() && suite == codename) || ALIASES.contains(&suite)
}

/// The security archive stands beside the main one: `.../debian` and `.../debian-security`; on a snapshot service
/// `.../debian/DATE` and `.../debian-security/DATE`.
fn security_beside(base: &str) -> String {
    match base.rfind("/debian") {
        Some(at) => format!("{}/debian-security{}", &base[..at], &base[at + "/debian".len()..]),
        None => format!("{base}-security"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_s_sources_give_base_addresses_and_third_parties_are_left_out() {
        let text = "'http://mirror.example/debian/dists/bookworm/InRelease' x 0 \n\
                    'http://mirror.example/debian/dists/bookworm-updates/InRelease' x 0 \n\
                    'http://sec.example/debian-security/dists/bookworm-security/InRelease' x 0 \n\
                    'https://vendor.example/apt/dists/nodistro/InRelease' x 0 \n";
        let mirrors = Mirrors::from_uris(text, "bookworm").unwrap();
        assert_eq!(mirrors.of(Archive::Debian), ["http://mirror.example/debian"]);
        assert_eq!(
            mirrors.of(Archive::DebianSecurity),
            ["http://sec.example/debian-security", "http://mirror.example/debian-security"]
        );
    }

    #[test]
    fn a_host_without_a_debian_source_is_told_so() {
        let text = "'https://vendor.example/apt/dists/nodistro/InRelease' x 0 \n";
        assert!(Mirrors::from_uris(text, "bookworm").is_err());
        assert!(Mirrors::from_uris("", "").is_err());
    }

    #[test]
    fn the_variable_takes_several_and_a_snapshot_date() {
        let list = "http://a.example/debian/, https://s.example/archive/debian/{date}";
        let mirrors = Mirrors::parse(list, 1_767_323_045).unwrap();
        assert_eq!(
            mirrors.of(Archive::Debian),
            ["http://a.example/debian", "https://s.example/archive/debian/20260102T030405Z"]
        );
        assert_eq!(
            mirrors.of(Archive::DebianSecurity),
            ["http://a.example/debian-security", "https://s.example/archive/debian-security/20260102T030405Z"]
        );
        assert!(Mirrors::parse("ftp://a.example/debian", 0).is_err());
    }
}
