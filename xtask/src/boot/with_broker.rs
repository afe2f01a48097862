//! `cargo xtask boot --with-broker`: a key broker and a node on one host, so that somebody new sees the whole exchange. The node boots twice: it proves what it runs, makes its disk, reboots and unlocks it.
//!
//! Everything is kept in one folder. Run again, the same node boots once more against the same broker; with `--change-a-byte` it boots an image in which one byte differs, and is refused.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::interrupts::Interrupts;
use super::outcome::Outcome;
use super::terminal::Terminal;
use super::{BootArgs, copy_to_standard_output, watch_vm};
use crate::checkout::Checkout;
use crate::configure;
use crate::machine::config::{FOLDER as MACHINES, MachineConfig};
use crate::machine::firmware::Firmware;
use crate::progress::Progress;
use crate::sandbox::{Network, Sandbox};
use crate::store::Store;
use crate::vm::emulated_tpm::{EmulatedTpm, endorsement_key_digest};
use crate::vm::pcr::Bank;
use crate::vm::{Machine, Tpm, Vm};

/// The machine that is started, one of `measurements/machines`.
const MACHINE: &str = "q35-ovmf-2025.02-2cpus-1gib-node";
/// What the node is called.
const NODE: &str = "demo";
const DISK: u64 = 2 << 30;
/// The host's loopback, as a guest behind QEMU's user networking sees it.
const HOST: &str = "10.0.2.2";
const RUNNING: &str = "Reached target multi-user.target";
/// Text of the image that is shown to people, and measured: a good place for a change that still boots.
const CHANGED: &[u8] = b"PRETTY_NAME=\"Cairn";
const MOST_SECONDS: u64 = 600;

/// Where everything of the demonstration is.
struct Places {
    folder: PathBuf,
}

impl Places {
    fn broker(&self) -> PathBuf {
        self.folder.join("broker")
    }

    fn configuration(&self) -> PathBuf {
        self.broker().join("broker.toml")
    }

    fn passphrase(&self) -> PathBuf {
        self.folder.join("passphrase")
    }

    fn image(&self) -> PathBuf {
        self.folder.join("node.raw")
    }

    fn disk(&self) -> PathBuf {
        self.folder.join("state.raw")
    }

    fn tpm(&self) -> PathBuf {
        self.folder.join("tpm")
    }
}

/// Runs the demonstration with `image`.
pub(super) fn run(args: &BootArgs, image: &Path, build_root: &Path, interrupts: &Interrupts) -> Result<ExitCode> {
    let checkout = Checkout::find()?;
    let begun = Instant::now();
    let places = Places { folder: args.keep_in.clone().unwrap_or_else(|| checkout.target().join("with-broker")) };
    let program = compile(&checkout)?;
    let first = args.fresh || !places.folder.exists();
    if first {
        set_up(&places, &program)?;
    }
    let broker = Broker::start(&program, &places)?;
    configure_node(&places, image, &broker.address)?;
    let sandbox = Sandbox::new(build_root).network(Network::Host);
    if first {
        enrol(&broker, &places, image, &checkout, &sandbox)?;
    }
    if args.change_a_byte {
        change_a_byte(&places.image())?;
    }
    let config = MachineConfig::read(&checkout, MACHINE)?;
    let firmware = Firmware::get(&config.firmware, &checkout, &Store::open()?, &Progress::silent())?;
    let machine = config.machine(&places.image(), &firmware)?;
    let tpm = machine.tpm.clone().map(|tpm| Tpm { state: Some(places.tpm()), ..tpm });
    let machine = Machine { tpm, kept_disks: vec![places.disk()], ..machine };
    let boots = if first { 2 } else { 1 };
    for boot in 1..=boots {
        say(&format!("boot {boot} of {boots}: the node attests to the broker at {}", broker.address));
        let (outcome, console) = boot_once(&sandbox, &machine, interrupts)?;
        if let Outcome::Seen(_) = outcome {
            continue;
        }
        say(&outcome.to_string());
        if let Some(request) = refused_request(&console) {
            say("the broker's reason:");
            broker.show(&["explain", &request])?;
        }
        return Ok(ExitCode::from(outcome.exit_code()));
    }
    broker.show(&["disk", "list"])?;
    broker.show(&["audit", "tail"])?;
    let story =
        if first { "attested, made its disk, rebooted and unlocked it" } else { "attested and unlocked its disk" };
    say(&format!("OK: the node {story}, in {:.0} s", begun.elapsed().as_secs_f64()));
    Ok(ExitCode::SUCCESS)
}

fn say(text: &str) {
    eprintln!("== {text}");
}

/// `key-broker` of this checkout.
fn compile(checkout: &Checkout) -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "key-broker", "--manifest-path"]).arg(checkout.join("Cargo.toml"));
    let status = cargo.status().context("Failed to run cargo")?;
    ensure!(status.success(), "the key broker does not compile: see above");
    Ok(checkout.target().join("debug/key-broker"))
}

/// A broker's keys, a passphrase, and a blank disk.
fn set_up(places: &Places, program: &Path) -> Result<()> {
    if places.folder.exists() {
        fs::remove_dir_all(&places.folder).with_context(|| format!("Failed to remove {}", places.folder.display()))?;
    }
    fs::create_dir_all(&places.folder).with_context(|| format!("Failed to make {}", places.folder.display()))?;
    let mut random = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut source| std::io::Read::read_exact(&mut source, &mut random))
        .context("Failed to read random bytes")?;
    let file = File::options().write(true).create_new(true).mode(0o600).open(places.passphrase());
    file.and_then(|file| file.write_all_at(hex::encode(random).as_bytes(), 0))
        .context("Failed to keep a passphrase")?;
    let disk = File::create_new(places.disk()).and_then(|disk| disk.set_len(DISK));
    disk.context("Failed to make a state disk")?;
    say("key-broker init: keys, database, cluster.json");
    let mut init = Command::new(program);
    init.arg("init").arg(places.broker()).args(["--assurance", "development", "--listen", "127.0.0.1:0"]);
    init.arg("--passphrase-file").arg(places.passphrase());
    must_succeed(&mut init)
}

/// The image of this node: it knows its cluster, and where to find the broker.
fn configure_node(places: &Places, image: &Path, address: &str) -> Result<()> {
    let cluster = places.broker().join("cluster.json");
    let cluster = fs::read(&cluster).with_context(|| format!("Failed to read {}", cluster.display()))?;
    let (_, port) = address.rsplit_once(':').context("the broker names no port")?;
    let hints = format!("{{\"brokers\":[\"{HOST}:{port}\"],\"schema\":\"cairn.hints/1\"}}\n");
    if places.image().exists() {
        fs::remove_file(places.image()).context("Failed to remove the old copy of the image")?;
    }
    configure::write(image, &cluster, Some(hints.as_bytes()), &places.image())
}

/// Tells the broker which node there is, in which machine, and which release it may run.
fn enrol(broker: &Broker, places: &Places, image: &Path, checkout: &Checkout, sandbox: &Sandbox) -> Result<()> {
    let reference = image.with_extension("reference.json");
    ensure!(reference.is_file(), "{} is missing: build the image anew", reference.display());
    EmulatedTpm::manufacture(sandbox, &places.folder, &Bank::ALL)?;
    let ek = hex::encode(endorsement_key_digest(sandbox, &places.folder)?);
    say(&format!("node enrol {NODE}: its TPM has the endorsement key sha256:{ek}"));
    let machine = checkout.join(MACHINES).join(format!("{MACHINE}.machine.json"));
    let (machine, reference) = (machine.display().to_string(), reference.display().to_string());
    broker.show(&["node", "enrol", NODE, "--ek", &ek, "--machine", &machine])?;
    broker.show(&["release", "allow", "--unsigned-development", &reference])
}

/// Makes one letter of the image's name small.
fn change_a_byte(image: &Path) -> Result<()> {
    let bytes = fs::read(image).with_context(|| format!("Failed to read {}", image.display()))?;
    let found = bytes.windows(CHANGED.len()).position(|window| window == CHANGED);
    let at = (found.context("the image has no name to change")? + CHANGED.len() - "Cairn".len()) as u64;
    let file = File::options().write(true).open(image).and_then(|file| file.write_all_at(b"c", at));
    file.with_context(|| format!("Failed to write {}", image.display()))?;
    say(&format!("changed byte {at} of {}: the C of the image's name is a c now", image.display()));
    Ok(())
}

fn boot_once(sandbox: &Sandbox, machine: &Machine, interrupts: &Interrupts) -> Result<(Outcome, String)> {
    let mut vm = Vm::start(sandbox, machine, copy_to_standard_output())?;
    let limit = std::time::Duration::from_secs(MOST_SECONDS);
    let outcome = watch_vm(&mut vm, Some(RUNNING), Some(limit), &Terminal::none(), interrupts)?;
    let console = vm.console().text();
    Ok((outcome, console))
}

/// The request that the agent names when it was refused.
fn refused_request(console: &str) -> Option<String> {
    let line = console.lines().find(|line| line.contains("code=ATTESTATION_REFUSED"))?;
    let is_request = |word: &&str| word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    line.split(|character: char| !character.is_ascii_alphanumeric()).find(is_request).map(str::to_owned)
}

fn must_succeed(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().context("Failed to start the key broker")?;
    ensure!(status.success(), "{command:?} failed: see above");
    Ok(())
}

/// A running broker; ended when dropped.
struct Broker {
    program: PathBuf,
    configuration: PathBuf,
    process: Child,
    address: String,
    // Open, so that the broker can go on writing.
    _output: BufReader<ChildStdout>,
}

impl Broker {
    fn start(program: &Path, places: &Places) -> Result<Self> {
        let mut serve = Command::new(program);
        serve.arg("serve").arg("--config").arg(places.configuration());
        serve.arg("--passphrase-file").arg(places.passphrase()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = serve.spawn().context("Failed to start the key broker")?;
        let mut output = BufReader::new(process.stdout.take().context("the key broker has no output")?);
        let mut line = String::new();
        let read = output.read_line(&mut line).context("Failed to read from the key broker");
        let Some(address) = line.trim().strip_prefix("listening on ").map(str::to_owned) else {
            // It may have ended by itself; what it said is above.
            let _ = process.kill();
            let _ = process.wait();
            read?;
            bail!("the key broker did not start: see above");
        };
        line.clear();
        output.read_line(&mut line).context("Failed to read from the key broker")?;
        ensure!(line.trim() == "open", "the key broker stays sealed: see above");
        let (program, configuration) = (program.to_owned(), places.configuration());
        Ok(Self { program, configuration, process, address, _output: output })
    }

    /// Runs one of the operator's commands, and shows what it says.
    fn show(&self, words: &[&str]) -> Result<()> {
        say(&format!("key-broker {}", words.join(" ")));
        let mut command = Command::new(&self.program);
        command.args(words).arg("--config").arg(&self.configuration);
        must_succeed(&mut command)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        // It has a moment to finish; then it is gone in any case.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        for _ in 0..50 {
            if matches!(self.process.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_found_on_the_agent_s_last_line() {
        let request = "0123456789abcdef0123456789abcdef";
        let console = format!("x\ncairn: FAILED code=ATTESTATION_REFUSED: request {request} was refused; ask\n");
        assert_eq!(refused_request(&console).as_deref(), Some(request));
        assert_eq!(refused_request("cairn: FAILED code=ROOT_NOT_FOUND: 0123"), None);
    }
}
