//! Files that hold a disk and are no raw disk: known by their first bytes, so that a refusal names the command that unpacks them.

/// A form in which disks are kept or sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Container {
    /// What people call it.
    pub name: &'static str,
    /// The command that makes a raw disk of it.
    pub command: &'static str,
}

impl Container {
    /// The command that prints the content, of a compressed file.
    pub fn printing_command(&self) -> Option<&'static str> {
        self.command.strip_suffix(" > disk.raw")
    }
}

const CONVERT: &str = "qemu-img convert -O raw FILE disk.raw";

/// First bytes of each, at this position.
const KNOWN: [(usize, &[u8], &str, &str); 12] = [
    (0, b"QFI\xfb", "a qcow2 disk", CONVERT),
    (0, b"KDMV", "a VMDK disk", CONVERT),
    (0, b"# Disk DescriptorFile", "the description of a VMDK disk", CONVERT),
    (0, b"vhdxfile", "a VHDX disk", CONVERT),
    (0, b"conectix", "a VHD disk", CONVERT),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI disk", CONVERT),
    (0, b"\x1f\x8b", "compressed with gzip", "gzip -dc FILE > disk.raw"),
    (0, b"\xfd7zXZ\0", "compressed with xz", "xz -dc FILE > disk.raw"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with Zstandard", "zstd -dc FILE > disk.raw"),
    (0, b"BZh", "compressed with bzip2", "bzip2 -dc FILE > disk.raw"),
    (257, b"ustar", "a tar archive", "tar -xf FILE"),
    (0, b"PK\x03\x04", "a ZIP archive", "unzip FILE"),
];

/// What a file is, if it is one of these.
pub fn container(bytes: &[u8]) -> Option<Container> {
    let is =
        |(at, magic, ..): &&(usize, &[u8], &str, &str)| bytes.get(*at..).is_some_and(|rest| rest.starts_with(magic));
    KNOWN.iter().find(is).map(|(_, _, name, command)| Container { name, command })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_is_named_with_the_command_that_unpacks_it() {
        assert_eq!(container(b"QFI\xfb\0\0\0\x03").map(|found| found.name), Some("a qcow2 disk"));
        assert_eq!(container(b"\x1f\x8b\x08").map(|found| found.command), Some("gzip -dc FILE > disk.raw"));
        assert_eq!(container(b"BZh9").and_then(|found| found.printing_command()), Some("bzip2 -dc FILE"));
        assert_eq!(container(b"PK\x03\x04").and_then(|found| found.printing_command()), None);
        assert_eq!(container(&[0; 4096]), None);
        assert_eq!(container(b""), None);
    }
}
