//! Where things lie in a root: a block that every boot reads, and the block of the hash tree above it.

use anyhow::{Context, Result, ensure};
use xtask::sandbox::Sandbox;

use crate::image::Image;

/// Size of data and hash blocks.
pub const BLOCK: u64 = 4096;
/// Digests in a hash block (SHA-256).
const FAN_OUT: u64 = BLOCK / 32;

/// PID 1, which every boot reads.
pub const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// Offset in the root file system of the first byte of this file, by `dump.erofs` of the build root.
pub fn offset_of(sandbox: &Sandbox, image: &Image, path: &str) -> Result<u64> {
    let mut command =
        sandbox.clone().bind_read_only(&image.file("root.erofs"), "/tmp/root.erofs").command("dump.erofs");
    let output = command.args([&format!("--path={path}"), "-e", "/tmp/root.erofs"]).output();
    let output = output.context("Failed to start dump.erofs")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "dump.erofs failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    first_extent(&text).with_context(|| format!("dump.erofs shows no extent of {path}: {text}"))
}

/// From a line like `0:  0.. 133504 | 133504 :  33103872.. 33161216 | 57344`.
fn first_extent(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.trim_start().starts_with("0:"))?;
    line.rsplit(':').next()?.split("..").next()?.trim().parse().ok()
}

/// Offset in the hash partition of the leaf block that holds the digest of a data block (dm-verity format 1, superblock in front).
pub fn offset_of_leaf(data_blocks: u64, block: u64) -> u64 {
    let mut above = 0;
    let mut level = data_blocks.div_ceil(FAN_OUT);
    while level > 1 {
        level = level.div_ceil(FAN_OUT);
        above += level;
    }
    (1 + above + block / FAN_OUT) * BLOCK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_extent_is_found() {
        let text = "Path : /usr/lib/systemd/systemd\n Ext:   logical offset   |  length :     physical offset    |  length\n   \
                    0:        0..  133504 |  133504 :   33103872..  33161216 |   57344\n";
        assert_eq!(first_extent(text), Some(33_103_872));
        assert_eq!(first_extent("nothing"), None);
    }

    #[test]
    fn leaves_follow_the_levels_above_them() {
        for (data_blocks, block, index) in [
            (1, 0, 1),
            (128, 127, 1),
            (129, 0, 2),
            (129, 128, 3),
            (15473, 8082, 65),
            (16385, 0, 4),
            (16385, 16384, 132),
        ] {
            assert_eq!(offset_of_leaf(data_blocks, block), index * BLOCK, "block {block} of {data_blocks}");
        }
    }
}
