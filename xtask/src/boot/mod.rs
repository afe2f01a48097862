//! `cargo xtask boot`: starts an image in a virtual machine, its serial console on the terminal.
//!
//! The exit code says how it ended, the last line says so in words ([`Outcome`]). Keys are handed to the guest when standard input is a terminal;
//! Ctrl-] ends the machine. The image is never written to.

mod image;
mod interrupts;
mod outcome;
mod terminal;
mod with_broker;

use std::borrow::Cow;
use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::sandbox::{Network, Sandbox};
use crate::vm::console::{Filter, Found};
use crate::vm::{Accelerator, Ending, Machine, Sink, Tpm, Vm};

use interrupts::Interrupts;
use outcome::Outcome;
use terminal::Terminal;

/// How long a guest that has announced its end may take to end.
const GRACE: Duration = Duration::from_secs(15);
/// Without `--timeout`, `--until` waits this long.
const UNTIL_TIMEOUT: Duration = Duration::from_secs(600);
/// Size of a kept disk that is made.
const KEPT_DISK_BYTES: u64 = 4 << 30;
const SLICE: Duration = Duration::from_millis(100);

/// Start an image in a virtual machine with firmware and TPM of the build root
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Exit codes: 0 text seen, or powered off; 3 ended without the text; 4 the guest named a failure code; 5 kernel panic, or
reset; 6 QEMU or the TPM emulator failed; 124 timeout; 130 interrupted.

Examples: cargo xtask boot --until multi-user --timeout 120
          cargo xtask boot --forward 8080:80
          cargo xtask boot --with-broker
          cargo xtask boot --with-broker --change-a-byte")]
pub struct BootArgs {
    /// Disk image [default: the newest in the image folder]
    pub image: Option<PathBuf>,
    /// End as soon as the console shows this text
    #[arg(long, value_name = "TEXT")]
    pub until: Option<String>,
    /// Give up after this many seconds [default: 600 with --until, never without]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(256..))]
    pub memory: u32,
    /// Virtual CPUs
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=255))]
    pub cpus: u32,
    /// Leave the TPM out
    #[arg(long)]
    pub no_tpm: bool,
    /// Give the guest a network card and the host's network
    #[arg(long)]
    pub network: bool,
    /// Port of the host's loopback that leads to a TCP port of the guest; with a network card as --network
    #[arg(long, value_name = "HOST:GUEST", value_parser = ports)]
    pub forward: Vec<(u16, u16)>,
    /// Further disk images, attached after the first; what the guest writes is thrown away
    #[arg(long, value_name = "IMAGE")]
    pub disk: Vec<PathBuf>,
    /// Raw disks that keep what the guest writes, attached last; one that is missing is made with 4 GiB
    #[arg(long, value_name = "FILE")]
    pub keep_disk: Vec<PathBuf>,
    /// Folder with the state of the TPM, so that it is the same one at the next boot; made if it is missing
    #[arg(long, value_name = "DIR", conflicts_with = "no_tpm")]
    pub tpm_state: Option<PathBuf>,
    /// Start a key broker too, and let the node attest, make its disk, reboot and unlock it; run again, it unlocks once more
    #[arg(long, conflicts_with_all = ["until", "timeout", "memory", "cpus", "no_tpm", "network", "forward", "disk", "keep_disk", "tpm_state", "no_kvm", "qemu"])]
    pub with_broker: bool,
    /// Forget the broker and the node of earlier runs
    #[arg(long, requires = "with_broker")]
    pub fresh: bool,
    /// Where broker and node are kept [default: target/with-broker]
    #[arg(long, value_name = "DIR", requires = "with_broker")]
    pub keep_in: Option<PathBuf>,
    /// Change one byte of the node's image before it boots, to see the refusal
    #[arg(long, requires = "with_broker")]
    pub change_a_byte: bool,
    /// Do not use KVM even where it works
    #[arg(long)]
    pub no_kvm: bool,
    /// Further arguments of QEMU
    #[arg(last = true, value_name = "QEMU ARGUMENT")]
    pub qemu: Vec<String>,
}

/// Boots the image with the tools of `build_root`; `images` is where `build-image` puts its outputs.
pub fn run(args: &BootArgs, build_root: &Path, images: &Path) -> Result<ExitCode> {
    let interrupts = Interrupts::hold()?;
    let image = match &args.image {
        Some(image) => image.clone(),
        None => image::newest(images)?,
    };
    [&image].into_iter().chain(&args.disk).try_for_each(|disk| image::must_be_disk(disk))?;
    if args.with_broker {
        return with_broker::run(args, &image, build_root, &interrupts);
    }
    let is_networked = args.network || !args.forward.is_empty();
    let network = if is_networked { Network::Host } else { Network::None };
    let sandbox = Sandbox::new(build_root).network(network);
    let accelerator = if args.no_kvm { Accelerator::Emulation } else { Accelerator::detect(&sandbox) };
    let machine = Machine {
        memory_mib: args.memory,
        cpus: args.cpus,
        tpm: (!args.no_tpm).then(|| Tpm { state: args.tpm_state.clone(), ..Tpm::default() }),
        disks: [vec![image.clone()], args.disk.clone()].concat(),
        kept_disks: args.keep_disk.iter().map(|disk| kept_disk(disk)).collect::<Result<_>>()?,
        network: is_networked,
        forwarded: args.forward.clone(),
        accelerator,
        extra: args.qemu.clone(),
        ..Machine::with_disk(&image)
    };
    let how = match accelerator {
        Accelerator::Kvm => "KVM",
        Accelerator::Emulation => "emulated",
    };
    let terminal = Terminal::enter()?;
    let keys = if terminal.is_raw() { "; Ctrl-] ends it" } else { "" };
    let say = |text: &str| eprint!("{text}{}", if terminal.is_raw() { "\r\n" } else { "\n" });
    say(&format!("Booting {} ({} MiB, {} CPUs, {how}){keys}", image.display(), args.memory, args.cpus));
    let begun = Instant::now();
    let outcome = watch(args, &sandbox, &machine, &terminal, &interrupts);
    let elapsed = begun.elapsed();
    drop(terminal);
    eprintln!("\n{outcome}, after {:.1} s", elapsed.as_secs_f64());
    Ok(ExitCode::from(outcome.exit_code()))
}

/// `HOST:GUEST`, both from 1 to 65535.
fn ports(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| text.parse().ok().filter(|port| *port > 0);
    let pair = text.split_once(':').and_then(|(host, guest)| Some((port(host)?, port(guest)?)));
    pair.ok_or_else(|| "expected two ports, for example 8080:80".to_owned())
}

/// A disk that keeps what is written to it: made sparse if it is missing.
fn kept_disk(path: &Path) -> Result<PathBuf> {
    let failed = || format!("Failed to make {}", path.display());
    if !path.exists() {
        std::fs::File::create_new(path).and_then(|file| file.set_len(KEPT_DISK_BYTES)).with_context(failed)?;
    }
    path.canonicalize().with_context(failed)
}

/// Runs the machine until there is an outcome; the machine is gone when this returns.
fn watch(
    args: &BootArgs,
    sandbox: &Sandbox,
    machine: &Machine,
    terminal: &Terminal,
    interrupts: &Interrupts,
) -> Outcome {
    watch_machine(args, sandbox, machine, terminal, interrupts).unwrap_or_else(Outcome::NotStarted)
}

fn watch_machine(
    args: &BootArgs,
    sandbox: &Sandbox,
    machine: &Machine,
    terminal: &Terminal,
    interrupts: &Interrupts,
) -> Result<Outcome> {
    let mut vm = Vm::start(sandbox, machine, copy_to_standard_output())?;
    let limit = args.timeout.map(Duration::from_secs).or_else(|| args.until.is_some().then_some(UNTIL_TIMEOUT));
    watch_vm(&mut vm, args.until.as_deref(), limit, terminal, interrupts)
}

/// Watches a running machine until it shows `until`, ends, or `limit` has passed.
fn watch_vm(
    vm: &mut Vm,
    until: Option<&str>,
    limit: Option<Duration>,
    terminal: &Terminal,
    interrupts: &Interrupts,
) -> Result<Outcome> {
    let escaped: &'static AtomicBool = Box::leak(Box::default());
    if let Some(input) = vm.take_input() {
        terminal.copy_keys_to(input, escaped);
    }
    let texts: Vec<&str> = until.into_iter().collect();
    let mut searched = 0;
    let mut named_at = None;
    loop {
        if escaped.load(Ordering::Relaxed) || interrupts.pending()? {
            return Ok(Outcome::Interrupted);
        }
        let length = vm.console().text().len();
        if let Found::Text(..) = vm.console().wait_for(&texts, searched, SLICE) {
            return Ok(Outcome::Seen(until.unwrap_or_default().to_owned()));
        }
        searched = length.saturating_sub(until.map_or(0, str::len));
        if let Some(ending) = vm.wait_exit(Duration::ZERO)? {
            // The last words may have come since.
            let seen = vm.console().wait_for(&texts, searched, Duration::ZERO);
            return Ok(Outcome::of_ending(ending, until, matches!(seen, Found::Text(..))));
        }
        if let Some(ending) = Ending::named_by(&vm.console().text()) {
            let since = *named_at.get_or_insert_with(Instant::now);
            if since.elapsed() > GRACE {
                return Ok(Outcome::of_ending(ending, until, false));
            }
        }
        if limit.is_some_and(|limit| vm.elapsed() > limit) {
            return Ok(Outcome::TimedOut(until.map(str::to_owned)));
        }
    }
}

fn copy_to_standard_output() -> Sink {
    let output = std::io::stdout();
    let is_terminal = output.is_terminal();
    copy_to(output, is_terminal)
}

/// Copies the console as it is to a terminal, and as plain text to anything else: a file or a pipe obeys no cursor movements of the firmware.
fn copy_to(mut output: impl Write + Send + 'static, is_terminal: bool) -> Sink {
    let mut filter = Filter::default();
    Box::new(move |_, bytes| {
        let text = if is_terminal { Cow::Borrowed(bytes) } else { Cow::Owned(filter.plain(bytes).into_bytes()) };
        // A closed pipe (`| head`) must not end the machine before its outcome is known.
        let _ = output.write_all(&text).and_then(|()| output.flush());
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn control_sequences_of_the_console_reach_a_terminal_and_no_pipe() {
        // As OVMF clears the screen, cut between two reads.
        let parts: [&[u8]; 2] = [b"\x1b[2J\x1b[01;01", b"H\x1b[=3hBdsDxe: starting Boot0001\r\nOK\r\n"];
        for (is_terminal, expected) in [(true, parts.concat()), (false, b"BdsDxe: starting Boot0001\nOK\n".to_vec())] {
            let output = Output::default();
            let mut sink = copy_to(output.clone(), is_terminal);
            parts.iter().for_each(|part| sink(Duration::ZERO, part));
            assert_eq!(*output.0.lock().unwrap(), expected);
        }
    }

    #[test]
    fn forwarded_ports_are_two_numbers() {
        assert_eq!(ports("8080:80"), Ok((8080, 80)));
        for text in ["80", "8080:", ":80", "0:80", "80:0", "65536:80", "a:80", "80:80:80"] {
            assert!(ports(text).is_err(), "{text}");
        }
    }
}
