//! Events of turns as the choices of a completion, chat or text, streamed or whole. What all chunks begin with is made
//! once; a delta costs its own escaping and no allocation.

use std::io::Write;
use std::sync::Arc;

use serde_json::json;

use super::error::ApiError;
use super::usage::{self, Spent, Tally};
use super::write::{begin, member};
use super::{EncodeOptions, Encoder, KEEPALIVE, Stamp};
use crate::turn::{Finish, ToolCall, TurnEvent};

/// What the answer has to know of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// Whether a stream ends with its usage.
    pub(crate) include_usage: bool,
    /// Whether a chat used `functions`: calls then take the older form, too.
    pub(crate) functions: bool,
    /// Whether texts begin with their prompts.
    pub(crate) echo: bool,
    /// What texts answer; a chat has none.
    pub(crate) prompts: Vec<Arc<str>>,
}

impl Form {
    fn is_chat(&self) -> bool {
        self.prompts.is_empty()
    }
}

pub(crate) fn encoder(
    stream: bool,
    form: &Form,
    n: u32,
    stamp: &Stamp,
    options: EncodeOptions,
    tally: Tally,
) -> Box<dyn Encoder + Send> {
    let (prefix, object) = match form.is_chat() {
        true if stream => ("chatcmpl", "chat.completion.chunk"),
        true => ("chatcmpl", "chat.completion"),
        false => ("cmpl", "text_completion"),
    };
    let mut head = b"{".to_vec();
    member(&mut head, "id", &format_args!("{prefix}-{}", stamp.id));
    member(&mut head, "object", object);
    member(&mut head, "created", &stamp.created);
    member(&mut head, "model", &stamp.model);
    begin(&mut head, "choices");
    head.push(b'[');
    Box::new(Choices { stream, form: form.clone(), n, options, head, tally, choices: Vec::new() })
}

struct Choices {
    stream: bool,
    form: Form,
    /// Answers to each prompt.
    n: u32,
    options: EncodeOptions,
    /// From the beginning of an answer, or of a chunk of it, to the first choice.
    head: Vec<u8>,
    tally: Tally,
    choices: Vec<Choice>,
}

#[derive(Default)]
struct Choice {
    opened: bool,
    /// Bytes of what the model said.
    bytes: u64,
    calls: Vec<ToolCall>,
    finish: Option<&'static str>,
    /// Of a whole answer.
    text: String,
    reasoning: String,
}

impl Choices {
    fn at(&mut self, index: u32) -> &mut Choice {
        let index = index as usize;
        if self.choices.len() <= index {
            self.choices.resize_with(index + 1, Choice::default);
        }
        &mut self.choices[index]
    }

    /// One choice; `body` writes what it says.
    fn choice(&self, index: usize, finish: Option<&str>, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
        out.push(b'{');
        member(out, "index", &index);
        if self.form.is_chat() {
            begin(out, if self.stream { "delta" } else { "message" });
            out.push(b'{');
            body(out);
            out.push(b'}');
        } else {
            body(out);
        }
        member(out, "logprobs", &());
        member(out, "finish_reason", &finish);
        out.push(b'}');
    }

    fn chunk(&self, index: u32, finish: Option<&str>, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&self.head);
        self.choice(index as usize, finish, out, body);
        out.extend_from_slice(if self.form.include_usage { b"],\"usage\":null}\n\n" } else { b"]}\n\n" });
    }

    /// Begins a choice. One that begins with a call has no text.
    fn begin(&mut self, index: u32, content: Option<&str>, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.at(index).opened, true) {
            return;
        }
        if self.form.is_chat() && self.stream {
            self.chunk(index, None, out, |out| {
                member(out, "role", "assistant");
                member(out, "content", &content);
            });
        } else if self.form.echo {
            let prompt = self.form.prompts.get((index / self.n) as usize).cloned().unwrap_or_default();
            self.tell(index, "text", &prompt, out);
        }
    }

    fn tell(&mut self, index: u32, key: &str, text: &str, out: &mut Vec<u8>) {
        if self.stream {
            return self.chunk(index, None, out, |out| member(out, key, text));
        }
        let choice = self.at(index);
        let whole = if key == "reasoning_content" { &mut choice.reasoning } else { &mut choice.text };
        whole.push_str(text);
    }

    fn say(&mut self, index: u32, key: &str, text: &str, out: &mut Vec<u8>) {
        if !text.is_empty() {
            self.begin(index, Some(""), out);
            self.at(index).bytes += text.len() as u64;
            self.tell(index, key, text, out);
        }
    }

    fn call(&mut self, index: u32, call: &ToolCall, out: &mut Vec<u8>) {
        self.begin(index, None, out);
        let choice = self.at(index);
        let number = choice.calls.len();
        choice.calls.push(call.clone());
        choice.bytes += (call.name.len() + call.arguments.len()) as u64;
        if !self.stream {
            return;
        }
        let functions = self.form.functions;
        self.chunk(index, None, out, |out| {
            if functions {
                begin(out, "function_call");
            } else {
                let _ = write!(out, "\"tool_calls\":[{{\"index\":{number}");
                member(out, "id", &call.id);
                out.extend_from_slice(b",\"type\":\"function\",\"function\":");
            }
            out.push(b'{');
            member(out, "name", &call.name);
            member(out, "arguments", &call.arguments);
            out.extend_from_slice(if functions { b"}" } else { b"}}]" });
        });
    }

    /// What a whole choice says.
    fn write(&self, choice: &Choice, out: &mut Vec<u8>) {
        if !self.form.is_chat() {
            return member(out, "text", &choice.text);
        }
        let function = |call: &ToolCall| json!({"name": call.name, "arguments": call.arguments});
        member(out, "role", "assistant");
        member(out, "content", &Some(&choice.text).filter(|text| !text.is_empty() || choice.calls.is_empty()));
        if !choice.reasoning.is_empty() {
            member(out, "reasoning_content", &choice.reasoning);
        }
        match choice.calls.first() {
            Some(call) if self.form.functions => member(out, "function_call", &function(call)),
            Some(_) => {
                let call = |call: &ToolCall| json!({"id": call.id, "type": "function", "function": function(call)});
                member(out, "tool_calls", &choice.calls.iter().map(call).collect::<Vec<_>>());
            }
            None => {}
        }
        member(out, "refusal", &());
        out.extend_from_slice(b",\"annotations\":[]");
    }
}

impl Encoder for Choices {
    fn open(&mut self, out: &mut Vec<u8>) {
        self.begin(0, Some(""), out);
    }

    fn event(&mut self, index: u32, event: &TurnEvent, out: &mut Vec<u8>) {
        let is_chat = self.form.is_chat();
        match event {
            TurnEvent::Text(text) => self.say(index, if is_chat { "content" } else { "text" }, text, out),
            TurnEvent::Reasoning(text) if is_chat && self.options.reasoning => {
                self.say(index, "reasoning_content", text, out);
            }
            TurnEvent::ToolCall(call) if is_chat => self.call(index, call, out),
            // What is not wanted, or has no place in a text.
            TurnEvent::Reasoning(_) | TurnEvent::Sealed(_) | TurnEvent::ToolCall(_) => {}
            TurnEvent::End(outcome) => {
                self.begin(index, Some(""), out);
                let functions = self.form.functions;
                let choice = self.at(index);
                // A turn with calls ends because of them, whatever codex calls its end.
                let reason = match outcome.result {
                    Ok(Finish::Length) => "length",
                    Ok(Finish::ContentFilter) => "content_filter",
                    _ if choice.calls.is_empty() => "stop",
                    _ if functions => "function_call",
                    _ => "tool_calls",
                };
                choice.finish = Some(reason);
                let bytes = choice.bytes;
                self.tally.add(index, outcome.usage, bytes);
                if self.stream {
                    self.chunk(index, Some(reason), out, |out| {
                        if !is_chat {
                            member(out, "text", "")
                        }
                    });
                }
            }
        }
    }

    fn keepalive(&mut self, out: &mut Vec<u8>) {
        if self.form.is_chat() && self.options.keepalive_chunk {
            // A choice that has ended says nothing more.
            let live = self.choices.iter().position(|choice| choice.finish.is_none());
            let live = live.unwrap_or(self.choices.len()) as u32;
            self.begin(live, Some(""), out);
            self.chunk(live, None, out, |_| {});
        } else {
            out.extend_from_slice(KEEPALIVE);
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        let usage = usage::of_completion(self.tally.spent().usage);
        if self.stream {
            if self.form.include_usage {
                out.extend_from_slice(b"data: ");
                out.extend_from_slice(&self.head);
                out.push(b']');
                member(out, "usage", &usage);
                out.extend_from_slice(b"}\n\n");
            }
            return out.extend_from_slice(b"data: [DONE]\n\n");
        }
        out.extend_from_slice(&self.head);
        for (index, choice) in self.choices.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            self.choice(index, choice.finish, out, |out| self.write(choice, out));
        }
        out.push(b']');
        member(out, "usage", &usage);
        member(out, "system_fingerprint", &());
        out.push(b'}');
    }

    fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        let _ = write!(out, "data: {}\n\ndata: [DONE]\n\n", error.to_json());
    }

    fn spent(&self) -> Spent {
        self.tally.spent()
    }
}
