//! UEFI variable stores as OVMF keeps them in flash: a firmware volume with one authenticated store (edk2, `MdeModulePkg/Include/Guid/VariableFormat.h`; UEFI 2.10, section 8.2).
//!
//! Deleted variables are left out; of a variable that was being written when power failed, the value that was valid before counts. A store that contradicts itself, or that is not
//! authenticated, is refused.

use super::bytes::At;

/// EFI_SYSTEM_NV_DATA_FV_GUID, as stored.
const VOLUME: [u8; 16] =
    [0x8d, 0x2b, 0xf1, 0xff, 0x96, 0x76, 0x8b, 0x4c, 0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f, 0x50];
/// EFI_AUTHENTICATED_VARIABLE_GUID, as stored.
const AUTHENTICATED: [u8; 16] =
    [0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92];
/// VARIABLE_STORE_HEADER.
const STORE_HEADER: usize = 28;
const FORMATTED: u8 = 0x5a;
const HEALTHY: u8 = 0xfe;
/// AUTHENTICATED_VARIABLE_HEADER.
const HEADER: usize = 60;
const START: u16 = 0x55aa;
/// VAR_ADDED, and the same while its successor is being written.
const VALID: [u8; 2] = [0x3f, 0x3e];

/// One variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable<'a> {
    /// Its name in UTF-16, with the NUL.
    name: &'a [u8],
    /// The GUID that it belongs to, as stored.
    pub vendor: [u8; 16],
    /// Its value.
    pub data: &'a [u8],
}

/// A store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variables<'a> {
    /// Its valid variables, in order.
    pub all: Vec<Variable<'a>>,
}

/// Why a store is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("it does not begin with a variable store of OVMF: give OVMF_VARS_4M.fd or a copy of it")]
    Missing,
    /// It contradicts itself.
    #[error("the variable store is damaged: {0}")]
    Damaged(&'static str),
}

impl<'a> Variables<'a> {
    /// Reads the store at the beginning of `flash`.
    ///
    /// # Errors
    /// [`Error`].
    pub fn parse(flash: &'a [u8]) -> Result<Self, Error> {
        if flash.range(0x10, 16) != Some(&VOLUME) || flash.range(0x28, 4) != Some(b"_FVH") {
            return Err(Error::Missing);
        }
        let at = flash.half(0x30).map(usize::from).ok_or(Error::Missing)?;
        let header = flash.range(at, STORE_HEADER).ok_or(Error::Damaged("it is cut short"))?;
        if !header.starts_with(&AUTHENTICATED) {
            return Err(Error::Damaged("it is not of authenticated variables"));
        }
        if (header[20], header[21]) != (FORMATTED, HEALTHY) {
            return Err(Error::Damaged("it is not formatted, or not healthy"));
        }
        let size = header.word(16).and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
        let store = flash.range(at, size).ok_or(Error::Damaged("it ends behind the file"))?;
        Ok(Self { all: variables(store)? })
    }

    /// The value of a variable.
    pub fn get(&self, name: &str, vendor: [u8; 16]) -> Option<&'a [u8]> {
        let wanted: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        let found = self.all.iter().find(|variable| variable.name == wanted && variable.vendor == vendor);
        found.map(|variable| variable.data)
    }
}

fn variables(store: &[u8]) -> Result<Vec<Variable<'_>>, Error> {
    let damaged = || Error::Damaged("a variable ends behind the store");
    let (mut all, mut at) = (Vec::new(), STORE_HEADER);
    while store.half(at) == Some(START) {
        let header = store.range(at, HEADER).ok_or_else(damaged)?;
        let length = |at| header.word(at).and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX);
        let name = store.range(at + HEADER, length(36)).ok_or_else(damaged)?;
        let behind_name = at + HEADER + name.len();
        let data = store.range(behind_name, length(40)).ok_or_else(damaged)?;
        if VALID.contains(&header[2]) {
            let mut vendor = [0; 16];
            vendor.copy_from_slice(&header[44..60]);
            all.push(Variable { name, vendor, data });
        }
        at = (behind_name + data.len()).next_multiple_of(4);
    }
    Ok(all)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const VENDOR: [u8; 16] = [7; 16];

    /// A store with these variables: state, name, value.
    pub(crate) fn flash(variables: &[(u8, &str, [u8; 16], &[u8])]) -> Vec<u8> {
        let mut store = AUTHENTICATED.to_vec();
        store.extend(4096_u32.to_le_bytes());
        store.extend([FORMATTED, HEALTHY, 0, 0, 0, 0, 0, 0]);
        for (state, name, vendor, data) in variables {
            let name: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
            store.extend(START.to_le_bytes());
            store.extend([*state, 0]);
            store.extend([0; 32]);
            store.extend((name.len() as u32).to_le_bytes());
            store.extend((data.len() as u32).to_le_bytes());
            store.extend(vendor);
            store.extend(name);
            store.extend(*data);
            store.resize(store.len().next_multiple_of(4), 0xff);
        }
        store.resize(4096, 0xff);
        let mut flash = vec![0; 0x48];
        flash[0x10..0x20].copy_from_slice(&VOLUME);
        flash[0x28..0x2c].copy_from_slice(b"_FVH");
        flash[0x30] = 0x48;
        flash.extend(store);
        flash
    }

    #[test]
    fn valid_variables_are_found_and_deleted_ones_are_not() {
        let flash = flash(&[(0x3c, "a", VENDOR, b"old"), (0x3f, "a", VENDOR, b"new"), (0x3e, "bc", VENDOR, b"x")]);
        let variables = Variables::parse(&flash).unwrap();
        assert_eq!(variables.get("a", VENDOR), Some(&b"new"[..]));
        assert_eq!(variables.get("bc", VENDOR), Some(&b"x"[..]));
        assert_eq!((variables.get("a", [0; 16]), variables.get("b", VENDOR)), (None, None));
    }

    #[test]
    fn damaged_stores_are_refused() {
        let good = flash(&[(0x3f, "a", VENDOR, b"new")]);
        let after = |at: usize, byte: u8| {
            let mut flash = good.clone();
            flash[at] = byte;
            Variables::parse(&flash).map(|found| found.all.len())
        };
        let store = 0x48;
        for (at, byte, expected) in [
            (0x10, 0, Err(Error::Missing)),
            (store, 0, Err(Error::Damaged("it is not of authenticated variables"))),
            (store + 20, 0xff, Err(Error::Damaged("it is not formatted, or not healthy"))),
            (store + 18, 1, Err(Error::Damaged("it ends behind the file"))),
            (store + STORE_HEADER + 43, 0x80, Err(Error::Damaged("a variable ends behind the store"))),
            (store + STORE_HEADER, 0, Ok(0)),
        ] {
            assert_eq!(after(at, byte), expected, "{at:#x}");
        }
        for length in 0..good.len() {
            let _ = Variables::parse(&good[..length]);
        }
    }
}
