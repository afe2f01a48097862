//! The recovery document in a header's area: the disk's share, sealed to the cluster's recovery keys, so that a lost broker loses no disk. Which document it is, this crate does not know: bytes without a zero, then zeros.

use crate::layout::{RECOVERY, RECOVERY_LENGTH};

/// Writes the document into a header's area; false where it does not fit.
pub fn put(area: &mut [u8], document: &[u8]) -> bool {
    let Some(place) = area.get_mut(RECOVERY..RECOVERY + RECOVERY_LENGTH) else { return false };
    if document.len() > place.len() || document.contains(&0) {
        return false;
    }
    place.fill(0);
    place[..document.len()].copy_from_slice(document);
    true
}

/// The document in the [`RECOVERY_LENGTH`] bytes at [`RECOVERY`]; none where there are only zeros, or something stands behind them.
pub fn find(place: &[u8]) -> Option<&[u8]> {
    let end = place.iter().position(|byte| *byte == 0).unwrap_or(place.len());
    let (document, rest) = place.split_at(end);
    (!document.is_empty() && rest.iter().all(|byte| *byte == 0)).then_some(document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::HEADER;

    #[test]
    fn a_document_is_found_as_it_was_put() {
        let mut area = vec![0; HEADER];
        for document in [&b"{\"a\":1}\n"[..], b"{}\n", &[b'x'; RECOVERY_LENGTH]] {
            assert!(put(&mut area, document));
            assert_eq!(find(&area[RECOVERY..RECOVERY + RECOVERY_LENGTH]), Some(document));
        }
        assert_eq!(area[RECOVERY + RECOVERY_LENGTH], 0);
    }

    #[test]
    fn what_does_not_fit_is_not_put_and_what_is_no_document_not_found() {
        let mut area = vec![0; HEADER];
        assert!(!put(&mut area, &[b'x'; RECOVERY_LENGTH + 1]));
        assert!(!put(&mut area, b"{\0}"));
        assert!(!put(&mut [0; 512], b"{}\n"));
        assert_eq!(area, vec![0; HEADER]);
        for place in [&b""[..], b"\0\0", b"\0{}\n", b"{}\n\0\0x"] {
            assert_eq!(find(place), None, "{place:?}");
        }
    }
}
