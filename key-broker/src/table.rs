//! Answers as text: lists of objects become tables, an object becomes lines of name and value. Time and node come first, long values last, and a table is as wide as the terminal at most.

use serde_json::{Map, Value};

/// Wider columns are not filled up: one long value would push all others off the screen.
const MAX_WIDTH: usize = 80;
/// Narrower columns cannot be read: a table that needs more stays wider than the terminal.
const MIN_WIDTH: usize = 8;
const GAP: usize = 2;
/// End of a value that was cut.
const CUT: &str = "..";
const CUT_HINT: &str = "hint: add --json for whole values\n";

/// Fields in this order come first.
const FIRST: [&str; 17] = [
    "time",
    "node",
    "request",
    "state",
    "waiting_for",
    "code",
    "waiting",
    "waiting_request",
    "slot",
    "disk",
    "generation",
    "committed",
    "name",
    "release",
    "verdict",
    "seen",
    "number",
];
/// Fields in this order come last: their values are long.
const LAST: [&str; 9] = ["machine", "bank", "ek", "found", "meaning", "next", "event_log", "warning", "hint"];

fn place(name: &str) -> usize {
    let at = |names: &[&str]| names.iter().position(|known| *known == name);
    match (at(&FIRST), at(&LAST)) {
        (Some(place), _) => place,
        (_, Some(place)) => FIRST.len() + 1 + place,
        _ => FIRST.len(),
    }
}

/// Names of fields in the order in which they are shown.
fn ordered(fields: &Map<String, Value>) -> Vec<&String> {
    let mut names: Vec<_> = fields.keys().collect();
    names.sort_by_key(|name| (place(name), name.as_str()));
    names
}

/// A field's name as people read it.
fn label(name: &str) -> String {
    name.replace('_', " ")
}

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

/// As text, with a final newline. `columns` is the width of the terminal, if the output is one.
pub fn shown(value: &Value, columns: Option<usize>) -> String {
    match value {
        Value::Array(rows) if rows.is_empty() => "nothing\n".into(),
        Value::Array(rows) => table(rows, columns),
        Value::Object(fields) => {
            let width = fields.keys().map(String::len).max().unwrap_or(0);
            let line = |name: &String| format!("{:width$}  {}\n", label(name), text(&fields[name.as_str()]));
            ordered(fields).into_iter().map(line).collect()
        }
        other => format!("{}\n", text(other)),
    }
}

/// Columns of the terminal that is the standard output.
pub fn terminal_columns() -> Option<usize> {
    let stdout = std::io::stdout();
    let size = std::io::IsTerminal::is_terminal(&stdout).then(|| rustix::termios::tcgetwinsize(&stdout).ok())??;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

fn table(rows: &[Value], columns: Option<usize>) -> String {
    let names: Vec<&String> = rows.first().and_then(Value::as_object).map(ordered).unwrap_or_default();
    let mut lines: Vec<Vec<String>> = vec![names.iter().map(|name| label(name).to_uppercase()).collect()];
    lines.extend(rows.iter().map(|row| names.iter().map(|name| text(&row[name.as_str()])).collect()));
    let full: Vec<usize> =
        (0..names.len()).map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0)).collect();
    let (widths, is_cut) = match columns {
        Some(columns) => fitted(&full, columns),
        None => (full.iter().map(|width| (*width).min(MAX_WIDTH)).collect(), false),
    };
    let line = |cells: &Vec<String>| {
        let cells = cells.iter().zip(&widths).map(|(cell, width)| {
            let cell = if is_cut && cell.len() > *width { cut(cell, *width) } else { cell.clone() };
            format!("{cell:width$}")
        });
        format!("{}\n", cells.collect::<Vec<_>>().join(&" ".repeat(GAP)).trim_end())
    };
    let text: String = lines.iter().map(line).collect();
    if is_cut { text + CUT_HINT } else { text }
}

/// Cells are ASCII.
fn cut(cell: &str, width: usize) -> String {
    format!("{}{CUT}", &cell[..width.saturating_sub(CUT.len())])
}

/// Widths that fit into the columns of a terminal, and whether values must be cut for them: the widest column loses first.
fn fitted(full: &[usize], columns: usize) -> (Vec<usize>, bool) {
    let mut widths = full.to_vec();
    let gaps = GAP * full.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > columns {
        match widths.iter_mut().filter(|width| **width > MIN_WIDTH).max() {
            Some(widest) => *widest -= 1,
            None => break,
        }
    }
    let is_cut = widths != full;
    (widths, is_cut)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_become_tables_and_objects_become_lines() {
        let rows = json!([{"node": "web-1", "seen": null}, {"node": "a", "seen": "now"}]);
        assert_eq!(shown(&rows, None), "NODE   SEEN\nweb-1  -\na      now\n");
        assert_eq!(shown(&json!({"code": "HOLD", "next": 1}), None), "code  HOLD\nnext  1\n");
        assert_eq!(shown(&json!([]), None), "nothing\n");
    }

    #[test]
    fn time_and_node_come_first_and_long_values_last() {
        let leaf =
            json!([{"code": "c", "found": "f", "node": "n", "number": 1, "request": "r", "time": "t", "x_y": 2}]);
        let names = "TIME  NODE  REQUEST  CODE  NUMBER  X Y  FOUND\n";
        assert!(shown(&leaf, None).starts_with(names), "{}", shown(&leaf, None));
        assert!(shown(&leaf[0], None).starts_with("time     t\nnode     n\n"), "{}", shown(&leaf[0], None));
    }

    #[test]
    fn table_is_as_wide_as_the_terminal_and_says_that_it_was_cut() {
        let rows = json!([{"node": "web-1", "ek": "e".repeat(64), "found": "f".repeat(200)}]);
        for columns in [40, 80, 132] {
            let text = shown(&rows, Some(columns));
            assert!(text.lines().all(|line| line.len() <= columns), "{text}");
            assert!(text.contains("web-1") && text.contains("..") && text.ends_with(CUT_HINT), "{text}");
        }
        let text = shown(&rows, Some(300));
        assert_eq!(text, shown(&rows, None), "a wide terminal cuts nothing");
        assert!(text.contains(&"f".repeat(200)));
        // Narrower than the narrowest columns: wider than the terminal, but readable.
        assert!(shown(&rows, Some(3)).lines().all(|line| line.len() <= 40));
    }

    #[test]
    fn values_of_any_length_and_content_are_shown_without_control_characters() {
        for value in ["x".repeat(1 << 20), "\u{1b}]0;owned\u{7}\r\n\t".repeat(9000), "\u{202e}\u{fe0f}\u{0}".into()] {
            for shown in [shown(&json!([{"found": value, "node": "a"}]), None), shown(&json!({"found": value}), None)] {
                assert!(shown.bytes().all(|byte| byte == b'\n' || byte == b' ' || byte.is_ascii_graphic()));
                assert!(shown.lines().count() <= 2, "a value is one line");
            }
        }
    }
}
