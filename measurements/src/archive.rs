//! The cpio archives (newc) that systemd-stub makes of what it passes to the kernel beside the initrd (systemd, `src/boot/cpio.c`): they depend on names and contents alone.

/// The stub has it as a constant: the only upper-case digit of its archives, and one NUL more than the name has.
const TRAILER: &[u8; 124] = b"0707010000000000000000000000000000000000000001000000000000000000000000\
      0000000000000000000000000000000B00000000TRAILER!!!\0\0\0\0";

/// Where files go, and what may be done with them there.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Path without the first slash. The directories above the last have mode 0555.
    pub directory: &'static str,
    /// Permissions of the last directory.
    pub directory_mode: u32,
    /// Permissions of the files.
    pub file_mode: u32,
}

impl Place {
    /// Where sections of the UKI go.
    pub const SECTIONS: Self = Self { directory: ".extra", directory_mode: 0o555, file_mode: 0o444 };
}

/// An archive of these files, each with its name and content, in this order.
pub fn archive(place: Place, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut inode = 0;
    let mut next = || {
        inode += 1;
        inode
    };
    let all = place.directory;
    let ends = all.match_indices('/').map(|(end, _)| end).chain([all.len()]);
    for end in ends {
        let mode = if end == all.len() { place.directory_mode } else { 0o555 };
        entry(&mut archive, [next(), 0o040_000 | mode, 1], &all[..end], &[]);
    }
    for (name, content) in files {
        entry(&mut archive, [next(), 0o100_000 | place.file_mode, 1], &format!("{all}/{name}"), content);
    }
    archive.extend(TRAILER);
    archive
}

/// `numbers` are inode, mode and links; all others are zero.
fn entry(archive: &mut Vec<u8>, numbers: [u32; 3], name: &str, content: &[u8]) {
    let [inode, mode, links] = numbers;
    let (size, length) = (content.len() as u32, name.len() as u32 + 1);
    archive.extend(b"070701");
    for number in [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, length, 0] {
        archive.extend(format!("{number:08x}").bytes());
    }
    archive.extend(name.bytes().chain([0]));
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_aligned_and_ends_with_a_trailer() {
        let bytes = archive(Place::SECTIONS, &[("os-release", b"ID=x\n")]);
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            text.starts_with("07070100000001000041")
                && text.contains(".extra/os-release\0")
                && text.contains("TRAILER!!!")
        );
    }

    #[test]
    fn directories_have_numbers_before_the_files() {
        let place = Place { directory: ".extra/credentials", directory_mode: 0o500, file_mode: 0o400 };
        let bytes = archive(place, &[("a", b"1"), ("b", b"2")]);
        let text = String::from_utf8_lossy(&bytes);
        for words in
            ["070701000000010000416d", "0707010000000200004140", "0707010000000300008100", "0707010000000400008100"]
        {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}
