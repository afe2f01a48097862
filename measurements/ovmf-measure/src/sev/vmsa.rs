//! The save area that a virtual CPU starts from (AMD publication 24593, volume 2, appendix B, table B-4). Each VMM has its own idea of a CPU after reset; the
//! values are those of QEMU and KVM, of Amazon EC2 and of Google Compute Engine.

use super::cpu::CpuSignature;
use crate::PAGE;

/// Who starts the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Vmm {
    /// QEMU on KVM.
    Qemu,
    /// Amazon EC2, since April 2026: rdx is 0x600.
    Ec2,
    /// Amazon EC2 before: rdx is 0.
    Ec2RdxZero,
    /// Google Compute Engine.
    Gce,
}

/// What all virtual CPUs of a machine have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vcpu {
    /// Who starts them.
    pub vmm: Vmm,
    /// QEMU puts it into rdx; the others do not.
    pub signature: CpuSignature,
    /// SEV_FEATURES: 1 is SNP alone.
    pub features: u64,
    /// Host kernels before KVM_SEV_INIT2 (about Linux 6.10) leave mxcsr and the x87 control word zero.
    pub legacy_fpu: bool,
}

/// Where the first CPU starts: the reset vector.
const RESET: u32 = 0xffff_fff0;

impl Vcpu {
    /// The save area of the first CPU.
    pub fn first(&self) -> Box<[u8; PAGE]> {
        self.page(RESET)
    }

    /// The save area of every other CPU; the firmware says where they start.
    pub fn other(&self, reset_eip: u32) -> Box<[u8; PAGE]> {
        self.page(reset_eip)
    }

    fn page(&self, eip: u32) -> Box<[u8; PAGE]> {
        let Registers { cs, ss, tr, pat, rdx, mxcsr, fcw } = self.registers(eip);
        let mut area = Area(Box::new([0; PAGE]));
        for offset in [0x000, 0x030, 0x040, 0x050] {
            area.segment(offset, 0, 0x93, 0);
        }
        area.segment(0x010, 0xf000, cs, u64::from(eip & 0xffff_0000));
        area.segment(0x020, 0, ss, 0);
        area.segment(0x060, 0, 0, 0);
        area.segment(0x070, 0, 0x82, 0);
        area.segment(0x080, 0, 0, 0);
        area.segment(0x090, 0, tr, 0);
        for (offset, value) in [
            (0x0d0, 0x1000),
            (0x148, 0x40),
            (0x158, 0x10),
            (0x160, 0x400),
            (0x168, 0xffff_0ff0),
            (0x170, 0x2),
            (0x178, u64::from(eip & 0xffff)),
            (0x268, pat),
            (0x310, rdx),
            (0x3b0, self.features),
            (0x3e8, 1),
        ] {
            area.put(offset, &value.to_le_bytes());
        }
        area.put(0x408, &mxcsr.to_le_bytes());
        area.put(0x410, &fcw.to_le_bytes());
        area.0
    }

    fn registers(&self, eip: u32) -> Registers {
        const PAT: u64 = 0x0007_0406_0007_0406;
        let signature = u64::from(self.signature.0);
        let plain = Registers { cs: 0x9b, ss: 0x93, tr: 0x8b, pat: PAT, rdx: signature, mxcsr: 0x1f80, fcw: 0x037f };
        let (mxcsr, fcw) = (0, 0);
        match self.vmm {
            Vmm::Qemu if self.legacy_fpu => Registers { mxcsr, fcw, ..plain },
            Vmm::Qemu => plain,
            Vmm::Ec2 | Vmm::Ec2RdxZero => {
                let cs = if eip == RESET { 0x9a } else { 0x9b };
                let rdx = if self.vmm == Vmm::Ec2 { 0x600 } else { 0 };
                Registers { cs, ss: 0x92, tr: 0x83, rdx, mxcsr, fcw, ..plain }
            }
            Vmm::Gce => Registers { pat: 0x0007_0106, rdx: 0x600, mxcsr, fcw, ..plain },
        }
    }
}

/// What differs.
struct Registers {
    cs: u16,
    ss: u16,
    tr: u16,
    pat: u64,
    rdx: u64,
    mxcsr: u32,
    fcw: u16,
}

struct Area(Box<[u8; PAGE]>);

impl Area {
    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Selector, attributes, limit (always 64 KiB), base.
    fn segment(&mut self, offset: usize, selector: u16, attributes: u16, base: u64) {
        self.put(offset, &selector.to_le_bytes());
        self.put(offset + 2, &attributes.to_le_bytes());
        self.put(offset + 4, &0xffff_u32.to_le_bytes());
        self.put(offset + 8, &base.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vcpu(vmm: Vmm) -> Vcpu {
        Vcpu { vmm, signature: CpuSignature::new(25, 1, 1), features: 1, legacy_fpu: false }
    }

    #[test]
    fn a_cpu_starts_where_it_is_told() {
        let first = vcpu(Vmm::Qemu).first();
        assert_eq!((&first[0x10..0x12], &first[0x18..0x20]), (&[0, 0xf0][..], &[0, 0, 0xff, 0xff, 0, 0, 0, 0][..]));
        assert_eq!(first[0x178..0x17a], [0xf0, 0xff]);
        let other = vcpu(Vmm::Qemu).other(0x80_b004);
        assert_eq!((&other[0x18..0x1b], &other[0x178..0x17a]), (&[0, 0, 0x80][..], &[4, 0xb0][..]));
    }

    #[test]
    fn the_legacy_switch_touches_the_floating_point_words_only() {
        let (new, old) = (vcpu(Vmm::Qemu).first(), Vcpu { legacy_fpu: true, ..vcpu(Vmm::Qemu) }.first());
        let differs: Vec<usize> = (0..PAGE).filter(|at| new[*at] != old[*at]).collect();
        assert_eq!(differs, [0x408, 0x409, 0x410, 0x411]);
    }

    #[test]
    fn the_variants_of_ec2_differ_in_rdx() {
        let (new, old) = (vcpu(Vmm::Ec2).first(), vcpu(Vmm::Ec2RdxZero).first());
        let differs: Vec<usize> = (0..PAGE).filter(|at| new[*at] != old[*at]).collect();
        assert_eq!(differs, [0x311]);
    }
}
