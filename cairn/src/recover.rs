//! `cairn recover`: the passphrase of a state disk, from the share that lies on the disk itself, sealed to the cluster's recovery keys. No broker is asked; the disk is only read.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use attest::hpke::PrivateKey;
use attest::recovery::Recovery;
use clap::Args;
use state_disk::layout::{RECOVERY, RECOVERY_LENGTH};
use state_disk::{id, keys, recovery};
use zeroize::Zeroizing;

/// Arguments of `recover`.
#[derive(Args)]
#[command(after_help = "Example: cairn recover --disk /dev/sdb --key offline/recovery.key --passphrase-file state.key")]
pub struct RecoverArgs {
    /// The state disk, or a copy of it
    #[arg(long, value_name = "DISK")]
    disk: PathBuf,
    /// A recovery key of the cluster, as `key-broker init` made it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where to write what opens the disk; must not be there
    #[arg(long, value_name = "FILE")]
    passphrase_file: PathBuf,
}

/// Writes the passphrase; says how to use it.
pub fn run(args: &RecoverArgs) -> Result<String> {
    let (disk, key) = (args.disk.display(), args.key.display());
    let mut place = vec![0; RECOVERY_LENGTH];
    File::open(&args.disk)
        .and_then(|file| file.read_exact_at(&mut place, RECOVERY as u64))
        .with_context(|| format!("Failed to read {disk}"))?;
    let document = recovery::find(&place).with_context(|| {
        format!("{disk} holds no recovery document: is it a state disk of Cairn, and its header whole?")
    })?;
    let document = Recovery::read(document).map_err(|refusal| anyhow!("{disk}: {}", refusal.found))?;
    let share = document
        .open(&read_key(&args.key)?)
        .map_err(|refusal| anyhow!("{key} does not open {disk}: {}", refusal.found))?;
    let share: Zeroizing<[u8; 32]> =
        Zeroizing::new(share.as_slice().try_into().with_context(|| format!("the share of {disk} has a wrong length"))?);
    let id = id::parse(&document.disk).with_context(|| format!("{disk}: its id is no UUID"))?;
    let passphrase = keys::derive(&share, &id).passphrase;
    let path = &args.passphrase_file;
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(&passphrase[..]).and_then(|()| file.sync_all()))
        .with_context(|| format!("Failed to write {}", path.display()))?;
    Ok(format!(
        "disk {}\nopen it with: cryptsetup open --key-file {} {disk} state\nthen destroy {}\n",
        document.disk,
        path.display(),
        path.display()
    ))
}

/// 64 hexadecimal digits.
fn read_key(path: &Path) -> Result<PrivateKey> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text = text.with_context(|| format!("Failed to read {}", path.display()))?;
    let mut seed = Zeroizing::new([0; 32]);
    let read = hex::decode_to_slice(text.trim(), &mut seed[..]);
    ensure!(read.is_ok(), "{} is no recovery key: it has 64 hexadecimal digits", path.display());
    Ok(PrivateKey::from_seed(&seed))
}

#[cfg(test)]
mod tests {
    use attest::bytes::Bytes32;

    use super::*;

    const DISK: &str = "0b5f6c6e-0a00-4000-8000-00000000000f";

    #[test]
    fn the_recovery_key_gives_what_the_share_gives_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let key = |byte: u8| PrivateKey::from_seed(&Zeroizing::new([byte; 32]));
        let share = [7; 32];
        let recovery = Recovery::seal(DISK, &share, &[Bytes32(key(1).public())], || Zeroizing::new([9; 32])).unwrap();
        let mut area = vec![0; RECOVERY + RECOVERY_LENGTH];
        assert!(recovery::put(&mut area, &recovery.write().unwrap()));
        std::fs::write(at("disk"), &area).unwrap();
        std::fs::write(at("blank"), vec![0; area.len()]).unwrap();
        for byte in [1, 2] {
            std::fs::write(at(&byte.to_string()), format!("{}\n", hex::encode([byte; 32]))).unwrap();
        }
        let recover = |disk: &str, key: &str, to: &str| {
            run(&RecoverArgs { disk: at(disk), key: at(key), passphrase_file: at(to) })
        };
        assert!(recover("disk", "1", "passphrase").unwrap().contains("cryptsetup open"));
        let id = id::parse(DISK).unwrap();
        assert_eq!(std::fs::read(at("passphrase")).unwrap(), keys::derive(&share, &id).passphrase.to_vec());
        for (disk, key, to, words) in [
            ("disk", "2", "x", "does not open"),
            ("blank", "1", "x", "no recovery document"),
            ("disk", "disk", "x", "Failed to read"),
            ("missing", "1", "x", "Failed to read"),
            ("disk", "1", "passphrase", "Failed to write"),
        ] {
            let error = format!("{:#}", recover(disk, key, to).unwrap_err());
            assert!(error.contains(words) || error.contains("no recovery key"), "{error}");
        }
        assert!(!at("x").exists());
    }
}
