//! Output blocks of documents, compared with what programs print: digests, numbers and directories are placeholders, words are not.
//!
//! A block is a fenced `console` block. A command is a line that begins with `$ `; the lines below it, up to the next command, are its output. A line in round brackets says what was left out.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The output of this command in a document of the checkout, line by line, as the document has it.
///
/// # Errors
/// No block has this command with an output.
pub fn output_in(document: &str, command: &str) -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(document);
    let text = fs::read_to_string(&path).with_context(|| format!("Failed to read {document}"))?;
    let found = below(&text, command);
    ensure!(!found.is_empty(), "{document} has no output of `{command}`: was the command changed there?");
    Ok(found)
}

fn below(text: &str, command: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut is_console, mut is_output) = (false, false);
    for line in text.lines() {
        if let Some(fence) = line.strip_prefix("```") {
            (is_console, is_output) = (fence == "console", false);
        } else if let Some(given) = line.strip_prefix("$ ").filter(|_| is_console) {
            is_output = given.split(" #").next().is_some_and(|given| given.trim_end() == command);
        } else if is_output && !line.trim().is_empty() && !(line.trim().starts_with('(') && line.ends_with(')')) {
            found.push(line.to_owned());
        }
    }
    found
}

/// Every line of the document's output of this command is a line of what was printed, but for placeholders.
///
/// # Errors
/// The first line that was not printed.
pub fn must_be_printed(document: &str, command: &str, printed: &str) -> Result<()> {
    let lines: Vec<Vec<String>> = printed.lines().map(words).collect();
    for line in output_in(document, command)? {
        let expected = words(&line);
        ensure!(
            lines.iter().any(|line| is_same(&expected, line)),
            "{document} shows below `{command}` a line that is not printed: {line:?}\nprinted:\n{printed}"
        );
    }
    Ok(())
}

fn is_same(document: &[String], printed: &[String]) -> bool {
    let name = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
    // Directories are those of the reader.
    let is_word = |(one, other): (&String, &String)| {
        one == other || (one.contains('/') && other.contains('/') && name(one) == name(other))
    };
    document.len() == printed.len() && document.iter().zip(printed).all(is_word)
}

/// The words of a line, with placeholders.
fn words(line: &str) -> Vec<String> {
    // The kernel pads its times.
    let mut words = line.split_whitespace();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let rest = if word == "[" { words.next().unwrap_or_default() } else { "" };
        found.push(placeholders(&format!("{word}{rest}")));
    }
    found
}

/// Hexadecimal digits of the shortest digest or id that a document has.
const MIN_DIGEST: usize = 8;

/// `#` for digests, ids and numbers.
fn placeholders(word: &str) -> String {
    let bytes = word.as_bytes();
    let (mut text, mut at) = (String::new(), 0);
    while at < bytes.len() {
        let run = |is: fn(&u8) -> bool| bytes[at..].iter().take_while(|byte| is(byte)).count();
        let hex = run(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte) || *byte == b'-');
        let number = run(|byte| byte.is_ascii_digit() || *byte == b'.');
        // A number inside of a word is part of a name; behind the T of RFC 3339 it is one of a time.
        let begins = at == 0 || !bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'T';
        let length = match begins {
            true if hex >= MIN_DIGEST => hex,
            true if bytes[at].is_ascii_digit() => number,
            _ => 0,
        };
        if length > 0 {
            text.push('#');
            at += length;
            // A digest that the document cut short.
            at += if bytes[at..].starts_with(b"...") { 3 } else { 0 };
        } else {
            let length = word[at..].chars().next().map_or(1, char::len_utf8);
            text.push_str(&word[at..at + length]);
            at += length;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "text\n```console\n$ one --a   # a note\nfound  sha256:0123456789abcdef\n   (and so on)\n\n$ two\nlast\n```\n$ one --a\nno block\n";

    #[test]
    fn output_below_a_command_ends_with_its_block_or_the_next_command() {
        assert_eq!(below(TEXT, "one --a"), ["found  sha256:0123456789abcdef"]);
        assert_eq!(below(TEXT, "two"), ["last"]);
        assert!(below(TEXT, "one").is_empty());
    }

    #[test]
    fn digests_numbers_and_directories_are_placeholders_and_words_are_not() {
        let is_same = |one: &str, other: &str| is_same(&words(one), &words(other));
        for (one, other) in [
            ("found  sha256:0123456789abcdef", "found sha256:fedcba9876543210"),
            (
                "[    9.368161] disk 4b3803df-e5ad-41b4-a829-a56eb68040ca, after 41.4 s",
                "[10.2] disk 00000000-e5ad-41b4-a829-a56eb68040ca, after 9 s",
            ),
            ("ek sha256:262023ab...", "ek sha256:fedcba9876543210"),
            ("target/releases/a.html", "/tmp/x/a.html"),
            ("at 2026-11-28T08:00:00Z", "at 2027-01-02T03:04:05Z"),
        ] {
            assert!(is_same(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("state disk is open", "state disk is shut"),
            ("found sha256:0123456789abcdef", "found sha384:0123456789abcdef"),
            ("target/a.html", "target/b.html"),
            ("one", "one more"),
            ("", "one"),
        ] {
            assert!(!is_same(one, other), "{one} {other}");
        }
    }
}
