//! The id of a disk: 16 bytes that the broker chose, written as the UUID of its LUKS2 header in the one form that is used here, lower case with dashes (RFC 9562, section 4).

/// Where the dashes are.
const DASHES: [usize; 4] = [8, 13, 18, 23];
const LENGTH: usize = 36;

/// The bytes of an id; none where the text is not written as ids are.
pub fn parse(text: &str) -> Option<[u8; 16]> {
    let is_dash = |(index, byte): (usize, u8)| DASHES.contains(&index) == (byte == b'-');
    let is_written_so = text.len() == LENGTH
        && text.bytes().enumerate().all(is_dash)
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
    if !is_written_so {
        return None;
    }
    let mut id = [0; 16];
    hex::decode_to_slice(text.replace('-', ""), &mut id).ok()?;
    Some(id)
}

/// Writes an id.
pub fn write(id: &[u8; 16]) -> String {
    let mut text = hex::encode(id);
    for dash in DASHES {
        text.insert(dash, '-');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "0b5f6c6e-0a00-4000-8000-00000000000f";

    #[test]
    fn an_id_is_written_as_it_is_read() {
        let id = parse(TEXT).unwrap();
        assert_eq!((id[0], id[15]), (0x0b, 0x0f));
        assert_eq!(write(&id), TEXT);
    }

    #[test]
    fn other_ways_to_write_it_are_no_ids() {
        for text in [
            "",
            "0B5f6c6e-0a00-4000-8000-00000000000f",
            "0b5f6c6e0a0040008000-00000000000f----",
            "0b5f6c6e-0a00-4000-8000-00000000000f ",
            "0b5f6c6-e0a00-4000-8000-00000000000f",
            "{b5f6c6e-0a00-4000-8000-00000000000f",
            "0b5f6c6e-0a00-4000-8000-0000000000\u{e9}",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
