//! Mapping the root partition with dm-verity (Linux `Documentation/admin-guide/device-mapper/verity.rst`). All
//! parameters come from `boot.json`; no superblock is read. The device is read-only, a block that is corrupted or cannot be
//! read panics the kernel (a file that is missing would otherwise be a setting or a unit that is missing), and the table
//! that the kernel then has is compared with the one that was loaded.

use devicemapper::{DM, DevId, DmError, DmFlags, DmName, DmOptions};

use crate::boot_document::{BLOCK, Root};
use crate::code::Code;
use crate::failure::Failure;
use crate::inventory::Partition;

const NAME: &str = "root";
const SECTOR: u64 = 512;
/// Number of options, and the options in the order in which the kernel writes them back.
const OPTIONS: &str = "2 panic_on_corruption panic_on_error";

/// One line of a device-mapper table: start and length in sectors, target, parameters.
type Line = (u64, u64, String, String);

/// The verified root, ready to be mounted.
#[derive(Debug)]
pub struct VerifiedRoot {
    /// Its device node.
    pub device: String,
}

/// Maps the pair of partitions and reads the table back.
///
/// # Errors
/// `VERITY_MAP_FAILED` or `VERITY_TABLE_MISMATCH`.
pub fn map(root: &Root, data: &Partition, hash: &Partition) -> Result<VerifiedRoot, Failure> {
    let wanted = table_line(root, &data.number, &hash.number);
    let (minor, flags, lines) =
        load(&wanted).map_err(|error| Failure::new(Code::VerityMapFailed, format!("mapping the root: {error}")))?;
    check(&wanted, flags, &lines)?;
    Ok(VerifiedRoot { device: format!("/dev/dm-{minor}") })
}

/// Creates and activates the device; gives its minor number, its flags and its table as the kernel has it.
fn load(line: &Line) -> Result<(u32, DmFlags, Vec<Line>), DmError> {
    let mapper = DM::new()?;
    let name = DmName::new(NAME)?;
    let id = DevId::Name(name);
    let read_only = DmOptions::private().set_flags(DmFlags::DM_READONLY);
    let device = mapper.device_create(name, None, read_only)?.device();
    mapper.table_load(&id, std::slice::from_ref(line), read_only)?;
    // Without the suspend flag this is "resume": it makes the loaded table the active one.
    mapper.device_suspend(&id, DmOptions::private())?;
    let (info, lines) = mapper.table_status(&id, DmOptions::default().set_flags(DmFlags::DM_STATUS_TABLE))?;
    Ok((device.minor, info.flags(), lines))
}

/// Numbers and hexadecimal digits are written as the kernel writes them back.
fn table_line(root: &Root, data: &str, hash: &str) -> Line {
    let Root { hash: root_hash, salt, data_blocks, hash_offset, .. } = root;
    let tree = hash_offset / BLOCK;
    let parameters =
        format!("1 {data} {hash} {BLOCK} {BLOCK} {data_blocks} {tree} sha256 {root_hash} {salt} {OPTIONS}");
    (0, data_blocks * (BLOCK / SECTOR), "verity".into(), parameters)
}

fn check(wanted: &Line, flags: DmFlags, lines: &[Line]) -> Result<(), Failure> {
    if lines != std::slice::from_ref(wanted) {
        let what = format!("the kernel has {lines:?} where {wanted:?} was loaded");
        return Err(Failure::new(Code::VerityTableMismatch, what));
    }
    if !flags.contains(DmFlags::DM_READONLY) {
        return Err(Failure::new(Code::VerityTableMismatch, "the kernel mapped the root writable"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot_document::{BootDocument, tests::GOOD};

    fn line() -> Line {
        table_line(&BootDocument::parse(GOOD.as_bytes()).unwrap().root, "253:2", "253:3")
    }

    #[test]
    fn the_table_is_written_as_the_kernel_writes_it_back() {
        let (start, length, target, parameters) = line();
        assert_eq!((start, length, target.as_str()), (0, 4096, "verity"));
        let hash = "00112233445566778899aabbccddeeff".repeat(2);
        let salt = format!("f{}", &hash[1..]);
        assert_eq!(
            parameters,
            format!(
                "1 253:2 253:3 4096 4096 512 1 sha256 {hash} f0112233{} 2 panic_on_corruption panic_on_error",
                &salt[8..]
            )
        );
    }

    #[test]
    fn any_other_table_is_a_mismatch() {
        let ignoring = |mut line: Line| {
            line.3 = line.3.replace("panic_on_corruption", "ignore_corruption");
            line
        };
        let ignoring_errors = |mut line: Line| {
            line.3 = line.3.replace("2 panic_on_corruption panic_on_error", "1 panic_on_corruption");
            line
        };
        let shorter = |mut line: Line| {
            line.1 -= 8;
            line
        };
        let read_only = DmFlags::DM_READONLY;
        assert!(check(&line(), read_only, &[line()]).is_ok());
        let rows = [
            ("ignored corruption", read_only, vec![ignoring(line())]),
            ("ignored errors", read_only, vec![ignoring_errors(line())]),
            ("other length", read_only, vec![shorter(line())]),
            ("no table", read_only, vec![]),
            ("two lines", read_only, vec![line(), line()]),
            ("writable", DmFlags::empty(), vec![line()]),
        ];
        for (case, flags, lines) in rows {
            assert_eq!(check(&line(), flags, &lines).expect_err(case).code(), Code::VerityTableMismatch);
        }
    }
}
