//! MRTD, the digest of a trust domain's initial contents (Intel TDX Module Base Architecture Specification, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND).

use sha2::{Digest, Sha384};

use crate::firmware::TdxSection;
use crate::{Error, Firmware, PAGE};

/// What TDH.MR.EXTEND takes at once.
const CHUNK: usize = 256;

/// In which order a VMM adds and extends pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Each page is added, then its contents extended: upstream KVM and QEMU 9 and newer.
    SinglePass,
    /// All pages of a section are added, then all contents extended: the TDX trees of QEMU 8.
    TwoPass,
}

/// The MRTD of a trust domain that starts from `firmware`.
///
/// # Errors
/// What [`Firmware::tdx_sections`] refuses.
pub fn mrtd(firmware: &Firmware, order: Order) -> Result<[u8; 48], Error> {
    let mut digest = Sha384::new();
    for section in firmware.tdx_sections()?.iter().filter(|section| !section.augmented) {
        let offsets = || (0..section.size as usize).step_by(PAGE);
        match order {
            Order::SinglePass => {
                for offset in offsets() {
                    add(&mut digest, section, offset);
                    extend(&mut digest, section, offset);
                }
            }
            Order::TwoPass => {
                offsets().for_each(|offset| add(&mut digest, section, offset));
                offsets().for_each(|offset| extend(&mut digest, section, offset));
            }
        }
    }
    Ok(digest.finalize().into())
}

fn add(digest: &mut Sha384, section: &TdxSection, offset: usize) {
    digest.update(command(b"MEM.PAGE.ADD", section.address + offset as u64));
}

fn extend(digest: &mut Sha384, section: &TdxSection, offset: usize) {
    if !section.extended {
        return;
    }
    for start in (offset..offset + PAGE).step_by(CHUNK) {
        let mut chunk = [0; CHUNK];
        let data = section.data.get(start..).unwrap_or_default();
        let length = data.len().min(CHUNK);
        chunk[..length].copy_from_slice(&data[..length]);
        digest.update(command(b"MR.EXTEND", section.address + start as u64));
        digest.update(chunk);
    }
}

/// What the module hashes for a command: its name at 0, the address at 16.
fn command(name: &[u8], address: u64) -> [u8; 128] {
    let mut buffer = [0; 128];
    buffer[..name.len()].copy_from_slice(name);
    buffer[16..24].copy_from_slice(&address.to_le_bytes());
    buffer
}
