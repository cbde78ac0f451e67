//! One turn, as the directions in its prompt want it. Without any it echoes the prompt, word by word.
//!
//! | direction | |
//! |---|---|
//! | `say TEXT`, `deltas N`, `size BYTES` | that text, word by word; N deltas (of so many bytes each) |
//! | `reason TEXT` | a part of a reasoning summary before it |
//! | `pause MS` | silence before anything |
//! | `stutter N` | N times an error with `willRetry` before any text, each after the gap |
//! | `gap MS` | silence before each delta; without it all deltas go out in one write |
//! | `gate NAME` | after the first delta, silence until `$FAKE_CODEX_DIR/NAME` exists |
//! | `hang` | silence for ever after the text |
//! | `usage IN CACHED OUT REASONING`, `no-usage`, `usage-late` | the counts; none; after the end |
//! | `retry [TEXT]` | in the middle an error with `willRetry`, then the text again (or that one) |
//! | `fail INFO [STATUS]`, `message TEXT` | a failed turn with this `codexErrorInfo` (an object when there is a status) |
//! | `no-end` | nothing after the error, or after usage |
//! | `interrupt-deaf`, `interrupt-lost` | an interrupt is ignored; is answered and then ignored |
//! | `die`, `die-in-line` | the process ends after the text; in the middle of a line |
//! | `request METHOD` | a request of codex's own; its answer is the text |
//! | `garbage`, `noise N`, `line BYTES`, `stderr BYTES` | what is no message, or no message of this turn |
//! | `grow MB`, `disk MB` | memory and log files that grow |

use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use serde_json::Value;

use crate::faults;
use crate::markers::Markers;
use crate::out::{Out, notification, text};
use crate::server::Server;

/// What the reader tells a turn.
pub(crate) enum Tell {
    Interrupt,
    /// The answer to the turn's own request.
    Answer(String),
}

pub(crate) struct Turn {
    pub(crate) thread: String,
    pub(crate) id: String,
    pub(crate) markers: Markers,
    pub(crate) tell: Receiver<Tell>,
    pub(crate) server: Arc<Server>,
}

/// The turn is to end now, as interrupted.
struct Interrupted;

impl Turn {
    /// Plays the whole turn.
    pub(crate) fn play(self) {
        let out = &self.server.out;
        out.write(
            (notification(
                "thread/status/changed",
                &format!(r#""threadId":"{}","status":{{"type":"active","activeFlags":[]}}"#, self.thread),
            ) + &notification(
                "turn/started",
                &format!(r#""threadId":"{}","turn":{}"#, self.thread, turn_json(&self.id, "inProgress", "null")),
            ))
                .as_bytes(),
        );
        let end = match self.body(out) {
            Ok(end) => end,
            Err(Interrupted) => Some(("interrupted", "null".to_owned())),
        };
        self.server.turn_ended(&self.thread);
        let Some((status, error)) = end else { return };
        let idle = notification(
            "thread/status/changed",
            &format!(r#""threadId":"{}","status":{{"type":"idle"}}"#, self.thread),
        );
        let turn = turn_json(&self.id, status, &error);
        out.write(
            (idle + &notification("turn/completed", &format!(r#""threadId":"{}","turn":{turn}"#, self.thread)))
                .as_bytes(),
        );
        if self.markers.has("usage-late") {
            out.write(self.usage().as_bytes());
        }
    }

    /// Everything up to the last notification; `None`: there is none.
    fn body(&self, out: &Out) -> Result<Option<(&'static str, String)>, Interrupted> {
        self.mischief(out);
        self.wait(Duration::from_millis(self.markers.number("pause").unwrap_or(0)))?;
        for _ in 0..self.markers.number("stutter").unwrap_or(0) {
            self.wait(Duration::from_millis(self.markers.number("gap").unwrap_or(0)))?;
            self.say_retry(out);
        }
        self.reasoning(out)?;
        let mut deltas = self.deltas();
        if let Some(method) = self.markers.get("request") {
            deltas = vec![self.request(out, method)?];
        }
        let silent = deltas.is_empty();
        if !silent {
            let item = |words: &str| {
                format!(
                    r#""item":{{"type":"agentMessage","id":"msg_{}","text":{},"phase":null}},{}"#,
                    self.id,
                    text(words),
                    self.ids()
                )
            };
            out.write(notification("item/started", &item("")).as_bytes());
            if let Some(again) = self.markers.get("retry") {
                let half: Vec<_> = deltas.iter().take(deltas.len().div_ceil(2)).cloned().collect();
                self.send(out, &half)?;
                self.say_retry(out);
                if !again.is_empty() {
                    deltas = words(again);
                }
            }
            self.send(out, &deltas)?;
            if self.markers.has("die-in-line") {
                out.write(br#"{"method":"item/agentMessage/delta","params":{"threadId":"#);
            }
            if self.markers.has("die") || self.markers.has("die-in-line") {
                std::process::exit(3);
            }
            if self.markers.has("hang") {
                self.wait(Duration::MAX)?;
            }
            out.write(notification("item/completed", &item(&deltas.concat())).as_bytes());
        } else if self.markers.has("hang") {
            self.wait(Duration::MAX)?;
        }
        if let Some(fail) = self.markers.get("fail") {
            let info = match fail.split_once(' ') {
                Some((name, status)) => format!(r#"{{"{name}":{{"httpStatusCode":{status}}}}}"#),
                None => text(fail),
            };
            let message = self.markers.get("message").map_or_else(|| format!("scripted {fail}"), str::to_owned);
            let error = format!(r#"{{"message":{},"codexErrorInfo":{info},"additionalDetails":null}}"#, text(&message));
            out.write(
                notification("error", &format!(r#""error":{error},"willRetry":false,{}"#, self.ids())).as_bytes(),
            );
            return Ok(if self.markers.has("no-end") { None } else { Some(("failed", error)) });
        }
        if !self.markers.has("no-usage") && !self.markers.has("usage-late") {
            out.write(self.usage().as_bytes());
        }
        Ok(if self.markers.has("no-end") { None } else { Some(("completed", "null".to_owned())) })
    }

    fn say_retry(&self, out: &Out) {
        let error = r#"{"message":"Reconnecting... 1/1","codexErrorInfo":{"responseStreamDisconnected":{"httpStatusCode":null}},"additionalDetails":"scripted"}"#;
        out.write(notification("error", &format!(r#""error":{error},"willRetry":true,{}"#, self.ids())).as_bytes());
    }

    fn ids(&self) -> String {
        format!(r#""threadId":"{}","turnId":"{}""#, self.thread, self.id)
    }

    fn deltas(&self) -> Vec<String> {
        if let Some(said) = self.markers.get("say") {
            return words(said);
        }
        let size = usize::try_from(self.markers.number("size").unwrap_or(0)).unwrap_or(0);
        match self.markers.number("deltas") {
            Some(count) => (0..count).map(|n| format!("{n:>size$} ")).collect(),
            None if self.markers.has("fail") || self.markers.has("hang") => Vec::new(),
            None if self.markers.rest.is_empty() => vec!["hello".to_owned()],
            None => words(&self.markers.rest),
        }
    }

    fn send(&self, out: &Out, deltas: &[String]) -> Result<(), Interrupted> {
        let gap = self.markers.number("gap").map(Duration::from_millis);
        let (before, after) = self.delta_frame("item/agentMessage/delta", "msg");
        let mut batch = Vec::new();
        for (n, delta) in deltas.iter().enumerate() {
            if let Some(gap) = gap {
                self.wait(gap)?;
            }
            batch.extend_from_slice(before.as_bytes());
            batch.extend_from_slice(text(delta).as_bytes());
            batch.extend_from_slice(after.as_bytes());
            if n == 0
                && let Some(gate) = self.markers.get("gate").and_then(|name| Some(faults::directory()?.join(name)))
            {
                out.write(&batch);
                batch.clear();
                while !gate.exists() {
                    self.wait(Duration::from_millis(5))?;
                }
            }
            // A burst goes out in few writes; one turn's burst does not keep another's interrupt waiting.
            if gap.is_some() || batch.len() > 65_536 {
                out.write(&batch);
                batch.clear();
                self.wait(Duration::ZERO)?;
            }
        }
        out.write(&batch);
        Ok(())
    }

    /// What stands before and after the text of a delta.
    fn delta_frame(&self, method: &str, prefix: &str) -> (String, String) {
        let before =
            format!(r#"{{"method":"{method}","params":{{{},"itemId":"{prefix}_{}","delta":"#, self.ids(), self.id);
        (before, format!(r#"}},"emittedAtMs":{}}}"#, crate::out::now()) + "\n")
    }

    fn reasoning(&self, out: &Out) -> Result<(), Interrupted> {
        let gap = self.markers.number("gap").map_or(Duration::ZERO, Duration::from_millis);
        let (before, _) = self.delta_frame("item/reasoning/summaryTextDelta", "rs");
        let mut summary = Vec::new();
        for (index, part) in self.markers.all("reason").enumerate() {
            let part = if part.is_empty() { "**Thinking** about it" } else { part };
            for delta in words(part) {
                self.wait(gap)?;
                out.line(&format!(r#"{before}{},"summaryIndex":{index}}}}}"#, text(&delta)));
            }
            summary.push(text(part));
        }
        if !summary.is_empty() {
            let summary = summary.join(",");
            let item = format!(r#""type":"reasoning","id":"rs_{}","summary":[{summary}],"content":[]"#, self.id);
            out.write(notification("item/completed", &format!(r#""item":{{{item}}},{}"#, self.ids())).as_bytes());
        }
        Ok(())
    }

    fn request(&self, out: &Out, method: &str) -> Result<String, Interrupted> {
        let id = self.server.ask(&self.thread);
        out.line(&format!(
            r#"{{"method":"{method}","id":{id},"params":{{{},"itemId":"call_1","command":["true"]}}}}"#,
            self.ids()
        ));
        match self.tell.recv() {
            Ok(Tell::Answer(answer)) => Ok(answer),
            _ => Err(Interrupted),
        }
    }

    fn usage(&self) -> String {
        let mut counts = [1234, 1000, 56, 16];
        for (count, word) in counts.iter_mut().zip(self.markers.get("usage").unwrap_or_default().split_whitespace()) {
            *count = word.parse().unwrap_or_default();
        }
        let [input, cached, output, reasoning] = counts;
        let usage = format!(
            r#"{{"totalTokens":{},"inputTokens":{input},"cachedInputTokens":{cached},"cacheWriteInputTokens":0,"outputTokens":{output},"reasoningOutputTokens":{reasoning}}}"#,
            input + output
        );
        let usage =
            format!(r#"{},"tokenUsage":{{"total":{usage},"last":{usage},"modelContextWindow":258400}}"#, self.ids());
        notification("thread/tokenUsage/updated", &usage)
            + &notification("account/rateLimits/updated", r#""rateLimits":{"limitId":"codex","primary":null}"#)
    }

    /// Silence, unless somebody interrupts and this turn minds.
    fn wait(&self, time: Duration) -> Result<(), Interrupted> {
        let time = time.min(Duration::from_secs(86_400));
        match self.tell.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            _ => Err(Interrupted),
        }
    }

    /// What has nothing to do with the turn.
    fn mischief(&self, out: &Out) {
        if self.markers.has("garbage") {
            out.garbage();
        }
        for n in 0..self.markers.number("noise").unwrap_or(0) {
            let ids = format!(r#""threadId":"another-{n}","turnId":"{n}""#);
            let foreign = format!(r#"{ids},"itemId":"x","delta":"not for you""#);
            let noise = notification("item/agentMessage/delta", &foreign)
                + &notification("future/event", &self.ids())
                + &notification(
                    "turn/completed",
                    &format!(r#"{ids},"turn":{}"#, turn_json("other", "completed", "null")),
                );
            out.write(noise.as_bytes());
        }
        if let Some(bytes) = self.markers.number("line") {
            let large = "x".repeat(usize::try_from(bytes).unwrap_or(0));
            out.write(notification("future/large", &format!(r#"{},"text":"{large}""#, self.ids())).as_bytes());
        }
        if let Some(bytes) = self.markers.number("stderr") {
            crate::flood_stderr(bytes);
        }
        if let Some(megabytes) = self.markers.number("grow") {
            std::mem::forget(vec![1_u8; usize::try_from(megabytes << 20).unwrap_or(0)]);
        }
        if let (Some(megabytes), Some(home)) = (self.markers.number("disk"), crate::sqlite_home())
            && let Ok(mut file) = std::fs::File::create(home.join("logs_2.sqlite"))
        {
            let _ = (0..megabytes).try_for_each(|_| file.write_all(&[0; 1 << 20]));
        }
    }
}

fn turn_json(id: &str, status: &str, error: &str) -> String {
    format!(r#"{{"id":"{id}","items":[],"itemsView":"notLoaded","status":"{status}","error":{error}}}"#)
}

fn words(text: &str) -> Vec<String> {
    text.split_inclusive(' ').map(str::to_owned).collect()
}

/// The text of the last message of a user in Responses API items or in the input of a turn.
pub(crate) fn user_text(items: &Value) -> Option<String> {
    let items = items.as_array()?;
    let last = items.iter().rev().find(|item| item["role"] == "user" || item["type"] == "text")?;
    let parts = last["content"].as_array().map_or(std::slice::from_ref(last), Vec::as_slice);
    Some(parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n"))
}
