//! The `thread/*`, `turn/*` protocol (0.142.5 – 0.169.0): one ephemeral thread for each turn, the conversation injected as
//! items, the turn started with empty input, so that the model sees exactly the client's messages.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::errors::{CodexError, Meaning, Refusal};
use super::tool_names::ToolNames;
use super::{Session, StartError, Started, tool_schema};
use crate::backend::connection::{Connection, Patience};
use crate::turn::{
    Finish, Item, Part, Role, ToolCall, TurnError, TurnErrorKind, TurnEvent, TurnOutcome, TurnRequest, Usage,
};

/// How long after a tool call the next one of the same response may come, where nothing marks the response's end (before
/// 0.146).
const SETTLE: Duration = Duration::from_millis(250);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ThreadStart<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    cwd: &'a str,
    approval_policy: &'static str,
    sandbox: &'a str,
    ephemeral: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    base_instructions: Option<&'a str>,
    // An empty list means no shell and no files; an absent one means codex's own choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    environments: Option<[(); 0]>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dynamic_tools: Vec<Value>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    experimental_raw_events: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TurnStart<'a> {
    thread_id: &'a str,
    input: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<&'a str>,
    summary: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_schema: Option<&'a RawValue>,
}

/// Starts a thread for the request; its id is what everything else goes by.
pub fn start_thread(
    connection: &Connection,
    session: &Session<'_>,
    request: &TurnRequest,
    names: &ToolNames,
    patience: Patience<'_>,
) -> Result<String, StartError> {
    #[derive(Deserialize)]
    struct Reply {
        thread: Id,
    }
    let tools = request.tools.iter().map(|tool| {
        let (description, schema) = tool_schema::fit(tool);
        json!({"name": names.outward(&tool.name), "description": description, "inputSchema": schema})
    });
    let params = ThreadStart {
        model: request.model.as_deref().or(session.model),
        cwd: session.cwd,
        approval_policy: "never",
        sandbox: session.sandbox,
        ephemeral: true,
        base_instructions: session.base_instructions,
        environments: session.lean.then_some([]),
        dynamic_tools: tools.collect(),
        experimental_raw_events: !request.tools.is_empty(),
        config: request.verbosity.as_deref().map(|verbosity| json!({"model_verbosity": verbosity})),
    };
    let result = connection.call("thread/start", params, patience)?;
    Ok(parse::<Reply>("thread/start", &result)?.thread.id)
}

#[derive(Deserialize)]
struct Id {
    id: String,
}

fn parse<'a, T: Deserialize<'a>>(method: &str, result: &'a str) -> Result<T, StartError> {
    serde_json::from_str(result).map_err(|e| {
        StartError::Turn(TurnError::new(
            TurnErrorKind::Upstream,
            format!("codex answered {method} in an unknown form: {e}"),
        ))
    })
}

/// Gives the thread its history and starts the turn.
pub fn start_turn(
    connection: &Connection,
    session: &Session<'_>,
    thread: &str,
    request: &TurnRequest,
    names: &ToolNames,
    patience: Patience<'_>,
) -> Result<Started, StartError> {
    #[derive(Deserialize)]
    struct Reply {
        turn: Id,
    }
    let input = if session.joined {
        joined_input(&request.history)
    } else {
        let items: Vec<Value> = request.history.iter().map(|entry| item(entry, names)).collect();
        connection.call("thread/inject_items", json!({"threadId": thread, "items": items}), patience)?;
        Vec::new()
    };
    let params = TurnStart {
        thread_id: thread,
        input,
        effort: request.effort.as_deref(),
        summary: request.summary.as_deref().unwrap_or("none"),
        output_schema: request.output_schema.as_deref().map(serde_json::from_str).transpose().unwrap_or_default(),
    };
    let result = connection.call("turn/start", params, patience).map_err(StartError::Late)?;
    Ok(Started { turn: parse::<Reply>("turn/start", &result)?.turn.id })
}

/// One entry of the conversation as an item of the Responses API. Codex drops items of role `system`.
fn item(entry: &Item, names: &ToolNames) -> Value {
    match entry {
        Item::Message { role, content } => {
            let (role, text_type) = match role {
                Role::System | Role::Developer => ("developer", "input_text"),
                Role::User => ("user", "input_text"),
                Role::Assistant => ("assistant", "output_text"),
            };
            let content: Vec<Value> = content
                .iter()
                .map(|part| match part {
                    Part::Text(text) => json!({"type": text_type, "text": text}),
                    Part::Image { url, detail } => match detail.as_deref() {
                        // Codex replaces an image of detail `low` by a text (0.146, 0.169) or loses it (0.142.5).
                        Some("low") => json!({"type": "input_image", "image_url": url, "detail": "auto"}),
                        Some(detail) => json!({"type": "input_image", "image_url": url, "detail": detail}),
                        None => json!({"type": "input_image", "image_url": url}),
                    },
                })
                .collect();
            json!({"type": "message", "role": role, "content": content})
        }
        Item::ToolCall(call) => {
            let name = names.outward(&call.name);
            json!({"type": "function_call", "call_id": call.id, "name": name, "arguments": call.arguments})
        }
        Item::ToolOutput { id, output } => json!({"type": "function_call_output", "call_id": id, "output": output}),
        Item::Reasoning { summary, sealed } => {
            let summary: Vec<Value> =
                summary.iter().map(|text| json!({"type": "summary_text", "text": text})).collect();
            json!({"type": "reasoning", "summary": summary, "encrypted_content": sealed})
        }
    }
}

/// The whole conversation as one text, with the images beside it.
fn joined_input(history: &[Item]) -> Vec<Value> {
    let mut lines = Vec::new();
    let mut images = Vec::new();
    for entry in history {
        lines.push(match entry {
            Item::Message { role, content } => {
                let role = match role {
                    Role::System => "system",
                    Role::Developer => "developer",
                    Role::User => "user",
                    Role::Assistant => "assistant",
                };
                let mut text = String::new();
                for part in content {
                    match part {
                        Part::Text(part) => text.push_str(part),
                        Part::Image { url, .. } => images.push(json!({"type": "image", "url": url})),
                    }
                }
                format!("[{role}] {text}")
            }
            Item::ToolCall(call) => format!("[tool_call {}] {} {}", call.id, call.name, call.arguments),
            Item::ToolOutput { id, output } => format!("[tool {id}] {output}"),
            // Nothing but the service can read it.
            Item::Reasoning { .. } => continue,
        });
    }
    let mut input = vec![json!({"type": "text", "text": lines.join("\n")})];
    input.append(&mut images);
    input
}

/// Stops a turn. A second one for the same turn may never be answered, so nobody waits for the answer.
pub fn interrupt(connection: &Connection, thread: &str, turn: &str) {
    connection.post("turn/interrupt", json!({"threadId": thread, "turnId": turn}));
}

/// Lets codex forget the thread (at once from 0.156 on).
pub fn release(connection: &Connection, thread: &str) {
    connection.post("thread/unsubscribe", json!({"threadId": thread}));
}

/// Text that arrived so far, to tell what a retry repeats: after one, the model begins again (0.142.5 – 0.169.0).
#[derive(Debug, Default)]
struct Transcript {
    sent: String,
    seen: usize,
}

impl Transcript {
    /// Takes in a delta; returns what of it is new, or `None` when it contradicts what was sent.
    fn feed<'a>(&mut self, delta: &'a str) -> Option<&'a str> {
        let known = (self.sent.len() - self.seen).min(delta.len());
        if self.sent.as_bytes()[self.seen..self.seen + known] != delta.as_bytes()[..known] {
            return None;
        }
        // Equal bytes end at a border of characters in both, or in neither.
        let fresh = delta.get(known..)?;
        self.seen += delta.len();
        self.sent.push_str(fresh);
        Some(fresh)
    }

    fn begin_again(&mut self) {
        self.seen = 0;
    }
}

/// Turns the lines of one thread into the events of its turn.
#[derive(Debug)]
pub struct Decoder {
    turn: String,
    names: ToolNames,
    text: Transcript,
    item_start: usize,
    reasoning: Transcript,
    reasoning_part: Option<(String, u64)>,
    calls: usize,
    usage: Option<Usage>,
    /// Whether codex still works on the turn.
    pub running: bool,
    /// Whether [`TurnEvent::End`] was given out.
    pub ended: bool,
    /// What of the lean profile the service refused.
    pub refusal: Option<Refusal>,
    ends_responses: bool,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(default, borrow)]
    method: Cow<'a, str>,
    #[serde(default, borrow)]
    params: Params<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Params<'a> {
    #[serde(default, borrow)]
    turn_id: Cow<'a, str>,
    #[serde(default, borrow)]
    item_id: Cow<'a, str>,
    #[serde(default, borrow)]
    delta: Cow<'a, str>,
    #[serde(default)]
    summary_index: u64,
    #[serde(default, borrow)]
    item: Option<&'a RawValue>,
    #[serde(default, borrow)]
    turn: Option<&'a RawValue>,
    #[serde(default, borrow)]
    error: Option<&'a RawValue>,
    #[serde(default)]
    will_retry: bool,
    #[serde(default, borrow)]
    token_usage: Option<&'a RawValue>,
    #[serde(default, borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ThreadItem {
    r#type: String,
    text: String,
    name: String,
    call_id: String,
    arguments: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tokens {
    #[serde(default)]
    input_tokens: u64,
    #[serde(default)]
    cached_input_tokens: u64,
    #[serde(default)]
    output_tokens: u64,
    #[serde(default)]
    reasoning_output_tokens: u64,
}

impl Tokens {
    /// A usage without input is a placeholder (0.169 reports a full window so), not a count.
    fn counted(self) -> Option<Usage> {
        (self.input_tokens > 0).then_some(Usage {
            input: self.input_tokens,
            cached: self.cached_input_tokens,
            output: self.output_tokens,
            reasoning: self.reasoning_output_tokens,
        })
    }
}

fn raw<'a, T: Deserialize<'a>>(value: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(value?.get()).ok()
}

impl Decoder {
    /// For the turn that [`start_turn`] started.
    pub fn new(turn: String, names: ToolNames, ends_responses: bool) -> Self {
        Self {
            turn,
            names,
            text: Transcript::default(),
            item_start: 0,
            reasoning: Transcript::default(),
            reasoning_part: None,
            calls: 0,
            usage: None,
            running: true,
            ended: false,
            refusal: None,
            ends_responses,
        }
    }

    /// The id of the turn.
    pub fn turn(&self) -> &str {
        &self.turn
    }

    /// How long to wait for more calls before [`Decoder::settle`].
    pub fn settle_time(&self) -> Option<Duration> {
        (self.calls > 0 && !self.ends_responses && !self.ended).then_some(SETTLE)
    }

    /// No further call came: the response has ended.
    pub fn settle(&mut self, out: &mut Vec<TurnEvent>) {
        self.end(Ok(Finish::ToolCalls), out);
    }

    /// Takes in one line. Whether it belongs to the turn, and so is a sign of life.
    pub fn decode(&mut self, line: &[u8], out: &mut Vec<TurnEvent>) -> bool {
        let Ok(Line { method, params }) = serde_json::from_slice::<Line<'_>>(line) else { return false };
        let completed = &*method == "turn/completed";
        // Injected items come back under another turn's id; `turn/completed` carries its id inside.
        let ours = if completed { self.is_own_turn(params.turn) } else { params.turn_id == self.turn };
        if !ours {
            return false;
        }
        if completed {
            self.running = false;
        }
        if self.ended {
            return true;
        }
        match &*method {
            "item/agentMessage/delta" => self.feed_text(&params.delta, out),
            "item/reasoning/summaryTextDelta" => self.feed_reasoning(&params, out),
            "item/started" => self.start_item(params.item, out),
            "item/completed" => self.complete_item(params.item, out),
            "thread/tokenUsage/updated" => {
                #[derive(Deserialize)]
                struct TokenUsage {
                    total: Tokens,
                }
                // `total` is the thread's sum, which is this turn's; a cut response is in it alone.
                self.usage =
                    raw::<TokenUsage>(params.token_usage).and_then(|usage| usage.total.counted()).or(self.usage);
                // Without a mark of its own, this is the end of a response whose calls codex has answered itself.
                if self.calls > 0 && !self.ends_responses {
                    self.end(Ok(Finish::ToolCalls), out);
                }
            }
            "rawResponseItem/completed" => self.take_call(params.item, out),
            "rawResponse/completed" if self.calls > 0 => {
                self.usage = raw::<Tokens>(params.usage).and_then(Tokens::counted).or(self.usage);
                self.end(Ok(Finish::ToolCalls), out);
            }
            "error" => self.fail(raw(params.error).unwrap_or_default(), params.will_retry, out),
            "turn/completed" => self.complete_turn(params.turn, out),
            _ => {}
        }
        true
    }

    fn is_own_turn(&self, turn: Option<&RawValue>) -> bool {
        raw::<Id>(turn).is_some_and(|turn| turn.id == self.turn)
    }

    fn feed_text(&mut self, delta: &str, out: &mut Vec<TurnEvent>) {
        match self.text.feed(delta) {
            Some("") => {}
            Some(fresh) => out.push(TurnEvent::Text(fresh.to_owned())),
            None => {
                let words = "The model's service broke off, and the second answer differs from what was sent already; ask again.";
                self.end(Err(TurnError::new(TurnErrorKind::Upstream, words)), out);
            }
        }
    }

    fn feed_reasoning(&mut self, params: &Params<'_>, out: &mut Vec<TurnEvent>) {
        let part = (params.item_id.clone().into_owned(), params.summary_index);
        let gap = if self.reasoning_part.as_ref().is_some_and(|last| *last != part) { "\n\n" } else { "" };
        self.reasoning_part = Some(part);
        // A summary that differs after a retry is left out: it is no part of the answer.
        for delta in [gap, &params.delta] {
            match self.reasoning.feed(delta) {
                Some("") | None => {}
                Some(fresh) => out.push(TurnEvent::Reasoning(fresh.to_owned())),
            }
        }
    }

    fn start_item(&mut self, item: Option<&RawValue>, out: &mut Vec<TurnEvent>) {
        match raw::<ThreadItem>(item).map(|item| item.r#type).as_deref() {
            Some("agentMessage") => self.item_start = self.text.seen,
            // Codex is about to put a summary in the place of the conversation. Models of its catalog are kept from it
            // by settings; with others 0.169 does so at a window that it assumes.
            Some("contextCompaction") if !self.names.codex_as_it_comes() => {
                let words = "The conversation is longer than the window that codex assumes for this model; send fewer or shorter messages.";
                self.end(Err(TurnError::new(TurnErrorKind::ContextLength, words)), out);
            }
            _ => {}
        }
    }

    /// A message may come whole, or with more than its deltas told.
    fn complete_item(&mut self, item: Option<&RawValue>, out: &mut Vec<TurnEvent>) {
        let Some(item) = raw::<ThreadItem>(item).filter(|item| item.r#type == "agentMessage") else { return };
        let told = self.text.sent.get(self.item_start..self.text.seen).unwrap_or_default();
        if let Some(rest) = item.text.strip_prefix(told)
            && !rest.is_empty()
        {
            let rest = rest.to_owned();
            self.feed_text(&rest, out);
        }
        self.item_start = self.text.seen;
    }

    fn take_call(&mut self, item: Option<&RawValue>, out: &mut Vec<TurnEvent>) {
        let Some(item) = raw::<ThreadItem>(item).filter(|item| item.r#type == "function_call") else { return };
        if self.names.is_codex_own(&item.name) {
            return;
        }
        self.calls += 1;
        let arguments = match item.arguments {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let name = self.names.inward(&item.name).to_owned();
        out.push(TurnEvent::ToolCall(ToolCall { id: item.call_id, name, arguments }));
    }

    fn fail(&mut self, error: CodexError, will_retry: bool, out: &mut Vec<TurnEvent>) {
        if !will_retry {
            return self.end_by(&error, out);
        }
        if let Some(finish) = error.cut() {
            // Another try would be cut as well, and need not say the same.
            return self.end(Ok(finish), out);
        }
        log::debug!("codex tries a turn again");
        self.text.begin_again();
        self.reasoning.begin_again();
        self.reasoning_part = None;
        self.item_start = 0;
    }

    fn end_by(&mut self, error: &CodexError, out: &mut Vec<TurnEvent>) {
        let result = match error.meaning() {
            Meaning::Cut(finish) => Ok(finish),
            Meaning::Failed(error) => Err(error),
            Meaning::Refused(refusal) => {
                self.refusal = Some(refusal);
                let words = "The model's service refused what the lean profile asks of it; codex is started without that. Try again.";
                Err(TurnError::new(TurnErrorKind::Unavailable, words))
            }
        };
        self.end(result, out);
    }

    fn complete_turn(&mut self, turn: Option<&RawValue>, out: &mut Vec<TurnEvent>) {
        #[derive(Deserialize)]
        struct Turn {
            #[serde(default)]
            status: String,
            #[serde(default)]
            error: Option<CodexError>,
        }
        let turn = raw::<Turn>(turn);
        match turn.as_ref().map(|turn| turn.status.as_str()) {
            Some("completed") if self.calls > 0 => self.end(Ok(Finish::ToolCalls), out),
            Some("completed") => self.end(Ok(Finish::Stop), out),
            Some("interrupted") => {
                let words = "Codex interrupted the turn without being asked to; ask again.";
                self.end(Err(TurnError::new(TurnErrorKind::Upstream, words)), out);
            }
            _ => self.end_by(&turn.and_then(|turn| turn.error).unwrap_or_default(), out),
        }
    }

    fn end(&mut self, result: Result<Finish, TurnError>, out: &mut Vec<TurnEvent>) {
        if !self.ended {
            self.ended = true;
            out.push(TurnEvent::End(TurnOutcome { result, usage: self.usage }));
        }
    }

    /// Ends the turn by something other than codex's word.
    pub fn abort(&mut self, error: TurnError, out: &mut Vec<TurnEvent>) {
        self.end(Err(error), out);
    }
}
