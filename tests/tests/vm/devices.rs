//! Devices and strings that a host can show a machine and that the image has no use for: no driver takes them, nothing runs what they say, and they are in PCR 1 at most.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cairn_tests::disk::{Disk, HOME, SWAP};
use cairn_tests::settled::{baseline, moved, settled};
use cairn_tests::suite::Suite;
use cairn_tests::watch::Watched;
use xtask::vm::Machine;
use xtask::vm::shell::Shell;

use crate::Row;
use crate::nodes::{PATIENCE, free_port};

/// Each of the strings below would write it if a shell read it; none contains it.
const MARKER: &str = "PWNED";
/// At most 20 bytes: the serial of a disk.
const SERIAL: &str = "$(printf PW%sD NE)";
/// At most 36 characters: the name of a partition.
const LABEL: &str = "../..\";printf PW%sD NE >/dev/kmsg;#";
const DMI: &str = "$(printf PW%sD NE >/dev/kmsg)";

/// Modules, devices and links of what is offered: none may be there.
const ABSENT: [(&str, &str); 6] = [
    ("a module", "! grep -E '^(usb|xhci|ehci|ohci|uhci|hid|uas|evdev|psmouse|snd|soundcore)' /proc/modules"),
    // Its driver is built into the kernel: the device is there, and nothing opens it.
    ("a program at virtio-console", "! ls -l /proc/[0-9]*/fd 2>/dev/null | grep -E '/dev/(hvc|vport)'"),
    ("a console of the kernel at virtio-console", "! grep hvc /proc/consoles"),
    (
        "a keyboard or disk on USB",
        "test -z \"$(ls -d /sys/bus/usb/devices/* /sys/bus/hid/devices/* /dev/sd* 2>/dev/null)\"",
    ),
    (
        "a link that a label or serial names",
        "test -z \"$(ls -d /dev/disk/by-partlabel /dev/disk/by-label /dev/disk/by-id 2>/dev/null)\"",
    ),
    ("a file system of these disks", "! grep '^/dev/vd[b-z]' /proc/mounts /proc/swaps"),
];

/// They did arrive: on the bus without a driver, or as what the kernel shows of them.
const ARRIVED: [(&str, &str); 5] = [
    ("virtio-console", "test -c /dev/hvc0 && ls /sys/class/virtio-ports | grep ."),
    (
        "a USB controller, without a driver",
        "d=$(dirname $(grep -lx 0x0c0330 /sys/bus/pci/devices/*/class)) && test ! -e $d/driver",
    ),
    (
        "the DMI strings",
        "cd /sys/class/dmi/id && test 3 = $(grep -lF 'printf PW' product_name board_name chassis_vendor | wc -l)",
    ),
    ("the label of a partition", "grep -h PARTNAME= /sys/class/block/vdb*/uevent | grep -F 'printf PW'"),
    ("the serial of the disk", "grep -h . /sys/block/vd*/serial | grep -F 'printf PW'"),
];

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("devices_and_strings_that_nothing_needs_move_pcr_1_and_start_nothing", measured),
        Row::new("debug_shows_that_devices_attached_later_load_no_other_module", attached_later).in_full(),
    ]
}

/// The machine with everything at once, and the port of its monitor.
fn with_devices(suite: &Suite, image: &std::path::Path, disk: &Disk) -> Result<(Machine, u16)> {
    let port = free_port()?;
    let dmi = |kind: u8, fields: &str| {
        let fields: Vec<String> = fields.split(' ').map(|field| format!("{field}={DMI}")).collect();
        format!("type={kind},{}", fields.join(","))
    };
    let words = [
        ("-monitor", format!("tcp:127.0.0.1:{port},server=on,wait=off")),
        ("-smbios", dmi(1, "manufacturer product version serial sku family")),
        ("-smbios", dmi(2, "manufacturer product version serial asset location")),
        ("-smbios", dmi(3, "manufacturer version serial asset sku")),
        ("-smbios", format!("type=11,value={DMI},value=io.systemd.boot.kernel-cmdline-extra=systemd.hostname=pwned")),
        ("-device", "virtio-serial-pci".into()),
        ("-chardev", "null,id=offered".into()),
        ("-device", "virtconsole,chardev=offered,name=offered".into()),
        ("-device", "qemu-xhci,id=usb".into()),
        ("-device", "usb-kbd,bus=usb.0".into()),
        ("-blockdev", "driver=file,node-name=stick,filename=/tmp/disks/1,read-only=on".into()),
        ("-device", format!("usb-storage,bus=usb.0,drive=stick,serial={SERIAL}")),
        // Places for what comes later.
        ("-device", "pcie-root-port,id=port1,chassis=1".into()),
        ("-device", "pcie-root-port,id=port2,chassis=2".into()),
        ("-blockdev", "driver=file,node-name=later,filename=/tmp/disks/1,read-only=on".into()),
        ("-netdev", "user,id=later".into()),
    ];
    let extra = words.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
    // The monitor is on the host's loopback, which a machine with a network shares.
    Ok((Machine { extra, network: true, ..suite.machine(&[image.to_owned(), disk.path()]) }, port))
}

fn hostile_disk() -> Result<Disk> {
    let disk = Disk::with_partitions(&[(SWAP, MARKER.as_bytes()), (HOME, MARKER.as_bytes())])?;
    disk.edit_table(|entries| entries.values_mut().for_each(|entry| entry.name = LABEL.into()))?;
    Ok(disk)
}

/// Adds a network card and a disk to the running machine.
fn attach(port: u16) -> Result<()> {
    let mut monitor = TcpStream::connect(("127.0.0.1", port)).context("the monitor does not answer")?;
    monitor.set_read_timeout(Some(PATIENCE))?;
    let disk = format!("device_add \"virtio-blk-pci,id=later1,bus=port1,drive=later,serial={SERIAL}\"");
    let card = "device_add virtio-net-pci,id=later2,bus=port2,netdev=later,romfile=";
    write!(monitor, "{disk}\n{card}\ninfo pci\nquit-is-not-a-command\n").context("cannot write to the monitor")?;
    let mut answer = String::new();
    let mut reader = BufReader::new(monitor);
    while !answer.contains("unknown command: 'quit-is-not-a-command'") {
        let read = reader.read_line(&mut answer).context("cannot read from the monitor")?;
        ensure!(read > 0, "the monitor ends: {answer}");
    }
    ensure!(!answer.contains("Error"), "the monitor refuses: {answer}");
    ensure!(answer.contains("id \"later1\"") && answer.contains("id \"later2\""), "nothing was attached: {answer}");
    Ok(())
}

fn measured(suite: &Suite, row: &str) -> Result<()> {
    let plain = baseline(suite)?;
    let disk = hostile_disk()?;
    let (machine, port) = with_devices(suite, &suite.image.file("raw"), &disk)?;
    let mut watched = Watched::start(suite, row, &machine)?;
    watched.must_run()?;
    attach(port)?;
    let found = moved(plain, &settled(&watched, &suite.image.read("efi")?)?);
    ensure!(found == [1, 10], "registers {found:?} moved, not 1, and 10 which follows it");
    watched.must_not_prompt()?;
    watched.must_not_show(MARKER)
}

fn attached_later(suite: &Suite, row: &str) -> Result<()> {
    let disk = hostile_disk()?;
    let (machine, port) = with_devices(suite, &suite.debug.file("raw"), &disk)?;
    let mut watched = Watched::start(suite, row, &machine)?;
    watched.must_run()?;
    watched.must_not_show(MARKER)?;
    let mut shell = Shell::log_in(&mut watched.vm)?;
    let state = "cut -d' ' -f1 /proc/modules | sort; systemctl list-units --plain --no-legend --state=active,failed --type=service,mount,swap,socket | cut -d' ' -f1";
    let before = shell.run(state)?;
    let count = "ls /sys/block /sys/class/net | grep -c -E '^(vd|eth|en)'";
    let devices: usize = shell.run(count)?.trim().parse().context("a number of devices")?;
    attach(port)?;
    let deadline = Instant::now() + PATIENCE;
    while shell.run(count)?.trim().parse::<usize>().context("a number of devices")? < devices + 2 {
        ensure!(Instant::now() < deadline, "the devices that were attached do not appear");
        std::thread::sleep(Duration::from_millis(200));
    }
    shell.run("udevadm settle")?;
    let after = shell.run(state)?;
    // Drivers of the list that this machine has not needed before: a network card and what it depends on.
    let added: Vec<&str> = after.lines().filter(|line| !before.lines().any(|known| known == *line)).collect();
    let is_network = |name: &&str| ["virtio_net", "net_failover", "failover"].contains(name);
    ensure!(added.iter().all(is_network), "{added:?} was loaded or started");
    for (what, command) in ABSENT {
        shell.run(command).with_context(|| format!("{what} is there"))?;
    }
    for (what, command) in ARRIVED {
        shell.run(command).with_context(|| format!("{what} did not arrive: nothing was tried"))?;
    }
    shell.run("! dmesg | grep PWNED").map(drop).context("something ran what the host wrote")
}
