//! The command line.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use attest::bytes::{Bytes32, Hex};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use input_file::Statement;
use measurements::Bank;
use state_disk::layout::Profile;

use crate::config::Config;
use crate::engine::{AdminCommand, Adopt, SecretText};
use crate::init::{self, Plan};
use crate::inputs::{Expected, read};
use crate::passphrase::{PassphraseArgs, passphrase};
use crate::restore::Choices;
use crate::seal::secret_text_of;
use crate::{event_log, harden, restore, serve, socket, table};

/// Release the keys of disks to nodes that have shown what they run
#[derive(Parser)]
#[command(name = "key-broker", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The broker's file
    #[arg(long, value_name = "FILE", default_value = "broker.toml", global = true)]
    config: PathBuf,
    /// JSON instead of text
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
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
struct InitArgs {
    /// Folder to make
    folder: PathBuf,
    /// The least that evidence must be worth; there is no default
    #[arg(long)]
    assurance: Option<String>,
    /// Where nodes reach the broker
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:7443")]
    listen: SocketAddr,
    /// Serial of the nodes' state disks; without it, a node's only disk beside the image's
    #[arg(long)]
    slot_serial: Option<String>,
    /// Protection of the sectors of state disks: luks2-xts-1 (encrypted) or luks2-xts-hmac-1 (encrypted and authenticated) [default: luks2-xts-1]
    #[arg(long, value_name = "LAYOUT", value_parser = layout_of, conflicts_with = "cluster")]
    disk_layout: Option<Profile>,
    /// A new broker for this cluster
    #[arg(long, value_name = "FILE", requires = "root_key")]
    cluster: Option<PathBuf>,
    /// The cluster's root key
    #[arg(long, value_name = "FILE", requires = "cluster")]
    root_key: Option<PathBuf>,
    /// Epoch of the new broker's keys
    #[arg(long, default_value_t = 1)]
    epoch: u64,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

#[derive(Subcommand)]
enum NodeCommand {
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
enum ReleaseCommand {
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
enum TrustCommand {
    /// Believe this trust root; a later one must be signed by enough root keys of the one before
    Set {
        /// The signed trust root
        file: PathBuf,
    },
    /// What is believed
    Show,
}

#[derive(Subcommand)]
enum ChannelCommand {
    /// Take the channel's newest state
    Set {
        /// Its Sigstore bundle
        file: PathBuf,
    },
    /// The state that is known
    Show,
}

#[derive(Subcommand)]
enum DiskCommand {
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
struct AdoptArgs {
    /// The node that the disk belongs to
    node: String,
    /// The slot
    #[arg(default_value = "state")]
    slot: String,
    /// Adoption document, as `cairn recover --adoption-file` wrote it
    #[arg(long, value_name = "FILE")]
    recovery: PathBuf,
    /// Newest known generation of the disk; its statement must name the same
    #[arg(long)]
    generation: u64,
    /// The record of another disk in the slot is replaced; its share is destroyed
    #[arg(long)]
    replace: bool,
}

#[derive(Subcommand)]
enum AuditCommand {
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
struct UnsealArgs {
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// Accept all rows of the database as they are: once, for a database of version 4 or older that only this broker has written
    #[arg(long)]
    trust_database: bool,
}

#[derive(Args)]
#[command(after_help = "Example: key-broker restore broker.backup --config /etc/cairn-broker/broker.toml")]
struct RestoreArgs {
    /// What `backup` wrote
    file: PathBuf,
    /// The database that is there is replaced, and kept beside it
    #[arg(long)]
    replace: bool,
    /// Accept all rows of a database alone, of version 4 or older, that only this broker has written
    #[arg(long)]
    trust_database: bool,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Whatever a command writes is the owner's alone, except what everybody may read.
    if !matches!(cli.command, Command::Documents(_)) {
        harden::files();
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let (config, json) = (cli.config.as_path(), cli.json);
    let command = match cli.command {
        Command::Documents(args) => return args.write(&Cli::command()),
        Command::Init(args) => return make(args),
        Command::Serve(args) => return serve::run(&Config::read(config)?, &args),
        Command::Unseal(args) => {
            let config = Config::read(config)?;
            let value = socket::ask_to_unseal(
                &config.file("admin.sock"),
                &passphrase(&args.passphrase, false)?,
                args.trust_database,
            )?;
            return say(&value, json);
        }
        Command::Restore(args) => {
            harden::process();
            let choices = Choices { replace: args.replace, trust_database: args.trust_database };
            return restore::run(config, &args.file, choices, &|| passphrase(&args.passphrase, false));
        }
        Command::Node(NodeCommand::Enrol { name, ek, machine, bank, hold }) => AdminCommand::NodeEnrol {
            name,
            ek: digest_of(&ek)?,
            machine: Hex(read(&machine, Expected::MachineReference)?),
            bank: bank_of(&bank)?,
            hold,
        },
        Command::Node(NodeCommand::List) => AdminCommand::NodeList,
        Command::Node(NodeCommand::Show { name }) => AdminCommand::NodeShow { name },
        Command::Node(NodeCommand::Approve { name, code }) => AdminCommand::NodeApprove { name, code },
        Command::Node(NodeCommand::Retire { name }) => AdminCommand::NodeRetire { name },
        Command::Release(ReleaseCommand::Allow { reference, bundle, rebuild, unsigned_development, allow_debug }) => {
            match (reference, bundle) {
                (_, Some(bundle)) => AdminCommand::ReleaseAllowLogged {
                    bundle: Hex(read(&bundle, Expected::Bundle(Statement::MeasuredBoot))?),
                    rebuilds: rebuild
                        .iter()
                        .map(|path| Ok(Hex(read(path, Expected::Bundle(Statement::Rebuild))?)))
                        .collect::<Result<_>>()?,
                    allow_debug,
                },
                (Some(reference), None) => AdminCommand::ReleaseAllow {
                    reference: Hex(read(&reference, Expected::ImageReference)?),
                    unsigned_development,
                    allow_debug,
                },
                (None, None) => bail!("Name a release: --bundle FILE, or an image reference"),
            }
        }
        Command::Trust(TrustCommand::Set { file }) => {
            AdminCommand::TrustSet { envelope: Hex(read(&file, Expected::TrustRoot)?) }
        }
        Command::Channel(ChannelCommand::Set { file }) => {
            AdminCommand::ChannelSet { bundle: Hex(read(&file, Expected::Bundle(Statement::Channel))?) }
        }
        Command::Trust(TrustCommand::Show) | Command::Channel(ChannelCommand::Show) => AdminCommand::Published,
        Command::Release(ReleaseCommand::Revoke { id }) => AdminCommand::ReleaseRevoke { id },
        Command::Release(ReleaseCommand::List) => AdminCommand::ReleaseList,
        Command::Disk(DiskCommand::List) => AdminCommand::DiskList,
        Command::Disk(DiskCommand::Grant { node, slot, overwrite, rebind_from, generation }) => {
            AdminCommand::DiskGrant { node, slot, overwrite, rebind_from, generation }
        }
        Command::Disk(DiskCommand::Adopt(args)) => AdminCommand::DiskAdopt(Adopt {
            node: args.node,
            slot: args.slot,
            generation: args.generation,
            replace: args.replace,
            document: SecretText::new(secret_text_of(&args.recovery)?),
        }),
        Command::Audit(AuditCommand::Tail { count }) => AdminCommand::AuditTail { count },
        // As they are: a file of a head is what `audit verify --heads` reads.
        Command::Audit(AuditCommand::Head { witness }) => {
            return say_field(config, AdminCommand::AuditHead { witness }, "head", json);
        }
        Command::Audit(AuditCommand::Key) => return say_field(config, AdminCommand::AuditKey, "key", json),
        Command::Audit(AuditCommand::Verify { heads }) => AdminCommand::AuditVerify {
            heads: heads
                .iter()
                .map(|path| Ok(String::from_utf8_lossy(&read(path, Expected::Head)?).into_owned()))
                .collect::<Result<_>>()?,
        },
        Command::Explain { request, event_log } => {
            return explain(&Config::read(config)?, request, event_log.as_deref(), json);
        }
        Command::Backup { file } => AdminCommand::Backup { to: std::path::absolute(file)? },
        Command::Status => AdminCommand::Status,
    };
    say(&socket::ask(&Config::read(config)?.file("admin.sock"), command)?, json)
}

fn explain(config: &Config, request: String, event_log: Option<&Path>, json: bool) -> Result<()> {
    let socket = config.file("admin.sock");
    let mut value = socket::ask(&socket, AdminCommand::Explain { request: request.clone() })?;
    if let Some(file) = event_log {
        let answer = socket::ask(&socket, AdminCommand::EventLog { request })?;
        value["event_log"] = file.display().to_string().into();
        value["hint"] = event_log::write(&answer, file, &config.file("cluster.json"))?.into();
    }
    say(&value, json)
}

/// Prints one field of the answer without its name.
fn say_field(config: &Path, command: AdminCommand, field: &str, json: bool) -> Result<()> {
    let value = socket::ask(&Config::read(config)?.file("admin.sock"), command)?;
    let text = value[field].as_str().unwrap_or_default();
    if json { say(&value, json) } else { Ok(std::io::stdout().write_all(text.as_bytes())?) }
}

fn say(value: &serde_json::Value, json: bool) -> Result<()> {
    let text = if json { format!("{value}\n") } else { table::shown(value, table::terminal_columns()) };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn digest_of(text: &str) -> Result<Bytes32> {
    let bytes = hex::decode(text.strip_prefix("sha256:").unwrap_or(text)).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.map(Bytes32).with_context(|| format!("{text:?} is no SHA-256: give 64 hexadecimal digits"))
}

fn bank_of(text: &str) -> Result<Bank> {
    Bank::ALL
        .into_iter()
        .find(|bank| bank.name() == text)
        .with_context(|| format!("{text:?} is no bank: sha384 or sha256"))
}

fn layout_of(text: &str) -> Result<Profile, String> {
    let names = Profile::ALL.map(Profile::name).join(" or ");
    Profile::named(text).ok_or_else(|| format!("expected {names}"))
}

fn make(args: InitArgs) -> Result<()> {
    let existing = args.cluster.zip(args.root_key).map(|(cluster, root)| (cluster, root, args.epoch));
    let assurance = match &existing {
        // The cluster's own word holds.
        Some(_) => attest::cluster::Assurance::Development,
        None => init::assurance(args.assurance.as_deref())?,
    };
    let plan = Plan {
        folder: args.folder,
        assurance,
        listen: args.listen,
        serial: args.slot_serial,
        layout: args.disk_layout,
        existing,
    };
    init::run(&plan, &passphrase(&args.passphrase, true)?)?;
    println!("{}", plan.folder.display());
    if plan.existing.is_none() {
        println!(
            "Move {} away, to a medium that is on no network: whoever has it opens every disk.",
            plan.folder.join("offline").display()
        );
    }
    Ok(())
}
