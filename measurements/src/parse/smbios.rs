//! The SMBIOS table (DMTF DSP0134, section 6.1), and what OVMF measures of it: the table without what tells one machine from another of the same make
//! (edk2, `MdeModulePkg/Universal/SmbiosMeasurementDxe`).
//!
//! Structures are walked to the end of the table; one that does not fit is refused, and so is a type whose fields are filtered in a way that is not modelled.

use super::bytes::At;

/// Type, length and handle.
const HEADER: usize = 4;
const END: u8 = 127;

/// Why a table is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It contradicts itself.
    #[error("the SMBIOS table is damaged at byte {0}")]
    Damaged(usize),
    /// Its filter is not known.
    #[error("the SMBIOS table has a structure of type {0}, and what the firmware measures of that is not modelled")]
    NotModelled(u8),
}

/// What is hidden of a structure.
enum Hidden {
    /// These ranges become zero, and the strings that these fields name become blanks.
    Fields(&'static [(usize, usize)], &'static [usize]),
    /// Everything behind the header.
    All,
}

fn hidden(kind: u8) -> Result<Hidden, Error> {
    Ok(match kind {
        // UUID and wake-up type; serial number.
        1 => Hidden::Fields(&[(8, 17)], &[7]),
        // Serial number and place in the chassis.
        2 => Hidden::Fields(&[], &[7, 10]),
        // Serial number and asset tag.
        3 => Hidden::Fields(&[], &[7, 8]),
        // Voltage, current speed, numbers of cores and threads; serial number, asset tag, part number.
        4 => Hidden::Fields(&[(0x11, 1), (0x16, 2), (0x23, 3), (0x2a, 6)], &[0x20, 0x21, 0x22]),
        // Serial number, asset tag, part number.
        17 => Hidden::Fields(&[], &[0x18, 0x19, 0x1a]),
        11 | 15 | 18 | 31 | 33 | 128.. => Hidden::All,
        22 | 23 | 27 | 39 => return Err(Error::NotModelled(kind)),
        _ => Hidden::Fields(&[], &[]),
    })
}

/// The table as the firmware measures it.
///
/// # Errors
/// [`Error`].
pub fn measured(table: &[u8]) -> Result<Vec<u8>, Error> {
    let (mut out, mut at) = (table.to_vec(), 0);
    loop {
        let kind = table.byte(at).ok_or(Error::Damaged(at))?;
        let length = table.byte(at + 1).map(usize::from).filter(|length| *length >= HEADER);
        let length = length.filter(|length| table.range(at, *length).is_some()).ok_or(Error::Damaged(at))?;
        let strings = strings(table, at + length).ok_or(Error::Damaged(at))?;
        let end = strings.last().map_or(at + length + 2, |last| last.1 + 2);
        hide(&mut out, (at, length, end), &strings, kind)?;
        if kind == END {
            out.truncate(end);
            return Ok(out);
        }
        at = end;
    }
}

fn hide(
    table: &mut [u8],
    (at, length, end): (usize, usize, usize),
    strings: &[(usize, usize)],
    kind: u8,
) -> Result<(), Error> {
    match hidden(kind)? {
        Hidden::All => table[at + HEADER..end].fill(0),
        Hidden::Fields(ranges, named) => {
            // Older tables have shorter structures.
            let numbers: Vec<u8> =
                named.iter().filter(|field| **field < length).map(|field| table[at + field]).collect();
            for (start, size) in ranges {
                let (start, stop) = ((*start).min(length), (start + size).min(length));
                table[at + start..at + stop].fill(0);
            }
            for number in numbers {
                let place = usize::from(number).checked_sub(1).and_then(|index| strings.get(index));
                place.into_iter().for_each(|(start, stop)| table[*start..*stop].fill(b' '));
            }
        }
    }
    Ok(())
}

/// Where the strings behind a structure lie; the last is followed by two NULs.
fn strings(table: &[u8], mut at: usize) -> Option<Vec<(usize, usize)>> {
    let mut all = Vec::new();
    if table.half(at)? == 0 {
        return Some(all);
    }
    loop {
        let length = table.get(at..)?.iter().position(|byte| *byte == 0)?;
        all.push((at, at + length));
        at += length + 1;
        if table.byte(at)? == 0 {
            return Some(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<u8> {
        let mut system = vec![1, 27, 0, 1, 1, 2, 0, 3];
        system.extend([9; 16]);
        system.extend([6, 0, 0]);
        system.extend(b"maker\0product\0serial\0\0");
        let text = [&[11, 5, 0, 2, 1][..], b"any\0\0"].concat();
        let end = [127, 4, 0, 3, 0, 0];
        [&system[..], &text, &end, &[0xff; 8]].concat()
    }

    #[test]
    fn what_tells_machines_apart_is_not_measured() {
        let measured = measured(&table()).unwrap();
        let text = String::from_utf8_lossy(&measured);
        assert!(text.contains("maker\0product\0      \0\0"), "{text:?}");
        assert_eq!(&measured[8..25], &[0; 17], "UUID and wake-up type");
        assert!(!text.contains("any"));
        assert_eq!(measured.len(), table().len() - 8, "what follows the last structure is no part of the table");
    }

    #[test]
    fn damaged_tables_are_refused() {
        let good = table();
        for length in 0..good.len() - 8 {
            assert!(matches!(measured(&good[..length]), Err(Error::Damaged(_))), "{length}");
        }
        assert_eq!(measured(&[22, 4, 0, 0, 0, 0]), Err(Error::NotModelled(22)));
        assert_eq!(measured(&[1, 3, 0, 0, 0, 0]), Err(Error::Damaged(0)));
    }
}
