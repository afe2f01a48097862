//! PID 1 of the initrd: finds the image's root partition, has the kernel verify it with dm-verity, measures what it
//! does into the TPM and hands over to systemd. Design section 4 is the specification. It refuses to run as anything
//! but PID 1, reads neither `/proc/cmdline` nor its own environment, and ends every failure with a code, a measurement
//! and a power-off: there is no prompt, no shell and no way on.
//!
//! # The contract with the image build
//!
//! The initrd contains exactly:
//! - `/init`: this program;
//! - `/etc/cairn/boot.json`: see [`boot_document`];
//! - `/etc/cairn/modules`: see [`modules`], and the module files that it names;
//! - `/usr/lib/x86_64-linux-gnu/*`: the shared libraries that this program needs, with those loaded at run time
//!   (`libtss2-tcti-device.so.0`), the links `/lib -> usr/lib` and `/lib64 -> usr/lib64`, and the loader;
//! - empty directories `/proc /sys /dev /run /sysroot`.
//!
//! The root filesystem has the directories `/dev /proc /sys /run /var`, and `/usr/lib/systemd/systemd`.

mod api_filesystems;
mod attestation;
mod boot;
mod boot_document;
mod clock;
mod code;
mod configuration;
mod console;
mod discovery;
mod failure;
mod gaps;
mod gpt;
mod handover;
mod image_disks;
mod inventory;
mod machine_id;
mod measurement;
mod membership;
mod modules;
mod network;
mod probe;
mod process_one;
mod read_at;
mod state_disk;
mod tpm;
mod uevents;
mod verity;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("init: this is PID 1 of Cairn's initrd; it does nothing in a running system");
        return ExitCode::from(2);
    }
    let started = clock::since_boot();
    failure::install_panic_hook();
    match boot::run(started) {
        Ok(never) => match never {},
        Err(failure) => failure::end(&failure),
    }
}
