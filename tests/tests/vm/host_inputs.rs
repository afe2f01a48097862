//! What the host offers a machine beside its disk (docs/host-inputs.md names these rows): none of it takes effect, or exactly the named registers move.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use cairn_tests::disk::{Disk, HOME, SWAP, VAR};
use cairn_tests::registers;
use cairn_tests::settled::{baseline, moved, settled};
use cairn_tests::suite::Suite;
use cairn_tests::uki;
use cairn_tests::variables::{self, GLOBAL, LOADER, SYSTEMD, Variable};
use cairn_tests::watch::{Verdict, Watched};
use xtask::vm::shell::Shell;
use xtask::vm::{Ending, Machine};

use crate::Row;

const MARKER: &str = "PWNED";
/// A credential that systemd-tmpfiles obeys: it writes the marker to the kernel log, and so to the console.
const CREDENTIAL: &str = "tmpfiles.extra";
const CONTENT: &str = "w /dev/kmsg - - - - <0>PWNED";
/// A harmless word that must show up where command lines are measured.
const ADDITION: &str = "cairn.test=addition";
const UKI: &str = "EFI/BOOT/BOOTX64.EFI";
/// Words that systemd would take from the variable `SystemdOptions`. The first ones end a boot in the rescue system.
const RESCUE: &str = "systemd.unit=rescue.target systemd.setenv=LD_PRELOAD=/dev/vda systemd.machine_id=11111111111111111111111111111111 systemd.hostname=pwned";
/// Those that leave the boot as it is: names, and a library of the root that every service would load.
const NAMES: &str = "systemd.machine_id=11111111111111111111111111111111 systemd.hostname=pwned systemd.setenv=LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libm.so.6";
const HOSTNAME: &str = "pwned";
const MACHINE_ID: &str = "11111111111111111111111111111111";
/// Of SMBIOS, type 1.
const UUID: &str = "22222222-2222-4222-8222-222222222222";
const SHOW_NAMES: &str = "cat /proc/sys/kernel/hostname /etc/machine-id";
/// How many of two services have the library of the variable in their environment.
const COUNT_PRELOADS: &str = "for u in systemd-udevd dbus; do tr '\\0' '\\n' < /proc/$(systemctl show -p MainPID --value $u)/environ; done | grep -c '^LD_PRELOAD=/usr/lib' || true";
const SYSTEM_CREDENTIALS: &str = "systemd.import_credentials=no";

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("an_smbios_credential_is_not_imported", |suite, row| {
            let machine = with(suite, &[], smbios_credential());
            must_move_only(suite, row, &machine, &[])
        }),
        Row::new("a_fw_cfg_credential_is_not_imported", |suite, row| {
            let machine = with(suite, &[], fw_cfg_credential());
            must_move_only(suite, row, &machine, &[])
        }),
        Row::new("an_smbios_credential_takes_effect_where_imports_are_on", |suite, row| {
            control(suite, row, smbios_credential())
        }),
        Row::new("a_fw_cfg_credential_takes_effect_where_imports_are_on", |suite, row| {
            control(suite, row, fw_cfg_credential())
        }),
        Row::new("an_esp_credential_moves_pcr_12_and_has_no_effect", esp_credential),
        Row::new("a_system_extension_on_the_esp_moves_pcr_13_and_has_no_effect", esp_extension),
        Row::new("an_add_on_moves_pcr_4_and_12", add_on),
        Row::new("an_smbios_command_line_moves_pcr_12", smbios_command_line),
        Row::new("swap_home_and_var_on_another_disk_are_left_alone", partitions_on_another_disk),
        Row::new("swap_home_and_var_on_the_image_disk_move_pcr_5", partitions_on_the_image_disk),
        Row::new("efi_variables_reach_neither_kernel_nor_systemd", efi_variables),
        Row::new("systemd_options_take_effect_where_efi_variables_are_on", efi_variables_control),
        Row::new("a_hostname_in_an_efi_variable_takes_effect_where_these_are_on", efi_names_control),
        Row::new("debug_shows_that_nothing_of_the_host_was_taken", look_around),
    ]
}

fn smbios_credential() -> Vec<String> {
    vec!["-smbios".into(), format!("type=11,value=io.systemd.credential:{CREDENTIAL}={CONTENT}")]
}

fn fw_cfg_credential() -> Vec<String> {
    vec!["-fw_cfg".into(), format!("name=opt/io.systemd.credentials/{CREDENTIAL},string={CONTENT}")]
}

/// The plain machine with `extra` arguments; `disks` replace the image's.
fn with(suite: &Suite, disks: &[&Disk], extra: Vec<String>) -> Machine {
    let mut paths: Vec<_> = disks.iter().map(|disk| disk.path()).collect();
    if paths.is_empty() {
        paths.push(suite.image.file("raw"));
    }
    Machine { extra, ..suite.machine(&paths) }
}

/// Boots `machine` to a running system without the marker; exactly `registers` differ from a plain boot.
fn must_move_only(suite: &Suite, row: &str, machine: &Machine, registers: &[usize]) -> Result<()> {
    let plain = baseline(suite)?;
    let watched = run(suite, row, machine)?;
    let found = moved(plain, &settled(&watched, &suite.image.read("efi")?)?);
    ensure!(found == registers, "registers {found:?} moved, not {registers:?}");
    Ok(())
}

fn run(suite: &Suite, row: &str, machine: &Machine) -> Result<Watched> {
    let mut watched = Watched::start(suite, row, machine)?;
    watched.must_run()?;
    watched.must_not_prompt()?;
    watched.must_not_show(MARKER)?;
    Ok(watched)
}

/// The debug image, which has the modules that pass these inputs on, with a command line that lacks these words.
fn without(suite: &Suite, words: &str) -> Result<Disk> {
    let command_line = &suite.debug.document.command_line;
    ensure!(command_line.contains(words), "the command line lacks {words}: {command_line}");
    let command_line = command_line.replace(words, "");
    let uki = uki::with_command_line(&suite.sandbox, &suite.debug.read("efi")?, &command_line)?;
    let disk = Disk::copy_of(&suite.debug)?;
    disk.put_on_esp(&suite.debug, &[(UKI, &uki)])?;
    Ok(disk)
}

/// The same credential, only with imports on: the marker appears. So the rows above can fail.
fn control(suite: &Suite, row: &str, extra: Vec<String>) -> Result<()> {
    let disk = without(suite, SYSTEM_CREDENTIALS)?;
    let mut watched = Watched::start(suite, row, &with(suite, &[&disk], extra))?;
    watched.must_run()?;
    ensure!(watched.vm.console().text().contains(MARKER), "{MARKER} does not appear{}", watched.last_lines());
    Ok(())
}

/// What systemd 257 and its tools would read: words for the command line, and what a boot loader, a stub and a system say to each other.
fn with_efi_variables(suite: &Suite, disks: &[&Disk], folder: &Path, options: &str) -> Result<Machine> {
    /// EFI_OS_INDICATIONS_TIMESTAMP_REVOCATION: nothing that the firmware does. With EFI_OS_INDICATIONS_BOOT_TO_FW_UI it would boot nothing.
    const OS_INDICATIONS: u64 = 2;
    let text = |name, text| Variable::text(name, LOADER, text);
    let variables = [
        Variable::text("SystemdOptions", SYSTEMD, options),
        text("LoaderSystemToken", "a token that somebody chose"),
        text("LoaderTimeInitUSec", "1"),
        text("LoaderTimeExecUSec", "2"),
        text("LoaderConfigTimeout", "7"),
        text("LoaderConfigTimeoutOneShot", "7"),
        text("LoaderEntries", "pwned.efi"),
        text("LoaderEntryOneShot", "pwned.efi"),
        text("LoaderEntryDefault", "pwned.efi"),
        text("LoaderDevicePartUUID", "11111111-2222-3333-4444-555555555555"),
        text("LoaderInfo", "pwned"),
        text("StubInfo", "pwned"),
        text("StubPcrKernelImage", "23"),
        Variable::number("LoaderFeatures", LOADER, u64::MAX),
        Variable::number("StubFeatures", LOADER, u64::MAX),
        Variable::number("OsIndications", GLOBAL, OS_INDICATIONS),
    ];
    Ok(Machine { firmware: Some(variables::firmware(folder, &variables)?), ..with(suite, disks, vec![]) })
}

fn efi_variables(suite: &Suite, row: &str) -> Result<()> {
    let folder = tempfile::tempdir().context("Failed to make a folder")?;
    must_move_only(suite, row, &with_efi_variables(suite, &[], folder.path(), RESCUE)?, &[])
}

/// The same variables, and a kernel that passes them on: systemd goes where they say.
fn efi_variables_control(suite: &Suite, row: &str) -> Result<()> {
    let disk = without(suite, "efi=noruntime")?;
    let folder = tempfile::tempdir().context("Failed to make a folder")?;
    let mut watched = Watched::start(suite, row, &with_efi_variables(suite, &[&disk], folder.path(), RESCUE)?)?;
    match watched.verdict()? {
        Verdict::Ended(Ending::Failed { code, .. }) if code == "SYSTEM_RESCUE" => Ok(()),
        other => anyhow::bail!("systemd took nothing from the variables: {other:?}{}", watched.last_lines()),
    }
}

/// And with options that leave the boot as it is: the console shows the hostname, and the system has the machine id.
fn efi_names_control(suite: &Suite, row: &str) -> Result<()> {
    let disk = without(suite, "efi=noruntime")?;
    let folder = tempfile::tempdir().context("Failed to make a folder")?;
    let mut watched = Watched::start(suite, row, &with_efi_variables(suite, &[&disk], folder.path(), NAMES)?)?;
    watched.must_run()?;
    let mut shell = Shell::log_in(&mut watched.vm)?;
    let found = shell.run(SHOW_NAMES)?;
    ensure!(found == format!("{HOSTNAME}\n{MACHINE_ID}"), "systemd took nothing from the variables: {found}");
    let preloads = shell.run(COUNT_PRELOADS)?;
    ensure!(preloads == "2", "{preloads} of two services have the library that the variable names");
    shell
        .run("grep -q /libm.so.6 /proc/$(systemctl show -p MainPID --value dbus)/maps")
        .context("no service has loaded the library that the variable names")?;
    Ok(())
}

/// The stub packs them into an archive for the initrd, which the kernel measures too (PCR 9, and 10 which follows it); our initrd passes nothing on.
fn esp_credential(suite: &Suite, row: &str) -> Result<()> {
    let disk = Disk::copy_of(&suite.image)?;
    let own = format!("{UKI}.extra.d/{CREDENTIAL}.cred");
    let global = format!("loader/credentials/{CREDENTIAL}.cred");
    disk.put_on_esp(&suite.image, &[(&own, CONTENT.as_bytes()), (&global, CONTENT.as_bytes())])?;
    must_move_only(suite, row, &with(suite, &[&disk], vec![]), &[9, 10, 12])
}

/// As above, in an archive of its own.
fn esp_extension(suite: &Suite, row: &str) -> Result<()> {
    let disk = Disk::copy_of(&suite.image)?;
    disk.put_on_esp(&suite.image, &[(&format!("{UKI}.extra.d/x.raw"), CONTENT.as_bytes())])?;
    must_move_only(suite, row, &with(suite, &[&disk], vec![]), &[9, 10, 13])
}

fn add_on(suite: &Suite, row: &str) -> Result<()> {
    let disk = Disk::copy_of(&suite.image)?;
    let add_on = uki::add_on(&suite.sandbox, ADDITION)?;
    disk.put_on_esp(&suite.image, &[(&format!("{UKI}.extra.d/test.addon.efi"), &add_on)])?;
    must_add(suite, row, &with(suite, &[&disk], vec![]), &[4, 9, 10, 12])
}

fn smbios_command_line(suite: &Suite, row: &str) -> Result<()> {
    let extra = vec!["-smbios".into(), format!("type=11,value=io.systemd.stub.kernel-cmdline-extra={ADDITION}")];
    must_add(suite, row, &with(suite, &[], extra), &[9, 10, 12])
}

/// The addition is in PCR 12, as the model says, and nothing moved that is not named.
fn must_add(suite: &Suite, row: &str, machine: &Machine, registers: &[usize]) -> Result<()> {
    let plain = baseline(suite)?;
    let watched = run(suite, row, machine)?;
    let pcrs = settled(&watched, &suite.image.read("efi")?)?;
    let found = moved(plain, &pcrs);
    ensure!(found == registers, "registers {found:?} moved, not {registers:?}");
    for bank in pcrs.banks() {
        let expected = registers::pcr12_command_line(bank, ADDITION);
        let held = pcrs.get(bank, 12).context("a bank is missing")?;
        ensure!(held == expected, "PCR 12 ({bank}) is {}, not {}", hex::encode(held), hex::encode(expected));
    }
    Ok(())
}

/// Swap, /home and /var as a host would make them, each with something in it.
struct Partitions {
    swap: Vec<u8>,
    files: Vec<u8>,
}

impl Partitions {
    fn make(suite: &Suite) -> Result<Self> {
        let folder = tempfile::tempdir().context("Failed to make a temporary folder")?;
        let script = "mkdir tree && echo PWNED > tree/marker && truncate -s 8M swap files && mkswap -q swap && mke2fs -q -t ext4 -d tree files";
        let mut command = suite.sandbox.clone().bind(folder.path(), "/tmp/work").work_dir("/tmp/work").command("sh");
        let output = command.args(["-c", script]).output().context("Failed to start a shell")?;
        ensure!(output.status.success(), "making file systems failed: {}", String::from_utf8_lossy(&output.stderr));
        let read =
            |name: &str| std::fs::read(folder.path().join(name)).with_context(|| format!("Failed to read {name}"));
        Ok(Self { swap: read("swap")?, files: read("files")? })
    }

    fn all(&self) -> [(uuid::Uuid, &[u8]); 3] {
        [(SWAP, &self.swap), (HOME, &self.files), (VAR, &self.files)]
    }
}

/// A second disk changes the machine's tables (PCR 1), nothing else.
fn partitions_on_another_disk(suite: &Suite, row: &str) -> Result<()> {
    let partitions = Partitions::make(suite)?;
    let second = Disk::with_partitions(&partitions.all())?;
    let machine = suite.machine(&[suite.image.file("raw"), second.path()]);
    untouched(suite, row, &machine, &[1, 10])
}

fn partitions_on_the_image_disk(suite: &Suite, row: &str) -> Result<()> {
    let disk = Disk::copy_of(&suite.image)?;
    for (type_guid, content) in Partitions::make(suite)?.all() {
        disk.append_partition(type_guid, content)?;
    }
    untouched(suite, row, &suite.machine(&[disk.path()]), &[5, 10])
}

fn untouched(suite: &Suite, row: &str, machine: &Machine, registers: &[usize]) -> Result<()> {
    let plain = baseline(suite)?;
    let watched = run(suite, row, machine)?;
    for text in ["home.mount", "var.mount", ".swap", "boot.automount", "efi.automount"] {
        watched.must_not_show(text)?;
    }
    let found = moved(plain, &settled(&watched, &suite.image.read("efi")?)?);
    ensure!(found == registers, "registers {found:?} moved, not {registers:?}");
    Ok(())
}

/// All at once on the debug image, seen from inside; and by hand what systemd did not do, to show that it could be seen.
fn look_around(suite: &Suite, row: &str) -> Result<()> {
    let partitions = Partitions::make(suite)?;
    let second = Disk::with_partitions(&partitions.all())?;
    let uuid = vec!["-smbios".into(), format!("type=1,uuid={UUID}")];
    let extra = [smbios_credential(), fw_cfg_credential(), uuid].concat();
    let folder = tempfile::tempdir().context("Failed to make a folder")?;
    let firmware = with_efi_variables(suite, &[], folder.path(), NAMES)?.firmware;
    let machine = Machine { extra, firmware, ..suite.machine(&[suite.debug.file("raw"), second.path()]) };
    let mut watched = Watched::start(suite, row, &machine)?;
    watched.must_run()?;
    watched.must_not_show(MARKER)?;
    let mut shell = Shell::log_in(&mut watched.vm)?;

    let credentials = "ls -A /run/credentials/@system /run/credentials/@encrypted 2>/dev/null || true";
    ensure!(shell.run(credentials)?.is_empty(), "credentials were imported: {}", shell.run(credentials)?);
    let extra_initrd = shell.run("ls -d /.extra /run/extra 2>/dev/null || true")?;
    ensure!(extra_initrd.is_empty(), "the stub's archive was passed on: {extra_initrd}");
    let names = shell.run(SHOW_NAMES)?;
    ensure!(!names.contains(HOSTNAME) && !names.contains(MACHINE_ID), "a variable of the firmware gave names: {names}");
    // systemd takes it on this machine, where /etc/machine-id names none.
    let shown = shell.run("cat /sys/class/dmi/id/product_uuid")?;
    ensure!(shown.trim() == UUID, "SMBIOS has another UUID: {shown}");
    ensure!(!names.contains(&UUID.replace('-', "")), "SMBIOS gave the machine id: {names}");
    let id = names.lines().last().unwrap_or_default();
    ensure!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "no machine id: {names}");
    shell.run("grep -qx LLDP=no /etc/systemd/network/80-ethernet.network").context("networkd reads LLDP")?;
    let preloads = shell.run(COUNT_PRELOADS)?;
    ensure!(preloads == "0", "{preloads} services have a library that a variable of the firmware names");
    let mounts = "grep -c ^/dev/vd /proc/mounts || true";
    let swaps = "tail -n +2 /proc/swaps";
    ensure!(shell.run(mounts)? == "0", "a disk was mounted: {}", shell.run("cat /proc/mounts")?);
    ensure!(shell.run(swaps)?.is_empty(), "swap is on: {}", shell.run(swaps)?);

    shell.run("swapon /dev/vdb1 && mkdir /tmp/home && mount -o ro /dev/vdb2 /tmp/home")?;
    ensure!(shell.run(swaps)?.contains("/dev/vdb1"), "swap that is on is not seen");
    ensure!(shell.run(mounts)? == "1", "a disk that is mounted is not seen");
    ensure!(shell.run("cat /tmp/home/marker")? == MARKER, "the file system on the second disk is not usable");
    Ok(())
}
