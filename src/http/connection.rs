//! One connection: requests one after the other, each phase under its own deadline.

use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};

use super::body::{Body, Source};
use super::head::{Framing, Head};
use super::respond::refusal;
use super::watcher::{Place, Shared};
use super::{Exchange, Service};
use crate::api::error::ApiError;
use crate::config::names;
use crate::deadline::{CancelCause, Deadline};

/// Bytes asked of the socket at once.
const READ_SIZE: usize = 16 * 1024;
/// Bytes that one write deadline is for, so that a large answer to a slow but living client may take longer.
const WRITE_PIECE: usize = 256 * 1024;
/// How often a write that waits for its client looks whether that is given up.
const GLANCE: Duration = Duration::from_millis(100);
/// Bytes read from a connection after its last answer.
const LINGER_BYTES: usize = 256 * 1024;
/// How long a connection stays open after its last answer for the client to close it.
const LINGER_TIME: Duration = Duration::from_secs(2);

/// A socket that this thread reads and writes. It counts as open until it is dropped.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) place: Place,
    /// A write has failed: what the client has is cut off somewhere.
    pub(super) broken: bool,
    /// What came and was not used yet.
    buf: Vec<u8>,
}

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, place: Place) -> Self {
        Self { shared, place, broken: false, buf: Vec::new() }
    }

    /// Serves requests until the connection ends; one that was refused has none.
    pub(super) fn run(mut self, service: &dyn Service) {
        if self.place.refused {
            return self.linger();
        }
        let mut first = true;
        loop {
            let goes_on = match self.read_head(first) {
                Ok(Some(head)) => self.serve(head, service),
                Ok(None) => return,
                Err(error) => {
                    let _ = self.send(&refusal(&error, log::Level::Info), false);
                    false
                }
            };
            if !goes_on {
                return self.linger();
            }
            first = false;
        }
    }

    /// Tells whether the next request may follow.
    fn serve(&mut self, head: Head, service: &dyn Service) -> bool {
        let mut exchange = Exchange::new(self, head);
        let served = catch_unwind(AssertUnwindSafe(|| service.serve(&mut exchange)));
        if served.is_err() {
            log::error!("request={} panicked", exchange.request_id);
        }
        exchange.finish(served.is_ok())
    }

    /// Closes, but not at once: unread bytes would turn the close into a reset, and a reset takes the answer out of the
    /// client's hands. What it still sends is thrown away until it closes, too.
    fn linger(mut self) {
        let deadline = Deadline::after("the end of the connection", LINGER_TIME);
        let mut left = if self.broken { 0 } else { LINGER_BYTES };
        let _ = rustix::net::shutdown(&self.place.socket, Shutdown::Write);
        while left > 0 && self.fill(&deadline, false).is_ok() {
            left = left.saturating_sub(self.buf.len());
            self.buf.clear();
        }
    }

    /// The next head. `None`: the connection ends, and there is nobody to tell why.
    fn read_head(&mut self, first: bool) -> Result<Option<Head>, ApiError> {
        let limits = &self.shared.limits;
        let (name, limit) =
            if first { (names::HEAD_TIMEOUT, limits.head) } else { (names::KEEPALIVE_IDLE, limits.idle) };
        let idle = Deadline::after(name, limit);
        while self.buf.is_empty() {
            if self.fill(&idle, true).is_err() {
                return Ok(None);
            }
        }
        let deadline = Deadline::after(names::HEAD_TIMEOUT, self.shared.limits.head);
        loop {
            if let Some((head, length)) = Head::parse(&self.buf)? {
                self.buf.drain(..length);
                return if self.shared.is_draining() { Err(draining()) } else { Ok(Some(head)) };
            }
            self.fill(&deadline, true)?;
        }
    }

    /// The body of the current request; with `invite`, the client is told to go on where it waits for that.
    pub(super) fn read_body(&mut self, framing: Framing, invite: bool) -> Result<Body, ApiError> {
        let shared = Arc::clone(&self.shared);
        let deadline = Deadline::after(names::BODY_TIMEOUT, shared.limits.body);
        let mut source = BodySource { connection: self, deadline, invite, used: 0 };
        let body = Body::read(&mut source, framing, &shared.limits, Arc::clone(&shared.bodies));
        let used = source.used;
        self.buf.drain(..used);
        body
    }

    /// Appends what there is to read to the buffer, or waits for something; once the server drains, nobody waits for a
    /// head.
    fn fill(&mut self, deadline: &Deadline, is_head: bool) -> Result<(), ApiError> {
        let drain = is_head.then_some(&self.shared.drain);
        self.buf.reserve(READ_SIZE);
        loop {
            match rustix::io::read(&self.place.socket, rustix::buffer::spare_capacity(&mut self.buf)) {
                _ if deadline.passed() => {
                    let message = format!("The request did not arrive within {}.", deadline.describe());
                    return Err(ApiError::http(408, "request_timeout", message));
                }
                Ok(1..) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if is_head && self.shared.is_draining() => return Err(draining()),
                Err(Errno::AGAIN) if wait(&self.place.socket, PollFlags::IN, deadline.left(), drain).is_ok() => {}
                _ => return Err(ApiError::bad_request("The connection ended before the request did.")),
            }
        }
    }

    /// Writes all of `bytes`. With `watched`, a client that has left, or leaves too much unread, is not waited for.
    ///
    /// # Errors
    /// The client is gone or too slow. Nothing can be sent after that.
    pub(super) fn send(&mut self, bytes: &[u8], watched: bool) -> io::Result<()> {
        if self.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let result = bytes.chunks(WRITE_PIECE).try_for_each(|piece| self.send_piece(piece, watched));
        self.broken = result.is_err();
        result
    }

    fn send_piece(&self, mut piece: &[u8], watched: bool) -> io::Result<()> {
        let deadline = Deadline::after(names::WRITE_TIMEOUT, self.shared.limits.write);
        while !piece.is_empty() {
            match rustix::net::send(&self.place.socket, piece, SendFlags::NOSIGNAL) {
                Ok(count) => piece = piece.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => match self.place.cancel.cause().filter(|_| watched) {
                    Some(cause @ (CancelCause::ClientGone | CancelCause::SlowReader)) => {
                        return Err(io::Error::new(io::ErrorKind::BrokenPipe, cause.error().message));
                    }
                    _ if deadline.passed() => {
                        let message = format!("the client reads too slowly: {}", deadline.describe());
                        return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                    }
                    _ => wait(&self.place.socket, PollFlags::OUT, deadline.left().min(GLANCE), None)?,
                },
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.remove(&self.place);
    }
}

struct BodySource<'c> {
    connection: &'c mut Connection,
    deadline: Deadline,
    invite: bool,
    /// Bytes of the buffer: a body may have many chunks, and the rest is moved once.
    used: usize,
}

impl Source for BodySource<'_> {
    fn unused(&self) -> &[u8] {
        self.connection.buf.get(self.used..).unwrap_or_default()
    }

    fn advance(&mut self, count: usize) {
        self.used += count;
    }

    fn more(&mut self) -> Result<(), ApiError> {
        self.connection.buf.drain(..mem::take(&mut self.used));
        // A client that has begun to send waits for nothing.
        if mem::take(&mut self.invite) && self.connection.buf.is_empty() {
            // Where this fails, reading does too.
            let _ = self.connection.send(b"HTTP/1.1 100 Continue\r\n\r\n", false);
        }
        self.connection.fill(&self.deadline, false)
    }
}

fn draining() -> ApiError {
    ApiError::busy("shutting_down", "The server is being stopped.", Duration::from_secs(1))
}

/// Waits until `socket` is ready for one of `events`, `drain` is readable or the time is over. A signal ends it, too.
pub(super) fn wait(
    socket: &OwnedFd,
    events: PollFlags,
    limit: Duration,
    drain: Option<&OwnedFd>,
) -> rustix::io::Result<()> {
    let timeout = Timespec::try_from(limit).ok();
    let mut awaited = vec![PollFd::new(socket, events)];
    awaited.extend(drain.map(|drain| PollFd::new(drain, PollFlags::IN)));
    match poll(&mut awaited, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error),
    }
}
