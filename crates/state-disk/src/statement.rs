//! The broker's statement about a committed disk, in the header's area. Which document it is, this crate does not know: bytes without a zero, then zeros. It is written after the commit, when the header's digest is known, so that digest is taken as if it
//! were not there.

use crate::layout::{STATEMENT, STATEMENT_LENGTH};

/// The block that holds this statement; none where it does not fit.
pub fn block(statement: &[u8]) -> Option<Vec<u8>> {
    if statement.len() > STATEMENT_LENGTH || statement.contains(&0) {
        return None;
    }
    let mut block = statement.to_vec();
    block.resize(STATEMENT_LENGTH, 0);
    Some(block)
}

/// Takes the statement out of a header's area; none where there are only zeros, or something stands behind them, which stays.
pub fn take(area: &mut [u8]) -> Option<Vec<u8>> {
    let place = area.get_mut(STATEMENT..STATEMENT + STATEMENT_LENGTH)?;
    let end = place.iter().position(|byte| *byte == 0).unwrap_or(place.len());
    if end == 0 || place.iter().skip(end).any(|byte| *byte != 0) {
        return None;
    }
    let statement = place[..end].to_vec();
    place.fill(0);
    Some(statement)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::HEADER;

    #[test]
    fn statement_is_taken_as_it_was_put_and_leaves_zeros() {
        for statement in [&b"{}\n"[..], &[b'x'; STATEMENT_LENGTH]] {
            let mut area = vec![7; HEADER];
            area[STATEMENT..STATEMENT + STATEMENT_LENGTH].copy_from_slice(&block(statement).unwrap());
            assert_eq!(take(&mut area).as_deref(), Some(statement));
            assert_eq!(area[STATEMENT..STATEMENT + STATEMENT_LENGTH], [0; STATEMENT_LENGTH]);
            assert_eq!(take(&mut area), None, "it was taken");
        }
    }

    #[test]
    fn other_bytes_are_no_statement_and_stay() {
        assert!(block(&[b'x'; STATEMENT_LENGTH + 1]).is_none() && block(b"{\0}").is_none());
        let mut area = vec![0; HEADER];
        area[STATEMENT + 5] = 1;
        let before = area.clone();
        assert_eq!(take(&mut area), None);
        assert_eq!(area, before);
        assert_eq!(take(&mut [0; 512]), None);
    }
}
