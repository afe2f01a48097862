//! Releases that are signed and logged: whom the broker believes (the trust root), which releases are good (the channel's state), and what a release is worth now. A release is judged again for each boot that runs it, so a new
//! trust root or channel state holds at once.
//!
//! Of trust roots and channel states the newest is kept, and an older one is refused. The heads of logs are kept, too: two heads of one size with different roots are a fork.

use attest::bytes::{Bytes32, Hex};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use transparency::statement::channel::Channel;
use transparency::statement::measured_boot::{MeasuredBoot, Reference};
use transparency::statement::rebuild::Rebuild;
use transparency::time::shown as shown_time;
use transparency::trust_root::TrustRoot;
use transparency::verify::{About, Current, Evidence, Known, Logged, logged, rebuilders};

use super::hello::sha256;
use super::records::{Release, get, put};
use super::{Engine, audit, clock, standing};
use crate::code::{Own, Refusal};
use crate::store::{Error, Table, Transaction};

const TRUST_ROOT: &[u8] = b"trust root";
const CHANNEL: &[u8] = b"channel";
/// The head of each log, by its origin.
const HEAD: &str = "log head ";

/// The newest state of the channel.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptChannel {
    version: u64,
    bundle: String,
    /// Its name: a broker follows one channel. None in a database of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

/// The newest head of a log.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptHead {
    size: u64,
    root: Bytes32,
}

/// What an operator is told: what was done, or what is wrong and what to do.
type Done = Result<(String, String), String>;

fn told(refusal: &Refusal) -> String {
    format!("{}: {}: {}; {}", refusal.code.name(), refusal.code.meaning(), refusal.found, refusal.code.next())
}

fn done(what: String) -> Done {
    Ok((String::new(), what))
}

/// Trust root and channel state as they were at one moment: read in a transaction, and verified outside of it, because verification takes longer than reading.
pub(super) struct Published {
    trust_root: Option<Vec<u8>>,
    channel: Option<KeptChannel>,
}

impl Published {
    /// Reads both.
    pub fn read(open: &dyn Transaction) -> Result<Self, Error> {
        let trust_root = open.get(Table::State, TRUST_ROOT)?;
        Ok(Self { trust_root, channel: get(open, Table::State, CHANNEL)? })
    }

    fn trust_root(&self) -> Result<Option<TrustRoot>, Error> {
        let Some(envelope) = &self.trust_root else { return Ok(None) };
        TrustRoot::first(envelope).map(Some).map_err(|_| Error::Damaged("trust root"))
    }

    /// Runs `work` with the trust root, if there is one.
    pub fn with_root<T>(
        &self,
        work: impl FnOnce(&TrustRoot) -> Result<T, Refusal>,
    ) -> Result<Result<T, Refusal>, Error> {
        Ok(match self.trust_root()? {
            Some(root) => work(&root),
            None => Err(Refusal::new(Own::TrustRootMissing, "no trust root was set")),
        })
    }

    /// The channel's state, and whether it has expired, which is no error for `patience` seconds.
    pub fn current(&self, now: u64, patience: Option<u64>) -> Result<Result<(Current, bool), Refusal>, Error> {
        let Some(kept) = &self.channel else {
            return Ok(Err(Refusal::new(Own::ChannelMissing, "no channel's state was set")));
        };
        self.with_root(|root| {
            let state = logged::<Channel>(kept.bundle.as_bytes(), root, now)?;
            let expires = state.statement.predicate().expires;
            let stale = now >= expires && patience.is_some_and(|patience| now < expires.saturating_add(patience));
            // The last state holds until a newer one can be set.
            let then = if stale { expires.saturating_sub(1) } else { now };
            Ok((Current::new(state, kept.version, then)?, stale))
        })
    }

    /// What an operator may look at.
    pub fn shown(&self, now: u64) -> Result<Value, Error> {
        let root = self.trust_root()?.map(|root| {
            let document = root.document();
            json!({
                "version": document.version,
                "logs": document.logs.iter().map(|log| &log.origin).collect::<Vec<_>>(),
                "witnesses": format!("{} of {}", document.witnesses.threshold, document.witnesses.keys.len()),
            })
        });
        let channel = self.current(now, Some(u64::MAX))?.map(|(channel, stale)| {
            let state = channel.logged().statement.predicate();
            json!({
                "name": state.name,
                "version": state.version,
                "least_epoch": state.least_epoch,
                "expires": shown_time(state.expires),
                "expired": stale,
                "releases": state.releases,
            })
        });
        Ok(json!({"trust_root": root, "channel": channel.ok()}))
    }
}

/// Remembers the head of a log; one that contradicts what is known is a fork.
fn remember(open: &mut dyn Transaction, evidence: &Evidence) -> Result<Result<(), Refusal>, Error> {
    let key = format!("{HEAD}{}", evidence.origin).into_bytes();
    let head = &evidence.checkpoint;
    let kept: Option<KeptHead> = get(open, Table::State, &key)?;
    match kept {
        Some(kept) if kept.size == head.size && kept.root.0 != head.root => {
            let found = format!("the log {} at size {}", evidence.origin, head.size);
            return Ok(Err(Refusal::new(Own::LogFork, found)));
        }
        Some(kept) if kept.size >= head.size => {}
        _ => put(open, Table::State, &key, &KeptHead { size: head.size, root: Bytes32(head.root) })?,
    }
    Ok(Ok(()))
}

/// Takes a trust root: the first because an operator gave it, later ones because the one before names who signs them.
pub(super) fn trust_set(
    open: &mut dyn Transaction,
    envelope: &[u8],
    least_rebuilders: u64,
    now: u64,
) -> Result<Done, Error> {
    let next = match Published::read(open)?.trust_root()? {
        Some(known) => known.next(envelope),
        None => TrustRoot::first(envelope),
    };
    let root = match next {
        Ok(root) => root,
        Err(refusal) => return Ok(Err(told(&refusal.into()))),
    };
    open.put(Table::State, TRUST_ROOT, envelope)?;
    let document = root.document();
    let (keys, logs) = (document.keys.len(), document.logs.len());
    let refused = standing::refused_now(open, least_rebuilders, now)?;
    Ok(done(format!("trust root {}: {keys} keys, {logs} logs{refused}", document.version)))
}

/// Digest of what a bundle says; the same statement may be in several bundles.
fn digest_of_payload(bundle: &str) -> Option<[u8; 32]> {
    let bundle: Value = serde_json::from_str(bundle).ok()?;
    Some(sha256(bundle["dsseEnvelope"]["payload"].as_str()?.as_bytes()))
}

/// Takes a channel's state.
pub(super) fn channel_set(
    open: &mut dyn Transaction,
    bundle: &[u8],
    least_rebuilders: u64,
    now: u64,
) -> Result<Done, Error> {
    let kept: Option<KeptChannel> = get(open, Table::State, CHANNEL)?;
    let highest = kept.as_ref().map_or(0, |kept| kept.version);
    let verified = Published::read(open)?.with_root(|root| {
        let state = logged::<Channel>(bundle, root, now)?;
        Ok((Current::new(state, highest, now)?, root.document().witnesses.threshold))
    })?;
    let (current, threshold) = match verified {
        Ok(verified) => verified,
        Err(refusal) => return Ok(Err(told(&refusal))),
    };
    if let Err(refusal) = remember(open, &current.logged().evidence)? {
        return Ok(Err(told(&refusal)));
    }
    let state = current.logged().statement.predicate();
    let bundle = String::from_utf8_lossy(bundle).into_owned();
    if let Some(kept) = kept {
        if kept.name.as_ref().is_some_and(|name| *name != state.name) {
            let name = kept.name.unwrap_or_default();
            let found = format!("this broker follows {name:?}, the state is of {:?}", state.name);
            return Ok(Err(told(&Refusal::new(Own::ChannelOther, found))));
        }
        let is_same = |kept: &str| digest_of_payload(kept) == digest_of_payload(&bundle);
        if kept.version == state.version && !is_same(&kept.bundle) {
            let found = format!("version {} of the channel has two contents", state.version);
            return Ok(Err(told(&Refusal::new(Own::LogFork, found))));
        }
    }
    // Only a state that is accepted proves a time.
    audit::at_least(open, clock::proved(&current.logged().evidence, threshold, clock::host()))?;
    put(open, Table::State, CHANNEL, &KeptChannel { version: state.version, bundle, name: Some(state.name.clone()) })?;
    let refused = standing::refused_now(open, least_rebuilders, now)?;
    Ok(done(format!(
        "channel {} version {}: {} releases, least epoch {}, expires {}{refused}",
        state.name,
        state.version,
        state.releases.len(),
        state.least_epoch,
        shown_time(state.expires)
    )))
}

/// Allows a release that is signed, logged, good by the channel's state, and rebuilt as often as is asked. Given again, it keeps the rebuilds that it had.
fn release_allow(
    open: &mut dyn Transaction,
    bundle: &[u8],
    rebuilds: &[Hex],
    least_rebuilders: u64,
    allow_debug: bool,
    now: u64,
) -> Result<Done, Error> {
    let published = Published::read(open)?;
    let verified = published.with_root(|root| Ok(logged::<MeasuredBoot>(bundle, root, now)?))?;
    let release = match verified {
        Ok(release) => release,
        Err(refusal) => return Ok(Err(told(&refusal))),
    };
    let Reference::Image(image) = &release.statement.predicate().reference else {
        return Ok(Err("the bundle is of a machine reference: give it to `node enrol`".into()));
    };
    if image.debug && !allow_debug {
        return Ok(Err(
            "this is a debug image: whoever has the console has its disk. If that is meant: --allow-debug".into()
        ));
    }
    let reference = match image.measured().and_then(|_| image.to_bytes()) {
        Ok(reference) => reference,
        Err(error) => return Ok(Err(format!("the image reference cannot be used: {error}"))),
    };
    let judged = match published.current(now, None)? {
        Ok((channel, _)) => judge(&release, &channel, now),
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = judged {
        return Ok(Err(told(&refusal)));
    }
    let id = sha256(&reference);
    let rebuilt = with_those_before(open, &id, rebuilds)?;
    let found = published.with_root(|root| {
        // What is given now must hold; what was given before may have grown old.
        let given = rebuilds.iter().map(|given| {
            let rebuild = logged::<Rebuild>(&given.0, root, now)?;
            rebuild.judge(&release)?;
            Ok(rebuild.evidence)
        });
        let heads = given.collect::<Result<Vec<_>, Refusal>>()?;
        Ok((rebuilders_of(&release, &rebuilt, root, least_rebuilders, now)?, heads))
    })?;
    let (by, heads) = match found {
        Ok(found) => found,
        Err(refusal) => return Ok(Err(told(&refusal))),
    };
    for evidence in heads.iter().chain([&release.evidence]) {
        if let Err(refusal) = remember(open, evidence)? {
            return Ok(Err(told(&refusal)));
        }
    }
    let name = format!("{} {} ({})", image.id, image.version, image.variant);
    let kept = Release {
        name: name.clone(),
        reference: String::from_utf8_lossy(&reference).into_owned(),
        unsigned: false,
        bundle: Some(String::from_utf8_lossy(bundle).into_owned()),
        rebuilds: rebuilt,
    };
    put(open, Table::Releases, &id, &kept)?;
    let Evidence { origin, index, .. } = &release.evidence;
    Ok(done(format!(
        "release {} allowed: {name}, entry {index} of {origin}, built again by {by} ({least_rebuilders} are asked for)",
        hex::encode(id)
    )))
}

/// The rebuilds that a release had, and these.
fn with_those_before(open: &dyn Transaction, id: &[u8], given: &[Hex]) -> Result<Vec<String>, Error> {
    let kept: Option<Release> = get(open, Table::Releases, id)?;
    let mut all = kept.map(|kept| kept.rebuilds).unwrap_or_default();
    for given in given.iter().map(|given| String::from_utf8_lossy(&given.0).into_owned()) {
        if !all.contains(&given) {
            all.push(given);
        }
    }
    Ok(all)
}

/// How many rebuilders made this release again, of whom so many are needed. A rebuild that does not hold any more is none.
pub(super) fn rebuilders_of(
    release: &Logged<MeasuredBoot>,
    rebuilds: &[String],
    root: &TrustRoot,
    least: u64,
    now: u64,
) -> Result<usize, Refusal> {
    let (mut good, mut problems) = (Vec::new(), String::new());
    for rebuild in rebuilds {
        match logged::<Rebuild>(rebuild.as_bytes(), root, now) {
            Ok(rebuild) => good.push(rebuild),
            Err(refusal) => problems += &format!("; one does not count: {refusal}"),
        }
    }
    match rebuilders(release, &good, least) {
        Ok(keys) => Ok(keys.len()),
        Err(mut refusal) => {
            refusal.found += &problems;
            Err(refusal.into())
        }
    }
}

pub(super) fn judge(release: &Logged<MeasuredBoot>, channel: &Current, now: u64) -> Result<(), Refusal> {
    Ok(release.judge(About::Anything, &Known { now, channel: Some(channel), newest: None })?)
}

impl Engine {
    /// Allows a logged release, by this broker's policy.
    pub(super) fn release_allow_logged(
        &self,
        open: &mut dyn Transaction,
        bundle: &[u8],
        rebuilds: &[Hex],
        allow_debug: bool,
    ) -> Result<Done, Error> {
        release_allow(open, bundle, rebuilds, self.settings.least_rebuilders, allow_debug, self.seconds())
    }
}
