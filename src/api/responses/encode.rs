//! Events of a turn as a response: typed events with running numbers, or one object. Both are made from the same list of
//! output items, of which the last one may still grow.

use std::io::Write;

use serde_json::{Value, json};

use super::{Form, Record};
use crate::api::error::ApiError;
use crate::api::json::{member, quote};
use crate::api::usage::{self, Spent, Tally};
use crate::api::{EncodeOptions, Encoder, KEEPALIVE, Stamp, prompt};
use crate::turn::{Finish, Item, Role, ToolCall, TurnEvent};

/// An item of the output.
struct Output {
    id: String,
    status: &'static str,
    kind: Kind,
    /// The text of a message or a summary, or the arguments of a call.
    text: String,
}

#[derive(Clone, PartialEq)]
enum Kind {
    /// With its sealed content, once that is there.
    Reasoning(Option<String>),
    Message,
    Call {
        call_id: String,
        name: String,
    },
}

impl Output {
    fn part(&self) -> Value {
        match self.kind {
            Kind::Reasoning(_) => json!({"type": "summary_text", "text": self.text}),
            _ => json!({"type": "output_text", "annotations": [], "logprobs": [], "text": self.text}),
        }
    }

    /// The item as it is written.
    fn view(&self, includes_sealed: bool) -> Value {
        let Self { id, status, kind, text } = self;
        // Text begins a part; an item that has just begun has none.
        let parts: Vec<Value> = (!text.is_empty()).then(|| self.part()).into_iter().collect();
        match kind {
            Kind::Reasoning(Some(sealed)) if includes_sealed => {
                json!({"type": "reasoning", "id": id, "summary": parts, "encrypted_content": sealed})
            }
            Kind::Reasoning(_) => json!({"type": "reasoning", "id": id, "summary": parts}),
            Kind::Message => {
                json!({"type": "message", "id": id, "status": status, "role": "assistant", "content": parts})
            }
            Kind::Call { call_id, name } => {
                let kind = "function_call";
                json!({"type": kind, "id": id, "status": status, "call_id": call_id, "name": name, "arguments": text})
            }
        }
    }
}

/// The events of a text that grows, and the members that they have besides.
struct Events {
    part_added: &'static str,
    delta: &'static str,
    text_done: &'static str,
    part_done: &'static str,
    index: &'static [u8],
    after: &'static [u8],
}

const SUMMARY: Events = Events {
    part_added: "response.reasoning_summary_part.added",
    delta: "response.reasoning_summary_text.delta",
    text_done: "response.reasoning_summary_text.done",
    part_done: "response.reasoning_summary_part.done",
    index: b",\"summary_index\":0",
    after: b"",
};

const CONTENT: Events = Events {
    part_added: "response.content_part.added",
    delta: "response.output_text.delta",
    text_done: "response.output_text.done",
    part_done: "response.content_part.done",
    index: b",\"content_index\":0",
    after: b",\"logprobs\":[]",
};

pub(crate) fn encoder(
    stream: bool,
    form: &Form,
    history: &[Item],
    stamp: &Stamp,
    options: EncodeOptions,
    tally: Tally,
) -> Box<dyn Encoder + Send> {
    let conversation = form.conversation.clone().and_then(|range| history.get(range)).map(<[Item]>::to_vec);
    Box::new(ResponseEncoder {
        stream,
        echo: form.echo.clone(),
        conversation,
        includes_sealed: form.includes_sealed,
        stamp: stamp.clone(),
        reasoning: options.reasoning,
        tally,
        opened: false,
        sequence: 0,
        output: Vec::new(),
        is_open: false,
        finish: None,
        record: None,
    })
}

struct ResponseEncoder {
    stream: bool,
    echo: String,
    /// What the answer continues, if it is to be stored.
    conversation: Option<Vec<Item>>,
    includes_sealed: bool,
    stamp: Stamp,
    reasoning: bool,
    tally: Tally,
    opened: bool,
    /// Number of the next event.
    sequence: u64,
    output: Vec<Output>,
    /// Whether the last item of the output still grows.
    is_open: bool,
    finish: Option<Finish>,
    record: Option<Record>,
}

impl ResponseEncoder {
    /// One event, with what `members` writes.
    fn frame(&mut self, out: &mut Vec<u8>, kind: &str, members: impl FnOnce(&Self, &mut Vec<u8>)) {
        if self.stream {
            let sequence = self.sequence;
            self.sequence += 1;
            let _ = write!(out, "event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":{sequence}");
            members(self, out);
            out.extend_from_slice(b"}\n\n");
        }
    }

    /// One event about the last item.
    fn about(&mut self, out: &mut Vec<u8>, kind: &str, members: impl FnOnce(&Output, &mut Vec<u8>)) {
        self.frame(out, kind, |this, out| {
            if let Some(item) = this.output.last() {
                member(out, "item_id", &item.id);
                let _ = write!(out, ",\"output_index\":{}", this.output.len() - 1);
                members(item, out);
            }
        });
    }

    /// One event with the last item.
    fn item(&mut self, out: &mut Vec<u8>, kind: &str) {
        self.frame(out, kind, |this, out| {
            if let Some(item) = this.output.last() {
                member(out, "output_index", &(this.output.len() - 1));
                member(out, "item", &item.view(this.includes_sealed));
            }
        });
    }

    fn add(&mut self, out: &mut Vec<u8>, kind: Kind) {
        self.open(out);
        self.close(out, "completed");
        let prefix = match kind {
            Kind::Reasoning(_) => "rs",
            Kind::Message => "msg",
            Kind::Call { .. } => "fc",
        };
        let id = format!("{prefix}_{}_{}", self.stamp.id, self.output.len());
        self.output.push(Output { id, status: "in_progress", kind, text: String::new() });
        self.is_open = true;
        self.item(out, "response.output_item.added");
    }

    /// Whether the last item is of that kind and still grows.
    fn grows(&self, kind: &Kind) -> bool {
        self.is_open && self.output.last().is_some_and(|item| item.kind == *kind)
    }

    fn text(&mut self, out: &mut Vec<u8>, kind: Kind, delta: &str) {
        // What sets parts of a summary apart does not begin one.
        let delta = if self.grows(&kind) || kind == Kind::Message { delta } else { delta.trim_start_matches('\n') };
        if delta.is_empty() {
            return;
        }
        let events = if kind == Kind::Message { &CONTENT } else { &SUMMARY };
        if !self.grows(&kind) {
            self.add(out, kind);
            self.about(out, events.part_added, |item, out| {
                out.extend_from_slice(events.index);
                member(out, "part", &item.part());
            });
        }
        if let Some(item) = self.output.last_mut() {
            item.text.push_str(delta);
        }
        self.about(out, events.delta, |_, out| {
            out.extend_from_slice(events.index);
            out.extend_from_slice(b",\"delta\":");
            quote(out, delta);
            out.extend_from_slice(events.after);
        });
    }

    fn call(&mut self, out: &mut Vec<u8>, call: &ToolCall) {
        self.add(out, Kind::Call { call_id: call.id.clone(), name: call.name.clone() });
        if let Some(item) = self.output.last_mut() {
            item.text.push_str(&call.arguments);
        }
        self.about(out, "response.function_call_arguments.delta", |item, out| member(out, "delta", &item.text));
        self.close(out, "completed");
    }

    /// Ends a piece of reasoning, be it without a summary.
    fn seal(&mut self, out: &mut Vec<u8>, sealed: &str) {
        if !self.grows(&Kind::Reasoning(None)) {
            self.add(out, Kind::Reasoning(None));
        }
        if let Some(item) = self.output.last_mut() {
            item.kind = Kind::Reasoning(Some(sealed.to_owned()));
        }
        self.close(out, "completed");
    }

    /// Ends the item that still grows.
    fn close(&mut self, out: &mut Vec<u8>, end: &'static str) {
        let Some(item) = self.output.last_mut().filter(|_| self.is_open) else { return };
        self.is_open = false;
        item.status = end;
        let events = match item.kind {
            Kind::Reasoning(_) => Some(&SUMMARY),
            Kind::Message => Some(&CONTENT),
            Kind::Call { .. } => None,
        };
        let has_parts = !item.text.is_empty();
        match events {
            Some(_) if !has_parts => {}
            Some(events) => {
                self.about(out, events.text_done, |item, out| {
                    out.extend_from_slice(events.index);
                    member(out, "text", &item.text);
                    out.extend_from_slice(events.after);
                });
                self.about(out, events.part_done, |item, out| {
                    out.extend_from_slice(events.index);
                    member(out, "part", &item.part());
                });
            }
            None => self.about(out, "response.function_call_arguments.done", |item, out| {
                member(out, "arguments", &item.text);
            }),
        }
        self.item(out, "response.output_item.done");
    }

    /// Writes the response object.
    fn response(&self, out: &mut Vec<u8>, status: &str, error: Option<&ApiError>) {
        let has_ended = status != "in_progress";
        out.push(b'{');
        member(out, "id", &self.id());
        member(out, "object", "response");
        member(out, "created_at", &self.stamp.created);
        member(out, "status", status);
        member(out, "error", &error.map(|error| json!({"code": failure_code(error), "message": error.message})));
        let reason = match self.finish {
            Some(Finish::Length) => Some("max_output_tokens"),
            Some(Finish::ContentFilter) => Some("content_filter"),
            _ => None,
        };
        member(out, "incomplete_details", &reason.map(|reason| json!({"reason": reason})));
        member(out, "model", &self.stamp.model);
        let output: Vec<_> =
            self.output.iter().filter(|_| has_ended).map(|item| item.view(self.includes_sealed)).collect();
        member(out, "output", &output);
        member(out, "usage", &has_ended.then(|| usage::of_response(self.tally.spent().usage)));
        let _ = write!(out, ",{}}}", self.echo);
    }

    fn response_event(&mut self, out: &mut Vec<u8>, status: &str, kind: &str, error: Option<&ApiError>) {
        self.frame(out, kind, |this, out| {
            out.extend_from_slice(b",\"response\":");
            this.response(out, status, error);
        });
    }

    fn id(&self) -> String {
        format!("resp_{}", self.stamp.id)
    }

    fn bytes(&self) -> u64 {
        self.output.iter().map(|item| item.text.len() as u64).sum()
    }

    /// What a later request sees of this answer. Reasoning that was not sealed is nothing that a model could read.
    fn said(&self) -> Vec<Option<Item>> {
        let item = |Output { kind, text, .. }: &Output| match kind {
            Kind::Reasoning(sealed) => {
                let summary = Some(text.clone()).filter(|text| !text.is_empty()).into_iter().collect();
                Some(Item::Reasoning { summary, sealed: sealed.clone()? })
            }
            Kind::Message => Some(prompt::message(Role::Assistant, text.clone())),
            Kind::Call { call_id, name } => {
                Some(Item::ToolCall(ToolCall { id: call_id.clone(), name: name.clone(), arguments: text.clone() }))
            }
        };
        self.output.iter().map(item).collect()
    }
}

/// One of the codes that a response may have.
fn failure_code(error: &ApiError) -> &'static str {
    match error.status {
        429 => "rate_limit_exceeded",
        400 => "invalid_prompt",
        _ => "server_error",
    }
}

impl Encoder for ResponseEncoder {
    fn open(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.opened, true) {
            self.response_event(out, "in_progress", "response.created", None);
            self.response_event(out, "in_progress", "response.in_progress", None);
        }
    }

    fn event(&mut self, _: u32, event: &TurnEvent, out: &mut Vec<u8>) {
        match event {
            TurnEvent::Text(text) => self.text(out, Kind::Message, text),
            TurnEvent::Reasoning(text) if self.reasoning => self.text(out, Kind::Reasoning(None), text),
            TurnEvent::Reasoning(_) => {}
            TurnEvent::Sealed(sealed) => self.seal(out, sealed),
            TurnEvent::ToolCall(call) => self.call(out, call),
            TurnEvent::End(outcome) => {
                self.finish = outcome.result.as_ref().ok().copied();
                self.tally.add(0, outcome.usage, self.bytes());
            }
        }
    }

    fn keepalive(&mut self, out: &mut Vec<u8>) {
        if self.stream {
            out.extend_from_slice(KEEPALIVE);
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        let (status, kind) = match self.finish {
            Some(Finish::Length | Finish::ContentFilter) => ("incomplete", "response.incomplete"),
            _ => ("completed", "response.completed"),
        };
        self.open(out);
        self.close(out, status);
        self.response_event(out, status, kind, None);
        let mut json = Vec::new();
        if !self.stream || self.conversation.is_some() {
            self.response(&mut json, status, None);
        }
        if !self.stream {
            out.extend_from_slice(&json);
        }
        if let Some(history) = self.conversation.take() {
            // It was written from text.
            let json = String::from_utf8(json).unwrap_or_default();
            self.record = Some(Record { id: self.id(), json, history, output: self.said() });
        }
    }

    /// `response.failed` for those who follow the events, then `error`, which the SDKs raise.
    fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        self.open(out);
        self.close(out, "incomplete");
        if self.finish.is_none() {
            self.tally.add(0, None, self.bytes());
        }
        self.response_event(out, "failed", "response.failed", Some(error));
        self.frame(out, "error", |_, out| {
            member(out, "code", &error.code);
            member(out, "message", &error.message);
            member(out, "param", &error.param);
            let json = error.to_json();
            let _ = write!(out, ",{}", json.trim_start_matches('{').strip_suffix('}').unwrap_or_default());
        });
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn spent(&self) -> Spent {
        self.tally.spent()
    }

    fn record(&mut self) -> Option<Record> {
        self.record.take()
    }
}
