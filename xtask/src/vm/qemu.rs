//! QEMU's command line: a q35 machine with OVMF, virtio disks and one serial port, and nothing that was not asked for (`-nodefaults`).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{FirmwareFiles, Machine, Tpm, VmError, qtest, tpm};
use crate::sandbox::Sandbox;

/// Where the machine's own folder is inside the sandbox. QEMU refuses `/tmp` itself for overlays.
pub(super) const FOLDER: &str = "/tmp/vm";

/// A machine's own copy of the variables, in its folder.
pub(super) const VARIABLE_STORE: &str = "variables.fd";

/// The build root's firmware.
const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// Where another firmware is shown.
const OTHER_FIRMWARE: &str = "/tmp/firmware/code.fd";
const OTHER_VARIABLES: &str = "/tmp/firmware/variables.fd";

/// How instructions are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// By QEMU itself (TCG): works everywhere, slowly.
    Emulation,
    /// By the processor (KVM).
    Kvm,
}

impl Accelerator {
    /// KVM where it works. That `/dev/kvm` can be opened does not say so: inside some clouds' machines it fails at the first CPU, or, on a processor without VMX and SVM, at the first instructions of the firmware.
    pub fn detect(sandbox: &Sandbox) -> Self {
        let openable = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
        let processor = std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| has_virtualisation(&text));
        if openable && processor && kvm_works(sandbox).unwrap_or(false) { Self::Kvm } else { Self::Emulation }
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            // Without `la57=off` this CPU hangs in the firmware; `qemu64` has no RDRAND, and the first random number waits for seconds.
            Self::Emulation => ["-machine", "q35,accel=tcg", "-cpu", "max,la57=off"],
            Self::Kvm => ["-machine", "q35,accel=kvm", "-cpu", "host"],
        }
    }
}

/// Whether the processor has VMX or SVM, by the flags in `/proc/cpuinfo`.
fn has_virtualisation(text: &str) -> bool {
    let flags = text.lines().find_map(|line| line.strip_prefix("flags"));
    flags.is_some_and(|flags| flags.split_whitespace().any(|flag| matches!(flag, "vmx" | "svm")))
}

/// Makes one CPU and quits.
fn kvm_works(sandbox: &Sandbox) -> std::io::Result<bool> {
    let mut command = sandbox.command("qemu-system-x86_64");
    command.args(Accelerator::Kvm.arguments()).args(["-nodefaults", "-display", "none", "-S", "-monitor", "stdio"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // It may have failed already: then its exit status says so.
        let _ = std::io::Write::write_all(&mut input, b"quit\n");
    }
    Ok(child.wait()?.success())
}

/// The command that runs `machine`; `inside` shows its folder at [`FOLDER`].
pub(super) fn command(inside: &Sandbox, machine: &Machine) -> Result<Command, VmError> {
    let mut inside = inside.clone();
    for (index, disk) in machine.disks.iter().enumerate() {
        let path = disk.canonicalize().map_err(|source| VmError::Disk { path: disk.clone(), source })?;
        inside = inside.bind_read_only(&path, guest_disk(index));
    }
    for (index, disk) in (machine.disks.len()..).zip(&machine.kept_disks) {
        let path = disk.canonicalize().map_err(|source| VmError::Disk { path: disk.clone(), source })?;
        inside = inside.bind(&path, guest_disk(index));
    }
    let mut variables = VARIABLES;
    if let Some(FirmwareFiles { code, variables: store }) = &machine.firmware {
        inside = inside.bind_read_only(code, OTHER_FIRMWARE).bind_read_only(store, OTHER_VARIABLES);
        variables = OTHER_VARIABLES;
    }
    // The firmware writes its variables: a private copy. QEMU is started by a shell that makes it, so that no path of the build root is opened from outside.
    let script = format!("cp {variables} {FOLDER}/{VARIABLE_STORE} && exec qemu-system-x86_64 \"$@\"");
    let mut command = inside.command("sh");
    command.args(["-c", &script, "sh"]).args(arguments(machine));
    Ok(command)
}

fn arguments(machine: &Machine) -> Vec<String> {
    let mut words: Vec<String> = machine.accelerator.arguments().map(String::from).into();
    let mut add = |name: &str, value: String| words.extend([name.to_owned(), value]);
    add("-m", machine.memory_mib.to_string());
    add("-smp", machine.cpus.to_string());
    let code = if machine.firmware.is_some() { OTHER_FIRMWARE } else { FIRMWARE };
    add("-drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={code}"));
    add("-drive", format!("if=pflash,unit=1,format=raw,file={FOLDER}/{VARIABLE_STORE}"));
    add("-display", "none".into());
    add("-chardev", "stdio,id=console,signal=off".into());
    add("-serial", "chardev:console".into());
    for index in 0..machine.disks.len() + machine.kept_disks.len() {
        let file = guest_disk(index);
        let kept = if index < machine.disks.len() { "snapshot=on" } else { "cache=writethrough" };
        add("-drive", format!("if=none,id=disk{index},format=raw,{kept},file={}", file.display()));
        add(
            "-device",
            format!("virtio-blk-pci,id=device{index},drive=disk{index},serial=disk{index},bootindex={index}"),
        );
    }
    if let Some(Tpm { interface, .. }) = &machine.tpm {
        add("-chardev", format!("socket,id=tpm,path={FOLDER}/{}", tpm::SOCKET));
        add("-tpmdev", "emulator,id=tpm0,chardev=tpm".into());
        add("-device", format!("{},tpmdev=tpm0", interface.device()));
    }
    if machine.network {
        let forward = |(host, guest): &(u16, u16)| format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}");
        add("-netdev", format!("user,id=net0{}", machine.forwarded.iter().map(forward).collect::<String>()));
        add("-device", "virtio-net-pci,netdev=net0,romfile=".into());
    }
    if machine.inspectable {
        add("-qtest", format!("unix:{FOLDER}/{},server=on,wait=off", qtest::SOCKET));
        add("-qtest-log", "none".into());
    }
    words.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(String::from));
    words.extend(machine.extra.iter().cloned());
    words
}

fn guest_disk(index: usize) -> PathBuf {
    Path::new("/tmp/disks").join(index.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_never_written_and_nothing_is_added_unasked() {
        let mut machine = Machine::with_disk(Path::new("a.raw"));
        machine.disks.push("b.raw".into());
        let line = arguments(&machine).join(" ");
        assert_eq!(line.matches("snapshot=on").count(), 2, "{line}");
        assert!(line.contains("-nodefaults") && line.contains("-no-reboot") && !line.contains("-netdev"), "{line}");
    }

    #[test]
    fn kvm_needs_a_processor_with_vmx_or_svm() {
        for (text, expected) in [
            ("processor\t: 0\nflags\t\t: fpu vme svm\n", true),
            ("flags\t\t: fpu vmx\n", true),
            ("flags\t\t: fpu vme hypervisor\nvmx flags\t: x\n", false),
            ("", false),
        ] {
            assert_eq!(has_virtualisation(text), expected, "{text}");
        }
    }

    #[test]
    fn a_kept_disk_is_written_through_and_no_other_is() {
        let mut machine = Machine::with_disk(Path::new("a.raw"));
        machine.kept_disks.push("b.raw".into());
        let line = arguments(&machine).join(" ");
        assert!(
            line.contains("id=disk0,format=raw,snapshot=on") && line.contains("id=disk1,format=raw,cache=writethrough")
        );
    }

    #[test]
    fn a_machine_without_tpm_has_none() {
        let mut machine = Machine::with_disk(Path::new("a.raw"));
        assert!(arguments(&machine).join(" ").contains("tpm-crb"));
        machine.tpm = None;
        assert!(!arguments(&machine).join(" ").contains("tpm"));
    }
}
