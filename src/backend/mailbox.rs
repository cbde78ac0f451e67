//! The queue between the stdout reader and one request. The reader never waits: the channel is unbounded, and counters
//! bound it. Past the bound that one client is cut off. The turns of one request share a mailbox and are told apart by
//! a key.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, at, select, unbounded};

use crate::deadline::{Cancel, CancelCause};

/// Most bytes of lines that wait for a slow client.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Most lines that wait for a slow client.
pub const MAX_MESSAGES: usize = 100_000;

/// Why a connection ended; the same words for everybody who waits on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause(Arc<str>);

impl Cause {
    /// A cause in words that a client may read.
    pub fn new(words: impl AsRef<str>) -> Self {
        Self(Arc::from(words.as_ref()))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the reader brings to a turn.
#[derive(Debug)]
pub enum Delivery {
    /// A line of the turn's thread.
    Line(Vec<u8>),
    /// The bound was hit; nothing follows.
    Overflow,
    /// The app-server is gone; nothing follows.
    Closed(Cause),
}

#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicUsize,
    messages: AtomicUsize,
}

/// The reader's end.
#[derive(Clone, Debug)]
pub struct Inlet {
    key: u32,
    /// Whether codex's calls of tools end this turn; else they have to be refused.
    pub takes_calls: bool,
    sender: Sender<(u32, Delivery)>,
    counters: Arc<Counters>,
    // Whoever is to take the lines out may be writing to the slow client.
    cancel: Cancel,
}

/// The request's end.
#[derive(Debug)]
pub struct Mailbox {
    sender: Sender<(u32, Delivery)>,
    receiver: Receiver<(u32, Delivery)>,
    counters: Arc<Counters>,
    cancel: Cancel,
}

impl Inlet {
    /// Delivers a line without waiting. `false`: the bound is hit and the turn has been told; deliver no more.
    #[must_use]
    pub fn deliver(&self, line: &[u8]) -> bool {
        let bytes = self.counters.bytes.fetch_add(line.len(), Ordering::Relaxed) + line.len();
        let messages = self.counters.messages.fetch_add(1, Ordering::Relaxed) + 1;
        // A single line larger than the bound is no backlog.
        if messages > 1 && (bytes > MAX_BYTES || messages > MAX_MESSAGES) {
            let _ = self.sender.send((self.key, Delivery::Overflow));
            self.cancel.cancel(CancelCause::SlowReader);
            return false;
        }
        let _ = self.sender.send((self.key, Delivery::Line(line.to_vec())));
        true
    }

    /// Tells the turn that the app-server is gone.
    pub fn close(&self, cause: &Cause) {
        let _ = self.sender.send((self.key, Delivery::Closed(cause.clone())));
    }
}

impl Mailbox {
    /// An empty one of a request that is cancelled when it grows too large.
    pub fn new(cancel: Cancel) -> Self {
        let (sender, receiver) = unbounded();
        Self { sender, receiver, counters: Arc::default(), cancel }
    }

    /// The way in for the turn of this key.
    pub fn inlet(&self, key: u32, takes_calls: bool) -> Inlet {
        Inlet {
            key,
            takes_calls,
            sender: self.sender.clone(),
            counters: Arc::clone(&self.counters),
            cancel: self.cancel.clone(),
        }
    }

    /// What ends the request.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// The next delivery, waited for until then; it may be given up early when the request is told to stop.
    pub fn wait(&self, until: Instant) -> Option<(u32, Delivery)> {
        select! {
            recv(self.receiver) -> delivery => Some(self.settle(delivery.ok()?)),
            recv(self.cancel.wake()) -> _ => None,
            recv(at(until)) -> _ => None,
        }
    }

    /// The next delivery, if one is there.
    pub fn take(&self) -> Option<(u32, Delivery)> {
        Some(self.settle(self.receiver.try_recv().ok()?))
    }

    fn settle(&self, delivery: (u32, Delivery)) -> (u32, Delivery) {
        if let Delivery::Line(line) = &delivery.1 {
            self.counters.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            self.counters.messages.fetch_sub(1, Ordering::Relaxed);
        }
        delivery
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_ends_in_an_overflow_and_a_drained_box_goes_on() {
        let cancel = Cancel::default();
        let mailbox = Mailbox::new(cancel.clone());
        let inlet = mailbox.inlet(3, false);
        let line = vec![b'x'; 1024 * 1024];
        for _ in 0..40 {
            assert!(inlet.deliver(&line));
            assert!(matches!(mailbox.take(), Some((3, Delivery::Line(_)))));
        }
        let accepted = (0..40).take_while(|_| inlet.deliver(&line)).count();
        assert_eq!((accepted, cancel.cause()), (16, Some(CancelCause::SlowReader)));
        let last = std::iter::from_fn(|| mailbox.take()).last();
        assert!(matches!(last, Some((3, Delivery::Overflow))));
    }

    #[test]
    fn one_huge_line_is_no_backlog() {
        let mailbox = Mailbox::new(Cancel::default());
        let inlet = mailbox.inlet(0, false);
        assert!(inlet.deliver(&vec![b'x'; MAX_BYTES + 1]));
        assert!(matches!(mailbox.take(), Some((0, Delivery::Line(line))) if line.len() == MAX_BYTES + 1));
        let inlet = Mailbox::new(Cancel::default()).inlet(0, false);
        assert_eq!((0..MAX_MESSAGES + 1).take_while(|_| inlet.deliver(b"x")).count(), MAX_MESSAGES);
    }
}
