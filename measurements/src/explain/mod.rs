//! Why a machine did not measure what was predicted: the first event that differs, the input behind it, whose doing it is, and the next step.
//!
//! With a log, events are walked ([`log`]). Without one there are registers ([`registers`]) or a launch digest ([`launch`]), which say that something differs and not what: then neighbours are
//! tried, and one that fits is the answer.

mod cause;
pub mod launch;
mod log;
pub mod neighbours;
pub mod registers;
mod replay;
#[cfg(test)]
mod tests;

pub use log::{log, log_in};
pub use replay::replay;

use crate::Source;

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is as predicted.
    Match {
        /// What was compared, such as `31 events`.
        compared: String,
        /// Registers that were not, because the prediction does not know them.
        unknown: Vec<u8>,
    },
    /// Something is not.
    Mismatch(Box<Mismatch>),
    /// Nothing can be compared.
    CannotTell(String),
}

/// The first thing that is not as predicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Position of the event in the log, from 0, without events that extend nothing; none without a log.
    pub event: Option<usize>,
    /// Its register: `PCR 4`, `MEASUREMENT`.
    pub register: String,
    /// The algorithm of the digests.
    pub algorithm: &'static str,
    /// The digest that was expected; none where no event of this register was.
    pub expected: Option<String>,
    /// The digest that was found; none where there is none.
    pub found: Option<String>,
    /// What differs, in words.
    pub cause: String,
    /// Whose doing it is.
    pub whose: Source,
    /// What to do.
    pub next: &'static str,
}

/// The verdict for people.
pub fn text(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Match { compared, unknown } if unknown.is_empty() => format!("MATCH: {compared} as predicted\n"),
        Verdict::Match { compared, unknown } => {
            let list: Vec<String> = unknown.iter().map(u8::to_string).collect();
            format!(
                "MATCH as far as can be told: {compared} as predicted; PCR {} {} not compared: `cairn measure` shows why\n",
                list.join(", "),
                if list.len() == 1 { "was" } else { "were" }
            )
        }
        Verdict::CannotTell(reason) => format!("CANNOT TELL: {reason}\n"),
        Verdict::Mismatch(mismatch) => mismatch_text(mismatch),
    }
}

fn mismatch_text(mismatch: &Mismatch) -> String {
    let Mismatch { event, register, algorithm, expected, found, cause, whose, next } = mismatch;
    let shown = |digest: &Option<String>| match digest {
        Some(digest) => format!("{algorithm}:{digest}"),
        None => "no event".to_owned(),
    };
    let place = event.map_or(register.clone(), |event| format!("event {event}, {register}"));
    format!(
        "MISMATCH at {place}\ncause     {cause}\nexpected  {}\nfound     {}\nwhose     {}\nnext      {next}\n",
        shown(expected),
        shown(found),
        whose_text(*whose)
    )
}

fn whose_text(whose: Source) -> &'static str {
    match whose {
        Source::Image => "the image",
        Source::Machine => "the machine, or whoever runs it",
        Source::Configuration => "the cluster's configuration",
    }
}
