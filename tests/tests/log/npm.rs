//! A third implementation judges what we publish: npm's `@sigstore/verify`, in a program that shares no line and no language with ours or with cosign.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cairn_tests::npm_verifier::{NpmVerifier, Verdict};
use serde_json::Value;

use crate::Row;
use crate::scene::{MEASURED_BOOT, PROVENANCE, Scene};

pub fn rows() -> Vec<Row> {
    vec![Row::new("npms_verifier_believes_what_we_publish_and_nothing_that_was_changed", judged)]
}

/// Changes of a bundle, and npm's code for what is wrong with it then.
type Change = fn(&mut Value, &Value) -> Option<()>;

const CHANGES: [(&str, Change, &str); 9] = [
    ("payload", |bundle, other| replace(bundle, other, "/dsseEnvelope/payload"), "TLOG_BODY_ERROR"),
    ("signature", |bundle, other| replace(bundle, other, "/dsseEnvelope/signatures/0/sig"), "TLOG_BODY_ERROR"),
    ("proof", |bundle, _| flip(bundle, "/inclusionProof/hashes/0"), "TLOG_INCLUSION_PROOF_ERROR"),
    ("leaf", |bundle, other| replace(bundle, other, &entry("/canonicalizedBody")), "TLOG_INCLUSION_PROOF_ERROR"),
    ("root", |bundle, _| head(bundle, 2), "TLOG_INCLUSION_PROOF_ERROR"),
    ("log-signature", |bundle, _| head(bundle, 4), "TLOG_INCLUSION_PROOF_ERROR"),
    ("entry", |bundle, other| replace(bundle, other, &entry("")), "TLOG_BODY_ERROR"),
    ("no-proof", |bundle, _| remove(bundle, "inclusionProof"), "BUNDLE"),
    ("hint", |bundle, _| hint(bundle), "PUBLIC_KEY_ERROR"),
];

fn judged(scene: &Scene, row: &str) -> Result<()> {
    let npm = NpmVerifier::get()?;
    let (site, release) = (scene.site(row)?, scene.release(row)?);
    // Not the first in the tree, so that proofs have a length.
    site.must_publish(&scene.release(&format!("{row}-before"))?.folder, &[])?;
    site.must_publish(&release.folder, &[])?;
    let bundles = [release.of(MEASURED_BOOT, "sigstore.json"), release.of(PROVENANCE, "sigstore.json")];
    let file = |name: &str| site.folder.join(name);
    let (root, key) = (file("trusted_root.json"), file("release.pub"));
    for (bundle, verdict) in bundles.iter().zip(npm.verify(&root, &key, &bundles)?) {
        ensure!(verdict.refused.is_none(), "{}: {verdict:?}", bundle.display());
    }

    let read = |path: &Path| -> Result<Value> {
        serde_json::from_slice(&fs::read(path)?).with_context(|| format!("Failed to read {}", path.display()))
    };
    for (number, bundle) in bundles.iter().enumerate() {
        let (good, other) = (read(bundle)?, read(&bundles[1 - number])?);
        let changed = CHANGES.iter().map(|(what, change, _)| {
            let (mut changed, path) = (good.clone(), file(&format!("{number}-{what}.json")));
            change(&mut changed, &other).with_context(|| format!("{what} is not there"))?;
            ensure!(changed != good, "{what} does not change");
            fs::write(&path, changed.to_string()).with_context(|| format!("Failed to write {}", path.display()))?;
            Ok(path)
        });
        let changed: Vec<PathBuf> = changed.collect::<Result<_>>()?;
        for ((what, _, code), verdict) in CHANGES.iter().zip(npm.verify(&root, &key, &changed)?) {
            refused(what, code, &verdict)?;
        }
    }
    // Another log, and another key.
    let theirs = scene.site(&format!("{row}-theirs"))?;
    let other = |name: &str| theirs.folder.join(name);
    for verdict in npm.verify(&other("trusted_root.json"), &key, &bundles)? {
        refused("another log", "TLOG_INCLUSION_PROOF_ERROR", &verdict)?;
    }
    for verdict in npm.verify(&root, &other("release.pub"), &bundles)? {
        refused("another key", "PUBLIC_KEY_ERROR", &verdict)?;
    }
    Ok(())
}

fn refused(what: &str, code: &str, verdict: &Verdict) -> Result<()> {
    ensure!(verdict.refused.as_deref() == Some(code), "{what} is not refused with {code}: {verdict:?}");
    Ok(())
}

fn entry(pointer: &str) -> String {
    format!("/verificationMaterial/tlogEntries/0{pointer}")
}

/// What the other bundle has there.
fn replace(bundle: &mut Value, other: &Value, pointer: &str) -> Option<()> {
    *bundle.pointer_mut(pointer)? = other.pointer(pointer)?.clone();
    Some(())
}

/// Another first letter of a text in base64.
fn flip(bundle: &mut Value, pointer: &str) -> Option<()> {
    let field = bundle.pointer_mut(&entry(pointer))?;
    let text = field.as_str()?;
    let first = if text.starts_with('A') { 'B' } else { 'A' };
    *field = format!("{first}{}", &text[1..]).into();
    Some(())
}

/// Another letter at the end of this line of the head.
fn head(bundle: &mut Value, line: usize) -> Option<()> {
    let field = bundle.pointer_mut(&entry("/inclusionProof/checkpoint/envelope"))?;
    let mut lines: Vec<String> = field.as_str()?.split('\n').map(str::to_owned).collect();
    let changed = lines.get_mut(line)?;
    let at = changed.trim_end_matches('=').len() - 2;
    let letter = if changed.is_char_boundary(at) && changed[at..].starts_with('A') { "B" } else { "A" };
    changed.replace_range(at..=at, letter);
    *field = lines.join("\n").into();
    Some(())
}

fn remove(bundle: &mut Value, field: &str) -> Option<()> {
    bundle.pointer_mut(&entry(""))?.as_object_mut()?.remove(field).map(drop)
}

/// A key that nobody has.
fn hint(bundle: &mut Value) -> Option<()> {
    *bundle.pointer_mut("/verificationMaterial/publicKey/hint")? = "bm9ib2R5".into();
    Some(())
}
