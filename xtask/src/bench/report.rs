//! The table for people and the document for machines.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// One number of ours beside a peer's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measure {
    /// What was measured.
    pub what: String,
    /// Against what.
    pub against: String,
    /// `s`, `MB`, `MiB`, `ms`.
    pub unit: String,
    /// Ours.
    pub ours: f64,
    /// The peer's, or the bound.
    pub theirs: f64,
    /// Ours may be at most this part of theirs.
    pub goal: f64,
}

impl Measure {
    fn ratio(&self) -> f64 {
        self.ours / self.theirs
    }

    fn met(&self) -> bool {
        self.ratio() <= self.goal
    }
}

/// One number of ours that nobody else's is known for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// Of [`Measure::unit`], or `/s`, or nothing for a count.
    pub unit: String,
    /// Ours.
    pub ours: f64,
}

/// What a group found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Found {
    /// Numbers with a peer or a bound.
    pub measures: Vec<Measure>,
    /// Numbers without.
    pub figures: Vec<Figure>,
    /// What was not measured, and why.
    #[serde(default)]
    pub skipped: Vec<String>,
}

impl Found {
    /// Adds what another group found.
    pub fn extend(&mut self, other: Self) {
        self.measures.extend(other.measures);
        self.figures.extend(other.figures);
        self.skipped.extend(other.skipped);
    }

    /// Adds a number that has to stay within a bound.
    pub fn bounded(&mut self, what: &str, unit: &str, ours: f64, bound: f64) {
        let against = "bound".to_owned();
        self.measures.push(Measure { what: what.into(), against, unit: unit.into(), ours, theirs: bound, goal: 1.0 });
    }

    /// Adds a number that nobody else's is known for.
    pub fn figure(&mut self, what: &str, unit: &str, ours: f64) {
        self.figures.push(Figure { what: what.into(), unit: unit.into(), ours });
    }
}

/// Writes `bench.json` and `bench.txt` to the folder `out`; gives the table.
pub(super) fn write(found: &Found, out: &Path) -> Result<String> {
    let Found { measures, figures, skipped } = found;
    let text = table(measures) + &list(figures) + &not_measured(skipped);
    let rows: Vec<_> = measures
        .iter()
        .map(|measure| serde_json::json!({"measure": measure, "ratio": measure.ratio(), "met": measure.met()}))
        .collect();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let document = serde_json::json!({
        "schema": "cairn.bench/1", "cpus": cpus, "rows": rows, "figures": figures, "skipped": skipped
    });
    fs::create_dir_all(out).with_context(|| format!("Failed to make {}", out.display()))?;
    for (name, content) in [("bench.json", format!("{document:#}\n")), ("bench.txt", text.clone())] {
        let path = out.join(name);
        fs::write(&path, content).with_context(|| format!("Failed to write {}", path.display()))?;
    }
    Ok(text)
}

fn table(measures: &[Measure]) -> String {
    let mut text = format!("\n{:<52} {:>12} {:>12} {:>7} {:>7}\n", "what, against", "ours", "theirs", "ratio", "goal");
    for measure in measures {
        let Measure { what, against, unit, ours, theirs, goal } = measure;
        let verdict = if measure.met() { "" } else { "  missed" };
        text += &format!(
            "{:<52} {:>12} {:>12} {:>7.3} {goal:>7.3}{verdict}\n",
            format!("{what}, {against}"),
            format!("{ours:.2} {unit}"),
            format!("{theirs:.2} {unit}"),
            measure.ratio()
        );
    }
    text
}

fn list(figures: &[Figure]) -> String {
    let mut text = String::new();
    if !figures.is_empty() {
        text += &format!("\n{:<52} {:>12}\n", "what, without a peer", "ours");
    }
    for Figure { what, unit, ours } in figures {
        text += &format!("{what:<52} {:>12}\n", format!("{ours:.2} {unit}"));
    }
    text
}

fn not_measured(skipped: &[String]) -> String {
    let lines = skipped.iter().map(|what| format!("skipped: {what}\n")).collect::<String>();
    if lines.is_empty() { lines } else { format!("\n{lines}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_goal_is_said() {
        let measure =
            |ours| Measure { what: "x".into(), against: "y".into(), unit: "s".into(), ours, theirs: 2.0, goal: 0.5 };
        let text = table(&[measure(1.0), measure(1.1)]);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert!(!lines[0].contains("missed") && lines[1].contains("0.550") && lines[1].contains("missed"), "{text}");
    }

    #[test]
    fn the_document_has_ratios() {
        let folder = tempfile::tempdir().unwrap();
        let mut found = Found::default();
        found.bounded("x", "s", 1.0, 4.0);
        found.figure("y", "/s", 7.0);
        found.skipped.push("z: it is not there".into());
        let text = write(&found, &folder.path().join("new")).unwrap();
        assert!(text.lines().any(|line| line.starts_with("y ") && line.ends_with(" 7.00 /s")), "{text}");
        let json = fs::read(folder.path().join("new/bench.json")).unwrap();
        let document: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!((document["rows"][0]["ratio"].as_f64(), &document["rows"][0]["met"]), (Some(0.25), &true.into()));
        assert_eq!(document["figures"][0]["ours"].as_f64(), Some(7.0));
        assert!(text.ends_with("\nskipped: z: it is not there\n"), "{text}");
        assert_eq!(document["skipped"][0], "z: it is not there");
    }
}
