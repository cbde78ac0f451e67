//! A call that a request gave up while it started a turn: its answer may still come, and tell of a thread or a turn that
//! nobody wants. The supervisor's thread waits for it instead, so that the request and its permit are free at once.

use std::cell::OnceCell;
use std::time::Instant;

use crossbeam_channel::{Receiver, TryRecvError};

use super::dialect::Thread;
use super::router::Reply;
use super::shared::Lease;
use super::wire;

/// The answer to a call that was given up.
#[derive(Debug)]
pub struct Late {
    /// Of the request.
    pub id: u64,
    /// Where it comes in.
    pub reply: Receiver<Reply>,
    /// When it is not waited for any more: the call's time once more.
    pub until: Instant,
    /// The thread that the call starts the turn of, to be released after that. None: it may make a thread.
    pub thread: OnceCell<Thread>,
}

impl Late {
    /// Undoes what the call did, once its answer is there or will not come. `false`: it may still come.
    pub fn settle(&self, lease: &Lease, now: Instant) -> bool {
        let (session, thread) = (&lease.generation.session, self.thread.get());
        let reply = self.reply.try_recv();
        if reply == Err(TryRecvError::Empty) {
            if now < self.until {
                return false;
            }
            session.connection.router.forget(self.id);
            if thread.is_some() {
                // A turn may run that nobody can interrupt.
                lease.suspect("a call was not answered in time");
            }
        }
        let line = reply.ok().and_then(Result::ok).unwrap_or_default();
        session.undo(thread, wire::response(&line).unwrap_or_default());
        true
    }
}
