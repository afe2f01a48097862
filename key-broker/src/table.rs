//! Answers for people: lists of objects become tables, an object becomes lines of name and value.

use serde_json::Value;

/// Wider columns are not filled up: one long value would push all others off the screen.
const MAX_WIDTH: usize = 80;

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.chars().map(escaped).collect(),
        Value::Array(values) if values.is_empty() => "-".into(),
        other => other.to_string().chars().map(escaped).collect(),
    }
}

/// What a terminal would obey is shown instead.
fn escaped(character: char) -> String {
    let is_plain = character == ' ' || character.is_ascii_graphic();
    if is_plain { character.to_string() } else { character.escape_default().to_string() }
}

/// As text, with a final newline.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Array(rows) if rows.is_empty() => "nothing\n".into(),
        Value::Array(rows) => table(rows),
        Value::Object(fields) => {
            let width = fields.keys().map(String::len).max().unwrap_or(0);
            fields.iter().map(|(name, value)| format!("{name:width$}  {}\n", text(value))).collect()
        }
        other => format!("{}\n", text(other)),
    }
}

fn table(rows: &[Value]) -> String {
    let names: Vec<&String> =
        rows.first().and_then(Value::as_object).map(|row| row.keys().collect()).unwrap_or_default();
    let mut lines: Vec<Vec<String>> = vec![names.iter().map(|name| name.to_uppercase()).collect()];
    lines.extend(rows.iter().map(|row| names.iter().map(|name| text(&row[name.as_str()])).collect()));
    let widths: Vec<usize> = (0..names.len())
        .map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0).min(MAX_WIDTH))
        .collect();
    let line = |cells: &Vec<String>| {
        let cells: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    lines.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_become_tables_and_objects_become_lines() {
        let rows = json!([{"node": "web-1", "seen": null}, {"node": "a", "seen": "now"}]);
        assert_eq!(shown(&rows), "NODE   SEEN\nweb-1  -\na      now\n");
        assert_eq!(shown(&json!({"code": "HOLD", "next": 1})), "code  HOLD\nnext  1\n");
        assert_eq!(shown(&json!([])), "nothing\n");
    }

    #[test]
    fn values_of_any_length_and_content_are_shown_without_control_characters() {
        for value in ["x".repeat(1 << 20), "\u{1b}]0;owned\u{7}\r\n\t".repeat(9000), "\u{202e}\u{fe0f}\u{0}".into()] {
            for shown in [shown(&json!([{"found": value, "node": "a"}])), shown(&json!({"found": value}))] {
                assert!(shown.bytes().all(|byte| byte == b'\n' || byte == b' ' || byte.is_ascii_graphic()));
                assert!(shown.lines().count() <= 2, "a value is one line");
            }
        }
    }
}
