//! Answers, and the one place that writes their heads.

use std::io;

use tiny_http::StatusCode;

use super::fresh_id;
use crate::api::error::ApiError;

/// Headers that follow from the framing and are never a caller's.
const MANAGED: [&str; 4] = ["connection", "content-length", "transfer-encoding", "x-request-id"];

/// Name and value of a header.
pub type Header = (&'static str, String);

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<Header>,
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
        let retry_after = error.retry_after_secs().map(|secs| ("retry-after", secs.to_string()));
        let should_retry = error.should_retry.map(|retry| ("x-should-retry", retry.to_string()));
        response.headers.extend(retry_after.into_iter().chain(should_retry));
        response
    }

    /// Adds a header. Framing, `Connection` and `x-request-id` are added when the answer is written.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

/// The whole answer to what cannot be served, after which the connection closes; the log gets a line about it.
pub(super) fn refusal(error: &ApiError, level: log::Level) -> Vec<u8> {
    let id = fresh_id();
    log::log!(level, "request={id} status={} refused: {}", error.status, error.message);
    let response = Response::error(error);
    let length = response.body.len().to_string();
    let managed = [("x-request-id", id), ("content-length", length), ("connection", "close".to_owned())];
    // The headers of an error can always be sent.
    let mut out = render_head(error.status, &response.headers, &managed).unwrap_or_default();
    out.extend_from_slice(&response.body);
    out
}

/// The head of an answer. The `managed` headers follow from the request and the framing, `headers` are all others.
pub(super) fn render_head(status: u16, headers: &[Header], managed: &[Header]) -> io::Result<Vec<u8>> {
    let refused = |name: &str| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("the response header {name:?} may not be sent so"))
    };
    if let Some((name, _)) = headers.iter().find(|(name, _)| MANAGED.iter().any(|one| one.eq_ignore_ascii_case(name))) {
        return Err(refused(name));
    }
    let mut out = format!("HTTP/1.1 {status:03} {}\r\n", StatusCode(status).default_reason_phrase()).into_bytes();
    for (name, value) in headers.iter().chain(managed) {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let split = value.bytes().any(|byte| byte != b'\t' && byte.is_ascii_control());
        if name.is_empty() || !name.bytes().all(token) || split {
            return Err(refused(name));
        }
        for part in [name, ": ", value, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn head(response: &Response, id: &str) -> io::Result<String> {
        let managed = [("x-request-id", id.to_owned()), ("content-length", "2".to_owned())];
        Ok(String::from_utf8(render_head(response.status, &response.headers, &managed)?).unwrap())
    }

    #[test]
    fn the_head_of_an_answer() {
        let answer = Response::json(200, "{}").header("x-a", "b");
        let text = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-a: b\r\nx-request-id: id\r\n\
                    content-length: 2\r\n\r\n";
        assert_eq!(head(&answer, "id").unwrap(), text);
    }

    #[test]
    fn a_refusal_is_a_whole_answer() {
        let text = String::from_utf8(refusal(&ApiError::bad_request("no"), log::Level::Debug)).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n") && head.contains("\r\nx-request-id: "), "{head}");
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())), "{head}");
        assert!(head.ends_with("\r\nconnection: close"), "{head}");
        assert_eq!(body, ApiError::bad_request("no").to_json());
    }

    #[test]
    fn errors_tell_when_to_retry() {
        let answer = head(&Response::error(&ApiError::busy("x", "y", Duration::from_millis(1))), "id").unwrap();
        assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
        let error = ApiError { should_retry: Some(false), ..ApiError::wrong_key() };
        assert!(head(&Response::error(&error), "id").unwrap().contains("\r\nx-should-retry: false\r\n"));
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
            assert!(head(&Response::new(200).header(name, value), "id").is_err(), "{name:?} {value:?}");
        }
        assert!(head(&Response::new(200), "a\r\nb").is_err());
    }
}
