//! Plays one prompt's directions as the event stream of a Responses API.
//!
//! | direction | what the model does |
//! |---|---|
//! | none | echoes the text, word by word |
//! | `say TEXT` | one message with that text; may be repeated |
//! | `words N` | `w0 w1 …` |
//! | `bytes N` | `N` bytes of text in deltas of about 1 KB |
//! | `big-delta N` | `N` bytes of text in one delta |
//! | `unicode` | U+2028, U+2029, emoji, combining marks, an escaped NUL, a lone-looking surrogate pair |
//! | `reason TEXT` | a part of a reasoning summary; may be repeated |
//! | `sealed TEXT` | the encrypted content of the reasoning |
//! | `tool NAME ARGUMENTS` | a function call; may be repeated |
//! | `next` | what follows is for when the calls before it were answered |
//! | `usage IN CACHED OUT REASONING` | the counts at the end (1234 1000 56 16) |
//! | `gap MS`, `wait MS` | silence between deltas, before anything |
//! | `gate NAME` | after the first delta, silence until `POST /open/NAME` |
//! | `hang`, `silent` | silence for ever, after the text or before anything |
//! | `header NAME VALUE` | a header of the answer; may be repeated |
//! | `fail STATUS CODE` | an HTTP error instead of a stream |
//! | `fail-start CODE`, `fail-mid CODE`, `fail-end CODE` | `response.failed` before the text, in its middle, after it |
//! | `cut` | the connection is closed in the middle of the text |
//! | `incomplete REASON` | `response.incomplete` after the text |
//! | `once` | the faults above only the first time that a thread asks this |
//! | `then TEXT` | what is said every other time |

use std::io::{Error, ErrorKind, Result, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::http::{self, Request};
use crate::markers::Markers;
use crate::records::{Records, StreamId};

const UNICODE: &str = "line\u{2028}para\u{2029}next\u{85} 👩‍👩‍👧‍👦🏳️‍🌈 e\u{301} \0 \u{1f} \u{feff} 𝄞 \u{ffff} \\u0000 \"quoted\" </script> data: x\n\ndata: [DONE]\r\n";
const ANNOUNCEMENT: &str = "This is a demonstration: a scripted model that echoes what it is asked. Log in with \
    `codex login` or set OPENAI_API_KEY for real answers. You said: ";

/// What of a request's body matters here.
struct Prompt {
    text: String,
    thread: String,
    tool_outputs: Vec<Value>,
    /// How often calls were answered since the user spoke.
    round: usize,
    first_turn: bool,
}

/// A conversation that came as one text, `[role] content` line by line, as the items that it stands for.
fn parted(text: &str) -> Option<Vec<Value>> {
    let mut items: Vec<(&str, String)> = Vec::new();
    for line in text.split('\n') {
        let tag = line.strip_prefix('[').and_then(|line| line.split_once("] "));
        let is_role = |tag: &str| {
            ["system", "developer", "user", "assistant"].contains(&tag)
                || tag.starts_with("tool ")
                || tag.starts_with("tool_call ")
        };
        match (tag.filter(|(tag, _)| is_role(tag)), items.last_mut()) {
            (Some((tag, content)), _) => items.push((tag, content.to_owned())),
            (None, Some((_, last))) => {
                last.push('\n');
                last.push_str(line);
            }
            (None, None) => return None,
        }
    }
    let item = |(tag, content): (&str, String)| match tag.split_once(' ') {
        Some(("tool", id)) => json!({"type": "function_call_output", "call_id": id, "output": content}),
        Some((_, id)) => json!({"type": "function_call", "call_id": id}),
        None => json!({"role": tag, "content": [{"text": content}]}),
    };
    Some(items.into_iter().map(item).collect())
}

impl Prompt {
    fn read(body: &Value) -> Self {
        let empty = Vec::new();
        let input = body["input"].as_array().unwrap_or(&empty);
        let joined = input
            .last()
            .filter(|item| item["role"] == "user")
            .and_then(|item| parted(item["content"][0]["text"].as_str()?));
        let input = joined.as_ref().unwrap_or(input);
        let text = input
            .iter()
            .rev()
            .find(|item| item["role"] == "user")
            .and_then(|item| item["content"].as_array())
            .map(|parts| parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n"));
        let is_output = |item: &Value| item["type"] == "function_call_output";
        let mut tool_outputs: Vec<Value> =
            input.iter().rev().take_while(|item| is_output(item)).map(|item| item["output"].clone()).collect();
        tool_outputs.reverse();
        let asked = input.iter().rposition(|item| item["role"] == "user").unwrap_or(0);
        let round = input[asked..].windows(2).filter(|pair| is_output(&pair[1]) && !is_output(&pair[0])).count();
        Self {
            text: text.unwrap_or_default(),
            thread: body["prompt_cache_key"].as_str().unwrap_or_default().to_owned(),
            tool_outputs,
            round,
            first_turn: !input.iter().any(|item| item["role"] == "assistant"),
        }
    }

    /// The messages to say, each as its deltas.
    fn messages(&self, markers: &Markers, again: bool, demo: bool) -> Vec<Vec<String>> {
        if let Some(text) = markers.get("then").filter(|_| again) {
            return vec![words(text)];
        }
        if !self.tool_outputs.is_empty() && markers.iter().next().is_none() {
            let outputs: Vec<_> = self.tool_outputs.iter().map(Value::to_string).collect();
            return vec![vec!["tool said: ".to_owned(), outputs.join(" and ")]];
        }
        let mut messages = Vec::new();
        for (name, arguments) in markers.iter() {
            let count = || arguments.parse().unwrap_or(5_usize);
            match name {
                "say" => messages.push(words(arguments)),
                "words" => messages.push((0..count()).map(|n| format!("w{n} ")).collect()),
                "bytes" => messages.push(filler(count())),
                "big-delta" => messages.push(vec![filler(count()).concat()]),
                "unicode" => messages.push(UNICODE.split_inclusive(' ').map(str::to_owned).collect()),
                _ => {}
            }
        }
        if messages.is_empty() && !markers.has("tool") {
            messages.push(match (self.text.as_str(), markers.rest.is_empty()) {
                (text, _) if demo => {
                    let announcement = if self.first_turn { ANNOUNCEMENT } else { "You said: " };
                    words(&format!("{announcement}{text}"))
                }
                // Directions alone: there is nothing to echo.
                (_, true) => (0..5).map(|n| format!("w{n} ")).collect(),
                (_, false) => words(&markers.rest),
            });
        }
        messages
    }
}

/// Cuts after each space, so that joining gives the text again.
fn words(text: &str) -> Vec<String> {
    text.split_inclusive(' ').map(str::to_owned).collect()
}

/// `bytes` bytes of numbered lines of 64, in pieces of 1 KB.
fn filler(bytes: usize) -> Vec<String> {
    let mut text = String::with_capacity(bytes + 64);
    for line in 0_usize.. {
        if text.len() >= bytes {
            break;
        }
        text.push_str(&format!("{line:010} the quick brown fox jumps over the lazy dog, again\n"));
    }
    text.truncate(bytes);
    text.as_bytes().chunks(1024).map(|piece| String::from_utf8_lossy(piece).into_owned()).collect()
}

/// Answers `POST /v1/responses`.
pub(crate) fn serve(stream: &TcpStream, request: &Request, number: usize, records: &Records, demo: bool) -> Result<()> {
    let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
        return http::respond(stream, 400, &[], &error_body("invalid_json", "the body is not JSON"));
    };
    let prompt = Prompt::read(&body);
    // Whoever tries the demonstration says what they like; nothing of it is a direction.
    let script = prompt.text.split("[[next]]").nth(prompt.round).unwrap_or_default();
    let markers = if demo { Markers::default() } else { Markers::parse(script) };
    let again = records.attempt(&format!("{} {}", prompt.thread, prompt.text)) > 0;
    let id = records.open(number, &prompt.text);
    let out = Out { stream, records, id, buffer: Vec::new(), gap: markers.number("gap").map(Duration::from_millis) };
    let mut play = Play { out, markers: &markers, number, faults: !(markers.has("once") && again), output: Vec::new() };
    let result = play.all(&body, prompt.messages(&markers, again, demo));
    let gone = result.as_ref().is_err_and(|error| error.kind() != ErrorKind::Other);
    records.close(id, gone);
    Ok(())
}

fn error_body(code: &str, message: &str) -> Vec<u8> {
    json!({ "error": { "message": message, "type": code, "code": code, "param": null, "resets_in_seconds": 3600, "plan_type": "plus" } })
        .to_string()
        .into_bytes()
}

/// The answer's way to the peer. An error is `Other` when the script wants the connection closed.
struct Out<'a> {
    stream: &'a TcpStream,
    records: &'a Records,
    id: StreamId,
    buffer: Vec<u8>,
    gap: Option<Duration>,
}

impl Out<'_> {
    fn event(&mut self, name: &str, mut body: Value) -> Result<()> {
        body["type"] = json!(name);
        self.buffer.extend_from_slice(format!("event: {name}\ndata: {body}\n\n").as_bytes());
        self.records.event(self.id, name);
        if self.gap.is_some() || self.buffer.len() > 16_384 { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let mut stream = self.stream;
        stream.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Silence, unless the peer leaves.
    fn wait(&mut self, time: Duration) -> Result<()> {
        self.flush()?;
        if http::wait(self.stream, time) { Ok(()) } else { Err(Error::from(ErrorKind::ConnectionAborted)) }
    }

    fn wait_for_ever(&mut self) -> Result<()> {
        loop {
            self.wait(Duration::from_secs(1))?;
        }
    }
}

/// One answer.
struct Play<'a> {
    out: Out<'a>,
    markers: &'a Markers,
    number: usize,
    /// Whether this attempt is one of those that fail.
    faults: bool,
    /// The finished items.
    output: Vec<Value>,
}

impl<'a> Play<'a> {
    fn fault(&self, name: &'a str) -> Option<&'a str> {
        self.markers.get(name).filter(|_| self.faults)
    }

    fn all(&mut self, body: &Value, messages: Vec<Vec<String>>) -> Result<()> {
        if let Some(wait) = self.markers.number("wait") {
            self.out.wait(Duration::from_millis(wait))?;
        }
        if self.fault("silent").is_some() {
            self.out.wait_for_ever()?;
        }
        if let Some(fail) = self.fault("fail") {
            let (status, code) = fail.split_once(' ').unwrap_or((fail, "scripted_failure"));
            let status = status.parse().unwrap_or(500);
            let body = error_body(code, &format!("scripted {code}"));
            return http::respond(self.out.stream, status, &self.headers(), &body);
        }
        self.out.buffer.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n");
        for (name, value) in self.headers() {
            self.out.buffer.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        self.out.buffer.extend_from_slice(b"x-request-id: scripted\r\nconnection: close\r\n\r\n");
        let response = json!({ "id": format!("resp_{}", self.number), "object": "response", "status": "in_progress",
            "model": body["model"], "output": [] });
        self.out.event("response.created", json!({ "response": response }))?;
        if let Some(code) = self.fault("fail-start") {
            return self.failed(code);
        }
        self.reasoning()?;
        for deltas in messages {
            self.message(deltas)?;
        }
        if self.fault("hang").is_some() {
            self.out.wait_for_ever()?;
        }
        self.tools()?;
        self.end(response)
    }

    fn headers(&self) -> Vec<(&'a str, String)> {
        let pair = |header: &'a str| header.split_once(' ').map(|(name, value)| (name, value.to_owned()));
        self.markers.all("header").filter_map(pair).collect()
    }

    fn reasoning(&mut self) -> Result<()> {
        let parts: Vec<&str> = self.markers.all("reason").collect();
        let sealed = self.markers.get("sealed");
        if parts.is_empty() && sealed.is_none() {
            return Ok(());
        }
        let id = format!("rs_{}", self.number);
        let item = |summary: Vec<Value>| json!({ "type": "reasoning", "id": id, "summary": summary, "encrypted_content": sealed });
        self.out.event("response.output_item.added", json!({ "output_index": 0, "item": item(Vec::new()) }))?;
        let mut summary = Vec::new();
        for (index, text) in parts.iter().enumerate() {
            let text = if text.is_empty() { "**Thinking** about it" } else { text };
            let place = |value: Value| {
                let mut value = value;
                value["item_id"] = json!(id);
                value["output_index"] = json!(0);
                value["summary_index"] = json!(index);
                value
            };
            let part = json!({ "type": "summary_text", "text": text });
            let empty = json!({ "type": "summary_text", "text": "" });
            self.out.event("response.reasoning_summary_part.added", place(json!({ "part": empty })))?;
            for delta in words(text) {
                self.out.event("response.reasoning_summary_text.delta", place(json!({ "delta": delta })))?;
                self.pause()?;
            }
            self.out.event("response.reasoning_summary_text.done", place(json!({ "text": text })))?;
            self.out.event("response.reasoning_summary_part.done", place(json!({ "part": part })))?;
            summary.push(part);
        }
        self.finish_item(item(summary))
    }

    fn message(&mut self, deltas: Vec<String>) -> Result<()> {
        let index = self.output.len();
        let id = format!("msg_{}_{index}", self.number);
        let item = |status: &str, content: Value| json!({ "type": "message", "id": id, "role": "assistant", "status": status, "content": content });
        let added = json!({ "output_index": index, "item": item("in_progress", json!([])) });
        self.out.event("response.output_item.added", added)?;
        let place =
            |name: &str, value: Value| json!({ "item_id": id, "output_index": index, "content_index": 0, name: value });
        let part = |text: &str| json!({ "type": "output_text", "text": text, "annotations": [] });
        self.out.event("response.content_part.added", place("part", part("")))?;
        let middle = deltas.len().div_ceil(2);
        for (n, delta) in deltas.iter().enumerate() {
            if n == middle {
                self.fail_in_the_middle()?;
            }
            self.out.event("response.output_text.delta", place("delta", json!(delta)))?;
            if n == 0
                && let Some(gate) = self.markers.get("gate")
            {
                while !self.out.records.gate(gate) {
                    self.out.wait(Duration::from_millis(5))?;
                }
            }
            self.pause()?;
        }
        if deltas.len() < 2 {
            self.fail_in_the_middle()?;
        }
        let text = deltas.concat();
        self.out.event("response.output_text.done", place("text", json!(text)))?;
        self.out.event("response.content_part.done", place("part", part(&text)))?;
        self.finish_item(item("completed", json!([part(&text)])))
    }

    fn fail_in_the_middle(&mut self) -> Result<()> {
        if let Some(code) = self.fault("fail-mid") {
            self.failed(code)?;
        }
        if self.fault("cut").is_some() {
            self.out.flush()?;
            return Err(Error::other("cut"));
        }
        Ok(())
    }

    fn failed(&mut self, code: &str) -> Result<()> {
        let error = json!({ "code": code, "message": format!("scripted {code}") });
        let response = json!({ "id": format!("resp_{}", self.number), "status": "failed", "error": error });
        self.out.event("response.failed", json!({ "response": response }))?;
        self.out.flush()?;
        Err(Error::other("failed"))
    }

    fn tools(&mut self) -> Result<()> {
        for tool in self.markers.all("tool") {
            let (name, arguments) = tool.split_once(' ').unwrap_or((tool, "{}"));
            let index = self.output.len();
            let id = format!("fc_{}_{index}", self.number);
            let call = format!("call_{}_{index}", self.number);
            let item = |arguments: &str| json!({ "type": "function_call", "id": id, "call_id": call, "name": name, "arguments": arguments });
            self.out.event("response.output_item.added", json!({ "output_index": index, "item": item("") }))?;
            let delta = json!({ "item_id": id, "output_index": index, "delta": arguments });
            self.out.event("response.function_call_arguments.delta", delta)?;
            self.pause()?;
            let done = json!({ "item_id": id, "output_index": index, "arguments": arguments });
            self.out.event("response.function_call_arguments.done", done)?;
            self.finish_item(item(arguments))?;
        }
        Ok(())
    }

    fn finish_item(&mut self, item: Value) -> Result<()> {
        let done = json!({ "output_index": self.output.len(), "item": item });
        self.output.push(item);
        self.out.event("response.output_item.done", done)
    }

    fn end(&mut self, mut response: Value) -> Result<()> {
        if let Some(code) = self.fault("fail-end") {
            return self.failed(code);
        }
        let mut counts = [1234, 1000, 56, 16];
        for (count, word) in counts.iter_mut().zip(self.markers.get("usage").unwrap_or_default().split_whitespace()) {
            *count = word.parse().unwrap_or_default();
        }
        let [input, cached, output, reasoning] = counts;
        response["usage"] = json!({
            "input_tokens": input, "input_tokens_details": { "cached_tokens": cached },
            "output_tokens": output, "output_tokens_details": { "reasoning_tokens": reasoning },
            "total_tokens": input + output,
        });
        response["output"] = Value::Array(std::mem::take(&mut self.output));
        let (name, status) = match self.fault("incomplete") {
            Some(reason) => {
                let reason = if reason.is_empty() { "max_output_tokens" } else { reason };
                response["incomplete_details"] = json!({ "reason": reason });
                ("response.incomplete", "incomplete")
            }
            None => ("response.completed", "completed"),
        };
        response["status"] = json!(status);
        self.out.event(name, json!({ "response": response }))?;
        self.out.flush()
    }

    fn pause(&mut self) -> Result<()> {
        match self.out.gap {
            Some(gap) => self.out.wait(gap),
            None => Ok(()),
        }
    }
}
