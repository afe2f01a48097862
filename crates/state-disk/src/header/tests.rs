use super::*;

/// Both copies as cryptsetup 2.7.5 wrote them, with the options of a state disk.
const RECORDED: &[u8] = include_bytes!("../../tests/recorded/luks2-header.bin");
/// The same with `--integrity hmac-sha256 --integrity-no-wipe`.
const RECORDED_HMAC: &[u8] = include_bytes!("../../tests/recorded/luks2-header-xts-hmac.bin");
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
