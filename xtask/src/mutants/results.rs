//! Which tests passed and failed, read from what `cargo test` prints, and whether that is what a row of the table requires.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};

use super::table::Mutant;

/// How a run of tests ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// All ended, or the limit of so many seconds was over first.
    Ran(Results, Option<u64>),
    /// It does not compile, with the last lines of the compiler.
    NotCompiled(String),
}

/// Results by name of the test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Results {
    tests: BTreeMap<String, Outcome>,
    /// The last lines, for a run without any result.
    end: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    passed: bool,
    /// Arguments with which `cargo test` runs the target of this test alone.
    target: Vec<String>,
}

impl Results {
    /// Reads what `cargo test` and its tests print.
    pub fn parse(text: &str) -> Self {
        let (mut tests, mut target) = (BTreeMap::new(), Vec::new());
        for line in text.lines() {
            if let Some(running) = line.trim_start().strip_prefix("Running ") {
                target = target_of(running);
            }
            let Some(rest) = line.strip_prefix("test ") else { continue };
            let passed = rest.strip_suffix("... ok").map(|name| (name, true));
            if let Some((name, passed)) = passed.or_else(|| rest.strip_suffix("... FAILED").map(|name| (name, false))) {
                tests.insert(name.trim().to_owned(), Outcome { passed, target: target.clone() });
            }
        }
        Self { tests, end: last_lines(text) }
    }

    pub fn extend(&mut self, other: Self) {
        self.tests.extend(other.tests);
        self.end = other.end;
    }

    /// A row may leave the path of modules out.
    fn get(&self, test: &str) -> Option<&Outcome> {
        let is_it = |name: &str| name == test || name.strip_suffix(test).is_some_and(|path| path.ends_with("::"));
        self.tests.iter().find_map(|(name, outcome)| is_it(name).then_some(outcome))
    }

    /// The row's tests exist and pass without its change; arguments of `cargo test` for their targets.
    pub fn targets(&self, mutant: &Mutant) -> Result<Vec<String>> {
        let mut targets: BTreeSet<&[String]> = BTreeSet::new();
        for test in &mutant.tests {
            let Some(outcome) = self.get(test) else { bail!("there is no test {test}:\n{}", self.end) };
            ensure!(outcome.passed, "{test} fails without the change");
            targets.insert(&outcome.target);
        }
        Ok(targets.into_iter().flatten().cloned().collect())
    }
}

/// Each named test must have failed. That others fail, that nothing compiles or that tests hang shows nothing about this check.
pub(super) fn verdict(mutant: &Mutant, run: &Run) -> Result<()> {
    let (results, limit) = match run {
        Run::NotCompiled(why) => bail!("the row is stale, its change does not compile:\n{why}"),
        Run::Ran(results, limit) => (results, limit),
    };
    match (limit, mutant.hangs) {
        (Some(_), true) => return Ok(()),
        (None, true) => bail!("the row has `hangs`, but its tests end"),
        (_, false) => {}
    }
    for test in &mutant.tests {
        match (results.get(test), limit) {
            (Some(Outcome { passed: false, .. }), _) => {}
            (Some(_), _) => bail!("{test} passes without this check"),
            (None, Some(limit)) => bail!("{test} did not end within {limit} s; a row where that is right has `hangs`"),
            (None, None) => bail!("{test} has no result:\n{}", results.end),
        }
    }
    Ok(())
}

/// `unittests src/lib.rs (target/...)`, `tests/mutations/main.rs (target/...)`.
fn target_of(running: &str) -> Vec<String> {
    let path = running.split(" (").next().unwrap_or(running);
    match path.strip_prefix("tests/").and_then(|path| path.split('/').next()) {
        Some(name) => vec!["--test".into(), name.trim_end_matches(".rs").into()],
        None if path == "unittests src/lib.rs" => vec!["--lib".into()],
        None => vec!["--bins".into()],
    }
}

pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
   Compiling attest v0.1.0
     Running unittests src/lib.rs (target/debug/deps/attest-0123)

running 2 tests
test policy::tests::one ... ok
test policy::tests::two ... FAILED
test result: FAILED. 1 passed; 1 failed

     Running tests/mutations/main.rs (target/debug/deps/mutations-0123)
test three ... FAILED
";

    fn row(tests: &[&str], hangs: bool) -> Mutant {
        let tests = tests.iter().map(|&test| test.to_owned()).collect();
        let (name, find, replace) = ("row".into(), "a".into(), "b".into());
        Mutant { name, file: "file".into(), find, replace, package: None, tests, ci: false, hangs }
    }

    fn ran(limit: Option<u64>) -> Run {
        Run::Ran(Results::parse(TEXT), limit)
    }

    #[test]
    fn only_a_failure_of_each_named_test_is_accepted() {
        verdict(&row(&["policy::tests::two"], false), &ran(None)).unwrap();
        verdict(&row(&["two", "three"], false), &ran(None)).unwrap();
        let said = |mutant: &Mutant, run: &Run| verdict(mutant, run).unwrap_err().to_string();
        assert!(said(&row(&["one"], false), &ran(None)).contains("passes without this check"));
        assert!(said(&row(&["two", "one"], false), &ran(None)).contains("passes without this check"));
        // The end of another name is not this name.
        assert!(said(&row(&["wo"], false), &ran(None)).contains("has no result"));
        assert!(said(&row(&["two"], false), &Run::NotCompiled("error".into())).contains("does not compile"));
    }

    #[test]
    fn tests_that_hang_are_accepted_only_where_the_row_says_so() {
        verdict(&row(&["four"], true), &ran(Some(60))).unwrap();
        verdict(&row(&["two"], false), &ran(Some(60))).unwrap();
        let said = |mutant: &Mutant, run: &Run| verdict(mutant, run).unwrap_err().to_string();
        assert!(said(&row(&["four"], false), &ran(Some(60))).contains("did not end within 60 s"));
        assert!(said(&row(&["two"], true), &ran(None)).contains("its tests end"));
    }

    #[test]
    fn target_of_each_test_is_read_and_must_pass_without_the_change() {
        let results = Results::parse(&TEXT.replace("FAILED", "ok"));
        assert_eq!(results.targets(&row(&["one", "two"], false)).unwrap(), ["--lib"]);
        assert_eq!(results.targets(&row(&["three", "one"], false)).unwrap(), ["--lib", "--test", "mutations"]);
        // A suite that was started without cargo.
        let results = Results::parse("test one ... ok\n");
        assert!(results.targets(&row(&["one"], false)).unwrap().is_empty());
        assert!(results.targets(&row(&["five"], false)).is_err());
        assert!(Results::parse(TEXT).targets(&row(&["two"], false)).is_err());
    }
}
