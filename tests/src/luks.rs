//! Headers of LUKS2 (LUKS2 On-Disk Format Specification 1.1, section 2) as an attacker writes them: the JSON changed, the checksums right.

use anyhow::{Context, Result, ensure};
use measurements::Bank;
use state_disk::layout::{BINARY, HEADER, METADATA};

/// Where the binary part has its checksum.
const CHECKSUM: std::ops::Range<usize> = 448..512;

/// One of the two copies.
pub const COPIES: [usize; 2] = [0, 1];

/// Replaces text of the JSON in these copies, and makes their checksums right.
pub fn edit(area: &mut [u8], copies: &[usize], from: &str, to: &str) -> Result<()> {
    ensure!(area.len() == HEADER, "a header's area has {HEADER} bytes");
    for copy in copies {
        let copy = &mut area[copy * METADATA..(copy + 1) * METADATA];
        let end = copy[BINARY..].iter().position(|byte| *byte == 0).context("the JSON has no end")?;
        let text = std::str::from_utf8(&copy[BINARY..BINARY + end])?;
        ensure!(text.contains(from), "the header's JSON has no {from}: {text}");
        let mut json = text.replacen(from, to, 1).into_bytes();
        ensure!(json.len() < METADATA - BINARY, "the JSON has become too long");
        json.resize(METADATA - BINARY, 0);
        copy[BINARY..].copy_from_slice(&json);
        copy[CHECKSUM].fill(0);
        let checksum = Bank::Sha256.digest(copy);
        copy[CHECKSUM.start..CHECKSUM.start + checksum.len()].copy_from_slice(&checksum);
    }
    Ok(())
}
