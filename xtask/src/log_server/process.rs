//! A server that lives as long as its handle.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const START: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(5);
const LAST_LINES: usize = 5;

/// A running program; killed when dropped, and with the thread that started it.
pub(super) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; what it says goes to the file `log`.
    pub fn start(program: &Path, arguments: &[String], log: &Path) -> Result<Self> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = File::create(log).with_context(|| format!("Failed to write {}", log.display()))?;
        let copy = file.try_clone().with_context(|| format!("Failed to write {}", log.display()))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments);
        let child = command.stdin(Stdio::null()).stdout(file).stderr(copy).spawn();
        let child = child.with_context(|| format!("Failed to start {name} with setpriv (package util-linux)"))?;
        Ok(Self { child, name, log: log.to_owned() })
    }

    /// Waits until `is_ready`.
    pub fn wait(&mut self, is_ready: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + START;
        while !is_ready() {
            if let Some(status) = self.child.try_wait().with_context(|| format!("Failed to wait for {}", self.name))? {
                bail!("{} ended with {status}: {}", self.name, self.last_lines());
            }
            if Instant::now() > deadline {
                bail!("{} did not begin to serve within {} s: {}", self.name, START.as_secs(), self.last_lines());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn last_lines(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `count` ports of loopback on which nothing listens just now.
pub(super) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut listeners = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("Failed to listen on loopback")?;
        *port = listener.local_addr().context("A listener without address")?.port();
        // Held until all are found, so that they differ.
        listeners.push(listener);
    }
    Ok(ports)
}

/// What a GET of `path` at this port answers.
pub(super) fn get(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = connect(port)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A connection to this port of loopback.
pub(super) fn connect(port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}
