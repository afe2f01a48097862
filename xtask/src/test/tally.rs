//! Counts results as libtest prints them, and remembers what failed and what was slow.

use std::time::Duration;

/// Beginning of a line that says how long a row took, for example `@time 12.3 s a_row`.
pub const TIME_MARK: &str = "@time ";
/// How many of the slowest are shown.
const SLOWEST: usize = 20;

/// Results so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    failures: Vec<String>,
    /// Suites in which a skipped test is a failure.
    complete: Vec<String>,
    times: Vec<(f64, String)>,
    /// How long each suite took.
    suites: Vec<(f64, String)>,
}

/// Results of one suite that is running.
#[derive(Debug)]
pub(super) struct Counted {
    name: String,
    passed: u64,
    failed: u64,
    skipped: u64,
    failures: Vec<String>,
    times: Vec<(f64, String)>,
}

impl Tally {
    /// In these suites, a skipped test is a failure.
    pub fn requiring(complete: Vec<String>) -> Self {
        Self { complete, ..Self::default() }
    }

    /// A single test has passed.
    pub fn pass(&mut self, name: &str, time: Duration) {
        println!("test {name} ... ok");
        self.passed += 1;
        self.times.push((time.as_secs_f64(), name.to_owned()));
    }

    /// A single test has failed.
    pub fn fail(&mut self, name: &str, error: &anyhow::Error) {
        println!("test {name} ... FAILED\n{error:#}");
        self.failed += 1;
        self.failures.push(name.to_owned());
    }

    /// A suite begins.
    pub fn begin(&self, name: &str) -> Counted {
        Counted { name: name.to_owned(), passed: 0, failed: 0, skipped: 0, failures: vec![], times: vec![] }
    }

    /// A suite has ended. One that fails without a failed test did not compile, or died: that is a failure too.
    pub fn end(&mut self, mut suite: Counted, success: bool, time: Duration) {
        if !success && suite.failed == 0 {
            suite.failed = 1;
            suite.failures.push(format!("{} (did not run to its end)", suite.name));
        }
        if suite.skipped > 0 && self.complete.contains(&suite.name) {
            suite.failed += suite.skipped;
            suite.failures.push(format!("{} ({} skipped, all are required)", suite.name, suite.skipped));
            suite.skipped = 0;
        }
        self.passed += suite.passed;
        self.failed += suite.failed;
        self.skipped += suite.skipped;
        self.failures.append(&mut suite.failures);
        self.suites.push((time.as_secs_f64(), suite.name));
        self.times.append(&mut suite.times);
    }

    /// Time of a suite whose tests were reported one by one.
    pub fn took(&mut self, name: &str, time: Duration) {
        self.suites.push((time.as_secs_f64(), name.to_owned()));
    }

    /// How many failed.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// How long each suite took, the slowest tests, the failures, and the line that counts.
    pub fn report(&self) -> String {
        let mut times = self.times.clone();
        times.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut text = String::new();
        for (title, times) in [("suites", &self.suites[..]), ("slowest", &times[..times.len().min(SLOWEST)])] {
            text += &format!("\n{title}:\n");
            for (seconds, name) in times {
                text += &format!("{seconds:8.1} s  {name}\n");
            }
        }
        if !self.failures.is_empty() {
            text += "failed:\n";
            for name in &self.failures {
                text += &format!("            {name}\n");
            }
        }
        text += &format!("{} passed, {} failed", self.passed, self.failed);
        if self.skipped > 0 {
            text += &format!(", {} skipped", self.skipped);
        }
        text + "\n"
    }
}

impl Counted {
    /// Takes a line of output; true if it is for us alone.
    pub fn read(&mut self, line: &str) -> bool {
        if let Some(rest) = line.strip_prefix(TIME_MARK) {
            if let Some((seconds, name)) = rest.split_once(" s ")
                && let Ok(seconds) = seconds.parse()
            {
                self.times.push((seconds, name.to_owned()));
            }
            return true;
        }
        if let Some(rest) = line.strip_prefix("test result: ") {
            for part in rest.split(['.', ';']) {
                if let Some((count, what)) = part.trim().split_once(' ') {
                    let count = count.parse().unwrap_or(0);
                    match what {
                        "passed" => self.passed += count,
                        "failed" => self.failed += count,
                        "ignored" => self.skipped += count,
                        _ => {}
                    }
                }
            }
        } else if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix("... FAILED")) {
            self.failures.push(name.trim().to_owned());
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts_what_libtest_printed() {
        let mut tally = Tally::default();
        let mut suite = tally.begin("unit");
        for line in [
            "test a ... ok",
            "test b::c ... FAILED",
            "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 7 filtered out; finished in 0.01s",
            "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "@time 3.5 s slow_row",
        ] {
            suite.read(line);
        }
        tally.end(suite, false, Duration::from_secs(9));
        let report = tally.report();
        assert_eq!(report.lines().last(), Some("7 passed, 1 failed, 2 skipped"));
        assert!(report.contains("suites:\n     9.0 s  unit\n"), "{report}");
        assert!(report.contains("3.5 s  slow_row") && report.contains("b::c"), "{report}");
        assert_eq!(tally.failed(), 1);
    }

    #[test]
    fn skipped_test_of_a_complete_suite_is_a_failure() {
        let result = "test result: ok. 3 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        let mut tally = Tally::requiring(vec!["broker".into()]);
        for (name, failed) in [("log", 0), ("broker", 2)] {
            let mut suite = tally.begin(name);
            suite.read(result);
            tally.end(suite, true, Duration::ZERO);
            assert_eq!(tally.failed(), failed, "{name}");
        }
        let report = tally.report();
        assert!(report.contains("broker (2 skipped, all are required)"), "{report}");
        assert!(report.ends_with("6 passed, 2 failed, 2 skipped\n"), "{report}");
    }

    #[test]
    fn a_suite_that_dies_is_a_failure() {
        let mut tally = Tally::default();
        let suite = tally.begin("vm");
        tally.end(suite, false, Duration::ZERO);
        assert!(tally.report().ends_with("0 passed, 1 failed\n"));
        let suite = tally.begin("quiet");
        tally.end(suite, true, Duration::ZERO);
        assert_eq!(tally.failed(), 1);
    }
}
