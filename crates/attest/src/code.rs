//! Why evidence is refused. Strangers are told nothing; the operator is told the code, what was found and what to do.

use std::fmt;

use measurements::text::printable;

/// One code for each reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// A structure cannot be read.
    Malformed,
    /// The key is none that only quotes what its TPM holds.
    AkAttributes,
    /// The endorsement key is of no kind that a manufacturer vouches for.
    EkAttributes,
    /// The quote is of another key.
    AkMismatch,
    /// It is no quote.
    QuoteType,
    /// The signature is wrong.
    QuoteSignature,
    /// The quote was made for another conversation, key, purpose or disk.
    BinderMismatch,
    /// Other registers were quoted.
    PcrSelection,
    /// Another bank was quoted.
    PcrBank,
    /// The values sent are not those that were quoted.
    PcrDigest,
    /// The log does not lead to the quoted values.
    LogReplay,
    /// The log has a predicted event under another type.
    LogGrammar,
    /// The log has an event that nobody predicted, or lacks one.
    LogUnexpectedEvent,
    /// A register has another value than predicted.
    PcrMismatch,
    /// The boot has already been closed.
    BootCapped,
    /// A prediction knows too little.
    NotPredicted,
    /// A report's certificate is not of the manufacturer, or not of this chip and its firmware.
    VcekChain,
    /// A report's signature is wrong.
    ReportSignature,
    /// The guest may be debugged.
    SnpDebug,
    /// The guest may be migrated by an agent.
    SnpMigratable,
    /// The report was not made at the highest privilege.
    SnpVmpl,
    /// The report was signed by no key of the chip.
    SnpSigningKey,
    /// The report hides its chip.
    SnpChipHidden,
    /// An envelope is not signed by an expected key.
    EnvelopeSignature,
    /// A broker's certificate is of another cluster, epoch or connection.
    BrokerCertificate,
    /// A sealed secret cannot be opened.
    SealedSecret,
    /// Nobody vouches for the attestation key.
    AkUnverified,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 27] = [
        Self::Malformed,
        Self::AkAttributes,
        Self::EkAttributes,
        Self::AkMismatch,
        Self::QuoteType,
        Self::QuoteSignature,
        Self::BinderMismatch,
        Self::PcrSelection,
        Self::PcrBank,
        Self::PcrDigest,
        Self::LogReplay,
        Self::LogGrammar,
        Self::LogUnexpectedEvent,
        Self::PcrMismatch,
        Self::BootCapped,
        Self::NotPredicted,
        Self::VcekChain,
        Self::ReportSignature,
        Self::SnpDebug,
        Self::SnpMigratable,
        Self::SnpVmpl,
        Self::SnpSigningKey,
        Self::SnpChipHidden,
        Self::EnvelopeSignature,
        Self::BrokerCertificate,
        Self::SealedSecret,
        Self::AkUnverified,
    ];

    /// As audit logs and metrics have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "MALFORMED",
            Self::AkAttributes => "AK_ATTRIBUTES",
            Self::EkAttributes => "EK_ATTRIBUTES",
            Self::AkMismatch => "AK_MISMATCH",
            Self::QuoteType => "QUOTE_TYPE",
            Self::QuoteSignature => "QUOTE_SIGNATURE",
            Self::BinderMismatch => "BINDER_MISMATCH",
            Self::PcrSelection => "PCR_SELECTION",
            Self::PcrBank => "PCR_BANK",
            Self::PcrDigest => "PCR_DIGEST",
            Self::LogReplay => "LOG_REPLAY",
            Self::LogGrammar => "LOG_GRAMMAR",
            Self::LogUnexpectedEvent => "LOG_UNEXPECTED_EVENT",
            Self::PcrMismatch => "PCR_MISMATCH",
            Self::BootCapped => "BOOT_CAPPED",
            Self::NotPredicted => "NOT_PREDICTED",
            Self::VcekChain => "VCEK_CHAIN",
            Self::ReportSignature => "REPORT_SIGNATURE",
            Self::SnpDebug => "SNP_DEBUG",
            Self::SnpMigratable => "SNP_MIGRATABLE",
            Self::SnpVmpl => "SNP_VMPL",
            Self::SnpSigningKey => "SNP_SIGNING_KEY",
            Self::SnpChipHidden => "SNP_CHIP_HIDDEN",
            Self::EnvelopeSignature => "ENVELOPE_SIGNATURE",
            Self::BrokerCertificate => "BROKER_CERTIFICATE",
            Self::SealedSecret => "SEALED_SECRET",
            Self::AkUnverified => "AK_UNVERIFIED",
        }
    }

    /// What it means.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Malformed => "a structure cannot be read",
            Self::AkAttributes => "the key is none that only quotes what its TPM holds",
            Self::EkAttributes => "the endorsement key is of no kind that a manufacturer vouches for",
            Self::AkMismatch => "the quote is of another key",
            Self::QuoteType => "it is no quote",
            Self::QuoteSignature => "the signature is wrong",
            Self::BinderMismatch => "the quote was made for another conversation, key, purpose or disk",
            Self::PcrSelection => "other registers were quoted",
            Self::PcrBank => "another bank was quoted",
            Self::PcrDigest => "the values sent are not those that were quoted",
            Self::LogReplay => "the log does not lead to the quoted values",
            Self::LogGrammar => "the log has a predicted event under another type",
            Self::LogUnexpectedEvent => "the log has an event that nobody predicted, or lacks one",
            Self::PcrMismatch => "a register has another value than predicted",
            Self::BootCapped => "the boot has already been closed",
            Self::NotPredicted => "a prediction knows too little",
            Self::VcekChain => {
                "a report's certificate is not of the manufacturer, or not of this chip and its firmware"
            }
            Self::ReportSignature => "a report's signature is wrong",
            Self::SnpDebug => "the guest may be debugged",
            Self::SnpMigratable => "the guest may be migrated by an agent",
            Self::SnpVmpl => "the report was not made at the highest privilege",
            Self::SnpSigningKey => "the report was signed by no key of the chip",
            Self::SnpChipHidden => "the report hides its chip",
            Self::EnvelopeSignature => "an envelope is not signed by an expected key",
            Self::BrokerCertificate => "a broker's certificate is of another cluster, epoch or connection",
            Self::SealedSecret => "a sealed secret cannot be opened",
            Self::AkUnverified => "nobody vouches for the attestation key",
        }
    }

    /// What the operator does next.
    pub const fn next(self) -> &'static str {
        match self {
            Self::Malformed => "update the node: it speaks another version, or somebody changes its messages",
            Self::AkAttributes => "enrol the node with a restricted attestation key of its own TPM",
            Self::EkAttributes => "enrol the node with the RSA 2048 endorsement key of its TPM",
            Self::AkMismatch => "the quote is of another machine: find out who sent it",
            Self::QuoteType | Self::QuoteSignature | Self::PcrDigest => "no genuine node sends this: find out who does",
            Self::BinderMismatch => "start the boot again; if it stays, somebody stands between node and broker",
            Self::PcrSelection | Self::PcrBank => "enrol the node anew if its TPM has other banks now",
            Self::LogReplay | Self::LogGrammar => "the log was cut or changed on its way, or the node is not genuine",
            Self::LogUnexpectedEvent | Self::PcrMismatch => {
                "`cairn explain` with the node's log names what differs; `key-broker explain REQUEST --event-log FILE` writes that log"
            }
            Self::BootCapped => "boot the node again: this boot has already been given what it may have",
            Self::NotPredicted => "use a machine reference that knows every register",
            Self::VcekChain => "fetch the certificate of this chip and its present firmware anew",
            Self::ReportSignature => "no genuine node sends this: find out who does",
            Self::SnpDebug | Self::SnpMigratable => {
                "start the guest with a policy that allows neither debugging nor migration"
            }
            Self::SnpVmpl => "ask for the report at VMPL 0",
            Self::SnpSigningKey | Self::SnpChipHidden => "let the host sign with the chip's key and show its id",
            Self::EnvelopeSignature | Self::BrokerCertificate => "compare the keys in cluster.json with the broker's",
            Self::AkUnverified => "name the node's endorsement key, or let it boot through a broker of its cluster",
            Self::SealedSecret => {
                "use the key that the secret was sealed to; if it is that, somebody changed the secret"
            }
        }
    }
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
    /// What was found, for the operator: printable and bounded ([`printable`]). It holds no secret.
    pub found: String,
}

impl Refusal {
    /// A refusal. `found` may have been written by whoever was refused.
    pub fn new(code: Code, found: impl Into<String>) -> Self {
        Self { code, found: printable(&found.into()) }
    }
}

impl From<envelope::Error> for Refusal {
    fn from(error: envelope::Error) -> Self {
        let code = match &error {
            envelope::Error::Malformed(_) => Code::Malformed,
            envelope::Error::Type { .. } | envelope::Error::Signatures { .. } => Code::EnvelopeSignature,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_has_a_name_of_its_own_and_a_next_step() {
        let names: BTreeSet<&str> = Code::ALL.into_iter().map(Code::name).collect();
        assert_eq!(names.len(), Code::ALL.len());
        assert!(Code::ALL.into_iter().all(|code| !code.meaning().is_empty() && !code.next().is_empty()));
    }
}
