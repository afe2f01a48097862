//! What the inside of a sandbox looks like, and its form as command-line words: that is how a caller hands it to the process that it re-executes.
//!
//! Words, not JSON: paths need not be UTF-8, and the caller may append arguments of the program afterwards.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// Whether programs reach the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// A network namespace of its own with nothing in it.
    None,
    /// The caller's network.
    Host,
}

/// A file or folder of the host that is shown inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bind {
    pub host: PathBuf,
    pub guest: PathBuf,
    pub read_only: bool,
}

/// Everything but the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub root: PathBuf,
    pub binds: Vec<Bind>,
    pub environment: Vec<(OsString, OsString)>,
    pub work_dir: PathBuf,
    pub network: Network,
    pub keep_user: bool,
}

impl Spec {
    pub fn new(root: PathBuf) -> Self {
        let work_dir = PathBuf::from("/");
        Self { root, binds: vec![], environment: vec![], work_dir, network: Network::None, keep_user: false }
    }

    /// The words that [`Spec::from_arguments`] reads, up to and including `--`. `parent` is the process whose death ends the sandbox.
    pub fn to_arguments(&self, parent: u32) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["--parent".into(), parent.to_string().into()];
        words.extend(["--root".into(), self.root.clone().into()]);
        for bind in &self.binds {
            let name = if bind.read_only { "--bind-read-only" } else { "--bind" };
            words.extend([name.into(), bind.host.clone().into(), bind.guest.clone().into()]);
        }
        for (name, value) in &self.environment {
            let mut word = name.clone();
            word.push("=");
            word.push(value);
            words.extend(["--env".into(), word]);
        }
        words.extend(["--work-dir".into(), self.work_dir.clone().into()]);
        if self.network == Network::Host {
            words.push("--network".into());
        }
        if self.keep_user {
            words.push("--keep-user".into());
        }
        words.push("--".into());
        words
    }

    /// Reads the words back: the inside, the parent's process id, and the program with its arguments.
    pub fn from_arguments(words: impl IntoIterator<Item = OsString>) -> Result<(Self, u32, Vec<OsString>)> {
        let mut words = words.into_iter();
        let mut spec = Self::new(PathBuf::new());
        let mut parent = None;
        while let Some(word) = words.next() {
            let mut next = || words.next().with_context(|| format!("{} lacks its value", word.display()));
            match word.to_str() {
                Some("--parent") => parent = next()?.to_str().and_then(|text| text.parse().ok()),
                Some("--root") => spec.root = next()?.into(),
                Some(name @ ("--bind" | "--bind-read-only")) => {
                    let (host, guest) = (next()?.into(), next()?.into());
                    spec.binds.push(Bind { host, guest, read_only: name == "--bind-read-only" });
                }
                Some("--env") => spec.environment.push(variable(next()?)?),
                Some("--work-dir") => spec.work_dir = next()?.into(),
                Some("--network") => spec.network = Network::Host,
                Some("--keep-user") => spec.keep_user = true,
                Some("--") => {
                    let program: Vec<OsString> = words.collect();
                    let parent = parent.context("--parent is missing or not a process id")?;
                    if spec.root.as_os_str().is_empty() || program.is_empty() {
                        bail!("the root tree or the program is missing");
                    }
                    return Ok((spec, parent, program));
                }
                _ => bail!("unknown word {}", word.display()),
            }
        }
        bail!("there is no `--` before the program")
    }
}

/// Splits `NAME=value`.
fn variable(word: OsString) -> Result<(OsString, OsString)> {
    let bytes = word.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=').with_context(|| format!("{} has no =", word.display()))?;
    Ok((OsString::from_vec(bytes[..at].to_vec()), OsString::from_vec(bytes[at + 1..].to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Spec {
        Spec {
            root: "/a b".into(),
            binds: vec![
                Bind { host: OsString::from_vec(vec![b'/', 0xff]).into(), guest: "/tmp/x".into(), read_only: false },
                Bind { host: "/--".into(), guest: "/tmp/y".into(), read_only: true },
            ],
            environment: vec![("A".into(), "=b=".into()), ("B".into(), "".into())],
            work_dir: "/tmp/x".into(),
            network: Network::Host,
            keep_user: true,
        }
    }

    #[test]
    fn every_field_survives_the_command_line() {
        for spec in [full(), Spec::new("/r".into())] {
            let mut words = spec.to_arguments(42);
            words.extend(["--root".into(), "--".into()]);
            let (read, parent, program) = Spec::from_arguments(words).unwrap();
            assert_eq!((read, parent, program), (spec, 42, vec!["--root".into(), "--".into()]));
        }
    }

    #[test]
    fn incomplete_words_are_refused() {
        for words in [
            &["--root", "/r", "--", "true"][..],
            &["--parent", "x", "--root", "/r", "--", "true"],
            &["--parent", "1", "--", "true"],
            &["--parent", "1", "--root", "/r", "--"],
            &["--parent", "1", "--root", "/r"],
            &["--parent", "1", "--root", "/r", "--bind", "/x"],
            &["--parent", "1", "--root", "/r", "--env", "A", "--", "true"],
            &["--parent", "1", "--root", "/r", "--surprise", "--", "true"],
        ] {
            assert!(Spec::from_arguments(words.iter().map(OsString::from)).is_err(), "{words:?}");
        }
    }
}
