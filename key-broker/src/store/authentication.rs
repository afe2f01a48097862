//! Authentication codes of rows: HMAC-SHA256 (RFC 2104) over table, key and value, under a key that follows from the oldest epoch key of the broker. A row that was written without the broker's keys, or moved to another key or table, is an
//! error when it is read. A row that is removed, or replaced with an older value of the same key, is not noticed here.

use ring::hmac;

use super::{Error, Table};

/// Label of the key.
const LABEL: &[u8] = b"cairn broker database rows 1";

/// Key of the authentication codes.
pub struct RowKey(hmac::Key);

impl RowKey {
    /// The key that follows from an epoch key.
    pub fn derive(epoch_key: &[u8; 32]) -> Self {
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, epoch_key), LABEL);
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    /// The authentication code of a row, 32 bytes.
    pub(super) fn code(&self, table: Table, key: &[u8], value: &[u8]) -> hmac::Tag {
        hmac::sign(&self.0, &authenticated(table, key, value))
    }

    /// That a row has its authentication code.
    pub(super) fn verify(&self, table: Table, key: &[u8], value: &[u8], code: Option<&[u8]>) -> Result<(), Error> {
        let is_authentic =
            code.is_some_and(|code| hmac::verify(&self.0, &authenticated(table, key, value), code).is_ok());
        if is_authentic { Ok(()) } else { Err(Error::Unauthenticated { table: table.name(), key: shown(key) }) }
    }
}

fn authenticated(table: Table, key: &[u8], value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes();
    [table.name().as_bytes(), &[0], &length, key, value].concat()
}

/// A key as text: names as they are, digests in hexadecimal digits.
fn shown(key: &[u8]) -> String {
    let text =
        std::str::from_utf8(key).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '));
    let shown = text.map_or_else(|| hex::encode(key), str::to_owned);
    shown.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_of_one_key_table_row_and_value() {
        let key = RowKey::derive(&[1; 32]);
        let code = key.code(Table::Nodes, b"one", b"value");
        key.verify(Table::Nodes, b"one", b"value", Some(code.as_ref())).unwrap();
        for (table, name, value) in [
            (Table::Disks, &b"one"[..], &b"value"[..]),
            (Table::Nodes, b"two", b"value"),
            (Table::Nodes, b"one", b"valuf"),
            (Table::Nodes, b"onev", b"alue"),
        ] {
            key.verify(table, name, value, Some(code.as_ref())).unwrap_err();
        }
        let another = RowKey::derive(&[2; 32]);
        let error = another.verify(Table::Nodes, b"one", b"value", Some(code.as_ref())).unwrap_err().to_string();
        assert!(error.contains("row \"one\" of table nodes"), "{error}");
        key.verify(Table::Nodes, b"one", b"value", None).unwrap_err();
        key.verify(Table::Nodes, b"one", b"value", Some(&code.as_ref()[..31])).unwrap_err();
    }
}
