//! Events of a turn as a response: typed events with running numbers, or one object. Both are made from the same list of
//! output items, of which the last one may still grow.

use std::fmt;
use std::io::Write;

use serde_json::{Value, json};

use super::{Form, Record};
use crate::api::error::ApiError;
use crate::api::usage::{self, Spent, Tally};
use crate::api::write::member;
use crate::api::{EncodeOptions, Encoder, Stamp, prompt};
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

/// The words for an item that grows.
struct Words {
    id: &'static str,
    /// Events of the only part of it, where it has parts.
    part: Option<&'static str>,
    /// Events of its text.
    text: &'static str,
    /// What stands in all these events.
    place: &'static str,
    /// What stands at the end of those of the text.
    after: &'static str,
}

impl Kind {
    fn words(&self) -> Words {
        let words = |id, part, text, place, after| Words { id, part, text, place, after };
        let (summary, content) = (Some("reasoning_summary_part"), Some("content_part"));
        match self {
            Self::Reasoning(_) => words("rs", summary, "reasoning_summary_text", ",\"summary_index\":0", ""),
            Self::Message => words("msg", content, "output_text", ",\"content_index\":0", ",\"logprobs\":[]"),
            Self::Call { .. } => words("fc", None, "function_call_arguments", "", ""),
        }
    }
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

    /// What a later request sees of it. Reasoning that was not sealed is nothing that a model could read.
    fn said(&self) -> Option<Item> {
        let text = self.text.clone();
        Some(match self.kind.clone() {
            Kind::Reasoning(sealed) => Item::Reasoning {
                summary: Some(text).filter(|text| !text.is_empty()).into_iter().collect(),
                sealed: sealed?,
            },
            Kind::Message => prompt::message(Role::Assistant, text),
            Kind::Call { call_id: id, name } => Item::ToolCall(ToolCall { id, name, arguments: text }),
        })
    }
}

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
        form: form.clone(),
        conversation,
        stamp: stamp.clone(),
        reasoning: options.reasoning,
        tally,
        sequence: 0,
        output: Vec::new(),
        finish: None,
        record: None,
    })
}

struct ResponseEncoder {
    stream: bool,
    form: Form,
    /// What the answer continues, if it is to be stored.
    conversation: Option<Vec<Item>>,
    stamp: Stamp,
    reasoning: bool,
    tally: Tally,
    /// Number of the next event.
    sequence: u64,
    /// Only the last one may still grow.
    output: Vec<Output>,
    finish: Option<Finish>,
    record: Option<Record>,
}

impl ResponseEncoder {
    /// One event, with what `members` writes.
    fn frame(&mut self, out: &mut Vec<u8>, kind: fmt::Arguments<'_>, members: impl FnOnce(&Self, &mut Vec<u8>)) {
        if self.stream {
            let sequence = self.sequence;
            self.sequence += 1;
            let _ = write!(out, "event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":{sequence}");
            members(self, out);
            out.extend_from_slice(b"}\n\n");
        }
    }

    /// One event about the text or the part of the last item.
    fn about(&mut self, out: &mut Vec<u8>, kind: fmt::Arguments<'_>, members: impl FnOnce(&Output, &mut Vec<u8>)) {
        self.frame(out, kind, |this, out| {
            if let Some(item) = this.output.last() {
                member(out, "item_id", &item.id);
                let _ = write!(out, ",\"output_index\":{}{}", this.output.len() - 1, item.kind.words().place);
                members(item, out);
            }
        });
    }

    /// One event with the last item.
    fn item(&mut self, out: &mut Vec<u8>, kind: &str) {
        self.frame(out, format_args!("response.output_item.{kind}"), |this, out| {
            if let Some(item) = this.output.last() {
                member(out, "output_index", &(this.output.len() - 1));
                member(out, "item", &item.view(this.form.includes_sealed));
            }
        });
    }

    fn add(&mut self, out: &mut Vec<u8>, kind: Kind) {
        self.open(out);
        self.close(out, "completed");
        let id = format!("{}_{}_{}", kind.words().id, self.stamp.id, self.output.len());
        self.output.push(Output { id, status: "in_progress", kind, text: String::new() });
        self.item(out, "added");
    }

    /// Whether the last item is of that kind and still grows.
    fn grows(&self, kind: &Kind) -> bool {
        self.output.last().is_some_and(|item| item.status == "in_progress" && item.kind == *kind)
    }

    fn text(&mut self, out: &mut Vec<u8>, kind: Kind, delta: &str) {
        let Words { part, text, after, .. } = kind.words();
        let grows = self.grows(&kind);
        // What sets parts of a summary apart does not begin one.
        let delta = if grows || kind != Kind::Reasoning(None) { delta } else { delta.trim_start_matches('\n') };
        // A part begins with its text; calls have no parts.
        if delta.is_empty() && part.is_some() {
            return;
        }
        if !grows {
            self.add(out, kind);
            if let Some(part) = part {
                self.about(out, format_args!("response.{part}.added"), |item, out| member(out, "part", &item.part()));
            }
        }
        if let Some(item) = self.output.last_mut() {
            item.text.push_str(delta);
        }
        self.about(out, format_args!("response.{text}.delta"), |_, out| {
            member(out, "delta", delta);
            out.extend_from_slice(after.as_bytes());
        });
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
        let Some(item) = self.output.last_mut().filter(|item| item.status == "in_progress") else { return };
        item.status = end;
        let Words { part, text, after, .. } = item.kind.words();
        if part.is_none() || !item.text.is_empty() {
            self.about(out, format_args!("response.{text}.done"), |item, out| {
                member(out, if part.is_some() { "text" } else { "arguments" }, &item.text);
                out.extend_from_slice(after.as_bytes());
            });
            if let Some(part) = part {
                self.about(out, format_args!("response.{part}.done"), |item, out| member(out, "part", &item.part()));
            }
        }
        self.item(out, "done");
    }

    /// One event with the response object. Returns that.
    fn response(&mut self, out: &mut Vec<u8>, kind: &str, status: &str, error: Option<&ApiError>) -> Vec<u8> {
        let mut json = b"{".to_vec();
        let has_ended = status != "in_progress";
        member(&mut json, "id", &self.id());
        member(&mut json, "object", "response");
        member(&mut json, "created_at", &self.stamp.created);
        member(&mut json, "status", status);
        // A response has codes of its own.
        let code = match error.map(|error| error.status) {
            Some(429) => "rate_limit_exceeded",
            Some(400) => "invalid_prompt",
            _ => "server_error",
        };
        member(&mut json, "error", &error.map(|error| json!({"code": code, "message": error.message})));
        let reason = match self.finish {
            Some(Finish::Length) => Some("max_output_tokens"),
            Some(Finish::ContentFilter) => Some("content_filter"),
            _ => None,
        };
        member(&mut json, "incomplete_details", &reason.map(|reason| json!({"reason": reason})));
        member(&mut json, "model", &self.stamp.model);
        let output: Vec<_> =
            self.output.iter().filter(|_| has_ended).map(|item| item.view(self.form.includes_sealed)).collect();
        member(&mut json, "output", &output);
        member(&mut json, "usage", &has_ended.then(|| usage::of_response(self.tally.spent().usage)));
        let _ = write!(json, ",{}}}", self.form.echo);
        self.frame(out, format_args!("response.{kind}"), |_, out| {
            out.extend_from_slice(b",\"response\":");
            out.extend_from_slice(&json);
        });
        json
    }

    fn id(&self) -> String {
        format!("resp_{}", self.stamp.id)
    }

    fn bytes(&self) -> u64 {
        self.output.iter().map(|item| item.text.len() as u64).sum()
    }
}

impl Encoder for ResponseEncoder {
    fn open(&mut self, out: &mut Vec<u8>) {
        if self.stream && self.sequence == 0 {
            self.response(out, "created", "in_progress", None);
            self.response(out, "in_progress", "in_progress", None);
        }
    }

    fn event(&mut self, _: u32, event: &TurnEvent, out: &mut Vec<u8>) {
        match event {
            TurnEvent::Text(text) => self.text(out, Kind::Message, text),
            TurnEvent::Reasoning(text) if self.reasoning => self.text(out, Kind::Reasoning(None), text),
            TurnEvent::Reasoning(_) => {}
            TurnEvent::Sealed(sealed) => self.seal(out, sealed),
            TurnEvent::ToolCall(ToolCall { id, name, arguments }) => {
                self.text(out, Kind::Call { call_id: id.clone(), name: name.clone() }, arguments);
                self.close(out, "completed");
            }
            TurnEvent::End(outcome) => {
                self.finish = outcome.result.as_ref().ok().copied();
                self.tally.add(0, outcome.usage, self.bytes());
            }
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        let status = match self.finish {
            Some(Finish::Length | Finish::ContentFilter) => "incomplete",
            _ => "completed",
        };
        self.open(out);
        self.close(out, status);
        let json = self.response(out, status, status, None);
        if !self.stream {
            out.extend_from_slice(&json);
        }
        if let Some(history) = self.conversation.take() {
            // It was written from text.
            let json = String::from_utf8(json).unwrap_or_default();
            let output = self.output.iter().map(Output::said).collect();
            self.record = Some(Record { id: self.id(), json, history, output });
        }
    }

    /// `response.failed` for those who follow the events, then `error`, which the SDKs raise.
    fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        self.open(out);
        self.close(out, "incomplete");
        if self.finish.is_none() {
            self.tally.add(0, None, self.bytes());
        }
        self.response(out, "failed", "failed", Some(error));
        self.frame(out, format_args!("error"), |_, out| {
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
