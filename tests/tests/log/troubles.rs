//! A log that ends, a witness that is away, a log that is another one.

use std::fs;
use std::process::Command;

use anyhow::{Result, anyhow, ensure};
use cairn_tests::environment::program;
use transparency::statement::provenance::Provenance;
use transparency::trust_root::{TrustRootDocument, Witnesses};
use transparency::verify::logged;
use xtask::log_server::rekor::Log;
use xtask::log_server::{ORIGIN, Witnessed};

use crate::Row;
use crate::scene::{PROVENANCE, Scene, Site, must_fail, now, said};

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("a_log_that_was_down_gets_the_same_bytes_when_it_is_back", down),
        Row::new("without_its_witness_an_entry_does_not_count_until_the_witness_has_seen_it", unwitnessed),
        Row::new("a_log_of_another_key_is_not_believed", another),
        Row::new("a_log_and_its_witness_that_are_started_again_are_the_same", started_again),
        Row::new("a_log_with_two_faces_gets_no_witness_for_the_second_and_a_monitor_finds_it_out", two_faces),
    ]
}

fn down(scene: &Scene, row: &str) -> Result<()> {
    let (mut site, first, second) = (scene.site(row)?, scene.release(row)?, scene.release(&format!("{row}-second"))?);
    site.must_publish(&first.folder, &[])?;
    site.witnessed.log.stop();
    must_fail(&site.publish(&second.folder, &[])?, &["does not answer", "run the same command again"])?;
    let kept = fs::read(second.of(PROVENANCE, "dsse.json"))?;
    let policy = site.witnessed.witness.policy();
    site.witnessed.log.start(0, Some(&policy))?;
    // What it had before it ended is still there, and still known.
    fs::remove_file(first.of(PROVENANCE, "sigstore.json"))?;
    ensure!(site.must_publish(&first.folder, &[])? == [0, 1], "the log forgot what it had");
    ensure!(site.must_publish(&second.folder, &[])? == [2, 3], "the log numbers anew");
    ensure!(fs::read(second.of(PROVENANCE, "dsse.json"))? == kept, "other bytes were sent");
    Ok(())
}

/// As `cargo xtask log-server` does, twice in one folder.
fn started_again(scene: &Scene, row: &str) -> Result<()> {
    let keys = |witnessed: &Witnessed| (witnessed.log.verifier_key(), witnessed.witness.verifier_key());
    let (site, release) = (scene.site(row)?, scene.release(row)?);
    let before = keys(&site.witnessed);
    site.must_publish(&release.folder, &[])?;
    let Site { witnessed, folder } = site;
    drop(witnessed);
    let witnessed = Witnessed::start(&scene.programs, &folder.join("log"), ORIGIN)?;
    ensure!(keys(&witnessed) == before, "it is another log or another witness");
    // The witness knows what it has signed, and signs what has grown from it.
    let (site, next) = (Site { witnessed, folder }, scene.release(&format!("{row}-next"))?);
    ensure!(site.must_publish(&next.folder, &[])? == [2, 3], "the log has forgotten its entries");
    let bundle = fs::read(next.of(PROVENANCE, "sigstore.json"))?;
    let verified = logged::<Provenance>(&bundle, &site.trust()?, now()?).map_err(|refusal| anyhow!("{refusal}"))?;
    ensure!(verified.evidence.witnesses.len() == 1, "the witness has not signed");
    Ok(())
}

fn unwitnessed(scene: &Scene, row: &str) -> Result<()> {
    let (mut site, release) = (scene.site(row)?, scene.release(row)?);
    site.witnessed.witness.stop();
    // Rekor publishes heads that no witness has seen: whoever verifies must count.
    must_fail(&site.publish(&release.folder, &[])?, &["WITNESS_QUORUM", "is not published yet"])?;
    ensure!(site.size()? == 1, "the log has {} entries", site.size()?);
    ensure!(!release.of(PROVENANCE, "sigstore.json").exists(), "there is a bundle");
    site.witnessed.witness.start_again()?;
    // A head of the same size is signed again, and so seen, when the log makes the next one.
    let other = scene.release(&format!("{row}-other"))?;
    site.must_publish(&other.folder, &[])?;
    ensure!(site.must_publish(&release.folder, &[])?[0] == 0, "it was logged twice");
    let bundle = fs::read(release.of(PROVENANCE, "sigstore.json"))?;
    let verified = logged::<Provenance>(&bundle, &site.trust()?, now()?).map_err(|refusal| anyhow!("{refusal}"))?;
    ensure!(verified.evidence.witnesses.len() == 1, "the witness has not seen it");
    Ok(())
}

fn another(scene: &Scene, row: &str) -> Result<()> {
    let (site, release) = (&scene.shared, scene.release(row)?);
    let theirs = scene.site(row)?;
    // The address of one log, the key of another: same origin, other key.
    let output = site.publish(&release.folder, &["--log-key", &theirs.witnessed.log.verifier_key()])?;
    must_fail(&output, &["CHECKPOINT", "signed by no known log"])?;
    ensure!(!release.of(PROVENANCE, "sigstore.json").exists(), "there is a bundle");
    // Found out also where the entry was logged before, and is read from tiles.
    must_fail(
        &site.publish(&release.folder, &["--log-key", &theirs.witnessed.log.verifier_key()])?,
        &["signed by no known log"],
    )?;
    site.must_publish(&release.folder, &[]).map(drop)
}

/// Two servers with one key and one origin, which show different entries.
fn two_faces(scene: &Scene, row: &str) -> Result<()> {
    const ALARM: i32 = 3;
    let (site, one, two) = (scene.site(row)?, scene.release(row)?, scene.release(&format!("{row}-second"))?);
    let folder = site.folder.join("second-face");
    fs::create_dir(&folder)?;
    fs::copy(site.witnessed.log.folder().join("log.key"), folder.join("log.key"))?;
    let mut face = Log::open(&scene.programs.rekor, &folder, ORIGIN, 0)?;
    face.start(0, Some(&site.witnessed.witness.policy()))?;
    site.must_publish(&one.folder, &[])?;
    // The witness has seen the first face grow, and signs no other of that size.
    must_fail(
        &site.publish_at(&two.folder, &face.write, &face.read, &[])?,
        &["WITNESS_QUORUM", "is not published yet"],
    )?;

    // Whoever asks for no witness believes either; who has seen one before finds the other out.
    let witnesses = Witnesses { keys: vec![], threshold: 0 };
    let root = site.write_trust("lonely.json", &TrustRootDocument { witnesses, ..site.trust_document()? })?;
    let root = root.display().to_string();
    let published = site.publish_at(&two.folder, &face.write, &face.read, &["--trust-root", &root])?;
    ensure!(published.status.success(), "{}", said(&published));
    let state = site.folder.join("monitor.state").display().to_string();
    let watch = |read: &str| -> Result<(Option<i32>, String)> {
        let mut command = Command::new(program("cairn")?);
        command.args(["monitor", &format!("{read}/api/v2"), "--trust-root", &root, "--state", &state, "--published"]);
        let output = command.arg(&one.folder).arg(&two.folder).output()?;
        Ok((output.status.code(), said(&output)))
    };
    let (code, text) = watch(&site.witnessed.log.read)?;
    ensure!(code == Some(0), "{code:?}: {text}");
    let (code, text) = watch(&face.read)?;
    ensure!(code == Some(ALARM) && text.contains("FORK"), "the second face is not found out, {code:?}: {text}");
    Ok(())
}
