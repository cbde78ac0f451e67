//! From a validated request to the last byte of its answer: one loop for streams and whole answers, as both are folds of
//! the same events.

use std::io;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::service::{App, Record};
use super::sse::EVENT_STREAM;
use super::{Exchange, Response, fresh_id};
use crate::api::cut::Cutter;
use crate::api::error::ApiError;
use crate::api::{ApiRequest, EncodeOptions, Encoder, Stamp};
use crate::backend::active_turn::ActiveTurn;
use crate::config::{KeepaliveForm, names};
use crate::deadline::Deadline;
use crate::permits::Permit;
use crate::turn::{Finish, TurnError, TurnErrorKind, TurnEvent, TurnOutcome};

/// An answer that is being written.
struct Answer<'e, 'c> {
    exchange: &'e mut Exchange<'c>,
    encoder: Box<dyn Encoder + Send>,
    stream: bool,
    opened: bool,
    out: Vec<u8>,
}

impl App {
    /// Serves a request that needs a turn.
    pub(super) fn serve_turn(
        &self,
        exchange: &mut Exchange<'_>,
        request: ApiRequest,
        record: &mut Record,
    ) -> io::Result<()> {
        let began = self.begin(exchange, &request, record);
        let (turn, permit, stamp) = match began {
            Ok(began) => began,
            Err(error) => {
                record.end = error.code.unwrap_or(error.kind).to_owned();
                return exchange.error(&error);
            }
        };
        let options = EncodeOptions {
            reasoning: self.config.reasoning,
            keepalive_chunk: self.config.sse_keepalive_form == KeepaliveForm::Chunk,
        };
        let encoder = request.encoder(&stamp, options);
        let mut answer = Answer { exchange, encoder, stream: request.stream, opened: false, out: Vec::new() };
        let result = self.run(&mut answer, turn, Cutter::new(request.cut), record);
        let spent = answer.encoder.spent();
        let mark = if spent.estimated { "~" } else { "" };
        let usage = spent.usage;
        record.tokens = Some(format!("{mark}{}/{}/{}/{}", usage.input, usage.cached, usage.output, usage.reasoning));
        // The answer is out; only now may others take the place.
        drop(permit);
        result
    }

    /// Everything that may end in a plain HTTP error: the model's name, a permit, an app-server, the start of the turn.
    fn begin(
        &self,
        exchange: &mut Exchange<'_>,
        request: &ApiRequest,
        record: &mut Record,
    ) -> Result<(ActiveTurn, Permit, Stamp), ApiError> {
        let wait = Deadline::after(names::QUEUE, self.config.queue);
        let cancel = exchange.cancel();
        let api = |error: TurnError| ApiError::from(&error);
        let models = self.supervisor.models(&wait, &cancel).map_err(api)?;
        let resolved = self.names(&models).resolve(request.model.as_deref(), request.effort.as_ref())?;
        record.model = Some(resolved.name.clone());
        let permit = self.permits.acquire(&wait, &cancel).map_err(api)?;
        let mut turn = request.turn(0);
        turn.model = resolved.id;
        turn.effort = resolved.effort;
        let turn = self.supervisor.start_turn(&turn, &wait, &cancel).map_err(api)?;
        log::debug!("request={} thread={}", exchange.request_id(), turn.id());
        record.thread = Some(turn.id().to_owned());
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok((turn, permit, Stamp { id: fresh_id(), created, model: resolved.name }))
    }

    fn run(
        &self,
        answer: &mut Answer<'_, '_>,
        mut turn: ActiveTurn,
        mut cutter: Cutter,
        record: &mut Record,
    ) -> io::Result<()> {
        let open_at = Instant::now() + self.config.stream_open;
        let keepalive = Some(self.config.sse_keepalive)
            .filter(|gap| !gap.is_zero() && self.config.sse_keepalive_form != KeepaliveForm::Off);
        let mut last_write = Instant::now();
        let mut events = Vec::new();
        loop {
            let until = match (answer.stream, answer.opened) {
                (false, _) => None,
                (true, false) => Some(open_at),
                (true, true) => keepalive.map(|gap| last_write + gap),
            };
            turn.next(until, &mut events);
            let mut end = None;
            if events.is_empty() {
                if answer.opened {
                    answer.encoder.keepalive(&mut answer.out);
                } else {
                    answer.encoder.open(&mut answer.out);
                }
            } else {
                record.first.get_or_insert_with(Instant::now);
            }
            for event in events.drain(..) {
                let cut = cutter.filter(event, |event| match event {
                    TurnEvent::End(outcome) => end = Some(outcome),
                    event => answer.encoder.event(0, &event, &mut answer.out),
                });
                if let Some(finish) = cut {
                    end = Some(TurnOutcome { result: Ok(finish), usage: None });
                    break;
                }
            }
            let Some(outcome) = end else {
                answer.flush()?;
                last_write = Instant::now();
                continue;
            };
            return match outcome.result {
                Ok(finish) => {
                    record.end = reason(finish).to_owned();
                    answer.encoder.event(0, &TurnEvent::End(outcome), &mut answer.out);
                    answer.finish()
                }
                Err(error) => {
                    record.end = format!("{:?}: {error}", error.kind);
                    answer.fail(&error)
                }
            };
        }
    }
}

impl Answer<'_, '_> {
    /// Sends what has been encoded, if it is a stream; a whole answer goes out at its end.
    fn flush(&mut self) -> io::Result<()> {
        if !self.stream || self.out.is_empty() {
            return Ok(());
        }
        if !self.opened {
            self.opened = true;
            self.exchange.start_stream(200, &EVENT_STREAM)?;
        }
        let result = self.exchange.write(&self.out);
        self.out.clear();
        result
    }

    fn finish(&mut self) -> io::Result<()> {
        self.encoder.finish(&mut self.out);
        if self.stream {
            self.flush()?;
            return self.exchange.end_stream();
        }
        self.exchange.respond(Response::json(200, std::mem::take(&mut self.out)))
    }

    fn fail(&mut self, error: &TurnError) -> io::Result<()> {
        if error.kind == TurnErrorKind::ClientGone {
            return Err(io::Error::other(error.message.clone()));
        }
        let error = ApiError::from(error);
        if !self.opened {
            return self.exchange.error(&error);
        }
        self.encoder.fail(&error, &mut self.out);
        self.flush()?;
        self.exchange.end_stream()
    }
}

fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::ContentFilter => "content_filter",
        Finish::ToolCalls => "tool_calls",
    }
}
