//! Nodes and their broker: real machines with TPM emulators and disks of their own attest to the real broker, open their disks, and get nothing where they should not.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cairn_tests::broker::Broker;
use cairn_tests::environment::output_of;
use cairn_tests::image::Image;
use cairn_tests::node::{NAMED, Node, request};
use cairn_tests::printed::must_be_printed;
use cairn_tests::suite::Suite;
use cairn_tests::watch::Watched;
use xtask::vm::Machine;
use xtask::vm::console::Found;
use xtask::vm::shell::Shell;

use crate::Row;

/// Where the service of the running system answers.
const ATTESTATION: u16 = 7444;
/// TPM2_CreatePrimary (TPM 2.0 Library, Part 2, TPM_CC).
const CREATE_PRIMARY: u32 = 0x131;
/// How long the service keeps a connection on which it receives nothing, and any connection, less what the two clocks may differ by.
const SILENT_LIMIT: Duration = Duration::from_millis(4_800);
const WHOLE_LIMIT: Duration = Duration::from_millis(19_800);
pub(super) const PATIENCE: Duration = Duration::from_secs(300);

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("a_node_keeps_its_files_and_says_what_it_is", keeps_files),
        Row::new("three_nodes_open_their_own_disks_and_a_retired_one_nothing", three_nodes),
        Row::new("a_broker_that_comes_up_late_delays_the_boot_and_no_more", late_broker),
        Row::new("an_image_with_one_changed_byte_gets_no_key", changed_image),
        Row::new("an_older_database_is_noticed", older_database),
        Row::new("a_held_node_waits_for_approval_without_a_reboot", held),
        Row::new("the_demonstration_attests_reboots_unlocks_and_refuses_a_changed_byte", demonstration),
        Row::new("a_power_cut_while_the_disk_is_made_loses_nothing", power_cuts),
    ]
}

/// A broker that allows this image.
pub(super) fn broker_for(image: &Image) -> Result<Broker> {
    let broker = Broker::start()?;
    broker.allow(&image.file("reference.json"))?;
    Ok(broker)
}

/// The boot must be refused, with this code in the broker's audit log.
pub(super) fn must_be_refused(suite: &Suite, row: &str, node: &Node, broker: &Broker, code: &str) -> Result<String> {
    let line = node.must_fail(suite, row, "ATTESTATION_REFUSED")?;
    let request = request(&line)?;
    let found = broker.code(&request)?;
    ensure!(found == code, "the broker refused with {found}, not {code}");
    Ok(request)
}

pub(super) fn generation(broker: &Broker, node: &str, expected: u64) -> Result<()> {
    let found = broker.disk(node, "generation")?;
    ensure!(found.as_u64() == Some(expected), "the broker has generation {found}, not {expected}");
    Ok(())
}

pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("no free port")?.local_addr()?.port())
}

fn keeps_files(suite: &Suite, row: &str) -> Result<()> {
    let broker = broker_for(&suite.debug)?;
    let (node, authority) = Node::certified(suite, "one", &suite.debug, &broker)?;
    let mut first = node.must_run(suite, row)?;
    let mut shell = Shell::log_in(&mut first.vm)?;
    shell.run("echo precious > /var/lib/kept && sync")?;
    let mounts = shell.run("grep ' /var ' /proc/mounts")?;
    ensure!(mounts.starts_with("/dev/dm-") && mounts.contains(" ext4 rw,nosuid,nodev"), "/var is {mounts}");
    let keys = shell.run("cat /proc/keys")?;
    ensure!(!keys.contains("cryptsetup"), "the volume key is still in a keyring: {keys}");
    let id = shell.run("cat /etc/machine-id")?;
    first.vm.send("systemctl poweroff\n")?;
    first.vm.wait_exit(PATIENCE)?;
    drop(first);
    generation(&broker, "one", 1)?;

    let port = free_port()?;
    let machine = Machine { forwarded: vec![(port, ATTESTATION)], ..node.machine(&node.disk())? };
    let mut second = Watched::start(suite, row, &machine)?;
    second.must_run()?;
    let mut shell = Shell::log_in(&mut second.vm)?;
    let kept = shell.run("cat /var/lib/kept /etc/machine-id")?;
    ensure!(kept == format!("precious\n{id}"), "after the reboot: {kept}");
    generation(&broker, "one", 2)?;
    let user = shell.run("systemctl show -p User,DynamicUser cairn-attestation.service")?;
    ensure!(user == "User=cairn-attestation\nDynamicUser=yes", "the service's user: {user}");
    let id = shell.run(
        "awk '/^Uid:/ { print $2 }' /proc/$(systemctl show -p MainPID --value cairn-attestation.service)/status",
    )?;
    ensure!(id.parse().is_ok_and(|id: u32| (61184..=65519).contains(&id)), "the service runs as user {id}");
    service_reaches_no_state_disk(&mut shell)?;
    let keys = second.vm.tpm_command_count(CREATE_PRIMARY)?;
    ensure!(keys >= 2, "the TPM has created {keys} keys: the service's are not seen");
    // A dripping connection is kept while the questions are asked, and takes one of the two places of its address.
    let dripping = std::thread::spawn(move || open_for(port, 200));
    let silent = open_for(port, 0)?;
    ensure!((SILENT_LIMIT..SILENT_LIMIT * 3).contains(&silent), "a silent connection is kept for {silent:?}");
    says_what_it_is(suite, &broker, &node, port, &authority)?;
    let dripping = dripping.join().map_err(|_| anyhow::anyhow!("the dripping client panicked"))??;
    ensure!((WHOLE_LIMIT..WHOLE_LIMIT * 2).contains(&dripping), "a dripping connection is kept for {dripping:?}");
    let later = second.vm.tpm_command_count(CREATE_PRIMARY)?;
    ensure!(later == keys, "the TPM has created {} keys for questions", later - keys);
    drop(second);
    opens_without_its_broker(suite, &broker, &node)?;
    broker.admin(&["audit", "verify"]).map(drop)
}

/// The attestation service has no capability, one group, and neither files nor blocks of the state disk; root of the system has both.
fn service_reaches_no_state_disk(shell: &mut Shell) -> Result<()> {
    let pid = shell.run("systemctl show -p MainPID --value cairn-attestation.service")?;
    let status = shell.run(&format!("grep -E '^(Cap[A-Z]|Groups|NoNewPrivs|Seccomp:)' /proc/{pid}/status"))?;
    let status: Vec<String> =
        status.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let empty = format!("{field}: 0000000000000000");
        ensure!(status.contains(&empty), "the service has capabilities: {status:?}");
    }
    let tss = shell.run("getent group tss | cut -d: -f3")?;
    for line in ["NoNewPrivs: 1", "Seccomp: 2"] {
        ensure!(status.iter().any(|found| found == line), "not {line}: {status:?}");
    }
    let groups = status.iter().find_map(|line| line.strip_prefix("Groups: ")).unwrap_or_default();
    let own = shell.run(&format!("awk '/^Gid:/ {{ print $2 }}' /proc/{pid}/status"))?;
    let are_few = groups.split(' ').all(|group| group == tss || group == own);
    ensure!(are_few, "the service is in the groups {groups}; tss is {tss}, its own {own}");

    let state = shell.run("grep ' /var ' /proc/mounts | cut -d' ' -f1")?;
    let read = format!("cat /var/lib/kept; ls /var/lib; head -c 1 {state}; head -c 1 /dev/vda; head -c 1 /dev/vdb");
    let as_service = format!(
        "nsenter --target {pid} --mount setpriv --reuid $(stat -c %u /proc/{pid}) --regid {own} --groups {tss} --bounding-set=-all --inh-caps=-all"
    );
    let can = |user: &str, what: &str| format!("{user} sh -c '{what}' > /dev/null 2>&1");
    ensure!(shell.run(&format!("{as_service} id -u"))? != "0", "the service's place cannot be entered");
    for what in read.split("; ") {
        shell.run(&can("", what)).with_context(|| format!("root cannot do it either: {what}"))?;
        shell.run(&format!("! {}", can(&as_service, what))).with_context(|| format!("the service can: {what}"))?;
    }
    shell.run(&format!("! test -e /proc/{pid}/root/var/lib")).map(drop).context("the service sees /var")
}

/// How long the service of the running system keeps a connection on which the client sends so many bytes, one in 200 ms, and then nothing.
fn open_for(port: u16, bytes: usize) -> Result<Duration> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).context("the service does not answer")?;
    let begun = Instant::now();
    // The head of a TLS record of 16 KiB, then its bytes.
    let record = [0x16, 3, 3, 0x40, 0].into_iter().chain(std::iter::repeat(0));
    for byte in record.take(bytes) {
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let is_closed = match socket.read(&mut [0; 64]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        if is_closed || socket.write_all(&[byte]).is_err() {
            return Ok(begun.elapsed());
        }
    }
    socket.set_read_timeout(Some(PATIENCE))?;
    // A reset is an end as well.
    let _ = socket.read(&mut [0; 64]);
    Ok(begun.elapsed())
}

/// The running node is verified by its certificate, by its endorsement key, and by that key's certificate; as another image it is refused, and without anybody who vouches for it.
fn says_what_it_is(suite: &Suite, broker: &Broker, node: &Node, port: u16, authority: &Path) -> Result<()> {
    let cairn = cairn_tests::environment::program("cairn")?;
    let ask = |image: &Image, more: &[&str]| -> Result<(Option<i32>, String)> {
        let mut command = Command::new(&cairn);
        command.args(["verify-node", &format!("127.0.0.1:{port}"), "--reference"]).arg(image.file("reference.json"));
        command.arg("--machine").arg(Node::machine_reference()?).arg("--cluster").arg(broker.file("cluster.json"));
        let output = command.args(more).output().context("Failed to start cairn")?;
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        Ok((output.status.code(), text))
    };
    let ek = node.endorsement_key();
    let other = "00".repeat(32);
    let root = authority.with_file_name("swtpm-localca-rootca-cert.pem").display().to_string();
    let authority = authority.display().to_string();
    for (image, more, code, words) in [
        (&suite.debug, &[][..], 0, "certified it as the node one"),
        (&suite.debug, &["--node", "one"][..], 0, "certified it as the node one"),
        // A certificate of the cluster, and that of another node than the one that is meant.
        (&suite.debug, &["--node", "two"][..], 3, "REFUSED AK_UNVERIFIED"),
        (&suite.debug, &["--ek", ek][..], 0, "has the endorsement key sha256:"),
        (&suite.debug, &["--ek", &other][..], 3, "REFUSED AK_UNVERIFIED"),
        (&suite.debug, &["--ek-authority", &root, &authority][..], 0, "certified by the authority sha256:"),
        // It did not issue the certificate itself, and whoever did was not named.
        (&suite.debug, &["--ek-authority", &root][..], 3, "REFUSED AK_UNVERIFIED"),
        (&suite.image, &[][..], 3, "REFUSED PCR_MISMATCH"),
    ] {
        let (found, text) = ask(image, more)?;
        ensure!(found == Some(code) && text.contains(words), "{more:?}: {found:?}, {text}");
        if more.is_empty() && code == 0 {
            let command = "cairn verify-node 192.0.2.20:7444 --reference cairn_0.1.0.reference.json --machine q35-ovmf-2025.02-2cpus-1gib-node.machine.json --cluster cluster.json";
            must_be_printed("README.md", command, &text)?;
        }
    }
    // The head of the audit log that the node keeps is one that its broker accepts.
    let receipt = broker.file("receipt").display().to_string();
    let (found, text) = ask(&suite.debug, &["--receipt", &receipt])?;
    let is_verified = text.contains("leaves of the audit log, written to ");
    ensure!(found == Some(0) && is_verified, "{found:?}, {text}");
    broker.admin(&["audit", "verify", "--heads", &receipt]).map(drop)
}

/// The recovery key, and stock cryptsetup with the header that was verified. A disk with another header gets no passphrase.
fn opens_without_its_broker(suite: &Suite, broker: &Broker, node: &Node) -> Result<()> {
    let cairn = cairn_tests::environment::program("cairn")?;
    let [passphrase, header] = ["state.key", "state.header"].map(|name| broker.file(name));
    let recover = |disk: &Path| {
        let mut recover = Command::new(&cairn);
        recover.arg("recover").arg("--disk").arg(disk).arg("--cluster").arg(broker.file("cluster.json"));
        recover.arg("--key").arg(broker.file("offline/recovery.key"));
        recover.arg("--passphrase-file").arg(&passphrase).arg("--header-file").arg(&header);
        recover
    };
    let changed = node.copy_disk("changed.raw")?;
    let file = File::options().read(true).write(true).open(&changed)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, 40_000)?;
    file.write_all_at(&[byte[0] ^ 1], 40_000)?;
    let refused = recover(&changed).output().context("Failed to start cairn")?;
    ensure!(!refused.status.success() && !passphrase.exists(), "a changed header is recovered: {refused:?}");
    output_of(&mut recover(&node.disk()))?;
    let sandbox = suite.sandbox.clone().bind_read_only(&node.disk(), "/tmp/disk");
    let sandbox = sandbox.bind_read_only(&passphrase, "/tmp/key").bind_read_only(&header, "/tmp/header");
    let mut open = sandbox.command("cryptsetup");
    open.args(["open", "--test-passphrase", "--header", "/tmp/header", "--key-file", "/tmp/key", "/tmp/disk"]);
    output_of(&mut open).map(drop)
}

fn three_nodes(suite: &Suite, row: &str) -> Result<()> {
    let broker = broker_for(&suite.image)?;
    let nodes: Vec<Node> = ["one", "two", "three"]
        .iter()
        .map(|name| Node::new(suite, name, &suite.image, &broker))
        .collect::<Result<_>>()?;
    for node in &nodes {
        node.must_open(suite, row)?;
        generation(&broker, &node.name, 1)?;
    }
    let ids: Vec<_> = nodes.iter().map(|node| broker.disk(&node.name, "disk")).collect::<Result<_>>()?;
    ensure!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "two nodes have one disk: {ids:?}");

    let own = nodes[0].copy_disk("own.raw")?;
    nodes[0].put_back(&nodes[1].disk())?;
    must_be_refused(suite, row, &nodes[0], &broker, "DISK_NODE_MISMATCH")?;
    nodes[0].put_back(&own)?;

    broker.admin(&["node", "retire", "three"])?;
    must_be_refused(suite, row, &nodes[2], &broker, "NODE_RETIRED")?;
    for node in &nodes[..2] {
        node.must_open(suite, row)?;
        generation(&broker, &node.name, 2)?;
    }
    Ok(())
}

fn late_broker(suite: &Suite, row: &str) -> Result<()> {
    let mut broker = broker_for(&suite.image)?;
    let node = Node::new(suite, "one", &suite.image, &broker)?;
    broker.kill();
    let mut watched = node.boot(suite, row)?;
    let waits = watched.vm.console().wait_for(&["waiting: broker unreachable"], 0, PATIENCE);
    ensure!(matches!(waits, Found::Text(..)), "the node does not wait{}", watched.last_lines());
    broker.run()?;
    watched.must_run()?;
    generation(&broker, "one", 1)
}

fn changed_image(suite: &Suite, row: &str) -> Result<()> {
    const NAME: &[u8] = b"PRETTY_NAME=\"Cairn";
    let broker = broker_for(&suite.image)?;
    let node = Node::new(suite, "one", &suite.image, &broker)?;
    let bytes = std::fs::read(node.image()).context("Failed to read the image")?;
    let at = bytes.windows(NAME.len()).position(|window| window == NAME).context("the image has no name")?;
    File::options().write(true).open(node.image())?.write_all_at(b"c", (at + NAME.len() - 5) as u64)?;
    let request = must_be_refused(suite, row, &node, &broker, "PCR_MISMATCH")?;
    let found = broker.admin(&["explain", &request])?["found"].to_string();
    ensure!(found.contains("PCR 4") && found.contains(".osrel"), "the reason is {found}");
    let named = format!("names the bundle sha256:{}, which is that of no allowed release", hex::encode(NAMED.0));
    ensure!(found.contains(&named), "the broker was not told which release the node was given: {found}");
    let shown = broker.admin(&["node", "show", "one"])?;
    ensure!(shown["disks"].as_array().is_some_and(Vec::is_empty), "the refused node has a disk: {shown}");
    Ok(())
}

fn older_database(suite: &Suite, row: &str) -> Result<()> {
    let mut broker = broker_for(&suite.image)?;
    let node = Node::new(suite, "one", &suite.image, &broker)?;
    node.must_open(suite, row)?;
    let backup = broker.file("backup");
    broker.admin(&["backup", &backup.display().to_string()])?;
    node.must_open(suite, row)?;
    broker.kill();
    let restored = broker.restore(&backup, &["--replace"])?;
    ensure!(restored.status.success(), "restore: {}", String::from_utf8_lossy(&restored.stderr));
    broker.run()?;
    generation(&broker, "one", 1)?;
    node.must_fail(suite, row, "BROKER_BEHIND")?;
    broker.admin(&["disk", "grant", "one", "--generation", "2"])?;
    node.must_open(suite, row)?;
    generation(&broker, "one", 3)
}

fn held(suite: &Suite, row: &str) -> Result<()> {
    let broker = broker_for(&suite.image)?;
    let node = Node::new(suite, "one", &suite.image, &broker)?;
    let machine = Node::machine_reference()?.display().to_string();
    let ek = node.endorsement_key();
    broker.admin(&["node", "enrol", "one", "--ek", ek, "--machine", &machine, "--hold"])?;
    let mut watched = node.boot(suite, row)?;
    let holds = watched.vm.console().wait_for(&["waiting: hold: an operator must decide on request"], 0, PATIENCE);
    ensure!(matches!(holds, Found::Text(..)), "the node does not wait{}", watched.last_lines());
    broker.admin(&["node", "approve", "one"])?;
    watched.must_run()?;
    generation(&broker, "one", 1)
}

/// What the README shows a newcomer: one command, and one more.
fn demonstration(suite: &Suite, _: &str) -> Result<()> {
    /// The guest named a failure code.
    const REFUSED: i32 = 4;
    let folder = tempfile::tempdir()?;
    let boot = |more: &[&str]| -> Result<(Option<i32>, String)> {
        let mut command = Command::new(cairn_tests::environment::xtask()?);
        command.current_dir(cairn_tests::machine::checkout()?.root()).arg("boot").arg(suite.image.file("raw"));
        command.arg("--with-broker").arg("--keep-in").arg(folder.path().join("kept")).args(more);
        let output = command.stdin(std::process::Stdio::null()).output().context("Failed to start xtask")?;
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        Ok((output.status.code(), text))
    };
    let (code, text) = boot(&[])?;
    let last = "== OK: the node attested, made its disk, rebooted and unlocked it";
    ensure!(code == Some(0) && text.contains(last), "{code:?}: {text}");
    must_be_printed("README.md", "cargo xtask boot --with-broker", &text)?;
    let (code, text) = boot(&["--change-a-byte"])?;
    let reason =
        "PCR 4: it is not this one: the UKI; the first part of it that differs is the content of section .osrel";
    ensure!(code == Some(REFUSED) && text.contains(reason), "{code:?}: {text}");
    must_be_printed("README.md", "cargo xtask boot --with-broker --change-a-byte", &text)
}

/// Power goes wherever the console says something while a disk is made; the next boot goes on, and the disk is made once.
fn power_cuts(suite: &Suite, row: &str) -> Result<()> {
    /// Where the disk, or what the broker knows of it, has changed just before.
    const POINTS: [&str; 4] = ["released by request", "is made as", "state=commit", "state=handover"];
    /// Only with `--full`.
    const MORE: [&str; 6] = [
        "state=open",
        "state=disk",
        "state=network",
        "state=attestation",
        "state disk is open, generation",
        "handing over",
    ];
    let more: &[&str] = if std::env::var_os(xtask::test::FULL).is_some() { &MORE } else { &[] };
    let broker = broker_for(&suite.image)?;
    let node = Node::new(suite, "one", &suite.image, &broker)?;
    for point in POINTS.iter().chain(more) {
        node.cut_at(suite, row, point).with_context(|| format!("cut at {point:?}"))?;
    }
    let id = broker.disk("one", "disk")?;
    let watched = node.must_open(suite, row)?;
    let console = watched.vm.console().text();
    ensure!(!console.contains("is made as"), "a committed disk was made again{}", watched.last_lines());
    ensure!(broker.disk("one", "disk")? == id, "the node has another disk than before");
    broker.admin(&["audit", "verify"]).map(drop)
}
