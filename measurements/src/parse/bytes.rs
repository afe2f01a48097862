//! Numbers and ranges out of bytes that nobody has checked.

/// Little-endian numbers at places that may not exist.
pub(crate) trait At {
    /// `length` bytes at `start`.
    fn range(&self, start: usize, length: usize) -> Option<&[u8]>;

    /// One byte.
    fn byte(&self, at: usize) -> Option<u8> {
        self.range(at, 1).map(|bytes| bytes[0])
    }

    /// Two bytes.
    fn half(&self, at: usize) -> Option<u16> {
        self.range(at, 2)?.try_into().ok().map(u16::from_le_bytes)
    }

    /// Four bytes.
    fn word(&self, at: usize) -> Option<u32> {
        self.range(at, 4)?.try_into().ok().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    fn long(&self, at: usize) -> Option<u64> {
        self.range(at, 8)?.try_into().ok().map(u64::from_le_bytes)
    }
}

impl At for [u8] {
    fn range(&self, start: usize, length: usize) -> Option<&[u8]> {
        self.get(start..start.checked_add(length)?)
    }
}
