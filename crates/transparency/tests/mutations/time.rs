//! Timestamps, and keys that are valid for a time only.

use measurements::bytes::{Bytes32, Hex};
use sha2::{Digest, Sha256};
use transparency::Code;
use transparency::statement::measured_boot::MeasuredBoot;
use transparency::timestamp::Authority;
use transparency::trust_root::Validity;
use transparency::verify::{SKEW, logged};

use crate::code;
use crate::fake::authority::{FakeAuthority, Lie};
use crate::fake::{Fake, NOW, documents};

#[test]
fn a_token_is_of_this_signature_by_this_authority() {
    let mut fake = Fake::new();
    let root = fake.trusted(&fake.trust_root());
    let bundle = fake.publish(&documents::release().write().unwrap());
    let signature = bundle.signature().unwrap();
    let judge = |tokens: Vec<Vec<u8>>| {
        let mut bundle = bundle.clone();
        bundle.timestamps = tokens;
        code(logged::<MeasuredBoot>(&bundle.write().unwrap(), &root, NOW))
    };
    let other = FakeAuthority::new(NOW - 1000, NOW + 1000);
    let good = fake.authority.stamp(&signature, NOW);
    let mut rows = vec![
        (vec![good.clone()], None),
        (vec![], Some(Code::TimestampMissing)),
        (vec![vec![]], Some(Code::Timestamp)),
        (vec![other.stamp(&signature, NOW)], Some(Code::Timestamp)),
        (vec![other.stamp(&signature, NOW), good.clone()], None),
        (vec![fake.authority.stamp(b"another", NOW)], Some(Code::Timestamp)),
        (vec![fake.authority.stamp(&signature, NOW + SKEW)], None),
        (vec![fake.authority.stamp(&signature, NOW + SKEW + 1)], Some(Code::Timestamp)),
        // Outside of the certificate's validity, and outside of the key's.
        (vec![fake.authority.stamp(&signature, NOW - 1001)], Some(Code::Timestamp)),
        (vec![fake.authority.stamp(&signature, NOW - 501)], Some(Code::KeyValidity)),
    ];
    for lie in [Lie::Rejected, Lie::OtherDigest, Lie::NoAttributes, Lie::TwoSigners, Lie::OtherContent] {
        rows.push((vec![fake.authority.lie(&signature, NOW, lie)], Some(Code::Timestamp)));
    }
    for (number, (tokens, expected)) in rows.into_iter().enumerate() {
        assert_eq!(judge(tokens), expected, "row {number}");
    }
    // What nobody signs may change, such as versions; the time that is read may not.
    let authority = Authority::parse(&fake.authority.certificate).unwrap();
    let mut refused = 0;
    for byte in 0..good.len() {
        let mut changed = good.clone();
        changed[byte] ^= 1;
        match authority.time_of(&changed, &signature) {
            Ok(time) => assert_eq!(time, NOW, "byte {byte}"),
            Err(problem) => refused += usize::from(!problem.is_empty()),
        }
    }
    assert!(refused > good.len() * 9 / 10, "{refused} of {}", good.len());
}

#[test]
fn a_key_signs_from_its_first_second_to_its_last() {
    for (not_before, not_after, expected) in [
        (NOW - 1, NOW + 1, None),
        (NOW, NOW + 1, None),
        (NOW + 1, NOW + 2, Some(Code::KeyValidity)),
        (NOW - 1, NOW, Some(Code::KeyValidity)),
    ] {
        for has_authority in [true, false] {
            let mut fake = Fake::new();
            let mut document = fake.trust_root();
            (document.keys[0].not_before, document.keys[0].not_after) = (not_before, not_after);
            if !has_authority {
                document.timestamp_authorities.clear();
            }
            let root = fake.trusted(&document);
            let bundle = fake.publish(&documents::release().write().unwrap()).write().unwrap();
            let found = code(logged::<MeasuredBoot>(&bundle, &root, NOW));
            assert_eq!(found, expected, "{not_before}, {not_after}, {has_authority}");
            // A token keeps what was signed in time; without an authority, the key must be valid now.
            let later = code(logged::<MeasuredBoot>(&bundle, &root, not_after + 100));
            assert_eq!(later.is_none(), expected.is_none() && has_authority);
        }
    }
}

#[test]
fn a_certificate_for_anything_else_is_no_authority() {
    const OTHER: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
    const STAMPS: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x08];
    let is_one =
        |critical, usage| Authority::parse(&FakeAuthority::with_usage(0, NOW, critical, usage).certificate).is_some();
    assert!(is_one(true, STAMPS) && !is_one(false, STAMPS) && !is_one(true, OTHER));
    assert_eq!(Authority::parse(&[]), None);
    let fake = Fake::new();
    let mut document = fake.trust_root();
    document.timestamp_authorities = vec![Hex(FakeAuthority::with_usage(0, NOW, true, OTHER).certificate)];
    assert_eq!(code(document.write()), Some(Code::TrustRoot));
}

/// Of a log and of an authority, as of a key: from its first second to its last, at the time of the timestamp.
#[test]
fn log_and_timestamp_authority_are_trusted_in_their_time_of_validity_only() {
    for (not_before, not_after, is_valid) in
        [(NOW - 1, NOW + 1, true), (NOW, NOW + 1, true), (NOW + 1, NOW + 2, false), (NOW - 1, NOW, false)]
    {
        for (is_log, expected) in [(true, Code::KeyValidity), (false, Code::Timestamp)] {
            let mut fake = Fake::new();
            let mut document = fake.trust_root();
            let of = if is_log { &document.logs[0].key } else { &document.timestamp_authorities[0] };
            let of = Bytes32(Sha256::digest(&of.0).into());
            document.validity.push(Validity { not_after, not_before, of });
            let root = fake.trusted(&document);
            let bundle = fake.publish(&documents::release().write().unwrap()).write().unwrap();
            // The verifier's own clock is later than all of these times.
            let found = code(logged::<MeasuredBoot>(&bundle, &root, NOW + 100));
            assert_eq!(found, (!is_valid).then_some(expected), "{not_before} to {not_after}, log: {is_log}");
        }
    }
}
