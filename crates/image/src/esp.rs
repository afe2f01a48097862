//! The EFI system partition: a FAT volume written with `fatfs` (UEFI 2.10, section 13.3).
//!
//! Times come from the caller, the volume id too; entries stand in the order given. Long names need the crate's `alloc`
//! feature, without which it drops them silently. What does not fit is refused before a byte is written.

use std::io::{Cursor, Write};

use fatfs::{Date, DateTime, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};

/// What identifies a volume.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Size in bytes.
    pub size: u64,
    /// Volume id.
    pub volume_id: u32,
    /// Label, 11 characters.
    pub label: [u8; 11],
    /// Time of every entry, seconds since 1970. FAT counts from 1980 in steps of two seconds.
    pub time: u64,
}

/// Why a volume could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The files need more room than there is.
    #[error("the files need {needed} bytes, the ESP has room for {available}: make it larger or the files smaller")]
    NoRoom {
        /// Bytes needed, in whole clusters, with folders.
        needed: u64,
        /// Bytes that the volume has.
        available: u64,
    },
    /// FAT cannot express the time.
    #[error("{0} seconds since 1970 is no time that FAT can express: 1980 to 2107")]
    Time(u64),
    /// The FAT writer failed.
    #[error("failed to write {what} to the ESP: {source}")]
    Write {
        /// Which file or structure.
        what: String,
        /// What went wrong.
        source: std::io::Error,
    },
}

/// One time for everything. `fatfs` wants a provider that lives for ever.
#[derive(Debug)]
struct Fixed(DateTime);

impl TimeProvider for Fixed {
    fn get_current_date(&self) -> Date {
        self.0.date
    }

    fn get_current_date_time(&self) -> DateTime {
        self.0
    }
}

/// The bytes of a volume that holds `files`, given as path and content.
pub fn write(settings: &Settings, files: &[(&str, &[u8])]) -> Result<Vec<u8>, Error> {
    let fail = |what: &str| {
        let what = what.to_owned();
        move |source| Error::Write { what, source }
    };
    let mut volume = vec![0; settings.size as usize];
    let options = FormatVolumeOptions::new().volume_id(settings.volume_id).volume_label(settings.label);
    fatfs::format_volume(Cursor::new(&mut volume[..]), options).map_err(fail("the boot sector"))?;
    let clock: &'static Fixed = Box::leak(Box::new(Fixed(date_time(settings.time)?)));
    make_folders(&mut volume, clock, files)?;
    mend_dot_entries(&mut volume);
    let file_system = open(&mut volume, clock)?;
    for (path, bytes) in files {
        let mut file = file_system.root_dir().create_file(path).map_err(fail(path))?;
        file.write_all(bytes).and_then(|()| file.flush()).map_err(fail(path))?;
    }
    file_system.unmount().map_err(fail("the allocation table"))?;
    Ok(volume)
}

fn open<'a>(volume: &'a mut [u8], clock: &'static Fixed) -> Result<FileSystem<Cursor<&'a mut [u8]>>, Error> {
    let opened = FileSystem::new(Cursor::new(volume), FsOptions::new().time_provider(clock));
    opened.map_err(|source| Error::Write { what: "the boot sector".into(), source })
}

/// Makes the folders that `files` stand in, in a volume that is empty.
fn make_folders(volume: &mut [u8], clock: &'static Fixed, files: &[(&str, &[u8])]) -> Result<(), Error> {
    let file_system = open(volume, clock)?;
    check_room(&file_system, files)?;
    let fail = |path: &str| {
        let what = path.to_owned();
        move |source| Error::Write { what, source }
    };
    for (path, _) in files {
        for (at, _) in path.match_indices('/') {
            file_system.root_dir().create_dir(&path[..at]).map_err(fail(path))?;
        }
    }
    file_system.unmount().map_err(fail("the allocation table"))
}

/// Size of a directory entry.
const ENTRY: usize = 32;
/// First byte of an entry that is free.
const FREE: u8 = 0xe5;

/// `fatfs` 0.3 gives `.` and `..` long names as well, so that they are not the first two entries of their folder, as Microsoft's FAT
/// specification (section 6.5) says they are and fsck.vfat demands. Nothing but folders is in the volume yet: no content can look like one.
fn mend_dot_entries(volume: &mut [u8]) {
    const LONG_NAME: u8 = 0x0f;
    let long_name_of =
        |entry: &[u8], name: &[u8; 11]| entry[0] == b'A' && entry[11] == LONG_NAME && entry[13] == checksum(name);
    for start in (0..volume.len().saturating_sub(4 * ENTRY)).step_by(512) {
        let entries = &mut volume[start..start + 4 * ENTRY];
        let (dot, dots) = (b".          ", b"..         ");
        if long_name_of(&entries[..ENTRY], dot) && long_name_of(&entries[2 * ENTRY..3 * ENTRY], dots) {
            entries.copy_within(ENTRY..2 * ENTRY, 0);
            entries.copy_within(3 * ENTRY..4 * ENTRY, ENTRY);
            entries[2 * ENTRY..].fill(0);
            (entries[2 * ENTRY], entries[3 * ENTRY]) = (FREE, FREE);
        }
    }
}

/// Checksum of a short name in the entries of its long name (FAT specification, section 7.2).
fn checksum(name: &[u8; 11]) -> u8 {
    name.iter().fold(0, |sum: u8, byte| sum.rotate_right(1).wrapping_add(*byte))
}

fn check_room<T: fatfs::ReadWriteSeek>(file_system: &FileSystem<T>, files: &[(&str, &[u8])]) -> Result<(), Error> {
    let statistics = file_system.stats().map_err(|source| Error::Write { what: "the volume".into(), source })?;
    let cluster = u64::from(statistics.cluster_size());
    let folders: std::collections::BTreeSet<&str> =
        files.iter().flat_map(|(path, _)| path.match_indices('/').map(|(at, _)| &path[..at])).collect();
    let needed =
        files.iter().map(|(_, bytes)| (bytes.len() as u64).div_ceil(cluster)).sum::<u64>() + folders.len() as u64;
    let available = u64::from(statistics.free_clusters());
    if needed > available {
        return Err(Error::NoRoom { needed: needed * cluster, available: available * cluster });
    }
    Ok(())
}

/// Civil date of seconds since 1970, within FAT's range.
fn date_time(time: u64) -> Result<DateTime, Error> {
    let out_of_range = || Error::Time(time);
    let moment = i64::try_from(time).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    let moment = moment.ok_or_else(out_of_range)?.to_zoned(jiff::tz::TimeZone::UTC);
    let part = |value: i8| value.unsigned_abs().into();
    let year =
        u16::try_from(moment.year()).ok().filter(|year| (1980..=2107).contains(year)).ok_or_else(out_of_range)?;
    let time = Time { hour: part(moment.hour()), min: part(moment.minute()), sec: part(moment.second()), millis: 0 };
    Ok(DateTime { date: Date { year, month: part(moment.month()), day: part(moment.day()) }, time })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use sha2::{Digest, Sha256};

    use super::*;

    const SETTINGS: Settings =
        Settings { size: 8 << 20, volume_id: 0xc0ffee, label: *b"CAIRN-ESP  ", time: 1_767_323_045 };

    #[test]
    fn the_bytes_of_a_volume_are_frozen() {
        let files: [(&str, &[u8]); 2] = [("EFI/BOOT/BOOTX64.EFI", &[7; 100_000]), ("loader/a longer name.conf", b"x")];
        let volume = write(&SETTINGS, &files).unwrap();
        assert_eq!(
            hex::encode(Sha256::digest(&volume)),
            "63d9cf7d089356e7f8a3e11e33fb07eec1029a7b7e126007631f52b45308999e"
        );
        let file_system = FileSystem::new(Cursor::new(volume), FsOptions::new()).unwrap();
        for (path, expected) in files {
            let mut found = Vec::new();
            file_system.root_dir().open_file(path).unwrap().read_to_end(&mut found).unwrap();
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        let content = vec![1; 9 << 20];
        let error = write(&SETTINGS, &[("EFI/BOOT/BOOTX64.EFI", &content)]).unwrap_err();
        let Error::NoRoom { needed, available } = error else { panic!("{error}") };
        assert!(needed > 9 << 20 && available < 8 << 20, "{needed} {available}");
    }

    #[test]
    fn a_time_that_fat_cannot_express_is_refused() {
        for time in [0, 315_532_799, 4_354_819_200, u64::MAX] {
            let error = write(&Settings { time, ..SETTINGS }, &[]).unwrap_err();
            assert!(matches!(error, Error::Time(_)), "{time}: {error}");
        }
        assert!(write(&Settings { time: 315_532_800, ..SETTINGS }, &[]).is_ok());
    }
}
