//! The broker's statement about a committed disk, in the header's area. Which document it is, this crate does not know: bytes without a zero, then zeros. It is written after the commit, when the header's digest is known, so the digest is taken as if this
//! place held zeros, whatever it holds: nothing reads it but recovery, which verifies it.
//!
//! Two copies are written one after the other, and the first is flushed before the second: a power cut leaves one of them whole.

use crate::layout::{STATEMENT, STATEMENT_LENGTH};

/// One copy.
const COPY: usize = STATEMENT_LENGTH / 2;

/// What is to be written, in this order, each flushed before the next: offset on the disk, and bytes. None where the statement does not fit.
pub fn copies(statement: &[u8]) -> Option<[(usize, Vec<u8>); 2]> {
    if statement.len() > COPY || statement.contains(&0) {
        return None;
    }
    let mut copy = statement.to_vec();
    copy.resize(COPY, 0);
    Some([(STATEMENT, copy.clone()), (STATEMENT + COPY, copy)])
}

/// Takes the statement out of a header's area, and leaves zeros: the copies that have the form of one, which differ where a write was cut.
pub fn take(area: &mut [u8]) -> Vec<Vec<u8>> {
    let Some(place) = area.get_mut(STATEMENT..STATEMENT + STATEMENT_LENGTH) else { return vec![] };
    let found = place.chunks(COPY).filter_map(statement).collect();
    place.fill(0);
    found
}

fn statement(copy: &[u8]) -> Option<Vec<u8>> {
    let end = copy.iter().position(|byte| *byte == 0).unwrap_or(copy.len());
    let is_statement = end > 0 && copy.iter().skip(end).all(|byte| *byte == 0);
    is_statement.then(|| copy[..end].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::HEADER;

    fn put(area: &mut [u8], copies: &[(usize, Vec<u8>)]) {
        for (at, bytes) in copies {
            area[*at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    #[test]
    fn statement_is_taken_as_it_was_put_and_leaves_zeros() {
        for statement in [&b"{}\n"[..], &[b'x'; COPY]] {
            let mut area = vec![7; HEADER];
            put(&mut area, &copies(statement).unwrap());
            assert_eq!(take(&mut area), [statement, statement]);
            assert_eq!(area[STATEMENT..STATEMENT + STATEMENT_LENGTH], [0; STATEMENT_LENGTH]);
            assert!(take(&mut area).is_empty(), "it was taken");
        }
    }

    #[test]
    fn other_bytes_are_no_statement_and_leave_zeros() {
        assert!(copies(&[b'x'; COPY + 1]).is_none() && copies(b"{\0}").is_none());
        let mut area = vec![0; HEADER];
        area[STATEMENT + 5] = 1;
        assert!(take(&mut area).is_empty());
        assert!(area.iter().all(|byte| *byte == 0));
        assert!(take(&mut [0; 512]).is_empty());
    }

    #[test]
    fn a_write_that_is_cut_anywhere_leaves_one_copy_whole() {
        let (old, new) = (vec![b'a'; 1500], vec![b'b'; 1700]);
        let (before, after) = (copies(&old).unwrap(), copies(&new).unwrap());
        for (cut_copy, other) in [(0, &before[1]), (1, &after[0])] {
            for sectors in 0..1_usize << (1700_usize.div_ceil(512)) {
                let mut area = vec![0; HEADER];
                put(&mut area, &[before[cut_copy].clone(), other.clone()]);
                for sector in (0..4).filter(|sector| sectors & 1 << sector != 0) {
                    let at = after[cut_copy].0 + 512 * sector;
                    area[at..at + 512].copy_from_slice(&after[cut_copy].1[512 * sector..][..512]);
                }
                let found = take(&mut area);
                assert!(found.contains(&old) || found.contains(&new), "{cut_copy} {sectors:b}");
                assert!(area.iter().all(|byte| *byte == 0), "the header's digest stays as it was");
            }
        }
    }
}
