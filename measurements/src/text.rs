//! Text of files and peers, before it is stored or printed. A terminal executes escape codes, and parsers quote names of unknown fields as they are.

use std::fmt;

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

/// The text of `value` in its alternate form (`{:#}`: an error with its causes), with every character escaped that is not printable, except line feeds and tabs. It has any length.
pub fn for_terminal(value: impl fmt::Display) -> String {
    let is_kept = |character: char| matches!(character, '\n' | '\t' | '\'' | '"' | '\\');
    let mut shown = String::new();
    for character in format!("{value:#}").chars() {
        if is_kept(character) { shown.push(character) } else { shown.extend(character.escape_debug()) }
    }
    shown
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
    fn text_for_a_terminal_keeps_lines_and_letters_and_no_control_character() {
        let plain = "cannot read \"f\u{fc}r.json\" ('x' \\ y):\tcause\nhint: run it again \u{2014}";
        assert_eq!(for_terminal(plain), plain);
        assert_eq!(for_terminal("\u{1b}[2J\r\u{7f}\u{9b}1m\u{202e}x"), "\\u{1b}[2J\\r\\u{7f}\\u{9b}1m\\u{202e}x");
        let all: String = (0..=0x2fff_u32).filter_map(char::from_u32).collect();
        let is_control = |character: char| character.is_control() && !"\n\t".contains(character);
        assert!(!for_terminal(all).contains(is_control));
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
