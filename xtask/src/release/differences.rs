//! Text differences of files of the root that changed between two releases. Bounded in files, in bytes of a file, and in bytes of all differences: a release that changes everything still has a page.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use similar::TextDiff;

use super::changes::Change;
use crate::difference::Outputs;
use crate::sandbox::Sandbox;

/// Maximum number of files whose content is read.
const MAX_FILES: usize = 64;
/// Maximum size of a file.
const MAX_FILE_BYTES: usize = 64 << 10;
/// Maximum size of one difference.
const MAX_DIFFERENCE_BYTES: usize = 16 << 10;
/// Maximum size of all differences.
const MAX_BYTES: usize = 256 << 10;
/// Prints the content of each file as a line of base64; an empty line for what is not a small file.
const CONTENTS: &str = "fsck.erofs --extract=/tmp/tree /tmp/file >/dev/null 2>&1; cd /tmp/tree; most=$1; shift; \
                        for path in \"$@\"; do if [ -f \"./$path\" ] && [ ! -L \"./$path\" ] && \
                        [ \"$(stat -c %s -- \"./$path\")\" -le \"$most\" ]; then printf '='; base64 -w0 -- \"./$path\"; fi; echo; done";

/// How the text of a file changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Path in the root.
    pub name: String,
    /// Unified difference; its end is missing where `truncated` is set.
    pub text: String,
    /// Whether the limit of one difference was reached.
    pub truncated: bool,
}

/// The differences of these changed files, as far as both sides are text and the limits allow.
pub fn of(sandbox: &Sandbox, old: &Outputs, new: &Outputs, files: &[Change]) -> Result<Vec<Difference>> {
    // The digest is the last word of a file's description; a change of mode or time alone has no difference.
    let digest =
        |side: &Option<String>| side.as_ref().and_then(|text| text.rsplit_once("sha256 ").map(|(_, d)| d.to_owned()));
    let has_changed = |change: &&Change| {
        let (from, to) = (digest(&change.from), digest(&change.to));
        from.is_some() && to.is_some() && from != to
    };
    let names: Vec<&str> = files.iter().filter(has_changed).map(|change| &*change.name).take(MAX_FILES).collect();
    if names.is_empty() {
        return Ok(vec![]);
    }
    let (old, new) = (contents(sandbox, old, &names)?, contents(sandbox, new, &names)?);
    Ok(bounded(&names, &old, &new))
}

fn bounded(names: &[&str], old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut room = MAX_BYTES;
    for name in names {
        let (Some(old), Some(new)) = (old.get(*name), new.get(*name)) else { continue };
        let mut text = TextDiff::from_lines(old, new).unified_diff().context_radius(3).to_string();
        let truncated = text.len() > MAX_DIFFERENCE_BYTES;
        text.truncate(text.floor_char_boundary(MAX_DIFFERENCE_BYTES));
        let Some(left) = room.checked_sub(text.len()) else { break };
        room = left;
        differences.push(Difference { name: (*name).to_owned(), text, truncated });
    }
    differences
}

/// Contents of those files that are small and UTF-8.
fn contents(sandbox: &Sandbox, outputs: &Outputs, names: &[&str]) -> Result<BTreeMap<String, String>> {
    let sandbox = sandbox.clone().bind_read_only(&outputs.file("root.erofs"), "/tmp/file");
    let most = MAX_FILE_BYTES.to_string();
    let words = ["-c", CONTENTS, "sh", &most].into_iter().chain(names.iter().copied());
    let output = sandbox.command("sh").args(words).output().context("cannot unpack root.erofs")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    ensure!(
        output.status.success() && lines.len() == names.len(),
        "cannot unpack {}: {}",
        outputs.file("root.erofs").display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let decoded = |line: &str| String::from_utf8(STANDARD.decode(line.strip_prefix('=')?).ok()?).ok();
    let text = names.iter().zip(lines).filter_map(|(name, line)| Some(((*name).to_owned(), decoded(line)?)));
    Ok(text.filter(|(_, content)| !content.contains('\0')).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_bounded_in_bytes_and_say_where_they_were_cut() {
        let lines = |word: &str| (0..4000).map(|line| format!("{word} {line}\n")).collect::<String>();
        let names: Vec<String> = (0..40).map(|number| format!("etc/{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let all = |word: &str| names.iter().map(|name| ((*name).to_owned(), lines(word))).collect();
        let found = bounded(&names, &all("before"), &all("after"));
        assert!(found.iter().all(|one| one.truncated && one.text.len() <= MAX_DIFFERENCE_BYTES));
        assert!(found.iter().map(|one| one.text.len()).sum::<usize>() <= MAX_BYTES && found.len() == 16);
    }

    #[test]
    fn changed_line_is_shown_with_its_neighbours() {
        let one = |text: &str| BTreeMap::from([("etc/hosts".to_owned(), text.to_owned())]);
        let found = bounded(&["etc/hosts", "bin/sh"], &one("a\nb\nc\n"), &one("a\nx\nc\n"));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].text, "@@ -1,3 +1,3 @@\n a\n-b\n+x\n c\n");
        assert!(!found[0].truncated);
    }
}
