//! What is on a disk, from one reading of the area of its header (research 2.8, "read once"): everything later is
//! decided and done with these bytes, so a host that changes the disk in between changes nothing. A header is only
//! described here, never believed, and its absence does not make a disk blank: blank is what is zero at both ends.

use attest::bytes::Bytes32;
use attest::message::DiskState;
use state_disk::layout::{HEADER, LEAST_DISK, METADATA, SECTOR};
use state_disk::{header, id, statement, unfinished};

use crate::code::Code;
use crate::failure::Failure;
use crate::read_at::ReadAt;

const MAGIC: &[u8] = b"LUKS\xba\xbe\0\x02";
const SECOND_MAGIC: &[u8] = b"SKUL\xba\xbe\0\x02";
const UUID: std::ops::Range<usize> = 168..208;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Contents {
    /// The area of the header, without the mark of an unfinished disk and the broker's statement.
    pub area: Vec<u8>,
    /// In the words of the protocol.
    pub state: DiskState,
    /// Copies of the broker's statement about the disk, as they were found.
    pub statements: Vec<Vec<u8>>,
    /// The id of the disk that somebody was making here.
    pub unfinished: Option<[u8; 16]>,
}

/// Reads a disk of so many bytes; `name` is for people.
///
/// # Errors
/// `DISK_TOO_SMALL`, `DISK_UNREADABLE`.
pub fn read(disk: &impl ReadAt, bytes: u64, name: &str) -> Result<Contents, Failure> {
    if bytes < LEAST_DISK || !bytes.is_multiple_of(SECTOR) {
        let what =
            format!("disk {name} has {bytes} bytes; at least {LEAST_DISK} are needed, in whole blocks of {SECTOR}");
        return Err(Failure::new(Code::DiskTooSmall, what));
    }
    let mut area = read_area(disk, 0, name)?;
    let unfinished = unfinished::take(&mut area);
    // What is not zero is not blank, even where it is part of no digest.
    let is_blank = is_zero(&area);
    // Neither is part of the header's digest.
    let statements = statement::take(&mut area);
    let state = match (unfinished, uuid(&area)) {
        (Some(disk), _) => luks(&area, id::write(&disk)),
        (None, Some(uuid)) => luks(&area, uuid),
        (None, None) if is_blank && is_zero(&read_area(disk, bytes - HEADER as u64, name)?) => DiskState::Blank,
        (None, None) => DiskState::Foreign,
    };
    Ok(Contents { area, state, statements, unfinished })
}

fn read_area(disk: &impl ReadAt, offset: u64, name: &str) -> Result<Vec<u8>, Failure> {
    let mut area = vec![0; HEADER];
    disk.read_exact_at(&mut area, offset).map_err(|error| {
        let what = format!("reading {HEADER} bytes at {offset} of disk {name}: {error}");
        Failure::new(Code::DiskUnreadable, what)
    })?;
    Ok(area)
}

fn luks(area: &[u8], uuid: String) -> DiskState {
    DiskState::Luks { uuid, digest: Bytes32(header::digest(area)) }
}

/// The UUID of the first copy of a LUKS2 header that begins as one does; none where it is not written as ours are.
fn uuid(area: &[u8]) -> Option<String> {
    let copies = [(&area[..METADATA], MAGIC), (&area[METADATA..2 * METADATA], SECOND_MAGIC)];
    let (copy, _) = copies.into_iter().find(|(copy, magic)| copy.starts_with(magic))?;
    let field = &copy[UUID];
    let end = field.iter().position(|byte| *byte == 0)?;
    let text = std::str::from_utf8(&field[..end]).ok()?;
    id::parse(text).is_some().then(|| text.to_owned())
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    use state_disk::layout::{RECOVERY, STATEMENT, UNFINISHED};

    const DISK: &str = "0b5f6c6e-0a00-4000-8000-00000000000f";

    fn disk(changes: &[(usize, &[u8])]) -> Vec<u8> {
        let mut disk = vec![0; LEAST_DISK as usize];
        for (at, bytes) in changes {
            disk[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        disk
    }

    fn state(disk: &Vec<u8>) -> DiskState {
        read(disk, disk.len() as u64, "x").unwrap().state
    }

    #[test]
    fn a_disk_is_blank_only_if_both_its_ends_are_zero() {
        let last = LEAST_DISK as usize - 1;
        for (at, expected) in [
            (HEADER, DiskState::Blank),
            (last - HEADER, DiskState::Blank),
            (0, DiskState::Foreign),
            (HEADER - 1, DiskState::Foreign),
            (last + 1 - HEADER, DiskState::Foreign),
            (last, DiskState::Foreign),
            (STATEMENT, DiskState::Foreign),
            (STATEMENT + 5, DiskState::Foreign),
        ] {
            assert_eq!(state(&disk(&[(at, b"x")])), expected, "{at}");
        }
    }

    #[test]
    fn a_header_of_luks2_is_described_by_either_copy() {
        let luks = |disk: &Vec<u8>| luks(&disk[..HEADER], DISK.to_owned());
        let second = METADATA + UUID.start;
        for copies in [
            vec![(0, MAGIC), (UUID.start, DISK.as_bytes())],
            vec![(METADATA, SECOND_MAGIC), (second, DISK.as_bytes())],
            vec![(0, MAGIC), (UUID.start, DISK.as_bytes()), (METADATA, SECOND_MAGIC), (second, b"other")],
        ] {
            let disk = disk(&copies);
            assert_eq!(state(&disk), luks(&disk), "{copies:?}");
        }
        for copies in [
            vec![(0, &b"LUKS\xba\xbe\0\x01"[..]), (UUID.start, DISK.as_bytes())],
            vec![(0, MAGIC), (UUID.start, b"0B5F6C6E-0a00-4000-8000-00000000000f")],
            vec![(0, MAGIC), (UUID.start, &[b'x'; 40])],
            vec![(0, MAGIC)],
        ] {
            assert_eq!(state(&disk(&copies)), DiskState::Foreign, "{copies:?}");
        }
    }

    #[test]
    fn a_mark_says_whose_the_disk_is_and_is_not_in_the_digest() {
        let id = id::parse(DISK).unwrap();
        let finished = disk(&[(0, MAGIC), (UUID.start, DISK.as_bytes()), (RECOVERY, b"{}\n")]);
        let mut marked = finished.clone();
        marked[UNFINISHED..UNFINISHED + 4096].copy_from_slice(&unfinished::mark(&id));
        let contents = read(&marked, LEAST_DISK, "x").unwrap();
        assert_eq!((contents.unfinished, &contents.state), (Some(id), &state(&finished)));
        assert_eq!(contents.area, finished[..HEADER]);
        let only_the_mark = disk(&[(UNFINISHED, &unfinished::mark(&id))]);
        assert_eq!(state(&only_the_mark), luks(&vec![0; HEADER], DISK.to_owned()));
    }

    #[test]
    fn a_disk_that_is_too_small_or_cannot_be_read_is_named() {
        let small = vec![0; LEAST_DISK as usize - 4096];
        for bytes in [0, small.len() as u64, LEAST_DISK + 512] {
            assert_eq!(read(&small, bytes, "x").unwrap_err().code(), Code::DiskTooSmall);
        }
        let cut = read(&small, LEAST_DISK, "x").unwrap_err();
        assert!(cut.code() == Code::DiskUnreadable && cut.to_string().contains("disk x"), "{cut}");
    }
}
