//! How the program ends, and what it leaves behind.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io::ErrorKind;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

mod support;

use support::process::{Seen, descendants, wait_until_gone};
use support::proxy::ask;
use support::{Connection, PATIENCE, PROTOCOLS, Proxy, Response, TempDir, until};

/// The files that the program has in CODEX_HOME.
fn own_files(codex_home: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(codex_home.join("codex-completions")).unwrap();
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[track_caller]
fn no_home_is_left(codex_home: &Path) {
    let files = own_files(codex_home);
    assert!(files.iter().all(|name| name == "lock" || name.starts_with("catalog-")), "{files:?}");
}

fn refuses_connections(proxy: &Proxy) -> bool {
    TcpStream::connect(proxy.address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[track_caller]
fn ends_with_backend_unavailable(answer: &Response) {
    let events = answer.events();
    let [.., error, done] = events.as_slice() else { panic!("{events:?}") };
    assert!(error.contains("\"code\":\"backend_unavailable\"") && done == "[DONE]", "{events:?}");
}

#[test]
fn a_signal_lets_what_runs_end_and_takes_nothing_new() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut proxy = Proxy::fake().start();
        let family = descendants(proxy.process.pid());
        let mut stream = proxy.open("[[say a b c]] [[gate go]]");
        stream.until("a ");
        let mut whole = proxy.begin("[[gate go]] [[say x y]]", false);
        proxy.wait_until_running(2, PATIENCE);
        let mut idle = Connection::open(proxy.address);
        idle.get("/healthz");
        assert_eq!(idle.response(PATIENCE).status, 200);
        // Its head is complete only after the signal.
        let mut late = Connection::open(proxy.address);
        late.send("GET /rea");
        until("it is being read", PATIENCE, || !proxy.process.stderr().is_empty());
        proxy.process.signal(signal);
        until("nothing new is taken", PATIENCE, || refuses_connections(&proxy));
        assert!(idle.closed(PATIENCE));
        late.send("dyz HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let answer = late.read_to_end(PATIENCE);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 503 "), "{}", String::from_utf8_lossy(&answer));
        assert!(proxy.process.running());
        proxy.home.write("go", "");
        let answer = stream.rest();
        assert_eq!(answer.streamed_text(), "a b c");
        assert!(answer.text().ends_with("data: [DONE]\n\n") && stream.complete);
        let answer = whole.response(PATIENCE);
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        drop((stream, whole, late));
        let begun = Instant::now();
        assert_eq!(proxy.process.wait(PATIENCE).code(), Some(0));
        println!("ended {} ms after the last answer", begun.elapsed().as_millis());
        wait_until_gone(&family, Duration::from_millis(500));
        no_home_is_left(proxy.home.path());
        assert_eq!(proxy.process.rest_of_stdout(), "");
    }
}

#[test]
fn a_request_that_runs_may_start_its_other_choices_after_the_signal() {
    for stream in [false, true] {
        let mut proxy = Proxy::fake().env("PROXY_SSE_MAX_CONCURRENCY", "1").file("seen", "").start();
        let mut client = Connection::open(proxy.address);
        let mut body = ask("[[gate go]] [[say x]]", stream);
        body["n"] = json!(3);
        client.post("/v1/chat/completions", &body);
        until("its turn runs", PATIENCE, || proxy.calls("turn/start") == 1);
        proxy.process.signal(Signal::TERM);
        until("nothing new is taken", PATIENCE, || refuses_connections(&proxy));
        proxy.home.write("go", "");
        let answer = client.response(PATIENCE);
        assert_eq!((answer.status, answer.text().matches("\"finish_reason\":\"stop\"").count()), (200, 3));
        assert_eq!(proxy.calls("turn/start"), 3);
        drop(client);
        assert_eq!(proxy.process.wait(PATIENCE).code(), Some(0));
    }
}

#[test]
fn without_requests_the_end_comes_at_once() {
    let mut proxy = Proxy::fake().start();
    let begun = Instant::now();
    assert_eq!(proxy.stop(PATIENCE).code(), Some(0));
    println!("ended {} ms after the signal", begun.elapsed().as_millis());
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    no_home_is_left(proxy.home.path());
}

#[test]
fn who_waits_when_the_signal_comes_is_told_and_what_runs_is_cut_off_when_the_grace_is_over() {
    let mut proxy = Proxy::fake().env("PROXY_SSE_MAX_CONCURRENCY", "1").env("PROXY_SHUTDOWN_GRACE_MS", "400").start();
    let mut stream = proxy.open("[[say a]] [[hang]]");
    stream.until("a\"}");
    let mut waiting = proxy.begin("x", false);
    until("it waits", PATIENCE, || proxy.gauge("turns_waiting") == 1);
    let begun = Instant::now();
    proxy.process.signal(Signal::TERM);
    let answer = waiting.response(PATIENCE);
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (503, &json!("backend_unavailable")),
        "{}",
        answer.text()
    );
    ends_with_backend_unavailable(stream.rest());
    assert!(stream.complete && begun.elapsed() >= Duration::from_millis(400));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop((stream, waiting));
    assert_eq!(proxy.process.wait(PATIENCE).code(), Some(0));
    no_home_is_left(proxy.home.path());
}

#[test]
fn a_call_that_codex_does_not_answer_does_not_outlast_the_grace() {
    let calls = ["thread/start", "thread/inject_items", "turn/start", "newConversation", "sendUserMessage"];
    for (at, call) in calls.into_iter().enumerate() {
        let proxy = Proxy::version(PROTOCOLS[at / 3]).env("PROXY_SHUTDOWN_GRACE_MS", "300").file("seen", "");
        let mut proxy = proxy.faults(&format!("mute={call}")).start();
        let mut client = proxy.begin("x", false);
        until("codex is asked", PATIENCE, || proxy.calls(call) == 1);
        let begun = Instant::now();
        proxy.process.signal(Signal::TERM);
        let answer = client.response(PATIENCE);
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("backend_unavailable")), "{call}");
        drop(client);
        assert_eq!(proxy.process.wait(PATIENCE).code(), Some(0));
        println!("{call}: ended {} ms after the signal", begun.elapsed().as_millis());
        assert!(begun.elapsed() < Duration::from_secs(2), "{call}: {:?}", begun.elapsed());
        no_home_is_left(proxy.home.path());
    }
}

#[test]
fn a_second_signal_ends_everything_at_once() {
    let mut proxy = Proxy::fake().start();
    let mut stream = proxy.open("[[say a]] [[hang]]");
    stream.until("a\"}");
    proxy.process.signal(Signal::TERM);
    until("the first is heeded", PATIENCE, || refuses_connections(&proxy));
    let begun = Instant::now();
    proxy.process.signal(Signal::INT);
    ends_with_backend_unavailable(stream.rest());
    drop(stream);
    assert_eq!(proxy.process.wait(PATIENCE).code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    no_home_is_left(proxy.home.path());
}

#[test]
fn clients_and_codex_that_do_not_react_are_not_waited_for() {
    let mut proxy = Proxy::fake().env("PROXY_SHUTDOWN_GRACE_MS", "200").faults("ignore-eof ignore-term").start();
    let family = descendants(proxy.process.pid());
    // One that reads nothing, one that never sends its body, and a turn that minds no interrupt.
    let stuck = proxy.begin("[[deltas 20000]] [[size 1000]] [[hang]]", true);
    let mut half = Connection::open(proxy.address);
    half.send("POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{");
    let deaf = proxy.begin("[[hang]] [[interrupt-deaf]]", false);
    proxy.wait_until_running(2, PATIENCE);
    let begun = Instant::now();
    proxy.process.signal(Signal::TERM);
    assert_eq!(proxy.process.wait(PATIENCE).code(), Some(0));
    println!("ended {} ms after the signal", begun.elapsed().as_millis());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    wait_until_gone(&family, Duration::from_secs(1));
    no_home_is_left(proxy.home.path());
    drop((stuck, half, deaf));
}

#[test]
fn a_signal_while_codex_starts_ends_that_too() {
    for faults in [
        "mute=initialize",
        "late=initialize:5000",
        "exit-at-start",
        "ignore-eof ignore-term mute=initialize",
        "debug-hangs",
    ] {
        let mut proxy = Proxy::fake().faults(faults).listening();
        let started = |seen: &Seen| seen.arguments().iter().any(|argument| argument == "debug");
        until("it is being started", PATIENCE, || match faults {
            "debug-hangs" => descendants(proxy.process.pid()).iter().any(started),
            _ => !proxy.book("starts").is_empty(),
        });
        // It would be waited for until its client has closed.
        drop(proxy.begin("x", false));
        let begun = Instant::now();
        assert_eq!(proxy.stop(PATIENCE).code(), Some(0), "{faults}");
        println!("{faults}: ended {} ms after the signal", begun.elapsed().as_millis());
        assert!(begun.elapsed() < Duration::from_secs(4), "{faults}: {:?}", begun.elapsed());
        no_home_is_left(proxy.home.path());
    }
}

#[test]
fn a_kill_of_the_program_leaves_no_process_and_the_next_start_removes_its_home() {
    let home = TempDir::new();
    let start = || Proxy::fake().env("CODEX_HOME", home.path()).start();
    let mut killed = start();
    let mut stream = killed.open("[[say a]] [[hang]]");
    stream.until("a\"}");
    let family = descendants(killed.process.pid());
    assert_eq!(family.len(), 1);
    let begun = Instant::now();
    killed.process.signal(Signal::KILL);
    wait_until_gone(&family, Duration::from_secs(1));
    println!("codex was gone {} ms after the kill", begun.elapsed().as_millis());
    killed.process.wait(PATIENCE);
    let homes = |count: usize| own_files(home.path()).iter().filter(|name| name.starts_with("home-")).count() == count;
    assert!(homes(1));
    let mut next = start();
    assert!(homes(1), "{:?}", own_files(home.path()));
    // Another one beside it touches nothing.
    let mut beside = start();
    assert!(homes(2), "{:?}", own_files(home.path()));
    assert_eq!((next.chat("x").status, beside.chat("x").status), (200, 200));
    assert!(beside.stop(PATIENCE).success() && homes(1));
    assert_eq!(next.chat("x").status, 200);
    assert!(next.stop(PATIENCE).success());
    no_home_is_left(home.path());
}

#[test]
fn a_unix_socket_is_served_beside_the_port_and_removed() {
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    let directory = TempDir::new();
    let path = directory.path().join("socket");
    let mut proxy = Proxy::fake().env("PROXY_UNIX_SOCKET", &path).start();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut socket = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let body = ask("over a socket", false).to_string();
    let length = body.len();
    write!(
        socket,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("over a socket"), "{answer}");
    drop(socket);
    assert!(proxy.stop(PATIENCE).success());
    assert!(!path.exists());
}

#[test]
fn a_stderr_that_nobody_reads_stops_nothing() {
    let mut proxy = Proxy::fake().env("RUST_LOG", "trace").env("PROXY_DEBUG_APP_SERVER", "1").start();
    let reader = proxy.process.stderr_reader();
    let held = reader.lock().unwrap();
    // Each of them logs more than a pipe holds, and all together more than may wait.
    let long = "x".repeat(200_000);
    for _ in 0..30 {
        assert_eq!(proxy.chat(&long).status, 200);
    }
    proxy.process.signal(Signal::TERM);
    assert!(proxy.process.wait(PATIENCE).success());
    drop(held);
}
