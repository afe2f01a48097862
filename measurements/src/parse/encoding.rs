//! Binary files that were stored as text, known by their first characters, so that a refusal names the command that gives the binary file.

/// A form of text that stands for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// Noun phrase.
    pub name: &'static str,
    /// The command that prints the bytes of `FILE`.
    pub command: &'static str,
}

const HEXADECIMAL: Encoding = Encoding { name: "hexadecimal text", command: "xxd -r -p FILE" };
const XXD: Encoding = Encoding { name: "a dump of xxd", command: "xxd -r FILE" };
const BASE64: Encoding = Encoding { name: "text in base64", command: "base64 -d FILE" };

/// Characters that are enough to recognize an encoding.
const RECOGNIZED_CHARS: usize = 256;
/// Fewer characters may be a word or a number.
const MIN_CHARS: usize = 40;

/// The encoding of a file, if it is one of these.
pub fn encoding(bytes: &[u8]) -> Option<Encoding> {
    let start = bytes.trim_ascii_start();
    let start = std::str::from_utf8(start.get(..RECOGNIZED_CHARS).unwrap_or(start)).ok()?;
    let is_hex = |word: &str| word.bytes().all(|byte| byte.is_ascii_hexdigit());
    if start.split_once(": ").is_some_and(|(offset, _)| offset.len() == 8 && is_hex(offset)) {
        return Some(XXD);
    }
    if start.len() < MIN_CHARS {
        return None;
    }
    let mut words = start.strip_prefix("0x").unwrap_or(start).split_ascii_whitespace();
    if words.clone().all(is_hex) {
        return Some(HEXADECIMAL);
    }
    // Lines, not words: no other character separates base64.
    let is_base64 =
        |word: &str| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='));
    let is_one_line = words.next().is_some_and(|word| word.len() >= MIN_CHARS) && !start.contains([' ', '\t']);
    (is_one_line && start.split_ascii_whitespace().all(is_base64)).then_some(BASE64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_stands_for_bytes_is_named_and_other_text_is_not() {
        let name = |text: &str| encoding(text.as_bytes()).map(|found| found.name);
        assert_eq!(name(&"0a1B".repeat(20)), Some("hexadecimal text"));
        assert_eq!(name(&format!("0x{}", "0a1b".repeat(20))), Some("hexadecimal text"));
        assert_eq!(name(&"00 01 ff\n".repeat(20)), Some("hexadecimal text"));
        assert_eq!(name("00000000: 0000 0000 0300 0000  ................\n"), Some("a dump of xxd"));
        assert_eq!(name(&format!("\n{}\n{}==", "AAMx".repeat(19), "Zz+/")), Some("text in base64"));
        let ima = format!("10 {} ima-ng sha256:00 boot_aggregate\n", "ab".repeat(20));
        for other in ["", "hello", "0123", "some words that are longer than forty characters", &ima] {
            assert_eq!(name(other), None, "{other}");
        }
        assert_eq!(encoding(&[0xff; 64]), None);
    }
}
