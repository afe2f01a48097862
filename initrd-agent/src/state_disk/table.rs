//! The table of the mapping, read back from the kernel and compared with the only one that is right (research 2.8,
//! step 4). A table may hold the volume key, so what was found is never shown: only which part of it is wrong.

use devicemapper::{DM, DevId, DmError, DmFlags, DmName, DmOptions};
use state_disk::layout::{CIPHER, HEADER, KEY, SECTOR};
use zeroize::Zeroize;

use super::device::Disk;
use super::luks::NAME;
use crate::code::Code;
use crate::failure::Failure;

/// Unit of tables.
const UNIT: u64 = 512;
/// What the words of the parameters are.
const WORDS: [&str; 7] = ["cipher", "key", "IV offset", "device", "offset", "number of options", "option"];

/// One line of a table: start and length, target, parameters.
type Line = (u64, u64, String, String);

/// A mapping whose table is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its device node.
    pub node: String,
    /// Its size.
    pub bytes: u64,
}

/// Compares the kernel's table with that of the disk with this id.
///
/// # Errors
/// `DISK_TABLE_MISMATCH`; `DISK_OPEN_FAILED` where there is none.
pub fn check(disk: &Disk, id: &str) -> Result<Mapping, Failure> {
    let (minor, flags, mut lines) = read().map_err(|error| {
        Failure::new(Code::DiskOpenFailed, format!("reading the table of the state disk's mapping: {error}"))
    })?;
    let wrong = difference(&expected(disk, id), &lines, flags);
    for line in &mut lines {
        line.3.zeroize();
    }
    match wrong {
        None => Ok(Mapping { node: format!("/dev/dm-{minor}"), bytes: mapped(disk) }),
        Some(what) => {
            let what = format!("the kernel's mapping of disk {} has another {what}", disk.node.display());
            Err(Failure::new(Code::DiskTableMismatch, what))
        }
    }
}

fn read() -> Result<(u32, DmFlags, Vec<Line>), DmError> {
    let mapper = DM::new()?;
    let options = DmOptions::default().set_flags(DmFlags::DM_STATUS_TABLE);
    let (info, lines) = mapper.table_status(&DevId::Name(DmName::new(NAME)?), options)?;
    Ok((info.device().minor, info.flags(), lines))
}

const fn mapped(disk: &Disk) -> u64 {
    disk.bytes.saturating_sub(HEADER as u64)
}

/// As the kernel writes it where the key came out of its keyring.
fn expected(disk: &Disk, id: &str) -> Line {
    let (number, offset) = (&disk.number, HEADER as u64 / UNIT);
    let parameters = format!("{CIPHER} :{KEY}:logon:cryptsetup:{id}-d0 0 {number} {offset} 1 sector_size:{SECTOR}");
    (0, mapped(disk) / UNIT, "crypt".into(), parameters)
}

/// What is not as it must be; none where everything is.
fn difference(expected: &Line, found: &[Line], flags: DmFlags) -> Option<&'static str> {
    let [line] = found else { return Some("number of lines") };
    if flags.contains(DmFlags::DM_READONLY) || flags.contains(DmFlags::DM_SUSPEND) {
        return Some("mode");
    }
    let words = |line: &'_ Line| line.3.split(' ').map(str::to_owned).map(zeroize::Zeroizing::new).collect::<Vec<_>>();
    let (right, words) = (words(expected), words(line));
    let wrong_word = (0..WORDS.len()).find(|index| right.get(*index) != words.get(*index));
    match wrong_word {
        _ if line.0 != expected.0 => Some("start"),
        _ if line.1 != expected.1 => Some("length"),
        _ if line.2 != expected.2 => Some("target"),
        Some(index) => WORDS.get(index).copied(),
        None if line.3 != expected.3 => Some("option"),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0b5f6c6e-0a00-4000-8000-00000000000f";

    fn line() -> Line {
        expected(&Disk { node: "/dev/vdb".into(), number: "253:16".into(), bytes: 64 << 20 }, ID)
    }

    #[test]
    fn the_table_is_written_as_the_kernel_writes_it_back() {
        let parameters = format!("aes-xts-plain64 :64:logon:cryptsetup:{ID}-d0 0 253:16 32768 1 sector_size:4096");
        assert_eq!(line(), (0, 98304, "crypt".into(), parameters));
    }

    #[test]
    fn every_other_table_is_refused_by_the_part_that_differs() {
        let none = DmFlags::empty();
        assert_eq!(difference(&line(), &[line()], none), None);
        let with = |from: &str, to: &str| {
            let mut line = line();
            assert!(line.3.contains(from), "{from}");
            line.3 = line.3.replacen(from, to, 1);
            line
        };
        let rows = [
            ("number of lines", vec![], none),
            ("number of lines", vec![line(), line()], none),
            ("mode", vec![line()], DmFlags::DM_READONLY),
            ("start", vec![(8, line().1, line().2, line().3)], none),
            ("length", vec![(0, line().1 - 8, line().2, line().3)], none),
            ("target", vec![(0, line().1, "linear".into(), line().3)], none),
            ("cipher", vec![with("aes-xts-plain64", "cipher_null-ecb")], none),
            ("key", vec![with(":64:logon:cryptsetup:", &"ab".repeat(64))], none),
            ("key", vec![with("-d0", "-d1")], none),
            ("IV offset", vec![with(" 0 253", " 8 253")], none),
            ("device", vec![with("253:16", "253:32")], none),
            ("offset", vec![with("32768", "0")], none),
            ("number of options", vec![with("1 sector_size:4096", "2 allow_discards sector_size:4096")], none),
            ("option", vec![with("sector_size:4096", "allow_discards")], none),
            ("option", vec![with("sector_size:4096", "sector_size:4096 allow_discards")], none),
            ("number of options", vec![with(" 1 sector_size:4096", "")], none),
        ];
        for (part, lines, flags) in rows {
            assert_eq!(difference(&line(), &lines, flags), Some(part), "{lines:?}");
        }
    }
}
