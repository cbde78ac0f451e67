//! The app-server: reads requests, keeps the threads, starts turns.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use codex_completions::threads;
use serde_json::{Value, json};

use crate::catalog;
use crate::faults::{self, Fate, Faults};
use crate::markers::Markers;
use crate::out::{Out, notification};
use crate::turn::{Tell, Turn, user_text};

#[derive(Default)]
struct Thread {
    prompt: String,
    /// The running turn: its id, who tells it, whether it minds interrupts, and their answer.
    turn: Option<(String, Sender<Tell>, bool, bool)>,
}

#[derive(Default)]
struct State {
    initialized: bool,
    threads: HashMap<String, Thread>,
    /// Which thread waits for the answer to which request of ours.
    asked: HashMap<u64, String>,
    faults: Faults,
}

pub(crate) struct Server {
    pub(crate) out: Out,
    state: Mutex<State>,
    count: AtomicU64,
    version: String,
}

impl Server {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    /// A number for a request of ours whose answer the turn of `thread` wants.
    pub(crate) fn ask(&self, thread: &str) -> u64 {
        let id = self.next();
        self.state().asked.insert(id, thread.to_owned());
        id
    }

    pub(crate) fn turn_ended(&self, thread: &str) {
        if let Some(thread) = self.state().threads.get_mut(thread) {
            thread.turn = None;
        }
    }

    /// One line from the client.
    fn receive(self: &Arc<Self>, line: &[u8]) {
        let Ok(message) = serde_json::from_slice::<Value>(line) else { return };
        let (id, method) = (&message["id"], message["method"].as_str());
        match method {
            None => self.answered(&message),
            Some(_) if id.is_null() => {}
            Some(method) => self.call(id, method, &message["params"]),
        }
    }

    fn answered(&self, message: &Value) {
        let mut state = self.state();
        let thread = message["id"].as_u64().and_then(|id| state.asked.remove(&id));
        let turn = thread.and_then(|thread| state.threads.get(&thread)?.turn.clone());
        if let Some((_, tell, ..)) = turn {
            let mut answer = message.clone();
            answer.as_object_mut().map(|answer| answer.remove("id"));
            let _ = tell.send(Tell::Answer(answer.to_string()));
        }
    }

    fn call(self: &Arc<Self>, id: &Value, method: &str, params: &Value) {
        let (fate, garbage) = {
            let mut state = self.state();
            (state.faults.fate(method), state.faults.has("garbage"))
        };
        if garbage {
            self.out.garbage();
        }
        match fate {
            Fate::Answer => self.answer(id, method, params),
            Fate::Mute => {}
            Fate::Twice => {
                self.answer(id, method, params);
                self.out.result(id, "{}");
            }
            Fate::Die => std::process::exit(5),
            Fate::Error(code, message) => self.out.error(id, code, &message),
            Fate::Late(milliseconds) => {
                let (server, id, method, params) = (Arc::clone(self), id.clone(), method.to_owned(), params.clone());
                let _ = threads::spawn("late", move || {
                    let (_keep, never) = channel::<()>();
                    let _ = never.recv_timeout(Duration::from_millis(milliseconds));
                    server.answer(&id, &method, &params);
                });
            }
        }
    }

    fn answer(self: &Arc<Self>, id: &Value, method: &str, params: &Value) {
        let thread_id = params["threadId"].as_str().unwrap_or_default();
        if method != "initialize" && !self.state().initialized {
            return self.out.error(id, -32600, "Not initialized");
        }
        match method {
            "initialize" => {
                self.state().initialized = true;
                let client = params["clientInfo"]["name"].as_str().unwrap_or("client");
                let agent = format!("{client}/{} (Fake 1.0; x86_64) fake ({client}; 0)", self.version);
                let home = std::env::var("CODEX_HOME").unwrap_or_default();
                let reply =
                    json!({ "userAgent": agent, "codexHome": home, "platformFamily": "unix", "platformOs": "linux" });
                self.out.result(id, &reply.to_string());
                self.out.write(notification("remoteControl/status/changed", r#""status":"disabled""#).as_bytes());
            }
            "account/read" => {
                self.out.result(id, &book("account.json", r#"{"account":null,"requiresOpenaiAuth":false}"#))
            }
            "config/read" => self
                .out
                .result(id, &book("config.json", r#"{"config":{"model":null,"model_provider":null},"origins":{}}"#)),
            "model/list" => self.out.result(id, &catalog::model_list().to_string()),
            "thread/loaded/list" => {
                let loaded: Vec<String> = self.state().threads.keys().cloned().collect();
                self.out.result(id, &json!({ "data": loaded, "nextCursor": null }).to_string());
            }
            "thread/start" => self.start_thread(id, params),
            _ if !self.state().threads.contains_key(thread_id) && method.starts_with("t") => {
                self.out.error(id, -32600, &format!("thread not found: {thread_id}"));
            }
            "thread/inject_items" => {
                if let (Some(prompt), Some(thread)) =
                    (user_text(&params["items"]), self.state().threads.get_mut(thread_id))
                {
                    thread.prompt = prompt;
                }
                self.out.result(id, "{}");
            }
            "turn/start" => self.start_turn(id, thread_id, params),
            "turn/interrupt" => self.interrupt(id, thread_id),
            "thread/unsubscribe" => {
                self.state().threads.remove(thread_id);
                self.out.result(id, r#"{"status":"unsubscribed"}"#);
            }
            _ => self.out.error(
                id,
                -32600,
                &format!("Invalid request: unknown variant `{method}`, expected one of `initialize`"),
            ),
        }
    }

    fn start_thread(&self, id: &Value, params: &Value) {
        let thread = format!("01a1fce7-0000-7000-8000-{:012x}", self.next());
        self.state().threads.insert(thread.clone(), Thread::default());
        let about = format!(
            r#""thread":{{"id":"{thread}","ephemeral":true,"modelProvider":"mock","status":{{"type":"idle"}},"turns":[]}}"#
        );
        let model = params["model"].as_str().unwrap_or("fake-default");
        self.out.result(id, &format!(r#"{{{about},"model":"{model}","modelProvider":"mock","reasoningEffort":null}}"#));
        self.out.write(notification("thread/started", &about).as_bytes());
    }

    fn start_turn(self: &Arc<Self>, id: &Value, thread_id: &str, params: &Value) {
        let turn_id = format!("01a1fce7-1111-7000-8000-{:012x}", self.next());
        let (sender, tell) = channel();
        let mut state = self.state();
        let Some(thread) = state.threads.get_mut(thread_id) else { return };
        let prompt = user_text(&params["input"]).unwrap_or_else(|| thread.prompt.clone());
        let markers = Markers::parse(&prompt);
        let (minds, answers) =
            (!markers.has("interrupt-deaf") && !markers.has("interrupt-lost"), !markers.has("interrupt-deaf"));
        thread.turn = Some((turn_id.clone(), sender, minds, answers));
        drop(state);
        self.out
            .result(id, &format!(r#"{{"turn":{{"id":"{turn_id}","items":[],"status":"inProgress","error":null}}}}"#));
        let turn = Turn { thread: thread_id.to_owned(), id: turn_id, markers, tell, server: Arc::clone(self) };
        let _ = threads::spawn("turn", move || turn.play());
    }

    fn interrupt(&self, id: &Value, thread_id: &str) {
        let turn = self.state().threads.get(thread_id).and_then(|thread| thread.turn.clone());
        match turn {
            None => self.out.error(id, -32600, "no active turn to interrupt"),
            Some((_, tell, minds, answers)) => {
                if answers {
                    self.out.result(id, "{}");
                }
                if minds {
                    let _ = tell.send(Tell::Interrupt);
                }
            }
        }
    }
}

/// A file that the test keeps for us, or else `default`.
fn book(name: &str, default: &str) -> String {
    let text = faults::directory().and_then(|directory| std::fs::read_to_string(directory.join(name)).ok());
    text.map_or_else(|| default.to_owned(), |text| text.replace('\n', " "))
}

/// Serves until stdin ends.
pub(crate) fn run() -> std::io::Result<()> {
    let faults = Faults::read();
    if faults.has("exit-at-start") {
        eprintln!("Error: scripted failure at start");
        std::process::exit(1);
    }
    if faults.has("ignore-term") {
        let _ = ctrlc::set_handler(|| {});
    }
    if faults.has("heir") {
        faults::leave_an_heir()?;
    }
    crate::flood_stderr(faults.number("stderr").unwrap_or(0));
    let (exit_after, deaf_after) = (faults.number("exit-after"), faults.number("deaf-after"));
    let (deaf, ignore_eof) = (faults.has("deaf"), faults.has("ignore-eof"));
    let version = std::env::var("FAKE_CODEX_VERSION").unwrap_or_else(|_| "0.169.0".to_owned());
    let state = Mutex::new(State { faults, ..State::default() });
    let server = Arc::new(Server { out: Out::new()?, state, count: AtomicU64::new(1), version });
    let mut seen =
        faults::directory().and_then(|directory| OpenOptions::new().append(true).open(directory.join("seen")).ok());
    let mut input = BufReader::with_capacity(65_536, std::io::stdin());
    let mut line = Vec::new();
    for count in 1.. {
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if let Some(seen) = &mut seen {
            seen.write_all(&line)?;
        }
        server.receive(&line);
        if exit_after.is_some_and(|after| count >= after) {
            std::process::exit(4);
        }
        // The handshake is two lines: the request and the notification.
        if deaf_after.is_some_and(|after| count >= after) || (deaf && count >= 2) {
            wait_for_ever();
        }
    }
    if ignore_eof {
        wait_for_ever();
    }
    std::process::exit(0)
}

pub(crate) fn wait_for_ever() {
    let (_keep, never) = channel::<()>();
    let _ = never.recv();
}
