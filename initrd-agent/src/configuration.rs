//! What the configuration partition says (design section 4, "Configuration"): nothing, and the node is stateless; or a
//! `cluster.json`, one line of canonical JSON with its newline. Its bytes are measured before anything believes them. A
//! second copy, on whichever disk, is refused. `hints.json` may follow as a second line; it is neither measured nor
//! believed. The rest of the partition is zero.

use std::fs::File;

use crate::code::Code;
use crate::failure::Failure;
use crate::inventory::{Candidate, MOST_CANDIDATES, Partition};
use crate::read_at::ReadAt;

/// Images reserve 1 MiB; a larger partition is somebody else's idea, and is not read for ever.
const LARGEST: u64 = 16 << 20;
const CHUNK: usize = 64 * 1024;

/// How the node boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Configuration {
    /// No cluster: `/var` is volatile, and this boot never opens a disk.
    Stateless,
    /// A cluster.
    Cluster {
        /// The bytes of its `cluster.json`.
        file: Vec<u8>,
        /// The bytes of `hints.json`, if there are any.
        hints: Option<Vec<u8>>,
    },
}

/// Decides from all configuration partitions of the machine.
///
/// # Errors
/// `CONFIGURATION_UNSUPPORTED` where there are several, or one that holds no line; `CONFIGURATION_UNREADABLE` when it
/// cannot be told what there is.
pub fn decide(partitions: &[Candidate]) -> Result<Configuration, Failure> {
    let unreadable = |what: String| Failure::new(Code::ConfigurationUnreadable, what);
    if partitions.len() > MOST_CANDIDATES {
        return Err(unreadable(format!("more than {MOST_CANDIDATES} configuration partitions")));
    }
    let mut configuration = Configuration::Stateless;
    for candidate in partitions {
        let partition = match candidate {
            Candidate::Ready(partition) => partition,
            Candidate::BeyondDisk(place) => {
                return Err(unreadable(format!("the configuration partition, {place}, ends beyond the disk")));
            }
            Candidate::NotThere(place) => {
                return Err(unreadable(format!("the kernel does not show the configuration partition, {place}")));
            }
        };
        let device = partition.device.display();
        let unsupported = |what: &str| {
            Failure::new(Code::ConfigurationUnsupported, format!("configuration partition {device} {what}"))
        };
        if partition.bytes > LARGEST {
            return Err(unsupported("has more than 16 MiB"));
        }
        let content = read(partition)
            .map_err(|error| unreadable(format!("reading configuration partition {device}: {error}")))?;
        if content.is_empty() {
            continue;
        }
        if configuration != Configuration::Stateless {
            return Err(unsupported("is not the only one with content"));
        }
        let end = content.iter().position(|byte| *byte == b'\n').ok_or_else(|| unsupported("holds no line"))?;
        let (file, rest) = content.split_at(end + 1);
        let hints = (!rest.is_empty()).then(|| rest.to_vec());
        configuration = Configuration::Cluster { file: file.to_vec(), hints };
    }
    Ok(configuration)
}

/// The content up to the zeros at its end.
fn read(partition: &Partition) -> std::io::Result<Vec<u8>> {
    let file = File::open(&partition.device)?;
    let (mut content, mut used) = (Vec::new(), 0);
    let mut chunk = vec![0; CHUNK];
    for offset in (0..partition.bytes).step_by(CHUNK) {
        let part = &mut chunk[..CHUNK.min(usize::try_from(partition.bytes - offset).unwrap_or(CHUNK))];
        ReadAt::read_exact_at(&file, part, offset)?;
        content.extend_from_slice(part);
        if let Some(last) = part.iter().rposition(|byte| *byte != 0) {
            used = content.len() - part.len() + last + 1;
        }
    }
    content.truncate(used);
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(folder: &tempfile::TempDir, name: &str, content: &[u8], bytes: u64) -> Candidate {
        let device = folder.path().join(name);
        std::fs::write(&device, content).unwrap();
        Candidate::Ready(Partition { device, disk: "sda".into(), number: "8:1".into(), bytes })
    }

    #[test]
    fn no_partition_and_empty_partitions_make_a_stateless_node() {
        let folder = tempfile::tempdir().unwrap();
        let empty = partition(&folder, "empty", &[0; 200_000], 200_000);
        assert_eq!(decide(&[]).unwrap(), Configuration::Stateless);
        assert_eq!(decide(&[empty.clone(), empty]).unwrap(), Configuration::Stateless);
    }

    #[test]
    fn the_first_line_is_the_cluster_s_and_hints_are_not_part_of_it() {
        let folder = tempfile::tempdir().unwrap();
        for (content, file, hints) in [
            (&b"{}\n\0\0"[..], &b"{}\n"[..], None),
            (b"{\"a\":1}\n{\"hint\":2}\n\0", b"{\"a\":1}\n", Some(b"{\"hint\":2}\n".to_vec())),
        ] {
            let found = decide(&[partition(&folder, "one", content, content.len() as u64)]).unwrap();
            assert_eq!(found, Configuration::Cluster { file: file.to_vec(), hints });
        }
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
            (
                vec![partition(&folder, "a copy", b"{}\n", 3), partition(&folder, "another", b"{}\n", 3)],
                Code::ConfigurationUnsupported,
            ),
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
