//! The files that QEMU hands to the firmware (QEMU, `docs/specs/fw_cfg.rst`), read from outside, so that no code of the guest is needed or believed. Only for machines that are being recorded, whose guest does not use these
//! ports any more.

use std::io::Error;

use super::qtest::Qtest;

/// I/O ports.
const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
/// The list of files, and an entry of it: size, key, two reserved bytes, name.
const DIRECTORY: u16 = 0x19;
const ENTRY: usize = 64;
const MOST_FILES: u32 = 512;
/// Larger files are none of those that are asked for.
const LARGEST: u32 = 1 << 20;
/// Bytes that are asked for before answers are read.
const AT_ONCE: usize = 512;

/// A connection.
pub struct FwCfg(pub(super) Qtest);

impl FwCfg {
    /// The content of a file; `None` if there is none of this name.
    pub fn read(&mut self, name: &str) -> std::io::Result<Option<Vec<u8>>> {
        self.select(DIRECTORY)?;
        let count = number(&self.bytes(4)?);
        if count > MOST_FILES {
            return Err(Error::other(format!("the list has {count} files")));
        }
        for _ in 0..count {
            let entry = self.bytes(ENTRY)?;
            let found = entry[8..].split(|byte| *byte == 0).next().unwrap_or_default();
            if found == name.as_bytes() {
                let (size, key) = (number(&entry[..4]), u16::from_be_bytes([entry[4], entry[5]]));
                if size > LARGEST {
                    return Err(Error::other(format!("{name} has {size} bytes")));
                }
                self.select(key)?;
                return self.bytes(size as usize).map(Some);
            }
        }
        Ok(None)
    }

    fn select(&mut self, key: u16) -> std::io::Result<()> {
        self.0.send(&format!("outw {SELECTOR:#x} {key:#x}\n"))?;
        self.0.number().map(drop)
    }

    fn bytes(&mut self, count: usize) -> std::io::Result<Vec<u8>> {
        let line = format!("inb {DATA:#x}\n");
        let mut bytes = Vec::with_capacity(count);
        while bytes.len() < count {
            let part = AT_ONCE.min(count - bytes.len());
            self.0.send(&line.repeat(part))?;
            for _ in 0..part {
                let byte = self.0.number()?;
                bytes.push(u8::try_from(byte).map_err(|_| Error::other(format!("QEMU reads a byte {byte:#x}")))?);
            }
        }
        Ok(bytes)
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;

    use super::super::qtest::SOCKET;
    use super::*;

    /// Stands for QEMU: a fake with one file.
    fn fake(listener: UnixListener, content: &'static [u8]) {
        let (stream, _) = listener.accept().unwrap();
        let mut writer = stream.try_clone().unwrap();
        let mut directory =
            [&[0, 0, 0, 1][..], &(content.len() as u32).to_be_bytes(), &[0, 0x20, 0, 0], b"etc/file"].concat();
        directory.resize(4 + ENTRY, 0);
        let (mut selected, mut at) = (Vec::new(), 0);
        for line in BufReader::new(stream).lines() {
            let line = line.unwrap();
            if let Some(key) = line.strip_prefix("outw 0x510 ") {
                selected = if key == "0x19" { directory.clone() } else { content.to_vec() };
                at = 0;
                writeln!(writer, "OK").unwrap();
            } else {
                writeln!(writer, "OK 0x{:016x}", selected.get(at).copied().unwrap_or(0)).unwrap();
                at += 1;
            }
        }
    }

    #[test]
    fn a_file_is_found_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join(SOCKET);
        let listener = UnixListener::bind(&socket).unwrap();
        let thread = std::thread::spawn(move || fake(listener, &[7; 1000]));
        let mut fw_cfg = FwCfg(Qtest::connect(&socket).unwrap());
        assert_eq!(fw_cfg.read("etc/file").unwrap(), Some(vec![7; 1000]));
        assert_eq!(fw_cfg.read("etc/fil").unwrap(), None);
        drop(fw_cfg);
        thread.join().unwrap();
    }
}
