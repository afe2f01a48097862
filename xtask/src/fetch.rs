//! Brings the packages of a lock into the cache: in parallel, resumable, each checked by size and SHA-256.
//!
//! A mirror is only a source of bytes. What has another digest than the lock says is thrown away and the next mirror
//! asked; what is half there is continued, whether or not the server honours the range.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use indicatif::ProgressBar;
use reqwest::header::{CONTENT_TYPE, RANGE};
use reqwest::{Client, StatusCode};
use sha2::{Digest, Sha256};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::digest::Sha256Digest;
use crate::lock::{Lock, Package};
use crate::mirror::Mirrors;
use crate::progress::{Progress, megabytes};
use crate::store::Store;

/// Downloads at a time.
const PARALLEL: usize = 8;
/// Rounds over the mirrors before a file is given up.
const ATTEMPTS: u32 = 3;
/// A mirror that sends nothing for this long is given up.
const STALL: Duration = Duration::from_secs(15);

/// A locked package that no mirror has (any more).
#[derive(Debug, thiserror::Error)]
#[error("no mirror has {}", list(.0))]
pub struct Gone(pub Vec<String>);

/// The first few.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let more = names.len().saturating_sub(SHOWN);
    let shown = names[..names.len() - more].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// Why one attempt at one address failed.
enum Failure {
    /// The server says that the file is not there.
    Absent,
    /// The disk of the cache is full: no other mirror changes that.
    Full(anyhow::Error),
    /// Anything else: another attempt or mirror may succeed.
    Other(anyhow::Error),
}

/// More packages than this, and none of them on a mirror: its address is wrong. Mirrors forget some packages, not all.
const MAX_FORGOTTEN: usize = 8;
/// What to do if no mirror answers.
const OTHER_MIRROR: &str = "check the network of this host, or name mirrors that answer in CAIRN_DEBIAN_MIRROR; what arrived is kept, and the next run goes on from there";
/// What to do if the disk is full.
const MAKE_ROOM: &str = "make room, or set XDG_CACHE_HOME to a directory on another disk, and run again";

/// Makes sure that all `packages` are in the cache; gives their files by digest.
pub fn fetch(
    lock: &Lock,
    packages: &[&Package],
    store: &Store,
    progress: &Progress,
) -> Result<BTreeMap<Sha256Digest, PathBuf>> {
    let _guard = store.lock("debs", progress)?;
    let missing = missing(packages, store, progress)?;
    if !missing.is_empty() {
        let mirrors = Mirrors::find(lock.source_date()?)?;
        download_all(lock, &missing, &mirrors, store, progress)?;
    }
    Ok(packages.iter().map(|package| (package.sha256, store.package(&package.sha256))).collect())
}

/// The packages that the cache lacks. What is there is hashed again: a damaged entry is dropped, and said.
fn missing<'a>(packages: &[&'a Package], store: &Store, progress: &Progress) -> Result<Vec<&'a Package>> {
    let mut missing: Vec<&Package> = Vec::new();
    let (sender, receiver) = std::sync::mpsc::channel();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for part in packages.chunks(packages.len().div_ceil(threads).max(1)) {
            let sender = sender.clone();
            scope.spawn(move || {
                for package in part {
                    let path = store.package(&package.sha256);
                    let state = path.exists().then(|| Sha256Digest::of_file(&path));
                    let _ = sender.send((*package, path, state));
                }
            });
        }
        drop(sender);
    });
    for (package, path, state) in receiver {
        match state.transpose()? {
            Some((digest, _)) if digest == package.sha256 => continue,
            Some(_) => {
                progress.warn(&format!("the cached {} is damaged: fetching it again", package.file_name()));
                std::fs::remove_file(&path).with_context(|| format!("Failed to remove {}", path.display()))?;
            }
            None => {}
        }
        missing.push(package);
    }
    missing.sort_by(|a, b| (b.size, &a.path).cmp(&(a.size, &b.path)));
    missing.dedup_by_key(|package| package.sha256);
    Ok(missing)
}

fn download_all(
    lock: &Lock,
    packages: &[&Package],
    mirrors: &Mirrors,
    store: &Store,
    progress: &Progress,
) -> Result<()> {
    let total: u64 = packages.iter().map(|package| package.size).sum();
    progress.note(&format!("fetching {} packages, {}", packages.len(), megabytes(total)));
    let bar = Arc::new(progress.bytes("fetching", total));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("Failed to start the download runtime")?;
    // After one package that no mirror sends, no other is begun: each would cost the same wait.
    let has_failed = AtomicBool::new(false);
    let results: Vec<Result<()>> = runtime.block_on(async {
        let client = client()?;
        let downloads = packages.iter().map(|package| {
            let (client, bar, has_failed) = (client.clone(), bar.clone(), &has_failed);
            async move {
                if has_failed.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let bases = mirrors.of(lock.archive(package)?);
                let outcome = download(&client, package, bases, &store.package(&package.sha256), &bar).await;
                if outcome.as_ref().is_err_and(|error| !error.is::<Gone>()) {
                    has_failed.store(true, Ordering::Relaxed);
                }
                outcome
            }
        });
        Ok::<_, anyhow::Error>(futures_util::stream::iter(downloads).buffer_unordered(PARALLEL).collect().await)
    })?;
    bar.finish_and_clear();
    let mut gone = Vec::new();
    for error in results.into_iter().filter_map(Result::err) {
        match error.downcast::<Gone>() {
            Ok(Gone(names)) => gone.extend(names),
            Err(error) => return Err(error),
        }
    }
    gone.sort();
    match gone.len() {
        0 => Ok(()),
        count if count == packages.len() && count > MAX_FORGOTTEN => {
            let package = packages.first().context("a package that is gone")?;
            let asked = mirrors.of(lock.archive(package)?).join(", ");
            bail!("cannot fetch packages: {asked} has none of {count} packages of the lock\nhint: {OTHER_MIRROR}")
        }
        _ => Err(Gone(gone).into()),
    }
}

/// rustls may find two providers of cryptography in a program; this one is ours. A second call changes nothing.
pub fn choose_provider() {
    // It fails only if one was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn client() -> Result<Client> {
    choose_provider();
    let mut builder = Client::builder().connect_timeout(Duration::from_secs(20)).read_timeout(STALL);
    if let Some(proxy) = apt_proxy() {
        builder = builder
            .proxy(reqwest::Proxy::all(&proxy).with_context(|| format!("apt's proxy {proxy:?} is not an address"))?);
    }
    builder.build().context("Failed to set up the HTTP client")
}

/// The proxy that the host's apt uses, where the environment names none.
pub(crate) fn apt_proxy() -> Option<String> {
    let in_environment = ["http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
    if in_environment.iter().any(|name| std::env::var_os(name).is_some()) {
        return None;
    }
    apt_setting("Acquire::http::Proxy").filter(|proxy| proxy.contains("://"))
}

/// A setting of the host's apt.
pub(crate) fn apt_setting(key: &str) -> Option<String> {
    let output = std::process::Command::new("apt-config").args(["dump", "--format=%v%n", key]).output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// Asks every mirror once, then those that did not say no again: one that hangs costs a single wait before the next is asked.
async fn download(client: &Client, package: &Package, bases: &[String], path: &Path, bar: &ProgressBar) -> Result<()> {
    let mut addresses: Vec<String> = bases.iter().map(|base| format!("{base}/{}", package.path)).collect();
    let mut last = None;
    for attempt in 0..ATTEMPTS {
        let mut again = Vec::new();
        for address in addresses {
            match attempt_download(client, package, &address, path, bar).await {
                Ok(()) => return Ok(()),
                Err(Failure::Absent) => {}
                Err(Failure::Full(error)) => bail!("cannot fetch {address}: {error:#}\nhint: {MAKE_ROOM}"),
                Err(Failure::Other(error)) => {
                    let cause = cause(&error);
                    last = Some(anyhow::anyhow!("cannot fetch {address}: {cause}\nhint: {OTHER_MIRROR}"));
                    again.push(address);
                }
            }
        }
        addresses = again;
        if addresses.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(300 << attempt)).await;
    }
    match last {
        Some(error) if !addresses.is_empty() => Err(error),
        _ => Err(Gone(vec![format!("{} {} ({})", package.name, package.version, package.path)]).into()),
    }
}

/// What went wrong, without the layers of the client between it and the reader.
fn cause(error: &anyhow::Error) -> String {
    match error.downcast_ref::<reqwest::Error>() {
        Some(error) if error.is_timeout() => "the server does not answer".to_owned(),
        Some(_) => error.root_cause().to_string(),
        None => format!("{error:#}"),
    }
}

async fn attempt_download(
    client: &Client,
    package: &Package,
    address: &str,
    path: &Path,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    let partial = path.with_extension("partial");
    let outcome = transfer(client, package, address, &partial, bar).await;
    if let Ok(received) = outcome {
        let checked = check(package, &partial).await;
        if checked.is_err() {
            // Wrong bytes are worth nothing; a short file was kept by `transfer`.
            let _ = tokio::fs::remove_file(&partial).await;
            bar.set_position(bar.position().saturating_sub(received));
        }
        checked.map_err(Failure::Other)?;
        return tokio::fs::rename(&partial, path)
            .await
            .with_context(|| format!("Failed to move {} into place", partial.display()))
            .map_err(Failure::Other);
    }
    outcome.map(|_| ())
}

/// Appends to `partial` what is missing of the file; gives its whole size as far as it was counted in `bar`.
async fn transfer(
    client: &Client,
    package: &Package,
    address: &str,
    partial: &Path,
    bar: &ProgressBar,
) -> Result<u64, Failure> {
    let other = |error: anyhow::Error| Failure::Other(error);
    let mut have = tokio::fs::metadata(partial).await.map_or(0, |data| data.len());
    if have >= package.size {
        have = 0;
    }
    let mut request = client.get(address);
    if have > 0 {
        request = request.header(RANGE, format!("bytes={have}-"));
    }
    let response = request.send().await.map_err(|error| other(error.into()))?;
    match response.status() {
        StatusCode::OK => have = 0,
        StatusCode::PARTIAL_CONTENT if have > 0 => {}
        StatusCode::NOT_FOUND | StatusCode::GONE => return Err(Failure::Absent),
        status => return Err(other(anyhow::anyhow!("the server answers {status}"))),
    }
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.starts_with("text/html") {
        return Err(other(anyhow::anyhow!(
            "the server sends a web page instead of a package: a proxy or a login page"
        )));
    }
    let mut file = open_partial(partial, have).await?;
    bar.inc(have);
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| other(error.into()))?;
        have += chunk.len() as u64;
        if have > package.size {
            let _ = tokio::fs::remove_file(partial).await;
            return Err(other(anyhow::anyhow!("the server sends more than the {} bytes of the lock", package.size)));
        }
        file.write_all(&chunk).await.map_err(|error| not_written(error, partial))?;
        bar.inc(chunk.len() as u64);
    }
    file.sync_all().await.map_err(|error| not_written(error, partial))?;
    Ok(have)
}

async fn open_partial(partial: &Path, have: u64) -> Result<File, Failure> {
    let file = OpenOptions::new().create(true).append(have > 0).write(true).truncate(have == 0).open(partial).await;
    file.map_err(|error| not_written(error, partial))
}

fn not_written(error: std::io::Error, path: &Path) -> Failure {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    if [QuotaExceeded, StorageFull].contains(&error.kind()) {
        return Failure::Full(anyhow::anyhow!("the disk of {} is full", path.display()));
    }
    Failure::Other(anyhow::Error::new(error).context(format!("cannot write {}", path.display())))
}

async fn check(package: &Package, path: &Path) -> Result<()> {
    let mut file = File::open(path).await.with_context(|| format!("Failed to open {}", path.display()))?;
    let (mut hasher, mut buffer, mut length) = (Sha256::new(), vec![0; 256 * 1024], 0);
    loop {
        match file.read(&mut buffer).await.with_context(|| format!("Failed to read {}", path.display()))? {
            0 => break,
            count => {
                hasher.update(&buffer[..count]);
                length += count as u64;
            }
        }
    }
    ensure!(length == package.size, "the mirror sent {length} bytes, the lock says {}", package.size);
    let digest = Sha256Digest::from_hasher(hasher);
    ensure!(
        digest == package.sha256,
        "the mirror sent other bytes (sha256 {digest}) than the lock says ({})",
        package.sha256
    );
    Ok(())
}
