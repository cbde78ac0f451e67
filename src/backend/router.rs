//! Who gets which line. A waiter is registered before its request is written; "closed" lives under the same lock as the
//! tables, so nobody can register after the end and wait for ever. The first cause is kept and given to everybody.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::dialect::limits;
pub use super::mailbox::Cause;
use super::mailbox::Inlet;
use super::wire::Probe;

/// What a waiter for a response gets: the whole line, or the cause of the end.
pub type Reply = Result<Vec<u8>, Cause>;

/// What is left for the caller of [`Router::route`] to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Routed {
    /// Nothing: delivered, or counted and dropped.
    Done,
    /// A request of codex that no turn takes: answer it with a refusal.
    Refuse {
        /// JSON text of its id.
        id: String,
        /// Its method.
        method: String,
    },
}

#[derive(Debug, Default)]
struct Tables {
    closed: Option<Cause>,
    /// The last line about the account's limits.
    limits: Option<Vec<u8>>,
    waiters: HashMap<u64, (Instant, Sender<Reply>)>,
    threads: HashMap<String, Inlet>,
}

/// The tables of one connection.
#[derive(Debug, Default)]
pub struct Router {
    tables: Mutex<Tables>,
    next_id: AtomicU64,
    by_conversation: AtomicBool,
    ignored: AtomicU64,
    broken: AtomicU64,
}

impl Router {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        // The tables are consistent after every statement, so a panic elsewhere does not spoil them.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An id that no other request of this connection has.
    pub fn fresh_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Registers a waiter for a response.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn expect(&self) -> Result<(u64, Receiver<Reply>), Cause> {
        let id = self.fresh_id();
        let (sender, receiver) = bounded(1);
        let mut tables = self.tables();
        if let Some(cause) = &tables.closed {
            return Err(cause.clone());
        }
        tables.waiters.insert(id, (Instant::now(), sender));
        Ok((id, receiver))
    }

    /// Gives up on a response.
    pub fn forget(&self, id: u64) {
        self.tables().waiters.remove(&id);
    }

    /// Since when the oldest waiter waits.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.tables().waiters.values().map(|(since, _)| *since).min()
    }

    /// From now on the lines of `thread` go in here.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn subscribe(&self, thread: &str, inlet: Inlet) -> Result<(), Cause> {
        let mut tables = self.tables();
        if let Some(cause) = &tables.closed {
            return Err(cause.clone());
        }
        tables.threads.insert(thread.to_owned(), inlet);
        Ok(())
    }

    /// Ends a subscription.
    pub fn unsubscribe(&self, thread: &str) {
        self.tables().threads.remove(thread);
    }

    /// From now on lines go by the v1 protocol's name of a thread. Codex tells everything in both protocols where it has
    /// both (0.58 – 0.114): what goes by the other name concerns nobody.
    pub fn route_by_conversation(&self) {
        self.by_conversation.store(true, Ordering::Relaxed);
    }

    /// Takes one line to whom it belongs. Never waits.
    pub fn route(&self, line: &[u8]) -> Routed {
        let Ok(probe) = serde_json::from_slice::<Probe<'_>>(line) else {
            self.skip();
            return Routed::Done;
        };
        let params = &probe.params;
        let by_conversation = self.by_conversation.load(Ordering::Relaxed);
        let thread = if by_conversation { &params.conversation_id } else { &params.thread_id };
        match (probe.id, probe.method.is_empty()) {
            (Some(id), true) => self.respond(id.get(), line),
            (None, false) if probe.method == limits::METHOD => self.tables().limits = Some(line.to_vec()),
            (None, false) => drop(self.deliver(thread, line, |_| true)),
            // A tool call ends the turn whose client offers tools; every other request is refused for everybody.
            (Some(id), false) => {
                let is_call = probe.method == "item/tool/call";
                if !is_call || !self.deliver(thread, line, |inlet| inlet.takes_calls) {
                    return Routed::Refuse { id: id.get().to_owned(), method: probe.method.into_owned() };
                }
            }
            (None, true) => self.skip(),
        }
        Routed::Done
    }

    fn respond(&self, id: &str, line: &[u8]) {
        let waiter = id.parse().ok().and_then(|id: u64| self.tables().waiters.remove(&id));
        match waiter {
            // The channel has a place for the one reply.
            Some((_, waiter)) => drop(waiter.try_send(Ok(line.to_vec()))),
            None => drop(self.ignored.fetch_add(1, Ordering::Relaxed)),
        }
    }

    fn deliver(&self, thread: &str, line: &[u8], takes: impl Fn(&Inlet) -> bool) -> bool {
        let mut tables = self.tables();
        let Some(inlet) = tables.threads.get(thread).filter(|inlet| takes(inlet)) else {
            self.ignored.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        if !inlet.deliver(line) {
            tables.threads.remove(thread);
        }
        true
    }

    /// What codex told last of the account's limits.
    pub fn limits(&self) -> Option<Vec<u8>> {
        self.tables().limits.clone()
    }

    /// Counts a line that cannot be read.
    pub fn skip(&self) {
        self.broken.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends everything that waits, with the first cause that was given.
    pub fn close(&self, cause: Cause) {
        let (cause, waiters, threads) = {
            let mut tables = self.tables();
            let cause = tables.closed.get_or_insert(cause).clone();
            (cause, std::mem::take(&mut tables.waiters), std::mem::take(&mut tables.threads))
        };
        for (_, waiter) in waiters.into_values() {
            let _ = waiter.try_send(Err(cause.clone()));
        }
        for inlet in threads.into_values() {
            inlet.close(&cause);
        }
    }

    /// The cause of the end, once it has ended.
    pub fn closed(&self) -> Option<Cause> {
        self.tables().closed.clone()
    }

    /// Lines that belonged to nobody, and lines that could not be read.
    pub fn counts(&self) -> (u64, u64) {
        (self.ignored.load(Ordering::Relaxed), self.broken.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::super::mailbox::{Delivery, Mailbox};
    use super::*;
    use crate::deadline::Cancel;

    fn delta(thread: &str) -> Vec<u8> {
        format!(r#"{{"method":"item/agentMessage/delta","params":{{"threadId":"{thread}","delta":"x"}}}}"#).into_bytes()
    }

    fn subscribe(router: &Router, thread: &str) -> Mailbox {
        let mailbox = Mailbox::new(Cancel::default());
        router.subscribe(thread, mailbox.inlet(0, true)).unwrap();
        mailbox
    }

    #[test]
    fn responses_find_their_waiter_once() {
        let router = Router::default();
        let (a, wait_a) = router.expect().unwrap();
        let (b, wait_b) = router.expect().unwrap();
        let line = |id: u64| format!(r#"{{"id":{id},"result":{{}}}}"#).into_bytes();
        assert_eq!(router.route(&line(b)), Routed::Done);
        router.route(&line(a));
        router.route(&line(a));
        assert_eq!(wait_a.recv().unwrap(), Ok(line(a)));
        assert_eq!(wait_b.recv().unwrap(), Ok(line(b)));
        assert_eq!(router.counts(), (1, 0));
    }

    #[test]
    fn each_thread_gets_only_its_own_lines() {
        let router = Router::default();
        let one = subscribe(&router, "1");
        let two = subscribe(&router, "2");
        router.route(&delta("2"));
        router.route(&delta("3"));
        router.unsubscribe("2");
        router.route(&delta("2"));
        assert!(one.take().is_none());
        assert!(matches!(two.take(), Some((0, Delivery::Line(line))) if line == delta("2")));
        assert!(two.take().is_none());
        assert_eq!(router.counts(), (2, 0));
    }

    #[test]
    fn of_two_protocols_at_once_one_counts() {
        let old = br#"{"method":"codex/event/agent_message_delta","params":{"conversationId":"1","msg":{}}}"#;
        for by_conversation in [false, true] {
            let router = Router::default();
            if by_conversation {
                router.route_by_conversation();
            }
            let mailbox = subscribe(&router, "1");
            router.route(old);
            router.route(&delta("1"));
            let expected = if by_conversation { old.to_vec() } else { delta("1") };
            assert!(matches!(mailbox.take(), Some((0, Delivery::Line(line))) if line == expected));
            assert!(mailbox.take().is_none());
        }
    }

    #[test]
    fn garbage_is_counted_and_skipped() {
        let router = Router::default();
        for line in [&b"not json"[..], b"{}", b"1", b"\xff\xfe"] {
            assert_eq!(router.route(line), Routed::Done);
        }
        assert_eq!(router.counts(), (0, 4));
    }

    #[test]
    fn requests_are_refused_unless_a_turn_takes_the_tool_call() {
        let router = Router::default();
        let call = br#"{"id":4,"method":"item/tool/call","params":{"threadId":"1","callId":"c"}}"#;
        assert_eq!(router.route(call), Routed::Refuse { id: "4".into(), method: "item/tool/call".into() });
        let mailbox = subscribe(&router, "1");
        assert_eq!(router.route(call), Routed::Done);
        assert!(matches!(mailbox.take(), Some((0, Delivery::Line(_)))));
        let approval = br#"{"id":"x","method":"execCommandApproval","params":{"threadId":"1"}}"#;
        assert_eq!(router.route(approval), Routed::Refuse { id: "\"x\"".into(), method: "execCommandApproval".into() });
    }

    #[test]
    fn the_first_cause_reaches_everybody_and_nobody_registers_afterwards() {
        let router = Router::default();
        let (_, waiter) = router.expect().unwrap();
        let mailbox = subscribe(&router, "1");
        router.close(Cause::new("first"));
        router.close(Cause::new("second"));
        assert_eq!(waiter.recv().unwrap(), Err(Cause::new("first")));
        assert!(matches!(mailbox.take(), Some((0, Delivery::Closed(cause))) if cause == Cause::new("first")));
        assert_eq!(router.expect().unwrap_err(), Cause::new("first"));
        assert_eq!(
            router.subscribe("2", Mailbox::new(Cancel::default()).inlet(0, true)).unwrap_err(),
            Cause::new("first")
        );
    }
}
