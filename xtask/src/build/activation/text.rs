//! Lines of the configuration files that activate something, as their readers join and drop them.

use anyhow::{Context, Result};
use cairn_image::tree::{Entry, Kind};

/// The text of a file. Other entries have none.
pub fn read(path: &str, entry: &Entry) -> Result<String> {
    let Kind::File { content, .. } = &entry.kind else { return Ok(String::new()) };
    let bytes = content.read().with_context(|| format!("Failed to read /{path}"))?;
    String::from_utf8(bytes).with_context(|| format!("/{path} is not UTF-8"))
}

/// Lines as udev and systemd read them: a comment ends with its line even if that ends with a backslash, and does not end the line that it
/// interrupts. `joint` is what stands between two joined lines.
pub fn lines_without_comments(text: &str, joint: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut begun: Option<String> = None;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        let (part, goes_on) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        let whole = begun.take().map_or_else(|| part.to_owned(), |start| format!("{start}{joint}{part}"));
        if goes_on {
            begun = Some(whole);
        } else {
            lines.push(whole);
        }
    }
    lines.extend(begun);
    lines
}

/// Lines as kmod reads them: joined first, so that a backslash continues a comment, too.
pub fn joined_lines(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", " ");
    text.lines().map(str::trim).filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comment_that_ends_with_a_backslash_hides_the_next_line_from_kmod_alone() {
        let text = "# a \\\nb\nc \\\n# d\n  e\n";
        assert_eq!(lines_without_comments(text, ""), ["b", "c e"]);
        assert_eq!(joined_lines(text), ["c  # d", "e"]);
        assert_eq!(lines_without_comments("a\\", ""), ["a"]);
    }
}
