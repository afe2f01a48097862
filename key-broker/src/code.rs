//! Everything that the broker decides has one code: the audit log has it, metrics count it, `key-broker explain` says what it means.

use attest::Code as Evidence;
use state_disk::record::Refusal as Disk;
use transparency::Code as Published;

macro_rules! codes {
    ($($variant:ident, $name:literal, $meaning:literal, $next:literal;)+) => {
        /// A decision of the broker's own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Own {
            $(#[doc = $meaning] $variant,)+
        }

        impl Own {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)+ }
            }

            const fn next(self) -> &'static str {
                match self { $(Self::$variant => $next,)+ }
            }
        }
    };
}

codes! {
    Released, "RELEASED", "the share was released", "nothing";
    Committed, "COMMITTED", "the node reported that its disk is open", "nothing";
    NodeFailed, "NODE_FAILED", "the node got its share and could not open its disk", "look up the node's code in docs/agent-codes.md";
    Administered, "ADMINISTERED", "an operator changed something", "nothing";
    SessionInvalid, "SESSION_INVALID", "The session is not one of this connection, was answered before, or has no stored reply.", "Restart the node. If it happens again, check the network between node and broker.";
    NonceSpent, "NONCE_SPENT", "the session has been answered before", "somebody sends a message again: find out who; the node may ask for its answer with resume";
    EkUntrusted, "EK_UNTRUSTED", "no node with this endorsement key is enrolled", "if it is yours: key-broker node enrol";
    NodeRetired, "NODE_RETIRED", "the node was retired", "nothing; to use the machine again: key-broker node enrol with the same name and endorsement key, then key-broker disk grant NAME --overwrite, and attach a blank disk";
    NodeHeld, "NODE_HELD", "the node waits for an operator's approval", "key-broker node approve";
    IdentityConflict, "IDENTITY_CONFLICT", "a node of this name, or another with this endorsement key, is enrolled already", "for another machine of this name: choose another name, or retire the old node first; for this endorsement key: enrol the machine with the name that it has in key-broker node list";
    ActivationFailed, "ACTIVATION_FAILED", "the TPM with this endorsement key does not hold the attestation key", "somebody shows keys of two machines: find out who";
    RateLimited, "RATE_LIMITED", "the node asks too often", "nothing; it will ask again";
    NoReleaseAllowed, "RELEASE_NONE_ALLOWED", "no release is allowed", "key-broker release allow";
    NoSingleRelease, "NO_SINGLE_RELEASE", "every register is that of some allowed release, and no release has all of them", "somebody mixes parts of two releases: write one image to the node's disk";
    AssuranceTooLow, "ASSURANCE_TOO_LOW", "the evidence is worth less than cluster.json asks for", "use references that are signed, or machines of a better kind";
    BootLatched, "BOOT_LATCHED", "this boot has been given its release", "boot the node again";
    DiskForeign, "DISK_FOREIGN", "the node's disk holds something that is not ours", "attach a blank disk, or: key-broker disk grant --overwrite";
    AkChanged, "AK_CHANGED", "The node's TPM shows another attestation key than the one that was activated.", "Find out what changed: an image with another key template, or a program in the initrd. Then: key-broker node approve NAME --code AK_CHANGED";
    TpmCleared, "TPM_CLEARED", "The TPM has counted fewer resets than at the node's last release: it was cleared, or its state was restored.", "Find out who cleared it. Then: key-broker node approve NAME --code TPM_CLEARED";
    CommitMissing, "COMMIT_MISSING", "Several boots in a row got the disk's share and never reported.", "Check the network between node and broker for a filter. Then: key-broker node approve NAME --code COMMIT_MISSING";
    TrustRootMissing, "TRUST_ROOT_MISSING", "the broker has no trust root, so it believes no logged release", "key-broker trust set";
    ChannelMissing, "CHANNEL_MISSING", "the broker knows no channel's state, so no logged release is good", "key-broker channel set";
    ChannelOther, "CHANNEL_OTHER", "The channel state is of another channel than the one that this broker follows.", "Give the state of the broker's channel. To follow another channel, set up another broker";
    EpochRollback, "EPOCH_ROLLBACK", "the release has a lower security epoch than one that the node has run", "boot the newer image";
    LogFork, "LOG_FORK", "the log has shown two heads of one size", "do not use the log: keep both bundles, and tell its operator and its witnesses";
    State, "STATE", "the message does not fit what was said before", "let the node boot again; if it happens again, node and broker are of versions that do not belong together";
    CapMismatch, "CAP_MISMATCH", "the node has not closed its boot as it must", "the node runs something else than its initrd by now: find out what";
    CommitLate, "COMMIT_LATE", "the node reported after its time was over", "boot the node again";
    GenerationAhead, "GENERATION", "the disk's generation is not the one after the last", "if an older database was restored: key-broker disk grant --generation; else find out who did it";
    AuditBundleConflict, "AUDIT_BUNDLE_CONFLICT", "A file in the directory `audit` has other leaves than the database.", "Find out which log is right: key-broker audit verify. Then move the other files of this number and above out of the directory";
}

/// A code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Of the evidence.
    Evidence(Evidence),
    /// Of a disk's record.
    Disk(Disk),
    /// Of what is published about a release.
    Published(Published),
    /// Of the broker's own.
    Own(Own),
}

impl From<Published> for Code {
    fn from(code: Published) -> Self {
        Self::Published(code)
    }
}

impl From<Evidence> for Code {
    fn from(code: Evidence) -> Self {
        Self::Evidence(code)
    }
}

impl From<Disk> for Code {
    fn from(code: Disk) -> Self {
        Self::Disk(code)
    }
}

impl From<Own> for Code {
    fn from(code: Own) -> Self {
        Self::Own(code)
    }
}

impl Code {
    /// As the audit log has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Evidence(code) => code.name(),
            Self::Disk(code) => code.name(),
            Self::Published(code) => code.name(),
            Self::Own(code) => code.name(),
        }
    }

    /// What it means.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Evidence(code) => code.meaning(),
            Self::Disk(code) => match code {
                Disk::NoDisk => "the node has no disk with this id",
                Disk::NotReady => "the disk was never made to the end",
                Disk::DiskExpected => "the node has a disk that holds data, and came with another",
                Disk::Hold => "the disk waits for an operator",
                Disk::Retired => "the disk's share was destroyed",
                Disk::DiskNodeMismatch => "the disk belongs to another node",
                Disk::HeaderDigest => "the header of the disk is not the one that was committed",
            },
            Self::Published(code) => code.meaning(),
            Self::Own(code) => code.meaning(),
        }
    }

    /// What the operator does next.
    pub fn next(self) -> &'static str {
        match self {
            Self::Evidence(code) => code.next(),
            Self::Disk(code) => match code {
                Disk::NoDisk => {
                    "attach the node's own disk, or a blank one; if the broker has lost the record of the disk: key-broker disk adopt"
                }
                Disk::NotReady => "boot the node again with the disk that it began to make, or with a blank one",
                Disk::DiskExpected => {
                    "attach the node's disk; nothing was formatted. If it is lost: key-broker disk grant --overwrite"
                }
                Disk::Hold => "key-broker explain the requests of this node, then: key-broker disk grant",
                Disk::Retired => "key-broker disk grant NODE --overwrite, then attach a blank disk",
                Disk::DiskNodeMismatch => {
                    "attach the node's own disk; if the machine was replaced: key-broker disk grant --rebind-from"
                }
                Disk::HeaderDigest => "attach the newest copy of the disk; if it is that, somebody changed its header",
            },
            Self::Published(code) => code.next(),
            Self::Own(code) => code.next(),
        }
    }

    /// All codes.
    pub fn all() -> impl Iterator<Item = Self> {
        let evidence = Evidence::ALL.into_iter().map(Self::Evidence);
        let disk = [
            Disk::NoDisk,
            Disk::NotReady,
            Disk::DiskExpected,
            Disk::Hold,
            Disk::Retired,
            Disk::DiskNodeMismatch,
            Disk::HeaderDigest,
        ];
        let published = Published::ALL.iter().copied().map(Self::Published);
        let own = Own::ALL.iter().copied().map(Self::Own);
        own.chain(disk.into_iter().map(Self::Disk)).chain(evidence).chain(published)
    }

    /// The code with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|code| code.name() == name)
    }
}

/// Why nothing is released: a code, and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub code: Code,
    /// What was found, for the operator: printable and bounded. It holds no secret.
    pub found: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: impl Into<Code>, found: impl Into<String>) -> Self {
        Self { code: code.into(), found: measurements::text::printable(&found.into()) }
    }
}

impl From<transparency::Refusal> for Refusal {
    fn from(refusal: transparency::Refusal) -> Self {
        Self::new(refusal.code, refusal.found)
    }
}

impl From<attest::Refusal> for Refusal {
    fn from(refusal: attest::Refusal) -> Self {
        Self::new(refusal.code, refusal.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_by_its_name_and_has_a_next_step() {
        for own in Own::ALL {
            let code = Code::Own(*own);
            assert_eq!(Code::named(code.name()), Some(code));
            assert!(!code.meaning().is_empty() && !code.next().is_empty());
        }
        for evidence in Evidence::ALL {
            assert_eq!(Code::named(evidence.name()), Some(Code::Evidence(evidence)), "a name twice");
        }
        assert_eq!(Code::named("HOLD"), Some(Code::Disk(Disk::Hold)));
    }

    #[test]
    fn the_document_of_codes_says_what_is_said_here() {
        let document = include_str!("../../docs/broker-codes.md");
        let rows: String = Code::all()
            .map(|code| format!("| `{}` | {} | {} |\n", code.name(), code.meaning(), code.next().replace('|', "\\|")))
            .collect();
        assert!(document.ends_with(&rows), "docs/broker-codes.md must end with\n{rows}");
    }
}
