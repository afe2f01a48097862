//! GUIDs as firmware stores them: the first three fields little-endian (UEFI 2.10, appendix A).

use std::fmt;

/// A GUID in its stored form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid([u8; 16]);

impl Guid {
    /// From the digits as they are written, for example `0x96b582de_1fb2_45f7_baea_a366c55a082d`.
    pub const fn from_digits(digits: u128) -> Self {
        let [a, b, c, d, e, f, g, h, rest @ ..] = digits.to_be_bytes();
        let [i, j, k, l, m, n, o, p] = rest;
        Self([d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p])
    }

    /// From its stored form.
    pub const fn from_stored(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its stored form.
    pub const fn stored(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
        for (position, index) in ORDER.into_iter().enumerate() {
            let hyphen = if matches!(position, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{hyphen}{:02x}", self.0[index])?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_fields_are_stored_backwards() {
        let guid = Guid::from_digits(0x9658_2dde_1fb2_45f7_baea_a366_c55a_082d);
        assert_eq!(guid.stored()[..8], [0xde, 0x2d, 0x58, 0x96, 0xb2, 0x1f, 0xf7, 0x45]);
        assert_eq!(guid.to_string(), "96582dde-1fb2-45f7-baea-a366c55a082d");
        assert_eq!(Guid::from_stored(*guid.stored()), guid);
    }
}
