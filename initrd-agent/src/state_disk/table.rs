//! The tables of the mapping, read back from the kernel and compared with the only ones that are right. A table may hold
//! the volume key, so what was found is never shown: only which part of it is wrong.
//!
//! A disk with [`Profile::XtsHmac`] has two: dm-crypt above, dm-integrity below, which stores the tags. The size of such
//! a mapping is what dm-integrity leaves of the disk, so it is read back, too, and bounded by the disk.

use devicemapper::{DM, DevId, DmError, DmFlags, DmName, DmOptions};
use state_disk::layout::{CIPHER, HEADER, Profile, SECTOR};
use zeroize::{Zeroize, Zeroizing};

use super::device::Disk;
use super::luks::{BELOW, NAME};
use crate::code::Code;
use crate::failure::Failure;

/// Unit of tables.
const UNIT: u64 = 512;
/// What the words of dm-crypt's parameters are.
const CRYPT: [&str; 7] = ["cipher", "key", "IV offset", "device", "offset", "number of options", "option"];
/// What the words of dm-integrity's parameters are.
const INTEGRITY: [&str; 5] = ["device below", "offset below", "tag size", "journal mode", "number of options below"];
/// The option of dm-integrity that follows from the size of the disk.
const JOURNAL: &str = "journal_sectors:";

/// One line of a table: start and length, target, parameters.
type Line = (u64, u64, String, String);

/// What the kernel has of one device.
struct Table {
    number: String,
    minor: u32,
    flags: DmFlags,
    lines: Vec<Line>,
}

impl Drop for Table {
    fn drop(&mut self) {
        for line in &mut self.lines {
            line.3.zeroize();
        }
    }
}

/// A mapping whose table is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its device node.
    pub node: String,
    /// Its size.
    pub bytes: u64,
}

/// Compares the kernel's tables with those of the disk with this id and profile.
///
/// # Errors
/// `DISK_TABLE_MISMATCH`; `DISK_OPEN_FAILED` where there is none.
pub fn check(disk: &Disk, id: &str, profile: Profile) -> Result<Mapping, Failure> {
    let table = read(NAME)?;
    let (bytes, wrong) = match profile {
        Profile::Xts => (mapped(disk), difference(&encrypted(disk, id), &table.lines, table.flags, &CRYPT)),
        Profile::XtsHmac => authenticated(disk, id, &table, &read(BELOW)?),
    };
    match wrong {
        None => Ok(Mapping { node: format!("/dev/dm-{}", table.minor), bytes }),
        Some(what) => {
            let what = format!("the kernel's mapping of disk {} has another {what}", disk.node.display());
            Err(Failure::new(Code::DiskTableMismatch, what))
        }
    }
}

fn read(name: &str) -> Result<Table, Failure> {
    let read = || -> Result<Table, DmError> {
        let mapper = DM::new()?;
        let options = DmOptions::default().set_flags(DmFlags::DM_STATUS_TABLE);
        let (info, lines) = mapper.table_status(&DevId::Name(DmName::new(name)?), options)?;
        let (number, minor) = (info.device().to_string(), info.device().minor);
        Ok(Table { number, minor, flags: info.flags(), lines })
    };
    read().map_err(|error| {
        Failure::new(Code::DiskOpenFailed, format!("reading the table of the state disk's mapping {name}: {error}"))
    })
}

const fn mapped(disk: &Disk) -> u64 {
    disk.bytes.saturating_sub(HEADER as u64)
}

/// As the kernel writes it where the key came out of its keyring.
fn encrypted(disk: &Disk, id: &str) -> Line {
    let (number, offset, key) = (&disk.number, HEADER as u64 / UNIT, Profile::Xts.key_length());
    let parameters = format!("{CIPHER} :{key}:logon:cryptsetup:{id}-d0 0 {number} {offset} 1 sector_size:{SECTOR}");
    (0, mapped(disk) / UNIT, "crypt".into(), parameters)
}

/// The size of the mapping, and what is wrong with it.
fn authenticated(disk: &Disk, id: &str, above: &Table, below: &Table) -> (u64, Option<&'static str>) {
    let length = above.lines.first().map_or(0, |line| line.1);
    let key = Profile::XtsHmac.key_length();
    let parameters = format!(
        "capi:authenc(hmac(sha256),xts(aes))-plain64 :{key}:logon:cryptsetup:{id}-d0 0 {} 0 2 integrity:32:aead sector_size:{SECTOR}",
        below.number
    );
    let above_line = (0, length, "crypt".into(), parameters);
    let journal = below.lines.first().and_then(journal_of).unwrap_or_default();
    let parameters = format!(
        "{} {} 32 J 7 block_size:{SECTOR} {JOURNAL}{journal} interleave_sectors:32768 buffer_sectors:128 journal_watermark:50 commit_time:10000 fix_padding",
        disk.number,
        HEADER as u64 / UNIT
    );
    let below_line = (0, length, "integrity".into(), parameters);
    let fits = length > 0 && length.is_multiple_of(SECTOR / UNIT) && length * UNIT < mapped(disk);
    let wrong = difference(&above_line, &above.lines, above.flags, &CRYPT)
        .or_else(|| difference(&below_line, &below.lines, below.flags, &INTEGRITY))
        .or((!fits).then_some("length"));
    (length.saturating_mul(UNIT), wrong)
}

/// The length of dm-integrity's journal, in decimal digits.
fn journal_of(line: &Line) -> Option<u64> {
    line.3.split(' ').find_map(|word| word.strip_prefix(JOURNAL))?.parse().ok()
}

/// What is not as it must be; none where everything is. `names` are those of the first words of the parameters.
fn difference(expected: &Line, found: &[Line], flags: DmFlags, names: &'static [&'static str]) -> Option<&'static str> {
    let [line] = found else { return Some("number of lines") };
    if flags.contains(DmFlags::DM_READONLY) || flags.contains(DmFlags::DM_SUSPEND) {
        return Some("mode");
    }
    let words = |line: &'_ Line| line.3.split(' ').map(str::to_owned).map(Zeroizing::new).collect::<Vec<_>>();
    let (right, words) = (words(expected), words(line));
    let wrong_word = (0..names.len()).find(|index| right.get(*index) != words.get(*index));
    match wrong_word {
        _ if line.0 != expected.0 => Some("start"),
        _ if line.1 != expected.1 => Some("length"),
        _ if line.2 != expected.2 => Some("target"),
        Some(index) => names.get(index).copied(),
        None if line.3 != expected.3 => Some("option"),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0b5f6c6e-0a00-4000-8000-00000000000f";

    fn disk() -> Disk {
        Disk { node: "/dev/vdb".into(), number: "253:16".into(), bytes: 64 << 20 }
    }

    fn line() -> Line {
        encrypted(&disk(), ID)
    }

    /// Both tables as Linux 6.12 wrote them back for a disk that cryptsetup 2.7.5 had made.
    fn two() -> (Table, Table) {
        let table = |number: &str, minor, target: &str, parameters: String| Table {
            number: number.into(),
            minor,
            flags: DmFlags::empty(),
            lines: vec![(0, 88_000, target.into(), parameters)],
        };
        let above = format!(
            "capi:authenc(hmac(sha256),xts(aes))-plain64 :96:logon:cryptsetup:{ID}-d0 0 253:0 0 2 integrity:32:aead sector_size:4096"
        );
        let below = "253:16 32768 32 J 7 block_size:4096 journal_sectors:130944 interleave_sectors:32768 buffer_sectors:128 journal_watermark:50 commit_time:10000 fix_padding";
        (table("253:1", 1, "crypt", above), table("253:0", 0, "integrity", below.to_owned()))
    }

    #[test]
    fn authenticated_mapping_is_accepted_only_with_both_tables_right() {
        let judge = |above: &Table, below: &Table| authenticated(&disk(), ID, above, below);
        let (above, below) = two();
        assert_eq!(judge(&above, &below), (88_000 * 512, None));
        let changed = |of_above: bool, from: &str, to: &str| {
            let (mut above, mut below) = two();
            let line = if of_above { &mut above.lines[0].3 } else { &mut below.lines[0].3 };
            assert!(line.contains(from), "{from}");
            *line = line.replacen(from, to, 1);
            judge(&above, &below).1
        };
        for (of_above, from, to, part) in [
            (true, "hmac(sha256)", "digest_null", "cipher"),
            (true, ":96:", ":64:", "key"),
            (true, "253:0 0 2", "253:16 0 2", "device"),
            (true, "253:0 0 2", "253:0 8 2", "offset"),
            (true, " 2 integrity:32:aead", " 1", "number of options"),
            (true, "integrity:32:aead", "integrity:32:none", "option"),
            (true, "sector_size:4096", "sector_size:512", "option"),
            (false, "253:16", "253:32", "device below"),
            (false, "32768 32", "0 32", "offset below"),
            (false, " 32 J", " 0 J", "tag size"),
            (false, " J 7", " D 7", "journal mode"),
            (false, " 7 ", " 8 recalculate ", "number of options below"),
            (false, "block_size:4096", "block_size:512", "option"),
            (false, "journal_sectors:130944", "journal_sectors:x", "option"),
            (false, "journal_sectors:130944", "journal_sectors:+1", "option"),
            (false, "fix_padding", "allow_discards", "option"),
        ] {
            assert_eq!(changed(of_above, from, to), Some(part), "{to}");
        }
        for length in [0, 88_001, (64 << 20) / 512] {
            let (mut above, mut below) = two();
            (above.lines[0].1, below.lines[0].1) = (length, length);
            assert_eq!(judge(&above, &below).1, Some("length"), "{length}");
        }
        let (above, mut below) = two();
        below.lines[0].1 -= 8;
        assert_eq!(judge(&above, &below).1, Some("length"));
        let (mut above, below) = two();
        above.lines.clear();
        assert_eq!(judge(&above, &below).1, Some("number of lines"));
    }

    #[test]
    fn the_table_is_written_as_the_kernel_writes_it_back() {
        let parameters = format!("aes-xts-plain64 :64:logon:cryptsetup:{ID}-d0 0 253:16 32768 1 sector_size:4096");
        assert_eq!(line(), (0, 98304, "crypt".into(), parameters));
    }

    #[test]
    fn every_other_table_is_refused_by_the_part_that_differs() {
        let none = DmFlags::empty();
        assert_eq!(difference(&line(), &[line()], none, &CRYPT), None);
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
            assert_eq!(difference(&line(), &lines, flags, &CRYPT), Some(part), "{lines:?}");
        }
    }
}
