//! Runs tests on a copy of the sources, with and without a change. What is compiled of packages from elsewhere is shared with the checkout. What is compiled of the copy never is: cargo would take a changed crate for one of the checkout. Packages that link libraries of the build root are compiled and tested there, as by `cargo xtask test`.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::results::{Results, Run, last_lines};
use super::table::Mutant;
use super::{Environment, copy};
use crate::build::agent::{Compiler, NEED_BUILD_ROOT, fetch_sources};
use crate::build::compiled::OwnPackages;
use crate::build::toolchain::Toolchain;
use crate::build::tools::Tools;
use crate::checkout::Checkout;
use crate::neighbours::PROGRAMS_VARIABLE;

/// Rows of the suite `broker` run against this program, compiled from the copy.
const PROGRAM: &str = "key-broker";
/// Compiling takes at most this long.
const MAX_COMPILE_SECONDS: u64 = 1200;
/// Tests of a package take at most this long.
const MAX_UNIT_SECONDS: u64 = 120;
/// A row of the suite `broker` takes at most this long.
const MAX_ROW_SECONDS: u64 = 240;
/// The end of a command is noticed after this time.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The copy and where it is compiled.
pub(super) struct Workshop<'a> {
    checkout: &'a Checkout,
    folder: PathBuf,
    tools: &'a Tools,
    environment: Option<&'a Environment>,
    suite: OnceCell<PathBuf>,
}

impl<'a> Workshop<'a> {
    pub fn new(checkout: &'a Checkout, tools: &'a Tools, environment: Option<&'a Environment>) -> Result<Self> {
        let folder = checkout.target().join("mutants");
        let made = Self { checkout, folder, tools, environment, suite: OnceCell::new() };
        for folder in [made.sources(), made.programs()] {
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        copy::update(checkout.root(), &made.sources())?;
        let own = OwnPackages::read(&checkout.join("Cargo.lock"))?;
        own.share_others(&checkout.target().join("debug"), &made.build().join("debug"))?;
        own.share_others(&checkout.target().join("agent/debug"), &made.agent().join("debug"))?;
        Ok(made)
    }

    fn sources(&self) -> PathBuf {
        self.folder.join("sources")
    }

    /// Where the copy is compiled.
    fn build(&self) -> PathBuf {
        self.folder.join("build")
    }

    /// Where it is compiled in the build root.
    fn agent(&self) -> PathBuf {
        self.folder.join("agent")
    }

    fn programs(&self) -> PathBuf {
        self.folder.join("programs")
    }

    /// The tests of all these rows, without a change.
    pub fn plain(&self, package: Option<&str>, mutants: &[&Mutant]) -> Result<Results> {
        let tests: BTreeSet<&str> = mutants.iter().flat_map(|mutant| &mutant.tests).map(String::as_str).collect();
        let tests: Vec<&str> = tests.into_iter().collect();
        let run = match package {
            Some(package) => self.package(package, &["--tests".to_owned()], &tests)?,
            None => self.rows(&tests)?,
        };
        match run {
            Run::Ran(results, None) => Ok(results),
            Run::Ran(_, Some(limit)) => bail!("the tests did not end within {limit} s without a change"),
            Run::NotCompiled(why) => bail!("the sources do not compile without a change:\n{why}"),
        }
    }

    /// The row's tests with its change.
    pub fn change(&self, mutant: &Mutant, plain: &Results) -> Result<Run> {
        let targets = plain.targets(mutant)?;
        let path = self.sources().join(&mutant.file);
        let whole = fs::read_to_string(&path).with_context(|| format!("cannot read {}", mutant.file.display()))?;
        let count = whole.matches(&mutant.find).count();
        ensure!(count == 1, "the row is stale, {} has its place {count} times", mutant.file.display());
        fs::write(&path, whole.replace(&mutant.find, &mutant.replace)).context("cannot change the copy")?;
        let tests: Vec<&str> = mutant.tests.iter().map(String::as_str).collect();
        let run = match &mutant.package {
            Some(package) => self.package(package, &targets, &tests),
            None => self.rows(&tests),
        };
        fs::write(&path, whole).context("cannot change the copy back")?;
        run
    }

    /// Tests of a package of the copy.
    fn package(&self, package: &str, targets: &[String], tests: &[&str]) -> Result<Run> {
        if let Err(why) = self.compile(self.tests_of(package, targets)?.arg("--no-run"))? {
            return Ok(Run::NotCompiled(why));
        }
        let ended = self.limited(self.tests_of(package, targets)?.arg("--").args(tests), MAX_UNIT_SECONDS)?;
        Ok(ended.run(MAX_UNIT_SECONDS))
    }

    /// `cargo test` of a package of the copy.
    fn tests_of(&self, package: &str, targets: &[String]) -> Result<Command> {
        let test = ["test", "--no-fail-fast", "--package", package];
        let mut command = if NEED_BUILD_ROOT.contains(&package) {
            self.cargo_in_build_root(&[&test[..], &["--locked", "--offline", "--all-features"]].concat())?
        } else {
            let mut command = self.cargo(&self.sources());
            command.args(test);
            command
        };
        command.args(targets);
        Ok(command)
    }

    /// There, the copy is at the same place as the checkout: it must not share what is compiled of either.
    fn cargo_in_build_root(&self, arguments: &[&str]) -> Result<Command> {
        let copy = Checkout::at(&self.sources());
        fetch_sources(&copy)?;
        let toolchain = Toolchain::find(copy.root())?;
        let Tools { made, tree } = self.tools;
        let compiler = Compiler { build_root: made, tools: tree, toolchain: &toolchain, checkout: &copy };
        compiler.cargo(&self.agent(), arguments)
    }

    /// Rows of the checkout's suite `broker` against the program of the copy.
    fn rows(&self, tests: &[&str]) -> Result<Run> {
        let environment =
            self.environment.context("the suite `broker` is not set up: run `cargo xtask test --only broker` first")?;
        let build = ["build", "--package", PROGRAM, "--features", "key-broker/fault-points"];
        if let Err(why) = self.compile(self.cargo(&self.sources()).args(build))? {
            return Ok(Run::NotCompiled(why));
        }
        let programs = self.started_programs(environment)?;
        let mut results = Results::default();
        // This harness takes one filter.
        for test in tests {
            let mut row = Command::new(self.suite()?);
            row.current_dir(self.checkout.join("tests")).args(["--exact", test]);
            row.envs(environment.variables.iter().cloned()).env(PROGRAMS_VARIABLE, &programs);
            match self.limited(&mut row, MAX_ROW_SECONDS)?.run(MAX_ROW_SECONDS) {
                Run::Ran(more, None) => results.extend(more),
                other => return Ok(other),
            }
        }
        Ok(Run::Ran(results, None))
    }

    /// The program of the suite `broker`, compiled from the checkout. It is started without cargo: the time limit of a row is not for waiting until another cargo has ended.
    fn suite(&self) -> Result<&Path> {
        if let Some(path) = self.suite.get() {
            return Ok(path);
        }
        let mut cargo = self.cargo(self.checkout.root());
        cargo.env_remove("CARGO_BUILD_BUILD_DIR").env("CARGO_TARGET_DIR", self.checkout.target());
        cargo.args(["test", "--no-run", "--package", "cairn-tests", "--features", "end-to-end", "--test", "broker"]);
        let said = self.compile(&mut cargo)?.map_err(|why| anyhow!("the suite `broker` does not compile:\n{why}"))?;
        let path =
            executable(&said).with_context(|| format!("cargo names no program of the suite `broker`: {said}"))?;
        Ok(self.suite.get_or_init(|| self.checkout.join(path)))
    }

    /// The checkout's programs, with the broker of the copy.
    fn started_programs(&self, environment: &Environment) -> Result<PathBuf> {
        let folder = self.folder.join("started");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        for program in fs::read_dir(&environment.programs).context("cannot list the programs")? {
            let program = program.context("cannot list the programs")?;
            if program.file_name() != PROGRAM {
                fs::copy(program.path(), folder.join(program.file_name())).context("cannot copy a program")?;
            }
        }
        fs::copy(self.programs().join("debug").join(PROGRAM), folder.join(PROGRAM))
            .context("cannot copy the program of the copy")?;
        Ok(folder)
    }

    /// Only finished programs go to the target folder; all else is in the build folder.
    fn cargo(&self, folder: &Path) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(folder).env("CARGO_TARGET_DIR", self.programs());
        command.env("CARGO_BUILD_BUILD_DIR", self.build()).env("CARGO_TERM_COLOR", "never");
        command
    }

    /// What the compiler prints; where it fails, the end of that.
    fn compile(&self, command: &mut Command) -> Result<Result<String, String>> {
        let ended = self.limited(command, MAX_COMPILE_SECONDS)?;
        let status = ended.status.with_context(|| format!("compiling did not end within {MAX_COMPILE_SECONDS} s"))?;
        Ok(if status.success() { Ok(ended.output) } else { Err(last_lines(&ended.output)) })
    }

    /// Runs a command in a process group of its own, which is killed after `seconds`.
    fn limited(&self, command: &mut Command, seconds: u64) -> Result<Ended> {
        let path = self.folder.join("output");
        let output = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let second = output.try_clone().context("cannot use a file for both outputs")?;
        command.stdin(Stdio::null()).stdout(output).stderr(second).process_group(0);
        let mut child = command.spawn().context("cannot start cargo")?;
        let end = Instant::now() + Duration::from_secs(seconds);
        let status = loop {
            match child.try_wait().context("cannot wait for cargo")? {
                Some(status) => break Some(status),
                None if Instant::now() < end => sleep(POLL_INTERVAL),
                None => {
                    let group = Pid::from_raw(i32::try_from(child.id()).context("a process id of 32 bits")?);
                    killpg(group, Signal::SIGKILL).context("cannot kill the tests")?;
                    child.wait().context("cannot wait for cargo")?;
                    break None;
                }
            }
        };
        let output = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Ended { status, output: String::from_utf8_lossy(&output).into_owned() })
    }
}

/// `  Executable tests/broker/main.rs (target/debug/deps/broker-0123)`
fn executable(said: &str) -> Option<&str> {
    said.lines().find_map(|line| line.trim_start().strip_prefix("Executable ")?.split_once(" (")?.1.strip_suffix(')'))
}

/// How a command ended; without a status it was killed at its limit.
struct Ended {
    status: Option<ExitStatus>,
    output: String,
}

impl Ended {
    fn run(&self, limit: u64) -> Run {
        Run::Ran(Results::parse(&self.output), self.status.is_none().then_some(limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::stage::Made;
    use crate::digest::Sha256Digest;

    #[test]
    fn what_is_compiled_of_the_copy_is_apart_from_the_checkout() {
        let checkout = Checkout::at(Path::new("/checkout"));
        let made = Made { folder: "/root".into(), key: Sha256Digest::of(b"") };
        let tools = &Tools { tree: made.join("tree"), made };
        let folder = checkout.target().join("mutants");
        let workshop =
            Workshop { checkout: &checkout, folder: folder.clone(), tools, environment: None, suite: OnceCell::new() };
        let command = workshop.cargo(&workshop.sources());
        let apart = |name: &str| {
            let value = command.get_envs().find(|(key, _)| *key == name).and_then(|(_, value)| value);
            value.is_some_and(|value| Path::new(value).starts_with(&folder))
        };
        assert!(apart("CARGO_TARGET_DIR") && apart("CARGO_BUILD_BUILD_DIR"));
    }

    #[test]
    fn program_of_a_suite_is_read_from_cargo() {
        let said = "    Finished in 1 s\n  Executable tests/broker/main.rs (target/debug/deps/broker-0123)\n";
        assert_eq!(executable(said), Some("target/debug/deps/broker-0123"));
    }

    #[test]
    fn command_and_its_children_are_killed_at_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let checkout = Checkout::at(folder.path());
        let folder = folder.path().to_owned();
        let made = Made { folder: folder.clone(), key: Sha256Digest::of(b"") };
        let tools = &Tools { tree: made.join("tree"), made };
        let workshop = Workshop { checkout: &checkout, folder, tools, environment: None, suite: OnceCell::new() };
        let script = "sleep 600 & echo $!; echo 'test one ... ok'; wait";
        let ended = workshop.limited(Command::new("sh").args(["-c", script]), 1).unwrap();
        assert!(matches!(ended.run(1), Run::Ran(_, Some(1))));
        let child = ended.output.lines().next().unwrap();
        // The signal was sent; the kernel ends the child in its own time.
        let is_gone = || {
            let state = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            state.is_empty() || state.contains(") Z ")
        };
        let ended_in_time = (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            is_gone()
        });
        assert!(ended_in_time, "the child {child} runs on");
        let ended = workshop.limited(Command::new("sh").args(["-c", "echo 'test one ... ok'"]), 60).unwrap();
        assert_eq!(ended.run(60), Run::Ran(Results::parse("test one ... ok\n"), None));
    }
}
