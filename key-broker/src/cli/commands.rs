//! Commands and their options. What each does is in [`super`].

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use state_disk::layout::Profile;

use super::layout_of;
use crate::passphrase::PassphraseArgs;

/// Release the keys of disks to nodes that have shown what they run
#[derive(Parser)]
#[command(name = "key-broker", version)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
    /// The broker's file
    #[arg(long, value_name = "FILE", default_value = "broker.toml", global = true)]
    pub(super) config: PathBuf,
    /// JSON instead of text
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Write man pages and shell completions
    Documents(documents::DocumentsArgs),
    /// Make keys, database, cluster.json and broker.toml
    Init(InitArgs),
    /// Serve nodes; sealed until it is opened
    Serve(PassphraseArgs),
    /// Open a running broker
    Unseal(UnsealArgs),
    /// Nodes
    #[command(subcommand)]
    Node(NodeCommand),
    /// Releases that nodes may run
    #[command(subcommand)]
    Release(ReleaseCommand),
    /// Whom the broker believes about logged releases
    #[command(subcommand)]
    Trust(TrustCommand),
    /// Which logged releases are good
    #[command(subcommand)]
    Channel(ChannelCommand),
    /// Disks of nodes
    #[command(subcommand)]
    Disk(DiskCommand),
    /// The audit log
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Why a request was answered as it was
    Explain {
        /// Request that the node's console names
        request: String,
        /// Where to write the event log that the node sent; the references are written beside it, and no file is replaced
        #[arg(long, value_name = "FILE")]
        event_log: Option<PathBuf>,
    },
    /// Write a backup with everything that a new host needs
    Backup {
        /// A file that is not there yet
        file: PathBuf,
    },
    /// Restore a backup and prove it; the broker must not run
    Restore(RestoreArgs),
    /// What the broker is doing
    Status,
}

#[derive(Args)]
#[command(after_help = "Example: key-broker init /etc/cairn-broker --assurance tpm-virtual --listen 192.0.2.10:7443")]
pub(super) struct InitArgs {
    /// Folder to make
    pub(super) folder: PathBuf,
    /// The least that evidence must be worth; there is no default
    #[arg(long)]
    pub(super) assurance: Option<String>,
    /// Where nodes reach the broker
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:7443")]
    pub(super) listen: SocketAddr,
    /// Serial of the nodes' state disks; without it, a node's only disk beside the image's
    #[arg(long)]
    pub(super) slot_serial: Option<String>,
    /// Protection of the sectors of state disks: luks2-xts-1 (encrypted) or luks2-xts-hmac-1 (encrypted and authenticated) [default: luks2-xts-1]
    #[arg(long, value_name = "LAYOUT", value_parser = layout_of, conflicts_with = "cluster")]
    pub(super) disk_layout: Option<Profile>,
    /// A new broker for this cluster
    #[arg(long, value_name = "FILE", requires = "root_key")]
    pub(super) cluster: Option<PathBuf>,
    /// The cluster's root key
    #[arg(long, value_name = "FILE", requires = "cluster")]
    pub(super) root_key: Option<PathBuf>,
    /// Epoch of the new broker's keys
    #[arg(long, default_value_t = 1)]
    pub(super) epoch: u64,
    #[command(flatten)]
    pub(super) passphrase: PassphraseArgs,
}

#[derive(Subcommand)]
pub(super) enum NodeCommand {
    /// Enrol a node
    Enrol {
        /// Its name
        name: String,
        /// SHA-256 of its endorsement key's public area
        #[arg(long)]
        ek: String,
        /// Its machine reference
        #[arg(long, value_name = "FILE")]
        machine: PathBuf,
        /// The bank that it quotes
        #[arg(long, default_value = "sha384")]
        bank: String,
        /// Its first boot waits for `node approve`
        #[arg(long)]
        hold: bool,
    },
    /// All nodes
    List,
    /// One node
    Show {
        /// Its name
        name: String,
    },
    /// Let a held node go on
    Approve {
        /// Its name
        name: String,
        /// Code that the node waits for; with another one nothing is approved
        #[arg(long)]
        code: Option<String>,
    },
    /// Destroy the shares of a node that is gone
    Retire {
        /// Its name
        name: String,
    },
}

#[derive(Subcommand)]
pub(super) enum ReleaseCommand {
    /// Allow a release
    Allow {
        /// Its image reference, with --unsigned-development
        #[arg(required_unless_present = "bundle", conflicts_with = "bundle")]
        reference: Option<PathBuf>,
        /// The Sigstore bundle of its measured-boot statement, as `cargo xtask publish` wrote it
        #[arg(long, value_name = "FILE", conflicts_with = "unsigned_development")]
        bundle: Option<PathBuf>,
        /// Sigstore bundles of rebuilds, as `cargo xtask rebuild` wrote them; those that were given before are kept
        #[arg(long, value_name = "FILE", num_args = 1.., requires = "bundle")]
        rebuild: Vec<PathBuf>,
        /// Nobody signed it; every verdict says `development`
        #[arg(long)]
        unsigned_development: bool,
        /// It may be a debug image
        #[arg(long)]
        allow_debug: bool,
    },
    /// Allow it no more
    Revoke {
        /// The first digits of its id
        id: String,
    },
    /// All that are allowed
    List,
}

#[derive(Subcommand)]
pub(super) enum TrustCommand {
    /// Believe this trust root; a later one must be signed by enough root keys of the one before
    Set {
        /// The signed trust root
        file: PathBuf,
    },
    /// What is believed
    Show,
}

#[derive(Subcommand)]
pub(super) enum ChannelCommand {
    /// Take the channel's newest state
    Set {
        /// Its Sigstore bundle
        file: PathBuf,
    },
    /// The state that is known
    Show,
}

#[derive(Subcommand)]
pub(super) enum DiskCommand {
    /// All disks
    List,
    /// Grant what only a person may
    Grant {
        /// The node
        node: String,
        /// The slot
        #[arg(default_value = "state")]
        slot: String,
        /// Its next disk may be overwritten; the share of the one before is destroyed
        #[arg(long)]
        overwrite: bool,
        /// It gets the disk of this node
        #[arg(long, value_name = "NODE")]
        rebind_from: Option<String>,
        /// Its disk has this generation, after an older database was restored
        #[arg(long)]
        generation: Option<u64>,
    },
    /// Adopt a disk that this broker has no record of
    Adopt(AdoptArgs),
}

#[derive(Args)]
#[command(after_help = "Example: key-broker disk adopt one --generation 7 --recovery one.adoption")]
pub(super) struct AdoptArgs {
    /// The node that the disk belongs to
    pub(super) node: String,
    /// The slot
    #[arg(default_value = "state")]
    pub(super) slot: String,
    /// Adoption document, as `cairn recover --adoption-file` wrote it
    #[arg(long, value_name = "FILE")]
    pub(super) recovery: PathBuf,
    /// Newest known generation of the disk; its statement must name the same
    #[arg(long)]
    pub(super) generation: u64,
    /// The record of another disk in the slot is replaced; its share is destroyed
    #[arg(long)]
    pub(super) replace: bool,
}

#[derive(Subcommand)]
pub(super) enum AuditCommand {
    /// The last decisions
    Tail {
        /// How many
        #[arg(default_value_t = 20)]
        count: usize,
    },
    /// Print the signed head of the log, to be kept elsewhere
    Head {
        /// The head that this witness has signed last
        #[arg(long, value_name = "NAME")]
        witness: Option<String>,
    },
    /// Print the verifier key of the log, by which witnesses know it
    Key,
    /// Compute the log's tree again and compare it with its signed head, and with heads that were kept elsewhere
    Verify {
        /// Files with heads, as `audit head` and the receipts of nodes have them
        #[arg(long, value_name = "FILE", num_args = 1..)]
        heads: Vec<PathBuf>,
    },
}

#[derive(Args)]
pub(super) struct UnsealArgs {
    #[command(flatten)]
    pub(super) passphrase: PassphraseArgs,
    /// Accept all rows of the database as they are: once, for a database of version 4 or older that only this broker has written
    #[arg(long)]
    pub(super) trust_database: bool,
}

#[derive(Args)]
#[command(after_help = "Example: key-broker restore broker.backup --config /etc/cairn-broker/broker.toml")]
pub(super) struct RestoreArgs {
    /// What `backup` wrote
    pub(super) file: PathBuf,
    /// The database that is there is replaced, and kept beside it
    #[arg(long)]
    pub(super) replace: bool,
    /// The file is a database alone, as an earlier restore kept it; no signature is verified
    #[arg(long)]
    pub(super) database_alone: bool,
    /// Accept all rows of a database alone, of version 4 or older, that only this broker has written
    #[arg(long)]
    pub(super) trust_database: bool,
    #[command(flatten)]
    pub(super) passphrase: PassphraseArgs,
}
