//! One turn from start to end. It ends exactly once for its client; at codex it ends when this is dropped, whatever
//! happened: interrupted if it still runs, its thread forgotten, its place on the generation given back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, at, never, select};

use super::connection::CallError;
use super::dialect::{Decoder, StartError};
use super::generation::Generation;
use super::mailbox::{Delivery, Mailbox};
use super::supervisor::Event;
use crate::config::{Config, names};
use crate::deadline::{Cancel, Deadline};
use crate::turn::{TurnError, TurnErrorKind, TurnEvent, TurnRequest};

/// How long codex may take over an interrupt before its generation is replaced.
const INTERRUPT: Duration = Duration::from_secs(2);

/// A place on a generation: while it is held, the generation is not ended for being old.
#[derive(Debug)]
pub struct Lease {
    /// The generation.
    pub generation: Arc<Generation>,
    events: Sender<Event>,
}

impl Lease {
    /// Takes a place. To be called where nobody can retire the generation at the same moment.
    pub fn take(generation: &Arc<Generation>, events: &Sender<Event>) -> Self {
        generation.turns.fetch_add(1, Ordering::AcqRel);
        Self { generation: Arc::clone(generation), events: events.clone() }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.generation.turns.fetch_sub(1, Ordering::AcqRel);
        let _ = self.events.send(Event::TurnEnded);
    }
}

/// A turn that was started.
#[derive(Debug)]
pub struct ActiveTurn {
    thread: String,
    mailbox: Mailbox,
    decoder: Decoder,
    cancel: Cancel,
    whole: Deadline,
    idle: Deadline,
    // Dropped last, after the thread was released.
    lease: Lease,
}

/// Why nothing was started.
#[derive(Debug)]
pub enum Unstarted {
    /// The generation was lost before anything reached the model: the next one can serve the request.
    Lost(TurnError),
    /// The request fails.
    Failed(TurnError),
}

impl ActiveTurn {
    /// Starts a turn. A client that leaves meanwhile is noticed right after: a thread that is being made has to be
    /// released in any case.
    ///
    /// # Errors
    /// See [`Unstarted`].
    pub fn start(lease: Lease, config: &Config, request: &TurnRequest, cancel: &Cancel) -> Result<Self, Unstarted> {
        let whole = Deadline::after(names::TIMEOUT, config.timeout);
        let idle = Deadline::after(names::IDLE_TIMEOUT, config.idle_timeout);
        let first = if idle.at < whole.at { idle } else { whole };
        let generation = &lease.generation;
        let (connection, dialect, session) = (&generation.connection, generation.dialect, generation.session());
        let failed = |error| unstarted(error, &lease);
        let thread = dialect.start_thread(connection, &session, request, &first).map_err(failed)?;
        let release = |error| {
            connection.router.unsubscribe(&thread);
            dialect.release(connection, &thread);
            failed(error)
        };
        let mailbox = connection.router.subscribe(&thread);
        let mailbox = mailbox.map_err(|cause| failed(StartError::Early(CallError::Closed(cause))))?;
        if let Some(cause) = cancel.cause() {
            return Err(release(StartError::Turn(cause.error())));
        }
        let decoder = dialect.start_turn(connection, &generation.capabilities, &session, &thread, request, &first);
        let decoder = decoder.map_err(release)?;
        Ok(Self { thread, mailbox, decoder, cancel: cancel.clone(), whole, idle, lease })
    }

    /// Codex's id of the conversation, for the log.
    pub fn id(&self) -> &str {
        &self.thread
    }

    /// Waits until something happened or `until` has come, and appends what happened to `out`, text already merged.
    /// Nothing comes after [`TurnEvent::End`].
    pub fn next(&mut self, until: Option<Instant>, out: &mut Vec<TurnEvent>) {
        while out.is_empty() && !self.decoder.ended {
            if let Some(cause) = self.cancel.cause() {
                return self.decoder.abort(cause.error(), out);
            }
            let settle = self.decoder.settle_time().map(|time| Instant::now() + time);
            let limits = [until, settle, Some(self.whole.at), Some(self.idle.at)];
            let next = limits.into_iter().flatten().min().map_or(never(), at);
            select! {
                recv(self.mailbox.receiver()) -> delivery => {
                    if let Ok(delivery) = delivery {
                        self.mailbox.settle(&delivery);
                        self.take_in(delivery, out);
                        while let Some(delivery) = self.mailbox.take() {
                            self.take_in(delivery, out);
                        }
                    }
                }
                recv(self.cancel.wake()) -> _ => {}
                recv(next) -> _ => {
                    if let Some(deadline) = [&self.whole, &self.idle].into_iter().find(|deadline| deadline.passed()) {
                        let words = format!("The turn was not finished within {}.", deadline.describe());
                        self.decoder.abort(TurnError::new(TurnErrorKind::Timeout, words), out);
                    } else if settle.is_some_and(|settle| settle <= Instant::now()) {
                        self.decoder.settle(out);
                    } else {
                        return;
                    }
                }
            }
        }
    }

    fn take_in(&mut self, delivery: Delivery, out: &mut Vec<TurnEvent>) {
        match delivery {
            Delivery::Line(line) => {
                let before = out.len();
                if self.decoder.decode(&line, out) {
                    self.idle = Deadline::after(self.idle.name, self.idle.limit);
                }
                merge(out, before);
            }
            Delivery::Overflow => {
                let words = "The client reads more slowly than the model writes; its backlog grew too large.";
                self.decoder.abort(TurnError::new(TurnErrorKind::SlowReader, words), out);
            }
            Delivery::Closed(cause) => {
                self.decoder.running = false;
                self.decoder.abort(lost(&cause.to_string()), out);
            }
        }
    }

    /// Asks codex to stop and waits until it has.
    fn stop(&mut self) {
        let generation = Arc::clone(&self.lease.generation);
        generation.dialect.interrupt(&generation.connection, &self.thread, self.decoder.turn());
        let limit = Instant::now() + INTERRUPT;
        let mut ignored = Vec::new();
        while self.decoder.running {
            match self.mailbox.receiver().recv_deadline(limit) {
                Ok(delivery) => {
                    self.mailbox.settle(&delivery);
                    // After an overflow nothing comes any more; codex has been asked, and that has to do.
                    let last = matches!(delivery, Delivery::Overflow);
                    self.take_in(delivery, &mut ignored);
                    ignored.clear();
                    if last {
                        return;
                    }
                }
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return,
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => {
                    let _ = self.lease.events.send(Event::Suspect(generation.number, "an interrupt had no effect"));
                    return;
                }
            }
        }
    }
}

impl Drop for ActiveTurn {
    fn drop(&mut self) {
        if self.decoder.running {
            self.stop();
        }
        let generation = &self.lease.generation;
        if self.decoder.instructions_refused {
            let _ = self.lease.events.send(Event::InstructionsRefused);
        }
        generation.connection.router.unsubscribe(&self.thread);
        generation.dialect.release(&generation.connection, &self.thread);
    }
}

fn lost(cause: &str) -> TurnError {
    TurnError::new(TurnErrorKind::Unavailable, format!("The answer is lost: {cause}. Try again."))
}

fn unstarted(error: StartError, lease: &Lease) -> Unstarted {
    match error {
        StartError::Early(CallError::Closed(cause)) => Unstarted::Lost(lost(&cause.to_string())),
        StartError::Late(CallError::Closed(cause)) => Unstarted::Failed(lost(&cause.to_string())),
        StartError::Early(CallError::Deadline(words)) | StartError::Late(CallError::Deadline(words)) => {
            let _ = lease.events.send(Event::Suspect(lease.generation.number, "a call was not answered in time"));
            Unstarted::Failed(TurnError::new(TurnErrorKind::Timeout, words))
        }
        StartError::Early(CallError::Refused(error)) | StartError::Late(CallError::Refused(error)) => {
            log::warn!("codex refused a turn: {} ({})", error.message, error.code);
            Unstarted::Failed(if error.is_overload() {
                TurnError::new(TurnErrorKind::Overloaded, "Codex has too much to do; try again later.")
            } else {
                TurnError::new(TurnErrorKind::Upstream, "Codex refused the request; the log says why.")
            })
        }
        StartError::Turn(error) => Unstarted::Failed(error),
    }
}

/// Joins text that follows text, from the entry before `start` on, so that a backlog becomes one write.
fn merge(out: &mut Vec<TurnEvent>, start: usize) {
    let mut kept = start.max(1);
    for next in start.max(1)..out.len() {
        let (head, tail) = out.split_at_mut(next);
        match (&mut head[kept - 1], &mut tail[0]) {
            (TurnEvent::Text(text), TurnEvent::Text(more))
            | (TurnEvent::Reasoning(text), TurnEvent::Reasoning(more)) => {
                text.push_str(more);
            }
            _ => {
                out.swap(kept, next);
                kept += 1;
            }
        }
    }
    if !out.is_empty() {
        out.truncate(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_text_is_merged_and_nothing_else() {
        let text = |text: &str| TurnEvent::Text(text.into());
        let thought = |text: &str| TurnEvent::Reasoning(text.into());
        let mut out = Vec::new();
        for event in [thought("a"), thought("b"), text("c"), text("d"), thought("e"), text("f")] {
            let before = out.len();
            out.push(event);
            merge(&mut out, before);
        }
        assert_eq!(out, [thought("ab"), text("cd"), thought("e"), text("f")]);
        let mut out = vec![text("1"), text("2"), text("3")];
        merge(&mut out, 0);
        assert_eq!(out, [text("123")]);
        merge(&mut Vec::new(), 0);
    }
}
