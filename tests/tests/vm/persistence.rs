//! What root of a running node leaves behind: every place that outlives a boot is tried, on disks and variables that are kept. Nothing of it runs, and the next boot is as predicted.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use cairn_tests::node::Node;
use cairn_tests::suite::Suite;
use cairn_tests::watch::Watched;
use xtask::vm::console::Found;
use xtask::vm::shell::Shell;
use xtask::vm::{FirmwareFiles, Machine};

use crate::Row;
use crate::nodes::{PATIENCE, broker_for, generation};

const MARKER: &str = "PWNED";
/// Behind the partition table and before the first partition.
const GAP: u64 = 0x8000;
/// The part of the first sector that is boot code.
const BOOT_CODE: usize = 440;

/// Mounts of all programs: a service may have some of its own. The root's erofs is bound to more places of these.
const NOTHING_EXECUTABLE: &str = "grep -q systemd-resolve /proc/[0-9]*/cmdline && test -z \"$(for process in /proc/[0-9]*; do test -e $process/exe && cat $process/mounts 2> /dev/null; done | awk '$3 != \"erofs\" && $4 !~ /noexec/' | sort -u | tee /dev/stderr)\"";

/// What must not be possible at all. Each ends with success if it was refused.
const REFUSED: [(&str, &str); 16] = [
    ("variables of the firmware", "mkdir -p /tmp/efi && ! mount -t efivarfs efivarfs /tmp/efi"),
    ("variables of the firmware, by sysfs", "test ! -e /sys/firmware/efi/vars"),
    ("the machine's memory", "test -e /dev/mem && ! head -c 1 /dev/mem"),
    ("debugfs", "mkdir -p /tmp/debug && ! grep -w debugfs /proc/filesystems && ! mount -t debugfs debugfs /tmp/debug"),
    ("a user namespace", "! unshare --user true"),
    // io_uring_setup (425) for no entries: EPERM (1) comes before EINVAL.
    ("io_uring", "perl -e '$! = 0; syscall(425, 0, 0); exit($! == 1 ? 0 : 1)'"),
    ("the root, writable", "! mount -o remount,rw /"),
    ("a preload in /etc", "! touch /etc/ld.so.preload"),
    ("a unit in /etc", "! touch /etc/systemd/system/pwned.service"),
    ("a unit in /usr/local", "! mkdir -p /usr/local/lib/systemd/system"),
    ("a program in /var", "cp /usr/bin/true /var/lib/pwned && ! /var/lib/pwned"),
    ("a program in /run", "cp /usr/bin/true /run/pwned && ! /run/pwned"),
    ("a program in /tmp", "cp /usr/bin/true /tmp/pwned && ! /tmp/pwned"),
    ("a program in /dev", "cp /usr/bin/true /dev/shm/pwned && ! /dev/shm/pwned"),
    ("something executable that is mounted beside the root", NOTHING_EXECUTABLE),
    (
        "a preload in /var",
        "cp /usr/lib/x86_64-linux-gnu/libm.so.6 /var/lib/pwned.so && LD_PRELOAD=/var/lib/pwned.so /usr/bin/true 2>&1 | grep -q 'cannot be preloaded'",
    ),
];

/// A unit that would show itself on the console, in every place of /var from which systemd or another program could take one.
const UNITS: &str = r#"
unit() { mkdir -p "$1/multi-user.target.wants" && printf '[Service]\nType=oneshot\nExecStart=/bin/sh -c "echo PWNED > /dev/kmsg"\n' > "$1/pwned.service" && ln -sf ../pwned.service "$1/multi-user.target.wants/pwned.service"; };
release() { mkdir -p "$1" && printf 'ID=_any\n' > "$1/extension-release.pwned"; };
unit /var/lib/extensions/pwned/usr/lib/systemd/system && release /var/lib/extensions/pwned/usr/lib/extension-release.d &&
unit /var/lib/confexts/pwned/etc/systemd/system && release /var/lib/confexts/pwned/etc/extension-release.d &&
unit /var/lib/portables/pwned/usr/lib/systemd/system &&
unit /var/lib/systemd/system && unit /var/lib/systemd/user &&
mkdir -p /var/lib/systemd/linger /var/spool/cron/crontabs /var/lib/dbus-1/system-services /var/lib/binfmts &&
touch /var/lib/systemd/linger/root /var/lib/systemd/linger/backup && unit /var/backups/.config/systemd/user && echo '* * * * * echo PWNED > /dev/kmsg' > /var/spool/cron/crontabs/root &&
printf '[D-BUS Service]\nName=org.freedesktop.pwned\nExec=/bin/sh\nUser=root\n' > /var/lib/dbus-1/system-services/org.freedesktop.pwned.service &&
echo /var/lib/pwned.so > /var/lib/ld.so.preload &&
mkdir -p /var/lib/systemd && ln -sfn /dev/vda /var/lib/systemd/random-seed
"#;

/// On the disks themselves: the label of the state disk's file system, and sectors of the ESP that no file has.
const DISKS: &str = r#"
tune2fs -L PWNED "$(grep ' /var ' /proc/mounts | cut -d' ' -f1)" > /dev/null &&
printf PWNED | dd of=/dev/vda1 bs=1 conv=notrunc status=none seek=$(( $(cat /sys/class/block/vda1/size) * 512 - 512 ))
"#;

/// Settings of ours, of which Debian has others.
const IN_EFFECT: [(&str, &str); 9] = [
    ("no SysRq", "grep -qx 0 /proc/sys/kernel/sysrq"),
    ("no word that switches SysRq on", "! dmesg | grep -i 'sysrq always enabled'"),
    ("no core dumps", "grep -qx '|/bin/false' /proc/sys/kernel/core_pattern"),
    ("the kernel's lockdown", "grep -qF '[integrity]' /sys/kernel/security/lockdown"),
    (
        "a cache of the kernel for each kind of object",
        "grep -qw slab_nomerge /proc/cmdline && test -z \"$(find /sys/kernel/slab -type l)\"",
    ),
    ("no io_uring", "grep -qx 2 /proc/sys/kernel/io_uring_disabled"),
    ("no user namespaces", "grep -qx 0 /proc/sys/user/max_user_namespaces"),
    // Ports 5353 and 5355.
    ("no LLMNR and no multicast DNS", "! grep -E ':14E[9B] ' /proc/net/udp /proc/net/udp6"),
    ("no core dumps of services", "systemctl show -p DefaultLimitCORE | grep -qx 'DefaultLimitCORE=0'"),
];

/// What is refused above is possible where the setting is another.
const CONTROLS: [(&str, &str); 3] = [
    ("a user namespace", "echo 1 > /proc/sys/user/max_user_namespaces && unshare --user true"),
    (
        "LLMNR",
        "mkdir -p /run/systemd/resolved.conf.d && printf '[Resolve]\\nLLMNR=yes\\n' > /run/systemd/resolved.conf.d/99.conf && systemctl restart systemd-resolved && for n in 1 2 3 4 5 6 7 8 9; do grep -q ':14EB ' /proc/net/udp && break; sleep 1; done; grep -q ':14EB ' /proc/net/udp",
    ),
    (
        "io_uring",
        "echo 0 > /proc/sys/kernel/io_uring_disabled && perl -e '$! = 0; syscall(425, 0, 0); exit($! == 1 ? 1 : 0)'",
    ),
];

pub fn rows() -> Vec<Row> {
    vec![Row::new("nothing_that_root_of_a_node_leaves_behind_runs_in_a_later_boot", persistence)]
}

fn persistence(suite: &Suite, row: &str) -> Result<()> {
    let broker = broker_for(&suite.debug)?;
    let node = Node::new(suite, "one", &suite.debug, &broker)?;
    let plain = node.machine(&node.disk())?;
    // What is written to the image's disk stays, as on a real machine.
    let kept = Machine { disks: vec![], kept_disks: vec![node.image(), node.disk()], ..plain.clone() };
    let folder = tempfile::tempdir().context("Failed to make a folder")?;
    let variables = folder.path().join("variables.fd");

    let mut first = Watched::start(suite, row, &kept)?;
    first.must_run()?;
    let mut shell = Shell::log_in(&mut first.vm)?;
    for (what, command) in REFUSED {
        shell.run(command).with_context(|| format!("root reached {what}"))?;
    }
    shell.run(&UNITS.trim().replace('\n', " "))?;
    shell.run(&DISKS.trim().replace('\n', " "))?;
    // The attack of the audit: an ELF header as boot code, its segments in the gap.
    let boot_code = format!("printf '\\177ELF{MARKER}' | dd of=/dev/vda bs=1 conv=notrunc status=none");
    let gap = format!("printf {MARKER} | dd of=/dev/vda bs=1 conv=notrunc status=none seek={GAP}");
    shell.run(&format!("{boot_code} && {gap} && sync"))?;
    first.vm.send("systemctl poweroff\n")?;
    first.vm.wait_exit(PATIENCE)?;
    first.vm.keep_variables(&variables)?;
    drop(first);

    let code = plain.firmware.as_ref().context("a machine with firmware")?.code.clone();
    let later = Machine { firmware: Some(FirmwareFiles { code, variables }), ..kept };
    for (what, at, length) in [("boot code", 0, BOOT_CODE), ("gap", GAP, MARKER.len())] {
        let line = node.must_fail_as(suite, row, &later, "IMAGE_DISK_ALTERED")?;
        ensure!(line.contains(what), "{what}: {line}");
        let image = File::options().write(true).open(node.image()).context("Failed to open the image")?;
        image.write_all_at(&vec![0; length], at).context("Failed to mend the image")?;
    }

    let mut last = Watched::start(suite, row, &later)?;
    last.must_run()?;
    last.must_not_show(MARKER)?;
    // The broker has compared all registers with the prediction.
    generation(&broker, "one", 2)?;
    let mut shell = Shell::log_in(&mut last.vm)?;
    for (what, command) in [
        ("a unit", "test -z \"$(systemctl list-units --all --plain --no-legend 'pwned*')\""),
        ("an extension", "! grep -q ' overlay ' /proc/mounts"),
        ("a preload", "! grep -q pwned /proc/1/maps /proc/self/maps"),
        (
            "a link to a disk",
            "test -h /var/lib/systemd/random-seed && test -z \"$(head -c 440 /dev/vda | tr -d '\\0')\"",
        ),
        ("a user's manager", "! grep ' /run/user' /proc/mounts"),
        ("something executable", NOTHING_EXECUTABLE),
    ] {
        shell.run(command).with_context(|| format!("{what} of the boot before took effect"))?;
    }
    for (what, command) in IN_EFFECT {
        shell.run(command).with_context(|| format!("{what}: not in effect"))?;
    }
    let left =
        "tune2fs -l \"$(grep ' /var ' /proc/mounts | cut -d' ' -f1)\" | grep PWNED && ls /var/lib/systemd/linger/root";
    shell.run(left).context("what the first boot left is gone: nothing was tried")?;
    for (what, command) in CONTROLS {
        shell.run(command).with_context(|| format!("{what} is refused for another reason"))?;
    }
    // The same unit where systemd does look: it would have been seen.
    shell.run("cp /var/lib/systemd/system/pwned.service /run/systemd/system/ && systemctl daemon-reload && systemctl start pwned")?;
    let seen = last.vm.console().wait_for(&[MARKER], 0, PATIENCE);
    ensure!(matches!(seen, Found::Text(..)), "the unit does not show itself: nothing was tried");
    Ok(())
}
