//! How the judgement is told: a table for people, one JSON object for machines.

use measurements::text::for_terminal;
use second_opinion::{CODE, NEXT};
use serde_json::{Map, Value, json};
use transparency::statement::Predicate;
use transparency::statement::measured_boot::{MeasuredBoot, Reference};
use transparency::time::shown as time;
use transparency::verify::{Current, Logged};

use super::judge::Outcome;

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    what: &'static str,
    found: String,
}

impl Row {
    /// One line: names in a statement are those that its publisher chose.
    pub fn new(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, found: for_terminal(found.into()).replace('\n', "\\n") }
    }

    /// What is the same for all kinds of statements.
    pub fn logged<P: Predicate>(kind: &str, found: &Logged<P>, about: Option<&str>) -> Vec<Self> {
        let evidence = &found.evidence;
        let subjects = found.statement.subjects().len();
        let witnesses = evidence.witnesses.iter().map(|(name, at)| format!("{name} at {}", time(*at)));
        let witnesses: Vec<String> = witnesses.collect();
        let none = "none: the trust root asks for none";
        let kind = kind.trim_end_matches(" statement");
        vec![
            Self::new("statement", format!("{kind} sha256:{}", hex::encode(found.digest.0))),
            Self::new("about", about.map_or_else(|| format!("{subjects} files and values"), str::to_owned)),
            Self::new("key", format!("sha256:{}", hex::encode(evidence.key.0))),
            Self::new("log", format!("{}, entry {} of {}", evidence.origin, evidence.index, evidence.checkpoint.size)),
            Self::new("witnesses", if witnesses.is_empty() { none.into() } else { witnesses.join(", ") }),
            Self::new("signed", evidence.time.map_or_else(|| "at a time that nobody vouches for".into(), time)),
        ]
    }

    /// What a release says.
    pub fn release(predicate: &MeasuredBoot) -> Vec<Self> {
        let what = match &predicate.reference {
            Reference::Image(image) => Self::new(
                "image",
                format!(
                    "{} {} {}, epoch {}, revision {}",
                    image.id, image.version, image.variant, image.epoch, image.revision
                ),
            ),
            Reference::Machine(machine) => Self::new("machine", machine.name.clone()),
        };
        let valid = format!("from {} to {}", time(predicate.not_before), time(predicate.not_after));
        vec![what, Self::new("valid", valid)]
    }

    /// What a channel says.
    pub fn channel(current: &Current) -> Self {
        let channel = current.logged().statement.predicate();
        let expires = time(channel.expires);
        Self::new(
            "channel",
            format!(
                "{}, version {}, until {expires}, least epoch {}",
                channel.name, channel.version, channel.least_epoch
            ),
        )
    }
}

/// The text to print; `commands` may be empty.
pub fn told(outcome: &Outcome, commands: &str, json: bool) -> String {
    let (code, found, next) = match outcome {
        Outcome::Verified(rows) if json => {
            let checked: Map<String, Value> =
                rows.iter().map(|row| (row.what.into(), row.found.clone().into())).collect();
            return with_commands(json!({"verdict": "verified", "checked": checked}), commands);
        }
        Outcome::Verified(rows) => {
            let rows = rows.iter().map(|row| format!("{:13}  {}\n", row.what, row.found));
            return format!("VERIFIED\n{}{commands}", rows.collect::<String>());
        }
        Outcome::Refused(refusal) => (refusal.code.name(), refusal.found.clone(), refusal.code.next()),
        Outcome::Disagreement(disagreement) => (CODE, disagreement.to_string(), NEXT),
    };
    if json {
        return with_commands(json!({"verdict": "refused", "code": code, "found": found, "next": next}), commands);
    }
    format!("REFUSED {code}\nfound          {found}\nnext           {next}\n{commands}")
}

fn with_commands(mut value: Value, commands: &str) -> String {
    if !commands.is_empty() {
        value["commands"] = commands.into();
    }
    format!("{value}\n")
}

#[cfg(test)]
mod tests {
    use second_opinion::Disagreement;
    use transparency::{Code, Refusal};

    use super::*;

    #[test]
    fn a_judgement_is_told_to_people_and_to_machines() {
        let verified = Outcome::Verified(vec![Row::new("log", "log.test.invalid, entry 5 of 6")]);
        assert_eq!(told(&verified, "", false), "VERIFIED\nlog            log.test.invalid, entry 5 of 6\n");
        assert_eq!(
            told(&verified, "", true),
            "{\"checked\":{\"log\":\"log.test.invalid, entry 5 of 6\"},\"verdict\":\"verified\"}\n"
        );
        let forged = Outcome::Verified(vec![Row::new("about", "\u{1b}[2J\nkey")]);
        assert_eq!(told(&forged, "", false), "VERIFIED\nabout          \\u{1b}[2J\\nkey\n");
        let refused = Outcome::Refused(Refusal::new(Code::Origin, "another"));
        assert!(told(&refused, "", false).starts_with("REFUSED ORIGIN\nfound          another\nnext           do not"));
        let disagreement = Outcome::Disagreement(Disagreement { by: "x", found: "y".into() });
        let value: Value = serde_json::from_str(&told(&disagreement, "openssl\n", true)).unwrap();
        assert_eq!((&value["code"], &value["commands"]), (&"DISAGREEMENT".into(), &"openssl\n".into()));
        assert_eq!(
            (time(0), time(u64::MAX)),
            ("1970-01-01T00:00:00Z".into(), format!("{} seconds after 1970", u64::MAX))
        );
    }
}
