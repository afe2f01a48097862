//! `cargo xtask channel`: which releases are good. Each state is numbered, expires, and is published as a release is; the next one is made of the newest in the folder, which is verified first, so nothing that somebody put there is taken over.

mod newest;
#[cfg(feature = "log")]
mod next;

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

/// What becomes of a channel.
#[derive(Subcommand, Clone, Debug)]
pub enum ChannelCommand {
    #[cfg(feature = "log")]
    /// Begin a channel with its first good release
    Init {
        #[command(flatten)]
        channel: next::ChannelArgs,
        /// Bundle of the release (*.measured-boot.sigstore.json)
        release: PathBuf,
    },
    #[cfg(feature = "log")]
    /// Say that a release is good, in the next state
    Promote {
        #[command(flatten)]
        channel: next::ChannelArgs,
        /// Bundle of the release (*.measured-boot.sigstore.json)
        release: PathBuf,
    },
    #[cfg(feature = "log")]
    /// Say that a release is good no more, in the next state
    Revoke {
        #[command(flatten)]
        channel: next::ChannelArgs,
        /// The first digits of its statement's SHA-256, or its name
        release: String,
    },
    #[cfg(feature = "log")]
    /// Say the same for longer, or ask for a higher epoch, in the next state
    Renew {
        #[command(flatten)]
        channel: next::ChannelArgs,
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

/// Runs the command.
pub fn run(command: &ChannelCommand) -> Result<String> {
    match command {
        ChannelCommand::Show { name, folder } => newest::show(name, folder),
        #[cfg(feature = "log")]
        ChannelCommand::Init { channel, release } => next::init(channel, release),
        #[cfg(feature = "log")]
        ChannelCommand::Promote { channel, release } => next::promote(channel, release),
        #[cfg(feature = "log")]
        ChannelCommand::Revoke { channel, release } => next::revoke(channel, release),
        #[cfg(feature = "log")]
        ChannelCommand::Renew { channel } => next::renew(channel),
    }
}
