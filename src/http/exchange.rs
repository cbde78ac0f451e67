//! One request and its answer, as a [`Service`](super::Service) sees them.

use std::io::{self, Write as _};
use std::mem;
use std::time::Instant;

use rustix::net::{AddressFamily, sockopt};
use tiny_http::Method;

use super::connection::Connection;
use super::head::{Framing, Head};
use super::respond::{Header, render_head};
use super::{Body, Response, fresh_id};
use crate::api::error::ApiError;
use crate::deadline::{Cancel, CancelCause};

/// Headers of a stream of server-sent events. No proxy on the way may keep it back or store it.
const EVENT_STREAM: [(&str, &str); 3] =
    [("content-type", "text/event-stream"), ("cache-control", "no-cache"), ("x-accel-buffering", "no")];

/// One request on one connection. It is answered once, with [`Exchange::respond`], [`Exchange::error`] or a stream.
pub struct Exchange<'c> {
    connection: &'c mut Connection,
    head: Head,
    /// The client's `x-request-id` where it has a sane one (up to 128 of `[A-Za-z0-9._-]`), else a new id. It is sent
    /// back with the answer.
    pub(super) request_id: String,
    /// When the head was complete.
    pub(super) started: Instant,
    /// Whether bytes of the request are still to come.
    body_pending: bool,
    watched: bool,
    extra: Vec<Header>,
    /// The status of the answer, once there is one.
    pub(super) status: Option<u16>,
    /// Whether a stream was begun and has not ended.
    streaming: bool,
    closes: bool,
    /// Bytes to write; kept for the next piece.
    out: Vec<u8>,
}

impl<'c> Exchange<'c> {
    pub(super) fn new(connection: &'c mut Connection, head: Head) -> Self {
        Self {
            connection,
            request_id: head.request_id().map_or_else(fresh_id, str::to_owned),
            started: Instant::now(),
            body_pending: head.framing != Framing::Length(0),
            closes: !head.keep_alive,
            head,
            watched: false,
            extra: Vec::new(),
            status: None,
            streaming: false,
            out: Vec::new(),
        }
    }

    /// The request without its body.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Whether the client came over a Unix socket, to which no browser has a way.
    pub(super) fn is_unix(&self) -> bool {
        sockopt::socket_domain(&self.connection.place.socket) == Ok(AddressFamily::UNIX)
    }

    /// Reads the body, after `100 Continue` where the client waits for that. What is never asked for is never read. A
    /// second call gives nothing.
    ///
    /// # Errors
    /// 400 malformed, 408 too slow, 413 too large, 503 too many bytes in all bodies; the connection closes after the
    /// answer.
    pub fn read_body(&mut self) -> Result<Body, ApiError> {
        let framing = mem::replace(&mut self.head.framing, Framing::Length(0));
        let body = self.connection.read_body(framing, self.head.expects_continue)?;
        // What a failed attempt has left over stays pending.
        self.body_pending &= framing == Framing::Length(0);
        Ok(body)
    }

    /// Tells when the client leaves, and from the first call on writes do not wait for one that has left. Call it when
    /// the body was read: what a client sends is not looked at, only whether its side of the connection is closed.
    pub fn cancel(&mut self) -> Cancel {
        self.watched = true;
        self.connection.place.cancel.clone()
    }

    /// Headers that the answer will carry, whatever it is.
    pub fn add_headers(&mut self, headers: Vec<Header>) {
        self.extra.extend(headers);
    }

    /// Sends a whole answer; its body is left out for HEAD.
    ///
    /// # Errors
    /// `InvalidInput`: a header that cannot be sent, or a second answer; nothing was written. Else the client is gone
    /// or too slow.
    pub fn respond(&mut self, response: Response) -> io::Result<()> {
        let length = (response.status != 204).then(|| ("content-length", response.body.len().to_string()));
        self.begin(response.status, response.headers, length)?;
        if self.head.method != Method::Head {
            self.out.extend_from_slice(&response.body);
        }
        self.flush()
    }

    /// Sends an error.
    ///
    /// # Errors
    /// As [`Exchange::respond`].
    pub fn error(&mut self, error: &ApiError) -> io::Result<()> {
        self.respond(Response::error(error))
    }

    /// Begins a stream of server-sent events: chunked in HTTP/1.1, in 1.0 up to the end of the connection. The head goes
    /// out with the first [`Exchange::write`], an empty one if need be.
    ///
    /// # Errors
    /// `InvalidInput`, as [`Exchange::respond`].
    pub fn start_stream(&mut self) -> io::Result<()> {
        let chunked = self.head.is_1_1();
        self.closes |= !chunked;
        let headers = EVENT_STREAM.map(|(name, value)| (name, value.to_owned()));
        self.begin(200, headers.into(), chunked.then(|| ("transfer-encoding", "chunked".to_owned())))?;
        self.streaming = true;
        Ok(())
    }

    /// Sends one piece of the stream, in one write.
    ///
    /// # Errors
    /// `InvalidInput` without a stream. Else the client is gone or too slow, and the stream is cut off.
    pub fn write(&mut self, frames: &[u8]) -> io::Result<()> {
        // An empty chunk would be the end.
        match self.is_chunked()? {
            _ if frames.is_empty() || self.head.method == Method::Head => {}
            true => {
                write!(self.out, "{:x}\r\n", frames.len())?;
                self.out.extend_from_slice(frames);
                self.out.extend_from_slice(b"\r\n");
            }
            false => self.out.extend_from_slice(frames),
        }
        self.flush()
    }

    /// Ends the stream. One that is not ended is cut off when the exchange ends, so that the client sees the difference.
    ///
    /// # Errors
    /// As [`Exchange::write`].
    pub fn end_stream(&mut self) -> io::Result<()> {
        if self.is_chunked()? && self.head.method != Method::Head {
            self.out.extend_from_slice(b"0\r\n\r\n");
        }
        self.streaming = false;
        self.flush()
    }

    /// Makes up for what the service has left out; where it is not `sound`, it has panicked. Tells whether the next
    /// request may follow.
    pub(super) fn finish(mut self, sound: bool) -> bool {
        self.closes |= !sound;
        let cause = self.connection.place.cancel.cause();
        if self.status.is_none() {
            // Who has left is told nothing.
            self.connection.broken |= self.watched && cause == Some(CancelCause::ClientGone);
            self.closes = true;
            let message = "This server could not answer the request; its log says why.";
            let error = ApiError { kind: "server_error", ..ApiError::http(500, "internal_error", message) };
            if let Err(error) = self.error(&error) {
                log::debug!("request={} the client did not take the answer: {error}", self.request_id);
            }
        }
        self.connection.broken |= self.streaming;
        // A connection has one cause for all of its requests.
        !self.closes && !self.connection.broken && cause != Some(CancelCause::SlowReader)
    }

    /// Renders the head of the answer.
    fn begin(&mut self, status: u16, mut headers: Vec<Header>, framing: Option<Header>) -> io::Result<()> {
        if self.status.is_some() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the request is answered already"));
        }
        self.closes |= self.body_pending || self.connection.shared.is_draining();
        headers.extend(self.extra.iter().cloned());
        // As api.openai.com does: milliseconds from the request to its answer.
        headers.push(("openai-processing-ms", self.started.elapsed().as_millis().to_string()));
        let mut managed = vec![("x-request-id", self.request_id.clone())];
        managed.extend(framing);
        if self.closes || !self.head.is_1_1() {
            managed.push(("connection", if self.closes { "close" } else { "keep-alive" }.to_owned()));
        }
        self.out = render_head(status, &headers, &managed)?;
        self.status = Some(status);
        Ok(())
    }

    /// Whether the stream that is being written goes out in chunks.
    fn is_chunked(&self) -> io::Result<bool> {
        let misuse = || io::Error::new(io::ErrorKind::InvalidInput, "there is no stream to write to");
        self.streaming.then(|| self.head.is_1_1()).ok_or_else(misuse)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.connection.send(&self.out, self.watched);
        self.out.clear();
        result
    }
}
