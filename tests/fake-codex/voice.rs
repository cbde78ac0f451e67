//! How a turn is told: in the words of v2, in those of v1, or (0.58 – 0.114) in both.

use serde_json::{Value, json};

use crate::ages::Age;
use crate::out::{now, text};

pub(crate) struct Voice {
    pub(crate) thread: String,
    pub(crate) turn: String,
    /// Whether the thread is a conversation of v1.
    pub(crate) conversation: bool,
    pub(crate) age: Age,
    /// Notifications that the client does not want.
    pub(crate) muted: Vec<String>,
}

/// What stands before and after the text of a delta.
pub(crate) type Frame = (String, String);

impl Voice {
    /// Whether v2 and v1 are spoken.
    fn families(&self) -> (bool, bool) {
        let (new, old) = self.age.families();
        (new || !self.conversation, old || self.conversation)
    }

    fn line(&self, method: &str, params: &Value) -> String {
        if self.muted.iter().any(|muted| muted == method) {
            return String::new();
        }
        format!(r#"{{"method":"{method}","params":{params},"emittedAtMs":{}}}"#, now()) + "\n"
    }

    /// A notification of v2 about the thread.
    fn tell(&self, method: &str, mut params: Value) -> String {
        params["threadId"] = self.thread.as_str().into();
        if self.families().0 { self.line(method, &params) } else { String::new() }
    }

    /// The same about the turn.
    fn item(&self, method: &str, mut params: Value) -> String {
        params["turnId"] = self.turn.as_str().into();
        self.tell(method, params)
    }

    /// An event of v1.
    fn old(&self, kind: &str, mut msg: Value) -> String {
        if !self.families().1 {
            return String::new();
        }
        msg["type"] = kind.into();
        let params = json!({ "id": self.turn, "msg": msg, "conversationId": self.thread });
        self.line(&format!("codex/event/{kind}"), &params)
    }

    /// The ids that a request of codex carries.
    pub(crate) fn ids(&self) -> Value {
        let (thread, turn) = if self.conversation { ("conversationId", "id") } else { ("threadId", "turnId") };
        json!({ thread: self.thread, turn: self.turn })
    }

    pub(crate) fn started(&self) -> String {
        let turn = json!({ "turn": self.turn("inProgress", &Value::Null) });
        self.status(&json!({ "type": "active", "activeFlags": [] }))
            + &if self.conversation { String::new() } else { self.tell("turn/started", turn) }
            + &self.old("task_started", json!({ "model_context_window": 258_400 }))
            + &self.old("token_count", json!({ "info": null, "rate_limits": { "primary": null } }))
    }

    fn status(&self, status: &Value) -> String {
        let told = json!({ "status": status });
        if self.age.tells_status() { self.tell("thread/status/changed", told) } else { String::new() }
    }

    fn turn(&self, status: &str, error: &Value) -> Value {
        json!({ "id": self.turn, "items": [], "itemsView": "notLoaded", "status": status, "error": error })
    }

    pub(crate) fn message_started(&self) -> String {
        self.item("item/started", json!({ "item": { "type": "agentMessage", "id": "msg_1", "text": "" } }))
    }

    pub(crate) fn message(&self, words: &str) -> String {
        self.item("item/completed", json!({ "item": { "type": "agentMessage", "id": "msg_1", "text": words } }))
            + &self.old("agent_message", json!({ "message": words }))
    }

    /// The frames of a delta of the message: where both families are spoken, it comes three times.
    pub(crate) fn text_frames(&self) -> Vec<Frame> {
        self.frames("agent_message_content_delta", ("item/agentMessage/delta", "msg_1", ""), "agent_message_delta")
    }

    pub(crate) fn reasoning_frames(&self, part: usize) -> Vec<Frame> {
        let more = format!(r#","summaryIndex":{part}"#);
        let new = ("item/reasoning/summaryTextDelta", "rs_1", more.as_str());
        self.frames("reasoning_content_delta", new, "agent_reasoning_delta")
    }

    fn frames(&self, both: &str, (method, item, more): (&str, &str, &str), old: &str) -> Vec<Frame> {
        let (new, _) = self.families();
        let both = new.then(|| self.old_frame(both)).flatten();
        let new = new.then(|| self.new_frame(method, item, more));
        [both, new, self.old_frame(old)].into_iter().flatten().collect()
    }

    fn new_frame(&self, method: &str, item: &str, more: &str) -> Frame {
        let ids = format!(r#""threadId":"{}","turnId":"{}","itemId":"{item}""#, self.thread, self.turn);
        let after = format!(r#"{more}}},"emittedAtMs":{}}}"#, now()) + "\n";
        (format!(r#"{{"method":"{method}","params":{{{ids},"delta":"#), after)
    }

    fn old_frame(&self, kind: &str) -> Option<Frame> {
        let method = format!("codex/event/{kind}");
        let msg = format!(r#""msg":{{"type":"{kind}","delta":"#);
        let before = format!(r#"{{"method":"{method}","params":{{"id":"{}",{msg}"#, self.turn);
        let after = format!(r#"}},"conversationId":"{}"}}}}"#, self.thread) + "\n";
        (self.families().1 && !self.muted.contains(&method)).then_some((before, after))
    }

    /// Between two parts of a summary.
    pub(crate) fn section_break(&self) -> String {
        self.old("agent_reasoning_section_break", json!({}))
    }

    pub(crate) fn reasoning(&self, summary: &[&str]) -> String {
        let item = json!({ "type": "reasoning", "id": "rs_1", "summary": summary, "content": [] });
        self.item("item/completed", json!({ "item": item }))
            + &self.old("agent_reasoning", json!({ "text": summary.join("\n") }))
    }

    /// Codex tries again.
    pub(crate) fn retry(&self) -> String {
        let info = json!({ "responseStreamDisconnected": { "httpStatusCode": null } });
        self.error("Reconnecting... 1/1", &info, true)
    }

    pub(crate) fn error(&self, message: &str, info: &Value, again: bool) -> String {
        let kind = if again { "stream_error" } else { "error" };
        let mut old = json!({ "message": message });
        if self.families().0 {
            // The name is the same but for its spelling.
            let snake =
                |c: char| if c.is_ascii_uppercase() { format!("_{}", c.to_ascii_lowercase()) } else { c.into() };
            old["codex_error_info"] =
                serde_json::from_str(&info.to_string().chars().map(snake).collect::<String>()).unwrap_or_default();
        }
        self.old(kind, old) + &self.item("error", json!({ "error": failure(message, info), "willRetry": again }))
    }

    pub(crate) fn usage(&self, [input, cached, output, reasoning]: [u64; 4]) -> String {
        let new = json!({
            "totalTokens": input + output, "inputTokens": input, "cachedInputTokens": cached,
            "outputTokens": output, "reasoningOutputTokens": reasoning,
        });
        let old = json!({
            "input_tokens": input, "cached_input_tokens": cached, "output_tokens": output,
            "reasoning_output_tokens": reasoning, "total_tokens": input + output,
        });
        let info = json!({ "total_token_usage": old, "last_token_usage": old, "model_context_window": 258_400 });
        self.old("token_count", json!({ "info": info, "rate_limits": { "primary": null } }))
            + &self.item("thread/tokenUsage/updated", json!({ "tokenUsage": { "total": new, "last": new } }))
            + &self
                .line("account/rateLimits/updated", &json!({ "rateLimits": { "limitId": "codex", "primary": null } }))
    }

    /// The end: `completed`, `interrupted`, or `failed` with its error.
    pub(crate) fn end(&self, status: &str, error: &Value) -> String {
        let old = match status {
            "interrupted" => self.old("turn_aborted", json!({ "reason": "interrupted" })),
            _ => self.old("task_complete", json!({ "last_agent_message": null })),
        };
        old + &self.status(&json!({ "type": "idle" }))
            + &self.tell("turn/completed", json!({ "turn": self.turn(status, error) }))
    }

    /// What belongs to other threads, or to nobody yet.
    pub(crate) fn noise(&self, n: u64) -> String {
        let other = Self { thread: format!("another-{n}"), turn: n.to_string(), muted: Vec::new(), ..*self };
        let (before, after) = other.text_frames().remove(0);
        before
            + &text("not for you")
            + &after
            + &self.item("future/event", json!({}))
            + &self.old("future_event", json!({}))
            + &other.end("completed", &Value::Null)
    }
}

/// An error object of v2.
pub(crate) fn failure(message: &str, info: &Value) -> Value {
    json!({ "message": message, "codexErrorInfo": info, "additionalDetails": null })
}
