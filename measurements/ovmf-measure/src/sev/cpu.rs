//! The CPUID signature (AMD publication 25481, CPUID Fn0000_0001_EAX), which QEMU puts into the first register of every CPU.

use std::fmt;

/// Family, model and stepping in CPUID's form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuSignature(pub u32);

/// QEMU's models by name; `-v<N>` behind a name changes nothing here.
pub const MODELS: [(&str, CpuSignature); 6] = [
    ("EPYC", CpuSignature::new(23, 1, 2)),
    ("EPYC-IBPB", CpuSignature::new(23, 1, 2)),
    ("EPYC-Rome", CpuSignature::new(23, 49, 0)),
    ("EPYC-Milan", CpuSignature::new(25, 1, 1)),
    ("EPYC-Genoa", CpuSignature::new(25, 17, 0)),
    ("EPYC-Turin", CpuSignature::new(26, 0, 0)),
];

impl CpuSignature {
    /// From the numbers that people use.
    pub const fn new(family: u32, model: u32, stepping: u32) -> Self {
        let (base, extended) = if family > 0xf { (0xf, (family - 0xf) & 0xff) } else { (family, 0) };
        Self(extended << 20 | (model >> 4 & 0xf) << 16 | base << 8 | (model & 0xf) << 4 | stepping & 0xf)
    }

    /// Of a model of QEMU, such as `EPYC-Milan` or `EPYC-v4`.
    pub fn of_model(name: &str) -> Option<Self> {
        let is_version = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let base = match name.rsplit_once("-v") {
            Some((base, version)) if is_version(version) => base,
            _ => name,
        };
        MODELS.iter().find(|(known, _)| *known == base).map(|(_, signature)| *signature)
    }
}

impl fmt::Debug for CpuSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_have_the_signatures_of_their_processors() {
        for (name, signature) in [
            ("EPYC", 0x80_0f12),
            ("EPYC-v4", 0x80_0f12),
            ("EPYC-IBPB", 0x80_0f12),
            ("EPYC-Rome-v2", 0x83_0f10),
            ("EPYC-Milan", 0xa0_0f11),
            ("EPYC-Genoa-v1", 0xa1_0f10),
            ("EPYC-Turin", 0xb0_0f00),
        ] {
            assert_eq!(CpuSignature::of_model(name), Some(CpuSignature(signature)), "{name}");
        }
        for name in ["", "EPYC-", "EPYC-v", "EPYC-vx", "Skylake", "EPYC-Milan-v2-v1"] {
            assert_eq!(CpuSignature::of_model(name), None, "{name}");
        }
    }

    #[test]
    fn small_families_have_no_extension() {
        assert_eq!(CpuSignature::new(6, 0x8f, 8), CpuSignature(0x8_06f8));
    }
}
