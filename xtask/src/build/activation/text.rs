//! Lines of the configuration files that activate something, as their readers join and drop them.

use anyhow::{Context, Result};
use cairn_image::tree::{Entry, Kind, Tree};

/// More links than the kernel follows.
const MOST_LINKS: usize = 40;

/// The text of a file, also of one that a link names. Directories have none, nor has what is masked, or is not in the root: such a link is listed with its target.
pub fn read(tree: &Tree, path: &str, entry: &Entry) -> Result<String> {
    match target(tree, path, entry) {
        Target::Entry(path, entry) => content(&path, entry),
        Target::Masked | Target::Outside => Ok(String::new()),
    }
}

/// What a path is once all links are followed.
pub enum Target<'a> {
    /// This entry, at this path.
    Entry(String, &'a Entry),
    /// `/dev/null`.
    Masked,
    /// Nothing in the root.
    Outside,
}

/// Follows links.
pub fn target<'a>(tree: &'a Tree, path: &str, entry: &'a Entry) -> Target<'a> {
    let (mut at, mut entry) = (path.to_owned(), entry);
    for _ in 0..MOST_LINKS {
        let Kind::Symlink(target) = &entry.kind else { return Target::Entry(at, entry) };
        if target == "/dev/null" {
            return Target::Masked;
        }
        at = joined_path(&at, target);
        // `/lib` and its like are links themselves.
        if let Some((first, rest)) = at.split_once('/')
            && let Some(Kind::Symlink(folder)) = tree.get(first).map(|entry| &entry.kind)
        {
            at = format!("{}/{rest}", folder.trim_start_matches('/'));
        }
        let Some(next) = tree.get(&at) else { return Target::Outside };
        entry = next;
    }
    Target::Outside
}

/// The path that a link at `path` leads to, without `.` and `..`.
fn joined_path(path: &str, target: &str) -> String {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let whole = if target.starts_with('/') { target.to_owned() } else { format!("{folder}/{target}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

fn content(path: &str, entry: &Entry) -> Result<String> {
    let Kind::File { content, .. } = &entry.kind else { return Ok(String::new()) };
    let bytes = content.read().with_context(|| format!("Failed to read /{path}"))?;
    String::from_utf8(bytes).with_context(|| format!("/{path} is not UTF-8"))
}

/// Lines as systemd reads them: a comment ends with its line even if that ends with a backslash, and does not end the line that it interrupts. A line
/// goes on after a backslash that is its last byte and that no other backslash escapes.
pub fn unit_lines(text: &str) -> Vec<String> {
    let goes_on = |line: &str| line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1;
    joined(text.lines().map(str::trim_start), " ", goes_on).into_iter().map(|line| line.trim_end().to_owned()).collect()
}

/// Lines as udev reads them: the same, but for blanks at the end and escaped backslashes, which do not count.
pub fn rule_lines(text: &str) -> Vec<String> {
    joined(text.lines().map(str::trim), "", |line| line.ends_with('\\'))
}

/// `joint` is what stands between two joined lines.
fn joined<'a>(text: impl Iterator<Item = &'a str>, joint: &str, goes_on: impl Fn(&str) -> bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut begun: Option<String> = None;
    for line in text.filter(|line| !line.starts_with(['#', ';'])) {
        let goes_on = goes_on(line);
        let part = if goes_on { &line[..line.len() - 1] } else { line };
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
        assert_eq!(rule_lines(text), ["b", "c e"]);
        assert_eq!(unit_lines(text), ["b", "c  e"]);
        assert_eq!(joined_lines(text), ["c  # d", "e"]);
        assert_eq!((rule_lines("a\\"), unit_lines("a\\")), (vec!["a".into()], vec!["a".into()]));
    }

    #[test]
    fn line_of_a_unit_goes_on_after_a_backslash_that_is_not_escaped_and_is_its_last_byte() {
        assert_eq!(unit_lines("a\\\\\nb"), ["a\\\\", "b"]);
        assert_eq!(unit_lines("a\\ \nb"), ["a\\", "b"]);
        assert_eq!(unit_lines("a\\\\\\\nb"), ["a\\\\ b"]);
    }
}
