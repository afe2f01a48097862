//! JSON in place of a log: systemd's log of user space, or a document that has a log in one of its fields (as that of go-attestation has).

use serde_json::Value;

use super::log_kind::{Kind, READ, kind, to_log};

/// How the base64 of a log begins: register 0 or, of a CC event log, 1; then the type EV_NO_ACTION, EV_S_CRTM_VERSION or EV_POST_CODE.
const LOG_STARTS: [&str; 4] = ["AAAAAAMAAA", "AQAAAAMAAA", "AAAAAAgAAA", "AAAAAAEAAA"];

/// What the JSON is, if the file is JSON.
pub(super) fn of(text: &str) -> Option<Kind> {
    if !text.starts_with(['\u{1e}', '{', '[']) {
        return None;
    }
    let field = serde_json::from_str::<Value>(text).ok().and_then(|value| field_of_log(&value));
    Some(match field {
        Some(path) => {
            let hint = to_log(&format!("jq -r '{path}' FILE | base64 -d"));
            ("it is JSON that has a log in base64 in one of its fields".into(), hint)
        }
        None if is_cel(text) => kind("it is a log in JSON, as systemd keeps of user space (CEL-JSON)", READ),
        None => kind("it is JSON, not an event log", READ),
    })
}

/// A sequence of records (RFC 7464), or one record, of a register and its digests.
fn is_cel(text: &str) -> bool {
    text.starts_with('\u{1e}') || (text.contains("\"pcr\"") && text.contains("\"digests\""))
}

/// Path of the first field that seems to be a log, as `jq` takes it.
fn field_of_log(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => LOG_STARTS.iter().any(|start| text.starts_with(start)).then(String::new),
        Value::Object(fields) => fields.iter().filter(|(name, _)| is_plain(name)).find_map(|(name, value)| {
            let rest = field_of_log(value)?;
            Some(format!(".{name}{rest}"))
        }),
        Value::Array(values) => {
            values.iter().enumerate().find_map(|(index, value)| Some(format!("[{index}]{}", field_of_log(value)?)))
        }
        _ => None,
    }
}

/// Whether a name needs no quotes, in `jq` and in a shell.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_with_a_log_is_named_and_other_json_is_not_taken_for_a_log() {
        let log = format!("AAAAAAMAAAAA{}", "AAAA".repeat(20));
        let found = |text: &str| of(text).map(|(name, hint)| format!("{name}: {hint}")).unwrap_or_default();
        let nested = found(&format!("{{\"AK\":1,\"Log\":{{\"Raw\":\"{log}\"}}}}"));
        assert!(nested.contains("in one of its fields") && nested.contains("jq -r '.Log.Raw' FILE"), "{nested}");
        assert!(found(&format!("[{{\"a\":\"{log}\"}}]")).contains("jq -r '[0].a' FILE"));
        let quoted = found(&format!("{{\"it's; $(x)\":\"{log}\"}}"));
        assert!(quoted.contains("not an event log") && !quoted.contains("$("), "{quoted}");
        for cel in ["\u{1e}{\"pcr\":11}", "{\"pcr\":11,\"digests\":[]}", "[{\"pcr\":11,\"digests\":[]}]"] {
            assert!(found(cel).contains("CEL-JSON"), "{cel}");
        }
        assert!(found("{\"policy\":[{\"pcrs\":[{\"pcr\":16,\"digest\":\"00\"}]}]}").contains("JSON, not an event log"));
        assert_eq!(of("text"), None);
    }
}
