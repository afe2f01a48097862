//! `cargo xtask configure`: a copy of an image that belongs to a cluster. Its configuration partition gets `cluster.json`, which every node measures into PCR 12, and `hints.json`, which nobody measures or
//! believes; nothing else of the image changes.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use attest::bytes::Bytes32;
use attest::cluster::{Cluster, Hints};
use cairn_image::disk::{CONFIGURATION_SIZE, CONFIGURATION_TYPE, copy_file};
use measurements::Bank;
use measurements::boot::Point;
use measurements::canonical::{self, Document as _};
use measurements::compose::{Configuration, compose};
use measurements::parse::gpt::Gpt;

use crate::digest::Sha256Digest;

/// All of a partition table that images have.
const TABLE: u64 = 1 << 20;

/// Write a copy of an image that belongs to a cluster
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Only PCR 12 of the copy differs from the image's.

Examples: cargo xtask configure target/image/cairn_0.1.0.raw --cluster cluster.json --broker 192.0.2.10:7443
          cargo xtask configure target/image/cairn_0.1.0.raw --cluster cluster.json --hints hints.json")]
pub struct ConfigureArgs {
    /// Raw image
    pub image: PathBuf,
    /// The cluster's file, as `key-broker init` made it
    #[arg(long, value_name = "FILE")]
    pub cluster: PathBuf,
    /// Where a broker is: its address, no name. May be repeated; nobody believes it, so it needs no protection
    #[arg(long, value_name = "IP:PORT")]
    pub broker: Vec<String>,
    /// JSON file with addresses of brokers, and static addresses of the node
    #[arg(long, value_name = "FILE")]
    pub hints: Option<PathBuf>,
    /// Bundle of the release that the image is of (*.measured-boot.sigstore.json): nodes name it to their broker
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
    /// Where to write the copy [default: beside the image, with the cluster's id in its name]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Reads the files, writes the copy, and says what PCR 12 will be.
pub fn run(args: &ConfigureArgs) -> Result<()> {
    let cluster = read(&args.cluster)?;
    let hints = hints_of(args)?;
    let parsed =
        Cluster::read(&cluster).map_err(|refusal| anyhow::anyhow!("{}: {}", args.cluster.display(), refusal.found))?;
    let output = match &args.output {
        Some(output) => output.clone(),
        None => args.image.with_extension(format!("{}.raw", &hex::encode(&parsed.id.0)[..8])),
    };
    write(&args.image, &cluster, hints.as_deref(), &output)?;
    println!("image    {}", output.display());
    println!("cluster  {}", hex::encode(&parsed.id.0));
    let registers = compose(&no_image(), &measurements::boot::Machine::unknown(), &Configuration::cluster(&cluster))?
        .registers(Point::Initrd);
    for bank in [Bank::Sha256, Bank::Sha384] {
        if let Some(value) = registers.get(&12).and_then(|value| value.in_bank(bank)) {
            println!("PCR 12   {bank}:{}", hex::encode(value));
        }
    }
    Ok(())
}

/// The hints of file and options in the one form that nodes read. People may format the file as they like.
fn hints_of(args: &ConfigureArgs) -> Result<Option<Vec<u8>>> {
    let mut hints = match &args.hints {
        Some(path) => {
            let hints = serde_json::from_slice(&read(path)?);
            hints
                .with_context(|| format!("{} is not as hints are: see docs/how-to/first-cluster.md", path.display()))?
        }
        None if args.broker.is_empty() && args.bundle.is_none() => return Ok(None),
        None => Hints { brokers: Vec::new(), network: None, release: None, schema: Hints::SCHEMA.into() },
    };
    hints.brokers.extend(args.broker.iter().cloned());
    if let Some(bundle) = &args.bundle {
        hints.release = Some(Bytes32(*Sha256Digest::of(&read(bundle)?).as_bytes()));
    }
    let bytes = canonical::write(&hints).context("Failed to write hints")?;
    Hints::read(&bytes).map_err(|refusal| anyhow::anyhow!("{}: use --broker or --hints", refusal.found))?;
    Ok(Some(bytes))
}

/// PCR 12 follows from the configuration alone.
fn no_image() -> measurements::boot::Measured {
    measurements::boot::Measured { uki: [0; 32], boot: vec![], initrd: vec![], running: vec![] }
}

/// Writes a configured copy of `image` to `output`, which must not be there. What is written is checked first.
pub fn write(image: &Path, cluster: &[u8], hints: Option<&[u8]>, output: &Path) -> Result<()> {
    Cluster::read(cluster).map_err(|refusal| anyhow::anyhow!(refusal.found))?;
    if let Some(hints) = hints {
        Hints::read(hints).map_err(|refusal| anyhow::anyhow!(refusal.found))?;
    }
    let content = [cluster, hints.unwrap_or_default()].concat();
    ensure!(
        content.len() as u64 <= CONFIGURATION_SIZE,
        "cluster.json and hints.json have {} bytes together, the partition has {CONFIGURATION_SIZE}",
        content.len()
    );
    let start = partition(image)?;
    ensure!(!output.exists(), "{} exists: remove it, or name another file with --output", output.display());
    let temporary = output.with_extension("partial");
    let made = copy_file(image, &temporary)
        .map_err(anyhow::Error::from)
        .and_then(|()| place(&temporary, start, &content))
        .and_then(|()| fs::rename(&temporary, output).with_context(|| format!("Failed to write {}", output.display())));
    if made.is_err() {
        // What is there is of no use; that it cannot be removed is not the error to tell.
        let _ = fs::remove_file(&temporary);
    }
    made
}

fn place(disk: &Path, start: u64, content: &[u8]) -> Result<()> {
    let file = File::options().write(true).open(disk).with_context(|| format!("Failed to open {}", disk.display()))?;
    let mut whole = content.to_vec();
    whole.resize(usize::try_from(CONFIGURATION_SIZE)?, 0);
    file.write_all_at(&whole, start)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("Failed to write the configuration partition of {}", disk.display()))
}

/// Where the configuration partition of an image begins, in bytes.
fn partition(image: &Path) -> Result<u64> {
    let mut table = Vec::new();
    File::open(image)
        .and_then(|file| file.take(TABLE).read_to_end(&mut table))
        .with_context(|| format!("Failed to read {}", image.display()))?;
    let table = Gpt::parse(&table)
        .with_context(|| format!("{} is no image: name the .raw file of a build", image.display()))?;
    let kind = CONFIGURATION_TYPE.to_bytes_le();
    let found = table.entries.iter().find(|entry| entry.type_guid == kind);
    let (start, length) = found.and_then(measurements::parse::gpt::Entry::range).with_context(|| {
        format!("{} has no configuration partition: name the .raw file of a build", image.display())
    })?;
    ensure!(
        length as u64 == CONFIGURATION_SIZE,
        "the configuration partition of {} has {length} bytes, not {CONFIGURATION_SIZE}",
        image.display()
    );
    Ok(start as u64)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("Failed to read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use attest::bytes::Hex;
    use attest::cluster::{Assurance, Device, Keys, Slot};

    use super::*;

    fn cluster() -> Vec<u8> {
        let keys = |byte| Keys { keys: vec![Bytes32([byte; 32])], threshold: 1 };
        let slot = Slot { device: Device::OnlyOther, layout: None, mount: "/var".into(), name: "state".into() };
        Cluster {
            assurance: Assurance::Development,
            broker: keys(1),
            epoch: 1,
            id: Hex(vec![7; 16]),
            recovery: keys(2),
            schema: "cairn.cluster/1".into(),
            slots: vec![slot],
        }
        .write()
        .unwrap()
    }

    #[test]
    fn what_is_no_cluster_or_no_image_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (image, output) = (folder.path().join("image.raw"), folder.path().join("output.raw"));
        fs::write(&image, [0; 4096]).unwrap();
        let hints = b"{\"brokers\":[\"broker.example:1\"],\"schema\":\"cairn.hints/1\"}\n";
        for (cluster, hints, word) in [
            (b"{}\n".to_vec(), None, "schema"),
            (cluster(), Some(&hints[..]), "IP:PORT"),
            (cluster(), None, "is no image"),
        ] {
            let error = format!("{:#}", write(&image, &cluster, hints, &output).unwrap_err());
            assert!(error.contains(word), "{error}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn hints_are_of_a_file_that_people_wrote_and_of_options() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let text = "\n{\n  \"schema\": \"cairn.hints/1\",\n  \"brokers\": [\n    \"192.0.2.1:1\"\n  ]\n}\n";
        fs::write(path("hints.json"), text).unwrap();
        fs::write(path("bundle"), b"a bundle").unwrap();
        let args = |hints: Option<&str>, broker: &[&str], bundle: Option<&str>| ConfigureArgs {
            image: path("image"),
            cluster: path("cluster.json"),
            broker: broker.iter().map(|broker| (*broker).to_owned()).collect(),
            hints: hints.map(path),
            bundle: bundle.map(path),
            output: None,
        };
        let read = |args: &ConfigureArgs| Hints::read(&hints_of(args).unwrap().unwrap()).unwrap();
        assert_eq!(hints_of(&args(None, &[], None)).unwrap(), None);
        assert_eq!(read(&args(Some("hints.json"), &[], None)).brokers, ["192.0.2.1:1"]);
        assert_eq!(read(&args(None, &["192.0.2.2:2", "[::1]:3"], None)).brokers, ["192.0.2.2:2", "[::1]:3"]);
        let named = read(&args(Some("hints.json"), &["192.0.2.2:2"], Some("bundle")));
        assert_eq!(named.brokers, ["192.0.2.1:1", "192.0.2.2:2"]);
        assert_eq!(named.release, Some(Bytes32(*Sha256Digest::of(b"a bundle").as_bytes())));

        fs::write(path("other"), "{\"brokers\": [], \"broker\": 1, \"schema\": \"cairn.hints/1\"}").unwrap();
        for (args, word) in [
            (args(None, &["broker.example:7443"], None), "no name server"),
            (args(None, &[], Some("bundle")), "--broker"),
            (args(Some("other"), &[], None), "first-cluster.md"),
            (args(Some("missing"), &[], None), "missing"),
        ] {
            let error = format!("{:#}", hints_of(&args).unwrap_err());
            assert!(error.contains(word), "{error}");
        }
    }
}
