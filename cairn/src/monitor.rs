//! `cairn monitor`: follows a log, and says when it forks, stands still, or has an entry under one of our keys that nobody has published. One look each time; a timer makes a watch of it. An alarm is shown by each look until it is acknowledged.

mod published;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use measurements::canonical;
use reqwest::blocking::Client;
use serde_json::json;
use transparency::monitor::{Alarm, Before, Followed, Look, OpenAlarm, look};
use transparency::tiles::{Files, LARGEST, Problem};
use transparency::time::shown as shown_time;

use crate::inputs::read;
use crate::outputs::replace;
use crate::verify::trust_root;

const ALARM: u8 = 3;
const PATIENCE: Duration = Duration::from_secs(30);
const HOUR: u64 = 3600;

/// Arguments of `monitor`.
#[derive(Args)]
#[command(after_help = "\
Every entry since the last look is read, the tree is computed anew and compared with the head that the log signs. What is kept in --state is what
the next look begins with; keep it where the log's operator cannot write. If a key is new in the trust root, all entries are read again.

An alarm stays, and is shown by each look, until `--acknowledge` names its number. A condition that still holds raises it again under a new number.

Exit codes: 0 no alarm is open; 3 an alarm is open (FORK, UNPUBLISHED, FROZEN); 1 nothing can be said: the log does not answer, or its head is not believed.

Example: cairn monitor https://log.example/api/v2 --trust-root trust-root.json --state log.state --published releases/")]
pub struct MonitorArgs {
    /// Where the log is read: its address, below which there are `checkpoint` and `tile/`, or a folder with these files
    log: String,
    /// Whom to believe; of several, the first is believed, and each must allow the next
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    trust_root: Vec<PathBuf>,
    /// What is kept from look to look; made by the first
    #[arg(long, value_name = "FILE")]
    state: PathBuf,
    /// Directories with everything that was published: statements and bundles (`*.json`), in subdirectories too
    #[arg(long, value_name = "DIR", num_args = 1..)]
    published: Vec<PathBuf>,
    /// Numbers of alarms that need no further action; they are removed before the log is read
    #[arg(long, value_name = "NUMBER", num_args = 1..)]
    acknowledge: Vec<u64>,
    /// Hours without a new entry after which the log is frozen
    #[arg(long, value_name = "HOURS", default_value_t = 168)]
    patience: u64,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Looks, and says what was seen.
pub fn run(args: &MonitorArgs) -> Result<(String, ExitCode)> {
    let root = trust_root(&args.trust_root)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("The clock is before 1970")?.as_secs();
    let mut followed = args.state.exists().then(|| state(&args.state)).transpose()?;
    acknowledge(args, followed.as_mut())?;
    let published = published::digests_in(&args.published)?;
    let log = Source::open(&args.log)?;
    let note = String::from_utf8(log.file("checkpoint")?).context("The log's head is no text")?;
    let patience = args.patience.saturating_mul(HOUR);
    let seen = look(Before { root: &root, followed, published: &published, now, patience }, &note, &log)?;
    replace(&args.state, &canonical::write(&seen.followed)?)?;
    let is_quiet = seen.followed.alarms.iter().next().is_none();
    let code = if is_quiet { ExitCode::SUCCESS } else { ExitCode::from(ALARM) };
    Ok((told(&seen, args.json), code))
}

fn state(path: &Path) -> Result<Followed> {
    canonical::read(&read(path)?).map_err(|error| {
        anyhow!(
            "cannot use the state {}: {error}\nhint: keep this file, and name a new one as --state: the log is then read from its first entry, and alarms that were acknowledged are raised again",
            path.display()
        )
    })
}

/// Removes alarms from the state at once: also where the log does not answer.
fn acknowledge(args: &MonitorArgs, followed: Option<&mut Followed>) -> Result<()> {
    let Some(first) = args.acknowledge.first() else { return Ok(()) };
    let removed = followed.map_or(Err(*first), |followed| {
        followed.alarms.acknowledge(&args.acknowledge)?;
        Ok(&*followed)
    });
    match removed {
        Ok(followed) => replace(&args.state, &canonical::write(followed)?),
        Err(number) => bail!(
            "cannot acknowledge alarm {number}: {} has no open alarm of this number\nhint: run cairn monitor without --acknowledge, and read the numbers",
            args.state.display()
        ),
    }
}

/// Where a log is read.
enum Source {
    Folder(PathBuf),
    Address(String, Client),
}

impl Source {
    fn open(log: &str) -> Result<Self> {
        if Path::new(log).is_dir() {
            return Ok(Self::Folder(log.into()));
        }
        ensure!(
            log.starts_with("https://") || log.starts_with("http://"),
            "{log:?} is neither a folder nor the address of a log"
        );
        let client = Client::builder().timeout(PATIENCE).build().context("Failed to set up the HTTP client")?;
        Ok(Self::Address(log.trim_end_matches('/').to_owned(), client))
    }

    fn read(&self, path: &str) -> Result<Vec<u8>> {
        match self {
            Self::Folder(folder) => read(&folder.join(path)),
            Self::Address(log, client) => {
                let address = format!("{log}/{path}");
                let response = client.get(&address).send().with_context(|| format!("Failed to read {address}"))?;
                ensure!(response.status().is_success(), "Failed to read {address}: it answers {}", response.status());
                let mut bytes = Vec::new();
                response
                    .take(LARGEST as u64 + 1)
                    .read_to_end(&mut bytes)
                    .with_context(|| format!("Failed to read {address}"))?;
                ensure!(bytes.len() <= LARGEST, "{address} has more than {LARGEST} bytes");
                Ok(bytes)
            }
        }
    }
}

impl Files for Source {
    fn file(&self, path: &str) -> std::result::Result<Vec<u8>, Problem> {
        self.read(path).map_err(|error| Problem(format!("{error:#}")))
    }
}

/// Code, what was found, and what to do.
fn described(alarm: &Alarm) -> (&'static str, String, &'static str) {
    const UNPUBLISHED: &str = "find the signed statement; if none of your publishers signed it, an attacker has the key: take it out of the trust root";
    match alarm {
        Alarm::Fork { found, .. } => (
            "FORK",
            found.clone(),
            "keep the state and the log's files: together they prove the fork; tell everybody who accepts this log",
        ),
        Alarm::Unpublished { index, digest } => (
            "UNPUBLISHED",
            format!("entry {index} is signed by one of our keys: sha256:{}", hex::encode(digest.0)),
            UNPUBLISHED,
        ),
        Alarm::Unlisted { index, count } => (
            "UNPUBLISHED",
            format!("{count} further entries are signed by one of our keys, the first is entry {index}"),
            UNPUBLISHED,
        ),
        Alarm::Frozen { seconds } => (
            "FROZEN",
            format!("the log had not grown for {} hours", seconds / HOUR),
            "ask its operator, and read the log by another way: an attacker may show you an old one",
        ),
    }
}

fn told(seen: &Look, json: bool) -> String {
    let Look { followed, read, read_again } = seen;
    if json {
        let alarms = followed.alarms.iter().map(|OpenAlarm { alarm, number, raised }| {
            let (code, found, next) = described(alarm);
            json!({"number": number, "raised": shown_time(*raised), "code": code, "found": found, "next": next})
        });
        let value = json!({
            "origin": followed.origin,
            "size": followed.size,
            "read": read,
            "read_again": read_again,
            "ours": followed.ours(),
            "alarms": alarms.collect::<Vec<_>>(),
        });
        return format!("{value}\n");
    }
    let again = match read_again {
        0 => String::new(),
        _ => format!("again    {read_again}: a key of the trust root is new, and its entries were not judged\n"),
    };
    let mut text = format!(
        "{}\nentries  {}, {read} of them read now\n{again}ours     {}\n",
        followed.origin,
        followed.size,
        followed.ours()
    );
    for OpenAlarm { alarm, number, raised } in followed.alarms.iter() {
        let (code, found, next) = described(alarm);
        let raised = shown_time(*raised);
        text += &format!(
            "{code}\nalarm    {number}, raised {raised}\nfound    {found}\nnext     {next}\nanswered --acknowledge {number}\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_that_reads_entries_again_prints_it() {
        let state =
            br#"{"grown":1,"head":"","keys":[],"origin":"log.example","roots":[],"schema":"cairn.monitor/2","size":0}
"#;
        let mut seen = Look { followed: canonical::read(state).unwrap(), read: 12, read_again: 7 };
        let text = told(&seen, false);
        assert!(text.contains("12 of them read now\nagain    7: a key of the trust root "), "{text}");
        let value: serde_json::Value = serde_json::from_str(&told(&seen, true)).unwrap();
        assert_eq!((&value["read"], &value["read_again"]), (&12.into(), &7.into()));
        seen.read_again = 0;
        assert!(!told(&seen, false).contains("again"));
    }
}
