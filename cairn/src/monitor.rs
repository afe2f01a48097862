//! `cairn monitor`: follows a log, and says when it forks, stands still, or has an entry under one of our keys that nobody has published. One look each time; a timer makes a watch of it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use clap::Args;
use measurements::canonical;
use reqwest::blocking::Client;
use transparency::bundle::Bundle;
use transparency::monitor::{Alarm, Before, Followed, Look, look, signed};
use transparency::statement::predicate_type;
use transparency::tiles::{Files, LARGEST, Problem};

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
the next look begins with; keep it where the log's operator cannot write.

Exit codes: 0 nothing to see; 3 an alarm (FORK, UNPUBLISHED, FROZEN); 1 nothing can be said: the log does not answer, or its head is not believed.

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
    /// Folders with everything that was published: statements and bundles (`*.json`)
    #[arg(long, value_name = "DIR", num_args = 1..)]
    published: Vec<PathBuf>,
    /// Hours without a new entry after which the log is frozen
    #[arg(long, value_name = "HOURS", default_value_t = 168)]
    patience: u64,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Looks, and says what was seen.
pub fn run(args: &MonitorArgs) -> Result<(String, ExitCode)> {
    let root = trust_root(&args.trust_root)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("The clock is before 1970")?.as_secs();
    let followed: Option<Followed> = if args.state.exists() {
        let kept = canonical::read(&read(&args.state)?);
        Some(kept.with_context(|| format!("{}: name another file to begin anew", args.state.display()))?)
    } else {
        None
    };
    let mut published = BTreeSet::new();
    for folder in &args.published {
        published.extend(digests_in(folder)?);
    }
    let log = Source::open(&args.log)?;
    let note = String::from_utf8(log.file("checkpoint")?).context("The log's head is no text")?;
    let patience = args.patience.saturating_mul(HOUR);
    let seen = look(Before { root: &root, followed, published: &published, now, patience }, &note, &log)?;
    if let Some(followed) = &seen.followed {
        replace(&args.state, &canonical::write(followed)?)?;
    }
    let code = if seen.alarms.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(ALARM) };
    Ok((told(&seen, args.json), code))
}

/// What was signed for every statement in a folder, in bundles or alone; other files are passed over.
fn digests_in(folder: &Path) -> Result<BTreeSet<[u8; 32]>> {
    let entries = fs::read_dir(folder).with_context(|| format!("Failed to list {}", folder.display()))?;
    let mut digests = BTreeSet::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_none_or(|extension| extension != "json") || !path.is_file() {
            continue;
        }
        let bytes = read(&path)?;
        let bundled = Bundle::parse(&bytes).ok().and_then(|bundle| bundle.envelope.unverified_payload().ok());
        let alone = || predicate_type(&bytes).is_ok().then(|| bytes.clone());
        digests.extend(bundled.or_else(alone).map(|statement| signed(&statement)));
    }
    Ok(digests)
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

fn alarm(alarm: &Alarm) -> (&'static str, String, &'static str) {
    match alarm {
        Alarm::Fork(what) => (
            "FORK",
            what.clone(),
            "keep the state and the log's files: together they prove it; tell everybody who believes this log",
        ),
        Alarm::Unpublished { index, digest } => (
            "UNPUBLISHED",
            format!("entry {index} is signed by one of our keys: sha256:{}", hex::encode(digest)),
            "find the statement that was signed; if nobody of yours signed it, the key is in other hands: take it out of the trust root",
        ),
        Alarm::Frozen(seconds) => (
            "FROZEN",
            format!("the log has not grown for {} hours", seconds / HOUR),
            "ask its operator, and read the log by another way: somebody may show you an old one",
        ),
    }
}

fn told(seen: &Look, json: bool) -> String {
    let alarms: Vec<_> = seen.alarms.iter().map(alarm).collect();
    let known = seen.followed.as_ref();
    if json {
        let alarms: Vec<_> = alarms
            .iter()
            .map(|(code, found, next)| serde_json::json!({"code": code, "found": found, "next": next}))
            .collect();
        let (origin, size) = (known.map(|known| &known.origin), known.map(|known| known.size));
        let ours = known.map(|known| known.ours);
        let value =
            serde_json::json!({"origin": origin, "size": size, "read": seen.read, "ours": ours, "alarms": alarms});
        return format!("{value}\n");
    }
    let mut text = known.map_or_else(String::new, |known| {
        format!("{}\nentries  {}, {} of them read now\nours     {}\n", known.origin, known.size, seen.read, known.ours)
    });
    for (code, found, next) in alarms {
        text += &format!("{code}\nfound    {found}\nnext     {next}\n");
    }
    text
}
