//! Images that others build: UKIs of ukify with Debian's stubs, with what people put into and beside them. Each is booted until its kernel panics for want of a root, and the registers that the emulator
//! holds then are those that are predicted from the files.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_image::esp;
use cairn_tests::disk::Disk;
use cairn_tests::environment::output_of;
use cairn_tests::machine::locked_file;
use cairn_tests::suite::Suite;
use cairn_tests::uki::add_on;
use cairn_tests::watch::Watched;
use cairn_tests::{pe, registers};
use gpt::disk::LogicalBlockSize;
use measurements::boot::{BootMethod, Image, Machine as Known, Point};
use measurements::compose::{Configuration, compose};
use measurements::tpm::Value;
use uuid::Uuid;
use xtask::sandbox::WORK;
use xtask::vm::{FirmwareFiles, Machine};

use crate::Row;

const ESP: Uuid = Uuid::from_u128(0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b);
const REMOVABLE: &str = "EFI/BOOT/BOOTX64.EFI";
const ESP_BYTES: u64 = 48 << 20;
const STUB: &str = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";
/// Without a root, the kernel panics and resets the machine, which ends it.
const COMMAND_LINE: &str = "--cmdline=console=ttyS0 panic=-1";
/// Where a kernel is shown to QEMU.
const KERNEL: &str = "/tmp/kernel.efi";
const TIMEOUT: Duration = Duration::from_secs(300);
/// Registers that follow from image and firmware alone, whatever the machine's shape; 10 is the kernel's, 15 user space's.
const COMPARED: [u8; 13] = [0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14];

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("foreign_uki_with_add_ons_credentials_and_extensions_is_predicted", companions),
        Row::new("foreign_uki_with_microcode_signature_and_profile_is_predicted", sections),
        Row::new("foreign_uki_with_the_stub_of_systemd_252_is_predicted", old_stub),
        Row::new("foreign_uki_behind_systemd_boot_is_predicted", systemd_boot),
        Row::new("foreign_uki_on_a_disk_with_large_blocks_is_predicted", large_blocks),
        Row::new("foreign_uki_that_the_vmm_hands_over_is_predicted", direct_boot),
        Row::new("foreign_uki_after_boot_options_that_fail_is_predicted", failed_options),
        Row::new("foreign_uki_with_secure_boot_is_predicted", secure_boot),
    ]
}

/// A UKI of the image's kernel, by ukify with these arguments; files for them are made first.
fn ukify(suite: &Suite, files: &[(&str, &[u8])], arguments: &[&str]) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let uki = suite.image.read("efi")?;
    let own: [(&str, &[u8]); 2] = [("linux", pe::section_data(&uki, ".linux")?), ("initrd", b"an initrd!")];
    for (name, content) in own.iter().chain(files) {
        std::fs::write(folder.path().join(name), content).with_context(|| format!("Failed to write {name}"))?;
    }
    let tools = suite.sandbox.clone().bind(folder.path(), WORK).work_dir(WORK);
    let common = ["build", "--linux=linux", "--initrd=initrd", COMMAND_LINE, "--os-release=ID=other\n", "--uname=6.12"];
    output_of(tools.command("ukify").args(common).arg("--output=out.efi").args(arguments))?;
    std::fs::read(folder.path().join("out.efi")).context("Failed to read what ukify made")
}

fn disk(files: &[(&str, &[u8])], block: LogicalBlockSize) -> Result<Disk> {
    let settings = esp::Settings { size: ESP_BYTES, volume_id: 7, label: *b"FOREIGN    ", time: 1_700_000_000 };
    Disk::with_blocks(&[(ESP, &esp::write(&settings, files)?)], block)
}

/// What is predicted of a boot.
struct Predicted {
    registers: BTreeMap<u8, Value>,
    /// Registers that are not known.
    unknown: Vec<u8>,
}

impl Predicted {
    /// After so many boot options that fail.
    fn after(failed: usize, image: &[u8], machine: &Known) -> Result<Self> {
        let composition = compose(&Image::parse(image)?.measured()?, machine, &Configuration::Stateless)?;
        Ok(Self { registers: composition.registers_after(Point::Firmware, failed), unknown: Vec::new() })
    }

    /// Compares with every register of a machine that ends.
    fn must_be_of(&self, mut watched: Watched) -> Result<()> {
        ensure!(watched.vm.wait_exit(TIMEOUT)?.is_some(), "the machine does not end");
        let pcrs = watched.vm.pcrs()?;
        for register in COMPARED {
            let value = &self.registers[&register];
            let is_unknown = matches!(value, Value::HostDependent(_));
            ensure!(is_unknown == self.unknown.contains(&register), "PCR {register} is predicted as {value:?}");
            for bank in pcrs.banks().filter(|_| !is_unknown) {
                let found = pcrs.get(bank, register.into()).context("a bank is missing")?;
                ensure!(
                    value.allows(bank, found) == Some(true),
                    "PCR {register} ({bank}) is {}, which is not as predicted: {value:?}",
                    hex::encode(found)
                );
            }
        }
        let bank = pcrs.banks().next().context("the TPM has no active bank")?;
        ensure!(pcrs.get(bank, 11) != Some(&registers::after(bank, &[])[..]), "the stub did not run");
        Ok(())
    }
}

fn firmware_file(suite: &Suite, name: &str) -> Result<Vec<u8>> {
    let output = suite.sandbox.command("cat").arg(format!("/usr/share/OVMF/{name}")).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// The build root's firmware, without Secure Boot.
fn known(suite: &Suite) -> Result<Known> {
    let store = firmware_file(suite, "OVMF_VARS_4M.fd")?;
    Ok(Known::with_firmware(&firmware_file(suite, "OVMF_CODE_4M.fd")?, Some(&store))?)
}

fn boot(suite: &Suite, row: &str, files: &[(&str, &[u8])]) -> Result<()> {
    let disk = disk(files, LogicalBlockSize::Lb512)?;
    let predicted = Predicted::after(0, &std::fs::read(disk.path())?, &known(suite)?)?;
    predicted.must_be_of(Watched::start(suite, row, &suite.machine(&[disk.path()]))?)
}

fn companions(suite: &Suite, row: &str) -> Result<()> {
    let (first, second) = (add_on(&suite.sandbox, "own=1")?, add_on(&suite.sandbox, " global=1 ")?);
    let own = |name: &str| format!("{REMOVABLE}.extra.d/{name}");
    let files: [(String, &[u8]); 8] = [
        (REMOVABLE.into(), &ukify(suite, &[], &[])?),
        (own("a.addon.efi"), &first),
        ("loader/addons/g.addon.efi".into(), &second),
        (own("b.cred"), b"second"),
        (own("A.CRED"), b"first"),
        ("loader/credentials/g.cred".into(), b"global"),
        (own("s.raw"), b"a system extension"),
        (own("c.confext.raw"), b"a configuration extension"),
    ];
    boot(suite, row, &files.each_ref().map(|(path, content)| (&path[..], *content)))
}

fn sections(suite: &Suite, row: &str) -> Result<()> {
    let files: [(&str, &[u8]); 4] =
        [("microcode", b"no microcode"), ("signature", b"{}"), ("key", b"a key\n"), ("profile", b"ID=zero\n")];
    let arguments =
        ["--microcode=microcode", "--section=.pcrsig:@signature", "--section=.pcrpkey:@key", "--profile=@profile"];
    boot(suite, row, &[(REMOVABLE, &ukify(suite, &files, &arguments)?)])
}

fn old_stub(suite: &Suite, row: &str) -> Result<()> {
    let stub = locked_file("systemd-boot-efi", "bookworm", STUB)?;
    let uki = ukify(suite, &[("stub", &stub)], &["--stub=stub"])?;
    let credential = format!("{REMOVABLE}.extra.d/x.cred");
    boot(suite, row, &[(REMOVABLE, &uki), (&credential, b"a credential")])
}

fn systemd_boot(suite: &Suite, row: &str) -> Result<()> {
    let loader = locked_file("systemd-boot-efi", "trixie", "usr/lib/systemd/boot/efi/systemd-bootx64.efi")?;
    let uki = ukify(suite, &[], &[])?;
    let files: [(&str, &[u8]); 4] = [
        (REMOVABLE, &loader),
        ("EFI/Linux/foreign.efi", &uki),
        ("EFI/Linux/foreign.efi.extra.d/x.cred", b"a credential"),
        ("loader/loader.conf", b"timeout 0\n"),
    ];
    boot(suite, row, &files)
}

fn large_blocks(suite: &Suite, row: &str) -> Result<()> {
    let disk = disk(&[(REMOVABLE, &ukify(suite, &[], &[])?)], LogicalBlockSize::Lb4096)?;
    let blocks = ["logical_block_size", "physical_block_size"];
    let extra = blocks.iter().flat_map(|name| ["-global".to_owned(), format!("virtio-blk-device.{name}=4096")]);
    let machine = Machine { extra: extra.collect(), ..suite.machine(&[disk.path()]) };
    let predicted = Predicted::after(0, &std::fs::read(disk.path())?, &known(suite)?)?;
    predicted.must_be_of(Watched::start(suite, row, &machine)?)
}

fn direct_boot(suite: &Suite, row: &str) -> Result<()> {
    let uki = ukify(suite, &[], &[])?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("kernel.efi");
    std::fs::write(&path, &uki)?;
    let machine = Machine { extra: ["-kernel", KERNEL].map(String::from).into(), ..suite.machine(&[]) };
    let predicted = Predicted::after(0, &uki, &known(suite)?.booting(BootMethod::Kernel))?;
    let sandbox = suite.sandbox.clone().bind_read_only(&path, KERNEL);
    predicted.must_be_of(Watched::start_in(suite, sandbox, row, &machine)?)
}

fn failed_options(suite: &Suite, row: &str) -> Result<()> {
    let disk = disk(&[(REMOVABLE, &ukify(suite, &[], &[])?)], LogicalBlockSize::Lb512)?;
    let folder = tempfile::tempdir()?;
    let empty = ["0", "1"].map(|name| folder.path().join(name));
    for path in &empty {
        std::fs::write(path, vec![0; 1 << 20])?;
    }
    let [first, second] = empty;
    let machine = suite.machine(&[first, second, disk.path()]);
    let predicted = Predicted::after(2, &std::fs::read(disk.path())?, &known(suite)?)?;
    predicted.must_be_of(Watched::start(suite, row, &machine)?)
}

/// With the keys of Debian's package for tests, whose private half is in it.
fn secure_boot(suite: &Suite, row: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let names = ["OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.snakeoil.fd"];
    let [code, variables] = names.map(|name| folder.path().join(name));
    let [code_bytes, store] = [firmware_file(suite, names[0])?, firmware_file(suite, names[1])?];
    std::fs::write(&code, &code_bytes)?;
    std::fs::write(&variables, &store)?;
    std::fs::write(folder.path().join("uki"), ukify(suite, &[], &[])?)?;
    let tools = suite.sandbox.clone().bind(folder.path(), WORK).work_dir(WORK);
    let script = "openssl rsa -passin pass:snakeoil -in /usr/share/ovmf/PkKek-1-snakeoil.key -out key && \
                  sbsign --key key --cert /usr/share/ovmf/PkKek-1-snakeoil.pem --output signed uki";
    output_of(tools.command("sh").args(["-ec", script]))?;
    let disk = disk(&[(REMOVABLE, &std::fs::read(folder.path().join("signed"))?)], LogicalBlockSize::Lb512)?;
    // This firmware keeps its variables in system management mode.
    let extra = ["-machine", "smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"];
    let machine = Machine {
        firmware: Some(FirmwareFiles { code, variables }),
        extra: extra.map(String::from).into(),
        ..suite.machine(&[disk.path()])
    };
    let known = Known::with_firmware(&code_bytes, Some(&store))?;
    let predicted = Predicted::after(0, &std::fs::read(disk.path())?, &known)?;
    // What this build writes into its first volume is not known.
    Predicted { unknown: vec![0], ..predicted }.must_be_of(Watched::start(suite, row, &machine)?)
}
