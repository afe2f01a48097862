//! The image boots, measures what it must, asks nobody anything, and lets somebody in only when it is a debug image.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_tests::environment::xtask;
use cairn_tests::registers;
use cairn_tests::settled::settled;
use cairn_tests::suite::Suite;
use cairn_tests::watch::Watched;
use measurements::boot;
use measurements::compose::{Configuration, compose};
use xtask::vm::pcr::{Bank, Pcrs};
use xtask::vm::shell::Shell;
use xtask::vm::{Ending, Machine, Tpm, TpmInterface};

use crate::Row;

/// How long a prompt would have to appear after the system runs.
const QUIET: Duration = Duration::from_secs(20);

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("production_measures_every_bank_and_asks_nobody", production),
        Row::new("production_boots_with_a_fifo_tpm_and_one_cpu", fifo_tpm),
        Row::new("the_boot_command_says_how_it_ended", boot_command),
        Row::new("debug_logs_in_and_shows_what_the_emulator_holds", debug),
    ]
}

fn production(suite: &Suite, row: &str) -> Result<()> {
    let banks = Bank::ALL.to_vec();
    let tpm = Tpm { interface: TpmInterface::Crb, banks: banks.clone(), ..Tpm::default() };
    let machine = Machine { tpm: Some(tpm), ..suite.machine(&[suite.image.file("raw")]) };
    let mut watched = Watched::start(suite, row, &machine)?;
    watched.must_run()?;
    let pcrs = settled(&watched, &suite.image.read("efi")?)?;
    for bank in banks {
        for (index, expected) in [
            (8, registers::after(bank, &[])),
            (12, registers::after(bank, &[])),
            (13, registers::after(bank, &[])),
            (14, registers::after(bank, &[])),
            (15, registers::pcr15_stateless(bank)),
        ] {
            let found = pcrs.get(bank, index).context("a bank is missing")?;
            ensure!(found == expected, "PCR {index} ({bank}) is {}, not {}", hex::encode(found), hex::encode(expected));
        }
    }
    must_be_predicted(suite, &pcrs, &suite.image.read("raw")?)?;
    // Somebody who presses keys gets no answer either.
    watched.vm.send("\r\rroot\r")?;
    let _ = watched.vm.console().wait_for(&["login:"], 0, QUIET);
    watched.must_not_prompt()
}

/// A file of the build root's firmware, which is the machines'.
fn firmware(suite: &Suite, file: &str) -> Result<Vec<u8>> {
    let output = suite.sandbox.command("cat").arg(format!("/usr/share/OVMF/{file}")).output();
    let output = output.context("Failed to read the firmware")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// Every register that follows from image and firmware has the value that is predicted from these files, in every bank.
fn must_be_predicted(suite: &Suite, pcrs: &Pcrs, raw: &[u8]) -> Result<()> {
    let (code, store) = (firmware(suite, "OVMF_CODE_4M.fd")?, firmware(suite, "OVMF_VARS_4M.fd")?);
    let machine = boot::Machine::with_firmware(&code, Some(&store))?;
    let image = boot::Image::parse(raw)?.measured()?;
    let predicted = compose(&image, &machine, &Configuration::Stateless)?.registers(boot::Point::Running);
    for bank in pcrs.banks() {
        for register in [0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15] {
            let found = pcrs.get(bank, register.into()).context("a bank is missing")?;
            let value = &predicted[&register];
            ensure!(
                value.allows(bank, found) == Some(true),
                "PCR {register} ({bank}) is {}, which is not as predicted: {value:?}",
                hex::encode(found)
            );
        }
    }
    Ok(())
}

fn fifo_tpm(suite: &Suite, row: &str) -> Result<()> {
    let tpm = Tpm { interface: TpmInterface::Tis, banks: vec![Bank::Sha256], ..Tpm::default() };
    let machine = Machine { tpm: Some(tpm), cpus: 1, ..suite.machine(&[suite.image.file("raw")]) };
    let mut watched = Watched::start(suite, row, &machine)?;
    watched.must_run()?;
    settled(&watched, &suite.image.read("efi")?)?;
    watched.must_not_prompt()
}

/// The command as people and scripts use it: what it prints, and its exit codes.
fn boot_command(suite: &Suite, _: &str) -> Result<()> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the tests are not in a checkout")?;
    let boot = |arguments: &[&str]| -> Result<(Option<i32>, String)> {
        let mut command = Command::new(xtask()?);
        command.arg("boot").arg(suite.image.file("raw")).args(arguments).current_dir(checkout).stdin(Stdio::null());
        let output = command.output().context("Failed to start xtask boot")?;
        Ok((
            output.status.code(),
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat(),
        ))
    };
    for (arguments, code, words) in [
        (&["--until", "Reached target multi-user.target", "--timeout", "500"][..], 0, "Seen: "),
        (&["--until", "never shown", "--timeout", "4"], 124, "Timed out: the console did not show"),
        (&["--no-tpm", "--timeout", "300"], 4, "TPM_MISSING"),
    ] {
        let (found, text) = boot(arguments)?;
        ensure!(found == Some(code) && text.contains(words), "{arguments:?} ended with {found:?}, not {code}: {text}");
        ensure!(!text.contains('\x1b'), "control sequences of the firmware reach a pipe: {text:?}");
    }
    Ok(())
}

/// The guest's own view of its TPM also checks the replay of the emulator's log, on which all other rows rely.
fn debug(suite: &Suite, row: &str) -> Result<()> {
    ensure!(suite.debug.document.debug, "the debug image is not marked as one");
    let mut watched = Watched::start(suite, row, &suite.machine(&[suite.debug.file("raw")]))?;
    watched.must_run()?;
    let pcrs = settled(&watched, &suite.debug.read("efi")?)?;
    let mut shell = Shell::log_in(&mut watched.vm)?;
    for bank in pcrs.banks() {
        let shown =
            shell.run(&format!("cd /sys/class/tpm/tpm0/pcr-{bank} && for i in $(seq 0 23); do cat $i; done"))?;
        let held: Vec<String> = (0..24).filter_map(|index| pcrs.get(bank, index)).map(hex::encode_upper).collect();
        ensure!(
            shown.lines().eq(held.iter().map(String::as_str)),
            "{bank}: the guest reads\n{shown}\nthe emulator holds\n{}",
            held.join("\n")
        );
    }
    let mounts = shell.run("cat /proc/mounts")?;
    ensure!(
        mounts.lines().any(|line| line.starts_with("/dev/") && line.contains(" / erofs ro,")),
        "the root is not read-only EROFS: {mounts}"
    );
    let (data, hash) = (shell.run("cat /sys/block/dm-0/dm/name")?, shell.run("cat /sys/block/dm-0/ro")?);
    ensure!((data.as_str(), hash.as_str()) == ("root", "1"), "dm-0 is {data:?}, read-only {hash:?}");
    // Of the packages' directories under /var, which the root's own cannot be seen through.
    let made = shell.run("stat -c '%a %u:%g' /var/lib/misc /var/local /var/opt")?;
    ensure!(made == "755 0:0\n755 0:0\n755 0:0", "directories of packages under /var are {made}");
    let units = shell.run("systemctl --failed --plain --no-legend")?;
    ensure!(units.is_empty(), "units failed: {units}");
    let environment = shell.run("tr '\\0' '\\n' < /proc/1/environ")?;
    ensure!(
        !environment.contains("systemd.") && !environment.contains("roothash"),
        "the command line became environment: {environment}"
    );
    watched.vm.send("systemctl poweroff\n")?;
    let ending = watched.vm.wait_exit(Duration::from_secs(180))?;
    ensure!(ending == Some(Ending::PoweredOff), "after poweroff: {ending:?}{}", watched.last_lines());
    Ok(())
}
