//! `cargo xtask channel`: which releases are good. Each state is numbered, expires, and is published as a release is; the next one is made of the newest in the folder, which is verified first, so nothing that somebody put there is taken over.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use transparency::statement::Statement;
use transparency::statement::channel::{Channel, Release, Standing};
use transparency::statement::measured_boot::{MeasuredBoot, Reference};
use transparency::time::shown;
use transparency::verify::logged;

use crate::files;
use crate::publish::{LogArgs, Publisher};
use crate::statements::prepared;
use crate::trust::refused;

const KIND: &str = "channel";
const DAY: u64 = 86_400;

/// What becomes of a channel.
#[derive(Subcommand, Clone, Debug)]
pub enum ChannelCommand {
    /// Begin a channel with its first good release
    Init {
        #[command(flatten)]
        channel: ChannelArgs,
        /// Bundle of the release (*.measured-boot.sigstore.json)
        release: PathBuf,
    },
    /// Say that a release is good, in the next state
    Promote {
        #[command(flatten)]
        channel: ChannelArgs,
        /// Bundle of the release (*.measured-boot.sigstore.json)
        release: PathBuf,
    },
    /// Say that a release is good no more, in the next state
    Revoke {
        #[command(flatten)]
        channel: ChannelArgs,
        /// The first digits of its statement's SHA-256, or its name
        release: String,
    },
    /// Say the same for longer, or ask for a higher epoch, in the next state
    Renew {
        #[command(flatten)]
        channel: ChannelArgs,
    },
    /// What the newest state says
    Show {
        /// Its name
        name: String,
        /// Folder with its states
        #[arg(long, value_name = "DIR", default_value = "signing/channels")]
        folder: PathBuf,
    },
}

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

/// Runs the command.
pub fn run(command: &ChannelCommand) -> Result<String> {
    match command {
        ChannelCommand::Show { name, folder } => show(name, folder),
        ChannelCommand::Init { channel, release } => {
            ensure!(
                newest(&channel.folder, &channel.name)?.is_none(),
                "The channel {} is there already: `cargo xtask channel promote`",
                channel.name
            );
            next(channel, |publisher, state| promote(publisher, state, release))
        }
        ChannelCommand::Promote { channel, release } => {
            next(channel, |publisher, state| promote(publisher, state, release))
        }
        ChannelCommand::Revoke { channel, release } => next(channel, |_, state| revoke(state, release)),
        ChannelCommand::Renew { channel } => next(channel, |_, _| Ok(true)),
    }
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

/// Names become names of files.
fn check_name(name: &str) -> Result<()> {
    let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    ensure!((1..=32).contains(&name.len()) && name.bytes().all(is_good), "{name:?} is no name: use a-z and 0-9");
    Ok(())
}

/// The newest published state.
fn newest(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    check_name(name)?;
    if !folder.exists() {
        return Ok(None);
    }
    let entries = std::fs::read_dir(folder).with_context(|| format!("Failed to list {}", folder.display()))?;
    let (start, end) = (format!("{name}-v"), format!(".{KIND}.sigstore.json"));
    let is_state = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with(&start) && name.ends_with(&end)
    };
    // Numbers have leading zeros.
    Ok(entries.flatten().map(|entry| entry.path()).filter(is_state).max())
}

fn promote(publisher: &Publisher, state: &mut Channel, bundle: &Path) -> Result<bool> {
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

fn revoke(state: &mut Channel, which: &str) -> Result<bool> {
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

/// The newest state; what it says is verified by whoever uses it.
fn show(name: &str, folder: &Path) -> Result<String> {
    let path = newest(folder, name)?
        .with_context(|| format!("There is no state of {name} in {}: `cargo xtask channel init`", folder.display()))?;
    let bundle = transparency::bundle::Bundle::parse(&files::read(&path)?).map_err(refused)?;
    let statement = Statement::<Channel>::read(&bundle.envelope.unverified_payload()?).map_err(refused)?;
    let Channel { expires, least_epoch, releases, version, .. } = statement.predicate();
    let mut text = format!(
        "{}\nversion      {version}\nleast epoch  {least_epoch}\nexpires      {}\n",
        path.display(),
        shown(*expires)
    );
    for Release { name, standing, statement } in releases {
        let standing = if *standing == Standing::Good { "good" } else { "revoked" };
        text += &format!("{standing:8}     {name}   sha256:{}\n", hex::encode(statement.0));
    }
    Ok(text)
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
            revoke(&mut state, which).unwrap();
            assert_eq!(
                state.releases.iter().map(|release| release.standing).collect::<Vec<_>>(),
                [Standing::Good, Standing::Revoked]
            );
        }
        for which in ["", "a_3", "0"] {
            assert!(revoke(&mut state(), which).is_err(), "{which:?}");
        }
    }

    #[test]
    fn a_good_release_is_named_once_and_a_revoked_one_is_never_good_again() {
        let mut state = state();
        let again = state.releases[1].clone();
        assert!(!call_good(&mut state, again.clone()).unwrap());
        assert_eq!(state.releases.len(), 2);
        assert!(revoke(&mut state, "a_2").unwrap());
        assert!(!revoke(&mut state, "a_2").unwrap());
        let before = state.clone();
        assert!(call_good(&mut state, again).unwrap_err().to_string().contains("stays so"));
        assert_eq!(state, before);
    }

    #[test]
    fn the_newest_state_has_the_highest_number_and_names_are_no_paths() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(newest(folder.path(), "stable").unwrap(), None);
        for name in [
            "stable-v000009.channel.sigstore.json",
            "stable-v000010.channel.sigstore.json",
            "stable-v000011.channel.json",
            "other-v000012.channel.sigstore.json",
        ] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert!(newest(folder.path(), "stable").unwrap().unwrap().ends_with("stable-v000010.channel.sigstore.json"));
        for name in ["", "../x", "a-b", "A"] {
            assert!(newest(folder.path(), name).is_err(), "{name:?}");
        }
    }
}
