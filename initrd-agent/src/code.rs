//! Every way in which the boot can end, with the code that the console, PCR 15 (`failed:<code>`) and
//! `docs/agent-codes.md` show (design section 4). A code once released keeps its name and meaning. The document is
//! compared with this table by a test.

use std::fmt;

macro_rules! codes {
    ($($variant:ident, $name:literal, $meaning:literal, $next:literal;)+) => {
        /// A final failure of the boot.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = $meaning] $variant,)+
        }

        impl Code {
            /// All codes, in the order of the boot.
            #[cfg(test)]
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name that is printed and measured.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What the code means, one sentence without a full stop.
            #[cfg(test)]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)+ }
            }

            /// What the operator does next, one sentence without a full stop.
            pub const fn next_step(self) -> &'static str {
                match self { $(Self::$variant => $next,)+ }
            }
        }
    };
}

codes! {
    ApiMountFailed, "API_MOUNT_FAILED",
        "A kernel filesystem (proc, sysfs, devtmpfs, tmpfs, securityfs) could not be mounted",
        "boot the image with the kernel it was built with, and enough memory";
    TpmMissing, "TPM_MISSING",
        "The kernel found no TPM 2.0",
        "give the machine a TPM 2.0 (or a virtual one) and boot again";
    TpmFailed, "TPM_FAILED",
        "The TPM did not answer as it must",
        "reset the machine; if it happens again, replace the TPM or its emulator";
    TpmBankUnsupported, "TPM_BANK_UNSUPPORTED",
        "A PCR bank is active that the agent cannot extend",
        "in the firmware, leave only SHA-1, SHA-256, SHA-384 and SHA-512 banks active";
    MeasurementLogFailed, "MEASUREMENT_LOG_FAILED",
        "A measurement could not be appended to /run/log/systemd/tpm2-measure.log",
        "give the machine more memory";
    BootDocumentInvalid, "BOOT_JSON_INVALID",
        "/etc/cairn/boot.json is missing or is not exactly what the agent expects",
        "write the image to the disk again; if it happens again, rebuild the image";
    ModulesInvalid, "MODULES_INVALID",
        "/etc/cairn/modules is missing or malformed",
        "write the image to the disk again; if it happens again, rebuild the image";
    ModuleLoadFailed, "MODULE_LOAD_FAILED",
        "The kernel refused a module of the initrd",
        "rebuild the image: kernel and modules belong to different builds, or are in the wrong order";
    DeviceEventsFailed, "DEVICE_EVENTS_FAILED",
        "The kernel's device events or the list of block devices cannot be read",
        "boot the image with the kernel it was built with";
    RootNotFound, "ROOT_NOT_FOUND",
        "No disk holds the image's root partition",
        "attach the disk with the image, by virtio-blk, virtio-scsi, NVMe or Hyper-V storage";
    HashNotFound, "HASH_NOT_FOUND",
        "No disk holds the hash partition that belongs to the root partition",
        "write the whole image to the disk again";
    RootTruncated, "ROOT_TRUNCATED",
        "The root or hash partition is smaller than the image says",
        "write the whole image again, to a disk that is large enough";
    RootVerifyFailed, "ROOT_VERIFY_FAILED",
        "The root partition is not the one that the image was built with",
        "write the image to the disk again; if it happens again, somebody changes the disk";
    ConfigurationUnreadable, "CONFIGURATION_UNREADABLE",
        "A configuration partition exists and cannot be read, or there are too many of them",
        "write the image to the disk again, and detach other disks with a configuration partition";
    ConfigurationUnsupported, "CONFIGURATION_UNSUPPORTED",
        "There are two configurations, or what the configuration partition holds is no line",
        "detach other disks with a configuration, and write the image's with `cargo xtask configure`";
    ImageDiskAltered, "IMAGE_DISK_ALTERED",
        "The disk of the image holds something outside of its partitions, or its partition records or second partition table are not as the image builder writes them",
        "write the image to the disk again";
    ConfigurationInvalid, "CONFIGURATION_INVALID",
        "The cluster.json of the configuration partition is not one that this version understands",
        "write the image's configuration anew with `cargo xtask configure` of this version";
    VerityMapFailed, "VERITY_MAP_FAILED",
        "The kernel did not map the root partition with dm-verity",
        "see the kernel's lines above; rebuild the image if dm-verity or sha256 is missing";
    VerityTableMismatch, "VERITY_TABLE_MISMATCH",
        "The kernel's dm-verity table is not the one that was loaded",
        "boot the image with the kernel it was built with";
    RootMountFailed, "ROOT_MOUNT_FAILED",
        "The verified root could not be mounted as EROFS",
        "rebuild the image: its root filesystem does not fit its kernel";
    VarMountFailed, "VAR_MOUNT_FAILED",
        "The volatile /var could not be mounted",
        "rebuild the image with a directory /var, and give the machine enough memory";
    HandoverFailed, "HANDOVER_FAILED",
        "The switch to the root filesystem or the start of systemd failed",
        "rebuild the image: its root lacks /dev, /proc, /sys, /run or /usr/lib/systemd/systemd";
    DiskMissing, "DISK_MISSING",
        "The state disk is not there",
        "attach the disk that cluster.json names for the slot, writable, and boot again";
    DiskAmbiguous, "DISK_AMBIGUOUS",
        "More than one disk fits the slot of the state disk",
        "detach the others, or name the disk by its serial in cluster.json";
    DiskTooSmall, "DISK_TOO_SMALL",
        "The state disk has less than 64 MiB, ends within a block of 4096 bytes, or has become smaller than its file system",
        "give the node a larger disk; if it was made smaller, make it as large as it was";
    DiskUnreadable, "DISK_UNREADABLE",
        "The state disk cannot be read",
        "see the kernel's lines above; replace the disk";
    DiskWriteFailed, "DISK_WRITE_FAILED",
        "The state disk cannot be written",
        "see the kernel's lines above; replace the disk";
    GrantInvalid, "GRANT_INVALID",
        "What the broker says of the state disk cannot be",
        "use broker and image of versions that belong together; report the line to their makers";
    DiskForeign, "DISK_FOREIGN",
        "The state disk is to be made, and holds data without a grant to overwrite it, or has changed since its release was requested",
        "start the node again; attach a blank disk, or let an operator grant that this one is overwritten (key-broker disk grant)";
    DiskFormatFailed, "DISK_FORMAT_FAILED",
        "The state disk could not be made",
        "see the kernel's lines above; boot again: the disk is then made from the beginning";
    HeaderDigest, "HEADER_DIGEST",
        "The header of the state disk is not one that the broker knows",
        "attach the node's own disk; if it is, somebody changed its header, or put back an older one";
    HeaderInvalid, "HEADER_INVALID",
        "The header of the state disk is not of the one form that is used",
        "keep the disk for an investigation: the broker knows this header, and no release makes such a one";
    DiskKeyWrong, "DISK_KEY_WRONG",
        "The broker's share does not open the state disk",
        "restore the broker's database of when the disk was made, or open the disk by recovery (cairn recover)";
    DiskOpenFailed, "DISK_OPEN_FAILED",
        "The state disk could not be mapped with dm-crypt",
        "see the kernel's lines above; rebuild the image if dm-crypt or xts is missing";
    DiskTableMismatch, "DISK_TABLE_MISMATCH",
        "The kernel's dm-crypt table is not the one that was asked for",
        "boot the image with the kernel it was built with";
    GenerationInvalid, "GENERATION_INVALID",
        "The state disk has no whole generation block",
        "keep the disk for an investigation: it was damaged or changed; its data can be opened by recovery (cairn recover)";
    DiskRollback, "DISK_ROLLBACK",
        "The state disk, or the file system on it, is older than the broker knows it: a copy was put back",
        "attach the newest copy of the disk; a person decides what an older one is worth";
    BrokerBehind, "BROKER_BEHIND",
        "The broker knows less of the state disk than the disk itself: somebody put back an older database",
        "restore the newest database of the broker";
    FilesystemDamaged, "FILESYSTEM_DAMAGED",
        "The file system of the state disk cannot be repaired without asking, or its superblock has a field that no state disk has",
        "open the disk by recovery (cairn recover), check its superblock as docs/how-to/lose-the-broker.md says, and repair it with e2fsck, or restore it";
    StateMountFailed, "STATE_MOUNT_FAILED",
        "The state disk could not be mounted as /var, or the machine id not be set",
        "see the kernel's lines above; rebuild the image with a directory /var and a file /etc/machine-id";
    EntropyMissing, "ENTROPY_MISSING",
        "The kernel gives no random bytes",
        "give the machine a CPU with RDRAND, or a virtio-rng device";
    EventLogUnreadable, "EVENT_LOG_UNREADABLE",
        "The firmware's log or the agent's own cannot be read, or is too long",
        "boot with a firmware that keeps a log of what it measures (TCG2), and with fewer boot entries";
    BrokerUnknown, "BROKER_UNKNOWN",
        "The image belongs to a cluster, and nothing says where its brokers are",
        "write the image's configuration anew with `cargo xtask configure --hints`";
    AttestationRefused, "ATTESTATION_REFUSED",
        "A broker of the cluster has refused this machine",
        "ask the broker why: `key-broker explain REQUEST`; a machine that is not enrolled is enrolled by its ek";
    ReleaseInvalid, "RELEASE_INVALID",
        "A broker of the cluster signed, for this conversation, what contradicts the request or cluster.json",
        "use broker and image of versions that belong together, and compare cluster.json of the node with that of the broker";
    CommitRefused, "COMMIT_REFUSED",
        "A broker of the cluster has refused the report of what became of its release",
        "ask the broker why: `key-broker explain REQUEST`";
    AgentPanic, "AGENT_PANIC",
        "The agent met a condition that it was not written for",
        "report the line to the makers of the image";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_exactly_these_codes() {
        let document = include_str!("../../docs/agent-codes.md");
        let rows: Vec<&str> = document.lines().filter(|line| line.starts_with("| `")).collect();
        let expected: Vec<String> =
            Code::ALL.iter().map(|code| format!("| `{code}` | {} | {} |", code.meaning(), code.next_step())).collect();
        assert_eq!(rows, expected, "docs/agent-codes.md should have these rows:\n{}\n", expected.join("\n"));
    }

    #[test]
    fn names_are_distinct_and_fit_a_measured_word() {
        for (index, code) in Code::ALL.iter().enumerate() {
            assert!(code.name().bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'), "{code}");
            assert!(Code::ALL[index + 1..].iter().all(|other| other.name() != code.name()), "{code} twice");
        }
    }
}
