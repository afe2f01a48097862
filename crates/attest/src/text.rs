//! Text that somebody else wrote, before it is stored or shown: bounded, and printable ASCII alone, so that it neither fills a disk nor speaks to a terminal.

/// More than any sentence of ours; longer text is cut.
pub const MAX_TEXT_BYTES: usize = 400;

/// `text` with everything but printable ASCII escaped as in Rust (`\u{1b}`), at most [`MAX_TEXT_BYTES`] bytes long; what was cut is marked by three dots.
pub fn printable(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        let is_plain = character == ' ' || character.is_ascii_graphic();
        let start = shown.len();
        if is_plain {
            shown.push(character)
        } else {
            shown.extend(character.escape_default())
        }
        if shown.len() > MAX_TEXT_BYTES {
            shown.truncate(start.min(MAX_TEXT_BYTES - 3));
            shown.push_str("...");
            break;
        }
    }
    shown
}

/// An error without its hint, which is for whoever gave the file, and not for an operator of the broker.
pub fn cause_of(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    text.split_once("\nhint: ").map_or(text.as_str(), |(cause, _)| cause).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_is_an_error_without_its_hint() {
        assert_eq!(cause_of(&"event 1 cannot be read\nhint: copy the log again"), "event 1 cannot be read");
        assert_eq!(cause_of(&"event 1 cannot be read"), "event 1 cannot be read");
    }

    #[test]
    fn text_is_printable_and_bounded() {
        assert_eq!(printable("PCR 4: it is \"x\" \\ ~"), "PCR 4: it is \"x\" \\ ~");
        assert_eq!(printable("\u{1b}]0;owned\u{7}\n\u{e9}"), "\\u{1b}]0;owned\\u{7}\\n\\u{e9}");
        for long in ["x".repeat(1 << 20), "\u{1b}".repeat(1 << 18), "\u{10ffff}".repeat(100)] {
            let shown = printable(&long);
            assert!(shown.len() <= MAX_TEXT_BYTES && shown.ends_with("..."), "{}", shown.len());
            assert!(shown.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
        }
        assert_eq!(printable(&"x".repeat(MAX_TEXT_BYTES)).len(), MAX_TEXT_BYTES);
        assert_eq!(printable(&printable(&"\u{1b}".repeat(1000))), printable(&"\u{1b}".repeat(1000)), "twice is once");
    }
}
