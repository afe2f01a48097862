//! The mutation table: every field of bundle, envelope, proof, head, statement, trust root and channel is changed one at a time, and each change gets its own code.
//!
//! Each part has two tables. In the first nobody signs the change. In the second everybody signs whatever the publisher says, so that what is refused is the content. A field without a row fails its test.

#![allow(clippy::unwrap_used, clippy::panic)]

mod bundle;
mod channel;
#[path = "../fake/mod.rs"]
mod fake;
mod head;
mod statement;
mod time;
mod trust_root;

use std::collections::BTreeSet;

use serde_json::Value;
use transparency::Code;

/// Pointers of all fields that hold no others.
fn leaves(value: &Value) -> BTreeSet<String> {
    let within = |key: String, value: &Value| leaves(value).into_iter().map(move |rest| format!("/{key}{rest}"));
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            fields.iter().flat_map(|(key, value)| within(key.clone(), value)).collect()
        }
        Value::Array(all) if !all.is_empty() => {
            all.iter().enumerate().flat_map(|(number, value)| within(number.to_string(), value)).collect()
        }
        _ => BTreeSet::from([String::new()]),
    }
}

/// Pointers of all objects.
fn objects(value: &Value) -> Vec<String> {
    let within = |key: String, value: &Value| objects(value).into_iter().map(move |rest| format!("/{key}{rest}"));
    match value {
        Value::Object(fields) => {
            let own = std::iter::once(String::new());
            own.chain(fields.iter().flat_map(|(key, value)| within(key.clone(), value))).collect()
        }
        Value::Array(all) => {
            all.iter().enumerate().flat_map(|(number, value)| within(number.to_string(), value)).collect()
        }
        _ => Vec::new(),
    }
}

/// With another value in one field.
fn with(value: &Value, pointer: &str, new: impl Into<Value>) -> Value {
    let mut changed = value.clone();
    let field = changed.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer} is not there"));
    let new = new.into();
    assert_ne!(*field, new, "{pointer} does not change");
    *field = new;
    changed
}

/// Without one field.
fn without(value: &Value, pointer: &str) -> Value {
    let mut changed = value.clone();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match changed.pointer_mut(parent).unwrap() {
        Value::Object(fields) => fields.remove(name).map(drop).unwrap(),
        Value::Array(all) => drop(all.remove(name.parse().unwrap())),
        other => panic!("{other}"),
    }
    changed
}

/// Another text of the same form: the first letter or digit behind `from` is another one.
fn other_text(text: &str, from: usize) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    letters[from] = if letters[from] == '1' { '2' } else { '1' };
    letters.into_iter().collect()
}

/// Every field has a row.
fn assert_complete<'a>(value: &Value, rows: impl Iterator<Item = &'a str>) {
    let rows: BTreeSet<String> = rows.map(str::to_owned).collect();
    assert_eq!(rows, leaves(value));
}

/// What a check says, as a row has it.
fn code<T>(result: Result<T, transparency::Refusal>) -> Option<Code> {
    result.err().map(|refusal| {
        assert!(!refusal.found.is_empty());
        refusal.code
    })
}
