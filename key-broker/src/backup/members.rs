//! Members of a backup: a closed set of names in one order, each with a maximum size.

use transparency::tiles;

/// The copy of the database; the first member.
pub const DATABASE: &str = "database";
/// The last member: the signed manifest.
pub const MANIFEST: &str = "manifest.json";
/// Directory of the bundles of the audit log, in a backup and beside a database.
pub const AUDIT: &str = "audit";
/// Configuration of the broker. It names addresses of its host, so a restore keeps one that exists.
pub const CONFIGURATION: &str = "broker.toml";
/// The sealed box: message key, audit key and epoch keys under the passphrase.
pub const SEALED: &str = "sealed.json";
/// What identifies the broker. A restore writes these files, and never replaces one with other bytes.
pub const IDENTITY: [&str; 5] = ["cluster.json", "certificate.json", SEALED, "tls.key", "tls.der"];

/// Bytes of a file that is not the database and not of the audit log.
pub const MAX_SMALL_BYTES: u64 = 64 << 10;
/// Bytes of the manifest in its envelope.
pub const MAX_MANIFEST_BYTES: u64 = 16 << 10;
/// Bytes of the hashes of a bundle: SHA-256 each.
const HASHES_BYTES: u64 = tiles::WIDTH * 32;
/// The two kinds of files of a bundle, with their maximum sizes in bytes.
pub const LEVELS: [(&str, u64); 2] = [("entries", tiles::LARGEST as u64), ("0", HASHES_BYTES)];

/// Name of a file of the bundle of this number.
pub fn bundle(level: &str, number: u64) -> String {
    format!("{AUDIT}/{}", tiles::path(level, u64::MAX, number))
}

/// Maximum size in bytes of the member with this name; none where no backup has such a member.
pub fn max_bytes(name: &str) -> Option<u64> {
    match name {
        // The archive itself is its limit.
        DATABASE => Some(u64::MAX),
        MANIFEST => Some(MAX_MANIFEST_BYTES),
        CONFIGURATION => Some(MAX_SMALL_BYTES),
        name if IDENTITY.contains(&name) => Some(MAX_SMALL_BYTES),
        name => LEVELS.into_iter().find(|(level, _)| is_bundle(name, level)).map(|(_, most)| most),
    }
}

fn is_bundle(name: &str, level: &str) -> bool {
    let Some(digits) = name.strip_prefix(&format!("{AUDIT}/tile/{level}/")) else { return false };
    let number = digits.replace(['x', '/'], "").parse();
    number.is_ok_and(|number: u64| bundle(level, number) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_a_backup_are_members() {
        for name in ["database", "sealed.json", "tls.key", "broker.toml", "manifest.json", "audit/tile/entries/007"] {
            assert!(max_bytes(name).is_some(), "{name}");
        }
        assert_eq!(max_bytes(&bundle("0", 1_234_067)), Some(8192));
        assert_eq!(bundle("entries", 1_234_067), "audit/tile/entries/x001/x234/067");
        for name in [
            "",
            "../database",
            "/database",
            "database-wal",
            "offline/root.key",
            "audit/tile/entries/7",
            "audit/tile/entries/0007",
            "audit/tile/entries/x000/007",
            "audit/tile/entries/../../../x",
            "audit/tile/1/007",
            "audit/tile/entries/99999999999999999999999",
        ] {
            assert_eq!(max_bytes(name), None, "{name}");
        }
    }
}
