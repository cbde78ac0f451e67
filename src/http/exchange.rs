//! One request and its answer, as a [`Service`](super::Service) sees them.

use std::time::Instant;
use std::{io, mem};

use tiny_http::Method;

use super::connection::Connection;
use super::head::{Framing, Head};
use super::respond::{Length, render_head};
use super::sse::Transfer;
use super::watcher::Watch;
use super::{Body, Response, fresh_id};
use crate::api::error::ApiError;
use crate::deadline::Cancel;

/// One request on one connection. It is answered once, with [`Exchange::respond`], [`Exchange::error`] or a stream.
pub struct Exchange<'c> {
    connection: &'c mut Connection,
    head: Head,
    request_id: String,
    started: Instant,
    /// Bytes of the request are still to come.
    body_pending: bool,
    watch: Option<(Watch, Cancel)>,
    answer: Answer,
    extra: Vec<(&'static str, String)>,
    status: Option<u16>,
    closes: bool,
    /// Bytes to write; kept for the next piece.
    out: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    None,
    Stream(Transfer),
    Complete,
    CutOff,
}

impl<'c> Exchange<'c> {
    pub(super) fn new(connection: &'c mut Connection, head: Head) -> Self {
        Self {
            connection,
            request_id: head.request_id().map_or_else(fresh_id, str::to_owned),
            started: Instant::now(),
            body_pending: head.framing != Framing::Length(0),
            head,
            watch: None,
            answer: Answer::None,
            extra: Vec::new(),
            status: None,
            closes: false,
            out: Vec::new(),
        }
    }

    /// The request without its body.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The client's `x-request-id` where it has a sane one (up to 128 of `[A-Za-z0-9._-]`), else a new id. It is sent
    /// back with the answer.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// When the head was complete.
    pub fn started(&self) -> Instant {
        self.started
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

    /// From the first call on, tells when the client leaves, until the exchange ends. Call it when the body was read:
    /// what a client sends is not looked at, only whether its side of the connection is closed.
    pub fn cancel(&mut self) -> Cancel {
        let connection = &*self.connection;
        self.watch.get_or_insert_with(|| connection.shared.watcher.watch(&connection.peer)).1.clone()
    }

    /// Headers that the answer will carry, whatever it is.
    pub fn add_headers(&mut self, headers: Vec<(&'static str, String)>) {
        self.extra.extend(headers);
    }

    /// Sends a whole answer; its body is left out for HEAD.
    ///
    /// # Errors
    /// `InvalidInput`: a header that cannot be sent, or a second answer; nothing was written. Else the client is gone
    /// or too slow.
    pub fn respond(&mut self, mut response: Response) -> io::Result<()> {
        self.check_open()?;
        self.note_time();
        response.headers.extend(self.extra.drain(..).map(|(name, value)| (name.to_owned(), value)));
        let is_head = *self.head.method() == Method::Head;
        let closes = self.must_close();
        self.out = response.render(&self.request_id, self.connection_header(closes), is_head)?;
        self.commit(response.status, closes, Answer::Complete);
        self.flush()
    }

    /// Sends an error.
    ///
    /// # Errors
    /// As [`Exchange::respond`].
    pub fn error(&mut self, error: &ApiError) -> io::Result<()> {
        self.respond(Response::error(error))
    }

    /// Begins an answer of unknown length: chunked in HTTP/1.1, in 1.0 up to the end of the connection. The head goes
    /// out with the first [`Exchange::write`], an empty one if need be.
    ///
    /// # Errors
    /// `InvalidInput`, as [`Exchange::respond`].
    pub fn start_stream(&mut self, status: u16, headers: &[(&str, &str)]) -> io::Result<()> {
        self.check_open()?;
        let (transfer, length) = match (self.head.method(), *self.head.version() == (1, 1)) {
            (Method::Head, true) => (Transfer::HeadOnly, Length::Chunked),
            (Method::Head, false) => (Transfer::HeadOnly, Length::None),
            (_, true) => (Transfer::Chunked, Length::Chunked),
            (_, false) => (Transfer::UntilClose, Length::None),
        };
        let closes = self.must_close() || transfer == Transfer::UntilClose;
        let connection = self.connection_header(closes);
        self.note_time();
        let extra = self.extra.iter().map(|(name, value)| (*name, value.as_str()));
        self.out = render_head(status, headers.iter().copied().chain(extra), length, &self.request_id, connection)?;
        self.commit(status, closes, Answer::Stream(transfer));
        Ok(())
    }

    /// Sends one piece of the stream, in one write.
    ///
    /// # Errors
    /// `InvalidInput` without a stream. Else the client is gone or too slow, and the stream is cut off.
    pub fn write(&mut self, frames: &[u8]) -> io::Result<()> {
        self.transfer()?.frame(frames, &mut self.out);
        self.flush()
    }

    /// Ends the stream. One that is not ended is cut off when the exchange ends, so that the client sees the difference.
    ///
    /// # Errors
    /// As [`Exchange::write`].
    pub fn end_stream(&mut self) -> io::Result<()> {
        self.transfer()?.end(&mut self.out);
        self.answer = Answer::Complete;
        self.flush()
    }

    /// The status of the answer, once there is one.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Cuts off what was begun: the service cannot go on.
    pub(super) fn abandon(&mut self) {
        self.closes = true;
        if matches!(self.answer, Answer::Stream(_)) {
            self.answer = Answer::CutOff;
        }
    }

    /// Makes up for what the service has left out. Tells whether the next request may follow.
    pub(super) fn finish(mut self) -> bool {
        if self.answer == Answer::None {
            self.head.keep_alive = false;
            let error = ApiError {
                kind: "server_error",
                ..ApiError::http(500, "internal_error", "This server could not answer the request; its log says why.")
            };
            if let Err(error) = self.error(&error) {
                log::debug!("request={} the client did not take the answer: {error}", self.request_id);
            }
        }
        if self.answer != Answer::Complete {
            self.connection.broken = true;
        }
        !self.closes && !self.connection.broken
    }

    /// As api.openai.com does: milliseconds from the request to its answer.
    fn note_time(&mut self) {
        self.extra.push(("openai-processing-ms", self.started.elapsed().as_millis().to_string()));
    }

    fn check_open(&self) -> io::Result<()> {
        match self.answer {
            Answer::None => Ok(()),
            _ => Err(misuse("the request is answered already")),
        }
    }

    fn transfer(&self) -> io::Result<Transfer> {
        match self.answer {
            Answer::Stream(transfer) => Ok(transfer),
            _ => Err(misuse("there is no stream to write to")),
        }
    }

    fn must_close(&self) -> bool {
        self.body_pending || !self.head.keep_alive || self.connection.shared.is_draining()
    }

    fn connection_header(&self, closes: bool) -> Option<&'static str> {
        match (closes, *self.head.version() == (1, 0)) {
            (true, _) => Some("close"),
            (false, true) => Some("keep-alive"),
            (false, false) => None,
        }
    }

    fn commit(&mut self, status: u16, closes: bool, answer: Answer) {
        self.status = Some(status);
        self.closes = closes;
        self.answer = answer;
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.connection.send(&self.out, self.watch.as_ref().map(|(_, cancel)| cancel));
        self.out.clear();
        result
    }
}

fn misuse(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
