//! One connection: requests one after the other, each phase under its own deadline.

use std::any::Any;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::body::{Body, Decoder};
use super::head::{Framing, Head, Scan};
use super::listener::{Peer, Shared};
use super::{Exchange, Response, Service, fresh_id};
use crate::api::error::ApiError;
use crate::deadline::{Cancel, CancelCause, Deadline};

/// Bytes asked of the socket at once.
const READ_SIZE: usize = 16 * 1024;
/// Bytes that one write deadline is for, so that a large answer to a slow but living client may take longer.
const WRITE_PIECE: usize = 256 * 1024;
/// How often a write that waits for its client looks whether that is given up.
const GLANCE: Duration = Duration::from_millis(100);

/// A socket that this thread reads and writes.
pub(super) struct Connection {
    pub(super) peer: Arc<Peer>,
    pub(super) shared: Arc<Shared>,
    /// What came and was not used yet.
    buf: Vec<u8>,
    /// A write has failed: what the client has is cut off somewhere.
    pub(super) broken: bool,
}

/// Why nothing was read.
enum Unread {
    Late,
    Draining,
    Failed,
}

impl Connection {
    pub(super) fn new(peer: Arc<Peer>, shared: Arc<Shared>) -> Self {
        Self { peer, shared, buf: Vec::new(), broken: false }
    }

    /// Serves requests until the connection ends.
    pub(super) fn run(mut self, service: &dyn Service) {
        let mut first = true;
        loop {
            let head = match self.read_head(first) {
                Ok(Some(head)) => head,
                Ok(None) => return,
                Err(error) => {
                    self.refuse(&error);
                    break;
                }
            };
            let mut exchange = Exchange::new(&mut self, head);
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| service.serve(&mut exchange))) {
                log::error!("request={} panicked: {}", exchange.request_id(), panic_text(panic.as_ref()));
                exchange.abandon();
            }
            if !exchange.finish() {
                break;
            }
            first = false;
        }
        if !self.broken {
            self.shared.watcher.linger(self.peer);
        }
    }

    /// The next head. `None`: the connection ends, and there is nobody to tell why.
    fn read_head(&mut self, first: bool) -> Result<Option<Head>, ApiError> {
        if !first && self.buf.is_empty() {
            let idle = Deadline::after("PROXY_KEEPALIVE_IDLE_MS", self.shared.limits.idle);
            if !matches!(self.fill(&idle, true), Ok(1..)) {
                return Ok(None);
            }
        }
        let deadline = Deadline::after("PROXY_HEAD_TIMEOUT_MS", self.shared.limits.head);
        let mut scan = Scan::default();
        loop {
            if let Some(length) = scan.advance(&self.buf)? {
                let head = Head::parse(self.buf.get(..length).unwrap_or_default())?;
                self.buf.drain(..length);
                return if self.shared.is_draining() { Err(draining()) } else { Ok(Some(head)) };
            }
            let silent = self.buf.is_empty();
            match self.fill(&deadline, true) {
                Ok(1..) => {}
                _ if silent => return Ok(None),
                Ok(_) => return Err(ApiError::bad_request("The request ended within its head.")),
                Err(Unread::Late) => return Err(late("head", &deadline)),
                Err(Unread::Draining) => return Err(draining()),
                Err(Unread::Failed) => return Ok(None),
            }
        }
    }

    /// The body of the current request.
    pub(super) fn read_body(&mut self, framing: Framing, expects_continue: bool) -> Result<Body, ApiError> {
        let shared = Arc::clone(&self.shared);
        let limits = &shared.limits;
        let mut decoder = Decoder::new(framing, limits.max_body_bytes)?;
        let mut body = Body::new(Arc::clone(&shared.bodies));
        let deadline = Deadline::after("PROXY_BODY_TIMEOUT_MS", limits.body);
        // A client that has begun to send waits for nothing.
        if expects_continue && self.buf.is_empty() && !decoder.is_done() {
            let gone = |_| ApiError::bad_request("The client closed the connection before it sent the body.");
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n", None).map_err(gone)?;
        }
        loop {
            let used = body.decode(&mut decoder, &self.buf, limits.max_body_bytes, limits.bodies_total_bytes)?;
            self.buf.drain(..used);
            if decoder.is_done() {
                return Ok(body);
            }
            match self.fill(&deadline, false) {
                Ok(1..) => {}
                Err(Unread::Late) => return Err(late("body", &deadline)),
                _ => return Err(ApiError::bad_request("The request ended within its body.")),
            }
        }
    }

    /// Reads what there is and appends it, or waits for something. 0 is the end of what the client sends.
    fn fill(&mut self, deadline: &Deadline, until_drain: bool) -> Result<usize, Unread> {
        self.buf.reserve(READ_SIZE);
        loop {
            match rustix::io::read(&self.peer.socket, rustix::buffer::spare_capacity(&mut self.buf)) {
                Ok(count) if !deadline.passed() => return Ok(count),
                Ok(_) => return Err(Unread::Late),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let drain = until_drain.then_some(&self.shared.drain);
                    match wait(&self.peer.socket, PollFlags::IN, deadline.left(), drain) {
                        Ok(Wake::Socket(_)) => {}
                        Ok(Wake::Drain) => return Err(Unread::Draining),
                        Ok(Wake::Late) => return Err(Unread::Late),
                        Err(_) => return Err(Unread::Failed),
                    }
                }
                Err(_) => return Err(Unread::Failed),
            }
        }
    }

    /// Writes all of `bytes`. With `watched`, a client that has closed its side, or leaves too much unread, is not waited
    /// for.
    ///
    /// # Errors
    /// The client is gone or too slow. Nothing can be sent after that.
    pub(super) fn send(&mut self, bytes: &[u8], watched: Option<&Cancel>) -> io::Result<()> {
        if self.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let result = bytes.chunks(WRITE_PIECE).try_for_each(|piece| self.send_piece(piece, watched));
        self.broken = result.is_err();
        result
    }

    fn send_piece(&self, mut piece: &[u8], watched: Option<&Cancel>) -> io::Result<()> {
        let deadline = Deadline::after("PROXY_WRITE_TIMEOUT_MS", self.shared.limits.write);
        let gone = watched.map_or(PollFlags::empty(), |_| PollFlags::RDHUP);
        while !piece.is_empty() {
            match rustix::net::send(&self.peer.socket, piece, SendFlags::NOSIGNAL) {
                Ok(count) => piece = piece.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    match wait(&self.peer.socket, PollFlags::OUT | gone, deadline.left().min(GLANCE), None)? {
                        Wake::Socket(ready) if ready.contains(PollFlags::OUT) => {}
                        Wake::Socket(_) | Wake::Drain => return Err(io::ErrorKind::BrokenPipe.into()),
                        Wake::Late if watched.and_then(Cancel::cause) == Some(CancelCause::SlowReader) => {
                            let message = "the client reads too slowly: its backlog grew too large";
                            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                        }
                        Wake::Late if !deadline.passed() => {}
                        Wake::Late => {
                            let message = format!("the client reads too slowly: {}", deadline.describe());
                            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                        }
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Answers what is not a request that could be served.
    fn refuse(&mut self, error: &ApiError) {
        let id = fresh_id();
        log::info!("request={id} status={} refused: {}", error.status, error.message);
        let sent = Response::error(error).render(&id, Some("close"), false).and_then(|bytes| self.send(&bytes, None));
        if let Err(error) = sent {
            log::debug!("request={id} the client did not take the answer: {error}");
        }
    }
}

fn draining() -> ApiError {
    ApiError::busy("shutting_down", "The server is being stopped.", Duration::from_secs(1))
}

fn late(what: &str, deadline: &Deadline) -> ApiError {
    let message = format!("The {what} of the request did not arrive within {}.", deadline.describe());
    ApiError::http(408, "request_timeout", message)
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// What a wait has ended with.
pub(super) enum Wake {
    /// The socket is ready for these.
    Socket(PollFlags),
    /// The server drains.
    Drain,
    /// The time is over.
    Late,
}

/// Waits until `socket` is ready for one of `events`, or `drain` is readable.
pub(super) fn wait(socket: &OwnedFd, events: PollFlags, limit: Duration, drain: Option<&OwnedFd>) -> io::Result<Wake> {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Wake::Late);
        }
        let timeout = Timespec::try_from(left).ok();
        // Without `drain`, the second place asks for nothing.
        let second = PollFd::new(drain.unwrap_or(socket), drain.map_or(PollFlags::empty(), |_| PollFlags::IN));
        let mut fds = [PollFd::new(socket, events), second];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [first, second] = fds.map(|fd| fd.revents());
        if !first.is_empty() {
            return Ok(Wake::Socket(first));
        }
        if !second.is_empty() {
            return Ok(Wake::Drain);
        }
    }
}
