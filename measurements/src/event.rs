//! One measurement: what is extended into which register, and where it comes from.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Bank;

/// Types of events in a firmware log (TCG PC Client Platform Firmware Profile, section 10.4.1).
pub mod kind {
    /// EV_SEPARATOR
    pub const SEPARATOR: u32 = 0x4;
    /// EV_EVENT_TAG
    pub const TAG: u32 = 0x6;
    /// EV_S_CRTM_VERSION
    pub const CRTM_VERSION: u32 = 0x8;
    /// EV_PLATFORM_CONFIG_FLAGS
    pub const CONFIG_FLAGS: u32 = 0xa;
    /// EV_IPL
    pub const IPL: u32 = 0xd;
    /// EV_EFI_VARIABLE_DRIVER_CONFIG
    pub const VARIABLE: u32 = 0x8000_0001;
    /// EV_EFI_VARIABLE_BOOT
    pub const BOOT_VARIABLE: u32 = 0x8000_0002;
    /// EV_EFI_BOOT_SERVICES_APPLICATION
    pub const APPLICATION: u32 = 0x8000_0003;
    /// EV_EFI_GPT_EVENT
    pub const GPT: u32 = 0x8000_0006;
    /// EV_EFI_ACTION
    pub const ACTION: u32 = 0x8000_0007;
    /// EV_EFI_PLATFORM_FIRMWARE_BLOB
    pub const FIRMWARE_BLOB: u32 = 0x8000_0008;
    /// EV_EFI_HANDOFF_TABLES
    pub const HANDOFF_TABLES: u32 = 0x8000_0009;
    /// EV_EFI_HCRTM_EVENT
    pub const HCRTM: u32 = 0x8000_0010;
    /// EV_EFI_VARIABLE_AUTHORITY
    pub const AUTHORITY: u32 = 0x8000_00e0;
    /// No firmware event: the kernel, the agent or systemd extended it.
    pub const USER_SPACE: u32 = 0;
}

/// Whose doing a measurement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// It follows from the image.
    Image,
    /// It follows from firmware, VMM and the shape of the machine.
    Machine,
    /// It follows from the configuration of a cluster.
    Configuration,
}

/// Whether the firmware verifies images before it starts them (UEFI 2.10, section 32).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecureBoot {
    /// Every image is started.
    Off,
    /// Only images that `db` allows are started.
    On,
}

/// How Secure Boot changes a measurement. With Secure Boot off, every measurement is as its [`Event`] has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnderSecureBoot {
    /// Not at all.
    #[default]
    Same,
    /// It is not made.
    Absent,
    /// It depends on more than the image and the variable store, for this reason.
    Unknown(&'static str),
}

/// What is extended, by bank.
pub type ByBank = BTreeMap<Bank, Vec<u8>>;

/// What is known of the digest that a measurement extends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Digests {
    /// The digest. Shared, because one measurement is part of many legal sequences.
    Exact(Arc<ByBank>),
    /// All legal digests: which of them it is does not follow from the given files.
    OneOf(Vec<ByBank>),
    /// Why it cannot be known.
    Unknown(String),
}

impl Digests {
    /// Those of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::Exact(Arc::new(by_bank(bytes)))
    }

    /// The legal digests; none where they are not known.
    pub fn legal(&self) -> &[ByBank] {
        match self {
            Self::Exact(digests) => std::slice::from_ref(&**digests),
            Self::OneOf(all) => all,
            Self::Unknown(_) => &[],
        }
    }
}

/// The digests of `bytes` in every bank; of long input, all banks at once.
pub fn by_bank(bytes: &[u8]) -> ByBank {
    in_every_bank(bytes.len(), |bank| bank.digest(bytes))
}

/// What `digest` gives for every bank: on a thread each, where `length` bytes are worth it.
pub(crate) fn in_every_bank(length: usize, digest: impl Fn(Bank) -> Vec<u8> + Sync) -> ByBank {
    const LONG: usize = 1 << 18;
    if length < LONG {
        return Bank::ALL.into_iter().map(|bank| (bank, digest(bank))).collect();
    }
    std::thread::scope(|scope| {
        let digest = &digest;
        let threads = Bank::ALL.map(|bank| (bank, scope.spawn(move || digest(bank))));
        // A thread that could not finish leaves its bank to this one.
        threads.into_iter().map(|(bank, thread)| (bank, thread.join().unwrap_or_else(|_| digest(bank)))).collect()
    })
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Register, 0 to 15.
    pub register: u8,
    /// One of [`kind`].
    pub kind: u32,
    /// What is extended.
    pub digests: Digests,
    /// The event's data in the log, where every byte of it can be known.
    pub data: Option<Vec<u8>>,
    /// Whose doing it is.
    pub source: Source,
    /// The input behind it, in words.
    pub input: String,
    /// How Secure Boot changes it.
    pub under_secure_boot: UnderSecureBoot,
}

impl Event {
    fn new(register: u8, kind: u32, digests: Digests, source: Source, input: String) -> Self {
        Self { register, kind, digests, data: None, source, input, under_secure_boot: UnderSecureBoot::Same }
    }

    /// One measurement with digests that were calculated elsewhere.
    pub fn with_digests(register: u8, kind: u32, source: Source, input: impl Into<String>, digests: ByBank) -> Self {
        Self::new(register, kind, Digests::Exact(Arc::new(digests)), source, input.into())
    }

    /// The digest of `bytes`, in every bank.
    pub fn of(register: u8, kind: u32, source: Source, input: impl Into<String>, bytes: &[u8]) -> Self {
        Self::new(register, kind, Digests::of(bytes), source, input.into())
    }

    /// A measurement that happens and whose digest cannot be known, for this reason.
    pub fn unknown(
        register: u8,
        kind: u32,
        source: Source,
        input: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self::new(register, kind, Digests::Unknown(reason.into()), source, input.into())
    }

    /// With the data that the log has.
    #[must_use]
    pub fn with_data(self, data: impl Into<Vec<u8>>) -> Self {
        Self { data: Some(data.into()), ..self }
    }

    /// A measurement of one of these.
    pub fn one_of(register: u8, kind: u32, source: Source, input: impl Into<String>, all: &[&[u8]]) -> Self {
        let digests = Digests::OneOf(all.iter().map(|bytes| by_bank(bytes)).collect());
        Self::new(register, kind, digests, source, input.into())
    }

    /// With what Secure Boot makes of it.
    #[must_use]
    pub fn under_secure_boot(self, under_secure_boot: UnderSecureBoot) -> Self {
        Self { under_secure_boot, ..self }
    }

    /// This measurement where Secure Boot is in that state; none where it is not made.
    pub fn in_state(&self, state: SecureBoot) -> Option<Self> {
        match (state, self.under_secure_boot) {
            (SecureBoot::Off, _) | (_, UnderSecureBoot::Same) => Some(self.clone()),
            (SecureBoot::On, UnderSecureBoot::Absent) => None,
            (SecureBoot::On, UnderSecureBoot::Unknown(reason)) => {
                Some(Self { digests: Digests::Unknown(reason.into()), data: None, ..self.clone() })
            }
        }
    }

    /// The digest in a bank, if it is known exactly.
    pub fn digest(&self, bank: Bank) -> Option<&[u8]> {
        match &self.digests {
            Digests::Exact(digests) => digests.get(&bank).map(Vec::as_slice),
            Digests::OneOf(_) | Digests::Unknown(_) => None,
        }
    }

    /// Whether this is a legal digest in a bank.
    pub fn allows(&self, bank: Bank, digest: &[u8]) -> bool {
        self.digests.legal().iter().any(|legal| legal.get(&bank).is_some_and(|legal| legal == digest))
    }
}
