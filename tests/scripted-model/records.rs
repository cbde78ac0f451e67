//! What the control side tells: every request as it came, and what became of every answer.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::http::Request;

/// Milliseconds since 1970, with fractions, comparable with the clock of a test in another process.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1000.0)
}

#[derive(Default)]
struct State {
    requests: Vec<Value>,
    streams: Vec<Stream>,
    attempts: HashMap<String, u32>,
    gates: HashSet<String>,
    /// Raised by a reset, so that answers of before are not written into the lists of after.
    epoch: u64,
}

/// One answer in the making.
struct Stream {
    request: usize,
    prompt: String,
    opened_ms: f64,
    events: usize,
    last_event: String,
    last_event_ms: f64,
    /// Whether the peer closed before the end, and when that was seen; `None` while the answer runs.
    end: Option<(bool, f64)>,
}

#[derive(Default)]
pub(crate) struct Records(Mutex<State>);

/// Names one stream of the records.
#[derive(Clone, Copy)]
pub(crate) struct StreamId {
    epoch: u64,
    index: usize,
}

impl Records {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a request of the model's side; its number counts from 0.
    pub(crate) fn request(&self, request: &Request) -> usize {
        let body = serde_json::from_slice::<Value>(&request.body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&request.body).into_owned()));
        let headers: serde_json::Map<_, _> =
            request.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let mut state = self.state();
        let number = state.requests.len();
        state.requests.push(json!({
            "number": number, "at_ms": now(), "method": request.method, "path": request.path,
            "headers": headers, "bytes": request.body.len(), "body": body,
        }));
        number
    }

    /// How often this prompt of this thread was asked before.
    pub(crate) fn attempt(&self, key: &str) -> u32 {
        let mut state = self.state();
        let count = state.attempts.entry(key.to_owned()).or_default();
        *count += 1;
        *count - 1
    }

    /// An answer begins.
    pub(crate) fn open(&self, request: usize, prompt: &str) -> StreamId {
        let mut state = self.state();
        let prompt = prompt.chars().take(120).collect();
        state.streams.push(Stream {
            request,
            prompt,
            opened_ms: now(),
            events: 0,
            last_event: String::new(),
            last_event_ms: now(),
            end: None,
        });
        StreamId { epoch: state.epoch, index: state.streams.len() - 1 }
    }

    fn stream(&self, id: StreamId, change: impl FnOnce(&mut Stream)) {
        let mut state = self.state();
        if state.epoch == id.epoch
            && let Some(stream) = state.streams.get_mut(id.index)
        {
            change(stream);
        }
    }

    /// An event was written.
    pub(crate) fn event(&self, id: StreamId, name: &str) {
        self.stream(id, |stream| {
            stream.events += 1;
            name.clone_into(&mut stream.last_event);
            stream.last_event_ms = now();
        });
    }

    /// The answer is over; `early` when the peer closed before its end.
    pub(crate) fn close(&self, id: StreamId, early: bool) {
        self.stream(id, |stream| stream.end = Some((early, now())));
    }

    /// Whether somebody opened the gate `name`.
    pub(crate) fn gate(&self, name: &str) -> bool {
        self.state().gates.contains(name)
    }

    pub(crate) fn open_gate(&self, name: &str) {
        self.state().gates.insert(name.to_owned());
    }

    pub(crate) fn reset(&self) {
        let mut state = self.state();
        let epoch = state.epoch + 1;
        *state = State { epoch, ..State::default() };
    }

    /// The JSON of `GET /requests`, from number `since` on.
    pub(crate) fn requests(&self, since: usize) -> Value {
        Value::Array(self.state().requests.iter().skip(since).cloned().collect())
    }

    /// The JSON of `GET /connections`.
    pub(crate) fn connections(&self) -> Value {
        let state = self.state();
        let (mut open, mut finished) = (Vec::new(), Vec::new());
        for stream in &state.streams {
            let mut about = json!({
                "request": stream.request, "prompt": stream.prompt, "opened_ms": stream.opened_ms, "events": stream.events,
                "last_event": stream.last_event, "last_event_ms": stream.last_event_ms,
            });
            match stream.end {
                None => open.push(about),
                Some((early, at)) => {
                    about["early"] = json!(early);
                    about["closed_ms"] = json!(at);
                    about["after_last_event_ms"] = json!(at - stream.last_event_ms);
                    finished.push(about);
                }
            }
        }
        json!({ "open": open, "finished": finished })
    }
}
