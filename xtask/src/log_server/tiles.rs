//! The log for its readers: Rekor v2 writes files (C2SP tlog-tiles) and leaves it to a web server to hand them out. This one does
//! that on loopback, and nothing else.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

/// Where Rekor's readers look.
const PREFIX: &str = "/api/v2/";
/// A request line is never longer.
const LONGEST: u64 = 8 << 10;
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves the files below `folder` until the process ends.
pub fn serve(folder: &Path, port: u16) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("Failed to listen on port {port}: is something else there?"))?;
    let address = listener.local_addr().context("A listener without address")?;
    let folder: Arc<Path> = folder.into();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let folder = Arc::clone(&folder);
            // Whoever goes away is served no longer.
            std::thread::spawn(move || drop(answer(stream, &folder)));
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream, folder: &Path) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new((&stream).take(LONGEST)).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let body = place(&first).map(|path| std::fs::read(folder.join(path)));
    let (status, body) = match body {
        Some(Ok(body)) => ("200 OK", body),
        _ => ("404 Not Found", b"not found\n".to_vec()),
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    stream.write_all(&body)
}

/// The file that a request is for. Names that begin with a dot (the server's own state, and the way out) are none.
fn place(request: &str) -> Option<PathBuf> {
    let path = request.strip_prefix("GET ")?.split_once(' ')?.0.strip_prefix(PREFIX)?;
    let plain = |part: &str| {
        !part.starts_with('.')
            && !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    path.split('/').all(plain).then(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_log_are_served() {
        for (request, expected) in [
            ("GET /api/v2/checkpoint HTTP/1.1", Some("checkpoint")),
            ("GET /api/v2/tile/0/x001/067.p/12 HTTP/1.1", Some("tile/0/x001/067.p/12")),
            ("POST /api/v2/checkpoint HTTP/1.1", None),
            ("GET /api/v2/.state/treeState HTTP/1.1", None),
            ("GET /api/v2/../secret HTTP/1.1", None),
            ("GET /api/v2/tile//etc HTTP/1.1", None),
            ("GET /api/v2//etc/passwd HTTP/1.1", None),
            ("GET /etc/passwd HTTP/1.1", None),
            ("GET", None),
        ] {
            assert_eq!(place(request), expected.map(PathBuf::from), "{request}");
        }
    }
}
