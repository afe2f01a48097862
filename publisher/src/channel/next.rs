//! The next state of a channel: made of the newest one, signed, and logged.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use transparency::statement::Statement;
use transparency::statement::channel::{Channel, Release, Standing};
use transparency::statement::measured_boot::{MeasuredBoot, Reference};
use transparency::verify::logged;

use super::newest::{KIND, check_name, newest};
use crate::files;
use crate::known::refused;
use crate::publish::{LogArgs, Publisher};
use crate::statements::prepared;

const DAY: u64 = 86_400;

/// Which channel, and how its next state is published.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Example: cargo xtask channel promote stable cairn_0.1.0.measured-boot.sigstore.json --key signing/release.key --log URL --trust-root signing/trust-root.json"
)]
pub struct ChannelArgs {
    /// Its name
    name: String,
    /// Folder with its states
    #[arg(long, value_name = "DIR", default_value = "signing/channels")]
    folder: PathBuf,
    /// Days for which the new state says something
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    valid_days: u64,
    /// Releases of a lower security epoch are not good; it never falls
    #[arg(long, value_name = "EPOCH")]
    least_epoch: Option<u64>,
    #[command(flatten)]
    where_to: LogArgs,
}

/// Begins a channel with a good release.
pub fn init(args: &ChannelArgs, release: &Path) -> Result<String> {
    ensure!(
        newest(&args.folder, &args.name)?.is_none(),
        "The channel {} is there already: `cargo xtask channel promote`",
        args.name
    );
    promote(args, release)
}

/// Publishes a state in which a release is good.
pub fn promote(args: &ChannelArgs, release: &Path) -> Result<String> {
    next(args, |publisher, state| promoted(publisher, state, release))
}

/// Publishes a state in which a release is revoked.
pub fn revoke(args: &ChannelArgs, release: &str) -> Result<String> {
    next(args, |_, state| revoked(state, release))
}

/// Publishes the same state for longer.
pub fn renew(args: &ChannelArgs) -> Result<String> {
    next(args, |_, _| Ok(true))
}

/// Publishes the state after the newest one, if the change says that there is news.
fn next(args: &ChannelArgs, change: impl FnOnce(&Publisher, &mut Channel) -> Result<bool>) -> Result<String> {
    check_name(&args.name)?;
    let publisher = Publisher::open(&args.where_to)?;
    std::fs::create_dir_all(&args.folder).with_context(|| format!("Failed to make {}", args.folder.display()))?;
    let mut state = match newest(&args.folder, &args.name)? {
        Some(path) => {
            let state = logged::<Channel>(&files::read(&path)?, &publisher.trust, publisher.now).map_err(refused);
            state.with_context(|| format!("{} is not believed", path.display()))?.statement.predicate().clone()
        }
        None => Channel { expires: 0, least_epoch: 0, name: args.name.clone(), releases: vec![], version: 0 },
    };
    ensure!(
        state.name == args.name,
        "The newest state in {} is of the channel {:?}",
        args.folder.display(),
        state.name
    );
    let is_news = change(&publisher, &mut state)?;
    let holds = publisher.now < state.expires;
    if !is_news && holds && args.least_epoch.is_none_or(|epoch| epoch == state.least_epoch) {
        return Ok(format!("version {} of {} says so already\n", state.version, args.name));
    }
    if let Some(epoch) = args.least_epoch {
        ensure!(epoch >= state.least_epoch, "The least epoch is {} and never falls", state.least_epoch);
        state.least_epoch = epoch;
    }
    state.version += 1;
    state.expires = publisher.now.saturating_add(args.valid_days.saturating_mul(DAY));
    let base = format!("{}-v{:06}", args.name, state.version);
    // A state that was signed and not published yet goes on as it was signed.
    let kept = files::read_if_there(&args.folder.join(format!("{base}.{KIND}.json")))?;
    if let Some(kept) = kept.as_deref().and_then(|bytes| Statement::<Channel>::read(bytes).ok()) {
        state.expires = kept.predicate().expires;
    }
    let statement = Statement::channel(state).map_err(refused)?;
    publisher.publish(&prepared(&args.folder, &base, KIND, statement)?)
}

fn promoted(publisher: &Publisher, state: &mut Channel, bundle: &Path) -> Result<bool> {
    let release = logged::<MeasuredBoot>(&files::read(bundle)?, &publisher.trust, publisher.now).map_err(refused);
    let release = release.with_context(|| format!("{} is not believed", bundle.display()))?;
    let Reference::Image(image) = &release.statement.predicate().reference else {
        bail!("{} is of a machine: channels are of images", bundle.display())
    };
    let name = format!("{}_{}", image.id, image.version);
    let name = if image.variant == "production" { name } else { format!("{name}_{}", image.variant) };
    call_good(state, Release { name, standing: Standing::Good, statement: release.digest })
}

/// Whether that is news. What was revoked stays so: nobody makes it good again by repeating an old command.
fn call_good(state: &mut Channel, release: Release) -> Result<bool> {
    ensure!(
        state.standing(&release.statement) != Some(Standing::Revoked),
        "{} is revoked, and stays so: publish the image anew, and promote that",
        release.name
    );
    if state.releases.contains(&release) {
        return Ok(false);
    }
    state.releases.retain(|known| known.statement != release.statement);
    state.releases.push(release);
    Ok(true)
}

fn revoked(state: &mut Channel, which: &str) -> Result<bool> {
    let fits = |release: &&mut Release| {
        !which.is_empty() && (release.name == which || hex::encode(release.statement.0).starts_with(which))
    };
    let mut matching: Vec<&mut Release> = state.releases.iter_mut().filter(fits).collect();
    let [release] = &mut matching[..] else {
        bail!("{} releases are called {which:?}: `cargo xtask channel show {}`", matching.len(), state.name)
    };
    let is_news = release.standing != Standing::Revoked;
    release.standing = Standing::Revoked;
    Ok(is_news)
}

#[cfg(test)]
mod tests {
    use measurements::bytes::Bytes32;

    use super::*;

    fn state() -> Channel {
        let release =
            |name: &str, byte| Release { name: name.into(), standing: Standing::Good, statement: Bytes32([byte; 32]) };
        Channel {
            expires: 9,
            least_epoch: 0,
            name: "stable".into(),
            releases: vec![release("a_1", 1), release("a_2", 2)],
            version: 3,
        }
    }

    #[test]
    fn one_release_is_revoked_by_its_name_or_its_digest() {
        for which in ["a_2", "0202"] {
            let mut state = state();
            revoked(&mut state, which).unwrap();
            assert_eq!(
                state.releases.iter().map(|release| release.standing).collect::<Vec<_>>(),
                [Standing::Good, Standing::Revoked]
            );
        }
        for which in ["", "a_3", "0"] {
            assert!(revoked(&mut state(), which).is_err(), "{which:?}");
        }
    }

    #[test]
    fn a_good_release_is_named_once_and_a_revoked_one_is_never_good_again() {
        let mut state = state();
        let again = state.releases[1].clone();
        assert!(!call_good(&mut state, again.clone()).unwrap());
        assert_eq!(state.releases.len(), 2);
        assert!(revoked(&mut state, "a_2").unwrap());
        assert!(!revoked(&mut state, "a_2").unwrap());
        let before = state.clone();
        assert!(call_good(&mut state, again).unwrap_err().to_string().contains("stays so"));
        assert_eq!(state, before);
    }
}
