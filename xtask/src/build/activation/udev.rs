//! Everything that rules of udev start, load, import, or write to the kernel (udev(7)).

use std::collections::BTreeSet;

use anyhow::Result;
use cairn_image::tree::Tree;

use super::text;

/// Properties by which a rule has systemd start a unit when the device appears (systemd.device(5)).
const WANTS: [&str; 2] = ["SYSTEMD_WANTS", "SYSTEMD_USER_WANTS"];

/// One `KEY{attribute}OPERATOR"value"` of a rule.
struct Token<'a> {
    key: &'a str,
    attribute: &'a str,
    is_assignment: bool,
    value: &'a str,
}

/// What all rules of a tree do, in the words of `os/activation.toml`.
pub fn found(tree: &Tree) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for_each_line(tree, |line| found.extend(effects(line)))?;
    Ok(found)
}

/// The units that rules name.
pub fn wanted_units(tree: &Tree) -> Result<BTreeSet<String>> {
    let mut units = BTreeSet::new();
    for_each_line(tree, |line| {
        let tokens = tokens(line).unwrap_or_default();
        for token in tokens.iter().filter(|token| token.key == "ENV" && WANTS.contains(&token.attribute)) {
            units.extend(token.value.split_whitespace().map(str::to_owned));
        }
    })?;
    Ok(units)
}

fn for_each_line(tree: &Tree, mut work: impl FnMut(&str)) -> Result<()> {
    for (path, entry) in tree.iter().filter(|(path, _)| path.ends_with(".rules") && path.contains("udev/rules.d/")) {
        text::rule_lines(&text::read(tree, path, entry)?).iter().for_each(|line| work(line));
    }
    Ok(())
}

/// `RUN+="/bin/x y"` is `/bin/x`; `RUN{builtin}+="kmod load z"` is `builtin kmod`; `ENV{SYSTEMD_WANTS}+="a.target"` is itself without the operator.
fn effects(line: &str) -> Vec<String> {
    let Some(tokens) = tokens(line) else { return vec![format!("unreadable: {line}")] };
    let effect = |token: &Token| {
        let Token { key, attribute, is_assignment, value } = *token;
        let word = value.split_whitespace().next().unwrap_or_default();
        match (key, attribute) {
            ("RUN", "" | "program") | ("IMPORT", "program") | ("PROGRAM", _) => Some(word.to_owned()),
            ("RUN" | "IMPORT", "builtin") => Some(format!("builtin {word}")),
            ("RUN" | "IMPORT", _) => Some(format!("{key}{{{attribute}}} {value}")),
            ("ENV", name) if is_assignment && WANTS.contains(&name) => Some(format!("{key}{{{name}}} {value}")),
            ("ATTR" | "SYSCTL", _) if is_assignment => Some(format!("{key}{{{attribute}}} {value}")),
            _ => None,
        }
    };
    tokens.iter().filter_map(effect).collect()
}

/// The tokens of a rule, as udev finds them: commas between them are optional. Nothing if udev could not read the line either.
fn tokens(line: &str) -> Option<Vec<Token<'_>>> {
    let mut tokens = Vec::new();
    let mut rest = skip(line);
    while !rest.is_empty() {
        let end = rest.find(|c: char| c.is_whitespace() || "={+-!:".contains(c))?;
        let (key, after) = rest.split_at(end);
        let (attribute, after) = match after.strip_prefix('{') {
            Some(after) => after.split_once('}')?,
            None => ("", after),
        };
        let after = after.trim_start();
        let operator = ["==", "!=", "+=", "-=", ":=", "="].into_iter().find(|operator| after.starts_with(operator))?;
        let after = after[operator.len()..].trim_start();
        // Prefixes: `e` for escapes of C, `i` for a match without case.
        let quoted = after.trim_start_matches(['e', 'i']).strip_prefix('"')?;
        let mut is_escaped = false;
        let end = quoted.find(|c| {
            let is_end = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            is_end
        })?;
        let is_assignment = !["==", "!="].contains(&operator);
        tokens.push(Token { key, attribute, is_assignment, value: &quoted[..end] });
        rest = skip(&quoted[end + 1..]);
    }
    Some(tokens)
}

fn skip(text: &str) -> &str {
    text.trim_start_matches(|c: char| c.is_whitespace() || c == ',')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_effect_of_a_rule_is_found_with_or_without_commas() {
        for (rule, expected) in [
            (r#"ACTION=="add", RUN+="/bin/x a, b", RUN{builtin}+="kmod load z""#, &["/bin/x", "builtin kmod"][..]),
            (r#"ACTION=="add" RUN+="/bin/x""#, &["/bin/x"]),
            (r#"A=="say \"x\", b"  RUN{program} = e"/bin/x""#, &["/bin/x"]),
            (r#"PROGRAM!="evil x""#, &["evil"]),
            (r#"IMPORT{program}="evil x""#, &["evil"]),
            (r#"IMPORT{builtin}=="hwdb --x""#, &["builtin hwdb"]),
            (r#"IMPORT{file}="/x y""#, &["IMPORT{file} /x y"]),
            (r#"IMPORT{cmdline}=="x""#, &["IMPORT{cmdline} x"]),
            (r#"IMPORT{db}="x", IMPORT{parent}="*""#, &["IMPORT{db} x", "IMPORT{parent} *"]),
            (r#"ENV{SYSTEMD_WANTS}="a b""#, &["ENV{SYSTEMD_WANTS} a b"]),
            (
                r#"ENV{SYSTEMD_WANTS}+="a", ENV{SYSTEMD_USER_WANTS}:="b""#,
                &["ENV{SYSTEMD_WANTS} a", "ENV{SYSTEMD_USER_WANTS} b"],
            ),
            (r#"ENV{SYSTEMD_WANTS}=="a", ENV{OTHER}="RUN=x""#, &[]),
            (r#"ATTR{loading}="-1", ATTR{x}=="1", SYSCTL{kernel.x}="2""#, &["ATTR{loading} -1", "SYSCTL{kernel.x} 2"]),
            (r#"RUN+=/bin/x"#, &["unreadable: RUN+=/bin/x"]),
        ] {
            assert_eq!(effects(rule), expected, "{rule}");
        }
    }
}
