//! `cargo xtask mutants`: each check of the security core is taken out, one at a time, and the tests that are said to hold it must fail. The table is `tests/mutants.toml`.
//!
//! A mutant is a change of one place in a copy of the sources. First the named tests run on the copy as it is: they must be there and pass. Then, for each row, the place is changed, the tests run again, and at least one of them must fail. A change
//! whose place is not there exactly once, or that does not compile, is a stale row, which is a failure too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;

use crate::checkout::Checkout;
use crate::neighbours::PROGRAMS_VARIABLE;

/// The table.
const TABLE: &str = "tests/mutants.toml";
/// Rows of the suite `broker` run against this program, compiled from the copy.
const PROGRAM: &str = "key-broker";

/// Take each check out and require that a test fails
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example: cargo xtask mutants --only quote")]
pub struct MutantsArgs {
    /// Only rows whose names contain this
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Only the rows that are part of CI
    #[arg(long)]
    quick: bool,
}

impl MutantsArgs {
    /// All rows, or those that are part of CI.
    pub const fn all(quick: bool) -> Self {
        Self { only: None, quick }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    mutant: Vec<Mutant>,
}

/// One change, and what must notice it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    /// What is taken out.
    name: String,
    /// The file.
    file: PathBuf,
    /// Text that stands there once.
    find: String,
    /// What stands there instead.
    replace: String,
    /// The package whose unit tests notice it; without it, rows of the suite `broker` do.
    package: Option<String>,
    /// These tests; one of them must fail.
    tests: Vec<String>,
    /// Whether it is part of CI.
    #[serde(default)]
    ci: bool,
}

/// How a run of tests ended.
#[derive(Debug, PartialEq, Eq)]
enum Run {
    /// Names of those that passed.
    Passed(BTreeSet<String>),
    /// Some failed.
    Failed,
    /// It did not compile, or no test ran.
    Broken(String),
}

/// Where suites find what they need.
pub struct Environment {
    /// Variables of the suite `broker`.
    pub variables: Vec<(String, std::ffi::OsString)>,
    /// The programs that rows start.
    pub programs: PathBuf,
}

/// The command: the last line counts.
pub fn run(args: &MutantsArgs, environment: Option<&Environment>) -> Result<ExitCode> {
    let (mut passed, mut failed) = (0, 0);
    each(args, environment, &mut |name, result, seconds| match result {
        Ok(()) => {
            println!("test mutant_{name} ... ok ({seconds:.1} s)");
            passed += 1;
        }
        Err(error) => {
            println!("test mutant_{name} ... FAILED\n{error:#}");
            failed += 1;
        }
    })?;
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is told of each mutant: its name, whether it was noticed, seconds.
pub type Told<'a> = &'a mut dyn FnMut(&str, Result<()>, f64);

/// Goes through the table. Without an environment, rows of the suite `broker` are failures that say how to get one.
///
/// # Errors
/// The table cannot be read, no row is asked for, or the copy cannot be made.
pub fn each(args: &MutantsArgs, environment: Option<&Environment>, told: Told) -> Result<()> {
    let checkout = Checkout::find()?;
    let path = checkout.join(TABLE);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let table: Table = toml::from_str(&text).with_context(|| format!("cannot parse {}", path.display()))?;
    let is_asked = |mutant: &&Mutant| {
        args.only.as_ref().is_none_or(|only| mutant.name.contains(only)) && (mutant.ci || !args.quick)
    };
    let mutants: Vec<&Mutant> = table.mutant.iter().filter(is_asked).collect();
    ensure!(!mutants.is_empty(), "no row of {TABLE} is asked for");
    let workshop = Workshop::make(&checkout, environment)?;
    // Rows of one package one after the other: little is compiled anew.
    let mut groups: BTreeMap<Option<&str>, Vec<&Mutant>> = BTreeMap::new();
    for mutant in mutants {
        groups.entry(mutant.package.as_deref()).or_default().push(mutant);
    }
    for (package, mutants) in groups {
        let tests: BTreeSet<&str> = mutants.iter().flat_map(|mutant| &mutant.tests).map(String::as_str).collect();
        let plain = workshop.test(package, &tests.iter().copied().collect::<Vec<_>>());
        for mutant in mutants {
            let started = Instant::now();
            let result = match &plain {
                Ok(plain) => workshop.judge(mutant, plain),
                Err(error) => Err(anyhow::anyhow!("{error:#}")),
            };
            told(&mutant.name, result, started.elapsed().as_secs_f64());
        }
    }
    Ok(())
}

/// A copy of the sources, compiled into the checkout's own target folder: packages of others are not compiled again.
struct Workshop<'a> {
    checkout: &'a Checkout,
    copy: PathBuf,
    environment: Option<&'a Environment>,
}

impl<'a> Workshop<'a> {
    fn make(checkout: &'a Checkout, environment: Option<&'a Environment>) -> Result<Self> {
        let copy = checkout.target().join("mutants");
        let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(checkout.root()).output();
        let listed = listed.context("cannot list the sources with git")?;
        ensure!(listed.status.success(), "cannot list the sources: {}", String::from_utf8_lossy(&listed.stderr).trim());
        for name in listed.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let name = std::str::from_utf8(name).context("a source has a name that is not UTF-8")?;
            let (from, to) = (checkout.join(name), copy.join(name));
            // Links and folders are for images, and removed files are not listed for long.
            if from.is_symlink() || !from.is_file() {
                continue;
            }
            write_if_other(&to, &fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?)?;
        }
        Ok(Self { checkout, copy, environment })
    }

    /// The tests must have passed before, and one of them must fail now.
    fn judge(&self, mutant: &Mutant, plain: &Run) -> Result<()> {
        match plain {
            Run::Passed(passed) => {
                let is_there = |test: &&String| passed.iter().any(|name| name.ends_with(test.as_str()));
                let missing: Vec<&String> = mutant.tests.iter().filter(|test| !is_there(test)).collect();
                ensure!(missing.is_empty() && !mutant.tests.is_empty(), "there is no test {missing:?}");
            }
            Run::Failed => bail!("the tests fail without the change"),
            Run::Broken(why) => bail!("the tests do not run without the change: {why}"),
        }
        let path = self.copy.join(&mutant.file);
        let whole = fs::read_to_string(&path).with_context(|| format!("cannot read {}", mutant.file.display()))?;
        let count = whole.matches(&mutant.find).count();
        ensure!(count == 1, "{} has the place of this row {count} times", mutant.file.display());
        fs::write(&path, whole.replace(&mutant.find, &mutant.replace)).context("cannot change the copy")?;
        let tests: Vec<&str> = mutant.tests.iter().map(String::as_str).collect();
        let result = self.test(mutant.package.as_deref(), &tests);
        fs::write(&path, whole).context("cannot change the copy back")?;
        match result? {
            Run::Failed => Ok(()),
            Run::Passed(_) => bail!("no test fails without this check: {}", mutant.tests.join(", ")),
            Run::Broken(why) => bail!("the row is stale: {why}"),
        }
    }

    fn test(&self, package: Option<&str>, tests: &[&str]) -> Result<Run> {
        match package {
            Some(package) => {
                let arguments = ["test", "--package", package, "--"];
                self.run(self.cargo(&self.copy).args(arguments).args(tests))
            }
            None => self.rows(tests),
        }
    }

    /// Rows of the suite `broker`, as they are, against the program of the copy.
    fn rows(&self, tests: &[&str]) -> Result<Run> {
        let environment =
            self.environment.context("the suite `broker` is not set up: run `cargo xtask test --only broker` first")?;
        let build = ["build", "--quiet", "--package", PROGRAM, "--features", "key-broker/fault-points"];
        let built = self.cargo(&self.copy).args(build).output().context("cannot start cargo")?;
        if !built.status.success() {
            return Ok(Run::Broken(last_lines(&built.stderr)));
        }
        let programs = self.checkout.target().join("mutant-programs");
        fs::create_dir_all(&programs).with_context(|| format!("cannot create {}", programs.display()))?;
        for program in fs::read_dir(&environment.programs).context("cannot list the programs")? {
            let program = program?;
            fs::copy(program.path(), programs.join(program.file_name())).context("cannot copy a program")?;
        }
        fs::copy(self.checkout.target().join("debug").join(PROGRAM), programs.join(PROGRAM))
            .context("cannot copy the changed program")?;
        let mut passed = BTreeSet::new();
        // This harness takes one filter.
        for test in tests {
            let mut command = self.cargo(self.checkout.root());
            command.args([
                "test",
                "--package",
                "cairn-tests",
                "--features",
                "end-to-end",
                "--test",
                "broker",
                "--",
                test,
            ]);
            command.envs(environment.variables.iter().cloned()).env(PROGRAMS_VARIABLE, &programs);
            match self.run(&mut command)? {
                Run::Passed(names) => passed.extend(names),
                other => return Ok(other),
            }
        }
        Ok(Run::Passed(passed))
    }

    fn cargo(&self, folder: &Path) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(folder).env("CARGO_TARGET_DIR", self.checkout.target()).stdin(Stdio::null());
        command
    }

    fn run(&self, command: &mut Command) -> Result<Run> {
        let output = command.output().context("cannot start the tests")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let passed: BTreeSet<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("test ")?.strip_suffix("... ok"))
            .map(|name| name.trim().to_owned())
            .collect();
        let failed = text.lines().any(|line| line.starts_with("test ") && line.ends_with("... FAILED"));
        Ok(match (output.status.success(), failed) {
            (true, _) if !passed.is_empty() => Run::Passed(passed),
            (false, true) => Run::Failed,
            _ => Run::Broken(last_lines(&output.stderr)),
        })
    }
}

/// Keeps the time stamp of a file that has this content already: nothing is compiled anew for it.
fn write_if_other(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|found| found == content) {
        return Ok(());
    }
    let folder = path.parent().context("a source without a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

fn last_lines(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every row can be applied: its place is in its file once. That a test fails then is what `cargo xtask mutants` shows.
    #[test]
    fn every_row_of_the_table_has_its_place_once() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let table: Table = toml::from_str(&fs::read_to_string(root.join(TABLE)).unwrap()).unwrap();
        let names: BTreeSet<&str> = table.mutant.iter().map(|mutant| mutant.name.as_str()).collect();
        assert_eq!(names.len(), table.mutant.len(), "a name stands twice");
        for mutant in &table.mutant {
            let text = fs::read_to_string(root.join(&mutant.file)).unwrap();
            assert_eq!(text.matches(&mutant.find).count(), 1, "{}", mutant.name);
            assert!(!mutant.tests.is_empty() && mutant.find != mutant.replace, "{}", mutant.name);
        }
    }
}
