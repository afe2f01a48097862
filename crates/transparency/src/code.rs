//! Why something published is refused: one code for each reason, what it means and what to do.

use std::fmt;

use measurements::text::printable;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident $name:literal, $meaning:literal, $next:literal;)+) => {
        /// One code for each reason.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Code {
            /// All of them, in the order in which they are checked.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// As scripts and logs have it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What it means.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => $meaning,)+
                }
            }

            /// What to do next.
            pub const fn next(self) -> &'static str {
                match self {
                    $(Self::$variant => $next,)+
                }
            }
        }
    };
}

codes! {
    /// The air-gap file cannot be read.
    AirGap "AIR_GAP",
        "the air-gap file cannot be read",
        "carry it over again as `cairn pack` wrote it";
    /// Nobody vouches for the trust root of the air-gap file.
    TrustRootUnknown "TRUST_ROOT_UNKNOWN",
        "the air-gap file brings its own trust root, and nobody vouches for it",
        "compare the digest with what the publisher told you by another way, and give that as --trust-root-digest, or give a trust root that you have as --trust-root";
    /// The trust root cannot be read.
    TrustRoot "TRUST_ROOT",
        "the trust root cannot be read, or contradicts itself",
        "fetch the trust root of Cairn (trust-root.json) from its publisher again";
    /// Too few root keys have signed the trust root.
    TrustRootSignature "TRUST_ROOT_SIGNATURE",
        "too few root keys have signed the trust root",
        "do not use it: ask the root keys' holders whether they made it";
    /// The trust root is not newer than the one that is known.
    TrustRootVersion "TRUST_ROOT_VERSION",
        "the trust root is not newer than the one that is known",
        "keep the newer one, and find out who hands out the older";
    /// The bundle cannot be read.
    Schema "BUNDLE_SCHEMA",
        "the bundle cannot be read",
        "use a Sigstore bundle of version 0.3 with one DSSE envelope and one entry of a log (hashedrekord 0.0.2)";
    /// No release key of the trust root has this name.
    Key "KEY_UNKNOWN",
        "the bundle names no key of the trust root",
        "fetch the newest trust root; if the key is not in it, its owner is not trusted";
    /// The signature is not of that key.
    Signature "SIGNATURE",
        "the statement is not signed by the key that the bundle names",
        "fetch the bundle again; if that stays, somebody changed the statement";
    /// The log's entry is of something else.
    Leaf "LEAF",
        "the entry of the log is not that of this signature",
        "fetch the bundle again; the proof was made for another statement";
    /// The proof does not lead from the entry to the root.
    Inclusion "INCLUSION",
        "the proof does not show the entry in the log",
        "fetch the bundle again; without a proof, nobody but you may have seen this statement";
    /// The log's head cannot be read.
    Checkpoint "CHECKPOINT",
        "the head of the log cannot be read",
        "fetch the bundle again";
    /// No known log signed the head.
    CheckpointSignature "CHECKPOINT_SIGNATURE",
        "the head is signed by no log of the trust root",
        "fetch the newest trust root; if the log is not in it, it is not trusted";
    /// The head that is signed is not the one that is proved.
    CheckpointHead "CHECKPOINT_HEAD",
        "the proof leads to another head than the one that the log signed",
        "fetch the bundle again";
    /// The head is of another log with the same key.
    Origin "ORIGIN",
        "the head is of another log than the trust root names for this key",
        "do not use it: a log's key must sign for one log only";
    /// Too few witnesses saw the head.
    Witnesses "WITNESS_QUORUM",
        "too few witnesses have signed the head: the log may show others another one",
        "publish again while the witnesses are up, or fetch the bundle again";
    /// No time is shown.
    TimestampMissing "TIMESTAMP_MISSING",
        "the trust root has a timestamp authority, and the bundle no token",
        "publish with a timestamp authority";
    /// The time that is shown is not proved.
    Timestamp "TIMESTAMP",
        "the timestamp is not one of this signature by an authority of the trust root",
        "fetch the bundle again, or the newest trust root";
    /// The key was not valid at that time.
    KeyValidity "KEY_VALIDITY",
        "the key, or that of the log, was not valid when the statement was signed",
        "use a release that was signed with a valid key";
    /// The statement says something of another kind.
    PredicateType "PREDICATE_TYPE",
        "the statement is of another kind than expected",
        "use the bundle of the right kind, or name its kind (`cairn verify --kind`): measured-boot, provenance, rebuild and channel are published apart";
    /// The statement contradicts itself or cannot be read.
    Statement "STATEMENT",
        "the statement cannot be read, or contradicts itself",
        "use the version of Cairn that made it; if that is this one, do not trust its publisher";
    /// The key may not say that.
    KeyUse "KEY_USE",
        "the key may not sign statements of this kind",
        "fetch the newest trust root; if it is that, the key was misused";
    /// The statement is not of this file or value.
    Subject "SUBJECT",
        "the statement is not about this file or value",
        "use the bundle that was published with this file, or do not use the file";
    /// The statement is not valid yet.
    NotYetValid "NOT_YET_VALID",
        "the statement is not valid yet",
        "look at the clock of this machine";
    /// The statement is not valid any more.
    Expired "EXPIRED",
        "the statement is not valid any more",
        "use a newer release";
    /// The statement is not the next one.
    Rollback "ROLLBACK",
        "the statement neither is nor follows the newest one that is known",
        "use the newest release; if it is that, releases between were kept from you";
    /// The channel's state is too old.
    ChannelExpired "CHANNEL_EXPIRED",
        "the channel's state is too old to say which releases are good",
        "fetch the channel's newest state";
    /// The channel's state is older than one that is known.
    ChannelRollback "CHANNEL_ROLLBACK",
        "the channel's state is older than one that is known",
        "fetch the channel's newest state, and find out who hands out the older";
    /// The release is revoked.
    Revoked "REVOKED",
        "the release is revoked",
        "use a newer release";
    /// The release is not in the channel.
    NotReleased "NOT_RELEASED",
        "the channel does not say that this release is good",
        "wait until it is promoted, or use one that is";
    /// The release is below the least epoch.
    Epoch "EPOCH",
        "the release is below the channel's least security epoch",
        "use a newer release";
    /// Too few have built it again.
    Rebuilders "REBUILDERS",
        "too few rebuilders have made the same image again",
        "give the bundles of more rebuilds, or wait until there are some";
    /// A newer head does not contain an older one.
    Consistency "CONSISTENCY",
        "the log's newer head does not contain its older one",
        "keep both heads: together they prove that the log was forked";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A refusal: its code, and what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {found}")]
pub struct Refusal {
    /// The code.
    pub code: Code,
    /// What was found: printable and bounded ([`printable`]), because it may quote a file of others. A hint of ours may stand on a second line.
    pub found: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: Code, found: impl Into<String>) -> Self {
        Self { code, found: printable(&found.into()) }
    }

    /// The same refusal, with a hint on a line of its own.
    #[must_use]
    pub fn with_hint(mut self, hint: &'static str) -> Self {
        self.found += "\nhint: ";
        self.found += hint;
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn refusal_has_no_escape_code_and_one_line() {
        let refusal = Refusal::new(Code::Schema, "unknown field `\u{1b}[2J\nVERIFIED`");
        assert_eq!(refusal.to_string(), "BUNDLE_SCHEMA: unknown field `\\u{1b}[2J\\nVERIFIED`");
    }

    #[test]
    fn every_code_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
    }

    #[test]
    fn the_document_has_a_row_for_every_code() {
        let document = include_str!("../../../docs/release-codes.md");
        let row = |code: &Code| format!("| `{code}` | {} | {} |\n", code.meaning(), code.next());
        let rows: String = Code::ALL.iter().map(row).collect();
        assert!(document.contains(&format!("|---|---|---|\n{rows}")), "docs/release-codes.md must have\n{rows}");
    }
}
