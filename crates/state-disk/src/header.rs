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
mod tests {
    use super::*;

    /// Both copies as cryptsetup 2.7.5 wrote them, with the options of a state disk.
    const RECORDED: &[u8] = include_bytes!("../tests/recorded/luks2-header.bin");
    /// The same with `--integrity hmac-sha256 --integrity-no-wipe`.
    const RECORDED_HMAC: &[u8] = include_bytes!("../tests/recorded/luks2-header-xts-hmac.bin");
    const DISK: &str = "0b5f6c6e-0000-4000-8000-000000000001";

    fn area_of(copies: &[u8]) -> Vec<u8> {
        let mut area = copies.to_vec();
        area.resize(HEADER, 0);
        area
    }

    fn recorded() -> Vec<u8> {
        area_of(RECORDED)
    }

    /// Both copies with another JSON, and right checksums.
    fn with_json(change: impl Fn(String) -> String) -> Vec<u8> {
        with_json_of(recorded(), change)
    }

    fn with_json_of(mut area: Vec<u8>, change: impl Fn(String) -> String) -> Vec<u8> {
        for copy in area[..2 * METADATA].chunks_mut(METADATA) {
            let end = BINARY + copy[BINARY..].iter().position(|byte| *byte == 0).unwrap();
            let text = change(String::from_utf8(copy[BINARY..end].to_vec()).unwrap());
            copy[BINARY..].fill(0);
            copy[BINARY..BINARY + text.len()].copy_from_slice(text.as_bytes());
            sign(copy);
        }
        area
    }

    fn sign(copy: &mut [u8]) {
        let place = CHECKSUM.0..CHECKSUM.0 + CHECKSUM.1;
        copy[place.clone()].fill(0);
        let checksum = padded(&Sha256::digest(&*copy), CHECKSUM.1);
        copy[place].copy_from_slice(&checksum);
    }

    #[test]
    fn a_header_of_cryptsetup_with_our_options_is_accepted() {
        let area = recorded();
        let checked = check(&area, &digest(&area), DISK).unwrap();
        assert_eq!((checked.uuid(), checked.digest()), (DISK, &digest(&area)));
        assert_eq!(with_json(|text| text), area, "the recorded checksums are those that are made here");
    }

    #[test]
    fn header_with_authenticated_sectors_is_accepted_as_that_profile_only() {
        let area = area_of(RECORDED_HMAC);
        assert_eq!(check_fresh(&area, DISK).unwrap().profile(), Profile::XtsHmac);
        assert_eq!(check_fresh(&recorded(), DISK).unwrap().profile(), Profile::Xts);
        for (from, to, name) in [
            ("hmac(sha256)", "none", "integrity"),
            ("hmac(sha256)", "hmac(sha1)", "integrity"),
            ("\"journal_encryption\":\"none\"", "\"journal_encryption\":\"x\"", "integrity"),
            ("\"journal_integrity\":\"none\"", "\"journal_integrity\":\"x\"", "integrity"),
            ("\"key_size\":96", "\"key_size\":64", "keyslot"),
            ("\"size\":\"385024\"", "\"size\":\"258048\"", "keyslot area"),
            ("\"encryption\":\"aes-xts-plain64\",\"sector_size\"", "\"encryption\":\"x\",\"sector_size\"", "cipher"),
        ] {
            let area = with_json_of(area.clone(), |text| {
                assert!(text.contains(from), "{from} is not in {text}");
                text.replacen(from, to, 1)
            });
            assert_eq!(check_fresh(&area, DISK), Err(Error::Profile(name)), "{to}");
        }
        // Without its integrity it is a header of neither profile.
        let stripped = with_json_of(area, |text| {
            let at = text.find(",\"integrity\"").unwrap();
            let end = at + text[at..].find('}').unwrap() + 1;
            format!("{}{}", &text[..at], &text[end..])
        });
        assert_eq!(check_fresh(&stripped, DISK), Err(Error::Profile("keyslot")));
    }

    #[test]
    fn another_digest_is_refused_before_anything_is_parsed() {
        let mut area = recorded();
        let expected = digest(&area);
        area[HEADER - 1] = 1;
        assert!(matches!(check(&area, &expected, DISK), Err(Error::Digest { .. })));
        assert!(matches!(check(&[], &expected, DISK), Err(Error::Digest { .. })));
    }

    #[test]
    fn every_field_that_an_attacker_would_change_is_refused_by_name() {
        let rows: [(&str, &str, &str); 17] = [
            (
                "\"encryption\":\"aes-xts-plain64\",\"sector_size\"",
                "\"encryption\":\"cipher_null-ecb\",\"sector_size\"",
                "cipher",
            ),
            (
                "\"encryption\":\"aes-xts-plain64\",\"key_size\"",
                "\"encryption\":\"cipher_null\",\"key_size\"",
                "keyslot area",
            ),
            ("\"offset\":\"16777216\"", "\"offset\":\"16781312\"", "offset of the segment"),
            ("\"size\":\"dynamic\"", "\"size\":\"4096\"", "size of the segment"),
            ("\"iv_tweak\":\"0\"", "\"iv_tweak\":\"8\"", "IV tweak"),
            ("\"sector_size\":4096", "\"sector_size\":512", "sector size"),
            ("\"type\":\"crypt\"", "\"type\":\"linear\"", "segment"),
            ("\"segments\":{\"0\"", "\"segments\":{\"1\"", "number of segments"),
            ("\"keyslots\":{\"0\"", "\"keyslots\":{\"1\"", "number of keyslots"),
            ("\"tokens\":{}", "\"tokens\":{\"0\":{}}", "number of tokens"),
            ("\"iterations\":1000,\"salt\":\"lRHm", "\"iterations\":1,\"salt\":\"lRHm", "key derivation"),
            ("\"stripes\":4000", "\"stripes\":1", "anti-forensic splitter"),
            ("\"offset\":\"32768\"", "\"offset\":\"16777216\"", "keyslot area"),
            ("\"type\":\"luks2\"", "\"type\":\"reencrypt\"", "keyslot"),
            ("\"keyslots\":[\"0\"]", "\"keyslots\":[]", "digest of the volume key"),
            ("\"json_size\":\"12288\"", "\"json_size\":\"4096\"", "configuration"),
            ("\"keyslots_size\":\"16744448\"", "\"keyslots_size\":\"0\"", "configuration"),
        ];
        for (from, to, name) in rows {
            let area = with_json(|text| {
                assert!(text.contains(from), "{from} is not in {text}");
                text.replacen(from, to, 1)
            });
            assert_eq!(check_fresh(&area, DISK), Err(Error::Profile(name)), "{to}");
        }
    }

    #[test]
    fn unknown_fields_and_fields_that_stand_twice_are_refused() {
        for (from, to) in [
            ("\"tokens\":{}", "\"tokens\":{},\"tokens\":{}"),
            ("\"tokens\":{}", "\"tokens\":{},\"unknown\":1"),
            ("\"iv_tweak\"", "\"integrity\":{},\"iv_tweak\""),
            ("\"iv_tweak\"", "\"integrity\":null,\"iv_tweak\""),
            ("\"iv_tweak\"", "\"flags\":[\"x\"],\"iv_tweak\""),
            ("\"json_size\"", "\"requirements\":{\"mandatory\":[\"online-reencrypt-v2\"]},\"json_size\""),
            ("\"segments\":{", "\"segments\":{\"0\":{},"),
            ("\"iterations\":1000", "\"iterations\":1000.5"),
        ] {
            let area = with_json(|text| text.replacen(from, to, 1));
            assert!(matches!(check_fresh(&area, DISK), Err(Error::Json(_))), "{to}");
        }
    }

    #[test]
    fn each_copy_must_be_whole_and_both_must_say_the_same() {
        let at = |place: usize, byte: u8| {
            let mut area = recorded();
            area[place] ^= byte;
            check_fresh(&area, DISK).unwrap_err()
        };
        assert_eq!(at(0, 1), Error::Magic(1));
        assert_eq!(at(METADATA, 1), Error::Magic(2));
        for (place, name) in [(7, "version"), (15, "size"), (24, "label"), (80, "checksum algorithm"), (168, "UUID")] {
            assert_eq!(at(place, 1), Error::Field(1, name));
            assert_eq!(at(METADATA + place, 1), Error::Field(2, name));
        }
        for (place, name) in [(208, "subsystem"), (263, "offset"), (300, "padding"), (600, "padding")] {
            assert_eq!(at(place, 1), Error::Field(1, name));
        }
        assert_eq!(at(450, 1), Error::Field(1, "checksum"));
        assert_eq!(at(BINARY + 3, 1), Error::Field(1, "checksum"));
        let mut behind = recorded();
        behind[METADATA - 1] = b'x';
        sign(&mut behind[..METADATA]);
        assert_eq!(check_fresh(&behind, DISK), Err(Error::Field(1, "text behind its JSON")));
        let mut sequence = recorded();
        sequence[METADATA + 23] ^= 1;
        sign(&mut sequence[METADATA..2 * METADATA]);
        assert_eq!(check_fresh(&sequence, DISK), Err(Error::Copies));
        assert_eq!(check_fresh(&recorded(), "0b5f6c6e-0000-4000-8000-000000000002"), Err(Error::Field(1, "UUID")));
        assert_eq!(check_fresh(&recorded()[..METADATA], DISK), Err(Error::Profile("length")));
    }
}
