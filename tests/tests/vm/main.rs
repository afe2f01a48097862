//! Boots images in virtual machines, and attacks them. Run by `cargo xtask test`; one row is `cargo xtask test -- ROW`.

mod boots;
mod host_inputs;
mod root;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use cairn_tests::suite::Suite;
use cairn_tests::watch::EmulatorFailed;
use libtest_mimic::{Arguments, Failed, Trial};

/// How many of the slowest rows are shown.
const SLOWEST: usize = 10;

/// One test: its name, which also names its transcript, and what it does.
struct Row {
    name: &'static str,
    run: Box<Body>,
}

type Body = dyn Fn(&Suite, &str) -> Result<()> + Send + Sync;

impl Row {
    fn new(name: &'static str, run: impl Fn(&Suite, &str) -> Result<()> + Send + Sync + 'static) -> Self {
        Self { name, run: Box::new(run) }
    }
}

type Times = Arc<Mutex<Vec<(Duration, &'static str)>>>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(2);
    let transcripts = concat!(env!("CARGO_TARGET_TMPDIR"), "/vm").into();
    // Listing needs no images; a run without them must not pass.
    let suite = Arc::new(Suite::from_environment(transcripts).map_err(|error| format!("{error:#}")));
    let times = Times::default();
    let rows = [boots::rows(), root::rows(), host_inputs::rows()].into_iter().flatten();
    let trials = rows.map(|row| trial(row, Arc::clone(&suite), Arc::clone(&times))).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    show_slowest(&times);
    conclusion.exit_code()
}

fn trial(row: Row, suite: Arc<Result<Suite, String>>, times: Times) -> Trial {
    Trial::test(row.name, move || {
        let suite = suite.as_ref().as_ref().map_err(|message| Failed::from(message.as_str()))?;
        let started = Instant::now();
        let result = twice_if_inconclusive(&row, suite);
        let elapsed = started.elapsed();
        eprintln!("{:8.1} s  {}", elapsed.as_secs_f64(), row.name);
        times.lock().unwrap_or_else(PoisonError::into_inner).push((elapsed, row.name));
        result.map_err(|error| Failed::from(format!("{error:#}")))
    })
}

/// A machine that QEMU itself broke says nothing about the image; a second time is no accident.
fn twice_if_inconclusive(row: &Row, suite: &Suite) -> Result<()> {
    match (row.run)(suite, row.name) {
        Err(error) if error.is::<EmulatorFailed>() => {
            eprintln!("{}: {error:#}; once more", row.name);
            (row.run)(suite, row.name)
        }
        result => result,
    }
}

fn show_slowest(times: &Times) {
    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner).clone();
    times.sort_by(|a, b| b.cmp(a));
    if times.len() > 1 {
        println!("slowest:");
        for (time, name) in times.iter().take(SLOWEST) {
            println!("{:8.1} s  {name}", time.as_secs_f64());
        }
    }
}
