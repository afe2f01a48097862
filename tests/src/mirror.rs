//! A fake mirror on loopback: serves locked packages from the cache, and for one of them does what bad mirrors do. The real one is used wherever
//! a row is not about the mirror itself.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

/// What the mirror does when asked for the victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Sends the file.
    Honest,
    /// Sends as many other bytes.
    OtherBytes,
    /// Sends more.
    TooMuch,
    /// Sends less, and says so in its header.
    TooLittle,
    /// Has it no more.
    Absent,
    /// Sends a web page for every path, as a captive portal does.
    WebPage,
    /// Answers nothing.
    Stalls,
    /// Sends half, then nothing more.
    HangsHalfway,
}

/// A mirror that runs until the process ends.
pub struct FakeMirror {
    /// Its base address.
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Path below the base.
    pub path: String,
    /// First byte asked for.
    pub from: usize,
}

impl FakeMirror {
    /// Serves `files` (by path in the archive); `manner` applies to all of them.
    pub fn start(files: BTreeMap<String, PathBuf>, manner: Manner) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("Failed to listen on loopback")?;
        let address = format!("http://{}/debian", listener.local_addr().context("no local address")?);
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (files, log) = (Arc::new(files), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (files, log) = (Arc::clone(&files), Arc::clone(&log));
                // A client that goes away is part of the tests.
                std::thread::spawn(move || drop(answer(stream, &files, manner, &log)));
            }
        });
        Ok(Self { address, requests })
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn answer(
    mut stream: TcpStream,
    files: &BTreeMap<String, PathBuf>,
    manner: Manner,
    log: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let Some(request) = read_request(&mut reader)? else { return Ok(()) };
        log.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        if manner == Manner::WebPage {
            let page = "<html><title>Please log in</title></html>";
            let length = page.len();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n{page}")?;
            continue;
        }
        let file = files.get(&request.path).filter(|_| manner != Manner::Absent);
        let Some(file) = file else {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        let mut bytes = fs::read(file)?;
        match manner {
            Manner::OtherBytes => bytes.iter_mut().for_each(|byte| *byte ^= 1),
            Manner::TooMuch => bytes.extend([0; 100]),
            Manner::TooLittle => bytes.truncate(bytes.len() / 2),
            Manner::Stalls => std::thread::sleep(Duration::from_secs(3600)),
            Manner::Honest | Manner::HangsHalfway | Manner::Absent | Manner::WebPage => {}
        }
        let rest = &bytes[request.from.min(bytes.len())..];
        let status = if request.from > 0 { "206 Partial Content" } else { "200 OK" };
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", rest.len())?;
        if manner == Manner::HangsHalfway {
            stream.write_all(&rest[..rest.len() / 2])?;
            stream.flush()?;
            std::thread::sleep(Duration::from_secs(3600));
        }
        stream.write_all(rest)?;
    }
}

fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    // Both archives of a mirror: `/debian/` and `/debian-security/`.
    let path = path.trim_start_matches('/').split_once('/').map_or("", |(_, path)| path);
    // Names in an archive have no other escapes than these.
    let path = path.replace("%2B", "+").replace("%7E", "~").replace("%3A", ":").replace("%2b", "+").replace("%7e", "~");
    let mut request = Request { path, from: 0 };
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok(Some(request));
        }
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            request.from = range.trim().trim_end_matches('-').parse().unwrap_or(0);
        }
    }
}
