//! The root is really verified: whatever is changed on the disk ends in its state, never in a running system.

use anyhow::{Context, Result, bail, ensure};
use cairn_tests::disk::Disk;
use cairn_tests::erofs::{BLOCK, SYSTEMD, offset_of, offset_of_leaf};
use cairn_tests::image::Image;
use cairn_tests::registers;
use cairn_tests::suite::Suite;
use cairn_tests::watch::{Verdict, Watched};
use xtask::vm::{Ending, Machine};

use crate::Row;

const SECTOR: u64 = 512;
/// Read by systemd-sysctl, once.
const SETTINGS: &str = "/etc/sysctl.d/99-cairn.conf";

/// What a row must end in.
#[derive(Clone, Copy)]
enum End {
    /// The agent's code.
    Code(&'static str),
    /// A panic of the kernel's dm-verity, when the block is read.
    Panic,
}

type Change = fn(&Suite, &Disk) -> Result<()>;

const ROWS: [(&str, End, Change); 11] = [
    ("boot_code_on_the_image_disk_is_refused", End::Code("IMAGE_DISK_ALTERED"), |_, disk| {
        disk.write_at(0, &[0x90; 440])
    }),
    ("a_flipped_byte_in_the_first_data_block", End::Code("ROOT_VERIFY_FAILED"), |suite, disk| {
        disk.flip(data(suite)? + 1100)
    }),
    ("a_flipped_byte_in_the_top_of_the_hash_tree", End::Code("ROOT_VERIFY_FAILED"), |suite, disk| {
        disk.flip(hash(suite)? + BLOCK + 5)
    }),
    ("a_flipped_byte_in_the_first_leaf_of_the_hash_tree", End::Code("ROOT_VERIFY_FAILED"), |suite, disk| {
        disk.flip(hash(suite)? + offset_of_leaf(data_blocks(suite)?, 0))
    }),
    ("a_flipped_byte_in_systemd", End::Panic, |suite, disk| {
        disk.flip(data(suite)? + offset_of(&suite.sandbox, &suite.image, SYSTEMD)? + 77)
    }),
    ("a_flipped_byte_in_the_hash_of_systemd", End::Panic, |suite, disk| {
        let block = offset_of(&suite.sandbox, &suite.image, SYSTEMD)? / BLOCK;
        ensure!(block >= 128, "systemd shares its leaf with the first block: this row would be the one above");
        let place = hash(suite)? + offset_of_leaf(data_blocks(suite)?, block) + block % 128 * 32;
        disk.flip(place)
    }),
    ("the_root_of_another_image", End::Code("ROOT_VERIFY_FAILED"), |suite, disk| {
        let mut other = suite.debug.read("root.erofs")?;
        other.truncate(usize::try_from(suite.image.partition("root")?.size)?);
        ensure!(
            other[..4096] != suite.image.read("root.erofs")?[..4096],
            "the first blocks are alike: nothing was changed"
        );
        disk.write_at(data(suite)?, &other)
    }),
    ("root_and_hash_partitions_exchanged", End::Code("ROOT_TRUNCATED"), |suite, disk| {
        let (root, hash) = (suite.image.partition("root")?.index, suite.image.partition("root-verity")?.index);
        disk.edit_table(|entries| {
            let ids = [root, hash]
                .map(|index| entries.get(&index).map(|entry| (entry.part_guid, entry.part_type_guid.clone())));
            for (index, id) in [hash, root].into_iter().zip(ids) {
                if let (Some(entry), Some((guid, type_guid))) = (entries.get_mut(&index), id) {
                    (entry.part_guid, entry.part_type_guid) = (guid, type_guid);
                }
            }
        })
    }),
    ("a_missing_root", End::Code("ROOT_NOT_FOUND"), |suite, disk| {
        remove(disk, &[suite.image.partition("root")?.index])
    }),
    ("a_missing_hash_partition", End::Code("HASH_NOT_FOUND"), |suite, disk| {
        remove(disk, &[suite.image.partition("root-verity")?.index])
    }),
    ("a_truncated_image", End::Code("ROOT_TRUNCATED"), |suite, disk| disk.truncate(data(suite)? + (8 << 20))),
];

/// Each has a row beside it that ends at the same check.
const IN_FULL: [&str; 4] = [
    "a_flipped_byte_in_the_first_leaf_of_the_hash_tree",
    "a_flipped_byte_in_the_hash_of_systemd",
    "root_and_hash_partitions_exchanged",
    "a_missing_hash_partition",
];

pub fn rows() -> Vec<Row> {
    let changed = ROWS.map(|(name, end, change)| {
        Row::new(name, move |suite, row| {
            let disk = Disk::copy_of(&suite.image)?;
            change(suite, &disk)?;
            must_end(suite, row, &suite.machine(&[disk.path()]), end)
        })
        .in_full_if_among(&IN_FULL)
    });
    let mut rows = Vec::from(changed);
    rows.push(Row::new("a_missing_disk", missing_disk));
    rows.push(Row::new("a_machine_without_tpm", without_tpm));
    rows.push(Row::new("root_block_that_cannot_be_read_panics_the_kernel", unreadable_block));
    rows.push(Row::new("a_good_copy_behind_a_corrupt_one_boots", second_candidate));
    rows
}

/// The firmware boots from a disk that holds the ESP only; the disk with the root is not there.
fn missing_disk(suite: &Suite, row: &str) -> Result<()> {
    let disk = Disk::copy_of(&suite.image)?;
    let esp = suite.image.partition("ESP")?.index;
    disk.edit_table(|entries| entries.retain(|index, _| *index == esp))?;
    must_end(suite, row, &suite.machine(&[disk.path()]), End::Code("ROOT_NOT_FOUND"))
}

fn without_tpm(suite: &Suite, row: &str) -> Result<()> {
    let machine = Machine { tpm: None, ..suite.machine(&[suite.image.file("raw")]) };
    must_end(suite, row, &machine, End::Code("TPM_MISSING"))
}

/// A disk that answers one block of the root with an I/O error, and not with other bytes: a file would be missing, here the
/// settings that switch kexec off, and the boot would go on.
fn unreadable_block(suite: &Suite, row: &str) -> Result<()> {
    let offset = data(suite)? + offset_of(&suite.sandbox, &suite.image, SETTINGS)?;
    let rule = tempfile::NamedTempFile::new().context("Failed to make a file")?;
    let sector = offset / SECTOR;
    let text = format!("[inject-error]\nevent = \"read_aio\"\nerrno = \"5\"\nsector = \"{sector}\"\nonce = \"off\"\n");
    std::fs::write(rule.path(), text).context("Failed to write the rule of QEMU's blkdebug")?;
    // The rule is shown to QEMU as a second disk, which holds nothing of the image.
    let machine = suite.machine(&[suite.image.file("raw"), rule.path().to_owned()]);
    let file = "drive.disk0.file=blkdebug:/tmp/disks/1:/tmp/disks/0".to_owned();
    let machine = Machine { extra: vec!["-set".into(), file], ..machine };
    must_end(suite, row, &machine, End::Panic)
}

fn second_candidate(suite: &Suite, row: &str) -> Result<()> {
    let corrupt = Disk::copy_of(&suite.image)?;
    corrupt.flip(data(suite)? + 1100)?;
    let mut watched = Watched::start(suite, row, &suite.machine(&[corrupt.path(), suite.image.file("raw")]))?;
    watched.must_run()?;
    watched.must_not_prompt()
}

fn must_end(suite: &Suite, row: &str, machine: &Machine, end: End) -> Result<()> {
    let mut watched = Watched::start(suite, row, machine)?;
    let verdict = watched.verdict()?;
    watched.must_not_prompt()?;
    match (&verdict, end) {
        (Verdict::Ended(Ending::Failed { code, line }), End::Code(expected)) => {
            ensure!(code == expected, "the code is {code}, not {expected}: {line}");
            if machine.tpm.is_some() { must_record(&watched, &suite.image, expected) } else { Ok(()) }
        }
        (Verdict::Ended(Ending::Corrupted { .. }), End::Panic) => Ok(()),
        _ => bail!("the boot ended in {verdict:?}{}", watched.last_lines()),
    }
}

/// A failure is in PCR 15, and PCR 11 is left as it was.
fn must_record(watched: &Watched, image: &Image, code: &str) -> Result<()> {
    let pcrs = watched.vm.pcrs()?;
    let uki = image.read("efi")?;
    for bank in pcrs.banks() {
        let phases = registers::pcr11(bank, &uki, &["enter-initrd"])?;
        for (index, expected) in [(15, registers::pcr15_failed(bank, code)), (11, phases)] {
            let found = pcrs.get(bank, index).context("a bank is missing")?;
            ensure!(found == expected, "PCR {index} ({bank}) is {}, not {}", hex::encode(found), hex::encode(expected));
        }
    }
    Ok(())
}

fn remove(disk: &Disk, indexes: &[u32]) -> Result<()> {
    disk.edit_table(|entries| entries.retain(|index, _| !indexes.contains(index)))
}

fn data(suite: &Suite) -> Result<u64> {
    Ok(suite.image.partition("root")?.start)
}

fn hash(suite: &Suite) -> Result<u64> {
    Ok(suite.image.partition("root-verity")?.start)
}

fn data_blocks(suite: &Suite) -> Result<u64> {
    let path = suite.image.file("root.erofs");
    let size = std::fs::metadata(&path).with_context(|| format!("Failed to inspect {}", path.display()))?.len();
    Ok(size.div_ceil(BLOCK))
}
