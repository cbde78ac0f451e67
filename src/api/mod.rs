//! The OpenAI side: requests in, answers out. Pure: no I/O, no clock and no ids of its own, so that every byte of an
//! answer can be tested.
//!
//! Every front end turns its JSON into an [`ApiRequest`] and names the [`Encoder`] that writes the answer, so that one
//! loop serves them all: resolve the model, run [`ApiRequest::choices`] turns, pass each event through the
//! [`cut::Cutter`] of its choice into the encoder.

use std::sync::Arc;

use crate::turn::{Role, TurnEvent, TurnRequest};

pub mod chat;
pub mod choices;
pub mod completions;
pub mod cut;
pub mod error;
mod fields;
mod json;
pub mod models;
pub mod prompt;
pub mod responses;
mod schema;
mod tools;
pub mod usage;
mod write;

use error::ApiError;

/// What an answer carries that comes from outside: who is answered, when, and under which name of the model.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// Unique part of the answer's id, such as `8f3a…` in `chatcmpl-8f3a…`.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model, by the name that the client used.
    pub model: String,
}

/// What of the server's settings an encoder has to know.
#[derive(Clone, Copy, Debug)]
pub struct EncodeOptions {
    /// Whether summaries of the model's reasoning are shown (`PROXY_REASONING`).
    pub reasoning: bool,
    /// Whether a keepalive is an empty delta and not a comment (`PROXY_SSE_KEEPALIVE`).
    pub keepalive_chunk: bool,
}

/// A validated request of any front end.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiRequest {
    /// What the model is asked. Model and effort are still to be resolved.
    pub turn: TurnRequest,
    /// The model as asked for. `None`: not said.
    pub model: Option<String>,
    /// The effort as asked for.
    pub effort: Option<Effort>,
    /// Whether the answer is a stream.
    pub stream: bool,
    /// Answers wanted to each prompt.
    pub n: u32,
    /// What ends an answer early.
    pub cut: cut::CutRules,
    /// The form of the answer.
    pub form: Form,
}

/// An effort and the field that it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Such as `low`.
    pub value: String,
    /// Such as `reasoning.effort`.
    pub param: &'static str,
}

/// The form of an answer: which front end, and what it has to remember of the request.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// `/v1/chat/completions` or `/v1/completions`.
    Choices(choices::Form),
    /// `/v1/responses`.
    Response(responses::Form),
}

impl ApiRequest {
    /// The prompts, where they are several.
    fn prompts(&self) -> &[Arc<str>] {
        match &self.form {
            Form::Choices(form) => &form.prompts,
            Form::Response(_) => &[],
        }
    }

    /// How many turns answer this request; each is one choice.
    pub fn choices(&self) -> u32 {
        self.n * self.prompts().len().max(1) as u32
    }

    /// The question of choice `index`. To be asked in order: the last one takes the history along.
    pub fn turn(&mut self, index: u32) -> TurnRequest {
        if let Some(prompt) = self.prompts().get((index / self.n) as usize) {
            return TurnRequest { history: vec![prompt::message(Role::User, &**prompt)], ..self.turn.clone() };
        }
        if index + 1 < self.choices() { self.turn.clone() } else { std::mem::take(&mut self.turn) }
    }

    /// What will write the answer. To be asked before the turns.
    pub fn encoder(&self, stamp: &Stamp, options: EncodeOptions) -> Box<dyn Encoder + Send> {
        let prompts = match self.prompts() {
            // What a picture costs does not follow from its bytes; this is what a small one does.
            [] => vec![self.bytes(|_| 1024) as u64],
            several => several.iter().map(|prompt| prompt.len() as u64).collect(),
        };
        let tally = usage::Tally::new(prompts, self.n);
        match &self.form {
            Form::Choices(form) => choices::encoder(self.stream, form, self.n, stamp, options, tally),
            Form::Response(form) => {
                responses::encode::encoder(self.stream, form, &self.turn.history, stamp, options, tally)
            }
        }
    }

    /// Bytes of what the model reads, with those that a picture counts for by its URL.
    pub fn bytes(&self, picture: fn(&str) -> usize) -> usize {
        let items = self.turn.history.iter().map(|item| prompt::bytes(item, picture));
        let tools = self.turn.tools.iter().map(|tool| tool.name.len() + tool.description.len() + tool.parameters.len());
        items.chain(tools).sum()
    }
}

/// A sign of life that no parser takes for an event.
const KEEPALIVE: &[u8] = b": keepalive\n\n";

/// Writes the events of the turns of one request as one front end's answer. A streaming encoder appends frames to `out`
/// at once; a whole one collects and appends everything in [`Encoder::finish`]. There is one loop for both.
pub trait Encoder {
    /// Begins the answer, once the head is out, when no event is there yet. Without it, the first event begins it;
    /// calling it more than once does nothing.
    fn open(&mut self, out: &mut Vec<u8>);
    /// One event of the turn for choice `index`. After its [`TurnEvent::End`] an index gets no more; an end with an
    /// error is not passed in here but to [`Encoder::fail`].
    fn event(&mut self, index: u32, event: &TurnEvent, out: &mut Vec<u8>);
    /// Called while the model is silent. Streaming encoders only.
    fn keepalive(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(KEEPALIVE);
    }
    /// All turns have ended well: the rest of the answer.
    fn finish(&mut self, out: &mut Vec<u8>);
    /// The answer ends here with an error. Streaming encoders only: a whole answer becomes a plain HTTP error.
    fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>);
    /// What the turns that have ended so far cost.
    fn spent(&self) -> usage::Spent;
    /// After [`Encoder::finish`]: what is to be kept of the answer, if anything.
    fn record(&mut self) -> Option<responses::Record> {
        None
    }
}
