//! Files that root of a running node can write to the EFI system partition, through the block device: what the firmware and the stub read is measured, and refused by the broker until it is gone. What nothing reads has no effect.
//!
//! The image has no driver for the file system of that partition, so the test writes the files to the node's own disk between two boots.

use anyhow::{Result, ensure};
use cairn_tests::broker::Broker;
use cairn_tests::disk::{put_on_esp, write_esp};
use cairn_tests::node::Node;
use cairn_tests::suite::Suite;
use cairn_tests::uki;

use crate::Row;
use crate::nodes::{broker_for, generation, must_be_refused};

/// What the firmware starts from a disk without a boot entry of its own.
const UKI: &str = "EFI/BOOT/BOOTX64.EFI";
const ADDITION: &str = "systemd.hostname=pwned";
/// A credential that systemd-tmpfiles would obey.
const CREDENTIAL: &str = "w /dev/kmsg - - - - <0>PWNED";
const MARKER: &str = "PWNED";

pub fn rows() -> Vec<Row> {
    const NAMES: [(&str, &str); 3] = [
        ("an_add_on_beside_the_uki_is_refused_until_it_is_removed", "EFI/BOOT/BOOTX64.EFI.extra.d/pwned.addon.efi"),
        ("an_add_on_for_every_uki_is_refused_until_it_is_removed", "loader/addons/pwned.addon.efi"),
        (
            "a_credential_beside_the_uki_is_refused_until_it_is_removed",
            "EFI/BOOT/BOOTX64.EFI.extra.d/tmpfiles.extra.cred",
        ),
    ];
    let mut rows = vec![Row::new(
        "another_uki_on_the_esp_is_refused_and_files_that_nothing_reads_have_no_effect",
        replaced_and_unread,
    )];
    rows.extend(NAMES.map(|(name, path)| Row::new(name, move |suite, row| beside(suite, row, path)).in_full()));
    rows
}

/// The boot with this file is refused, and the broker names the register; what the ESP held is put back.
fn refused(suite: &Suite, row: &str, node: &Node, broker: &Broker, file: (&str, &[u8]), register: &str) -> Result<()> {
    let before = put_on_esp(&node.image(), &suite.image, &[file])?;
    let request = must_be_refused(suite, row, node, broker, "PCR_MISMATCH")?;
    let found = broker.admin(&["explain", &request])?["found"].to_string();
    ensure!(found.contains(register), "the explanation names no {register}: {found}");
    write_esp(&node.image(), &suite.image, &before)
}

fn beside(suite: &Suite, row: &str, path: &str) -> Result<()> {
    let broker = broker_for(&suite.image)?;
    let node = Node::new(suite, "one", &suite.image, &broker)?;
    let add_on = uki::add_on(&suite.sandbox, ADDITION)?;
    let content = if path.ends_with(".cred") { CREDENTIAL.as_bytes() } else { &add_on };
    refused(suite, row, &node, &broker, (path, content), "PCR 12")?;
    node.must_open(suite, row)?;
    generation(&broker, "one", 1)
}

fn replaced_and_unread(suite: &Suite, row: &str) -> Result<()> {
    let broker = broker_for(&suite.image)?;
    let node = Node::new(suite, "one", &suite.image, &broker)?;
    node.must_open(suite, row)?;
    let command_line = format!("{} {ADDITION}", suite.image.document.command_line);
    let other = uki::with_command_line(&suite.sandbox, &suite.image.read("efi")?, &command_line)?;
    let add_on = uki::add_on(&suite.sandbox, ADDITION)?;
    refused(suite, row, &node, &broker, (UKI, &other), "PCR 4")?;
    generation(&broker, "one", 1)?;

    // Boot loaders, their settings and shells that the firmware does not start, with a UKI that would show itself.
    let configuration = b"default pwned.efi\ntimeout 0\neditor yes\n";
    let entry = b"title PWNED\nefi /EFI/Linux/pwned.efi\noptions systemd.hostname=pwned\n";
    let before = put_on_esp(
        &node.image(),
        &suite.image,
        &[
            ("EFI/Linux/pwned.efi", &add_on),
            ("EFI/systemd/systemd-bootx64.efi", &add_on),
            ("EFI/debian/shimx64.efi", &add_on),
            ("EFI/debian/grub.cfg", configuration),
            ("EFI/Microsoft/Boot/bootmgfw.efi", &add_on),
            ("EFI/BOOT/BOOTIA32.EFI", &add_on),
            ("EFI/BOOT/grubx64.efi", &add_on),
            ("EFI/BOOT/pwned.addon.efi", &add_on),
            ("loader/loader.conf", configuration),
            ("loader/entries/pwned.conf", entry),
            // Fewer bytes than a seed has, and so of no use to the stub.
            ("loader/random-seed", CREDENTIAL.as_bytes()),
            ("startup.nsh", b"\\EFI\\Linux\\pwned.efi\r\n"),
        ],
    )?;
    // The broker compares all registers with the prediction.
    let watched = node.must_run(suite, row)?;
    watched.must_not_show(MARKER)?;
    watched.must_not_show(ADDITION)?;
    drop(watched);
    generation(&broker, "one", 2)?;
    write_esp(&node.image(), &suite.image, &before)?;
    node.must_open(suite, row)?;
    generation(&broker, "one", 3)
}
