//! The admin socket: one line of JSON in, one line out. Only root and the broker's own user may use it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::backup;
use crate::engine::{AdminCommand, Engine, Keys};
use crate::seal;
use crate::server::ACCEPT_RETRY;

/// Longest line: a machine reference in hexadecimal digits.
const LARGEST: u64 = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    /// Opens the broker.
    Unseal(String),
    /// Opens the broker on a database whose rows have no authentication codes.
    UnsealAndTrust(String),
    /// Everything else.
    Admin(AdminCommand),
}

/// What is answered.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Said {
    Done(Value),
    Problem(String),
}

/// Where the files of the broker are that the socket needs.
#[derive(Clone)]
pub struct Files {
    /// The sealed box.
    pub sealed: PathBuf,
    /// The broker's certificate.
    pub certificate: PathBuf,
    /// broker.toml.
    pub configuration: PathBuf,
}

impl Files {
    /// Those beside this broker.toml.
    pub fn beside(configuration: &Path) -> Self {
        let file = |name| configuration.with_file_name(name);
        Self {
            sealed: file("sealed.json"),
            certificate: file("certificate.json"),
            configuration: configuration.to_owned(),
        }
    }
}

/// Opens the engine with a passphrase.
pub fn unseal(engine: &Engine, files: &Files, passphrase: &[u8]) -> Result<()> {
    engine.unseal(keys(files, passphrase)?)
}

/// Opens the engine with a passphrase, and accepts the rows of its database as they are; their number.
pub fn unseal_and_trust(engine: &Engine, files: &Files, passphrase: &[u8]) -> Result<usize> {
    engine.unseal_and_trust(keys(files, passphrase)?)
}

fn keys(files: &Files, passphrase: &[u8]) -> Result<Keys> {
    let sealed = seal::read(&files.sealed)?;
    let contents = seal::open(&sealed, &files.sealed, passphrase)?;
    let certificate = std::fs::read(&files.certificate)
        .with_context(|| format!("Failed to read {}: restore it", files.certificate.display()))?;
    contents.keys(&sealed, certificate)
}

/// Listens; a socket that nobody answers at is replaced.
pub fn listen(path: &Path) -> Result<UnixListener> {
    if UnixStream::connect(path).is_ok() {
        bail!("A broker answers at {} already: stop it first", path.display());
    }
    // Left over from a broker that was killed, or not there.
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).with_context(|| format!("Failed to listen at {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("Failed to protect {}", path.display()))?;
    Ok(listener)
}

/// Serves for ever, in threads of its own.
pub fn serve(listener: UnixListener, engine: Arc<Engine>, files: Files) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                std::thread::sleep(ACCEPT_RETRY);
                continue;
            };
            let (engine, files) = (engine.clone(), files.clone());
            std::thread::spawn(move || {
                // Whoever asked has gone.
                let _ = converse(stream, &engine, &files);
            });
        }
    });
}

fn converse(mut stream: UnixStream, engine: &Engine, files: &Files) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let peer = getsockopt(&stream, PeerCredentials)?.uid();
    if peer != 0 && peer != geteuid().as_raw() {
        bail!("user {peer} may not administer the broker");
    }
    let mut line = Zeroizing::new(String::new());
    BufReader::new((&stream).take(LARGEST)).read_line(&mut line)?;
    let said = match serde_json::from_str(&line) {
        Err(error) => {
            Said::Problem(format!("the command is not understood: {error}; use the key-broker of this version"))
        }
        Ok(Line::Unseal(passphrase)) => {
            let passphrase = Zeroizing::new(passphrase);
            match unseal(engine, files, passphrase.as_bytes()) {
                Ok(()) => Said::Done(serde_json::json!({"state": "serving"})),
                Err(error) => Said::Problem(format!("{error:#}")),
            }
        }
        Ok(Line::UnsealAndTrust(passphrase)) => {
            let passphrase = Zeroizing::new(passphrase);
            match unseal_and_trust(engine, files, passphrase.as_bytes()) {
                Ok(trusted) => Said::Done(serde_json::json!({"state": "serving", "trusted_rows": trusted})),
                Err(error) => Said::Problem(format!("{error:#}")),
            }
        }
        Ok(Line::Admin(AdminCommand::Backup { to })) => backup::write(engine, &files.configuration, &to)
            .map_or_else(|error| Said::Problem(format!("{error:#}")), Said::Done),
        Ok(Line::Admin(command)) => engine.admin(&command).map_or_else(Said::Problem, Said::Done),
    };
    let mut answer = serde_json::to_vec(&said)?;
    answer.push(b'\n');
    Ok(stream.write_all(&answer)?)
}

/// Asks a running broker.
pub fn ask(socket: &Path, command: AdminCommand) -> Result<Value> {
    exchange(socket, &Line::Admin(command))
}

/// Opens a running broker.
pub fn ask_to_unseal(socket: &Path, passphrase: &[u8], trust: bool) -> Result<Value> {
    let text = std::str::from_utf8(passphrase).context("The passphrase is not UTF-8")?.to_owned();
    exchange(socket, &if trust { Line::UnsealAndTrust(text) } else { Line::Unseal(text) })
}

fn exchange(socket: &Path, line: &Line) -> Result<Value> {
    let advice = || format!("No broker answers at {}: key-broker serve", socket.display());
    let mut stream = UnixStream::connect(socket).with_context(advice)?;
    let mut bytes = Zeroizing::new(serde_json::to_vec(line)?);
    bytes.push(b'\n');
    if bytes.len() as u64 > LARGEST {
        bail!(
            "cannot send the command: its files have {} bytes as hexadecimal digits, maximum {LARGEST}\nhint: name fewer files at once",
            bytes.len()
        );
    }
    stream.write_all(&bytes).with_context(advice)?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).with_context(advice)?;
    match serde_json::from_str(&answer).context("The broker refused: are you its user, or root?")? {
        Said::Done(value) => Ok(value),
        Said::Problem(problem) => bail!(problem),
    }
}
