//! From a validated request to the last byte of its answer: one loop for streams and whole answers, one choice or
//! several, as all are folds of the same events.

use std::io;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::service::{App, Record};
use super::{Exchange, Response, Share, fresh_id};
use crate::api::cut::Cutter;
use crate::api::error::ApiError;
use crate::api::models::Resolved;
use crate::api::responses::store::Owner;
use crate::api::{ApiRequest, EncodeOptions, Encoder, Stamp};
use crate::backend::turns::Turns;
use crate::config::{KeepaliveForm, names};
use crate::deadline::Deadline;
use crate::permits::Permit;
use crate::turn::{Finish, TurnError, TurnErrorKind, TurnEvent, TurnOutcome};

/// A request whose turns run, and its answer as far as it is written.
struct Running<'a, 'c> {
    app: &'a App,
    exchange: &'a mut Exchange<'c>,
    record: &'a mut Record,
    request: ApiRequest,
    resolved: Resolved,
    /// Dropped before the permits: what still runs at codex is stopped, and only then may others take its place.
    turns: Turns,
    /// The first, and those that were free when further choices began.
    permits: Vec<Permit>,
    cutters: Vec<Cutter>,
    /// How many choices still run.
    running: usize,
    encoder: Box<dyn Encoder + Send>,
    opened: bool,
    out: Vec<u8>,
}

impl App {
    /// Serves a request that needs turns, and gives its share back as soon as the first one has the conversation. Until the first one has started, whatever fails is a plain HTTP error: the
    /// model's name, the wait for a permit and for an app-server, the start itself.
    ///
    /// # Errors
    /// What is to be answered if nothing was. With the code `client_gone` there is nobody left to tell.
    pub(super) fn serve_turn(
        &self,
        exchange: &mut Exchange<'_>,
        request: ApiRequest,
        share: Share,
        owner: Owner,
        record: &mut Record,
    ) -> Result<(), ApiError> {
        let wait = Deadline::after(names::QUEUE, self.config.queue);
        let cancel = exchange.cancel();
        let api = |error: TurnError| ApiError::from(&error);
        let models = self.supervisor.models(&wait, &cancel).map_err(api)?;
        let resolved = self.names(&models).resolve(request.model.as_deref(), request.effort.as_ref())?;
        record.model = Some(resolved.name.clone());
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let stamp = Stamp { id: fresh_id(), created, model: resolved.name.clone() };
        let options = EncodeOptions {
            reasoning: self.config.reasoning,
            keepalive_chunk: self.config.sse_keepalive_form == KeepaliveForm::Chunk,
        };
        let permit = self.permits.acquire(&wait, &cancel).map_err(api)?;
        let mut running = Running {
            app: self,
            exchange,
            record,
            resolved,
            turns: Turns::new(cancel),
            permits: vec![permit],
            cutters: Vec::new(),
            running: 0,
            // The first turn takes the conversation along, so the encoder looks at it before.
            encoder: request.encoder(&stamp, options),
            request,
            opened: false,
            out: Vec::new(),
        };
        let thread = running.start_next(&wait).map_err(api)?;
        drop(share);
        log::debug!("request={} thread={thread}", running.exchange.request_id);
        running.record.thread = Some(thread);
        let result = running.run(owner).or_else(|error| running.fail(&error));
        running.record.tokens = Some(running.encoder.spent());
        result
    }
}

impl Running<'_, '_> {
    fn left(&self) -> bool {
        self.cutters.len() < self.request.choices() as usize
    }

    /// Starts the turn of the next choice and returns codex's id of it.
    fn start_next(&mut self, wait: &Deadline) -> Result<String, TurnError> {
        // There are at most a few choices.
        let index = self.cutters.len() as u32;
        let mut turn = self.request.turn(index);
        turn.model = self.resolved.id.clone();
        turn.effort = self.resolved.effort.clone();
        let thread = self.app.supervisor.start_turn(&mut self.turns, index, &turn, wait)?;
        self.cutters.push(Cutter::new(self.request.cut.clone()));
        self.running += 1;
        Ok(thread)
    }

    /// Starts as many further choices as have a permit: one of ours that is free again, or one that nobody waits for.
    fn start_more(&mut self) -> Result<(), TurnError> {
        while self.left() {
            if self.running == self.permits.len() {
                let Some(permit) = self.app.permits.try_acquire() else { break };
                self.permits.push(permit);
            }
            self.start_next(&Deadline::after(names::QUEUE, self.app.config.queue))?;
        }
        Ok(())
    }

    fn run(&mut self, owner: Owner) -> Result<(), TurnError> {
        let config = &self.app.config;
        let open_at = Instant::now() + config.stream_open;
        let keepalive = (config.sse_keepalive_form != KeepaliveForm::Off).then_some(config.sse_keepalive);
        let mut last_write = Instant::now();
        let mut events = Vec::new();
        while self.running > 0 || self.left() {
            self.start_more()?;
            let until = match (self.request.stream, self.opened) {
                (false, _) => None,
                (true, false) => Some(open_at),
                (true, true) => keepalive.map(|gap| last_write + gap),
            };
            self.turns.next(until, &mut events);
            if events.is_empty() && self.opened {
                self.encoder.keepalive(&mut self.out);
            } else if events.is_empty() && self.request.stream {
                self.encoder.open(&mut self.out);
            }
            for (index, event) in events.drain(..) {
                self.take_in(index, event)?;
            }
            if self.request.stream && !self.out.is_empty() {
                self.flush()?;
                last_write = Instant::now();
            }
        }
        self.encoder.finish(&mut self.out);
        // A place that nothing needs any more is free before the client can ask again.
        if self.turns.are_over() {
            self.permits.clear();
        }
        // Before the client can ask for it.
        if let Some(kept) = self.encoder.record() {
            self.app.store().put(owner, kept, self.app.clock());
        }
        self.finish()
    }

    fn take_in(&mut self, index: u32, event: TurnEvent) -> Result<(), TurnError> {
        if matches!(event, TurnEvent::Text(_) | TurnEvent::Reasoning(_) | TurnEvent::ToolCall(_)) {
            self.record.first.get_or_insert_with(Instant::now);
        }
        let Some(cutter) = self.cutters.get_mut(index as usize) else { return Ok(()) };
        let mut end = None;
        let cut = cutter.filter(event, |event| match event {
            TurnEvent::End(outcome) => end = Some(outcome),
            event => self.encoder.event(index, &event, &mut self.out),
        });
        if let Some(finish) = cut {
            self.turns.interrupt(index);
            end = Some(TurnOutcome { result: Ok(finish), usage: None });
        }
        let Some(outcome) = end else { return Ok(()) };
        let finish = outcome.result.clone()?;
        self.record.end = reason(finish).to_owned();
        self.encoder.event(index, &TurnEvent::End(outcome), &mut self.out);
        self.running -= 1;
        // Where another choice waits for the place, this one has to have left it.
        if self.left() {
            self.turns.finish(index);
        }
        Ok(())
    }

    /// Sends what has been encoded of a stream.
    fn flush(&mut self) -> Result<(), TurnError> {
        if !self.opened {
            self.opened = true;
            self.exchange.start_stream().map_err(gone)?;
        }
        let result = self.exchange.write(&self.out);
        self.out.clear();
        result.map_err(gone)
    }

    fn finish(&mut self) -> Result<(), TurnError> {
        if self.request.stream {
            self.flush()?;
            return self.exchange.end_stream().map_err(gone);
        }
        self.exchange.respond(Response::json(200, std::mem::take(&mut self.out))).map_err(gone)
    }

    /// Tells of an error in the stream, if it has begun. Who does not read is cut off.
    fn fail(&mut self, error: &TurnError) -> Result<(), ApiError> {
        self.record.end = format!("{:?}: {error}", error.kind);
        let told = ApiError::from(error);
        if !self.opened || matches!(error.kind, TurnErrorKind::ClientGone | TurnErrorKind::SlowReader) {
            return Err(told);
        }
        self.encoder.fail(&told, &mut self.out);
        self.finish().map_err(|error| ApiError::from(&error))
    }
}

fn gone(error: io::Error) -> TurnError {
    TurnError::new(TurnErrorKind::ClientGone, error.to_string())
}

fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::ContentFilter => "content_filter",
        Finish::ToolCalls => "tool_calls",
    }
}
