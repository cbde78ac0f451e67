//! Events of turns as chat completions, streamed or whole.

use std::io::Write;

use serde_json::json;

use super::Form;
use crate::api::chunks::{self, Chunks, at};
use crate::api::error::ApiError;
use crate::api::json::{begin, member, quote};
use crate::api::usage::{Spent, Tally};
use crate::api::{EncodeOptions, Encoder, Stamp};
use crate::turn::{Finish, ToolCall, TurnEvent};

pub(crate) fn encoder(
    stream: bool,
    form: &Form,
    stamp: &Stamp,
    options: EncodeOptions,
    tally: Tally,
) -> Box<dyn Encoder + Send> {
    let form = *form;
    if stream {
        let id = format!("chatcmpl-{}", stamp.id);
        let chunks = Chunks::new(&id, "chat.completion.chunk", stamp, form.include_usage, tally);
        Box::new(StreamEncoder { form, options, chunks, choices: Vec::new() })
    } else {
        Box::new(WholeEncoder { form, stamp: stamp.clone(), options, tally, choices: Vec::new() })
    }
}

/// `finish_reason`. A turn with calls ends because of them, whatever codex calls its end.
fn reason(finish: Finish, calls: usize, form: Form) -> &'static str {
    match finish {
        Finish::Length => "length",
        Finish::ContentFilter => "content_filter",
        Finish::Stop if calls == 0 => "stop",
        Finish::Stop | Finish::ToolCalls if form.functions => "function_call",
        Finish::Stop | Finish::ToolCalls => "tool_calls",
    }
}

struct StreamEncoder {
    form: Form,
    options: EncodeOptions,
    chunks: Chunks,
    choices: Vec<StreamChoice>,
}

#[derive(Default)]
struct StreamChoice {
    opened: bool,
    ended: bool,
    calls: usize,
    bytes: u64,
}

impl StreamEncoder {
    fn delta(&self, index: u32, finish: Option<&str>, out: &mut Vec<u8>, delta: impl FnOnce(&mut Vec<u8>)) {
        self.chunks.chunk(index, finish, out, |out| {
            out.extend_from_slice(b"\"delta\":{");
            delta(out);
            out.push(b'}');
        });
    }

    /// The first chunk of a choice. An answer that begins with a call has no text.
    fn begin(&mut self, index: u32, content: &[u8], out: &mut Vec<u8>) {
        if !std::mem::replace(&mut at(&mut self.choices, index).opened, true) {
            self.delta(index, None, out, |out| {
                out.extend_from_slice(b"\"role\":\"assistant\",\"content\":");
                out.extend_from_slice(content);
            });
        }
    }

    fn text(&mut self, index: u32, key: &[u8], text: &str, out: &mut Vec<u8>) {
        if text.is_empty() {
            return;
        }
        self.begin(index, b"\"\"", out);
        at(&mut self.choices, index).bytes += text.len() as u64;
        self.delta(index, None, out, |out| {
            out.extend_from_slice(key);
            quote(out, text);
        });
    }

    fn call(&mut self, index: u32, call: &ToolCall, out: &mut Vec<u8>) {
        self.begin(index, b"null", out);
        let choice = at(&mut self.choices, index);
        let number = choice.calls;
        choice.calls += 1;
        choice.bytes += (call.name.len() + call.arguments.len()) as u64;
        let older = self.form.functions;
        self.delta(index, None, out, |out| {
            if older {
                out.extend_from_slice(b"\"function_call\":{\"name\":");
            } else {
                let _ = write!(out, "\"tool_calls\":[{{\"index\":{number},\"id\":");
                quote(out, &call.id);
                out.extend_from_slice(b",\"type\":\"function\",\"function\":{\"name\":");
            }
            quote(out, &call.name);
            out.extend_from_slice(b",\"arguments\":");
            quote(out, &call.arguments);
            out.extend_from_slice(if older { b"}" } else { b"}}]" });
        });
    }
}

impl Encoder for StreamEncoder {
    fn open(&mut self, out: &mut Vec<u8>) {
        self.begin(0, b"\"\"", out);
    }

    fn event(&mut self, index: u32, event: &TurnEvent, out: &mut Vec<u8>) {
        match event {
            TurnEvent::Text(text) => self.text(index, b"\"content\":", text, out),
            TurnEvent::Reasoning(text) if self.options.reasoning => {
                self.text(index, b"\"reasoning_content\":", text, out);
            }
            TurnEvent::Reasoning(_) | TurnEvent::Sealed(_) => {}
            TurnEvent::ToolCall(call) => self.call(index, call, out),
            TurnEvent::End(outcome) => {
                if let Ok(finish) = outcome.result {
                    self.begin(index, b"\"\"", out);
                    let choice = at(&mut self.choices, index);
                    choice.ended = true;
                    let (calls, bytes) = (choice.calls, choice.bytes);
                    self.chunks.tally.add(index, outcome.usage, bytes);
                    self.delta(index, Some(reason(finish, calls, self.form)), out, |_| {});
                }
            }
        }
    }

    fn keepalive(&mut self, out: &mut Vec<u8>) {
        if self.options.keepalive_chunk {
            // A choice that has ended says nothing more.
            let live = self.choices.iter().position(|choice| !choice.ended).unwrap_or(self.choices.len()) as u32;
            self.begin(live, b"\"\"", out);
            self.delta(live, None, out, |_| {});
        } else {
            chunks::comment(out);
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        self.chunks.finish(out);
    }

    fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        chunks::fail(error, out);
    }

    fn spent(&self) -> Spent {
        self.chunks.tally.spent()
    }
}

/// Collects one JSON object.
struct WholeEncoder {
    form: Form,
    stamp: Stamp,
    options: EncodeOptions,
    tally: Tally,
    choices: Vec<WholeChoice>,
}

#[derive(Default)]
struct WholeChoice {
    text: String,
    reasoning: String,
    calls: Vec<ToolCall>,
    finish: Option<Finish>,
}

impl WholeChoice {
    fn write(&self, form: Form, out: &mut Vec<u8>) {
        let function = |call: &ToolCall| json!({"name": call.name, "arguments": call.arguments});
        begin(out, "message");
        out.push(b'{');
        member(out, "role", "assistant");
        member(out, "content", &Some(&self.text).filter(|text| !text.is_empty() || self.calls.is_empty()));
        if !self.reasoning.is_empty() {
            member(out, "reasoning_content", &self.reasoning);
        }
        match self.calls.first() {
            Some(call) if form.functions => member(out, "function_call", &function(call)),
            Some(_) => {
                let call = |call: &ToolCall| json!({"id": call.id, "type": "function", "function": function(call)});
                member(out, "tool_calls", &self.calls.iter().map(call).collect::<Vec<_>>());
            }
            None => {}
        }
        member(out, "refusal", &());
        out.extend_from_slice(b",\"annotations\":[]}");
        member(out, "logprobs", &());
        member(out, "finish_reason", reason(self.finish.unwrap_or(Finish::Stop), self.calls.len(), form));
    }
}

impl Encoder for WholeEncoder {
    fn open(&mut self, _: &mut Vec<u8>) {}

    fn event(&mut self, index: u32, event: &TurnEvent, _: &mut Vec<u8>) {
        let choice = at(&mut self.choices, index);
        match event {
            TurnEvent::Text(text) => choice.text.push_str(text),
            TurnEvent::Reasoning(text) if self.options.reasoning => choice.reasoning.push_str(text),
            TurnEvent::Reasoning(_) | TurnEvent::Sealed(_) => {}
            TurnEvent::ToolCall(call) => choice.calls.push(call.clone()),
            TurnEvent::End(outcome) => {
                let calls: usize = choice.calls.iter().map(|call| call.name.len() + call.arguments.len()).sum();
                self.tally.add(index, outcome.usage, (choice.text.len() + choice.reasoning.len() + calls) as u64);
                choice.finish = outcome.result.as_ref().ok().copied();
            }
        }
    }

    fn keepalive(&mut self, _: &mut Vec<u8>) {}

    fn finish(&mut self, out: &mut Vec<u8>) {
        let id = format!("chatcmpl-{}", self.stamp.id);
        let choices = self.choices.iter();
        chunks::whole(out, &id, "chat.completion", &self.stamp, &self.tally, choices, |choice, out| {
            choice.write(self.form, out);
        });
    }

    fn fail(&mut self, _: &ApiError, _: &mut Vec<u8>) {}

    fn spent(&self) -> Spent {
        self.tally.spent()
    }
}
