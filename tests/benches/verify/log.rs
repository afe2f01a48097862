//! What the real log costs whoever publishes and whoever watches: the wall time of a publication, the part of it that is the log's answer, and the rate at which a monitor reads entries.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cairn_tests::environment::{output_of, program};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use xtask::bench::report::Found;
use xtask::bench::rounds::{median, middle};

use crate::fake::Signer;
use crate::scene::{MEASURED_BOOT, Release, Site};

/// Publications, one after the other.
const PUBLICATIONS: u64 = 9;
/// Entries of somebody else: so many at a time, so many times.
const AT_A_TIME: u64 = 200;
const TIMES: u64 = 10;
/// Looks of a monitor.
const LOOKS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);
const MACHINE: &str = "q35-ovmf-2025.02-2cpus-1gib";

pub fn measure(site: &Site, release: &Release, found: &mut Found) -> Result<()> {
    let mut published = vec![release.folder.clone()];
    let publishing = spread(|number| {
        let (folder, path) = machine(site, number)?;
        published.push(folder);
        Ok(move || site.must_publish(&path, &[]).map(drop))
    })?;
    found.figure("publishing one statement, witnessed and verified", "ms", publishing);
    let bundle = published[1].join(format!("{MACHINE}.{MEASURED_BOOT}.sigstore.json"));
    let size = fs::metadata(&bundle).with_context(|| format!("Failed to read {}", bundle.display()))?.len();
    found.figure("size of a bundle, measured-boot of a machine", "bytes", size as f64);

    let stranger = Signer::new();
    let answer = spread(|number| {
        let stranger = &stranger;
        Ok(move || entry(site, stranger, number))
    })?;
    found.figure("the log's answer to one entry, witnessed", "ms", answer);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let many = |thread: u64| (1..=TIMES).try_for_each(|time| entry(site, &stranger, thread * 1000 + time));
        let threads: Vec<_> = (1..=AT_A_TIME).map(|thread| scope.spawn(move || many(thread))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread has died"))?)
    })?;
    let (entries, seconds) = (AT_A_TIME * TIMES, start.elapsed().as_secs_f64());
    found.figure(&format!("entries that the log takes, {AT_A_TIME} at a time"), "/s", entries as f64 / seconds);
    monitor(site, &published, found)
}

/// Median of some runs in milliseconds. The log answers in time with its heads, one a second, so runs begin at different moments of that second.
fn spread<R: FnOnce() -> Result<()>>(mut prepare: impl FnMut(u64) -> Result<R>) -> Result<f64> {
    let mut times = Vec::new();
    for number in 0..PUBLICATIONS {
        let run = prepare(number)?;
        std::thread::sleep(Duration::from_millis(number * 1000 / PUBLICATIONS));
        let start = Instant::now();
        run()?;
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(middle(times))
}

/// A machine reference in a folder of its own.
fn machine(site: &Site, number: u64) -> Result<(PathBuf, PathBuf)> {
    let folder = site.folder.join(format!("machine-{number}"));
    fs::create_dir(&folder).context("Failed to make a folder")?;
    let path = folder.join(format!("{MACHINE}.machine.json"));
    let from = format!("{}/../measurements/machines/{MACHINE}.machine.json", env!("CARGO_MANIFEST_DIR"));
    fs::copy(&from, &path).with_context(|| format!("Failed to copy {from}"))?;
    Ok((folder, path))
}

/// Logs something that a stranger has signed, and waits for the answer.
fn entry(site: &Site, stranger: &Signer, number: u64) -> Result<()> {
    let signed = number.to_le_bytes();
    let body = json!({"hashedRekordRequestV002": {
        "digest": STANDARD.encode(Sha256::digest(signed)),
        "signature": {
            "content": STANDARD.encode(stranger.sign(&signed)),
            "verifier": {
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "publicKey": {"rawBytes": STANDARD.encode(stranger.key.spki())},
            },
        },
    }})
    .to_string();
    let address = site.witnessed.log.write.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).context("The log does not answer")?;
    stream.set_read_timeout(Some(PATIENCE)).context("Failed to limit a wait")?;
    let length = body.len();
    let head = format!("POST /api/v2/log/entries HTTP/1.1\r\nHost: {address}\r\nConnection: close");
    write!(stream, "{head}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .context("The log does not take an entry")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("The log does not answer")?;
    ensure!(answer.starts_with("HTTP/1.1 201 "), "The log refuses an entry: {answer}");
    Ok(())
}

/// A monitor that has seen nothing yet reads the whole log by HTTP.
fn monitor(site: &Site, published: &[PathBuf], found: &mut Found) -> Result<()> {
    let state = site.folder.join("monitor.state");
    let mut read = 0.0;
    let milliseconds = median(LOOKS, || {
        if state.exists() {
            fs::remove_file(&state).context("Failed to forget a look")?;
        }
        let mut command = Command::new(program("cairn")?);
        command.arg("monitor").arg(format!("{}/api/v2", site.witnessed.log.read)).arg("--state").arg(&state);
        command.arg("--trust-root").arg(site.folder.join("trust-root.json")).arg("--json").arg("--published");
        let seen: Value = serde_json::from_str(&output_of(command.args(published))?)?;
        read = seen["read"].as_f64().context("the monitor does not say how much it read")?;
        Ok(())
    })?;
    found.figure(&format!("entries that a monitor reads, of {read}"), "/s", read / milliseconds * 1000.0);
    Ok(())
}
