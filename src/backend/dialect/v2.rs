//! The `thread/*`, `turn/*` protocol (0.66 and later): one thread for each turn, ephemeral where that is possible, the
//! conversation injected as items and the turn started with empty input, so that the model sees exactly the client's
//! messages. Where codex cannot do that, the conversation goes in as one text.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::capabilities::Feature;
use super::decoder::{Decoder, Line, Pause, Tokens, raw};
use super::errors::CodexError;
use super::prompt::{Items, joined};
use super::tool_names::ToolNames;
use super::{Session, StartError, Thread, text_at, tool_schema};
use crate::backend::connection::Patience;
use crate::turn::{Finish, Item, Part, Role, ToolCall, TurnError, TurnErrorKind, TurnEvent, TurnRequest};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TurnStart<'a> {
    thread_id: &'a str,
    input: Vec<Input<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_schema: Option<&'a RawValue>,
}

/// Starts a thread for the request.
pub(super) fn start_thread(
    session: &Session,
    request: &TurnRequest,
    names: &ToolNames,
    patience: Patience<'_>,
) -> Result<Thread, StartError> {
    let tools = request.tools.iter().map(|tool| {
        let (description, schema) = tool_schema::fit(tool, !session.capabilities.has(Feature::Schemas));
        json!({"name": names.outward(&tool.name), "description": description, "inputSchema": schema})
    });
    let mut config = session.thread_config.clone().unwrap_or_default();
    config.extend(request.verbosity.as_ref().map(|verbosity| ("model_verbosity".to_owned(), json!(verbosity))));
    let mut params = json!({"cwd": session.cwd, "approvalPolicy": "never", "ephemeral": true});
    let mut add = |key: &str, value: Option<Value>| value.into_iter().for_each(|value| params[key] = value);
    add("model", request.model.as_ref().or(session.model.as_ref()).map(|model| json!(model)));
    // Its spelling changed after 0.66; where the thread's config holds the mode, it is left out.
    add("sandbox", session.thread_config.is_none().then(|| session.sandbox.into()));
    add("baseInstructions", session.base_instructions.as_ref().map(|words| json!(words)));
    // An empty list means no shell and no files; an absent one means codex's own choice.
    add("environments", session.lean.then(|| json!([])));
    add("experimentalRawEvents", (request.sealed || !request.tools.is_empty()).then_some(true.into()));
    add("dynamicTools", (!request.tools.is_empty()).then(|| tools.collect()));
    add("config", (!config.is_empty()).then(|| config.into()));
    // A thread made from a history begins without the environment and paths that codex tells of in a new one. The id has
    // to look like one, and the history like one that holds something.
    let bare = session.lean && session.capabilities.has(Feature::BareResume);
    add("threadId", bare.then(|| json!("00000000-0000-0000-0000-000000000000")));
    add("history", bare.then(|| json!([{"type": "other"}])));
    let method = if bare { "thread/resume" } else { "thread/start" };
    let result = session.connection.call(method, params, patience)?;
    let rollout = text_at(method, &result, "/thread/path").ok();
    Ok(Thread { id: text_at(method, &result, "/thread/id")?, subscription: None, rollout })
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Input<'a> {
    Text { text: Cow<'a, str> },
    Image { url: &'a str },
}

impl<'a> Input<'a> {
    fn of(part: &'a Part) -> Self {
        match part {
            Part::Text(text) => Self::Text { text: Cow::Borrowed(text) },
            Part::Image { url, .. } => Self::Image { url },
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InjectItems<'a> {
    thread_id: &'a str,
    items: Items<'a>,
}

#[derive(Deserialize)]
struct Id {
    id: String,
}

/// Gives the thread its history and starts the turn; returns its id.
pub(super) fn start_turn(
    session: &Session,
    thread: &Thread,
    request: &TurnRequest,
    names: &ToolNames,
    patience: Patience<'_>,
) -> Result<String, StartError> {
    let inject = |history: &[Item]| {
        let params = InjectItems { thread_id: &thread.id, items: Items { history, names } };
        session.connection.call("thread/inject_items", params, patience)
    };
    let input = match request.history.split_last() {
        _ if session.joined => joined_input(&request.history),
        _ if session.capabilities.has(Feature::EmptyInput) => {
            inject(&request.history)?;
            Vec::new()
        }
        Some((Item::Message { role: Role::User, content }, before)) => {
            if !before.is_empty() {
                inject(before)?;
            }
            content.iter().map(Input::of).collect()
        }
        _ => joined_input(&request.history),
    };
    let params = TurnStart {
        thread_id: &thread.id,
        input,
        effort: request.effort.as_deref(),
        summary: session.summary(request),
        output_schema: request.output_schema.as_deref().map(serde_json::from_str).transpose().unwrap_or_default(),
    };
    let result = session.connection.call("turn/start", params, patience).map_err(StartError::Late)?;
    text_at("turn/start", &result, "/turn/id")
}

fn joined_input(history: &[Item]) -> Vec<Input<'_>> {
    let (text, images) = joined(history);
    let mut input = vec![Input::Text { text: Cow::Owned(text) }];
    input.extend(images.into_iter().map(|url| Input::Image { url }));
    input
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
    encrypted_content: Option<String>,
}

/// Takes in one line of a turn.
pub(super) fn decode(decoder: &mut Decoder, line: &[u8], out: &mut Vec<TurnEvent>) -> bool {
    let Ok(Line { method, params }) = serde_json::from_slice::<Line<'_, Params<'_>>>(line) else { return false };
    let completed = &*method == "turn/completed";
    // Injected items come back under another turn's id; `turn/completed` carries its id inside.
    let turn =
        if completed { raw::<Id>(params.turn).map_or_else(String::new, |turn| turn.id).into() } else { params.turn_id };
    if turn != decoder.turn() {
        return false;
    }
    decoder.running &= !completed;
    if decoder.ended {
        return true;
    }
    let pause = std::mem::replace(&mut decoder.pause, Pause::None);
    match &*method {
        "item/agentMessage/delta" => decoder.feed_text(&params.delta, out),
        "item/reasoning/summaryTextDelta" => {
            decoder.feed_reasoning((params.item_id.into_owned(), params.summary_index), &params.delta, out);
        }
        "item/started" => start_item(decoder, params.item, out),
        "item/completed" => {
            if let Some(item) = raw::<ThreadItem>(params.item).filter(|item| item.r#type == "agentMessage") {
                decoder.complete_message(&item.text, out);
            }
        }
        "thread/tokenUsage/updated" => {
            #[derive(Deserialize)]
            struct TokenUsage {
                total: Tokens,
            }
            if pause != Pause::None {
                decoder.pause = Pause::Usage;
            }
            // `total` is the thread's sum, which is this turn's; a cut response is in it alone.
            decoder.take_usage(raw::<TokenUsage>(params.token_usage).and_then(|usage| usage.total.counted()), out);
            // Without a mark of its own, this is the end of a response whose calls codex has answered itself.
            if decoder.calls > 0 && !decoder.ends_responses() {
                decoder.end(Ok(Finish::ToolCalls), out);
            }
        }
        "rawResponseItem/completed" => take_item(decoder, params.item, out),
        "rawResponse/completed" if decoder.calls > 0 => {
            decoder.take_usage(raw::<Tokens>(params.usage).and_then(Tokens::counted), out);
            decoder.end(Ok(Finish::ToolCalls), out);
        }
        "error" if params.will_retry => decoder.retry(&raw(params.error).unwrap_or_default(), out),
        "error" => {
            // The end, even where no other follows (0.121).
            decoder.running = false;
            decoder.fail(&raw(params.error).unwrap_or_default(), out);
        }
        "turn/completed" => complete_turn(decoder, params.turn, out),
        _ => {}
    }
    true
}

fn start_item(decoder: &mut Decoder, item: Option<&RawValue>, out: &mut Vec<TurnEvent>) {
    match raw::<ThreadItem>(item).map(|item| item.r#type).as_deref() {
        Some("agentMessage") => decoder.begin_message(),
        // Codex is about to put a summary in the place of the conversation. Models of its catalog are kept from it
        // by settings; with others 0.169 does so at a window that it assumes.
        Some("contextCompaction") if !decoder.names.codex_as_it_comes() => {
            let words = "The conversation is longer than the window that codex assumes for this model; send fewer or shorter messages.";
            decoder.end(Err(TurnError::new(TurnErrorKind::ContextLength, words)), out);
        }
        _ => {}
    }
}

/// What the model's service said, word for word. Codex always asks it to seal reasoning (0.92 – 0.169).
fn take_item(decoder: &mut Decoder, item: Option<&RawValue>, out: &mut Vec<TurnEvent>) {
    let Some(item) = raw::<ThreadItem>(item) else { return };
    if let Some(sealed) = item.encrypted_content.filter(|_| item.r#type == "reasoning") {
        return decoder.feed_sealed(sealed, out);
    }
    if item.r#type != "function_call" || decoder.names.is_codex_own(&item.name) {
        return;
    }
    decoder.calls += 1;
    let arguments = match item.arguments {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let name = decoder.names.inward(&item.name).to_owned();
    out.push(TurnEvent::ToolCall(ToolCall { id: item.call_id, name, arguments }));
}

fn complete_turn(decoder: &mut Decoder, turn: Option<&RawValue>, out: &mut Vec<TurnEvent>) {
    #[derive(Deserialize)]
    struct Turn {
        #[serde(default)]
        status: String,
        #[serde(default)]
        error: Option<CodexError>,
    }
    let turn = raw::<Turn>(turn);
    match turn.as_ref().map(|turn| turn.status.as_str()) {
        Some("completed") => decoder.complete(out),
        Some("interrupted") => decoder.interrupted(out),
        _ => decoder.fail(&turn.and_then(|turn| turn.error).unwrap_or_default(), out),
    }
}
