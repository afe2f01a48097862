//! What a restore proves before it replaces anything: the keys open with the passphrase and belong to the cluster, every record can be read, every share can be unwrapped, and the audit log is the one that the broker has signed.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use attest::cluster::Cluster;
use ring::digest::{SHA256, digest};
use rustls::pki_types::PrivatePkcs8KeyDer;

use crate::config::Config;
use crate::engine::{AdminCommand, Engine, Rows, Settings};
use crate::server;
use crate::socket::{self, Files};

/// Opens a database with the keys beside `keys`, a broker.toml. With `trust`, rows without authentication codes are accepted.
pub fn open(database: &Path, keys: &Config, settings: Settings, passphrase: &[u8], trust: bool) -> Result<Engine> {
    let read = |name: &str| {
        let path = keys.file(name);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let cluster = read("cluster.json")?;
    let engine = Engine::open(database, &cluster, settings)?;
    let files = Files::beside(&keys.path);
    match trust {
        true => drop(socket::unseal_and_trust(&engine, &files, passphrase)?),
        false => socket::unseal(&engine, &files, passphrase)?,
    }
    server::tls(keys, &engine)?;
    let cluster = Cluster::read(&cluster).map_err(|refusal| anyhow!(refusal.found))?;
    let certificate = cluster.certificate(&read("certificate.json")?).map_err(|refusal| anyhow!(refusal.found))?;
    let key = rcgen::KeyPair::try_from(&PrivatePkcs8KeyDer::from(read("tls.key")?)).context("tls.key is damaged")?;
    let found = digest(&SHA256, &rcgen::PublicKeyData::subject_public_key_info(&key));
    ensure!(found.as_ref() == certificate.tls_key.0, "tls.key is not the key that certificate.json names");
    Ok(engine)
}

/// Proves rows and shares, and the audit log: all of it, or its signed head where older leaves are elsewhere.
pub fn prove(engine: &Engine, has_all_leaves: bool) -> Result<Rows> {
    let rows = engine.check_rows()?;
    if has_all_leaves {
        engine.admin(&AdminCommand::AuditVerify { heads: vec![] }).map_err(|problem| anyhow!(problem))?;
    } else {
        engine.verify_head()?;
    }
    Ok(rows)
}
