//! What a liar may say, and what a node must do about it.

/// A lie. Who can tell it stands in its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    // Any host at the address of a broker.
    /// The certificate is another broker's: its key is not that of the TLS connection.
    CopiedCertificate,
    /// The certificate is signed by another root key.
    ForeignRoot,
    /// The certificate has an epoch below that of `cluster.json`.
    LowerEpoch,

    // A thief of the TLS key, and any fault of the peer.
    /// This status, with no body, instead of a certificate: that of a broker without its store.
    NoCertificate(u16),
    /// The certificate is right, with 64 KiB of spaces behind it: more than an attester reads.
    LongCertificate,
    /// The challenge answers another hello.
    AnotherHello,
    /// 403 to the hello, without a signature.
    UnsignedRefusalOfHello,
    /// 403 to the evidence, without a signature.
    UnsignedRefusal,
    /// 202 to the evidence, without a signature.
    UnsignedHold,
    /// 403 to the evidence, signed by another key.
    RefusalOfAnotherSigner,
    /// 403 to the evidence, signed for another request.
    RefusalOfAnotherRequest,
    /// 403 to the evidence, signed for another connection: that of a man-in-the-middle to the broker.
    RefusalOfAnotherConnection,
    /// 202 to the evidence, signed for another request.
    HoldOfAnotherRequest,
    /// The release is signed by another key.
    AnotherSigner,
    /// The release is that of an earlier conversation.
    Earlier,
    /// The release has a number that no message can have: generation 2^64 - 1.
    GenerationTooLarge,
    /// This status, with no body, to the evidence.
    Status(u16),
    /// The connection is closed after the evidence.
    Closed,
    /// The connection is closed, and the evidence reaches the broker only when [`Lie::Latched`] follows: its last bytes are held back on the way.
    HeldBack,
    /// The oldest evidence that was held back reaches the broker, which stores its release; 403 to the evidence, signed: that boot has its release.
    Latched,
    /// 202 to the evidence, signed: no lie.
    Hold,
    /// The acknowledgement is stored, and the connection is closed before it is sent.
    ClosedAfterCommit,
    /// 403 to the commit, without a signature.
    UnsignedRefusalOfCommit,
    /// The acknowledgement is that of another commit.
    AnotherCommit,

    // A broker that has the message key.
    /// A bit of the sealed share is flipped.
    FlippedBit,
    /// The release is for another slot.
    AnotherSlot,
    /// The challenge has another epoch than the certificate.
    AnotherEpoch,
    /// The challenge requires SHA-1.
    WeakBank,
    /// The release has a lower assurance than `cluster.json` requires.
    LowerAssurance,
    /// The recovery document is sealed to another key.
    ForeignRecoveryKey,
    /// The receipt is that of another log.
    ForeignReceipt,
    /// The receipt is signed with another key than the certificate's audit key.
    ForgedReceipt,
    /// The receipt of the acknowledgement has fewer entries than that of the release.
    ShrunkLog,
    /// 403 to the evidence, signed: no lie.
    Refusal,
    /// 403 to the commit, signed: no lie.
    RefusalOfCommit,
}

impl Lie {
    /// After these the node waits, and asks again.
    pub const WAITS: [Self; 23] = [
        Self::CopiedCertificate,
        Self::NoCertificate(503),
        Self::LongCertificate,
        Self::ForeignRoot,
        Self::LowerEpoch,
        Self::AnotherHello,
        Self::UnsignedRefusalOfHello,
        Self::UnsignedRefusal,
        Self::UnsignedHold,
        Self::RefusalOfAnotherSigner,
        Self::RefusalOfAnotherRequest,
        Self::RefusalOfAnotherConnection,
        Self::HoldOfAnotherRequest,
        Self::AnotherSigner,
        Self::Earlier,
        Self::GenerationTooLarge,
        Self::Status(503),
        Self::Status(408),
        Self::Status(500),
        Self::Status(200),
        Self::Closed,
        Self::UnsignedRefusalOfCommit,
        Self::AnotherCommit,
    ];

    /// Each of these ends the boot.
    pub const ENDS: [Self; 11] = [
        Self::FlippedBit,
        Self::AnotherSlot,
        Self::AnotherEpoch,
        Self::WeakBank,
        Self::LowerAssurance,
        Self::ForeignRecoveryKey,
        Self::ForeignReceipt,
        Self::ForgedReceipt,
        Self::ShrunkLog,
        Self::Refusal,
        Self::RefusalOfCommit,
    ];
}
