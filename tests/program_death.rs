//! Codex dies, does not start, or is not there: what clients see of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};

mod support;

use support::process::memory;
use support::{Connection, PATIENCE, PROTOCOLS, Proxy, Response, Stream, model, until};

/// The error at the end of a stream, which `[DONE]` follows.
#[track_caller]
fn last_error(answer: &Response) -> Value {
    let events = answer.events();
    let [.., error, done] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(done, "[DONE]");
    assert!(!answer.text().contains("\"finish_reason\":\"stop\""), "{}", answer.text());
    serde_json::from_str::<Value>(error).unwrap()["error"].clone()
}

#[test]
fn codex_killed_under_16_streams_ends_each_cleanly_and_comes_back() {
    for version in PROTOCOLS {
        let proxy = Proxy::version(version).env("PROXY_SSE_MAX_CONCURRENCY", "0").file("seen", "").start();
        let mut streams: Vec<Stream> =
            (0..16).map(|n| proxy.open(&format!("[[say number-{n} b c]] [[hang]]"))).collect();
        for stream in &mut streams {
            stream.until("c\"}");
        }
        let wholes: Vec<_> = (0..4).map(|_| proxy.begin("[[hang]]", false)).collect();
        // One whose turn has not begun would move on to the next codex.
        until("all turns have begun", PATIENCE, || proxy.calls("turn/start") == 20);
        let codex = proxy.app_server();
        let killed = Instant::now();
        codex.kill();
        for (n, stream) in streams.iter_mut().enumerate() {
            stream.rest();
            assert!(stream.complete);
            assert_eq!(stream.answer.streamed_text(), format!("number-{n} b c"));
            assert_eq!(last_error(&stream.answer)["code"], "backend_unavailable");
        }
        println!("16 streams were over {} ms after the kill", killed.elapsed().as_millis());
        assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
        for mut whole in wholes {
            let answer = whole.response(PATIENCE);
            assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("backend_unavailable")));
            assert!(answer.header("retry-after").is_some());
        }
        // The connections are still good, and the next codex serves them.
        let stream = &mut streams[0];
        stream.connection.post("/v1/chat/completions", &support::proxy::ask("again", false));
        assert_eq!(stream.connection.response(PATIENCE).json()["choices"][0]["message"]["content"], "again");
        println!("served again {} ms after the kill", killed.elapsed().as_millis());
        assert_ne!(proxy.app_server(), codex);
    }
}

#[test]
fn requests_that_come_while_codex_is_away_wait_and_are_served() {
    for version in PROTOCOLS {
        let proxy = Proxy::version(version).start();
        proxy.home.write("faults", "late=initialize:600");
        proxy.app_server().kill();
        let begun = Instant::now();
        until("it is seen", PATIENCE, || proxy.ready().status == 503);
        let mut waiting: Vec<_> = ["one", "two", "three", "four"].map(|word| (word, proxy.begin(word, false))).into();
        for (word, connection) in &mut waiting {
            let answer = connection.response(PATIENCE);
            assert_eq!(answer.json()["choices"][0]["message"]["content"], *word, "{}", answer.text());
        }
        assert!(begun.elapsed() >= Duration::from_millis(600), "{:?}", begun.elapsed());
    }
}

#[test]
fn codex_that_dies_at_every_start_is_started_until_it_lives() {
    let proxy = Proxy::fake().env("PROXY_QUEUE_MS", "300").faults("exit-at-start").listening();
    until("the reason is known", PATIENCE, || proxy.reason().contains("scripted failure at start"));
    assert_eq!(proxy.ready().status, 503);
    let begun = Instant::now();
    let answer = proxy.post("/v1/chat/completions", &support::proxy::ask("x", true));
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("backend_unavailable")));
    assert!(answer.text().contains("scripted failure at start") && answer.text().contains("PROXY_QUEUE_MS"));
    assert!(answer.header("retry-after").is_some());
    let answer = proxy.get("/v1/models");
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("backend_unavailable")));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    for path in ["/healthz", "/livez"] {
        assert_eq!(proxy.get(path).status, 200);
    }
    until("it has been tried often", PATIENCE, || proxy.book("starts").len() >= 4);
    proxy.home.write("faults", "");
    proxy.wait_until_ready(PATIENCE);
    assert_eq!(proxy.chat("hi").status, 200);
}

#[test]
fn a_codex_that_is_missing_is_used_soon_after_it_appears() {
    let bin = support::TempDir::new();
    let path = bin.path().join("codex");
    let proxy = Proxy::fake().env("CODEX_BIN", &path).env("PROXY_QUEUE_MS", "50").listening();
    until("the reason is known", PATIENCE, || proxy.reason().contains("CODEX_BIN"));
    assert!(!proxy.ready().text().contains(&*bin.path().to_string_lossy()), "{}", proxy.ready().text());
    assert_eq!((proxy.ready().status, proxy.chat("x").status, proxy.get("/healthz").status), (503, 503, 200));
    until("it was tried often", PATIENCE, || proxy.gauge("app_server_starts_total") >= 7);
    std::os::unix::fs::symlink(model::example("fake-codex"), &path).unwrap();
    proxy.wait_until_ready(Duration::from_secs(2));
    assert_eq!(proxy.chat("x").status, 200);
}

#[test]
fn a_codex_without_a_place_for_its_home_is_back_within_a_second_of_there_being_one() {
    let place = support::TempDir::new();
    place.write("disk", "");
    let (home, temporary) = (place.path().join("disk/home"), place.path().join("disk/tmp"));
    let proxy = Proxy::fake().env("CODEX_HOME", home).env("TMPDIR", temporary).listening();
    until("it was tried often", PATIENCE, || proxy.gauge("app_server_starts_total") >= 8);
    assert!(proxy.reason().contains("make one of them writable"), "{}", proxy.reason());
    std::fs::remove_file(place.path().join("disk")).unwrap();
    std::fs::create_dir(place.path().join("disk")).unwrap();
    proxy.wait_until_ready(Duration::from_secs(1));
}

#[test]
fn a_dead_codex_whose_output_somebody_holds_open_is_given_up() {
    let proxy = Proxy::fake().env("PROXY_IDLE_TIMEOUT_MS", "300").faults("heir").start();
    let mut stream = proxy.open("[[say a]] [[hang]]");
    stream.until("a\"}");
    // The one that takes over has no heir.
    proxy.home.write("faults", "none");
    proxy.app_server().kill();
    assert_eq!(last_error(stream.rest())["code"], "timeout");
    // Its interrupt has no effect, and that is noticed after two seconds.
    until("another serves", Duration::from_secs(5), || proxy.chat("hi").status == 200);
    // The dead one is no reason against a planned change.
    let starts = proxy.gauge("app_server_starts_total");
    proxy.home.write("auth.json", "{}");
    until("the next takes over", PATIENCE, || proxy.gauge("app_server_starts_total") > starts);
}

#[test]
fn a_catalog_whose_output_somebody_holds_open_is_done_without() {
    let proxy = Proxy::fake().faults("debug-heir").listening();
    proxy.wait_until_ready(Duration::from_secs(8));
    assert!(proxy.process.stderr().contains("was not done after 5000 ms"), "{}", proxy.process.stderr());
}

#[test]
fn a_codex_that_dies_in_the_middle_of_a_line_leaves_no_half_of_it() {
    for version in PROTOCOLS {
        let proxy = Proxy::version(version).start();
        let answer = proxy.stream("[[say a b c]] [[gap 30]] [[die-in-line]]");
        assert_eq!(answer.streamed_text(), "a b c");
        assert_eq!(last_error(&answer)["code"], "backend_unavailable");
        assert_eq!(proxy.chat("next").status, 200);
        let plain = proxy.chat("[[die]] [[say x]]");
        assert_eq!((plain.status, &plain.json()["error"]["code"]), (503, &json!("backend_unavailable")));
    }
}

#[test]
fn a_request_that_reached_no_model_moves_on_to_the_next_codex_and_one_that_may_have_does_not() {
    let [new, old] = PROTOCOLS;
    for (version, method, status) in [
        (new, "thread/start", 200),
        (new, "thread/inject_items", 200),
        (new, "turn/start", 503),
        (new, "thread/unsubscribe", 200),
        (old, "newConversation", 200),
        (old, "addConversationListener", 200),
        (old, "sendUserMessage", 503),
        (old, "removeConversationListener", 200),
    ] {
        let proxy = Proxy::version(version).faults(&format!("die={method}")).start();
        proxy.home.write("faults", "");
        let answer = proxy.chat("moved");
        assert_eq!(answer.status, status, "{method}: {}", answer.text());
        until("another was started", PATIENCE, || proxy.gauge("app_server_starts_total") == 2);
        assert_eq!(proxy.chat("next").status, 200);
    }
}

#[test]
fn whenever_codex_dies_a_request_has_an_end_and_the_next_is_served() {
    // From the first line that it reads to the last of a turn, those of the start among them.
    let points = PROTOCOLS.iter().zip([8, 8]);
    for (version, lines) in points.flat_map(|(version, last)| (1..=last).map(move |lines| (version, lines))) {
        let proxy = Proxy::version(version).faults(&format!("exit-after={lines}")).listening();
        let mut waiting = proxy.begin("waiting", false);
        until("one has died", PATIENCE, || {
            proxy.process.stderr().contains("app-server died") || proxy.gauge("app_server_starts_total") > 1
        });
        proxy.home.write("faults", "");
        let answer = waiting.response(PATIENCE);
        let told = (answer.status, answer.json()["error"]["code"].clone());
        assert!(
            [(200, Value::Null), (503, json!("backend_unavailable"))].contains(&told),
            "{version} {lines}: {told:?}"
        );
        // The one that took over may still have been of that kind.
        until("the next is served", PATIENCE, || proxy.chat("next").status == 200);
        proxy.wait_until_ready(PATIENCE);
        proxy.wait_until_running(0, PATIENCE);
    }
}

#[test]
fn a_codex_that_refuses_the_handshake_is_ended_and_named() {
    for version in PROTOCOLS {
        let proxy = Proxy::version(version).env("PROXY_QUEUE_MS", "200").faults("error=initialize:-32603").listening();
        until("the reason is known", PATIENCE, || proxy.reason().contains("scripted error of initialize"));
        assert_eq!((proxy.ready().status, proxy.chat("x").status), (503, 503));
        until("it was tried again", PATIENCE, || proxy.book("starts").len() >= 3);
        until("no old one is left", PATIENCE, || proxy.app_servers().len() <= 1);
        proxy.home.write("faults", "");
        proxy.wait_until_ready(PATIENCE);
        assert_eq!(proxy.chat("x").status, 200);
    }
}

#[test]
fn waiting_in_vain_costs_no_memory() {
    let proxy = Proxy::fake().env("CODEX_BIN", "/nonexistent").env("PROXY_QUEUE_MS", "1").listening();
    let ask = |count: usize| {
        let mut connection = Connection::open(proxy.address);
        for _ in 0..count {
            connection.get("/v1/models");
            assert_eq!(connection.response(PATIENCE).status, 503);
        }
        memory(proxy.process.pid(), "VmRSS:")
    };
    let before = ask(300);
    let after = ask(1500);
    assert!(after < before + 600, "{before} KB and later {after} KB");
}

#[test]
fn a_codex_that_does_not_answer_its_first_call_is_ended_and_named() {
    let proxy = Proxy::fake().env("PROXY_APP_SERVER_START_MS", "200").faults("mute=initialize").listening();
    until("the reason is known", PATIENCE, || proxy.reason().contains("PROXY_APP_SERVER_START_MS (200 ms)"));
    until("it was tried again", PATIENCE, || proxy.book("starts").len() >= 3);
    until("no old one is left", PATIENCE, || proxy.app_servers().len() <= 1);
    proxy.home.write("faults", "");
    proxy.wait_until_ready(PATIENCE);
}

#[test]
fn without_its_catalog_codex_serves_with_a_warning() {
    let proxy = Proxy::fake().faults("debug-fails").start();
    assert_eq!(proxy.chat("x").status, 200);
    assert!(proxy.process.stderr().contains("codex's own catalog is used"));
}
