//! Clients that leave, wait, crowd or do not read: what it costs the others, and what is left of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::json;

mod support;

use support::process::{Seen, descriptors, memory, thread_names};
use support::proxy::ask;
use support::{Connection, PATIENCE, PROTOCOLS, Proxy, holds, until};

/// How soon after a client has left everything of it is to be gone.
const SOON: Duration = Duration::from_millis(200);

#[test]
fn a_client_that_leaves_is_interrupted_and_its_permit_is_free_at_once() {
    for version in PROTOCOLS {
        let proxy = Proxy::version(version).env("PROXY_SSE_MAX_CONCURRENCY", "1").file("seen", "").start();
        let left = |what: &str, interrupts: usize| {
            let begun = Instant::now();
            until(what, SOON, || proxy.calls("turn/interrupt") == interrupts && proxy.gauge("turns_running") == 0);
            println!("{what}: everything was over after {} ms", begun.elapsed().as_millis());
        };
        let mut stream = proxy.open("[[say a b]] [[hang]]");
        stream.until("b\"}");
        drop(stream);
        left("in a stream", 1);
        let head = proxy.begin("[[hang]]", true);
        proxy.wait_until_running(1, PATIENCE);
        until("its turn runs", PATIENCE, || proxy.calls("turn/start") == 2);
        drop(head);
        left("before the head of a stream", 2);
        let whole = proxy.begin("[[say a]] [[hang]]", false);
        until("its turn runs", PATIENCE, || proxy.calls("turn/start") == 3);
        drop(whole);
        left("in a whole answer", 3);
        // One that only says that it sends no more has left too.
        let mut half = proxy.begin("[[hang]]", false);
        until("its turn runs", PATIENCE, || proxy.calls("turn/start") == 4);
        half.finish_sending();
        left("by half", 4);
        assert_eq!(String::from_utf8(half.read_to_end(PATIENCE)).unwrap(), "", "nobody is there to be told");
        until("codex has forgotten all", PATIENCE, || proxy.calls("thread/unsubscribe") == 4);
        assert_eq!((proxy.chat("x").status, proxy.gauge("app_server_starts_total")), (200, 1));
    }
}

#[test]
fn a_client_that_leaves_while_codex_is_asked_is_free_at_once_and_what_codex_makes_of_it_later_is_undone() {
    let [new, old] = PROTOCOLS;
    let calls = [
        (new, "thread/start", 0),
        (new, "thread/inject_items", 0),
        (new, "turn/start", 1),
        (old, "newConversation", 0),
        (old, "addConversationListener", 0),
        (old, "sendUserMessage", 1),
    ];
    for (version, call, interrupts) in calls {
        let proxy = Proxy::version(version).env("PROXY_SSE_MAX_CONCURRENCY", "1").file("seen", "");
        let proxy = proxy.faults(&format!("late={call}:600")).start();
        let files = || holds(&proxy.home.path().join("codex-completions"), "approvalPolicy");
        let client = proxy.begin("[[hang]]", false);
        until("codex is asked", PATIENCE, || proxy.calls(call) == 1);
        drop(client);
        proxy.wait_until_running(0, SOON);
        // A conversation of v1 that nobody listens to yet leaves only its file.
        let forgotten = usize::from(call != "newConversation");
        until("it is undone", Duration::from_secs(2), || {
            proxy.calls("turn/interrupt") == interrupts && proxy.calls("thread/unsubscribe") == forgotten
        });
        // Its answer is late too, so that the first one has come by then.
        assert_eq!((proxy.chat("x").status, proxy.gauge("app_server_starts_total")), (200, 1), "{call}");
        until("no file is left", PATIENCE, || !files());
    }
}

#[test]
fn a_turn_whose_start_codex_never_answers_costs_its_client_nothing_and_codex_its_place() {
    for (version, call) in PROTOCOLS.into_iter().zip(["turn/start", "sendUserMessage"]) {
        let proxy = Proxy::version(version).env("PROXY_SSE_MAX_CONCURRENCY", "1").env("PROXY_IDLE_TIMEOUT_MS", "2000");
        let proxy = proxy.file("seen", "").faults(&format!("mute={call}:1")).start();
        let client = proxy.begin("[[hang]]", false);
        until("codex is asked", PATIENCE, || proxy.calls(call) == 1);
        drop(client);
        proxy.wait_until_running(0, SOON);
        assert_eq!((proxy.chat("x").status, proxy.gauge("app_server_starts_total")), (200, 1), "{call}");
        until("it is replaced", PATIENCE, || proxy.gauge("app_server_starts_total") == 2);
        until("the log says why", PATIENCE, || proxy.process.stderr().contains("a call was not answered in time"));
    }
}

#[test]
fn a_client_that_leaves_while_it_waits_leaves_the_queue() {
    let proxy = Proxy::fake().env("PROXY_SSE_MAX_CONCURRENCY", "1").file("seen", "").start();
    let mut stream = proxy.open("[[say a]] [[hang]]");
    stream.until("a\"}");
    let waiting: Vec<_> = (0..3).map(|n| proxy.begin("never asked", n % 2 == 0)).collect();
    until("they wait", PATIENCE, || proxy.gauge("turns_waiting") == 3);
    drop(waiting);
    until("they have left", SOON, || proxy.gauge("turns_waiting") == 0);
    // The same while an app-server is awaited: the permit is free although nothing serves.
    proxy.home.write("faults", "late=initialize:1500");
    proxy.app_server().kill();
    assert!(stream.rest().text().contains("backend_unavailable"));
    let waiting = proxy.begin("never asked", false);
    proxy.wait_until_running(1, PATIENCE);
    drop(waiting);
    proxy.wait_until_running(0, SOON);
    assert_eq!(proxy.chat("hi").status, 200);
    assert!(!proxy.book("seen").iter().any(|line| line.contains("never asked")));
}

#[test]
fn permits_go_to_those_who_came_first_and_others_are_served_meanwhile() {
    for limit in [1_usize, 2] {
        let proxy = Proxy::fake().env("PROXY_SSE_MAX_CONCURRENCY", limit.to_string()).file("seen", "").start();
        let mut running: Vec<_> = (0..limit).map(|_| proxy.open("[[say a]] [[hang]]")).collect();
        let mut waiting = Vec::new();
        for n in 0..5 {
            waiting.push(proxy.begin(&format!("[[pause 30]] number-{n}"), n % 2 == 0));
            until("it waits", PATIENCE, || proxy.gauge("turns_waiting") == n + 1);
        }
        for path in ["/healthz", "/livez", "/readyz", "/v1/models", "/v1/models/fake-default"] {
            assert_eq!(proxy.get(path).status, 200, "{path}");
        }
        assert_eq!(proxy.post("/v1/chat/completions", &json!({ "messages": "no list" })).status, 400);
        // One place is enough to serve all of them in order.
        running.pop();
        waiting.iter_mut().for_each(|connection| assert_eq!(connection.response(PATIENCE).status, 200));
        let asked = |line: &String| Some(line.split_once("number-")?.1.chars().next()?.to_string());
        let order: String = proxy.book("seen").iter().filter_map(asked).collect();
        assert_eq!(order, "01234", "{limit}");
    }
}

#[test]
fn who_waits_too_long_for_a_permit_is_told_when_to_come_back() {
    let proxy = Proxy::fake().env("PROXY_SSE_MAX_CONCURRENCY", "1").env("PROXY_QUEUE_MS", "250");
    let proxy = proxy.env("PROXY_API_KEY", "a-key").start();
    let post = |key: &str| {
        let mut connection = Connection::open(proxy.address);
        let body = ask("[[say a]] [[hang]]", true).to_string();
        connection.send(format!("POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
        connection
    };
    let mut first = post("a-key");
    assert_eq!(first.head(PATIENCE).status, 200);
    let begun = Instant::now();
    let answer = post("a-key").response(PATIENCE);
    assert!((250..2000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (429, &json!("too_many_turns")));
    assert!(answer.header("retry-after").is_some());
    assert!(answer.text().contains("PROXY_SSE_MAX_CONCURRENCY") && answer.text().contains("PROXY_QUEUE_MS (250 ms)"));
    let begun = Instant::now();
    assert_eq!(post("another").response(PATIENCE).status, 401);
    assert!(begun.elapsed() < Duration::from_millis(200));
}

#[test]
fn without_a_wait_the_answer_is_there_at_once() {
    let proxy = Proxy::fake().env("PROXY_SSE_MAX_CONCURRENCY", "1").env("PROXY_QUEUE_MS", "0").start();
    // Who has its answer has given its place back.
    for _ in 0..20 {
        assert_eq!((proxy.chat("x").status, proxy.stream("x").status), (200, 200));
    }
    let mut stream = proxy.open("[[say a]] [[hang]]");
    stream.until("a\"}");
    assert_eq!(proxy.chat("x").status, 429);
    drop(stream);
    proxy.wait_until_running(0, PATIENCE);
    assert_eq!(proxy.chat("x").status, 200);
}

#[test]
fn a_write_that_takes_too_long_ends_the_request_too() {
    let proxy = Proxy::fake().env("PROXY_WRITE_TIMEOUT_MS", "300").file("seen", "").start();
    // More than the system takes for a client that does not read, and less than is kept for it.
    let client = proxy.begin("[[deltas 12000]] [[size 1000]] [[hang]]", true);
    until("its turn runs", PATIENCE, || proxy.calls("turn/start") == 1);
    until("it was interrupted", PATIENCE, || proxy.calls("turn/interrupt") == 1);
    proxy.wait_until_running(0, Duration::from_secs(1));
    until("the log says why", PATIENCE, || proxy.process.stderr().contains("PROXY_WRITE_TIMEOUT_MS (300 ms)"));
    drop(client);
}

#[test]
fn without_a_limit_nobody_waits() {
    let proxy = Proxy::fake().env("PROXY_SSE_MAX_CONCURRENCY", "0").start();
    let mut streams: Vec<_> = (0..40).map(|n| proxy.begin(&format!("[[say s{n}]] [[gate all]]"), false)).collect();
    proxy.wait_until_running(40, PATIENCE);
    proxy.home.write("all", "");
    for (n, stream) in streams.iter_mut().enumerate() {
        let answer = stream.response(PATIENCE);
        assert_eq!(answer.json()["choices"][0]["message"]["content"], format!("s{n}"));
    }
}

#[test]
fn a_client_that_does_not_read_costs_a_bounded_buffer_and_nobody_elses_time() {
    for version in PROTOCOLS {
        let proxy = Proxy::version(version).file("seen", "").start();
        assert_eq!(proxy.chat("warm").status, 200);
        let before = memory(proxy.process.pid(), "VmRSS:");
        let mut slow = Connection::open(proxy.address);
        let begun = Instant::now();
        slow.post("/v1/chat/completions", &ask("[[deltas 120000]] [[size 1000]]", true));
        until("its turn runs", PATIENCE, || proxy.calls("turn/start") == 2);
        let other = Instant::now();
        assert_eq!(proxy.stream("[[say a b c d e f g h i j]] [[gap 10]]").streamed_text(), "a b c d e f g h i j");
        println!("another stream of 100 ms took {} ms meanwhile", other.elapsed().as_millis());
        until("the turn was interrupted", PATIENCE, || proxy.calls("turn/interrupt") == 1);
        proxy.wait_until_running(0, Duration::from_secs(2));
        println!("cut off after {} ms", begun.elapsed().as_millis());
        let peak = memory(proxy.process.pid(), "VmHWM:");
        println!("memory: {} MB before, {} MB at most", before >> 10, peak >> 10);
        assert!(peak < before + 90_000, "{before} {peak}");
        // What was on its way still comes, and then the connection ends without the marks of a whole answer.
        let mut rest = Vec::new();
        slow.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = slow.stream.read_to_end(&mut rest);
        assert!(!rest.ends_with(b"0\r\n\r\n") && !rest.windows(6).any(|window| window == b"[DONE]"));
        until("the log says why", PATIENCE, || proxy.process.stderr().contains("its backlog grew too large"));
        assert_eq!((proxy.chat("x").status, proxy.gauge("app_server_starts_total")), (200, 1));
    }
}

#[test]
fn nothing_is_left_of_200_requests_of_which_many_broke_off() {
    for version in PROTOCOLS {
        let mut proxy = Proxy::version(version).env("PROXY_SSE_MAX_CONCURRENCY", "8").file("seen", "").start();
        assert_eq!(proxy.chat("warm").status, 200);
        let pid = proxy.process.pid();
        let codex = proxy.app_server();
        let count = || (descriptors(pid), thread_names(pid).len(), descriptors(codex.pid));
        let settled = |wanted: (usize, usize, usize)| {
            until(&format!("{wanted:?}, at the end {:?}", count()), PATIENCE, || count() == wanted)
        };
        let threads =
            "log http-accept http-watch supervisor codex-stdin codex-stdout codex-stderr ctrl-c codex-completio";
        let mut names: Vec<&str> = threads.split(' ').collect();
        names.sort_unstable();
        until("only the standing threads are left", PATIENCE, || {
            let mut found = thread_names(pid);
            found.sort_unstable();
            found == names
        });
        let before = count();
        for round in 0..20 {
            let connections: Vec<_> = (0..10)
                .map(|n| match n % 5 {
                    0 => proxy.begin("[[say a b c]] [[gap 5]]", true),
                    1 => proxy.begin("[[say a]] [[hang]]", true),
                    2 => proxy.begin("[[hang]]", false),
                    3 => {
                        let mut connection = Connection::open(proxy.address);
                        connection.send(
                            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{\"mess",
                        );
                        connection
                    }
                    _ => proxy.begin("whole", false),
                })
                .collect();
            if round % 2 == 0 {
                until("a few run", PATIENCE, || proxy.gauge("turns_running") >= 4);
            }
            drop(connections);
        }
        proxy.wait_until_running(0, PATIENCE);
        settled(before);
        assert_eq!(
            (proxy.chat("x").status, proxy.gauge("app_server_starts_total"), proxy.app_server()),
            (200, 1, codex)
        );
        assert!(proxy.calls("thread/start") > 20);
        // A conversation of v1 is forgotten by its listener, if it was given one.
        let made = if version == PROTOCOLS[0] { "thread/start" } else { "addConversationListener" };
        until("codex has forgotten all", PATIENCE, || proxy.calls(made) == proxy.calls("thread/unsubscribe"));
        assert!(proxy.stop(PATIENCE).success());
    }
}

#[test]
fn connections_above_the_limit_are_told_so_while_the_others_are_served() {
    let proxy = Proxy::fake().start();
    let mut idle: Vec<Connection> = (0..511).map(|_| Connection::open(proxy.address)).collect();
    let mut last = Connection::open(proxy.address);
    last.get("/healthz");
    assert_eq!(last.response(PATIENCE).status, 200);
    for _ in 0..20 {
        let answer = Connection::open(proxy.address).response(PATIENCE);
        assert_eq!((answer.status, answer.header("connection")), (503, Some("close")), "{}", answer.text());
        assert!(answer.header("retry-after").is_some() && answer.text().contains("PROXY_MAX_CONNECTIONS"));
    }
    // Those that are in are served as ever.
    last.post("/v1/chat/completions", &ask("hi", false));
    assert_eq!(last.response(PATIENCE).status, 200);
    idle.truncate(500);
    until("there is room again", PATIENCE, || {
        let mut connection = Connection::open(proxy.address);
        connection.get("/healthz");
        connection.response(PATIENCE).status == 200
    });
}

#[test]
fn hostile_requests_get_an_error_and_cost_no_memory() {
    let proxy = Proxy::fake().env("PROXY_HEAD_TIMEOUT_MS", "400").env("PROXY_BODY_TIMEOUT_MS", "400").start();
    assert_eq!(proxy.chat("warm").status, 200);
    let rss = || Seen::read(proxy.process.pid()).unwrap().rss();
    let before = rss();
    let post = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n";
    let long = format!("GET /healthz HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(1 << 20));
    let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101));
    for (request, status) in [
        (format!("{post}content-length: 1000000000000\r\n\r\n"), 413),
        (format!("{post}content-length: 5\r\ncontent-length: 6\r\n\r\nhello"), 400),
        (format!("{post}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("{post}content-length: +5\r\n\r\nhello"), 400),
        (format!("{post}content-length: 0x5\r\n\r\nhello"), 400),
        (format!("{post}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("{post}transfer-encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n"), 400),
        ("GET /healthz HTTP/1.1\nhost: x\n\n".to_owned(), 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505),
        ("GET / HTTP/2.0\r\n\r\n".to_owned(), 505),
        (long, 431),
        (many, 431),
        // Too slow: neither the head nor the body ever comes to its end.
        ("GET /healthz HT".to_owned(), 408),
        (format!("{post}content-length: 100\r\n\r\n{{"), 408),
    ] {
        let mut connection = Connection::open(proxy.address);
        connection.send(&request);
        let answer = connection.response(PATIENCE);
        let shown = request.get(..120).unwrap_or(&request);
        assert_eq!(answer.status, status, "{shown:?}: {}", answer.text());
        assert!(answer.json()["error"]["message"].is_string(), "{shown:?}");
        assert!(connection.closed(PATIENCE), "{shown:?}");
    }
    assert_eq!(proxy.chat("x").status, 200);
    until("memory is flat", PATIENCE, || rss() < before + 8_000);
}
