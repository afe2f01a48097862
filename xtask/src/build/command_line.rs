//! The check that the kernel command line of an image opens no door: no word of it may start another init, unit or shell, or switch a protection off. Debug profiles are excused.

use anyhow::{Result, bail};

/// Words of systemd that take something away. All others of systemd start, mask or configure something.
const HARMLESS_OF_SYSTEMD: [&str; 6] = [
    "systemd.import_credentials=no",
    "systemd.gpt_auto=0",
    "systemd.swap=0",
    "systemd.log_level=",
    "systemd.show_status=",
    "systemd.machine_id=",
];
/// Single words that systemd takes for a target (systemd(1), "Kernel Command Line"), or that ask for a shell.
const TARGETS: [&str; 14] =
    ["-b", "-s", "1", "2", "3", "4", "5", "S", "s", "auto", "emergency", "rescue", "single", "debug"];
/// Beginnings of words that start another program first, or switch a protection off (Linux, kernel-parameters).
const DOORS: [(&str, &str); 15] = [
    ("init=", "it starts another program than the agent"),
    ("rdinit=", "it starts another program than the agent"),
    ("rd.", "it is for another initrd than the agent"),
    ("root=", "the agent opens the root that it has verified"),
    ("sysrq_always_enabled", "it switches SysRq on"),
    ("selinux=0", "it switches a protection off"),
    ("apparmor=0", "it switches a protection off"),
    ("lockdown=none", "it switches a protection off"),
    ("module.sig_enforce=0", "it switches a protection off"),
    ("mitigations=off", "it switches a protection off"),
    ("nokaslr", "it switches a protection off"),
    ("efi=runtime", "variables of the firmware are in no register"),
    ("kgdboc", "it opens the kernel to a debugger"),
    ("netconsole", "it sends kernel messages to others"),
    ("acpi_rsdp=", "it replaces the tables of the machine"),
];

/// Fails with each word that opens a door.
pub fn check(command_line: &str) -> Result<()> {
    let findings: Vec<String> = command_line
        .split_whitespace()
        .filter_map(|word| reason(word).map(|reason| format!("{word}: {reason}")))
        .collect();
    if findings.is_empty() {
        return Ok(());
    }
    bail!(
        "The kernel command line opens a door ({} words):\n  {}\nRemove them from `command_line` of os/image.toml and of the profile; only a profile with `debug = true` may have them",
        findings.len(),
        findings.join("\n  ")
    )
}

/// Words may be quoted, and `-` and `_` are the same in names of parameters.
fn reason(word: &str) -> Option<&'static str> {
    let word = word.replace('"', "");
    if TARGETS.contains(&word.as_str()) {
        return Some("systemd starts another target");
    }
    let (name, value) = word.split_once('=').unwrap_or((&word, ""));
    let name = name.replace('-', "_");
    let word = if word.contains('=') { format!("{name}={value}") } else { name };
    if word.starts_with("systemd.") {
        let is_harmless = HARMLESS_OF_SYSTEMD.iter().any(|harmless| match harmless.ends_with('=') {
            true => word.starts_with(harmless),
            false => word == *harmless,
        });
        return (!is_harmless).then_some("systemd starts, masks or imports what it says");
    }
    DOORS.iter().find(|(door, _)| word.starts_with(door)).map(|(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkout::Checkout;
    use crate::config::image::ImageConfig;

    #[test]
    fn command_line_of_the_image_opens_no_door() {
        let image = ImageConfig::read(&Checkout::find().unwrap().join("os/image.toml")).unwrap();
        check(&image.command_line.join(" ")).unwrap();
    }

    #[test]
    fn each_door_is_named() {
        for word in [
            "systemd.debug_shell",
            "systemd.debug-shell=1",
            "systemd.unit=rescue.target",
            "systemd.wants=debug-shell.service",
            "systemd.mask=x.service",
            "systemd.run=/bin/sh",
            "\"systemd.run=/bin/sh -c x\"",
            "systemd.setenv=LD_PRELOAD=/x",
            "systemd.set_credential=a:b",
            "systemd.import_credentials=yes",
            "systemd.gpt_auto=1",
            "init=/bin/sh",
            "rdinit=/bin/sh",
            "rd.break",
            "rd.systemd.unit=emergency.target",
            "single",
            "s",
            "1",
            "emergency",
            "sysrq-always-enabled=0",
            "lockdown=none",
            "mitigations=off",
            "efi=runtime",
        ] {
            let error = check(&format!("console=ttyS0 {word} quiet")).unwrap_err().to_string();
            assert!(error.contains("(1 words)") || word.contains(' '), "{error}");
            assert!(error.contains(word.split(' ').next().unwrap()), "{error}");
        }
        check("console=ttyS0,115200 loglevel=5 systemd.log_level=debug initcall_debug rdinitrd=x").unwrap();
    }
}
