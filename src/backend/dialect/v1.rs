//! The `newConversation` protocol (0.44 – 0.106): one conversation for each turn, the whole history in one text, settings
//! inside `newConversation`, as `--config` at start does not reach it.

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::decoder::{Decoder, Line, Pause, Tokens, raw};
use super::errors::CodexError;
use super::prompt::joined;
use super::{Session, StartError, Thread, text_at};
use crate::backend::connection::Patience;
use crate::turn::{TurnEvent, TurnRequest};

/// Starts a conversation for the request and listens to it.
pub(super) fn start_thread(
    session: &Session,
    request: &TurnRequest,
    patience: Patience<'_>,
) -> Result<Thread, StartError> {
    let mut config = session.thread_config.clone().unwrap_or_default();
    for (key, value) in [
        ("model_reasoning_effort", &request.effort),
        ("model_reasoning_summary", &session.summary(request).map(str::to_owned)),
        ("model_verbosity", &request.verbosity),
    ] {
        config.extend(value.as_ref().map(|value| (key.to_owned(), json!(value))));
    }
    let mut params =
        json!({"cwd": session.cwd, "approvalPolicy": "never", "sandbox": session.sandbox, "config": config});
    for (key, value) in [
        ("model", request.model.as_ref().or(session.model.as_ref())),
        ("baseInstructions", session.base_instructions.as_ref()),
    ] {
        if let Some(value) = value {
            params[key] = json!(value);
        }
    }
    let result = session.connection.call("newConversation", params, patience)?;
    let id = text_at("newConversation", &result, "/conversationId")?;
    let rollout = text_at("newConversation", &result, "/rolloutPath").ok();
    let mut thread = Thread { id, subscription: None, rollout };
    let listening = session.connection.call("addConversationListener", json!({"conversationId": thread.id}), patience);
    let listening = listening.map_err(StartError::from);
    match listening.and_then(|result| text_at("addConversationListener", &result, "/subscriptionId")) {
        Ok(subscription) => thread.subscription = Some(subscription),
        Err(error) => {
            session.release(&thread);
            return Err(error);
        }
    }
    Ok(thread)
}

/// Starts the turn, which has no id: by one call, as `sendUserTurn` beside it would run the prompt twice. This one's form never changed.
pub(super) fn start_turn(
    session: &Session,
    thread: &Thread,
    request: &TurnRequest,
    patience: Patience<'_>,
) -> Result<String, StartError> {
    let (text, images) = joined(&request.history);
    let mut items = vec![json!({"type": "text", "data": {"text": text}})];
    items.extend(images.iter().map(|url| json!({"type": "image", "data": {"image_url": url}})));
    let params = json!({"conversationId": thread.id, "items": items});
    session.connection.call("sendUserMessage", params, patience).map_err(StartError::Late)?;
    Ok(String::new())
}

#[derive(Default, Deserialize)]
struct Params<'a> {
    #[serde(default, borrow)]
    msg: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Words {
    delta: String,
    message: String,
}

#[derive(Deserialize)]
struct Count {
    info: Option<Info>,
}

#[derive(Deserialize)]
struct Info {
    total_token_usage: Option<Tokens>,
    last_token_usage: Option<Tokens>,
}

/// Takes in one line of a conversation. Every one of them is a sign of life.
pub(super) fn decode(decoder: &mut Decoder, line: &[u8], out: &mut Vec<TurnEvent>) -> bool {
    let Ok(Line { method, params }) = serde_json::from_slice::<Line<'_, Params<'_>>>(line) else { return false };
    let Some(event) = method.strip_prefix("codex/event/") else { return false };
    decoder.running &= !matches!(event, "task_complete" | "turn_aborted" | "error");
    if decoder.ended {
        return true;
    }
    let pause = std::mem::replace(&mut decoder.pause, Pause::None);
    let words = || raw::<Words>(params.msg).unwrap_or_default();
    let error = || raw::<CodexError>(params.msg).unwrap_or_default();
    match event {
        "agent_message_delta" => decoder.feed_text(&words().delta, out),
        "agent_message" => decoder.complete_message(&words().message, out),
        "agent_reasoning_section_break" => decoder.sections += 1,
        "agent_reasoning_delta" => decoder.feed_reasoning((String::new(), decoder.sections), &words().delta, out),
        "token_count" => {
            // An early one has no counts; one for each response of the model has them.
            let info = raw::<Count>(params.msg).and_then(|count| count.info);
            // The conversation's sum is that of this turn, which has several responses where codex's own tools are used.
            let usage = info.and_then(|info| {
                info.total_token_usage.and_then(Tokens::counted).or(info.last_token_usage.and_then(Tokens::counted))
            });
            decoder.pause = if pause != Pause::None && usage.is_some() { Pause::Usage } else { pause };
            decoder.take_usage(usage, out);
        }
        "stream_error" => decoder.retry(&error(), out),
        "error" => decoder.fail(&error(), out),
        "task_complete" => decoder.complete(out),
        "turn_aborted" => decoder.interrupted(out),
        _ => {}
    }
    true
}
