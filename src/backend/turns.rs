//! The turns of one request, from start to end. Each ends exactly once for its client; at codex it ends when it is
//! finished or everything is dropped, whatever happened: interrupted (once) if it still runs, its thread forgotten, its
//! place on the generation given back.

use std::cell::OnceCell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::connection::{CallError, Patience};
use super::dialect::capabilities::Capabilities;
use super::dialect::{Decoder, StartError, Thread, limits};
use super::mailbox::{Delivery, Mailbox};
use super::redact::redacted;
use super::router::Cause;
use super::shared::{Event, Lease};
use super::wire::RpcError;
use crate::config::{Config, names};
use crate::deadline::{Cancel, CancelCause, Deadline};
use crate::turn::{TurnError, TurnErrorKind, TurnEvent, TurnOutcome, TurnRequest};

/// How long codex may take over an interrupt before its generation is replaced.
const INTERRUPT: Duration = Duration::from_secs(2);

/// Most lines that become one write.
const BATCH: usize = 1024;

/// The turns that one request runs at the moment.
#[derive(Debug)]
pub struct Turns {
    mailbox: Mailbox,
    active: Vec<ActiveTurn>,
    /// How many turns were begun, those of a generation that was lost meanwhile too.
    begun: u32,
    /// What came while one of them was being stopped.
    pending: Vec<(u32, TurnEvent)>,
}

/// A turn that was started.
#[derive(Debug)]
struct ActiveTurn {
    index: u32,
    /// Its name in the mailbox, which no earlier attempt had: that one's end may still be on its way.
    key: u32,
    thread: Thread,
    decoder: Decoder,
    interrupted: bool,
    whole: Deadline,
    idle: Deadline,
    settle: Option<Instant>,
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

impl Turns {
    /// None yet. `cancel` ends them all.
    pub fn new(cancel: Cancel) -> Self {
        Self { mailbox: Mailbox::new(cancel), active: Vec::new(), begun: 0, pending: Vec::new() }
    }

    /// What ends them all.
    pub fn cancel(&self) -> &Cancel {
        self.mailbox.cancel()
    }

    /// Starts the turn of an index and returns codex's id of the conversation. A client that leaves meanwhile is free
    /// at once; what codex makes of the call that it gave up is undone by the supervisor.
    ///
    /// # Errors
    /// See [`Unstarted`].
    pub fn start(
        &mut self,
        index: u32,
        lease: Lease,
        config: &Config,
        request: &TurnRequest,
    ) -> Result<String, Unstarted> {
        let whole = Deadline::after(names::TIMEOUT, config.timeout);
        let idle = Deadline::after(names::IDLE_TIMEOUT, config.idle_timeout);
        let first = if idle.at < whole.at { idle } else { whole };
        let late = OnceCell::new();
        let patience = Patience { deadline: &first, cancel: Some(self.mailbox.cancel()), late: Some(&late) };
        self.begun += 1;
        let key = self.begun;
        let inlet = self.mailbox.inlet(key, !request.tools.is_empty());
        let started = lease.generation.session.start(request, inlet, patience);
        let (thread, decoder) = match started {
            Ok(started) => started,
            Err(error) => {
                let unstarted = unstarted(error, &lease, request);
                if let Some(late) = late.into_inner() {
                    lease.leave(late);
                }
                return Err(unstarted);
            }
        };
        let id = thread.id.clone();
        self.active.push(ActiveTurn {
            index,
            key,
            thread,
            decoder,
            interrupted: false,
            whole,
            idle,
            settle: None,
            lease,
        });
        Ok(id)
    }

    /// Waits until something happened or `until` has come, and appends what happened to `out`, text already merged.
    /// Nothing comes for an index after its [`TurnEvent::End`].
    pub fn next(&mut self, until: Option<Instant>, out: &mut Vec<(u32, TurnEvent)>) {
        out.append(&mut self.pending);
        while out.is_empty() && self.active.iter().any(|turn| !turn.decoder.ended) {
            if let Some(cause) = self.mailbox.cancel().cause() {
                self.active.iter_mut().for_each(|turn| turn.abort(cause.error(), out));
                return;
            }
            let limits = self.active.iter().filter(|turn| !turn.decoder.ended);
            let limits = limits.flat_map(|turn| [Some(turn.whole.at), Some(turn.idle.at), turn.settle]);
            let Some(next) = limits.chain([until]).flatten().min() else { return };
            if let Some((key, delivery)) = self.mailbox.wait(next) {
                self.take_in(key, delivery, out);
                // Codex may write as fast as this reads: then the client has to get something, too.
                for _ in 1..BATCH {
                    let Some((key, delivery)) = self.mailbox.take() else { break };
                    self.take_in(key, delivery, out);
                }
            } else {
                self.active.iter_mut().for_each(|turn| turn.check_deadlines(out));
                if out.is_empty() && until.is_some_and(|until| until <= Instant::now()) {
                    return;
                }
            }
        }
    }

    fn take_in(&mut self, key: u32, delivery: Delivery, out: &mut Vec<(u32, TurnEvent)>) {
        if let Some(turn) = self.active.iter_mut().find(|turn| turn.key == key) {
            turn.take_in(delivery, out);
        }
    }

    /// Whether codex works on none of them any more.
    pub fn are_over(&self) -> bool {
        self.active.iter().all(|turn| !turn.decoder.running)
    }

    /// Asks codex to stop a turn whose answer is complete for its client.
    pub fn interrupt(&mut self, index: u32) {
        self.active.iter_mut().filter(|turn| turn.index == index).for_each(ActiveTurn::interrupt);
    }

    /// Waits until a turn has ended at codex too, so that its permit is free.
    pub fn finish(&mut self, index: u32) {
        self.stop(|turn| turn.index == index);
    }

    /// Interrupts the chosen turns that still run, waits until they have ended, and forgets all chosen ones.
    fn stop(&mut self, chosen: impl Fn(&ActiveTurn) -> bool) {
        self.active.iter_mut().filter(|turn| chosen(turn)).for_each(ActiveTurn::interrupt);
        let limit = Instant::now() + INTERRUPT;
        let mut out = std::mem::take(&mut self.pending);
        while self.active.iter().any(|turn| chosen(turn) && turn.decoder.running) {
            if let Some((key, delivery)) = self.mailbox.wait(limit) {
                self.take_in(key, delivery, &mut out);
            } else if Instant::now() >= limit {
                for turn in self.active.iter().filter(|turn| chosen(turn) && turn.decoder.running) {
                    turn.lease.suspect("an interrupt had no effect");
                }
                break;
            }
        }
        self.active.retain(|turn| !chosen(turn));
        out.retain(|(index, _)| self.active.iter().any(|turn| turn.index == *index));
        self.pending = out;
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        self.stop(|_| true);
    }
}

impl ActiveTurn {
    fn take_in(&mut self, delivery: Delivery, out: &mut Vec<(u32, TurnEvent)>) {
        match delivery {
            Delivery::Line(line) => {
                let mut events = Vec::new();
                let is_ours = self.decoder.decode(&line, &mut events);
                events.iter_mut().for_each(|event| self.say_when(event));
                if is_ours {
                    self.idle = Deadline::after(self.idle.name, self.idle.limit);
                    self.settle = self.decoder.settle_time().map(|time| Instant::now() + time);
                }
                events.into_iter().for_each(|event| push(out, self.index, event));
            }
            Delivery::Overflow => {
                self.abort(CancelCause::SlowReader.error(), out);
                // Nothing comes any more; codex is asked to stop, and that has to do.
                self.interrupt();
                self.decoder.running = false;
            }
            Delivery::Closed(cause) => {
                self.decoder.running = false;
                self.abort(lost(&cause), out);
            }
        }
    }

    /// Says when a limit that is used up begins anew, where codex told it.
    fn say_when(&self, event: &mut TurnEvent) {
        if let TurnEvent::End(TurnOutcome { result: Err(error), .. }) = event
            && matches!(error.kind, TurnErrorKind::QuotaExhausted | TurnErrorKind::RateLimited)
            && let Some(line) = self.lease.generation.connection().router.limits()
        {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            error.retry_after = error.retry_after.or(limits::wait(&line, now));
        }
    }

    fn check_deadlines(&mut self, out: &mut Vec<(u32, TurnEvent)>) {
        if let Some(deadline) = [self.whole, self.idle].into_iter().find(Deadline::passed) {
            let words = format!("The turn was not finished within {}.", deadline.describe());
            self.abort(TurnError::new(TurnErrorKind::Timeout, words), out);
        } else if self.settle.is_some_and(|settle| settle <= Instant::now()) {
            self.settle = None;
            self.tell(out, Decoder::settle);
        }
    }

    fn abort(&mut self, error: TurnError, out: &mut Vec<(u32, TurnEvent)>) {
        self.tell(out, |decoder, events| decoder.end(Err(error), events));
    }

    fn tell(&mut self, out: &mut Vec<(u32, TurnEvent)>, decide: impl FnOnce(&mut Decoder, &mut Vec<TurnEvent>)) {
        let mut events = Vec::new();
        decide(&mut self.decoder, &mut events);
        events.into_iter().for_each(|event| push(out, self.index, event));
    }

    fn interrupt(&mut self) {
        if self.decoder.running && !std::mem::replace(&mut self.interrupted, true) {
            self.lease.generation.session.interrupt(&self.thread, self.decoder.turn());
        }
    }
}

impl Drop for ActiveTurn {
    fn drop(&mut self) {
        if let Some(refusal) = self.decoder.refusal {
            self.lease.tell(Event::Refused(refusal));
        }
        self.lease.generation.session.release(&self.thread);
    }
}

fn lost(cause: &Cause) -> TurnError {
    TurnError::new(TurnErrorKind::Unavailable, format!("The answer is lost: {cause}. Try again."))
}

fn unstarted(error: StartError, lease: &Lease, request: &TurnRequest) -> Unstarted {
    let (error, is_late) = match error {
        StartError::Turn(error) => return Unstarted::Failed(error),
        StartError::Early(error) => (error, false),
        StartError::Late(error) => (error, true),
    };
    let number = lease.generation.number;
    Unstarted::Failed(match error {
        CallError::Closed(cause) if is_late => lost(&cause),
        CallError::Closed(cause) => return Unstarted::Lost(lost(&cause)),
        CallError::Cancelled(cause) => cause.error(),
        CallError::Deadline(words) => {
            if is_late {
                // A turn may run that nobody can interrupt.
                lease.suspect("a call was not answered in time");
            }
            TurnError::new(TurnErrorKind::Timeout, words)
        }
        CallError::Refused(error) => {
            log::warn!("codex refused a turn: {} ({})", redacted(&error.message), error.code);
            if let Some(method) = Capabilities::missing(&error, lease.generation.session.dialect) {
                // Nobody else is to try it before the supervisor has seen to that.
                let cause = Cause::new(format!("codex does not know {method}"));
                lease.generation.connection().router.close(cause.clone());
                lease.tell(Event::Missing(number, method));
                return Unstarted::Lost(lost(&cause));
            }
            refused(&error, request)
        }
    })
}

fn refused(error: &RpcError, request: &TurnRequest) -> TurnError {
    if error.is_overload() {
        return TurnError::new(TurnErrorKind::Overloaded, "Codex has too much to do; try again later.");
    }
    // Of what goes in as one text (0.104 – 0.169).
    if error.message.contains("exceeds the maximum length") {
        let words = "The conversation is longer than the 1,048,576 characters that this codex takes in one piece.";
        return TurnError::new(TurnErrorKind::ContextLength, words);
    }
    // Before 0.142 codex knows the efforts by name, whatever the model.
    if let Some(effort) =
        request.effort.as_ref().filter(|effort| error.message.contains(&format!("variant `{effort}`")))
    {
        return TurnError::new(
            TurnErrorKind::BadRequest,
            format!("This codex knows no `reasoning_effort` `{effort}`."),
        );
    }
    TurnError::new(TurnErrorKind::Upstream, "Codex refused the request; the log says why.")
}

/// Text that follows text of the same turn becomes one event, so that a backlog becomes one write.
fn push(out: &mut Vec<(u32, TurnEvent)>, index: u32, event: TurnEvent) {
    match (out.last_mut(), event) {
        (Some((last, TurnEvent::Text(text))), TurnEvent::Text(more))
        | (Some((last, TurnEvent::Reasoning(text))), TurnEvent::Reasoning(more))
            if *last == index =>
        {
            text.push_str(&more);
        }
        (_, event) => out.push((index, event)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_text_of_one_turn_is_merged_and_nothing_else() {
        let text = |text: &str| TurnEvent::Text(text.into());
        let thought = |text: &str| TurnEvent::Reasoning(text.into());
        let mut out = Vec::new();
        for (index, event) in
            [(0, thought("a")), (0, thought("b")), (0, text("c")), (0, text("d")), (1, text("e")), (0, text("f"))]
        {
            push(&mut out, index, event);
        }
        assert_eq!(out, [(0, thought("ab")), (0, text("cd")), (1, text("e")), (0, text("f"))]);
    }
}
