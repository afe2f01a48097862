//! Requests of HTTP/1.1 (RFC 9112), the few that are understood: POST with a length.

/// Longest head, and longest body.
pub const HEAD: usize = 8 << 10;
/// Longest body: a credential.
pub const BODY: usize = 16 << 10;
const MOST_HEADERS: usize = 32;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub path: String,
    /// The document.
    pub body: Vec<u8>,
}

/// The request, or nothing while it is not whole; or the status that is the answer.
pub fn parse(bytes: &[u8]) -> Result<Option<Request>, u16> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() > HEAD => return Err(431),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(400),
    };
    if head.method != Some("POST") {
        return Err(405);
    }
    let mut content = None;
    for header in head.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("transfer-encoding") || (is("content-length") && content.is_some()) {
            return Err(400);
        }
        if is("content-length") {
            let number = std::str::from_utf8(header.value).ok().and_then(|value| value.trim().parse::<usize>().ok());
            content = Some(number.ok_or(400_u16)?);
        }
    }
    let content = content.ok_or(411_u16)?;
    if content > BODY {
        return Err(413);
    }
    let body = &bytes[length..];
    if body.len() < content {
        return Ok(None);
    }
    if body.len() > content {
        return Err(400);
    }
    Ok(Some(Request { path: head.path.unwrap_or_default().to_owned(), body: body.to_vec() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] = b"POST /attest/1/question HTTP/1.1\r\nContent-Length: 3\r\n\r\n{}\n";

    #[test]
    fn a_request_is_whole_or_not_there_yet() {
        let request = Request { path: "/attest/1/question".into(), body: b"{}\n".to_vec() };
        assert_eq!(parse(GOOD), Ok(Some(request)));
        for length in 0..GOOD.len() {
            assert_eq!(parse(&GOOD[..length]), Ok(None), "{length} bytes");
        }
    }

    #[test]
    fn what_is_not_understood_has_its_status() {
        let text = |from: &str, to: &str| String::from_utf8_lossy(GOOD).replacen(from, to, 1).into_bytes();
        for (bytes, status) in [
            (text("POST", "GET"), 405),
            (text("HTTP/1.1", "SMTP"), 400),
            (text("Content-Length: 3", "Content-Length: 3\r\nContent-Length: 3"), 400),
            (text("Content-Length: 3", "Transfer-Encoding: chunked"), 400),
            (text("Content-Length: 3", "Content-Length: x"), 400),
            (text("Content-Length: 3", "X: 3"), 411),
            (text("Content-Length: 3", "Content-Length: 99999999"), 413),
            (text("{}\n", "{}\n{}\n"), 400),
            ([&b"POST / HTTP/1.1\r\nA: "[..], &[b'b'; HEAD]].concat(), 431),
        ] {
            assert_eq!(parse(&bytes), Err(status), "{}", String::from_utf8_lossy(&bytes[..40]));
        }
    }
}
