//! Fakes of what a publisher talks to, on loopback: they answer anything but what they should.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

/// Makes an answer of a request.
type Make = dyn Fn(&[u8]) -> Result<Vec<u8>> + Send + Sync;

/// What a fake does with a request.
#[derive(Clone)]
pub enum Manner {
    /// Answers with this status line, header line and body.
    Says(&'static str, &'static str, String),
    /// Answers with bytes that it makes of the request's.
    Makes(Arc<Make>),
    /// Takes the request, and says nothing.
    Hangs,
    /// Promises more than it sends.
    BreaksOff,
}

/// A fake on loopback, until the process ends; its address.
pub fn fake(manner: Manner) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("Failed to listen on loopback")?;
    let address = format!("http://{}", listener.local_addr().context("no local address")?);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let manner = manner.clone();
            std::thread::spawn(move || drop(answer(stream, &manner)));
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream, manner: &Manner) -> Result<()> {
    let body = body(&mut BufReader::new(stream.try_clone()?))?;
    match manner {
        Manner::Hangs => std::thread::sleep(Duration::from_secs(60)),
        Manner::BreaksOff => stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{")?,
        Manner::Says(status, header, body) => {
            let length = body.len();
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{header}\r\n{body}")?;
        }
        Manner::Makes(make) => {
            let made = make(&body)?;
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", made.len())?;
            stream.write_all(&made)?;
        }
    }
    Ok(())
}

/// What follows the header lines of a request or an answer.
fn body(reader: &mut impl BufRead) -> Result<Vec<u8>> {
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line)? > 2 {
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    Ok(body)
}

/// What a server at this address answers to these bytes of a timestamp request.
pub fn ask(address: &str, request: &[u8]) -> Result<Vec<u8>> {
    let (host, path) = address.trim_start_matches("http://").split_once('/').context("an address without a path")?;
    let mut stream = TcpStream::connect(host).with_context(|| format!("Failed to connect to {host}"))?;
    let length = request.len();
    write!(
        stream,
        "POST /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/timestamp-query\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(request)?;
    body(&mut BufReader::new(stream))
}
