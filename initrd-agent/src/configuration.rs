//! What the configuration partition says (design section 4, "Configuration"): nothing, and the node is stateless; or
//! something, which this version cannot act on. It cannot attest yet, so a deployment that expects attestation must not
//! be told that it runs. Later versions read `cluster.json` here and extend PCR 12 with its digest before they parse
//! it.

use std::fs::File;

use crate::code::Code;
use crate::failure::Failure;
use crate::inventory::{Candidate, MOST_CANDIDATES, Partition};
use crate::read_at::ReadAt;

/// Images reserve 1 MiB; a larger partition is somebody else's idea, and is not read for ever.
const LARGEST: u64 = 16 << 20;
const CHUNK: usize = 64 * 1024;

/// How the node boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Configuration {
    /// No cluster: `/var` is volatile, and this boot never opens a disk.
    Stateless,
}

/// Decides from all configuration partitions of the machine.
///
/// # Errors
/// `CONFIGURATION_UNSUPPORTED` when one has content, `CONFIGURATION_UNREADABLE` when that cannot be told.
pub fn decide(partitions: &[Candidate]) -> Result<Configuration, Failure> {
    let unreadable = |what: String| Failure::new(Code::ConfigurationUnreadable, what);
    if partitions.len() > MOST_CANDIDATES {
        return Err(unreadable(format!("more than {MOST_CANDIDATES} configuration partitions")));
    }
    for candidate in partitions {
        match candidate {
            Candidate::Ready(partition) => {
                if !is_empty(partition).map_err(|error| {
                    unreadable(format!("reading configuration partition {}: {error}", partition.device.display()))
                })? {
                    let what = format!("configuration partition {} is not empty", partition.device.display());
                    return Err(Failure::new(Code::ConfigurationUnsupported, what));
                }
            }
            Candidate::BeyondDisk(place) => {
                return Err(unreadable(format!("the configuration partition, {place}, ends beyond the disk")));
            }
            Candidate::NotThere(place) => {
                return Err(unreadable(format!("the kernel does not show the configuration partition, {place}")));
            }
        }
    }
    Ok(Configuration::Stateless)
}

/// All zero, to the last byte.
fn is_empty(partition: &Partition) -> std::io::Result<bool> {
    if partition.bytes > LARGEST {
        return Ok(false);
    }
    let file = File::open(&partition.device)?;
    let mut chunk = vec![0; CHUNK];
    for offset in (0..partition.bytes).step_by(CHUNK) {
        let part = &mut chunk[..CHUNK.min(usize::try_from(partition.bytes - offset).unwrap_or(CHUNK))];
        ReadAt::read_exact_at(&file, part, offset)?;
        if part.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(folder: &tempfile::TempDir, name: &str, content: &[u8], bytes: u64) -> Candidate {
        let device = folder.path().join(name);
        std::fs::write(&device, content).unwrap();
        Candidate::Ready(Partition { device, number: "8:1".into(), bytes })
    }

    #[test]
    fn no_partition_and_empty_partitions_make_a_stateless_node() {
        let folder = tempfile::tempdir().unwrap();
        let empty = partition(&folder, "empty", &[0; 200_000], 200_000);
        assert_eq!(decide(&[]).unwrap(), Configuration::Stateless);
        assert_eq!(decide(&[empty.clone(), empty]).unwrap(), Configuration::Stateless);
    }

    #[test]
    fn a_partition_with_content_or_without_an_answer_ends_the_boot() {
        let folder = tempfile::tempdir().unwrap();
        let mut last = vec![0; 200_000];
        last[199_999] = 1;
        let empty = partition(&folder, "empty", &[0; 4096], 4096);
        let rows = [
            (vec![partition(&folder, "first", b"{}", 2)], Code::ConfigurationUnsupported),
            (vec![partition(&folder, "last", &last, 200_000)], Code::ConfigurationUnsupported),
            (vec![empty.clone(), partition(&folder, "second", b"{}", 2)], Code::ConfigurationUnsupported),
            (vec![partition(&folder, "huge", &[], LARGEST + 1)], Code::ConfigurationUnsupported),
            (vec![partition(&folder, "short", &[0; 4095], 4096)], Code::ConfigurationUnreadable),
            (vec![Candidate::BeyondDisk("x".into())], Code::ConfigurationUnreadable),
            (vec![Candidate::NotThere("x".into())], Code::ConfigurationUnreadable),
            (vec![empty; MOST_CANDIDATES + 1], Code::ConfigurationUnreadable),
        ];
        for (partitions, code) in rows {
            assert_eq!(decide(&partitions).expect_err(code.name()).code(), code, "{partitions:?}");
        }
    }
}
