//! Clients of all kinds while codex is killed, stopped, replaced and led astray at random: whatever happens, each request
//! has one well-formed end, and nothing is left.
//!
//! `CHAOS=MS` makes it longer, `SEED=N` makes the same choices again; a failure prints its seed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use codex_completions::threads;
use rustix::process::Signal;
use serde_json::{Value, json};

mod support;

use support::process::{Seen, descendants, descriptors, send, thread_names};
use support::proxy::ask;
use support::{Connection, PATIENCE, PROTOCOLS, Proxy, Response, holds, until};

/// The threads that stand while nothing runs (see `lib.rs`).
const STANDING: usize = 9;
const CLIENTS: u64 = 8;

/// What a prompt has the fake do beside its answer.
const TROUBLE: [&str; 16] = [
    "",
    "",
    "",
    "[[gap 3]]",
    "[[gap 10]]",
    "[[reason]]",
    "[[retry]]",
    "[[stutter 2]]",
    "[[garbage]]",
    "[[noise 20]]",
    "[[pause 40]]",
    "[[usage-late]]",
    "[[fail rateLimitExceeded]]",
    "[[grow 6]]",
    "[[stderr 200000]]",
    "[[line 3000000]]",
];

/// Faults of the next codex that do not end it.
const FAULTS: [&str; 5] = [
    "",
    "garbage",
    "stderr=300000 ignore-eof",
    "late=turn/start:30 late=newConversation:30",
    "overloaded=thread/start:2 overloaded=sendUserMessage:2",
];

/// Xorshift: the same choices for the same seed.
struct Choices(u64);

impl Choices {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }

    fn milliseconds(&mut self, limit: u64) -> Duration {
        Duration::from_millis(self.below(limit))
    }
}

/// What may go wrong for a client while codex comes and goes, with its code.
#[track_caller]
fn is_a_failure(status: u16, error: &Value) {
    let known = match status {
        400 => error["code"] == "unsupported_parameter",
        429 => error["code"] == "too_many_turns" || error["code"] == "rate_limit_exceeded",
        502 => error["code"] == "upstream_error",
        503 => error["code"] == "backend_unavailable" || error["code"] == "upstream_overloaded",
        504 => error["code"] == "timeout",
        // In a stream.
        200 => error["code"].is_string(),
        _ => false,
    };
    assert!(known && error["message"].is_string(), "{status} {error}");
}

#[track_caller]
fn whole(answer: &Response, said: &str) {
    let body = answer.json();
    if answer.status != 200 {
        return is_a_failure(answer.status, &body["error"]);
    }
    for choice in body["choices"].as_array().unwrap() {
        if choice["finish_reason"] == "tool_calls" {
            assert_eq!(choice["message"]["tool_calls"].as_array().unwrap().len(), 2, "{body}");
        } else {
            assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("stop"), &json!(said)));
        }
    }
}

/// One end: `finish_reason` or an error, then `[DONE]`; what came before it is of this request.
#[track_caller]
fn streamed(answer: &Response, said: &str) {
    if answer.status != 200 {
        return is_a_failure(answer.status, &answer.json()["error"]);
    }
    let (events, text) = (answer.events(), answer.streamed_text());
    let chunks: Vec<Value> = events.iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    let finished = chunks.iter().filter(|chunk| chunk["choices"][0]["finish_reason"].is_string()).count();
    let errors: Vec<&Value> = chunks.iter().map(|chunk| &chunk["error"]).filter(|error| error.is_object()).collect();
    errors.iter().for_each(|error| is_a_failure(200, error));
    assert_eq!((finished + errors.len(), events.last().map(String::as_str)), (1, Some("[DONE]")), "{events:?}");
    assert_eq!(events.len(), chunks.len() + 1, "{events:?}");
    assert!(said.starts_with(&text) && (finished == 0 || said == text || text.is_empty()), "{said:?}: {text:?}");
}

/// The same of `/v1/responses`: one event ends it, and their numbers have no gap.
#[track_caller]
fn responded(answer: &Response, said: &str) {
    if answer.status != 200 {
        return is_a_failure(answer.status, &answer.json()["error"]);
    }
    let shown = answer.text();
    let data = shown.lines().filter_map(|line| line.strip_prefix("data: {"));
    let events: Vec<Value> = data.map(|line| serde_json::from_str(&format!("{{{line}")).unwrap()).collect();
    assert!(events.iter().enumerate().all(|(n, event)| event["sequence_number"] == n), "{shown}");
    let ends = ["response.completed", "response.incomplete", "response.failed"];
    let ends: Vec<&Value> = events.iter().filter(|event| ends.iter().any(|end| event["type"] == *end)).collect();
    assert_eq!(ends.len(), 1, "{shown}");
    if ends[0]["type"] == "response.completed" {
        let message = ends[0]["response"]["output"].as_array().unwrap().last().unwrap();
        assert_eq!(message["content"][0]["text"], said, "{shown}");
    }
}

/// Asks until the time is over; returns how often.
fn client(address: SocketAddr, number: u64, mut choices: Choices, over: &AtomicBool, good: &AtomicUsize) -> usize {
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        count += 1;
        let said = format!("client {number} says {count} and no more");
        // Deaths make codex come back ever more slowly, so they are rare.
        let trouble = match choices.below(150) {
            0 => "[[die]]",
            1 => "[[die-in-line]]",
            _ => choices.one(&TROUBLE),
        };
        let prompt = format!("[[say {said}]] {trouble}");
        let mut connection = Connection::open(address);
        match choices.below(9) {
            // Some leave, at any time, and codex may not mind.
            0 | 1 => {
                let trouble = match choices.below(60) {
                    0 => "[[hang]] [[interrupt-lost]]",
                    _ => choices.one(&["[[gap 5]]", "[[hang]]", "[[request future/novelty]]", "[[deltas 5000]]"]),
                };
                connection.post("/v1/chat/completions", &ask(&format!("{prompt} {trouble}"), choices.below(2) == 0));
                std::thread::park_timeout(choices.milliseconds(60));
            }
            2 => slow(&mut connection, &mut choices),
            3 => {
                let play = ask("[[play 0.169.0-v2/04-tools-two-calls-then-interrupt.jsonl]]", false);
                let tool = json!({ "type": "function", "function": { "name": "get_weather", "parameters": {} } });
                let body = json!({ "messages": play["messages"], "tools": [tool] });
                connection.post("/v1/chat/completions", &body);
                whole(&connection.response(PATIENCE), "");
            }
            4 => {
                let mut body = ask(&prompt, false);
                body["n"] = 3.into();
                connection.post("/v1/chat/completions", &body);
                check(&mut connection, |answer| whole(answer, &said), good);
            }
            5 => {
                connection.post("/v1/chat/completions", &ask(&prompt, false));
                check(&mut connection, |answer| whole(answer, &said), good);
            }
            6 => {
                connection.post("/v1/responses", &json!({ "model": "codex-5", "input": prompt, "stream": true }));
                check(&mut connection, |answer| responded(answer, &said), good);
            }
            _ => {
                connection.post("/v1/chat/completions", &ask(&prompt, true));
                check(&mut connection, |answer| streamed(answer, &said), good);
            }
        }
    }
    count
}

/// Checks an answer, and that the connection is good for another request after a good one.
fn check(connection: &mut Connection, is_right: impl Fn(&Response), good: &AtomicUsize) {
    let answer = connection.response(PATIENCE);
    is_right(&answer);
    if answer.status == 200 {
        good.fetch_add(1, Ordering::Relaxed);
        connection.get("/healthz");
        assert_eq!(connection.response(PATIENCE).json()["status"], "ok");
    }
}

/// Reads a long answer in small pieces.
fn slow(connection: &mut Connection, choices: &mut Choices) {
    connection.post("/v1/chat/completions", &ask("[[deltas 300]] [[size 300]]", true));
    connection.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut text, mut piece) = (Vec::new(), [0; 8192]);
    let ended =
        |text: &[u8]| text.ends_with(b"0\r\n\r\n") || (!text.starts_with(b"HTTP/1.1 200") && text.ends_with(b"}"));
    while !ended(&text) {
        let count = connection.stream.read(&mut piece).unwrap();
        assert!(count > 0, "cut off: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&piece[..count]);
        std::thread::park_timeout(choices.milliseconds(5));
    }
    let text = String::from_utf8(text).unwrap();
    let ends = text.matches("\"finish_reason\":\"").count() + text.matches("\"error\":{").count();
    assert_eq!(ends, 1, "{text}");
}

/// Disturbs codex until the time is over.
fn disturb(proxy: &Proxy, mut choices: Choices, end: Instant) {
    let mut number = 0;
    while Instant::now() < end {
        std::thread::park_timeout(choices.milliseconds(120));
        let servers = proxy.app_servers();
        match choices.below(24) {
            0 => servers.iter().for_each(|codex| codex.kill()),
            // A short halt nobody has to find; a long one is found.
            1..4 => {
                servers.iter().for_each(|codex| send(codex.pid, Signal::STOP));
                std::thread::park_timeout(choices.milliseconds(300));
                servers.iter().for_each(|codex| send(codex.pid, Signal::CONT));
            }
            4 => proxy.home.write("faults", choices.one(&["exit-at-start", "die=turn/start", "exit-after=30"])),
            5..14 => proxy.home.write("faults", choices.one(&FAULTS)),
            _ => {
                number += 1;
                proxy.home.write("auth.json", &format!("{{\"number\": {number}}}"));
            }
        }
    }
    proxy.home.write("faults", "");
    proxy.app_servers().iter().for_each(|codex| send(codex.pid, Signal::CONT));
}

/// The files that the program keeps in CODEX_HOME.
fn own_files(proxy: &Proxy, start: &str) -> Vec<String> {
    let entries = std::fs::read_dir(proxy.home.path().join("codex-completions")).unwrap();
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(start)).collect()
}

#[track_caller]
fn chaos(version: &'static str, seed: u64, time: Duration) {
    let proxy = Proxy::version(version).env("PROXY_IDLE_TIMEOUT_MS", "700").env("PROXY_STREAM_OPEN_MS", "100");
    let mut proxy =
        proxy.env("PROXY_APP_SERVER_GROWTH_MB", "16").env("RUST_LOG", "info").file("auth.json", "{}").start();
    let pid = proxy.process.pid();
    until("only the standing threads run", PATIENCE, || thread_names(pid).len() == STANDING);
    let before = descriptors(pid);
    let (over, good) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (1..=CLIENTS)
        .map(|number| {
            let (over, good, address) = (Arc::clone(&over), Arc::clone(&good), proxy.address);
            let choices = Choices(seed.wrapping_mul(2 * number + 1) | 1);
            threads::spawn("client", move || client(address, number, choices, &over, &good)).unwrap()
        })
        .collect();
    disturb(&proxy, Choices(seed), Instant::now() + time);
    over.store(true, Ordering::Relaxed);
    let asked: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    println!(
        "{version}: {asked} requests, {} good answers, {} starts",
        good.load(Ordering::Relaxed),
        proxy.gauge("app_server_starts_total")
    );

    proxy.wait_until_running(0, PATIENCE);
    proxy.wait_until_ready(PATIENCE);
    assert_eq!(proxy.gauge("turns_waiting"), 0);
    until("one app-server is left", PATIENCE, || descendants(pid).len() == 1 && proxy.app_servers().len() == 1);
    assert_eq!(proxy.chat("after all").json()["choices"][0]["message"]["content"], "after all");
    let current = proxy.app_server();
    let started = proxy.book("starts");
    let started = started.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["pid"].as_u64().unwrap());
    let left = started.filter_map(|pid| Seen::read(u32::try_from(pid).unwrap())).filter(|seen| *seen != current);
    let left: Vec<Seen> =
        left.filter(|seen| seen.alive() && seen.arguments().iter().any(|a| a == "app-server")).collect();
    assert!(left.is_empty(), "{left:?}");
    until("only the home in use is left", PATIENCE, || own_files(&proxy, "home-").len() == 1);
    until("no word is left on the disk", PATIENCE, || !holds(proxy.home.path(), "and no more"));
    let names = own_files(&proxy, "");
    let known =
        |name: &String| ["home-", "catalog-", "lock", "installation_id"].iter().any(|start| name.starts_with(start));
    assert!(names.iter().all(known), "{names:?}");
    until("no thread and no descriptor is left", PATIENCE, || {
        thread_names(pid).len() == STANDING && descriptors(pid) == before
    });
    assert!(proxy.stop(PATIENCE).success());
    assert!(own_files(&proxy, "home-").is_empty());
    assert!(!proxy.process.stderr().contains("panicked"), "{}", proxy.process.stderr());
}

#[test]
fn whatever_happens_every_request_has_one_end_and_nothing_is_left() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let seed = number("SEED").unwrap_or_else(|| RandomState::new().hash_one(0) >> 16);
    println!("SEED={seed}");
    let time = Duration::from_millis(number("CHAOS").unwrap_or(2000));
    // And one of those between, that speak both or take no history.
    let between = Choices(seed | 1).one(&["0.44.0", "0.66.0", "0.92.0", "0.104.0", "0.121.0", "0.146.0"]);
    for version in PROTOCOLS.into_iter().chain([between]) {
        chaos(version, seed, time / 3);
    }
}
