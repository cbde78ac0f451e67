//! The queue between the stdout reader and one turn. The reader never waits: the channel is unbounded, and counters bound
//! it. Past the bound that one client is cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::router::Cause;

/// Most bytes of lines that wait for a slow client.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Most lines that wait for a slow client.
pub const MAX_MESSAGES: usize = 100_000;

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
    sender: Sender<Delivery>,
    counters: Arc<Counters>,
}

/// The turn's end.
#[derive(Debug)]
pub struct Mailbox {
    receiver: Receiver<Delivery>,
    counters: Arc<Counters>,
}

/// An empty mailbox.
pub fn mailbox() -> (Inlet, Mailbox) {
    let (sender, receiver) = unbounded();
    let counters = Arc::new(Counters::default());
    (Inlet { sender, counters: Arc::clone(&counters) }, Mailbox { receiver, counters })
}

impl Inlet {
    /// Delivers a line without waiting. `false`: the bound is hit and the turn has been told; deliver no more.
    #[must_use]
    pub fn deliver(&self, line: &[u8]) -> bool {
        let bytes = self.counters.bytes.fetch_add(line.len(), Ordering::Relaxed) + line.len();
        let messages = self.counters.messages.fetch_add(1, Ordering::Relaxed) + 1;
        // A single line larger than the bound is no backlog.
        if messages > 1 && (bytes > MAX_BYTES || messages > MAX_MESSAGES) {
            let _ = self.sender.send(Delivery::Overflow);
            return false;
        }
        let _ = self.sender.send(Delivery::Line(line.to_vec()));
        true
    }

    /// Tells the turn that the app-server is gone.
    pub fn close(&self, cause: &Cause) {
        let _ = self.sender.send(Delivery::Closed(cause.clone()));
    }
}

impl Mailbox {
    /// Ready when something has been delivered; take it with [`Mailbox::take`].
    pub fn receiver(&self) -> &Receiver<Delivery> {
        &self.receiver
    }

    /// Settles the counters for a delivery that was received.
    pub fn settle(&self, delivery: &Delivery) {
        if let Delivery::Line(line) = delivery {
            self.counters.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            self.counters.messages.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The next delivery, if one is there.
    pub fn take(&self) -> Option<Delivery> {
        let delivery = self.receiver.try_recv().ok()?;
        self.settle(&delivery);
        Some(delivery)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_ends_in_an_overflow_and_a_drained_box_goes_on() {
        let (inlet, mailbox) = mailbox();
        let line = vec![b'x'; 1024 * 1024];
        for _ in 0..40 {
            assert!(inlet.deliver(&line));
            assert!(matches!(mailbox.take(), Some(Delivery::Line(_))));
        }
        let accepted = (0..40).take_while(|_| inlet.deliver(&line)).count();
        assert_eq!(accepted, 16);
        let last = std::iter::from_fn(|| mailbox.take()).last();
        assert!(matches!(last, Some(Delivery::Overflow)));
    }

    #[test]
    fn one_huge_line_is_no_backlog() {
        let (inlet, mailbox) = mailbox();
        assert!(inlet.deliver(&vec![b'x'; MAX_BYTES + 1]));
        assert!(matches!(mailbox.take(), Some(Delivery::Line(line)) if line.len() == MAX_BYTES + 1));
        let (inlet, mailbox) = super::mailbox();
        assert_eq!((0..MAX_MESSAGES + 1).take_while(|_| inlet.deliver(b"x")).count(), MAX_MESSAGES);
        drop(mailbox);
    }
}
