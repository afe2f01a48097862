//! LUKS2 headers (LUKS2 On-Disk Format Specification 1.1, section 2), and the profiles that a state disk may have ([`Profile`]). What an attacker could do with a header of his own is in CVE-2025-59054, CVE-2025-58356 and
//! CVE-2021-4122: another cipher, another segment, another keyslot, an unfinished re-encryption. None of it passes: both copies must be whole and say the same, and every field must be the profile's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::json::{Integrity, Keyslot, Metadata, Segment};
use crate::layout::{BINARY, CIPHER, HEADER, KEYSLOT, METADATA, Profile, SECTOR, STRIPES, WRAPPING_KEY};

const MAGIC: &[u8; 6] = b"LUKS\xba\xbe";
const SECOND_MAGIC: &[u8; 6] = b"SKUL\xba\xbe";
/// Fields of the binary part: position and length.
const VERSION: (usize, usize) = (6, 2);
const SIZE: (usize, usize) = (8, 8);
const SEQUENCE: (usize, usize) = (16, 8);
const LABEL: (usize, usize) = (24, 48);
const ALGORITHM: (usize, usize) = (72, 32);
const UUID: (usize, usize) = (168, 40);
const SUBSYSTEM: (usize, usize) = (208, 48);
const OFFSET: (usize, usize) = (256, 8);
const CHECKSUM: (usize, usize) = (448, 64);
const PADDING: [(usize, usize); 2] = [(264, 184), (512, BINARY - 512)];
/// PBKDF2 of a random share, which needs no stretching.
const ITERATIONS: u64 = 1000;
const SALT: usize = 32;

/// Why a header is refused. The disk is left as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The header is not the one that the disk's record has.
    #[error("the header's digest is {found}, not {expected}: it was changed, or it is an older one")]
    Digest {
        /// Of the record.
        expected: String,
        /// Of the disk.
        found: String,
    },
    /// There is no header.
    #[error("copy {0} of the header does not begin as one of LUKS2 does")]
    Magic(u8),
    /// A copy is damaged.
    #[error("copy {0} of the header has a wrong {1}")]
    Field(u8, &'static str),
    /// Its JSON cannot be read.
    #[error("the header's JSON cannot be read: {0}")]
    Json(String),
    /// The copies differ.
    #[error("the two copies of the header say different things")]
    Copies,
    /// It is a header of LUKS2, and not one of ours.
    #[error("the header's {0} is not that of a state disk")]
    Profile(&'static str),
}

/// A header that was checked: every field is the profile's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    uuid: String,
    digest: [u8; 32],
    profile: Profile,
}

impl Checked {
    /// The disk's id.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// SHA-256 of the whole area.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// How its sectors are protected: to be compared with what the cluster demands.
    pub fn profile(&self) -> Profile {
        self.profile
    }
}

/// SHA-256 of a header's whole area of [`HEADER`] bytes.
pub fn digest(area: &[u8]) -> [u8; 32] {
    Sha256::digest(area).into()
}

/// Compares the area with the digest of the disk's record, then checks every field.
///
/// # Errors
/// [`Error`].
pub fn check(area: &[u8], expected: &[u8; 32], uuid: &str) -> Result<Checked, Error> {
    let found = digest(area);
    if found != *expected {
        return Err(Error::Digest { expected: hex::encode(expected), found: hex::encode(found) });
    }
    check_fresh(area, uuid)
}

/// Checks every field of a header that was just made, whose digest nobody knows yet.
///
/// # Errors
/// [`Error`].
pub fn check_fresh(area: &[u8], uuid: &str) -> Result<Checked, Error> {
    if area.len() != HEADER {
        return Err(Error::Profile("length"));
    }
    let first = copy(area, 1, MAGIC, uuid)?;
    let second = copy(&area[METADATA..], 2, SECOND_MAGIC, uuid)?;
    if first != second {
        return Err(Error::Copies);
    }
    let metadata: Metadata = serde_json::from_slice(first.1).map_err(|error| Error::Json(error.to_string()))?;
    let profile = check_profile(&metadata)?;
    Ok(Checked { uuid: uuid.to_owned(), digest: digest(area), profile })
}

/// Sequence number and JSON of one copy, whose checksum is right.
fn copy<'a>(area: &'a [u8], number: u8, magic: &[u8; 6], uuid: &str) -> Result<(&'a [u8], &'a [u8]), Error> {
    let whole = area.get(..METADATA).ok_or(Error::Field(number, "length"))?;
    let (binary, json) = whole.split_at(BINARY);
    let field = |(start, length): (usize, usize)| &binary[start..start + length];
    if !binary.starts_with(magic) {
        return Err(Error::Magic(number));
    }
    let offset = (usize::from(number) - 1) * METADATA;
    for (place, expected, name) in [
        (VERSION, padded(&2_u16.to_be_bytes(), 2), "version"),
        (SIZE, padded(&(METADATA as u64).to_be_bytes(), 8), "size"),
        (OFFSET, padded(&(offset as u64).to_be_bytes(), 8), "offset"),
        (LABEL, vec![0; LABEL.1], "label"),
        (SUBSYSTEM, vec![0; SUBSYSTEM.1], "subsystem"),
        (ALGORITHM, padded(b"sha256", ALGORITHM.1), "checksum algorithm"),
        (UUID, padded(uuid.as_bytes(), UUID.1), "UUID"),
        (PADDING[0], vec![0; PADDING[0].1], "padding"),
        (PADDING[1], vec![0; PADDING[1].1], "padding"),
    ] {
        if field(place) != expected {
            return Err(Error::Field(number, name));
        }
    }
    let mut unsigned = whole.to_vec();
    unsigned[CHECKSUM.0..CHECKSUM.0 + CHECKSUM.1].fill(0);
    if field(CHECKSUM) != padded(&Sha256::digest(unsigned), CHECKSUM.1) {
        return Err(Error::Field(number, "checksum"));
    }
    let end = json.iter().position(|byte| *byte == 0).unwrap_or(json.len());
    if json[end..].iter().any(|byte| *byte != 0) {
        return Err(Error::Field(number, "text behind its JSON"));
    }
    Ok((field(SEQUENCE), &json[..end]))
}

fn padded(bytes: &[u8], length: usize) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(length, 0);
    padded
}

fn check_profile(metadata: &Metadata) -> Result<Profile, Error> {
    let keyslot = metadata.keyslots.only().ok_or(Error::Profile("number of keyslots"))?;
    let segment = metadata.segments.only().ok_or(Error::Profile("number of segments"))?;
    let digest = metadata.digests.only().ok_or(Error::Profile("number of digests"))?;
    if !metadata.tokens.0.is_empty() {
        return Err(Error::Profile("number of tokens"));
    }
    let profile = profile_of(segment)?;
    check_keyslot(keyslot, profile)?;
    check_segment(segment)?;
    let only = ["0".to_owned()];
    let is_digest = (digest.kind.as_str(), digest.hash.as_str()) == ("pbkdf2", "sha256")
        && digest.keyslots == only
        && digest.segments == only
        && (1000..=1_000_000).contains(&digest.iterations)
        && is_bytes(&digest.salt)
        && is_bytes(&digest.digest);
    if !is_digest {
        return Err(Error::Profile("digest of the volume key"));
    }
    let sizes = ((METADATA - BINARY).to_string(), (HEADER - 2 * METADATA).to_string());
    if (&metadata.config.json_size, &metadata.config.keyslots_size) != (&sizes.0, &sizes.1) {
        return Err(Error::Profile("configuration"));
    }
    Ok(profile)
}

/// Which profile a segment claims, by its integrity; everything else of it is checked against that.
fn profile_of(segment: &Segment) -> Result<Profile, Error> {
    let Some(Integrity { kind, journal_encryption, journal_integrity }) = &segment.integrity else {
        return Ok(Profile::Xts);
    };
    match (kind.as_str(), journal_encryption.as_str(), journal_integrity.as_str()) {
        ("hmac(sha256)", "none", "none") => Ok(Profile::XtsHmac),
        _ => Err(Error::Profile("integrity")),
    }
}

fn check_keyslot(keyslot: &Keyslot, profile: Profile) -> Result<(), Error> {
    let Keyslot { kind, key_size, af, area, kdf } = keyslot;
    let length = profile.keyslot_length().to_string();
    let place = (area.offset.as_str(), area.size.as_str()) == (&*KEYSLOT.to_string(), &*length);
    let is_area =
        (area.kind.as_str(), area.encryption.as_str(), area.key_size) == ("raw", CIPHER, WRAPPING_KEY) && place;
    let is_kdf = (kdf.kind.as_str(), kdf.hash.as_str(), kdf.iterations) == ("pbkdf2", "sha256", ITERATIONS)
        && is_bytes(&kdf.salt);
    for (right, name) in [
        ((kind.as_str(), *key_size) == ("luks2", profile.key_length()), "keyslot"),
        ((af.kind.as_str(), af.stripes, af.hash.as_str()) == ("luks1", STRIPES, "sha256"), "anti-forensic splitter"),
        (is_area, "keyslot area"),
        (is_kdf, "key derivation"),
    ] {
        if !right {
            return Err(Error::Profile(name));
        }
    }
    Ok(())
}

fn check_segment(segment: &Segment) -> Result<(), Error> {
    let Segment { kind, offset, size, iv_tweak, encryption, sector_size, integrity: _ } = segment;
    for (right, name) in [
        (kind == "crypt", "segment"),
        (*offset == HEADER.to_string(), "offset of the segment"),
        (size == "dynamic", "size of the segment"),
        (iv_tweak == "0", "IV tweak"),
        (encryption == CIPHER, "cipher"),
        (*sector_size == SECTOR, "sector size"),
    ] {
        if !right {
            return Err(Error::Profile(name));
        }
    }
    Ok(())
}

/// 32 bytes in base64.
fn is_bytes(text: &str) -> bool {
    STANDARD.decode(text).is_ok_and(|bytes| bytes.len() == SALT)
}

#[cfg(test)]
mod tests;
