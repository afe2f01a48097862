//! A key broker of a test's own: the real program with a database and keys of its own, on a free port of loopback.

mod operator;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use attest::cluster::Cluster;
use attest::message::{self, Hold, Refused};
use connection::Response;
use measurements::canonical::Document;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::attester::Wire;
use crate::environment::program;
use crate::usage::Process;

pub(crate) const PASSPHRASE: &[u8] = b"a passphrase of a test\n";

/// A broker, running or not. It is killed when dropped.
pub struct Broker {
    folder: tempfile::TempDir,
    program: PathBuf,
    running: Option<Running>,
}

struct Running {
    process: Child,
    port: u16,
    metrics: Option<SocketAddr>,
    // Open, so that the broker can go on writing.
    _output: BufReader<ChildStdout>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Broker {
    /// Makes keys, database and cluster.json; `limits` are lines of the section `[limits]` of broker.toml.
    pub fn new(limits: &str) -> Result<Self> {
        Self::of_assurance("development", limits)
    }

    /// The same, for evidence of at least this assurance.
    pub fn of_assurance(assurance: &str, limits: &str) -> Result<Self> {
        Self::made(&["--assurance", assurance], limits)
    }

    /// One whose nodes protect the sectors of their disks so.
    pub fn with_layout(layout: &str) -> Result<Self> {
        Self::made(&["--assurance", "development", "--disk-layout", layout], "")
    }

    fn made(more: &[&str], limits: &str) -> Result<Self> {
        let broker = Self::in_a_folder()?;
        let mut init = Command::new(&broker.program);
        init.arg("init").arg(broker.place()).args(more).args(["--listen", "127.0.0.1:0"]);
        init.arg("--passphrase-file").arg(broker.passphrase());
        succeed(&mut init)?;
        let toml = broker.file("broker.toml");
        let text = std::fs::read_to_string(&toml)? + "\n[limits]\n" + limits + "\n";
        std::fs::write(&toml, text).context("Failed to set limits")?;
        Ok(broker)
    }

    /// A folder of its own, with a passphrase in it.
    fn in_a_folder() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("cairn-broker-").tempdir().context("Failed to make a folder")?;
        let broker = Self { folder, program: program("key-broker")?, running: None };
        broker.write_passphrase(&broker.passphrase())?;
        Ok(broker)
    }

    /// None yet: a directory with the passphrase of these tests, for a restore.
    pub fn absent() -> Result<Self> {
        Self::in_a_folder()
    }

    /// A new broker of the same cluster, made with its root key: it knows no node and no disk.
    pub fn successor(&self) -> Result<Self> {
        let [cluster, root] = ["cluster.json", "offline/root.key"].map(|name| self.file(name).display().to_string());
        Self::made(&["--cluster", &cluster, "--root-key", &root, "--epoch", "2"], "")
    }

    /// Loses its host: it is killed, and every file is gone.
    pub fn lose(mut self) -> Result<()> {
        self.kill();
        self.folder.close().context("Failed to remove a broker")
    }

    /// The directory that its own directory and its passphrase are in.
    pub fn parent(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it with a command line of a page, in [`Self::parent`], and waits until it is open.
    pub fn run_line(&mut self, line: &str) -> Result<()> {
        let mut serve = shell(&self.program, self.folder.path(), &format!("exec {line}"))?;
        serve.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(self.errors()?);
        self.wait_for(serve, "open")
    }

    /// Runs a command line of a page in [`Self::parent`].
    pub fn line(&self, line: &str) -> Result<Output> {
        shell(&self.program, self.folder.path(), line)?.output().context("Failed to start a shell")
    }

    /// Writes its passphrase to a new file.
    pub fn write_passphrase(&self, path: &Path) -> Result<()> {
        let file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path);
        file.and_then(|mut file| std::io::Write::write_all(&mut file, PASSPHRASE))
            .context("Failed to write a passphrase")
    }

    /// One that runs.
    pub fn start() -> Result<Self> {
        Self::start_with("")
    }

    /// One that runs with these lines of `[limits]`.
    pub fn start_with(limits: &str) -> Result<Self> {
        let mut broker = Self::new(limits)?;
        broker.run()?;
        Ok(broker)
    }

    /// Another process of the same broker: the same keys, the same database, another port.
    pub fn replica(&self) -> Result<Self> {
        let mut replica = Self::in_a_folder()?;
        std::fs::create_dir(replica.place()).context("Failed to make a folder")?;
        for name in ["cluster.json", "certificate.json", "sealed.json", "tls.key", "tls.der", "database"] {
            symlink(self.file(name), replica.file(name)).with_context(|| format!("Failed to share {name}"))?;
        }
        std::fs::write(replica.file("broker.toml"), "listen = \"127.0.0.1:0\"\n").context("Failed to configure")?;
        replica.run()?;
        Ok(replica)
    }

    /// The directory of its files.
    pub fn place(&self) -> PathBuf {
        self.folder.path().join("broker")
    }

    /// The file with its passphrase.
    pub fn passphrase(&self) -> PathBuf {
        self.folder.path().join("passphrase")
    }

    /// One of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.place().join(name)
    }

    /// The bytes of its cluster.json.
    pub fn cluster(&self) -> Result<Vec<u8>> {
        std::fs::read(self.file("cluster.json")).context("Failed to read cluster.json")
    }

    /// Starts it, and waits until it is open.
    pub fn run(&mut self) -> Result<()> {
        self.run_with(&[])
    }

    /// Starts it with variables of the environment.
    pub fn run_with(&mut self, variables: &[(&str, &str)]) -> Result<()> {
        let passphrase = self.passphrase();
        let variables = variables.iter().map(|(name, value)| (*name, OsStr::new(*value)));
        self.serve(Some(&passphrase), &variables.collect::<Vec<_>>(), "open")
    }

    /// Starts it, and leaves it sealed.
    pub fn run_sealed(&mut self) -> Result<()> {
        self.serve(None, &[], "sealed")
    }

    /// Starts it with a folder of credentials, as systemd does.
    pub fn run_by_credential(&mut self, folder: &Path) -> Result<()> {
        self.serve(None, &[("CREDENTIALS_DIRECTORY", folder.as_os_str())], "open")
    }

    /// The same, with a credential that does not open it; what it says.
    pub fn run_by_credential_sealed(&mut self, folder: &Path) -> Result<String> {
        self.serve(None, &[("CREDENTIALS_DIRECTORY", folder.as_os_str())], "sealed")?;
        Ok(String::from_utf8_lossy(&self.printed()?).into_owned())
    }

    /// Opens it.
    pub fn unseal(&self) -> Result<()> {
        let passphrase = self.passphrase().display().to_string();
        self.admin(&["unseal", "--passphrase-file", &passphrase]).map(drop)
    }

    /// Starts it on rows that it has not written: what it prints; it stays sealed.
    pub fn run_refusing_rows(&mut self) -> Result<String> {
        let passphrase = self.passphrase();
        self.serve(Some(&passphrase), &[], "sealed")?;
        Ok(String::from_utf8_lossy(&self.printed()?).into_owned())
    }

    /// Runs the operator's command that accepts the rows of an older version.
    pub fn trust_database(&self) -> Result<()> {
        let passphrase = self.passphrase().display().to_string();
        self.admin(&["unseal", "--trust-database", "--passphrase-file", &passphrase]).map(drop)
    }

    /// Starts it and waits for this line.
    fn serve(&mut self, passphrase: Option<&Path>, variables: &[(&str, &OsStr)], state: &str) -> Result<()> {
        // The same port again: nodes know it.
        if let Some(port) = self.running.take().map(|running| running.port) {
            let toml = self.file("broker.toml");
            let listen = |port| format!("listen = \"127.0.0.1:{port}\"");
            let text = std::fs::read_to_string(&toml)?.replace(&listen(0), &listen(port));
            std::fs::write(&toml, text).context("Failed to keep the port")?;
        }
        let mut serve = Command::new(&self.program);
        serve.arg("serve").arg("--config").arg(self.file("broker.toml"));
        if let Some(path) = passphrase {
            serve.arg("--passphrase-file").arg(path);
        }
        serve.envs(variables.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(self.errors()?);
        self.wait_for(serve, state)
    }

    fn wait_for(&mut self, mut serve: Command, state: &str) -> Result<()> {
        let mut process = serve.spawn().context("Failed to start the key broker")?;
        let mut output = BufReader::new(process.stdout.take().context("the key broker has no output")?);
        let (mut port, mut metrics) = (None, None);
        loop {
            let mut line = String::new();
            if output.read_line(&mut line).context("Failed to read from the key broker")? == 0 {
                // It ended.
                let status = process.wait().context("Failed to wait for the key broker")?;
                bail!("the key broker ended with {status}: {}", String::from_utf8_lossy(&self.printed()?).trim());
            }
            if let Some(address) = line.trim().strip_prefix("listening on ") {
                port = address.rsplit(':').next().and_then(|port| port.parse().ok());
            }
            if let Some(address) = line.trim().strip_prefix("metrics on ") {
                metrics = address.parse().ok();
            }
            match line.trim() {
                line if line == state => break,
                line @ ("open" | "sealed") => {
                    // It runs, and would be waited for without end.
                    let _ = process.kill().and_then(|()| process.wait());
                    bail!(
                        "the key broker is {line}, not {state}: {}",
                        String::from_utf8_lossy(&self.printed()?).trim()
                    );
                }
                _ => {}
            }
        }
        let port = port.context("the key broker named no port")?;
        self.running = Some(Running { process, port, metrics, _output: output });
        Ok(())
    }

    /// Where it writes what it has to say, from start to start.
    fn errors(&self) -> Result<std::fs::File> {
        let file = std::fs::File::options().create(true).append(true).open(self.folder.path().join("stderr"));
        file.context("Failed to keep what the broker says")
    }

    /// What it has printed as errors.
    pub fn printed(&self) -> Result<Vec<u8>> {
        std::fs::read(self.folder.path().join("stderr")).context("Failed to read what the broker said")
    }

    /// Its port on loopback.
    pub fn port(&self) -> Result<u16> {
        self.running.as_ref().map(|running| running.port).context("the broker does not run")
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok((Ipv4Addr::LOCALHOST, self.port()?).into())
    }

    /// Its cluster.
    pub fn cluster_document(&self) -> Result<Cluster> {
        Ok(Cluster::read(&self.cluster()?)?)
    }

    /// A connection to it, as a node's.
    pub fn wire(&self) -> Result<Wire> {
        Wire::open(self.address()?, &self.cluster_document()?)
    }

    /// Where its metrics are.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.running.as_ref()?.metrics
    }

    /// A file of its process in /proc.
    pub fn process_file(&self, name: &str) -> Result<String> {
        let process = self.running.as_ref().map(|running| running.process.id()).context("the broker does not run")?;
        std::fs::read_to_string(format!("/proc/{process}/{name}")).context("the broker has ended")
    }

    /// Sends it a signal, and waits until it has ended.
    pub fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        let running = self.running.as_mut().context("the broker does not run")?;
        nix::sys::signal::kill(Pid::from_raw(running.process.id().cast_signed()), signal)?;
        running.process.wait().context("Failed to wait for the key broker")
    }

    /// Its process.
    pub fn process(&self) -> Result<Process> {
        self.running.as_ref().map(|running| Process::of(running.process.id())).context("the broker does not run")
    }

    /// Memory that it holds, in bytes.
    pub fn memory(&self) -> Result<u64> {
        self.process()?.memory()
    }

    /// A decision that it signed.
    pub fn decision<D: Document>(&self, response: &Response) -> Result<D> {
        let certificate = std::fs::read(self.file("certificate.json")).context("Failed to read certificate.json")?;
        let certificate = self.cluster_document()?.certificate(&certificate)?;
        Ok(message::open(&response.body, &certificate.message_key)?.0)
    }

    /// How it judged: `RELEASED`, the code behind a refusal or a hold, or the status.
    pub fn judged(&self, response: &Response) -> Result<String> {
        match response.status {
            200 => Ok("RELEASED".into()),
            202 => self.code(&self.decision::<Hold>(response)?.request),
            403 => self.code(&self.decision::<Refused>(response)?.request),
            status => Ok(status.to_string()),
        }
    }

    /// Nothing was released, and the audit log has this code.
    pub fn must_refuse(&self, response: &Response, code: &str) -> Result<()> {
        let found = self.judged(response)?;
        ensure!(found == code, "{found}, not {code}");
        Ok(())
    }

    /// Kills it, as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(running) = &mut self.running {
            let _ = running.process.kill();
            let _ = running.process.wait();
        }
    }
}

/// A shell that finds this key broker.
fn shell(program: &Path, directory: &Path, line: &str) -> Result<Command> {
    let programs = program.parent().context("the program is in no directory")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("sh");
    shell.args(["-euc", line]).current_dir(directory).env("PATH", format!("{}:{path}", programs.display()));
    Ok(shell)
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output().context("Failed to start the key broker")?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
