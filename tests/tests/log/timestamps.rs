//! When something was signed, said by a real timestamp authority (Sigstore's, RFC 3161): fetched and kept by the publisher, believed by our verifier and by stock cosign, and what keys that end are worth with it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use cairn_tests::environment::{output_of, program};
use der::asn1::OctetString;
use der::{Decode, Encode};
use sha2::{Digest, Sha256};
use transparency::bundle::Bundle;
use transparency::statement::channel::Channel;
use transparency::statement::measured_boot::MeasuredBoot;
use transparency::tiles::LARGEST;
use transparency::timestamp::Request;
use transparency::trust_root::TrustRootDocument;
use transparency::verify::logged;
use x509_tsp::TimeStampReq;
use xtask::log_server::timestamps::TimestampAuthority;
use xtask::log_server::trust;

use crate::Row;
use crate::fake::{Manner, ask, fake};
use crate::scene::{
    MEASURED_BOOT, MEASURED_BOOT_TYPE, PROVENANCE, Release, Scene, Site, dead_address, must_fail, now, said,
};
use crate::trust::believed;

const YEAR: u64 = 365 * 86_400;

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("a_timestamp_is_verified_offline_by_us_and_by_stock_cosign", verified),
        Row::new("a_key_that_ends_spoils_what_was_signed_after_its_end_and_nothing_before", ended),
        Row::new("whatever_a_timestamp_authority_answers_nothing_is_sent_and_nothing_is_lost", answers),
        Row::new("a_timestamp_that_was_fetched_once_is_used_whatever_the_log_did", kept),
        Row::new("a_trust_root_with_an_authority_wants_its_address_before_anything_is_signed", wanted),
        Row::new("a_channel_has_timestamps_as_releases_have", channel),
    ]
}

/// Publishes with the authority of the scene and this trust root; the numbers of the entries.
fn publish(scene: &Scene, site: &Site, release: &Release, root: &Path) -> Result<Vec<u64>> {
    let root = root.display().to_string();
    site.must_publish(&release.folder, &["--tsa", &scene.timestamps.address, "--trust-root", &root])
}

/// A trust root of `site` that names the authority of the scene; its file.
fn with_authority(scene: &Scene, site: &Site, row: &str) -> Result<std::path::PathBuf> {
    site.write_trust(&format!("{row}.json"), &site.trust_document_with(&scene.timestamps.chain[0])?)
}

/// When the measured-boot statement of a release was signed, by this trust root, for a verifier at this time.
fn time(bundle: &[u8], root: &TrustRootDocument, now: u64) -> Result<Option<u64>> {
    let verified = logged::<MeasuredBoot>(bundle, &believed(root)?, now).map_err(|refusal| anyhow!("{refusal}"))?;
    Ok(verified.evidence.time)
}

/// The same must be refused with this code.
fn must_refuse(bundle: &[u8], root: &TrustRootDocument, now: u64, code: &str) -> Result<()> {
    match logged::<MeasuredBoot>(bundle, &believed(root)?, now) {
        Ok(_) => Err(anyhow!("it is believed, {code} was expected")),
        Err(refusal) => {
            ensure!(refusal.code.name() == code, "it is refused by {refusal}, {code} was expected");
            Ok(())
        }
    }
}

fn verified(scene: &Scene, row: &str) -> Result<()> {
    let (site, release) = (&scene.shared, scene.release(row)?);
    let before = now()?;
    publish(scene, site, &release, &with_authority(scene, site, row)?)?;
    let path = release.of(MEASURED_BOOT, "sigstore.json");
    let bytes = fs::read(&path)?;
    let document = site.trust_document_with(&scene.timestamps.chain[0])?;
    let at = time(&bytes, &document, now()?)?.context("the bundle says no time")?;
    ensure!((before..=now()?).contains(&at), "it was signed at {at}, and published after {before}");
    let bundle = Bundle::parse(&bytes).map_err(|refusal| anyhow!("{refusal}"))?;
    ensure!(
        bundle.timestamps == [fs::read(release.of(MEASURED_BOOT, "tsr"))?],
        "it has another timestamp than was kept"
    );

    let raw = release.file("raw").display().to_string();
    let root = site.folder.join(format!("{row}.json"));
    let mut cairn = Command::new(program("cairn")?);
    cairn.args(["verify", &raw, "--bundle"]).arg(&path).arg("--trust-root").arg(&root);
    ensure!(output_of(&mut cairn)?.contains("VERIFIED"), "cairn verify does not say that it is verified");

    let stripped = Bundle { timestamps: vec![], ..bundle }.write().map_err(|refusal| anyhow!("{refusal}"))?;
    must_refuse(&stripped, &document, now()?, "TIMESTAMP_MISSING")?;
    let other = TimestampAuthority::start(&scene.programs.timestamp_server, &site.folder.join(row))?;
    must_refuse(&bytes, &site.trust_document_with(&other.chain[0])?, now()?, "TIMESTAMP")?;

    // cosign, in a network namespace of its own that has nothing.
    let without = release.folder.join("stripped.json");
    fs::write(&without, &stripped).context("Failed to write a bundle")?;
    let (root, others) = (format!("{row}.trusted_root.json"), format!("{row}.others.json"));
    let log = &site.witnessed.log;
    site.write(&root, trust::trusted_root(log, Some(&scene.timestamps)).as_bytes())?;
    site.write(&others, trust::trusted_root(log, Some(&other)).as_bytes())?;
    let about = ["--use-signed-timestamps", &raw];
    let output = scene.cosign_verifies_by(site, &root, &path, MEASURED_BOOT_TYPE, &about)?;
    ensure!(output.status.success(), "cosign refuses the timestamp: {}", said(&output));
    must_fail(&scene.cosign_verifies_by(site, &others, &path, MEASURED_BOOT_TYPE, &about)?, &["timestamp"])?;
    must_fail(&scene.cosign_verifies_by(site, &root, &without, MEASURED_BOOT_TYPE, &about)?, &["timestamp"])
}

fn ended(scene: &Scene, row: &str) -> Result<()> {
    let (site, release) = (scene.site(row)?, scene.release(row)?);
    let root = with_authority(scene, &site, row)?;
    publish(scene, &site, &release, &root)?;
    let bundle = fs::read(release.of(MEASURED_BOOT, "sigstore.json"))?;
    let document = site.trust_document_with(&scene.timestamps.chain[0])?;
    let at = time(&bundle, &document, now()?)?.context("the bundle says no time")?;
    // From, to, whether there is an authority, seconds after which it is verified; what it is refused by.
    let cases = [
        (0, at + 1, true, 0, None),
        (0, at + 1, true, 50 * YEAR, None),
        (at, at + 1, true, YEAR, None),
        (0, at, true, 0, Some("KEY_VALIDITY")),
        (0, at, true, YEAR, Some("KEY_VALIDITY")),
        (0, at - YEAR, true, YEAR, Some("KEY_VALIDITY")),
        (at + 1, at + YEAR, true, 0, Some("KEY_VALIDITY")),
        (0, at + 1, false, 0, None),
        (0, at + 1, false, 1, Some("KEY_VALIDITY")),
    ];
    for (not_before, not_after, is_known, later, code) in cases {
        let mut document = if is_known { document.clone() } else { site.trust_document()? };
        (document.keys[0].not_before, document.keys[0].not_after) = (not_before, not_after);
        let case = format!("a key from {not_before} to {not_after}, {later} s after {at}, authority: {is_known}");
        match code {
            None => time(&bundle, &document, at + later).map(drop),
            Some(code) => must_refuse(&bundle, &document, at + later, code),
        }
        .context(case)?;
    }

    // Whoever publishes with such a key is told before the log has anything.
    let late = scene.release_of(&format!("{row}-late"), |image| image.source_date += 1)?;
    let mut ended = document;
    ended.keys[0].not_after = at;
    let path = site.write_trust("ended.json", &ended)?.display().to_string();
    let output = site.publish(&late.folder, &["--tsa", &scene.timestamps.address, "--trust-root", &path])?;
    must_fail(&output, &["Nothing was sent to the log", "KEY_VALIDITY"])?;
    ensure!(publish(scene, &site, &late, &root)? == [2, 3], "it was logged all the same");
    Ok(())
}

fn answers(scene: &Scene, row: &str) -> Result<()> {
    use Manner::{BreaksOff, Hangs, Makes, Says};
    let (site, release) = (scene.site(row)?, scene.release(row)?);
    let root = with_authority(scene, &site, row)?.display().to_string();
    site.must_publish(&scene.release_of(&format!("{row}-first"), |image| image.source_date += 1)?.folder, &[])?;
    let real = scene.timestamps.address.clone();
    let other = TimestampAuthority::start(&scene.programs.timestamp_server, &site.folder.join("other"))?;
    let old = Request::new(b"something", [1; 16]).map_err(|error| anyhow!("{error}"))?;
    let old = ask(&real, old.bytes())?;
    let of_something_else = move |request: &[u8]| -> Result<Vec<u8>> {
        let mut request = TimeStampReq::from_der(request)?;
        request.message_imprint.hashed_message = OctetString::new(Sha256::digest(b"something").as_slice())?;
        ask(&real, &request.to_der()?)
    };
    let cases = [
        (fake(Says("500 Internal Server Error", "", "\u{1b}[31mboom".into()))?, "has a problem of its own (500"),
        (fake(Says("503 Service Unavailable", "", String::new()))?, "has a problem of its own (503"),
        (fake(Says("429 Too Many Requests", "", String::new()))?, "has a problem of its own (429"),
        (fake(Says("400 Bad Request", "", "no".into()))?, "refuses the request (400 Bad Request): no"),
        (fake(Says("404 Not Found", "", String::new()))?, "is the address right?"),
        (fake(Says("200 OK", "", "<html>".into()))?, "it is no timestamp, or none was granted: <html>"),
        (fake(Says("200 OK", "", String::new()))?, "it is no timestamp, or none was granted"),
        // PKIStatus rejection (RFC 3161, section 2.4.2), and no token.
        (fake(Makes(Arc::new(|_| Ok(vec![0x30, 5, 0x30, 3, 2, 1, 2]))))?, "it is no timestamp, or none was granted"),
        (fake(Makes(Arc::new(move |_| Ok(old.clone()))))?, "it is the answer to another request"),
        (fake(Makes(Arc::new(of_something_else)))?, "the timestamp is of something else"),
        (fake(Makes(Arc::new(|_| Ok(vec![b'x'; LARGEST + 1]))))?, "it has more than"),
        (other.address.clone(), "the timestamp is not signed by the authority"),
        (fake(Hangs)?, "does not answer"),
        (fake(BreaksOff)?, "broke off"),
        (dead_address()?, "does not answer"),
    ];
    let mut envelope = None;
    for (address, words) in cases {
        let output = site.publish(&release.folder, &["--tsa", &address, "--trust-root", &root, "--patience", "2"])?;
        must_fail(&output, &["is not published yet", "dsse.json: run the same command again", words])
            .with_context(|| format!("{words}: {address}"))?;
        ensure!(!said(&output).contains('\u{1b}'), "the authority speaks to the terminal: {}", said(&output));
        for suffix in ["tsr", "sigstore.json"] {
            ensure!(!release.of(PROVENANCE, suffix).exists(), "{words}: there is a *.{suffix}");
        }
        let bytes = fs::read(release.of(PROVENANCE, "dsse.json")).context("the envelope is lost")?;
        ensure!(*envelope.get_or_insert_with(|| bytes.clone()) == bytes, "{words}: it was signed again");
    }
    ensure!(publish(scene, &site, &release, Path::new(&root))? == [2, 3], "something else was logged");
    ensure!(Some(fs::read(release.of(PROVENANCE, "dsse.json"))?) == envelope, "other bytes were sent");
    Ok(())
}

fn kept(scene: &Scene, row: &str) -> Result<()> {
    let (site, release) = (scene.site(row)?, scene.release(row)?);
    let mut authority = TimestampAuthority::start(&scene.programs.timestamp_server, &site.folder.join("authority"))?;
    let root = site.write_trust("with.json", &site.trust_document_with(&authority.chain[0])?)?.display().to_string();
    let words = ["--tsa", &authority.address, "--trust-root", &root];
    let read = &site.witnessed.log.read;
    must_fail(&site.publish_at(&release.folder, &dead_address()?, read, &words)?, &["The log does not answer"])?;
    let (token, bundle) = (release.of(PROVENANCE, "tsr"), release.of(PROVENANCE, "sigstore.json"));
    let first = fs::read(&token).context("the timestamp is lost")?;

    // The provenance has its timestamp; the other statement needs the authority, and it is away.
    authority.stop();
    let words = ["--tsa", &authority.address, "--trust-root", &root];
    must_fail(&site.publish(&release.folder, &words)?, &["The timestamp authority does not answer"])?;
    let bytes = fs::read(&bundle).context("the first statement was not published")?;
    let read = Bundle::parse(&bytes).map_err(|refusal| anyhow!("{refusal}"))?;
    ensure!(read.timestamps == [first.clone()], "another timestamp was logged");
    authority.start_again()?;
    let words = ["--tsa", &authority.address, "--trust-root", &root];
    ensure!(site.must_publish(&release.folder, &words)? == [0, 1], "something was logged twice");

    // Without a bundle, the same one is made again: the log's proof from its tiles, the timestamp from its file.
    fs::remove_file(&bundle).context("Failed to remove a bundle")?;
    ensure!(site.must_publish(&release.folder, &["--trust-root", &root])? == [0, 1], "it is another entry");
    let again = Bundle::parse(&fs::read(&bundle)?).map_err(|refusal| anyhow!("{refusal}"))?;
    ensure!(again.timestamps == [first], "another timestamp was taken");

    // A kept timestamp is judged, not believed.
    for wrong in [fs::read(release.of(MEASURED_BOOT, "tsr"))?, b"<html>".to_vec()] {
        fs::write(&token, wrong).context("Failed to replace a timestamp")?;
        fs::remove_file(&bundle).context("Failed to remove a bundle")?;
        must_fail(&site.publish(&release.folder, &words)?, &["provenance.tsr: move it away to fetch another"])?;
        ensure!(!bundle.exists(), "there is a bundle");
        fs::write(&bundle, again.write().map_err(|refusal| anyhow!("{refusal}"))?).context("Failed to put it back")?;
    }
    Ok(())
}

fn wanted(scene: &Scene, row: &str) -> Result<()> {
    let (site, release) = (&scene.shared, scene.release(row)?);
    let root = with_authority(scene, site, row)?.display().to_string();
    for more in [&[][..], &["--dry-run"]] {
        let words = [&["--trust-root", &root], more].concat();
        must_fail(&site.publish(&release.folder, &words)?, &["names 1 timestamp authorities", "--tsa URL"])?;
    }
    let address = scene.timestamps.address.as_str();
    must_fail(&site.publish(&release.folder, &["--tsa", address])?, &["Nobody could check", "--tsa-certificate"])?;
    for suffix in ["json", "dsse.json"] {
        ensure!(!release.of(PROVENANCE, suffix).exists(), "there is a *.{suffix}");
    }
    let shown = site.publish(&release.folder, &["--trust-root", &root, "--tsa", address, "--dry-run"])?;
    ensure!(shown.status.success() && said(&shown).contains(address), "the request is not shown: {}", said(&shown));

    // Where there is no trust root yet, the authority is known by its certificate, as the log is by its key.
    let key = site.witnessed.log.verifier_key();
    let certificate = scene.timestamps.certificate();
    let issuer = certificate.with_file_name("tsa-root.der").display().to_string();
    let words = ["--log-key", &key, "--tsa", address, "--tsa-certificate"];
    must_fail(&site.publish(&release.folder, &[&words[..], &[&issuer]].concat())?, &["give the authority's own"])?;
    for (number, name) in ["tsa.der", "tsa-chain.pem"].into_iter().enumerate() {
        let release = scene.release_of(&format!("{row}-{number}"), |image| image.source_date += number as u64 + 1)?;
        let certificate = certificate.with_file_name(name).display().to_string();
        site.must_publish(&release.folder, &[&words[..], &[&certificate]].concat())?;
        let bundle = Bundle::parse(&fs::read(release.of(PROVENANCE, "sigstore.json"))?);
        ensure!(bundle.map_err(|refusal| anyhow!("{refusal}"))?.timestamps.len() == 1, "{name}: there is no timestamp");
    }
    Ok(())
}

fn channel(scene: &Scene, row: &str) -> Result<()> {
    let (site, release) = (scene.site(row)?, scene.release(row)?);
    let root = with_authority(scene, &site, row)?;
    publish(scene, &site, &release, &root)?;
    let bundle = release.of(MEASURED_BOOT, "sigstore.json").display().to_string();
    let root_name = root.display().to_string();
    let with = ["--trust-root", &root_name, "--tsa", &scene.timestamps.address];
    let say = |words: &[&str]| crate::channel::channel(&site, words);
    must_fail(&say(&["init", "stable", &bundle, "--trust-root", &root_name])?, &["--tsa URL"])?;
    let output = say(&[&["init", "stable", &bundle], &with[..]].concat())?;
    ensure!(output.status.success(), "{}", said(&output));
    let output = say(&[&["renew", "stable"], &with[..]].concat())?;
    ensure!(output.status.success(), "{}", said(&output));
    let mut document = site.trust_document_with(&scene.timestamps.chain[0])?;
    for version in 1..=2 {
        let state = fs::read(site.folder.join(format!("channels/stable-v{version:06}.channel.sigstore.json")))?;
        let verified = logged::<Channel>(&state, &believed(&document)?, now()?);
        ensure!(
            verified.map_err(|refusal| anyhow!("{refusal}"))?.evidence.time.is_some(),
            "version {version} says no time"
        );
        // The key may have ended since.
        document.keys[0].not_after = now()? + 1;
        logged::<Channel>(&state, &believed(&document)?, now()? + YEAR).map_err(|refusal| anyhow!("{refusal}"))?;
    }
    Ok(())
}
