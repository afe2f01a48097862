//! Making a state disk, in an order that survives a power cut at any point. Data is never formatted twice: only a disk
//! that is blank, or carries the mark of this very disk, or that an operator gave away by name, is made.
//!
//! 1. The mark ([`state_disk::unfinished`]), one sector, flushed. From here on the disk says that it is this one, and
//!    unfinished. Were the header first, a cut would leave a disk that looks like somebody else's, or like one that is
//!    whole while the broker knows of none.
//! 2. The header's area, with the recovery document, flushed. Nothing is encrypted under a key that only memory holds.
//! 3. The file system and the generation block, both through the mapping, flushed.
//! 4. After the broker has acknowledged the commit, and only then, the mark goes. Until it has gone, the next boot may
//!    ask to make the disk again, which the broker grants as long as it has not seen a commit, and else refuses; then
//!    the disk is unlocked, and the mark goes.
//!
//! A commit that was lost therefore costs a new file system in which nobody has written, and nothing else.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use attest::message::{DiskGrant, DiskState};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use state_disk::keys::DiskKeys;
use state_disk::layout::{HEADER, Profile, STATEMENT, STATEMENT_LENGTH, UNFINISHED, UNFINISHED_LENGTH};
use state_disk::{header, id, recovery, unfinished};
use zeroize::Zeroizing;

use super::contents::{self, Contents};
use super::device::Disk;
use super::luks::{self, VolumeKey};
use crate::code::Code;
use crate::failure::Failure;

/// Granularity of what is written of a header's area.
const BLOCK: usize = 4096;

/// Something that is written and flushed.
pub trait Write {
    /// Writes all bytes at an offset.
    ///
    /// # Errors
    /// What the device said.
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns when what was written survives a power cut.
    ///
    /// # Errors
    /// What the device said.
    fn flush(&mut self) -> io::Result<()>;
}

impl Write for &File {
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Makes a header on the disk, steps 1 and 2; gives its area and the volume key.
///
/// # Errors
/// `DISK_FOREIGN`, `GRANT_INVALID`, `DISK_FORMAT_FAILED`.
pub fn make_header(
    disk: &Disk,
    file: &File,
    contents: &Contents,
    grant: &DiskGrant,
    keys: &DiskKeys,
    profile: Profile,
) -> Result<(Vec<u8>, VolumeKey), Failure> {
    let invalid = |what: &str| Failure::new(Code::GrantInvalid, format!("the grant for disk {}: {what}", grant.id));
    let failed = |what: String| Failure::new(Code::DiskFormatFailed, what);
    let id = &id::parse(&grant.id).ok_or_else(|| invalid("its id is not a UUID in lower case"))?;
    may_be_made(contents, grant, id)?;
    let recovery = grant.recovery.as_ref().ok_or_else(|| invalid("it has no recovery document"))?;
    if recovery.disk != grant.id {
        return Err(invalid("its recovery document is that of another disk"));
    }
    let document = recovery.write().map_err(|error| invalid(&error.to_string()))?;

    let mut key: VolumeKey = Zeroizing::new(vec![0; profile.key_length() as usize]);
    getrandom::fill(&mut key[..]).map_err(|error| failed(format!("asking the kernel for a volume key: {error}")))?;
    let mut area = luks::make(&disk.node, id, profile, &key, &keys.passphrase)?;
    if !recovery::put(&mut area, &document) {
        return Err(invalid("its recovery document is too long"));
    }
    header::check_fresh(&area, &grant.id).map_err(|error| failed(format!("the new header: {error}")))?;
    put_header(disk, file, id, contents, &area)?;
    Ok((area, key))
}

/// Writes a header to a disk that has not changed since the request for its release. Operator approval may take days, in which data may have been written to the disk.
fn put_header(disk: &Disk, file: &File, id: &[u8; 16], before: &Contents, after: &[u8]) -> Result<(), Failure> {
    let name = disk.node.display().to_string();
    // Without this, the kernel returns the blocks that it has read before.
    let _ = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    if contents::read(file, disk.bytes, &name)? != *before {
        let what = format!("disk {name} has changed since its release was requested; nothing was written to it");
        return Err(Failure::new(Code::DiskForeign, what));
    }
    write_header(&mut { file }, id, &before.area, after)
        .map_err(|error| Failure::new(Code::DiskFormatFailed, format!("writing the header to disk {name}: {error}")))
}

/// Refuses to make a disk that holds what somebody may want back.
fn may_be_made(contents: &Contents, grant: &DiskGrant, id: &[u8; 16]) -> Result<(), Failure> {
    if grant.overwrite || contents.state == DiskState::Blank || contents.unfinished == Some(*id) {
        return Ok(());
    }
    let found = match &contents.state {
        DiskState::Luks { uuid, .. } => format!("a LUKS2 header with the UUID {uuid}"),
        _ => "data that is not ours".to_owned(),
    };
    Err(Failure::new(Code::DiskForeign, format!("the disk is to be made as {}, and has {found}", grant.id)))
}

/// Writes the mark, then what of the area differs from what is on the disk.
fn write_header(disk: &mut impl Write, id: &[u8; 16], before: &[u8], after: &[u8]) -> io::Result<()> {
    disk.write(&unfinished::mark(id), UNFINISHED as u64)?;
    disk.flush()?;
    // A statement about the disk that was here before.
    disk.write(&[0; STATEMENT_LENGTH], STATEMENT as u64)?;
    for offset in (0..HEADER).step_by(BLOCK).filter(|offset| *offset != UNFINISHED) {
        let range = offset..offset + BLOCK;
        if before.get(range.clone()) != after.get(range.clone()) {
            disk.write(&after[range], offset as u64)?;
        }
    }
    disk.flush()
}

/// Writes what the broker says of the disk.
///
/// # Errors
/// What the device said.
pub fn write_statement(disk: &mut impl Write, copies: &[(usize, Vec<u8>)]) -> io::Result<()> {
    for (offset, copy) in copies {
        disk.write(copy, *offset as u64)?;
        disk.flush()?;
    }
    Ok(())
}

/// Takes the mark from the disk.
///
/// # Errors
/// What the device said.
pub fn erase_mark(disk: &mut impl Write) -> io::Result<()> {
    disk.write(&[0; UNFINISHED_LENGTH], UNFINISHED as u64)?;
    disk.flush()
}

#[cfg(test)]
mod tests {
    use attest::recovery::Recovery;
    use state_disk::keys;
    use state_disk::layout::{LEAST_DISK, RECOVERY};

    use super::super::contents;
    use super::*;

    const TEXT: &str = "0b5f6c6e-0a00-4000-8000-00000000000f";
    const SHARE: [u8; 32] = [7; 32];

    fn recovery() -> Recovery {
        let key = attest::hpke::PrivateKey::from_seed(&Zeroizing::new([1; 32]));
        let key = attest::bytes::Bytes32(key.public());
        Recovery::seal(TEXT, &SHARE, &[key], || Zeroizing::new([9; 32])).unwrap()
    }

    fn grant() -> DiskGrant {
        let recovery = Some(recovery());
        let (headers, id, slot) = (vec![], TEXT.to_owned(), "state".to_owned());
        DiskGrant { generation: 0, headers, id, overwrite: false, recovery, slot }
    }

    /// What is written reaches the disk sector by sector until the power is cut: in order, or the last first.
    struct Cut {
        disk: Vec<u8>,
        cached: Vec<(usize, Vec<u8>)>,
        last_first: bool,
        sectors: usize,
    }

    impl Write for Cut {
        fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
            let sectors = bytes.chunks(512).enumerate();
            self.cached.extend(sectors.map(|(index, sector)| (offset as usize + 512 * index, sector.to_vec())));
            Ok(())
        }

        fn flush(&mut self) -> io::Result<()> {
            let mut cached = std::mem::take(&mut self.cached);
            if self.last_first {
                cached.reverse();
            }
            for (offset, sector) in cached {
                if self.sectors == 0 {
                    return Err(io::Error::other("power cut"));
                }
                self.sectors -= 1;
                self.disk[offset..offset + sector.len()].copy_from_slice(&sector);
            }
            Ok(())
        }
    }

    #[test]
    fn disk_that_has_changed_since_it_was_looked_at_is_not_made() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (id, after) = (id::parse(TEXT).unwrap(), vec![7; HEADER]);
        file.as_file().set_len(LEAST_DISK).unwrap();
        let disk = Disk { node: file.path().into(), number: String::new(), bytes: LEAST_DISK };
        let contents = contents::read(file.as_file(), LEAST_DISK, "x").unwrap();
        assert_eq!(contents.state, DiskState::Blank);
        for at in [0, HEADER as u64 - 1, LEAST_DISK - 1] {
            file.as_file().write_all_at(b"x", at).unwrap();
            let changed = std::fs::read(file.path()).unwrap();
            let refused = put_header(&disk, file.as_file(), &id, &contents, &after).unwrap_err();
            assert_eq!(refused.code(), Code::DiskForeign, "{at}");
            assert!(std::fs::read(file.path()).unwrap() == changed, "the disk was written to");
            file.as_file().write_all_at(&[0], at).unwrap();
        }
        put_header(&disk, file.as_file(), &id, &contents, &after).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap()[HEADER - 1], 7);
    }

    fn read(disk: &Vec<u8>) -> Contents {
        contents::read(disk, disk.len() as u64, "x").unwrap()
    }

    /// A disk of a file that libcryptsetup takes; its area after steps 1 and 2.
    fn made(before: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(LEAST_DISK).unwrap();
        file.as_file().write_all_at(before, 0).unwrap();
        let disk = Disk { node: file.path().into(), number: String::new(), bytes: LEAST_DISK };
        let id = id::parse(TEXT).unwrap();
        let contents = contents::read(file.as_file(), LEAST_DISK, "x").unwrap();
        let grant = DiskGrant { overwrite: true, ..grant() };
        let keys = keys::derive(&SHARE, &id);
        let (area, key) = make_header(&disk, file.as_file(), &contents, &grant, &keys, Profile::Xts).unwrap();
        let mut header = luks::Header::load(&area, file.path()).unwrap();
        assert_eq!(header.volume_key(Profile::Xts, &keys.passphrase).unwrap(), key, "the keyslot holds the key");
        let wrong = keys::derive(&[8; 32], &id);
        assert_eq!(header.volume_key(Profile::Xts, &wrong.passphrase).unwrap_err().code(), Code::DiskKeyWrong);
        (std::fs::read(file.path()).unwrap(), area)
    }

    // libcryptsetup is used by one thread only, and tests run in many: one test does all of it.
    #[test]
    fn a_header_is_made_as_it_must_be_and_a_power_cut_leaves_a_disk_that_goes_on() {
        let id = id::parse(TEXT).unwrap();
        let (disk, area) = made(&[]);
        assert!(header::check_fresh(&area, TEXT).is_ok());
        assert_eq!(recovery::find(&area[RECOVERY..RECOVERY + (16 << 10)]), Some(&recovery().write().unwrap()[..]));
        let contents = read(&disk);
        assert!(contents.unfinished == Some(id) && contents.area == area, "on the disk as in memory");
        assert!(disk[HEADER..].iter().all(|byte| *byte == 0), "nothing is wiped");

        let (over, over_area) = made(&[0xa5; 3 << 20]);
        assert!(read(&over).area == over_area, "nothing of what was there is left in the area");

        let blank = vec![0; LEAST_DISK as usize];
        for last_first in [false, true] {
            for sectors in (0..40).chain([300, usize::MAX]) {
                let mut cut = Cut { disk: blank.clone(), cached: vec![], last_first, sectors };
                let written = write_header(&mut cut, &id, &blank[..HEADER], &area);
                assert_eq!(written.is_ok(), sectors == usize::MAX, "{sectors}");
                let contents = read(&cut.disk);
                // The mark is the first sector of eight; the other seven are zero on a blank disk anyway.
                let marked = if last_first { sectors > 7 } else { sectors > 0 };
                if marked {
                    assert_eq!(contents.unfinished, Some(id), "{sectors}");
                } else {
                    assert_eq!(contents.state, DiskState::Blank, "{sectors}");
                }
                assert!(may_be_made(&contents, &grant(), &id).is_ok(), "the next boot goes on");
                let mut again = Cut { sectors: usize::MAX, cached: vec![], ..cut };
                write_header(&mut again, &id, &contents.area, &area).unwrap();
                erase_mark(&mut again).unwrap();
                let contents = read(&again.disk);
                assert!(contents.unfinished.is_none() && contents.area == area, "{sectors}");
            }
        }
    }

    #[test]
    fn a_power_cut_while_the_statement_is_written_changes_no_digest_and_leaves_a_statement() {
        let mut disk = vec![7; LEAST_DISK as usize];
        disk[STATEMENT..STATEMENT + STATEMENT_LENGTH].fill(0);
        let digest = header::digest(&read(&disk).area);
        let old = state_disk::statement::copies(&[b'a'; 1500]).unwrap();
        let new = state_disk::statement::copies(&[b'b'; 1700]).unwrap();
        let mut whole = Cut { disk, cached: vec![], last_first: false, sectors: usize::MAX };
        write_statement(&mut whole, &old).unwrap();
        for last_first in [false, true] {
            for sectors in 0..STATEMENT_LENGTH / 512 {
                let mut cut = Cut { disk: whole.disk.clone(), cached: vec![], last_first, sectors };
                assert!(write_statement(&mut cut, &new).is_err());
                assert_eq!(header::digest(&read(&cut.disk).area), digest, "{sectors}");
                let found = state_disk::statement::take(&mut cut.disk);
                assert!(found.iter().any(|found| [1500, 1700].contains(&found.len())), "{sectors}");
            }
        }
    }

    #[test]
    fn only_a_blank_disk_or_an_unfinished_one_or_one_that_was_given_away_is_made() {
        let id = id::parse(TEXT).unwrap();
        let luks = |uuid: &str| DiskState::Luks { uuid: uuid.into(), digest: attest::bytes::Bytes32([0; 32]) };
        let other = id::parse("0b5f6c6e-0a00-4000-8000-000000000010").unwrap();
        for (state, unfinished, allowed) in [
            (DiskState::Blank, None, true),
            (DiskState::Foreign, None, false),
            (luks(TEXT), None, false),
            (luks(TEXT), Some(id), true),
            (luks(TEXT), Some(other), false),
        ] {
            let contents = Contents { area: vec![], state, statements: vec![], unfinished };
            let result = may_be_made(&contents, &grant(), &id);
            assert_eq!(result.map_err(|failure| failure.code()), if allowed { Ok(()) } else { Err(Code::DiskForeign) });
            assert!(may_be_made(&contents, &DiskGrant { overwrite: true, ..grant() }, &id).is_ok());
        }
    }
}
