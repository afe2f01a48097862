//! Big-endian structures, read from the front (Part 2, section 5: canonical form). Nothing is allocated for a length that the input does not have.

use crate::{Code, Refusal};

/// Bytes that are left, and what they are of.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, what }
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Refusal> {
        let (head, rest) = self.bytes.split_at_checked(count).ok_or_else(|| self.refuse("is cut short"))?;
        self.bytes = rest;
        Ok(head)
    }

    pub fn u8(&mut self) -> Result<u8, Refusal> {
        Ok(self.take(1)?[0])
    }

    pub fn u16(&mut self) -> Result<u16, Refusal> {
        Ok(self.take(2)?.iter().fold(0, |sum, byte| sum << 8 | u16::from(*byte)))
    }

    pub fn u32(&mut self) -> Result<u32, Refusal> {
        Ok(self.take(4)?.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
    }

    pub fn u64(&mut self) -> Result<u64, Refusal> {
        Ok(self.take(8)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    /// A TPM2B: 16 bits of length, then so many bytes.
    pub fn sized(&mut self) -> Result<&'a [u8], Refusal> {
        let length = usize::from(self.u16()?);
        self.take(length)
    }

    /// That nothing is left.
    pub fn end(self) -> Result<(), Refusal> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.refuse("has bytes behind its end")) }
    }

    pub fn refuse(&self, problem: &str) -> Refusal {
        Refusal::new(Code::Malformed, format!("the {} {problem}", self.what))
    }
}
