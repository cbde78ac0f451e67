//! The app-server: reads requests, keeps the threads, starts turns.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use codex_completions::threads;
use serde_json::{Value, json};

use crate::ages::Age;
use crate::catalog;
use crate::faults::{self, Fate, Faults};
use crate::markers::Markers;
use crate::out::{Out, notification};
use crate::turn::{Tell, Turn, user_text};
use crate::voice::Voice;

#[derive(Default)]
struct Thread {
    prompt: String,
    /// Whether it is a conversation of v1, and whether its listener is there.
    conversation: (bool, bool),
    /// Where its words are on the disk.
    rollout: Option<PathBuf>,
    turn: Option<Running>,
}

/// A turn that runs: who tells it, and whether it minds interrupts, and answers them.
#[derive(Clone)]
struct Running {
    tell: Sender<Tell>,
    minds: bool,
    answers: bool,
}

#[derive(Default)]
struct State {
    initialized: bool,
    muted: Vec<String>,
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
    age: Age,
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
        if let Some(turn) = turn {
            let mut answer = message.clone();
            answer.as_object_mut().map(|answer| answer.remove("id"));
            let _ = turn.tell.send(Tell::Answer(answer.to_string()));
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
        let named = |name: &str| params[name].as_str();
        let thread_id = named("threadId").or(named("conversationId")).or(named("subscriptionId")).unwrap_or_default();
        if method == "initialize" {
            return self.initialize(id, params);
        }
        if !self.state().initialized {
            return self.out.error(id, -32600, "Not initialized");
        }
        if !self.age.knows(method) {
            return self.out.error(id, -32600, &self.age.unknown(method));
        }
        let account = || book("account.json", r#"{"account":null,"requiresOpenaiAuth":false}"#);
        match method {
            "getUserAgent" => self.out.result(id, &json!({ "userAgent": self.version }).to_string()),
            "getAuthStatus" => {
                let account: Value = serde_json::from_str(&account()).unwrap_or_default();
                let (method, required) = (&account["account"]["type"], &account["requiresOpenaiAuth"]);
                let status = json!({ "authMethod": method, "authToken": null, "requiresOpenaiAuth": required });
                self.out.result(id, &status.to_string());
            }
            "account/read" => self.out.result(id, &account()),
            "config/read" => self
                .out
                .result(id, &book("config.json", r#"{"config":{"model":null,"model_provider":null},"origins":{}}"#)),
            "model/list" => self.out.result(id, &catalog::model_list().to_string()),
            "thread/loaded/list" => {
                let loaded: Vec<String> = self.state().threads.keys().cloned().collect();
                self.out.result(id, &json!({ "data": loaded, "nextCursor": null }).to_string());
            }
            // Resumed from a history, a thread is a new one too.
            "thread/start" | "thread/resume" | "newConversation" => {
                self.start_thread(id, params, method == "newConversation")
            }
            _ if !self.state().threads.contains_key(thread_id) => {
                self.out.error(id, -32600, &format!("thread not found: {thread_id}"));
            }
            "addConversationListener" | "removeConversationListener" => {
                if let Some(thread) = self.state().threads.get_mut(thread_id) {
                    thread.conversation.1 = method == "addConversationListener";
                }
                self.out.result(id, &json!({ "subscriptionId": thread_id }).to_string());
            }
            "thread/inject_items" => {
                if let (Some(prompt), Some(thread)) =
                    (user_text(&params["items"]), self.state().threads.get_mut(thread_id))
                {
                    thread.prompt = prompt;
                }
                self.out.result(id, "{}");
            }
            "turn/start" | "sendUserMessage" | "sendUserTurn" => self.start_turn(id, thread_id, params),
            "turn/interrupt" | "interruptConversation" => self.interrupt(id, thread_id),
            _ => {
                self.state().threads.remove(thread_id);
                self.out.result(id, r#"{"status":"unsubscribed"}"#);
            }
        }
    }

    fn initialize(&self, id: &Value, params: &Value) {
        let muted = params["capabilities"]["optOutNotificationMethods"].as_array().filter(|_| self.age.can_mute());
        let muted = muted.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned));
        (self.state().muted, self.state().initialized) = (muted.collect(), true);
        let client = params["clientInfo"]["name"].as_str().unwrap_or("client");
        let agent = format!("{client}/{} (Fake 1.0; x86_64) fake ({client}; 0)", self.version);
        let home = std::env::var("CODEX_HOME").unwrap_or_default();
        let reply = json!({ "userAgent": agent, "codexHome": home, "platformFamily": "unix", "platformOs": "linux" });
        self.out.result(id, &reply.to_string());
        self.out.write(notification("remoteControl/status/changed", r#""status":"disabled""#).as_bytes());
    }

    fn start_thread(&self, id: &Value, params: &Value, conversation: bool) {
        let thread = format!("01a1fce7-0000-7000-8000-{:012x}", self.next());
        let kept = conversation || !self.age.has_ephemeral_threads() || params["ephemeral"] != true;
        let home = std::env::var_os("CODEX_HOME").filter(|_| kept).map(PathBuf::from);
        let rollout = home.map(|home| home.join("sessions/2026/11/21").join(format!("rollout-{thread}.jsonl")));
        // It begins with what the conversation is, before anything is said.
        if let Some(file) = &rollout {
            let _ = file.parent().map(std::fs::create_dir_all);
            let _ = std::fs::write(file, params.to_string());
        }
        let conversation = (conversation, false);
        let made = Thread { conversation, rollout: rollout.clone(), ..Thread::default() };
        self.state().threads.insert(thread.clone(), made);
        let model = params["model"].as_str().unwrap_or("fake-default");
        if conversation.0 {
            let reply = json!({ "conversationId": thread, "model": model, "rolloutPath": rollout });
            return self.out.result(id, &reply.to_string());
        }
        let about = json!({ "id": thread, "ephemeral": !kept, "modelProvider": "mock", "path": rollout, "turns": [] });
        self.out.result(id, &json!({ "thread": about, "model": model, "reasoningEffort": null }).to_string());
        self.out.write(notification("thread/started", &format!(r#""thread":{about}"#)).as_bytes());
    }

    fn start_turn(self: &Arc<Self>, id: &Value, thread_id: &str, params: &Value) {
        let turn = if self.age.names_turns() {
            format!("01a1fce7-1111-7000-8000-{:012x}", self.next())
        } else {
            "0".to_owned()
        };
        let (tell, told) = channel();
        let mut state = self.state();
        let muted = state.muted.clone();
        let Some(thread) = state.threads.get_mut(thread_id) else { return };
        let input = user_text(&params["input"]).or_else(|| user_text(&params["items"]));
        let empty = input.is_none() && !self.age.takes_empty_input();
        let prompt = input.unwrap_or_else(|| thread.prompt.clone());
        if let Some(file) = &thread.rollout {
            let _ = std::fs::write(file, params.to_string());
        }
        let markers = Markers::parse(match empty {
            true => "[[fail other]] [[message input must not be empty]] [[no-end]]",
            false => &prompt,
        });
        let (deaf, lost) = (markers.has("interrupt-deaf"), markers.has("interrupt-lost"));
        thread.turn = Some(Running { tell, minds: !deaf && !lost, answers: !deaf });
        let (conversation, listened) = thread.conversation;
        drop(state);
        let transcript = markers.get("play").map(str::to_owned).or_else(|| std::env::var("FAKE_CODEX_TRANSCRIPT").ok());
        let transcript = transcript.map(|file| (file, id.clone()));
        if transcript.is_none() && conversation {
            self.out.result(id, "{}");
        } else if transcript.is_none() {
            let turn = json!({ "id": turn, "items": [], "status": "inProgress", "error": null });
            self.out.result(id, &json!({ "turn": turn }).to_string());
        }
        if conversation && !listened {
            return;
        }
        let voice = Voice { thread: thread_id.to_owned(), turn, conversation, age: self.age, muted };
        let turn = Turn { voice, transcript, markers, tell: told, server: Arc::clone(self) };
        let _ = threads::spawn("turn", move || turn.play());
    }

    /// v2 answers at once, v1 when the turn has ended.
    fn interrupt(&self, id: &Value, thread_id: &str) {
        let thread = |state: &State| {
            let thread = state.threads.get(thread_id)?;
            Some((thread.turn.clone()?, thread.conversation.0))
        };
        let found = thread(&self.state());
        let Some((turn, conversation)) = found else {
            return self.out.error(id, -32600, "no active turn to interrupt");
        };
        if turn.answers && !conversation {
            self.out.result(id, "{}");
        }
        if turn.minds {
            let _ = turn.tell.send(Tell::Interrupt(conversation.then(|| id.clone())));
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
        eprintln!("Error: {}", faults::complaint().unwrap_or_else(|| "scripted failure at start".to_owned()));
        std::process::exit(1);
    }
    if faults.has("ignore-term") {
        let _ = ctrlc::set_handler(|| {});
    }
    if faults.has("heir") {
        faults::leave_an_heir()?;
    }
    let _ballast = vec![1_u8; usize::try_from(faults.number("ballast").unwrap_or(0) << 20).unwrap_or(0)];
    crate::flood_stderr(faults.number("stderr").unwrap_or(0));
    let (exit_after, deaf_after) = (faults.number("exit-after"), faults.number("deaf-after"));
    let ignore_eof = faults.has("ignore-eof");
    let version = std::env::var("FAKE_CODEX_VERSION").unwrap_or_else(|_| "0.169.0".to_owned());
    let state = Mutex::new(State { faults, ..State::default() });
    let age = Age::of(&std::env::var("FAKE_CODEX_SPEAKS").unwrap_or_else(|_| version.clone()));
    let server = Arc::new(Server { out: Out::new()?, state, count: AtomicU64::new(1), version, age });
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
        if deaf_after.is_some_and(|after| count >= after) {
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
