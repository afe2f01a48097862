//! The mark of a disk that is being made. It stands in the header's area from before the first byte of the header is written until the broker has acknowledged the disk, so that a power cut in between leaves a disk
//! that is recognised as unfinished, and whose, instead of one that looks like somebody else's.
//!
//! It means only that making this one disk again loses nothing. The header's digest is taken as if the mark were not there, so that the digest stays what it was when the mark goes.

use crate::layout::{UNFINISHED, UNFINISHED_LENGTH};

const MAGIC: &[u8; 16] = b"CAIRN UNFINISHED";
/// Magic and disk id; zeros follow. All of it is in one sector, so that a torn write leaves the whole mark or none.
const END: usize = 32;

/// The block that marks the disk with this id.
pub fn mark(disk: &[u8; 16]) -> Vec<u8> {
    let mut block = [&MAGIC[..], &disk[..]].concat();
    block.resize(UNFINISHED_LENGTH, 0);
    block
}

/// Takes the mark out of a header's area; gives the id of the disk that was being made.
pub fn take(area: &mut [u8]) -> Option<[u8; 16]> {
    let block = area.get_mut(UNFINISHED..UNFINISHED + UNFINISHED_LENGTH)?;
    let id = block.strip_prefix(MAGIC)?.get(..END - MAGIC.len())?.try_into().ok()?;
    if block.iter().skip(END).any(|byte| *byte != 0) {
        return None;
    }
    block.fill(0);
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::HEADER;

    fn marked() -> Vec<u8> {
        let mut area = vec![7; HEADER];
        area[UNFINISHED..UNFINISHED + UNFINISHED_LENGTH].copy_from_slice(&mark(&[5; 16]));
        area
    }

    #[test]
    fn the_mark_names_the_disk_and_leaves_zeros() {
        let mut area = marked();
        assert_eq!(take(&mut area), Some([5; 16]));
        assert_eq!(area[UNFINISHED..UNFINISHED + UNFINISHED_LENGTH], [0; UNFINISHED_LENGTH]);
        assert!(area[..UNFINISHED].iter().chain(&area[UNFINISHED + UNFINISHED_LENGTH..]).all(|byte| *byte == 7));
        assert_eq!(take(&mut area), None, "it was taken");
    }

    #[test]
    fn what_is_not_exactly_a_mark_is_none_and_stays() {
        for at in [0, 15, END, UNFINISHED_LENGTH - 1] {
            let mut area = marked();
            area[UNFINISHED + at] ^= 1;
            let before = area.clone();
            assert_eq!(take(&mut area), None, "byte {at}");
            assert_eq!(area, before);
        }
        assert_eq!(take(&mut [0; 512]), None, "too short");
    }
}
