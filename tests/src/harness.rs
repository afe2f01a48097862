//! Rows: tests with a name in words that share what is costly to make. Each says how long it took.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::watch::EmulatorFailed;

/// What a row does, given what all share and its own name.
type Body<C> = dyn Fn(&C, &str) -> Result<()> + Send + Sync;

/// One test.
pub struct Row<C> {
    name: &'static str,
    run: Box<Body<C>>,
    is_slow: bool,
}

impl<C> Row<C> {
    /// A test; `name` is a sentence.
    pub fn new(name: &'static str, run: impl Fn(&C, &str) -> Result<()> + Send + Sync + 'static) -> Self {
        Self { name, run: Box::new(run), is_slow: false }
    }

    /// The same, only with `cargo xtask test --full` or when it is named.
    pub fn in_full(self) -> Self {
        Self { is_slow: true, ..self }
    }

    /// The same, if it is one of these.
    pub fn in_full_if_among(self, names: &[&str]) -> Self {
        if names.contains(&self.name) { self.in_full() } else { self }
    }

    fn is_wanted(&self, is_full: bool, filter: Option<&str>) -> bool {
        !self.is_slow || is_full || filter.is_some_and(|filter| self.name.contains(filter))
    }
}

/// Why a row cannot be run on this host: it counts as skipped.
#[derive(Debug, thiserror::Error)]
#[error("skipped: {0}")]
pub struct Skipped(pub String);

/// Runs the rows that the command line asks for, `threads` at a time. Without what they share, every row fails.
pub fn run<C: Send + Sync + 'static>(threads: usize, shared: Result<C>, rows: Vec<Row<C>>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(threads);
    let is_full = std::env::var_os(xtask::test::FULL).is_some();
    let (rows, left_out): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| row.is_wanted(is_full, arguments.filter.as_deref()));
    for row in left_out {
        println!("{}: only with --full", row.name);
    }
    let shared = Arc::new(shared.map_err(|error| format!("{error:#}")));
    let times = Arc::new(Mutex::new(Vec::new()));
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
    Trial::ignorable_test(row.name, move || {
        let shared = shared.as_ref().as_ref().map_err(|message| Failed::from(message.as_str()))?;
        let started = Instant::now();
        let result = twice_if_inconclusive(&row, shared);
        let elapsed = started.elapsed();
        times.lock().unwrap_or_else(PoisonError::into_inner).push((row.name, elapsed));
        completion(result)
    })
}

fn completion(result: Result<()>) -> Result<Completion, Failed> {
    match result {
        Ok(()) => Ok(Completion::Completed),
        Err(error) if error.is::<Skipped>() => Ok(Completion::ignored_with(format!("{error:#}"))),
        Err(error) => Err(Failed::from(format!("{error:#}"))),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_row_runs_with_full_or_by_its_name() {
        let (quick, slow) = (Row::new("quick", |(), _| Ok(())), Row::new("slow", |(), _| Ok(())).in_full());
        let wanted = |is_full, filter| (quick.is_wanted(is_full, filter), slow.is_wanted(is_full, filter));
        assert_eq!(wanted(false, None), (true, false));
        assert_eq!(wanted(true, None), (true, true));
        assert_eq!(wanted(false, Some("slo")), (true, true));
        assert_eq!(wanted(false, Some("other")), (true, false));
        let among = |names| Row::<()>::new("it", |(), _| Ok(())).in_full_if_among(names).is_slow;
        assert_eq!((among(&["it", "other"]), among(&["other"])), (true, false));
    }

    #[test]
    fn row_is_run_again_once_after_a_fault_of_the_emulator_and_never_after_its_own() {
        let runs = |errors: &'static [Option<&'static str>]| {
            let count = Arc::new(Mutex::new(0));
            let counted = Arc::clone(&count);
            let row = Row::new("it", move |(), _| {
                let mut count = counted.lock().unwrap();
                *count += 1;
                match errors[*count - 1] {
                    Some("emulator") => Err(EmulatorFailed("the guest waits for a timer".into()).into()),
                    Some(own) => anyhow::bail!(own),
                    None => Ok(()),
                }
            });
            let holds = twice_if_inconclusive(&row, &()).is_ok();
            let count = *count.lock().unwrap();
            (count, holds)
        };
        assert_eq!(runs(&[None]), (1, true));
        assert_eq!(runs(&[Some("emulator"), None]), (2, true));
        assert_eq!(runs(&[Some("emulator"), Some("emulator"), None]), (2, false));
        assert_eq!(runs(&[Some("emulator"), Some("own"), None]), (2, false));
        assert_eq!(runs(&[Some("own"), None]), (1, false));
    }

    #[test]
    fn what_is_skipped_is_not_passed() {
        let rows = [
            Row::new("it_holds", |(), _| Ok(())),
            Row::new("there_is_nothing_to_run_it_with", |(), _| Err(Skipped("no program".into()).into())),
            Row::new("it_does_not_hold", |(), _| anyhow::bail!("no")),
        ];
        let trials = rows.map(|row| trial(row, Arc::new(Ok(())), Times::default()));
        let quiet = Arguments { logfile: Some("/dev/null".into()), ..Arguments::default() };
        let conclusion = libtest_mimic::run(&quiet, trials.into());
        assert_eq!((conclusion.num_passed, conclusion.num_failed, conclusion.num_ignored), (1, 1, 1));
    }
}
