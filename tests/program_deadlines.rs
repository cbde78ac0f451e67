//! How long things may take, and what a stream looks like before, while and after it waits.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};

mod support;

use support::proxy::ask;
use support::{PATIENCE, PROTOCOLS, Proxy, Response, until};

#[track_caller]
fn is_timeout(error: &Value, setting: &str) {
    assert_eq!(error["code"], "timeout", "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(setting), "{message}");
}

#[track_caller]
fn last_error(answer: &Response) -> Value {
    let events = answer.events();
    let [.., error, done] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(done, "[DONE]");
    serde_json::from_str::<Value>(error).unwrap()["error"].clone()
}

#[test]
fn a_turn_that_takes_too_long_ends_with_the_name_of_the_limit_and_is_interrupted() {
    let settings = ["PROXY_TIMEOUT_MS", "PROXY_IDLE_TIMEOUT_MS"];
    for (version, setting) in PROTOCOLS.iter().flat_map(|version| settings.map(|setting| (version, setting))) {
        let proxy = Proxy::version(version).env(setting, "300").file("seen", "").start();
        let words = format!("{setting} (300 ms)");
        for stream in [false, true] {
            let begun = Instant::now();
            let answer = proxy.post("/v1/chat/completions", &ask("[[hang]]", stream));
            assert!(begun.elapsed() >= Duration::from_millis(300));
            assert_eq!((answer.status, answer.header("x-should-retry")), (504, Some("false")), "{}", answer.text());
            assert_eq!(answer.header("retry-after"), None);
            is_timeout(&answer.json()["error"], &words);
            proxy.wait_until_running(0, Duration::from_millis(200));
        }
        let mut stream = proxy.open("[[say a b]] [[hang]]");
        let answer = stream.rest();
        assert_eq!(answer.streamed_text(), "a b");
        is_timeout(&last_error(answer), &words);
        assert!(!answer.text().contains("\"finish_reason\":\"") && stream.complete, "{}", stream.answer.text());
        until("codex was told", PATIENCE, || {
            proxy.calls("turn/interrupt") == 3 && proxy.calls("thread/unsubscribe") == 3
        });
        // Nothing was taken for a codex that does not react.
        assert_eq!((proxy.gauge("app_server_starts_total"), proxy.chat("x").status), (1, 200));
    }
}

#[test]
fn any_event_of_a_turn_is_a_sign_of_life_but_does_not_make_it_longer() {
    for version in PROTOCOLS {
        let proxy = Proxy::version(version).env("PROXY_IDLE_TIMEOUT_MS", "400").env("PROXY_TIMEOUT_MS", "1500").start();
        for prompt in ["[[say a b c d e f]] [[gap 150]]", "[[stutter 5]] [[gap 150]] [[say a]]"] {
            let begun = Instant::now();
            let answer = proxy.stream(prompt);
            assert!(answer.text().contains("\"finish_reason\":\"stop\""), "{}", answer.text());
            assert!(begun.elapsed() > Duration::from_millis(800));
        }
        let answer = proxy.chat("[[deltas 100]] [[gap 100]]");
        assert_eq!(answer.status, 504);
        is_timeout(&answer.json()["error"], "PROXY_TIMEOUT_MS (1500 ms)");
    }
}

#[test]
fn failures_before_the_first_output_have_a_status_and_later_ones_are_an_event() {
    let proxy = Proxy::fake().env("PROXY_STREAM_OPEN_MS", "250").start();
    for (fail, status, code, again) in [
        ("usageLimitExceeded", 429, json!("insufficient_quota"), Some("false")),
        ("rateLimitExceeded", 429, json!("rate_limit_exceeded"), None),
        ("unauthorized", 401, json!("upstream_unauthorized"), Some("false")),
        ("serverOverloaded", 503, json!("upstream_overloaded"), None),
        ("contextWindowExceeded", 400, json!("context_length_exceeded"), None),
        ("modelNotFound", 404, json!("model_not_found"), None),
        ("badRequest", 400, Value::Null, None),
        ("other", 502, json!("upstream_error"), None),
        ("responseTooManyFailedAttempts 429", 429, json!("rate_limit_exceeded"), None),
        ("httpConnectionFailed 500", 502, json!("upstream_error"), None),
    ] {
        for (stream, end) in [(false, ""), (true, ""), (true, "[[no-end]]")] {
            let answer = proxy.post("/v1/chat/completions", &ask(&format!("[[fail {fail}]] {end}"), stream));
            assert_eq!((answer.status, &answer.json()["error"]["code"]), (status, &code), "{}", answer.text());
            assert_eq!(answer.header("x-should-retry"), again);
            assert_eq!(answer.header("retry-after").is_some(), status == 503);
        }
    }
    // Up to 0.57 there are no names for them, only words.
    let old = Proxy::version(PROTOCOLS[1]).env("PROXY_STREAM_OPEN_MS", "250").start();
    for (words, status, code) in [
        ("exceeded retry limit, last status: 429 Too Many Requests", 429, json!("rate_limit_exceeded")),
        ("You've hit your usage limit. Try again later.", 429, json!("insufficient_quota")),
        ("exceeded retry limit, last status: 401 Unauthorized", 401, json!("upstream_unauthorized")),
        ("unexpected status 503 Service Unavailable: x", 503, json!("upstream_overloaded")),
        ("stream disconnected before completion: x", 502, json!("upstream_error")),
    ] {
        for (stream, end) in [(false, ""), (true, ""), (true, "[[no-end]]")] {
            let prompt = format!("[[fail other]] [[message {words}]] {end}");
            let answer = old.post("/v1/chat/completions", &ask(&prompt, stream));
            assert_eq!((answer.status, &answer.json()["error"]["code"]), (status, &code), "{}", answer.text());
        }
    }
    for proxy in [proxy, old] {
        let message = "[[message unexpected status 503 Service Unavailable: x]]";
        let late = proxy.stream(&format!("[[pause 500]] [[fail serverOverloaded]] {message}"));
        assert_eq!((late.status, late.header("content-type")), (200, Some("text/event-stream")));
        assert_eq!(last_error(&late)["code"], "upstream_overloaded");
        let message = "[[message exceeded retry limit, last status: 429 Too Many Requests]]";
        let after_text = proxy.stream(&format!("[[say a b]] [[gap 20]] [[fail rateLimitExceeded]] {message}"));
        assert_eq!((after_text.status, after_text.streamed_text().as_str()), (200, "a b"));
        assert_eq!(last_error(&after_text)["code"], "rate_limit_exceeded");
    }
}

#[test]
fn the_head_of_a_stream_comes_at_once_where_that_is_wanted() {
    let proxy = Proxy::fake().env("PROXY_STREAM_OPEN_MS", "0").env("PROXY_SSE_MAX_CONCURRENCY", "1").start();
    let begun = Instant::now();
    let mut stream = proxy.open("[[hang]]");
    assert_eq!(stream.answer.header("x-accel-buffering"), Some("no"));
    assert_eq!(stream.answer.header("cache-control"), Some("no-cache"));
    stream.until("\"role\":\"assistant\"");
    assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());
    // One that waits for a permit has no head before its turn begins.
    let mut waiting = proxy.begin("[[fail serverOverloaded]]", true);
    until("it waits", PATIENCE, || proxy.gauge("turns_waiting") == 1);
    drop(stream);
    assert_ne!(waiting.head(PATIENCE).status, 429);
}

#[test]
fn a_silent_stream_gets_signs_of_life_in_the_form_that_was_chosen() {
    let talk = |form: &str, time: &str| {
        let proxy = Proxy::fake().env("PROXY_SSE_KEEPALIVE", form).env("PROXY_SSE_KEEPALIVE_MS", time);
        let answer = proxy.env("PROXY_STREAM_OPEN_MS", "0").start().stream("[[pause 400]] [[say a b]]");
        assert_eq!(answer.streamed_text(), "a b");
        let blocks: Vec<String> = answer.text().split("\n\n").map(str::to_owned).collect();
        assert!(blocks.iter().all(|block| !block.contains("id:") || block.starts_with("data: {")), "{blocks:?}");
        let comments = blocks.iter().filter(|block| block.starts_with(':')).count();
        let empty = answer.events().into_iter().filter_map(|event| serde_json::from_str::<Value>(&event).ok());
        let empty = empty.filter(|chunk| {
            chunk["choices"][0]["delta"] == json!({}) && chunk["choices"][0]["finish_reason"].is_null()
        });
        (comments, empty.count())
    };
    let (comments, chunks) = talk("comment", "50");
    assert!((2..=8).contains(&comments) && chunks == 0, "{comments} {chunks}");
    let (comments, chunks) = talk("chunk", "50");
    assert!((2..=8).contains(&chunks) && comments == 0, "{comments} {chunks}");
    for (form, time) in [("off", "50"), ("comment", "0"), ("chunk", "0")] {
        assert_eq!(talk(form, time), (0, 0), "{form} {time}");
    }
}
