//! The command line.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use attest::bytes::{Bytes32, Hex};
use clap::{CommandFactory as _, Parser as _};
use input_file::Statement;
use measurements::Bank;
use measurements::text::for_terminal;
use state_disk::layout::Profile;

use crate::config::Config;
use crate::engine::{AdminCommand, Adopt, SecretText};
use crate::init::{self, Plan};
use crate::inputs::{Expected, read};
use crate::passphrase::passphrase;
use crate::restore::Choices;
use crate::seal::secret_text_of;
use crate::{event_log, harden, restore, serve, socket, table};
use commands::{
    AuditCommand, ChannelCommand, Cli, Command, DiskCommand, InitArgs, NodeCommand, ReleaseCommand, RestoreArgs,
    TrustCommand,
};

mod commands;

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
            eprintln!("error: {}", for_terminal(&error));
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
            let RestoreArgs { replace, database_alone, trust_database, .. } = args;
            let choices = Choices { replace, database_alone, trust_database };
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
        Command::Backup { file } => return back_up(&Config::read(config)?, std::path::absolute(file)?, json),
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

/// The broker writes the file. A service can have another `/tmp` than whoever asks.
fn back_up(config: &Config, to: PathBuf, json: bool) -> Result<()> {
    let written = socket::ask(&config.file("admin.sock"), AdminCommand::Backup { to: to.clone() })?;
    ensure!(
        to.exists(),
        "the broker has written {}, and the file does not exist here: as a service, the broker has another /tmp\nhint: name a file in the directory of broker.toml",
        to.display()
    );
    say(&written, json)
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::engine::tests::init;

    /// A fake broker, which says that it has written the file, and writes it only if it sees the same directory.
    fn ask_fake_broker(folder: &Path, to: &Path, sees: bool) -> Result<()> {
        let listener = UnixListener::bind(folder.join("admin.sock")).unwrap();
        let wanted = to.to_owned();
        let fake = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            if sees {
                std::fs::write(&wanted, "").unwrap();
            }
            stream.write_all(b"{\"done\":{\"backup\":\"it\"}}\n").unwrap();
        });
        let asked = back_up(&Config::read(&folder.join("broker.toml")).unwrap(), to.to_owned(), true);
        fake.join().unwrap();
        std::fs::remove_file(folder.join("admin.sock")).unwrap();
        asked
    }

    #[test]
    fn backup_that_only_the_broker_sees_is_an_error() {
        let parent = tempfile::tempdir().unwrap();
        let folder = init(parent.path());
        let to = parent.path().join("backup");
        let error = ask_fake_broker(&folder, &to, false).unwrap_err().to_string();
        assert!(error.contains("does not exist here") && error.contains("hint: "), "{error}");
        ask_fake_broker(&folder, &to, true).unwrap();
    }
}
