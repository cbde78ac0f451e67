//! HTTP/1.1 on `std::net`, `httparse` and `poll`: listeners, connections, strict framing, deadlines.
//!
//! Of `tiny_http` only the vocabulary is used ([`Method`], [`StatusCode`], [`HTTPVersion`]). Its server leaves requests of
//! a burst unanswered until others close, allocates whatever length a client declares, stops listening for good after
//! one failed `accept`, bounds neither heads nor waits, lets CR LF into response headers and cannot close a connection;
//! none of that can be repaired from outside of it.
//!
//! What holds here:
//! - A connection is one thread from accept to close; there are at most [`Limits::max_connections`] of them, and 64 that
//!   only see a refusal through.
//! - Sockets never block. Each wait is a `poll` with what is left of the deadline of its *phase* (idle, head, body, one
//!   piece of an answer), so dripping bytes buys nobody time.
//! - Any doubt about where a request ends is a 400, and the connection closes.
//! - Memory grows with the bytes that came, never with those that were announced.
//! - After a failed or late write nothing more is sent on a connection.
//! - Each answer, one of this module's own too, has the error shape of the API and an `x-request-id`.
//!
//! Threads: `http-accept`, `http-watch` and one `http-conn` for each connection.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use tiny_http::{HTTPVersion, Method, StatusCode};

mod body;
mod connection;
mod cors;
mod exchange;
mod head;
mod listener;
mod respond;
pub mod route;
mod serve_turn;
pub mod service;
mod watcher;

pub use body::{Body, Share};
pub use exchange::Exchange;
pub use head::{Head, MAX_HEAD_BYTES, MAX_HEADERS};
pub use listener::Listener;
pub use respond::{Header, Response};
pub use watcher::Server;

/// What clients may take. The durations are absolute limits of a phase, not of a single read.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once. Lowered at start where the process may not open so many files.
    pub max_connections: usize,
    /// Bytes of one body.
    pub max_body_bytes: usize,
    /// Bytes of all requests that are read or wait, as their [`Share`] values count them.
    pub bodies_total_bytes: usize,
    /// From the first byte of a head to its last; also how long a new connection may say nothing.
    pub head: Duration,
    /// From the moment a body is asked for to its last byte.
    pub body: Duration,
    /// For 256 KB of an answer or less.
    pub write: Duration,
    /// Between two requests on one connection.
    pub idle: Duration,
}

/// What answers requests. Called on the thread of the connection, many at once.
pub trait Service: Send + Sync + 'static {
    /// Answers one request. A panic or a return without an answer is a 500, or cuts the stream off.
    fn serve(&self, exchange: &mut Exchange<'_>);
}

/// 16 hexadecimal digits, different at each call and not to be guessed: for ids of requests and answers.
pub fn fresh_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{:016x}", RandomState::new().hash_one(COUNT.fetch_add(1, Ordering::Relaxed)))
}
