//! How an allowed release stands now: by the trust root, the channel's state and the policy that hold at this moment. It is asked for each boot that runs the release, and shown to operators and to whoever collects metrics.

use attest::message::Purpose;
use serde_json::{Value, json};
use transparency::statement::measured_boot::{MeasuredBoot, Reference};
use transparency::verify::{Logged, logged};

use super::Engine;
use super::outcome::Stop;
use super::published::{Published, judge, rebuilders_of};
use super::records::{self, Node, Release};
use crate::code::{Own, Refusal};
use crate::fault;
use crate::store::{Error, Table, Transaction};

/// What is known of a logged release now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Its security epoch.
    pub epoch: u64,
    /// The channel's state has expired; it is still believed for disks that are there.
    pub stale: bool,
}

impl Standing {
    /// That the node has run no release of a higher security epoch.
    pub(super) fn follows(self, node: &Node) -> Result<(), Refusal> {
        let Some(highest) = node.epoch.filter(|highest| self.epoch < *highest) else { return Ok(()) };
        let found = format!("the release has epoch {}, node {} has run {highest}", self.epoch, node.name);
        Err(Refusal::new(Own::EpochRollback, found))
    }
}

/// The channel and the allowed releases, as numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// When the channel's state expires, seconds since 1970; none where there is no state.
    pub expires: Option<u64>,
    /// Whether it has.
    pub expired: bool,
    /// Allowed releases whose nodes would get a disk.
    pub good: usize,
    /// Allowed releases whose nodes would get none.
    pub refused: usize,
}

/// Judges a logged release. After the channel's state has expired it is still believed for `patience` seconds.
fn judged(
    published: &Published,
    (bundle, rebuilds): (&str, &[String]),
    patience: Option<u64>,
    least_rebuilders: u64,
    now: u64,
) -> Result<Result<Standing, Refusal>, Error> {
    let channel = published.current(now, patience)?;
    published.with_root(|root| {
        let release = logged::<MeasuredBoot>(bundle.as_bytes(), root, now)?;
        let (channel, stale) = channel?;
        judge(&release, &channel, now)?;
        if least_rebuilders > 0 {
            rebuilders_of(&release, rebuilds, root, least_rebuilders, now)?;
        }
        Ok(Standing { epoch: epoch_of(&release)?, stale })
    })
}

/// Why no disk would be made for a node that runs this release now; `None` where one would. What nobody signed is judged by nobody.
fn refusal(published: &Published, release: &Release, least: u64, now: u64) -> Result<Option<Refusal>, Error> {
    let Some(bundle) = &release.bundle else { return Ok(None) };
    Ok(judged(published, (bundle, &release.rebuilds), None, least, now)?.err())
}

/// Releases that are allowed, and whose nodes would get no disk now, for the end of a line; nothing where there are none.
pub(super) fn refused_now(open: &dyn Transaction, least: u64, now: u64) -> Result<String, Error> {
    let (published, mut refused) = (Published::read(open)?, Vec::new());
    for (_, release) in records::all::<Release>(open, Table::Releases)? {
        if let Some(refusal) = refusal(&published, &release, least, now)? {
            refused.push(format!("{} ({})", release.name, refusal.code.name()));
        }
    }
    Ok(if refused.is_empty() { String::new() } else { format!("; refused from now on: {}", refused.join(", ")) })
}

/// Allowed releases and what they are judged by, as they were at one moment.
struct Snapshot {
    published: Published,
    releases: Vec<(Vec<u8>, Release)>,
}

impl Engine {
    fn snapshot(&self) -> Result<Snapshot, Error> {
        let mut snapshot = None;
        self.store.look(&mut |open| {
            let releases = records::all(open, Table::Releases)?;
            snapshot = Some(Snapshot { published: Published::read(open)?, releases });
            Ok(())
        })?;
        snapshot.ok_or_else(|| Error::Work("nothing was read".into()))
    }

    /// Trust root and channel state, for operators.
    pub(super) fn published(&self) -> Result<Value, Error> {
        self.snapshot()?.published.shown(self.seconds())
    }

    /// All releases that are allowed, and how each stands.
    pub(super) fn releases(&self) -> Result<Value, Error> {
        let Snapshot { published, releases } = self.snapshot()?;
        let (now, least) = (self.seconds(), self.settings.least_rebuilders);
        let mut shown = Vec::new();
        for (id, release) in releases {
            let verdict = if release.unsigned { "development" } else { "logged" };
            let now = refusal(&published, &release, least, now)?.map_or("good", |refusal| refusal.code.name());
            shown.push(json!({"release": hex::encode(id), "name": release.name, "verdict": verdict, "now": now}));
        }
        Ok(shown.into())
    }

    /// Judges a logged release for a node that runs it.
    pub(super) fn standing(
        &self,
        bundle: &str,
        rebuilds: &[String],
        node: &Node,
        purpose: Purpose,
    ) -> Result<Standing, Stop> {
        let (now, least) = (self.seconds(), self.settings.least_rebuilders);
        let patience = (purpose == Purpose::Unlock).then_some(self.settings.stale_unlock.as_secs());
        let mut published = None;
        self.store.look(&mut |open| {
            published = Some(Published::read(open)?);
            Ok(())
        })?;
        let published = published.ok_or_else(|| Stop::Unavailable("nothing was read".into()))?;
        let standing = self.verifiers.run(|| judged(&published, (bundle, rebuilds), patience, least, now))??;
        standing.follows(node)?;
        Ok(standing)
    }

    /// For metrics; none where the database cannot be read.
    pub fn figures(&self) -> Option<Figures> {
        let Snapshot { published, releases } = self.snapshot().ok()?;
        fault::point("before-figures");
        let (now, least) = (self.seconds(), self.settings.least_rebuilders);
        let mut figures = Figures::default();
        // The last state, however old.
        if let Ok((channel, stale)) = published.current(now, Some(u64::MAX)).ok()? {
            figures.expires = Some(channel.logged().statement.predicate().expires);
            figures.expired = stale;
        }
        for (_, release) in releases {
            match refusal(&published, &release, least, now).ok()? {
                None => figures.good += 1,
                Some(_) => figures.refused += 1,
            }
        }
        Some(figures)
    }
}

fn epoch_of(release: &Logged<MeasuredBoot>) -> Result<u64, Refusal> {
    match &release.statement.predicate().reference {
        Reference::Image(image) => Ok(image.epoch),
        Reference::Machine(_) => Err(Refusal::new(Own::State, "the release is of a machine")),
    }
}
