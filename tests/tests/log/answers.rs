//! A log that answers anything but what it should: each answer has an error of its own, nothing is lost, and the same bytes are sent next time.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Row;
use crate::fake::{Manner, fake};
use crate::scene::{PROVENANCE, Scene, dead_address, must_fail, said};

pub fn rows() -> Vec<Row> {
    vec![Row::new("whatever_a_log_answers_nothing_is_lost_and_the_error_says_what_to_do", answers)]
}

fn answers(scene: &Scene, row: &str) -> Result<()> {
    use Manner::{BreaksOff, Hangs, Says};
    let site = &scene.shared;
    let other = scene.release(&format!("{row}-other"))?;
    site.must_publish(&other.folder, &[])?;
    let bundle: Value = serde_json::from_slice(&fs::read(other.of(PROVENANCE, "sigstore.json"))?)?;
    let others = bundle["verificationMaterial"]["tlogEntries"][0].to_string();

    let release = scene.release(row)?;
    let cases = [
        (Says("500 Internal Server Error", "", "\u{1b}[31mboom".into()), "has a problem of its own (500"),
        (Says("503 Service Unavailable", "", String::new()), "has a problem of its own (503"),
        (Says("429 Too Many Requests", "", String::new()), "has a problem of its own (429"),
        (Says("400 Bad Request", "", "bad signature".into()), "nothing was logged: bad signature"),
        (Says("404 Not Found", "", String::new()), "is the address right?"),
        (Says("302 Found", "Location: /elsewhere\r\n", String::new()), ""),
        (Says("201 Created", "", "<html>".into()), "The log's answer is no entry: <html>"),
        (Says("201 Created", "", "{}".into()), "The log's answer is not understood"),
        (Says("201 Created", "", "[1]".into()), "The log's answer is not understood"),
        (Says("201 Created", "", others), "not made of this statement, signature and key"),
        (Says("409 Conflict", "", String::new()), "does not say where"),
        (Says("409 Conflict", "X-Log-Index: 999999\r\n", String::new()), "its head has"),
        (Says("409 Conflict", "X-Log-Index: 0\r\n", String::new()), "not made of this statement, signature and key"),
        (Hangs, "does not answer"),
        (BreaksOff, "broke off"),
    ];
    let mut kept = None;
    let fakes = cases.into_iter().map(|(manner, words)| anyhow::Ok((fake(manner)?, words)));
    for case in fakes.chain([Ok((dead_address()?, "does not answer"))]) {
        let (address, words) = case?;
        let output = site.publish_at(&release.folder, &address, &site.witnessed.log.read, &["--patience", "2"])?;
        must_fail(&output, &["is not published yet", "dsse.json: run the same command again", words])?;
        ensure!(!said(&output).contains('\u{1b}'), "the log speaks to the terminal: {}", said(&output));
        ensure!(!release.of(PROVENANCE, "sigstore.json").exists(), "{words}: there is a bundle");
        let envelope = fs::read(release.of(PROVENANCE, "dsse.json")).context("the envelope is lost")?;
        ensure!(*kept.get_or_insert_with(|| envelope.clone()) == envelope, "{words}: it was signed again");
    }
    site.must_publish(&release.folder, &[])?;
    ensure!(Some(fs::read(release.of(PROVENANCE, "dsse.json"))?) == kept, "other bytes were sent");
    Ok(())
}
