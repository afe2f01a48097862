//! `cargo xtask test`: everything that must hold, in one command, on real parts.
//!
//! In order: unit and golden tests; lint and tests of the agent in the build root; the images; the image writers against independent
//! tools; whole builds, twice and with everything going wrong that can; a transparency log; the broker; virtual machines. The last line counts.

mod tally;

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::build::agent::{Compiler, NEED_BUILD_ROOT, fetch_sources};
use crate::build::tools::Tools;
use crate::build::{self, BuildArgs, PRODUCTION};
use crate::checkout::Checkout;
use crate::host;
use crate::mutants::{self, MutantsArgs};
use crate::neighbours::PROGRAMS_VARIABLE;
use crate::progress::{Progress, Style};
use crate::sandbox::LAUNCHER_VARIABLE;
pub use tally::TIME_MARK;
use tally::Tally;

/// The variants that are built; virtual machines boot the first two.
const VARIANTS: [&str; 3] = [PRODUCTION, "debug", "container"];

/// The programs that tests start.
const PROGRAMS: [&str; 3] = ["cairn", "key-broker", "publisher"];

/// Says to the suite `log` that it may compile and run a log of Rekor v1.
pub const WITH_REKOR_V1: &str = "CAIRN_WITH_REKOR_V1";

/// Set where tests may take longer than a CI run allows.
pub const FULL: &str = "CAIRN_FULL_TESTS";

/// Run every test; the last line counts them
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example: cargo xtask test -- a_flipped_byte")]
pub struct TestArgs {
    /// Leave the virtual machines out
    #[arg(long)]
    quick: bool,
    /// Compile a log of Rekor v1, too, from 15 MB more of sources, and publish to it
    #[arg(long)]
    with_rekor_v1: bool,
    /// Add the tests that take longer than a CI run allows
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Fail if a test of this suite is skipped; may be repeated
    #[arg(long, value_enum, value_name = "SUITE")]
    complete: Vec<Suite>,
    /// Run one suite only; may be repeated
    #[arg(long, value_enum, value_name = "SUITE", conflicts_with = "quick")]
    only: Vec<Suite>,
    /// Only tests whose names contain this; images are built all the same
    #[arg(last = true, value_name = "NAME")]
    filter: Option<String>,
}

/// One part of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Suite {
    /// Unit and golden tests
    Unit,
    /// Lint and tests of the programs that need the build root's libraries
    Agent,
    /// Sandbox and image writers against independent tools
    Tools,
    /// Whole builds
    Builds,
    /// The transparency log
    Log,
    /// The key broker
    Broker,
    /// Checks that are taken out, which a test must notice
    Mutants,
    /// Virtual machines
    Vm,
}

impl Suite {
    /// Suites of the package `cairn-tests`, in order.
    const END_TO_END: [Self; 5] = [Self::Tools, Self::Builds, Self::Log, Self::Broker, Self::Vm];

    /// Name of the test target.
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl TestArgs {
    fn has(&self, suite: Suite) -> bool {
        match &self.only[..] {
            [] => !(self.quick && suite == Suite::Vm),
            only => only.contains(&suite),
        }
    }
}

/// `cargo xtask mutants`, on the images and programs of the last test run.
pub fn run_mutants(args: &MutantsArgs) -> Result<ExitCode> {
    host::require(host::TO_TEST)?;
    let session = Session::begin(None)?;
    let programs = session.checkout.target().join("test-programs");
    let tools = session.build_root()?;
    let is_set_up = programs.is_dir() && session.checkout.target().join("test-images").is_dir();
    let environment = is_set_up.then(|| mutants::Environment { variables: session.variables(&tools), programs });
    mutants::run(args, &tools, environment.as_ref())
}

/// Runs the tests.
pub fn run(args: &TestArgs) -> Result<ExitCode> {
    host::require(host::TO_TEST)?;
    let session = Session::begin(args.filter.clone())?;
    let mut tally = Tally::requiring(args.complete.iter().map(|suite| suite.name()).collect());
    if args.has(Suite::Unit) {
        session.unit_tests(&mut tally)?;
    }
    match session.build_root() {
        Ok(tools) => session.with_build_root(&tools, args, &mut tally)?,
        Err(error) => tally.fail("the_build_root_is_made", &error),
    }
    print!("{}", tally.report());
    Ok(if tally.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Session {
    checkout: Checkout,
    xtask: PathBuf,
    progress: Progress,
    filter: Option<String>,
}

impl Session {
    fn begin(filter: Option<String>) -> Result<Self> {
        let xtask = std::env::current_exe().context("Failed to find the running program")?;
        Ok(Self { checkout: Checkout::find()?, xtask, progress: Progress::new(Style::Human), filter })
    }

    fn build_root(&self) -> Result<Tools> {
        crate::cli::build_root(&self.progress)
    }

    fn unit_tests(&self, tally: &mut Tally) -> Result<()> {
        self.suite(&Suite::Unit.name(), self.cargo(&["test", "--no-fail-fast"]), tally)
    }

    fn with_build_root(&self, tools: &Tools, args: &TestArgs, tally: &mut Tally) -> Result<()> {
        if args.has(Suite::Agent) {
            self.agent(tools, tally)?;
        }
        let suites: Vec<Suite> = Suite::END_TO_END.into_iter().filter(|suite| args.has(*suite)).collect();
        let mutants = args.has(Suite::Mutants) && self.filter.is_none();
        if suites.is_empty() && !mutants {
            return Ok(());
        }
        let linted =
            ["clippy", "--package", "cairn-tests", "--all-targets", "--features", "end-to-end", "--", "-D", "warnings"];
        self.check("the_end_to_end_tests_have_no_lint", self.cargo(&linted), tally)?;
        let programs = self.programs(tally)?;
        let images = self.checkout.target().join("test-images");
        // No suite starts this container image, whose own row adds a container: that it builds is its test.
        let wanted = if args.only.is_empty() { &VARIANTS[..] } else { &VARIANTS[..2] };
        for variant in wanted {
            self.image(variant, &images.join(variant), tally);
        }
        for suite in suites {
            let name = suite.name();
            let mut command =
                self.cargo(&["test", "--package", "cairn-tests", "--features", "end-to-end", "--test", &name]);
            command.envs(self.variables(tools)).env(PROGRAMS_VARIABLE, &programs);
            if args.with_rekor_v1 || args.full {
                command.env(WITH_REKOR_V1, "1");
            }
            if args.full {
                command.env(FULL, "1");
            }
            self.suite(&name, command, tally)?;
        }
        if mutants {
            self.mutants(args, tools, programs, tally)?;
        }
        Ok(())
    }

    /// What the suites of `cairn-tests` read.
    fn variables(&self, tools: &Tools) -> Vec<(String, OsString)> {
        let images = self.checkout.target().join("test-images");
        vec![
            (LAUNCHER_VARIABLE.into(), self.xtask.clone().into()),
            ("CAIRN_BUILD_ROOT".into(), tools.tree.clone().into()),
            ("CAIRN_IMAGE_DIR".into(), images.join(VARIANTS[0]).into()),
            ("CAIRN_DEBUG_IMAGE_DIR".into(), images.join(VARIANTS[1]).into()),
        ]
    }

    /// Each mutant is a test.
    fn mutants(&self, args: &TestArgs, tools: &Tools, programs: PathBuf, tally: &mut Tally) -> Result<()> {
        println!("\n== mutants");
        let started = Instant::now();
        let environment = mutants::Environment { variables: self.variables(tools), programs };
        mutants::each(&MutantsArgs::all(!args.full), tools, Some(&environment), &mut |name, result, seconds| {
            let name = format!("mutant_{name}");
            match result {
                Ok(()) => tally.pass(&name, Duration::from_secs_f64(seconds)),
                Err(error) => tally.fail(&name, &error),
            }
        })?;
        tally.took("mutants", started.elapsed());
        Ok(())
    }

    /// The programs that the tests start, in a folder where nothing else replaces them: the broker has its fault points.
    fn programs(&self, tally: &mut Tally) -> Result<PathBuf> {
        let folder = self.checkout.target().join("test-programs");
        let packages = PROGRAMS.iter().flat_map(|name| ["--package", name]);
        let build: Vec<&str> =
            ["build"].into_iter().chain(packages).chain(["--features", "key-broker/fault-points"]).collect();
        self.check("the_programs_build", self.cargo(&build), tally)?;
        std::fs::create_dir_all(&folder).with_context(|| format!("Failed to make {}", folder.display()))?;
        for name in PROGRAMS {
            let made = self.checkout.target().join("debug").join(name);
            std::fs::copy(&made, folder.join(name)).with_context(|| format!("Failed to copy {}", made.display()))?;
        }
        Ok(folder)
    }

    /// The agent and what it shares are no default members: only the build root has the libraries that they link.
    fn agent(&self, tools: &Tools, tally: &mut Tally) -> Result<()> {
        let toolchain = build::toolchain::Toolchain::find(self.checkout.root())?;
        fetch_sources(&self.checkout)?;
        let compiler =
            Compiler { build_root: &tools.made, tools: &tools.tree, toolchain: &toolchain, checkout: &self.checkout };
        let target = self.checkout.target().join("agent");
        let packages = NEED_BUILD_ROOT.iter().flat_map(|name| ["--package", name]);
        let common: Vec<&str> = ["--locked", "--offline", "--all-features"].into_iter().chain(packages).collect();
        let lint = [&["clippy", "--all-targets"], &common[..], &["--", "-D", "warnings"]].concat();
        self.check("the_agent_has_no_lint", compiler.cargo(&target, &lint)?, tally)?;
        let test = [&["test", "--no-fail-fast"], &common[..]].concat();
        let mut command = compiler.cargo(&target, &test)?;
        self.add_filter(&mut command);
        self.suite("agent", command, tally)
    }

    fn image(&self, variant: &str, out: &Path, tally: &mut Tally) {
        let profile = (variant != PRODUCTION).then(|| variant.to_owned());
        let args = BuildArgs { profile, out: Some(out.to_owned()), ..BuildArgs::default() };
        let name = format!("the_{variant}_image_builds");
        let started = Instant::now();
        // What an earlier version of the sources left is not what is tested.
        let built = crate::interrupt::remove_tree(out).and_then(|()| build::run(&args, &Progress::new(Style::Human)));
        match built {
            Ok(_) => tally.pass(&name, started.elapsed()),
            Err(error) => tally.fail(&name, &error),
        }
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).current_dir(self.checkout.root());
        if arguments[0] == "test" {
            self.add_filter(&mut command);
        }
        command
    }

    fn add_filter(&self, command: &mut Command) {
        if let Some(filter) = &self.filter {
            command.args(["--", filter]);
        }
    }

    /// A command whose success is one test.
    fn check(&self, name: &str, mut command: Command, tally: &mut Tally) -> Result<()> {
        let started = Instant::now();
        let status = command.stdin(Stdio::null()).status().with_context(|| format!("Failed to start {name}"))?;
        if status.success() {
            tally.pass(name, started.elapsed());
        } else {
            tally.fail(name, &anyhow::anyhow!("it ended with {status}"));
        }
        Ok(())
    }

    /// A command that prints results as libtest does, which are shown and counted.
    fn suite(&self, name: &str, mut command: Command, tally: &mut Tally) -> Result<()> {
        println!("\n== {name}");
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("Failed to start the tests: {name}"))?;
        let output = child.stdout.take().context("a child without standard output")?;
        let mut counted = tally.begin(name);
        for line in BufReader::new(output).lines() {
            let line = line.with_context(|| format!("Failed to read what the tests print: {name}"))?;
            if !counted.read(&line) {
                // A closed standard output must not end the tests.
                let _ = writeln!(std::io::stdout(), "{line}");
            }
        }
        let status = child.wait().with_context(|| format!("Failed to wait for the tests: {name}"))?;
        tally.end(counted, status.success(), started.elapsed());
        Ok(())
    }
}
