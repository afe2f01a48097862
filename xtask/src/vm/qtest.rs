//! QEMU's qtest protocol (QEMU, `docs/devel/testing/qtest.rst`): the host gets the guest's I/O ports and its memory, without any code of the guest. One line asks, one line answers.

use std::io::{BufRead, BufReader, Error, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Name of the socket in the machine's folder.
pub(super) const SOCKET: &str = "qtest.sock";
const TIMEOUT: Duration = Duration::from_secs(60);

/// A connection.
pub(super) struct Qtest {
    writer: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Qtest {
    pub fn connect(socket: &Path) -> std::io::Result<Self> {
        let writer = UnixStream::connect(socket)?;
        writer.set_read_timeout(Some(TIMEOUT))?;
        let reader = BufReader::new(writer.try_clone()?);
        Ok(Self { writer, reader })
    }

    /// Sends lines.
    pub fn send(&mut self, lines: &str) -> std::io::Result<()> {
        self.writer.write_all(lines.as_bytes())
    }

    /// The value of an answer, 0 where it has none.
    pub fn number(&mut self) -> std::io::Result<u64> {
        let answer = self.answer()?;
        if answer.is_empty() {
            return Ok(0);
        }
        let digits = answer.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        digits.ok_or_else(|| Error::other(format!("QEMU answers {answer:?}")))
    }

    /// Bytes of the guest's memory.
    pub fn memory(&mut self, address: u64, length: u64) -> std::io::Result<Vec<u8>> {
        self.send(&format!("b64read {address:#x} {length:#x}\n"))?;
        let answer = self.answer()?;
        STANDARD.decode(answer).map_err(|error| Error::other(format!("QEMU's memory is not base64: {error}")))
    }

    /// What stands behind `OK`.
    fn answer(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let answer = line.trim_end().strip_prefix("OK").map(str::trim);
        answer.map(str::to_owned).ok_or_else(|| Error::other(format!("QEMU answers {line:?}")))
    }
}
