//! Clients that take too much: time, bytes or connections.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use codex_completions::http::Limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::{BIG, Client, Fixture, PATIENCE, Seen, pause, short, until, usual};

/// Sends one byte of `text` every 20 ms; gives how long it took until an answer came.
fn drip(client: &mut Client<TcpStream>, text: &[u8]) -> Duration {
    let begin = Instant::now();
    client.stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    for byte in text {
        if client.stream.write_all(&[*byte]).is_err() || client.stream.peek(&mut [0]).is_ok() {
            break;
        }
    }
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    begin.elapsed()
}

#[test]
fn a_dripping_head_or_body_ends_at_its_deadline() {
    let fixture = Fixture::start(short(300));
    let body = format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(500));
    let chunks = "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = format!("{chunks}{}", "1\r\nx\r\n".repeat(100));
    let head = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(500));
    for (at_once, text) in [(0, head.as_str()), (54, &body), (67, &chunks)] {
        let mut client = fixture.connect();
        client.send(&text.as_bytes()[..at_once]);
        let took = drip(&mut client, &text.as_bytes()[at_once..]);
        assert!(took >= Duration::from_millis(290) && took < Duration::from_secs(3), "{took:?}");
        let answer = client.answer();
        assert_eq!((answer.status, answer.closes(), answer.error().as_str()), (408, true, "request_timeout"));
    }
}

#[test]
fn silent_and_idle_connections_just_close() {
    let fixture = Fixture::start(short(100));
    let mut idle = fixture.connect();
    assert_eq!(idle.get("/any").status, 200);
    let mut silent = fixture.connect();
    assert!(idle.rest().is_empty());
    assert!(silent.rest().is_empty());
    until("closing", || fixture.server.connections() == 0);
}

#[test]
fn a_reader_that_stalls_is_cut_off() {
    let fixture = Fixture::start(Limits { write: Duration::from_millis(200), ..usual() });
    let mut client = fixture.connect();
    client.send(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(fixture.next(), Seen::WriteFailed(ErrorKind::TimedOut));
    until("closing", || fixture.server.connections() == 0);
    assert!(client.rest().len() < BIG);
}

#[test]
fn a_slow_reader_that_goes_on_gets_all() {
    let fixture = Fixture::start(Limits { write: Duration::from_millis(500), ..usual() });
    let mut client = fixture.connect();
    client.send(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n");
    let (mut piece, mut got, begin) = (vec![0; 512 * 1024], 0, Instant::now());
    while got < BIG {
        let count = client.stream.read(&mut piece).unwrap();
        assert!(count > 0, "cut off after {got}");
        got += count;
        pause(Duration::from_millis(if begin.elapsed() < Duration::from_secs(1) { 10 } else { 0 }));
    }
    assert!(begin.elapsed() > Duration::from_millis(600));
}

#[test]
fn heads_are_bounded() {
    let fixture = Fixture::start(usual());
    let long = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let mut client = fixture.connect();
    // The server need not take all of it.
    let _ = client.stream.write_all(long.as_bytes());
    let answer = client.answer();
    assert_eq!((answer.status, answer.closes(), answer.error().as_str()), (431, true, "head_too_large"));
    let many =
        |count: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}Connection: close\r\n\r\n", "X: y\r\n".repeat(count));
    assert_eq!(fixture.ask(many(98).as_bytes()).status, 200);
    assert_eq!(fixture.ask(many(99).as_bytes()).status, 431);
    let fill =
        |count: usize| format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX: {}\r\n\r\n", "y".repeat(count));
    let room = 16 * 1024 - fill(0).len();
    assert_eq!(fixture.ask(fill(room).as_bytes()).status, 200);
    assert_eq!(fixture.ask(fill(room + 1).as_bytes()).status, 431);
}

fn rss_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn announced_bytes_cost_nothing() {
    let fixture = Fixture::start(usual());
    let head = "POST /echo HTTP/1.1\r\nHost: h\r\n";
    for length in [1_000_000_000_000_u128, u128::from(u64::MAX), u128::MAX] {
        let answer = fixture.ask(format!("{head}Content-Length: {length}\r\n\r\nabc").as_bytes());
        assert_eq!((answer.status, answer.closes(), answer.error().as_str()), (413, true, "body_too_large"));
    }
    let answer = fixture.ask(format!("{head}Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFF\r\nabc").as_bytes());
    assert_eq!((answer.status, answer.closes()), (413, true));
    // 64 bodies of 16 MB are announced and none comes.
    let before = rss_kb();
    let clients: Vec<_> = (0..64)
        .map(|_| {
            let mut client = fixture.connect();
            client.send(format!("{head}Expect: 100-continue\r\nContent-Length: 16777216\r\n\r\n").as_bytes());
            assert_eq!(client.head().status, 100);
            client
        })
        .collect();
    // Other tests of this process need memory too, but not a gigabyte.
    assert!(rss_kb() - before < 300_000, "{} kB", rss_kb() - before);
    drop(clients);
}

#[test]
fn bodies_are_bounded_one_by_one_and_together() {
    let fixture = Fixture::start(Limits { max_body_bytes: 1000, bodies_total_bytes: 1500, ..usual() });
    let request = |path: &str, length: usize| {
        let body = "x".repeat(length);
        format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
    };
    assert_eq!(fixture.ask(&request("/echo", 1001)).status, 413);
    let mut holder = fixture.connect();
    holder.send(&request("/hold", 1000));
    assert_eq!(fixture.next(), Seen::Waiting);
    let answer = fixture.ask(&request("/echo", 501));
    assert_eq!((answer.status, answer.error().as_str()), (503, "bodies_too_large"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    let mut client = fixture.connect();
    client.send(&request("/echo", 500));
    assert_eq!(client.answer().body.len(), 500);
    drop(holder);
    assert!(matches!(fixture.next(), Seen::Stopped(..)));
    until("room", || {
        let mut client = fixture.connect();
        client.send(&request("/echo", 1000));
        client.answer().status == 200
    });
}

#[test]
fn an_unread_body_does_not_cost_the_client_the_answer() {
    let fixture = Fixture::start(usual());
    for _ in 0..20 {
        let mut client = fixture.connect();
        client.send(b"POST /unread HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n");
        client.send(&vec![b'x'; 200_000]);
        let answer = client.answer();
        assert_eq!((answer.status, answer.closes()), (200, true));
        let mut end = Vec::new();
        assert_eq!(client.stream.read_to_end(&mut end).expect("a clean end"), 0);
    }
    // Who never stops sending is cut off by bytes, who never closes by time.
    let mut client = fixture.connect();
    client.send(b"POST /unread HTTP/1.1\r\nHost: h\r\nContent-Length: 16000000\r\n\r\n");
    let begin = Instant::now();
    while client.stream.write_all(&[b'x'; 16 * 1024]).is_ok() {
        assert!(begin.elapsed() < Duration::from_millis(1900), "only time has cut it off");
    }
    let mut quiet = fixture.connect();
    quiet.send(b"POST /unread HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n");
    assert!(quiet.answer().closes());
    until("closing", || fixture.server.connections() == 0);
}

#[test]
fn a_burst_is_answered() {
    let fixture = Fixture::start(usual());
    let clients: Vec<_> = (0..64).map(|_| fixture.connect()).collect();
    thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(move || {
                for _ in 0..3 {
                    assert_eq!(client.get("/any").status, 200);
                }
            });
        }
    });
}

#[test]
fn connections_above_the_limit_are_told_so_at_once() {
    let fixture = Fixture::start(Limits { max_connections: 2, ..usual() });
    let mut kept: Vec<_> = (0..2).map(|_| fixture.connect()).collect();
    kept.iter_mut().for_each(|client| assert_eq!(client.get("/any").status, 200));
    for _ in 0..100 {
        let mut client = fixture.connect();
        // The whole request is sent before the answer is read: a reset would take the answer away.
        client.send(b"POST /any HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
        let answer = client.answer();
        assert_eq!((answer.status, answer.closes(), answer.error().as_str()), (503, true, "too_many_connections"));
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(client.stream.read_to_end(&mut Vec::new()).expect("a clean end"), 0);
    }
    // Refused ones that stay are no obstacle.
    let _stay: Vec<_> = (0..80).map(|_| fixture.connect()).collect();
    assert_eq!(fixture.ask(b"").status, 503);
    assert_eq!(kept[0].get("/any").status, 200);
    drop(kept);
    until("room", || fixture.server.connections() == 0);
    assert_eq!(fixture.connect().get("/any").status, 200);
}

/// Runs itself in a process of its own, which has no descriptor left when a connection comes.
#[test]
fn listening_survives_a_lack_of_descriptors() {
    const CHILD: &str = "HTTP_ENGINE_CHILD";
    if std::env::var_os(CHILD).is_none() {
        let name = "limits::listening_survives_a_lack_of_descriptors";
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", name, "--test-threads=1"]).env(CHILD, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let fixture = Fixture::start(usual());
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: hard }).unwrap();
    for _ in 0..3 {
        let mut files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        assert!(files.len() > 10);
        // The one descriptor that is free goes to the client, so none is left for the server.
        files.pop();
        let mut client = fixture.connect();
        client.send(b"GET /any HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        client.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(client.stream.peek(&mut [0]).is_err(), "answered without a descriptor");
        client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        drop(files);
        assert_eq!(client.answer().status, 200);
        drop(client);
        until("closing", || fixture.server.connections() == 0);
    }
}
