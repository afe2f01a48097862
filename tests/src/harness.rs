//! Rows: tests with a name in words that share what is costly to make. Each says how long it took.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

use crate::watch::EmulatorFailed;

/// What a row does, given what all share and its own name.
type Body<C> = dyn Fn(&C, &str) -> Result<()> + Send + Sync;

/// One test.
pub struct Row<C> {
    name: &'static str,
    run: Box<Body<C>>,
    /// Why it does not run.
    skipped: Option<String>,
}

impl<C> Row<C> {
    /// A test; `name` is a sentence.
    pub fn new(name: &'static str, run: impl Fn(&C, &str) -> Result<()> + Send + Sync + 'static) -> Self {
        Self { name, run: Box::new(run), skipped: None }
    }

    /// The same, counted as skipped, for this reason, if there is one.
    pub fn skipped_because(self, reason: Option<&str>) -> Self {
        Self { skipped: reason.map(str::to_owned), ..self }
    }
}

/// Runs the rows that the command line asks for, `threads` at a time. Without what they share, every row fails.
pub fn run<C: Send + Sync + 'static>(threads: usize, shared: Result<C>, rows: Vec<Row<C>>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(threads);
    let shared = Arc::new(shared.map_err(|error| format!("{error:#}")));
    let times = Arc::new(Mutex::new(Vec::new()));
    for row in &rows {
        if let Some(reason) = &row.skipped {
            println!("skipped, {}: {reason}", row.name);
        }
    }
    let trials = rows.into_iter().map(|row| trial(row, Arc::clone(&shared), Arc::clone(&times))).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    for (name, time) in times.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        println!("{}", time_line(name, *time));
    }
    conclusion.exit_code()
}

/// Names the rows without running them, where this host cannot run them: they count as skipped.
pub fn skip<C>(reason: &str, rows: Vec<Row<C>>) -> ExitCode {
    println!("skipped, all {} rows: {reason}", rows.len());
    let trials = rows.into_iter().map(|row| Trial::test(row.name, || Ok(())).with_ignored_flag(true)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

type Times = Arc<Mutex<Vec<(&'static str, Duration)>>>;

fn trial<C: Send + Sync + 'static>(row: Row<C>, shared: Arc<Result<C, String>>, times: Times) -> Trial {
    let is_skipped = row.skipped.is_some();
    let trial = Trial::test(row.name, move || {
        let shared = shared.as_ref().as_ref().map_err(|message| Failed::from(message.as_str()))?;
        let started = Instant::now();
        let result = twice_if_inconclusive(&row, shared);
        let elapsed = started.elapsed();
        times.lock().unwrap_or_else(PoisonError::into_inner).push((row.name, elapsed));
        result.map_err(|error| Failed::from(format!("{error:#}")))
    });
    trial.with_ignored_flag(is_skipped)
}

/// A machine that QEMU itself broke says nothing about the image; a second time is no accident.
fn twice_if_inconclusive<C>(row: &Row<C>, shared: &C) -> Result<()> {
    match (row.run)(shared, row.name) {
        Err(error) if error.is::<EmulatorFailed>() => {
            eprintln!("{}: {error:#}; once more", row.name);
            (row.run)(shared, row.name)
        }
        result => result,
    }
}

/// The line from which `cargo xtask test` learns how long a row took.
fn time_line(name: &str, time: Duration) -> String {
    format!("{}{:.1} s {name}", xtask::test::TIME_MARK, time.as_secs_f64())
}
