//! One codex takes over from another: grown, made from files that changed, wedged. No request notices a planned change.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use codex_completions::threads;
use rustix::process::Signal;
use serde_json::{Value, json};

mod support;

use support::process::{Seen, send};
use support::{PATIENCE, PROTOCOLS, Proxy, TempDir, model, until};

#[track_caller]
fn hello(proxy: &Proxy, text: &str) {
    let answer = proxy.chat(text);
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), proxy.process.stderr());
}

#[track_caller]
fn wait_for_starts(proxy: &Proxy, starts: u64, limit: Duration) {
    until(&format!("{starts} starts"), limit, || proxy.gauge("app_server_starts_total") == starts);
}

/// Waits until exactly one app-server and one home are left, and it is not `old`.
#[track_caller]
fn wait_for_the_next(proxy: &Proxy, old: &Seen, limit: Duration) {
    until("only the next one is left", limit, || {
        let servers = proxy.app_servers();
        servers.len() == 1 && servers[0] != *old && homes(proxy.home.path()) == 1
    });
}

fn homes(codex_home: &Path) -> usize {
    let entries = std::fs::read_dir(codex_home.join("codex-completions")).unwrap();
    entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("home-")).count()
}

/// Asks again and again until told to stop; the time that the slowest answer took.
fn load(proxy: &Proxy, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<(u32, Duration)> {
    let (address, stop) = (proxy.address, Arc::clone(stop));
    threads::spawn("load", move || {
        let (mut count, mut slowest) = (0, Duration::ZERO);
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let answer =
                support::client::post(address, "/v1/chat/completions", &support::proxy::ask("[[gap 2]] a b c", true));
            assert_eq!((answer.status, answer.streamed_text().as_str()), (200, "a b c"), "{}", answer.text());
            (count, slowest) = (count + 1, slowest.max(begun.elapsed()));
        }
        (count, slowest)
    })
    .unwrap()
}

#[test]
fn a_codex_that_has_grown_is_replaced_while_a_long_stream_ends_on_it() {
    for (growth, why) in [("[[grow 64]] x", "memory has grown"), ("[[disk 65]] x", "log on disk has grown")] {
        let proxy = Proxy::fake().env("PROXY_APP_SERVER_GROWTH_MB", "32").start();
        hello(&proxy, "what a fresh one takes is known after its first answer");
        until("it was measured", PATIENCE, || proxy.process.stderr().contains("app-server 1: "));
        let old = proxy.app_server();
        let mut stream = proxy.open("[[say first second third]] [[gate open]]");
        stream.until("first");
        let stop = Arc::new(AtomicBool::new(false));
        let load = load(&proxy, &stop);
        hello(&proxy, growth);
        wait_for_starts(&proxy, 2, PATIENCE);
        until("the new one serves", PATIENCE, || {
            proxy.app_servers().len() == 2 && proxy.process.stderr().contains("app-server 2 is ready")
        });
        assert!(proxy.process.stderr().contains(why), "{}", proxy.process.stderr());
        hello(&proxy, "on the new one");
        assert!(old.alive(), "the old one finishes its turns");
        proxy.home.write("open", "");
        let answer = stream.rest();
        assert_eq!(answer.streamed_text(), "first second third");
        assert!(answer.text().contains("\"finish_reason\":\"stop\"") && stream.complete);
        wait_for_the_next(&proxy, &old, Duration::from_secs(3));
        stop.store(true, Ordering::Relaxed);
        let (count, slowest) = load.join().unwrap();
        assert!(count > 0 && slowest < Duration::from_secs(1), "{slowest:?}");
    }
}

#[test]
fn replacements_under_load_fail_no_request() {
    for version in PROTOCOLS {
        let proxy = Proxy::version(version).env("PROXY_APP_SERVER_GROWTH_MB", "16").start();
        hello(&proxy, "fresh");
        until("it was measured", PATIENCE, || proxy.process.stderr().contains("app-server 1: "));
        let stop = Arc::new(AtomicBool::new(false));
        let loads: Vec<_> = (0..3).map(|_| load(&proxy, &stop)).collect();
        until("three were replaced", PATIENCE, || {
            hello(&proxy, "[[grow 12]] x");
            proxy.gauge("app_server_starts_total") >= 4
        });
        stop.store(true, Ordering::Relaxed);
        let results: Vec<_> = loads.into_iter().map(|load| load.join().unwrap()).collect();
        println!("answers and slowest, while three were replaced: {results:?}");
        until("one is left", Duration::from_secs(5), || {
            proxy.app_servers().len() == 1 && homes(proxy.home.path()) == 1
        });
    }
}

#[test]
fn a_codex_that_takes_more_memory_than_the_one_before_it_has_not_grown() {
    let bin = TempDir::new();
    let codex = bin.path().join("codex");
    std::fs::copy(model::example("fake-codex"), &codex).unwrap();
    let proxy = Proxy::fake().env("CODEX_BIN", &codex).env("PROXY_APP_SERVER_GROWTH_MB", "32").start();
    let measured = |number: u64, times: usize| {
        until("it was measured", PATIENCE, || {
            hello(&proxy, "x");
            proxy.process.stderr().matches(&format!("app-server {number}: ")).count() >= times
        });
    };
    measured(1, 1);
    let old = proxy.app_server();
    proxy.home.write("faults", "ballast=64");
    std::fs::copy(&codex, bin.path().join("next")).unwrap();
    std::fs::rename(bin.path().join("next"), &codex).unwrap();
    wait_for_the_next(&proxy, &old, PATIENCE);
    measured(2, 2);
    assert!(!proxy.process.stderr().contains("has grown"), "{}", proxy.process.stderr());
    // Nor are those after it compared with the first.
    proxy.app_server().kill();
    wait_for_starts(&proxy, 3, PATIENCE);
    measured(3, 2);
    assert!(!proxy.process.stderr().contains("has grown"), "{}", proxy.process.stderr());
}

#[test]
fn changed_credentials_configuration_or_binary_are_in_use_within_two_seconds() {
    let bin = TempDir::new();
    let codex = bin.path().join("codex");
    std::fs::copy(model::example("fake-codex"), &codex).unwrap();
    let proxy = Proxy::fake().env("CODEX_BIN", &codex).start();
    let stop = Arc::new(AtomicBool::new(false));
    let load = load(&proxy, &stop);
    let mut starts = 1;
    let mut changed = |what: &str| {
        let (old, begun) = (proxy.app_server(), Instant::now());
        match what {
            "binary" => {
                let next = bin.path().join("next");
                std::fs::copy(&codex, &next).unwrap();
                std::fs::rename(&next, &codex).unwrap();
            }
            "no auth.json" => std::fs::remove_file(proxy.home.path().join("auth.json")).unwrap(),
            file => proxy.home.write(file, "# changed"),
        }
        starts += 1;
        until(what, Duration::from_secs(2), || {
            proxy.book("starts").len() > starts - 1 && proxy.gauge("app_server_starts_total") >= starts as u64
        });
        until("it serves", Duration::from_secs(2).saturating_sub(begun.elapsed()), || {
            proxy.process.stderr().contains(&format!("app-server {starts} is ready"))
        });
        wait_for_the_next(&proxy, &old, Duration::from_secs(3));
    };
    ["auth.json", "config.toml", "no auth.json", "binary"].into_iter().for_each(&mut changed);
    stop.store(true, Ordering::Relaxed);
    let (count, slowest) = load.join().unwrap();
    assert!(count > 0 && slowest < Duration::from_secs(1), "{slowest:?}");
}

#[test]
fn a_change_does_not_wait_behind_a_long_stream() {
    let proxy = Proxy::fake().start();
    let mut stream = proxy.open("[[say first second]] [[gate open]]");
    stream.until("first");
    for starts in [2, 3] {
        proxy.home.write("auth.json", &format!("\"{starts}\""));
        until("it is in use", Duration::from_secs(2), || {
            proxy.process.stderr().contains(&format!("app-server {starts} is ready"))
        });
    }
    hello(&proxy, "on the third");
    proxy.home.write("open", "");
    assert_eq!(stream.rest().streamed_text(), "first second");
    until("only the third is left", Duration::from_secs(3), || proxy.app_servers().len() == 1);
    assert_eq!(proxy.gauge("app_server_starts_total"), 3);
}

#[test]
fn a_request_without_credentials_is_served_as_soon_as_somebody_has_logged_in() {
    let account = |account: Value| json!({ "account": account, "requiresOpenaiAuth": true }).to_string();
    let proxy = Proxy::fake().file("account.json", &account(Value::Null)).listening();
    until("codex is there", PATIENCE, || proxy.reason().contains("codex login"));
    assert_eq!(proxy.ready().status, 503);
    let answer = proxy.chat("x");
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (401, &json!("upstream_unauthorized")));
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    proxy.home.write("account.json", &account(json!({ "type": "apiKey" })));
    proxy.home.write("auth.json", "{}");
    let begun = Instant::now();
    hello(&proxy, "at once");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(proxy.ready().status, 200);
}

#[test]
fn what_no_codex_starts_from_leaves_the_old_one_in_service_and_is_told_once() {
    for faults in ["error=config/read:-32603", "exit-at-start"] {
        let proxy = Proxy::fake().start();
        let old = proxy.app_server();
        proxy.home.write("faults", faults);
        proxy.home.write("config.toml", "broken = [");
        until("it is refused", Duration::from_secs(3), || proxy.process.stderr().contains("the old one stays"));
        hello(&proxy, "on the old one");
        assert_eq!((proxy.ready().status, proxy.app_server()), (200, old.clone()));
        assert_eq!(proxy.process.stderr().matches("the old one stays").count(), 1);
        proxy.home.write("faults", "");
        proxy.home.write("config.toml", "mended = true");
        wait_for_the_next(&proxy, &old, Duration::from_secs(3));
        hello(&proxy, "on the new one");
    }
}

#[test]
fn a_configuration_that_codex_refuses_from_the_start_is_told_in_readyz() {
    let proxy = Proxy::fake().faults("error=config/read:-32603").file("config.toml", "x").listening();
    until("the reason is told", PATIENCE, || proxy.reason().contains("scripted error of config/read"));
    assert_eq!(proxy.ready().status, 503);
    proxy.home.write("faults", "");
    proxy.home.write("config.toml", "mended = true");
    proxy.wait_until_ready(Duration::from_secs(2));
}

#[track_caller]
fn stands_still(version: &str) {
    let proxy = Proxy::version(version).start();
    let mut stream = proxy.open("[[say a]] [[hang]]");
    stream.until("a\"}");
    let (old, begun) = (proxy.app_server(), Instant::now());
    send(old.pid, Signal::STOP);
    // Nothing of this one has reached a model, so the next codex serves it, within PROXY_QUEUE_MS.
    hello(&proxy, "later");
    println!("found after {} ms", begun.elapsed().as_millis());
    assert!(stream.rest().text().contains("backend_unavailable"));
    assert!(stream.complete);
    wait_for_the_next(&proxy, &old, Duration::from_secs(1));
}

/// It still says something, and so is found by what it does not answer.
#[track_caller]
fn stops_reading(version: &str) {
    // What is asked at the start it reads.
    let proxy = Proxy::version(version).faults("deaf-after=4").start();
    let old = proxy.app_server();
    proxy.home.write("faults", "");
    // More than a pipe holds.
    let prompt = "word ".repeat(100_000);
    hello(&proxy, &prompt);
    wait_for_the_next(&proxy, &old, Duration::from_secs(1));
    proxy.wait_until_running(0, PATIENCE);
}

#[test]
fn a_codex_that_stands_still_or_stops_reading_is_found_and_replaced() {
    // That takes ten seconds, so all at once.
    let found = |case: fn(&str), version: &'static str| threads::spawn("case", move || case(version)).unwrap();
    let cases: Vec<_> = PROTOCOLS.map(|version| [found(stands_still, version), found(stops_reading, version)]).into();
    cases.into_iter().flatten().for_each(|case| case.join().unwrap());
}

#[test]
fn a_codex_that_ignores_an_interrupt_is_replaced() {
    for (version, direction) in PROTOCOLS.iter().flat_map(|v| [(v, "interrupt-deaf"), (v, "interrupt-lost")]) {
        let proxy = Proxy::version(version).env("PROXY_SSE_MAX_CONCURRENCY", "1").start();
        let old = proxy.app_server();
        let mut stream = proxy.open(&format!("[[say a]] [[hang]] [[{direction}]]"));
        stream.until("a\"}");
        drop(stream);
        let begun = Instant::now();
        hello(&proxy, "on the next one");
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        assert!(!old.alive());
    }
}

#[test]
fn a_call_that_is_not_answered_in_time_disturbs_no_other_turn() {
    let calls = ["thread/start", "newConversation", "addConversationListener"];
    for (call, version) in calls.into_iter().zip([PROTOCOLS[0], PROTOCOLS[1], PROTOCOLS[1]]) {
        let proxy = Proxy::version(version)
            .env("PROXY_IDLE_TIMEOUT_MS", "400")
            .faults(&format!("mute={call}:1"))
            .file("seen", "")
            .start();
        let mut muted = proxy.begin("x", false);
        until("the call was made", PATIENCE, || proxy.calls(call) == 1);
        let other = proxy.stream("[[say a b c d e f g h i j]] [[gap 150]]");
        assert_eq!(other.streamed_text(), "a b c d e f g h i j", "{}", proxy.process.stderr());
        let answer = muted.response(PATIENCE);
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (504, &json!("timeout")), "{call}");
        assert!(answer.text().contains("PROXY_IDLE_TIMEOUT_MS"));
        assert_eq!(proxy.gauge("app_server_starts_total"), 1);
    }
}

#[test]
fn processes_that_do_not_want_to_end_are_ended() {
    // The one that only reads config.toml for the proxy, too.
    let proxy = Proxy::fake().faults("ignore-eof ignore-term").file("config.toml", "").start();
    until("only one is left", Duration::from_secs(3), || proxy.app_servers().len() == 1);
    let old = proxy.app_server();
    proxy.home.write("auth.json", "{}");
    wait_for_starts(&proxy, 2, PATIENCE);
    wait_for_the_next(&proxy, &old, Duration::from_secs(5));
}
