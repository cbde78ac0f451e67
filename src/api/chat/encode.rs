//! Events of turns as chat completions, streamed or whole.

use std::io::Write;

use serde::Serialize;

use super::Form;
use crate::api::chunks::{self, Chunks, at};
use crate::api::error::ApiError;
use crate::api::json::quote;
use crate::api::usage::{CompletionUsage, Spent, Tally};
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
            TurnEvent::Reasoning(_) => {}
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

#[derive(Serialize)]
struct Completion<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice<'a>>,
    usage: CompletionUsage,
    system_fingerprint: Option<&'static str>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: usize,
    message: Message<'a>,
    logprobs: Option<&'static str>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reasoning_content: &'a str,
    refusal: Option<&'static str>,
    annotations: [&'static str; 0],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<Function<'a>>,
}

#[derive(Serialize)]
struct Call<'a> {
    id: &'a str,
    r#type: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    arguments: &'a str,
}

impl<'a> From<&'a ToolCall> for Function<'a> {
    fn from(call: &'a ToolCall) -> Self {
        Self { name: &call.name, arguments: &call.arguments }
    }
}

impl<'a> From<&'a ToolCall> for Call<'a> {
    fn from(call: &'a ToolCall) -> Self {
        Self { id: &call.id, r#type: "function", function: call.into() }
    }
}

impl WholeChoice {
    fn message(&self, form: Form) -> Message<'_> {
        let older = self.calls.first().filter(|_| form.functions).map(Function::from);
        let calls = self.calls.iter().filter(|_| !form.functions);
        Message {
            role: "assistant",
            content: Some(&*self.text).filter(|text| !text.is_empty() || self.calls.is_empty()),
            reasoning_content: &self.reasoning,
            refusal: None,
            annotations: [],
            tool_calls: calls.map(Call::from).collect(),
            function_call: older,
        }
    }
}

impl Encoder for WholeEncoder {
    fn open(&mut self, _: &mut Vec<u8>) {}

    fn event(&mut self, index: u32, event: &TurnEvent, _: &mut Vec<u8>) {
        let choice = at(&mut self.choices, index);
        match event {
            TurnEvent::Text(text) => choice.text.push_str(text),
            TurnEvent::Reasoning(text) if self.options.reasoning => choice.reasoning.push_str(text),
            TurnEvent::Reasoning(_) => {}
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
        let choices = self.choices.iter().enumerate().map(|(index, choice)| Choice {
            index,
            message: choice.message(self.form),
            logprobs: None,
            finish_reason: reason(choice.finish.unwrap_or(Finish::Stop), choice.calls.len(), self.form),
        });
        let completion = Completion {
            id: format!("chatcmpl-{}", self.stamp.id),
            object: "chat.completion",
            created: self.stamp.created,
            model: &self.stamp.model,
            choices: choices.collect(),
            usage: self.tally.spent().usage.into(),
            system_fingerprint: None,
        };
        // Strings and numbers always serialise.
        let _ = serde_json::to_writer(out, &completion);
    }

    fn fail(&mut self, _: &ApiError, _: &mut Vec<u8>) {}

    fn spent(&self) -> Spent {
        self.tally.spent()
    }
}
