//! Answers of HTTP/1.1 (RFC 9112), the few that are understood: a status, a length, a body. One answer at a time, nothing behind it.

/// Longest head.
const HEAD: usize = 8 << 10;
/// Longest body.
pub const LARGEST: usize = 4 << 20;
const MOST_HEADERS: usize = 32;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Seconds to wait before the next request, where they are named.
    pub retry_after: Option<u32>,
    /// The body.
    pub body: Vec<u8>,
}

/// The answer with a body of at most `most` bytes, or nothing while it is not whole.
///
/// # Errors
/// Why it is none that is understood.
pub fn parse(bytes: &[u8], most: usize) -> Result<Option<Response>, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() > HEAD => return Err("its head has more than 8 KiB"),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err("it is no HTTP"),
    };
    let status = head.code.ok_or("it has no status")?;
    let (mut content, mut retry_after) = (None, None);
    for header in head.headers.iter() {
        let value = std::str::from_utf8(header.value).map_err(|_| "a header is not text")?.trim();
        if header.name.eq_ignore_ascii_case("content-length") {
            let number: usize = value.parse().map_err(|_| "its length is no number")?;
            if content.replace(number).is_some() {
                return Err("it has two lengths");
            }
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("it has no length");
        } else if header.name.eq_ignore_ascii_case("retry-after") {
            retry_after = value.parse().ok();
        }
    }
    let content = content.ok_or("it has no length")?;
    if content > most.min(LARGEST) {
        return Err("it is too long");
    }
    let body = &bytes[length..];
    if body.len() < content {
        return Ok(None);
    }
    if body.len() > content {
        return Err("something is behind it");
    }
    Ok(Some(Response { status, retry_after, body: body.to_vec() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 7\r\nContent-Length: 3\r\n\r\nabc";

    #[test]
    fn an_answer_is_whole_or_not_there_yet() {
        let response = Response { status: 503, retry_after: Some(7), body: b"abc".to_vec() };
        assert_eq!(parse(GOOD, LARGEST), Ok(Some(response)));
        for length in 0..GOOD.len() {
            assert_eq!(parse(&GOOD[..length], LARGEST), Ok(None), "{length} bytes");
        }
    }

    #[test]
    fn a_body_above_the_limit_is_refused_before_it_is_read() {
        let head = &GOOD[..GOOD.len() - 3];
        assert_eq!(parse(head, 3), Ok(None));
        assert_eq!(parse(head, 2), Err("it is too long"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let text = |from: &str, to: &str| String::from_utf8_lossy(GOOD).replacen(from, to, 1).into_bytes();
        for (bytes, reason) in [
            (text("HTTP/1.1", "SMTP"), "no HTTP"),
            (text("Content-Length: 3", "Content-Length: 3\r\nContent-Length: 3"), "two lengths"),
            (text("Content-Length: 3", "Content-Length: -3"), "no number"),
            (text("Content-Length: 3", "Content-Length: 99999999999"), "too long"),
            (text("Content-Length: 3", "Transfer-Encoding: chunked"), "no length"),
            (text("Content-Length: 3", "X: 3"), "no length"),
            (text("abc", "abcd"), "behind"),
            ([&b"HTTP/1.1 200 OK\r\n"[..], &b"A: b\r\n".repeat(MOST_HEADERS + 1)].concat(), "no HTTP"),
            ([&b"HTTP/1.1 200 OK\r\nA: "[..], &[b'b'; HEAD]].concat(), "8 KiB"),
        ] {
            let found = parse(&bytes, LARGEST).unwrap_err();
            assert!(found.contains(reason), "{found}, not {reason}");
        }
    }
}
