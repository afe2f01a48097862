//! `cargo xtask mutants`: each check of the security core is taken out, one at a time, and the tests that are named for it must fail. The table is `tests/mutants.toml`.
//!
//! A mutant is a change of one place in a copy of the sources. First the named tests run on the copy without a change: they must exist and pass. Then, for each row, the place is changed, the tests run again, and each named test must fail. A row
//! whose place is not in its file exactly once, whose change does not compile, or whose tests do not end in time is a failure too.

mod copy;
mod results;
mod table;
mod workshop;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;

use crate::build::tools::Tools;
use crate::checkout::Checkout;
use results::verdict;
use table::{Mutant, TABLE, Table};
use workshop::Workshop;

/// Take each check out and require that its tests fail
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example: cargo xtask mutants --only quote")]
pub struct MutantsArgs {
    /// Only rows whose names contain this; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only the rows that are part of CI
    #[arg(long)]
    quick: bool,
}

impl MutantsArgs {
    /// All rows, or those that are part of CI.
    pub const fn all(quick: bool) -> Self {
        Self { only: Vec::new(), quick }
    }

    fn includes(&self, mutant: &Mutant) -> bool {
        let is_named = self.only.is_empty() || self.only.iter().any(|only| mutant.name.contains(only.as_str()));
        is_named && (mutant.ci || !self.quick)
    }
}

/// Where suites find what they need.
pub struct Environment {
    /// Variables of the suite `broker`.
    pub variables: Vec<(String, OsString)>,
    /// The programs that rows start.
    pub programs: PathBuf,
}

/// The command: the last line counts.
pub fn run(args: &MutantsArgs, tools: &Tools, environment: Option<&Environment>) -> Result<ExitCode> {
    let (mut passed, mut failed) = (0, 0);
    each(args, tools, environment, &mut |name, result, seconds| match result {
        Ok(()) => {
            println!("test mutant_{name} ... ok ({seconds:.1} s)");
            passed += 1;
        }
        Err(error) => {
            println!("test mutant_{name} ... FAILED ({seconds:.1} s)\n{error:#}");
            failed += 1;
        }
    })?;
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is reported of each mutant: its name, whether its tests failed, seconds.
pub type Report<'a> = &'a mut dyn FnMut(&str, Result<()>, f64);

/// Goes through the table. `tools` compile the packages that link libraries of the build root. Without an environment, rows of the suite `broker` are failures that say how to get one.
///
/// # Errors
/// The table cannot be read, no row is asked for, or the copy cannot be made.
pub fn each(args: &MutantsArgs, tools: &Tools, environment: Option<&Environment>, report: Report) -> Result<()> {
    let checkout = Checkout::find()?;
    let table = Table::read(&checkout)?;
    let mutants: Vec<&Mutant> = table.mutant.iter().filter(|mutant| args.includes(mutant)).collect();
    ensure!(!mutants.is_empty(), "no row of {TABLE} is asked for");
    let workshop = Workshop::new(&checkout, tools, environment)?;
    // Rows of one package, and in it of one file, one after the other: little is compiled again.
    let mut groups: BTreeMap<Option<&str>, Vec<&Mutant>> = BTreeMap::new();
    for mutant in mutants {
        groups.entry(mutant.package.as_deref()).or_default().push(mutant);
    }
    for (package, mut mutants) in groups {
        mutants.sort_by_key(|mutant| &mutant.file);
        let plain = workshop.plain(package, &mutants);
        for mutant in mutants {
            let started = Instant::now();
            let result = match &plain {
                Ok(plain) => workshop.change(mutant, plain).and_then(|run| verdict(mutant, &run)),
                Err(error) => Err(anyhow::anyhow!("{error:#}")),
            };
            report(&mutant.name, result, started.elapsed().as_secs_f64());
        }
    }
    Ok(())
}
