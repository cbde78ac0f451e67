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
//! | `play FILE` | what codex said in a transcript (see `play.rs`); `FAKE_CODEX_TRANSCRIPT` says so for every turn |

use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::faults;
use crate::markers::Markers;
use crate::out::{Out, notification, text};
use crate::server::Server;
use crate::voice::{Frame, Voice, failure};

/// What the reader tells a turn.
pub(crate) enum Tell {
    /// To end now; v1 wants this call to be answered after that.
    Interrupt(Option<Value>),
    /// The answer to the turn's own request.
    Answer(String),
}

pub(crate) struct Turn {
    pub(crate) voice: Voice,
    /// What to play instead, and the call that started the turn and is answered there.
    pub(crate) transcript: Option<(String, Value)>,
    pub(crate) markers: Markers,
    pub(crate) tell: Receiver<Tell>,
    pub(crate) server: Arc<Server>,
}

/// The turn is to end now, as interrupted, and then to answer this call.
pub(crate) struct Interrupted(pub(crate) Option<Value>);

impl Turn {
    /// Plays the whole turn.
    pub(crate) fn play(self) {
        let out = &self.server.out;
        let end = match &self.transcript {
            Some((file, call)) => self.play_transcript(file, call).map(|()| None),
            None => {
                out.write(self.voice.started().as_bytes());
                self.body(out)
            }
        };
        self.server.turn_ended(&self.voice.thread);
        match end {
            Ok(None) => return,
            Ok(Some((status, error))) => out.write(self.voice.end(status, &error).as_bytes()),
            Err(Interrupted(call)) => {
                out.write(self.voice.end("interrupted", &Value::Null).as_bytes());
                call.iter().for_each(|call| out.result(call, r#"{"abortReason":"interrupted"}"#));
            }
        }
        if self.markers.has("usage-late") {
            out.write(self.usage().as_bytes());
        }
    }

    /// Everything up to the last notification; `None`: there is none.
    fn body(&self, out: &Out) -> Result<Option<(&'static str, Value)>, Interrupted> {
        self.mischief(out);
        self.wait(Duration::from_millis(self.markers.number("pause").unwrap_or(0)))?;
        for _ in 0..self.markers.number("stutter").unwrap_or(0) {
            self.wait(self.gap().unwrap_or_default())?;
            out.write(self.voice.retry().as_bytes());
        }
        self.reasoning(out)?;
        let mut deltas = self.deltas();
        if let Some(method) = self.markers.get("request") {
            deltas = vec![self.request(out, method)?];
        }
        if !deltas.is_empty() {
            out.write(self.voice.message_started().as_bytes());
            if let Some(again) = self.markers.get("retry") {
                let half: Vec<_> = deltas.iter().take(deltas.len().div_ceil(2)).cloned().collect();
                self.send(out, &half)?;
                out.write(self.voice.retry().as_bytes());
                if !again.is_empty() {
                    deltas = words(again);
                }
            }
            self.send(out, &deltas)?;
        }
        if self.markers.has("die-in-line") {
            out.write(br#"{"method":"item/agentMessage/delta","params":{"threadId":"#);
        }
        if self.markers.has("die") || self.markers.has("die-in-line") {
            std::process::exit(3);
        }
        if self.markers.has("hang") {
            self.wait(Duration::MAX)?;
        }
        if !deltas.is_empty() {
            out.write(self.voice.message(&deltas.concat()).as_bytes());
        }
        if let Some(fail) = self.markers.get("fail") {
            let info = match fail.split_once(' ') {
                Some((name, status)) => json!({ name: { "httpStatusCode": status.parse::<u64>().ok() } }),
                None => fail.into(),
            };
            let message = self.markers.get("message").map_or_else(|| format!("scripted {fail}"), str::to_owned);
            out.write(self.voice.error(&message, &info, false).as_bytes());
            return Ok((!self.markers.has("no-end")).then(|| ("failed", failure(&message, &info))));
        }
        if !self.markers.has("no-usage") && !self.markers.has("usage-late") {
            out.write(self.usage().as_bytes());
        }
        Ok((!self.markers.has("no-end")).then_some(("completed", Value::Null)))
    }

    fn gap(&self) -> Option<Duration> {
        self.markers.number("gap").map(Duration::from_millis)
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
        let (gap, frames) = (self.gap(), self.voice.text_frames());
        let mut batch = Vec::new();
        for (n, delta) in deltas.iter().enumerate() {
            if let Some(gap) = gap {
                self.wait(gap)?;
            }
            put(&mut batch, &frames, delta);
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

    fn reasoning(&self, out: &Out) -> Result<(), Interrupted> {
        let mut summary = Vec::new();
        for (index, part) in self.markers.all("reason").enumerate() {
            let part = if part.is_empty() { "**Thinking** about it" } else { part };
            if index > 0 {
                out.write(self.voice.section_break().as_bytes());
            }
            for delta in words(part) {
                self.wait(self.gap().unwrap_or_default())?;
                let mut lines = Vec::new();
                put(&mut lines, &self.voice.reasoning_frames(index), &delta);
                out.write(&lines);
            }
            summary.push(part);
        }
        if !summary.is_empty() {
            out.write(self.voice.reasoning(&summary).as_bytes());
        }
        Ok(())
    }

    fn request(&self, out: &Out, method: &str) -> Result<String, Interrupted> {
        let mut params = self.voice.ids();
        params["command"] = json!(["true"]);
        let id = self.server.ask(&self.voice.thread);
        out.line(&json!({ "method": method, "id": id, "params": params }).to_string());
        match self.tell.recv() {
            Ok(Tell::Answer(answer)) => Ok(answer),
            Ok(Tell::Interrupt(call)) => Err(Interrupted(call)),
            Err(_) => Err(Interrupted(None)),
        }
    }

    fn usage(&self) -> String {
        let mut counts = [1234, 1000, 56, 16];
        for (count, word) in counts.iter_mut().zip(self.markers.get("usage").unwrap_or_default().split_whitespace()) {
            *count = word.parse().unwrap_or_default();
        }
        self.voice.usage(counts)
    }

    /// Waits for the interrupt.
    pub(crate) fn interrupted(&self) -> Interrupted {
        loop {
            match self.tell.recv() {
                Ok(Tell::Interrupt(call)) => return Interrupted(call),
                Ok(Tell::Answer(_)) => {}
                Err(_) => return Interrupted(None),
            }
        }
    }

    /// Silence, unless somebody interrupts and this turn minds.
    fn wait(&self, time: Duration) -> Result<(), Interrupted> {
        let time = time.min(Duration::from_secs(86_400));
        match self.tell.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(Tell::Interrupt(call)) => Err(Interrupted(call)),
            _ => Err(Interrupted(None)),
        }
    }

    /// What has nothing to do with the turn.
    fn mischief(&self, out: &Out) {
        if self.markers.has("garbage") {
            out.garbage();
        }
        for n in 0..self.markers.number("noise").unwrap_or(0) {
            out.write(self.voice.noise(n).as_bytes());
        }
        if let Some(bytes) = self.markers.number("line") {
            let large = "x".repeat(usize::try_from(bytes).unwrap_or(0));
            let ids = self.voice.ids().to_string();
            let ids = ids.trim_matches(['{', '}']);
            out.write(notification("future/large", &format!(r#"{ids},"text":"{large}""#)).as_bytes());
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

/// A delta in all its frames.
fn put(batch: &mut Vec<u8>, frames: &[Frame], delta: &str) {
    for (before, after) in frames {
        [before, &text(delta), after].iter().for_each(|piece| batch.extend_from_slice(piece.as_bytes()));
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_inclusive(' ').map(str::to_owned).collect()
}

/// The text of the last message of a user in Responses API items, in the input of a turn (v2, v1), or in a conversation
/// that is joined to one text.
pub(crate) fn user_text(items: &Value) -> Option<String> {
    let items = items.as_array()?;
    let last = items.iter().rev().find(|item| item["role"] == "user" || item["type"] == "text")?;
    let parts = last["content"].as_array().map_or(std::slice::from_ref(last), Vec::as_slice);
    let texts = parts.iter().filter_map(|part| part["text"].as_str().or(part["data"]["text"].as_str()));
    let text = texts.collect::<Vec<_>>().join("\n");
    Some(text.rsplit_once("[user] ").map_or(text.clone(), |(_, last)| last.to_owned()))
}
