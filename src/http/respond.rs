//! Answers, and the one place that writes their heads.

use std::io;

use tiny_http::StatusCode;

use crate::api::error::ApiError;

/// Headers that follow from the framing and are never a caller's.
const MANAGED: [&str; 4] = ["connection", "content-length", "transfer-encoding", "x-request-id"];

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Response {
    /// An answer without a body.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// JSON text.
    pub fn json(status: u16, text: impl Into<Vec<u8>>) -> Self {
        Self::new(status).header("content-type", "application/json").body(text)
    }

    /// An error in the shape of the API, with what tells SDKs whether to try again.
    pub fn error(error: &ApiError) -> Self {
        let mut response = Self::json(error.status, error.to_json());
        if let Some(secs) = error.retry_after_secs() {
            response = response.header("retry-after", secs.to_string());
        }
        match error.should_retry {
            Some(retry) => response.header("x-should-retry", retry.to_string()),
            None => response,
        }
    }

    /// Adds a header. Framing, `Connection` and `x-request-id` are added when the answer is written.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The whole answer as bytes, its body left out for HEAD.
    pub(super) fn render(&self, request_id: &str, connection: Option<&str>, is_head: bool) -> io::Result<Vec<u8>> {
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let bare = self.status == 204 || self.status == 304;
        let length = if bare { Length::None } else { Length::Known(self.body.len()) };
        let mut out = render_head(self.status, headers, length, request_id, connection)?;
        if !bare && !is_head {
            out.extend_from_slice(&self.body);
        }
        Ok(out)
    }
}

/// How the client finds the end of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Length {
    /// There is no body, or it ends with the connection.
    None,
    /// So many bytes.
    Known(usize),
    /// Chunks.
    Chunked,
}

/// The head of an answer; `connection` is the value of that header, if it is needed.
pub(super) fn render_head<'a>(
    status: u16,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    length: Length,
    request_id: &str,
    connection: Option<&str>,
) -> io::Result<Vec<u8>> {
    let mut out = format!("HTTP/1.1 {status:03} {}\r\n", StatusCode(status).default_reason_phrase()).into_bytes();
    for (name, value) in headers {
        if MANAGED.iter().any(|managed| managed.eq_ignore_ascii_case(name)) {
            return Err(refused(name));
        }
        push(&mut out, name, value)?;
    }
    push(&mut out, "x-request-id", request_id)?;
    match length {
        Length::None => {}
        Length::Known(length) => push(&mut out, "content-length", &length.to_string())?,
        Length::Chunked => push(&mut out, "transfer-encoding", "chunked")?,
    }
    if let Some(value) = connection {
        push(&mut out, "connection", value)?;
    }
    out.extend_from_slice(b"\r\n");
    Ok(out)
}

fn push(out: &mut Vec<u8>, name: &str, value: &str) -> io::Result<()> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) || value.bytes().any(|byte| byte != b'\t' && byte.is_ascii_control())
    {
        return Err(refused(name));
    }
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    Ok(())
}

fn refused(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("the response header {name:?} may not be sent so"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn text(response: &Response, is_head: bool) -> String {
        String::from_utf8(response.render("id", Some("close"), is_head).unwrap()).unwrap()
    }

    #[test]
    fn a_whole_answer() {
        let answer = Response::json(200, "{}").header("x-a", "b");
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-a: b\r\nx-request-id: id\r\n\
                    content-length: 2\r\nconnection: close\r\n\r\n";
        assert_eq!(text(&answer, false), format!("{head}{{}}"));
        assert_eq!(text(&answer, true), head);
        assert!(!text(&Response::new(204), false).contains("content-length"));
    }

    #[test]
    fn errors_tell_when_to_retry() {
        let answer = text(&Response::error(&ApiError::busy("x", "y", Duration::from_millis(1))), false);
        assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
        let error = ApiError { should_retry: Some(false), ..ApiError::wrong_key() };
        assert!(text(&Response::error(&error), false).contains("\r\nx-should-retry: false\r\n"));
    }

    #[test]
    fn headers_cannot_be_split() {
        for (name, value) in [
            ("x", "a\r\nb: c"),
            ("x", "a\nb"),
            ("x", "a\0"),
            ("x\r\ny", "a"),
            ("x y", "a"),
            ("", "a"),
            ("x:", "a"),
            ("Content-Length", "1"),
            ("transfer-encoding", "chunked"),
        ] {
            assert!(Response::new(200).header(name, value).render("id", None, false).is_err(), "{name:?} {value:?}");
        }
        assert!(Response::new(200).render("a\r\nb", None, false).is_err());
    }
}
