//! The page for people: one file, no script, nothing fetched.

use std::fmt::Write as _;

use super::changes::{Change, Changes};
use super::differences::Difference;
use super::page::Page;
use crate::progress::megabytes;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1b1f23}\
h1{margin-bottom:0}h2{margin-top:2rem;border-bottom:1px solid #d0d7de}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.25rem .75rem .25rem 0;vertical-align:top;border-bottom:1px solid #eaeef2}\
code,pre{font:13px/1.5 ui-monospace,monospace;overflow-wrap:anywhere}pre{background:#f6f8fa;padding:.75rem;white-space:pre-wrap}\
.none{color:#656d76}@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}pre{background:#161b22}th,td{border-color:#30363d}}";

/// The page.
pub fn of(page: &Page) -> String {
    let title = escaped(&format!("{} {} ({})", page.id, page.version, page.variant));
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>\n<p>released {}, good in the channel <b>{}</b>, security epoch {}</p>\n",
        escaped(&page.released),
        escaped(&page.channel),
        page.epoch
    );
    section(&mut text, "What it is");
    table(
        &mut text,
        &["", ""],
        [
            ("sources", &page.revision),
            ("os/packages.lock", &page.lock),
            ("root hash", &page.root_hash),
            ("signer (SHA-256 of its public key)", &page.signer),
        ]
        .map(|(name, value)| vec![escaped(name), code(value)]),
    );
    section(&mut text, "What changed");
    match &page.changes {
        Some(changes) => changed(&mut text, changes),
        None => text.push_str("<p class=\"none\">No release before this one was named.</p>\n"),
    }
    section(&mut text, "Files");
    let rows = page.outputs.iter();
    let rows = rows.map(|(name, output)| vec![link(name), megabytes(output.size), code(&hex::encode(output.sha256.0))]);
    table(&mut text, &["file", "size", "SHA-256"], rows);
    section(&mut text, "What every machine measures of it");
    let rows = page.values.iter().flat_map(|(name, digests)| {
        digests.iter().map(move |(bank, digest)| vec![code(name), escaped(bank), code(digest)])
    });
    table(&mut text, &["value", "bank", "digest"], rows);
    section(&mut text, "How it booted");
    let trial = &page.trial;
    let _ = writeln!(
        text,
        "<p>On {} ({}): {:.2} s from PID 1 to the verified root, {:.1} s from power-on to the last target; every register was as predicted.</p>",
        code(&trial.machine),
        escaped(&trial.accelerator),
        trial.switch_root_ms as f64 / 1000.0,
        trial.multi_user_ms as f64 / 1000.0
    );
    section(&mut text, "Where it is logged");
    let rows = page.statements.iter().map(|logged| {
        vec![
            link(&logged.bundle),
            format!("entry {} of {}", logged.index, escaped(&logged.origin)),
            code(&logged.statement),
        ]
    });
    table(&mut text, &["bundle", "log", "SHA-256 of the statement"], rows);
    section(&mut text, "How to verify it");
    let links: Vec<String> = page.companions.iter().map(|name| link(name)).collect();
    let _ = writeln!(
        text,
        "<p>Beside this page: {}. The publisher may have renewed the channel since: ask for its newest state. Compare the trust root with one that you got by another way.</p>",
        links.join(", ")
    );
    let commands: Vec<String> = page.verify.iter().map(|command| escaped(command)).collect();
    let _ = writeln!(text, "<pre>{}</pre>\n</html>", commands.join("\n\n"));
    text
}

fn changed(text: &mut String, changes: &Changes) {
    let _ = writeln!(text, "<p>Since {}:</p>", escaped(&changes.previous));
    for (what, list) in [
        ("packages", &changes.packages),
        ("files of the root", &changes.files),
        ("registers (SHA-256)", &changes.registers),
        ("sizes in bytes", &changes.sizes),
    ] {
        let _ = writeln!(text, "<h3>{what}: {}</h3>", list.len());
        if list.is_empty() {
            text.push_str("<p class=\"none\">none</p>\n");
            continue;
        }
        let side =
            |side: &Option<String>| side.as_ref().map_or("<span class=\"none\">none</span>".into(), |side| code(side));
        let row = |change: &Change| vec![code(&change.name), side(&change.from), side(&change.to)];
        table(text, &["", "before", "now"], list.iter().map(row));
    }
    differences(text, &changes.differences);
}

/// Differences as text, each below the name of its file.
fn differences(text: &mut String, all: &[Difference]) {
    for Difference { name, text: difference, truncated } in all {
        let end = if *truncated { "\n(cut here)" } else { "" };
        let _ = writeln!(text, "<h4>{}</h4>\n<pre>{}{end}</pre>", code(name), escaped(difference));
    }
}

/// A file beside the page.
fn link(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-~".contains(&byte);
    let address: String = name
        .bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    format!("<a href=\"{address}\">{}</a>", code(name))
}

fn section(text: &mut String, title: &str) {
    let _ = writeln!(text, "<h2>{title}</h2>");
}

fn table(text: &mut String, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let cells =
        |kind: &str, row: &[String]| row.iter().map(|cell| format!("<{kind}>{cell}</{kind}>")).collect::<String>();
    text.push_str("<table>\n");
    if head.iter().any(|cell| !cell.is_empty()) {
        let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
        let _ = writeln!(text, "<tr>{}</tr>", cells("th", &head));
    }
    for row in rows {
        let _ = writeln!(text, "<tr>{}</tr>", cells("td", &row));
    }
    text.push_str("</table>\n");
}

fn code(text: &str) -> String {
    format!("<code>{}</code>", escaped(text))
}

/// Names of packages and files are not ours.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_becomes_markup() {
        assert_eq!(escaped("<script>\"&'"), "&lt;script&gt;&quot;&amp;&#39;");
        let mut text = String::new();
        let change = Change { from: None, name: "a<b>".into(), to: Some("\"1\"".into()) };
        let difference = Difference { name: "e<f>".into(), text: "+<b>new".into(), truncated: true };
        let changes = Changes {
            differences: vec![difference],
            files: vec![],
            packages: vec![change],
            previous: "0<1".into(),
            registers: vec![],
            sizes: vec![],
        };
        changed(&mut text, &changes);
        text += &link("a\"b#.raw");
        for (shown, hidden) in [
            ("Since 0&lt;1", "0<1"),
            ("<code>a&lt;b&gt;</code>", "a<b>"),
            ("packages: 1", "packages: 0"),
            ("<h4><code>e&lt;f&gt;</code></h4>\n<pre>+&lt;b&gt;new\n(cut here)</pre>", "<b>new"),
            ("<a href=\"a%22b%23.raw\"><code>a&quot;b#.raw</code></a>", "a\"b#"),
        ] {
            assert!(text.contains(shown) && !text.contains(hidden), "{text}");
        }
    }
}
