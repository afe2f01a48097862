//! Variables of the firmware that a host, or root of an earlier boot, has left in flash: a copy of OVMF's variable store with more in it (edk2, `MdeModulePkg/Include/Guid/VariableFormat.h`).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use measurements::parse::variables::Variables;
use xtask::vm::FirmwareFiles;

use crate::environment::variable;

/// 8cf2644b-4b0b-428f-9387-6d876050dc67, of systemd, as stored.
pub const SYSTEMD: [u8; 16] =
    [0x4b, 0x64, 0xf2, 0x8c, 0x0b, 0x4b, 0x8f, 0x42, 0x93, 0x87, 0x6d, 0x87, 0x60, 0x50, 0xdc, 0x67];
/// 4a67b082-0a4c-41cf-b6c7-440b29bb8c4f, of the Boot Loader Interface, as stored.
pub const LOADER: [u8; 16] =
    [0x82, 0xb0, 0x67, 0x4a, 0x4c, 0x0a, 0xcf, 0x41, 0xb6, 0xc7, 0x44, 0x0b, 0x29, 0xbb, 0x8c, 0x4f];

/// 8be4df61-93ca-11d2-aa0d-00e098032b8c, of the UEFI Specification, as stored.
pub const GLOBAL: [u8; 16] =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];

const FOLDER: &str = "usr/share/OVMF";
/// The store's header is behind that of its firmware volume.
const VOLUME_HEADER_LENGTH: usize = 0x30;
const STORE_HEADER: usize = 28;
const HEADER: usize = 60;
/// Non-volatile, for boot services and for the running system.
const ATTRIBUTES: u32 = 7;

/// One variable.
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// GUID of who defined it, as stored.
    pub vendor: [u8; 16],
    /// Its bytes.
    pub content: Vec<u8>,
}

impl Variable {
    /// Holds text: UTF-16 with a zero at the end.
    pub fn text(name: &'static str, vendor: [u8; 16], text: &str) -> Self {
        Self { name, vendor, content: utf16(text) }
    }

    /// Holds a number of 64 bits.
    pub fn number(name: &'static str, vendor: [u8; 16], number: u64) -> Self {
        Self { name, vendor, content: number.to_le_bytes().into() }
    }
}

/// The build root's firmware with these variables. `folder` holds the store.
pub fn firmware(folder: &Path, variables: &[Variable]) -> Result<FirmwareFiles> {
    let files = variable("CAIRN_BUILD_ROOT")?.join(FOLDER);
    let mut flash = fs::read(files.join("OVMF_VARS_4M.fd")).context("Failed to read OVMF's variable store")?;
    for Variable { name, vendor, content } in variables {
        add(&mut flash, name, *vendor, content)?;
        let parsed = Variables::parse(&flash)?;
        ensure!(parsed.get(name, *vendor) == Some(&content[..]), "the store has no {name}");
    }
    let store = folder.join("variables.fd");
    fs::write(&store, flash).context("Failed to write a variable store")?;
    Ok(FirmwareFiles { code: files.join("OVMF_CODE_4M.fd"), variables: store })
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

/// Adds a variable behind those that are there.
fn add(flash: &mut [u8], name: &str, vendor: [u8; 16], data: &[u8]) -> Result<()> {
    let half = |flash: &[u8], at: usize| u16::from_le_bytes([flash[at], flash[at + 1]]);
    let word =
        |flash: &[u8], at: usize| u32::from_le_bytes([flash[at], flash[at + 1], flash[at + 2], flash[at + 3]]) as usize;
    let mut at = usize::from(half(flash, VOLUME_HEADER_LENGTH)) + STORE_HEADER;
    while half(flash, at) == 0x55aa {
        let length = HEADER + word(flash, at + 36) + word(flash, at + 40);
        at = (at + length).next_multiple_of(4);
    }
    let name = utf16(name);
    let mut bytes = vec![0; HEADER];
    bytes[..4].copy_from_slice(&[0xaa, 0x55, 0x3f, 0]);
    bytes[4..8].copy_from_slice(&ATTRIBUTES.to_le_bytes());
    bytes[36..40].copy_from_slice(&(name.len() as u32).to_le_bytes());
    bytes[40..44].copy_from_slice(&(data.len() as u32).to_le_bytes());
    bytes[44..60].copy_from_slice(&vendor);
    bytes.extend([&name[..], data].concat());
    flash[at..at + bytes.len()].copy_from_slice(&bytes);
    Ok(())
}
