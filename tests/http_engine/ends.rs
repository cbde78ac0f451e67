//! Clients that leave, servers that stop, services that fail.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use codex_completions::deadline::CancelCause;
use codex_completions::http::Listener;

use crate::support::{Client, Fixture, PATIENCE, Seen, short, until, usual};

/// How long the service takes to see that a client leaves: the median of five.
fn time_to_notice<S>(fixture: &Fixture, begin: impl Fn() -> S, leave: impl Fn(S) -> Option<S>) -> Duration {
    // That nothing can be written to who has left may be reported at any later time.
    let next = || loop {
        match fixture.next() {
            Seen::WriteFailed(_) => {}
            seen => break seen,
        }
    };
    let mut times: Vec<_> = (0..5)
        .map(|_| {
            let client = begin();
            assert_eq!(next(), Seen::Waiting);
            let left = Instant::now();
            let client = leave(client);
            let Seen::Stopped(at, cause) = next() else { panic!("not told to stop") };
            assert_eq!(cause, Some(CancelCause::ClientGone));
            drop(client);
            at - left
        })
        .collect();
    until("closing", || fixture.server.connections() == 0);
    times.sort();
    times[2]
}

#[test]
fn a_client_that_leaves_is_noticed_at_once() {
    let fixture = Fixture::start(usual());
    let ask = |path: &str| {
        let mut client = fixture.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
        client
    };
    let limit = Duration::from_millis(100);
    assert!(time_to_notice(&fixture, || ask("/wait"), |_| None) < limit);
    assert!(time_to_notice(&fixture, || ask("/stream-wait"), |_| None) < limit);
    let half_close = |client: Client<TcpStream>| {
        client.finish_sending();
        Some(client)
    };
    assert!(time_to_notice(&fixture, || ask("/wait"), half_close) < limit);
    let with_more = || {
        let mut client = ask("/wait");
        client.send(b"GET /any HTTP/1.1\r\nHost: h\r\n\r\n");
        client
    };
    assert!(time_to_notice(&fixture, with_more, |_| None) < limit);
}

#[test]
fn pipelined_bytes_are_no_leave() {
    let fixture = Fixture::start(usual());
    let mut client = fixture.connect();
    client.send(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(fixture.next(), Seen::Waiting);
    client.send(b"GET /any HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(fixture.seen.recv_timeout(Duration::from_millis(200)).is_err());
    fixture.server.cancel_all(CancelCause::ShuttingDown);
    assert!(matches!(fixture.next(), Seen::Stopped(_, Some(CancelCause::ShuttingDown))));
    assert_eq!(client.answer().body, b"{}");
    assert_eq!(client.answer().body, b"{\"unread\":true}");
    // Whoever comes later is told as well.
    client.send(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(fixture.next(), Seen::Waiting);
    assert!(matches!(fixture.next(), Seen::Stopped(_, Some(CancelCause::ShuttingDown))));
}

#[test]
fn a_write_does_not_wait_for_a_client_that_left() {
    let fixture = Fixture::start(usual());
    let mut client = fixture.connect();
    client.send(b"GET /big-watched HTTP/1.1\r\nHost: h\r\n\r\n");
    client.head();
    let left = Instant::now();
    client.finish_sending();
    assert_eq!(fixture.next(), Seen::WriteFailed(ErrorKind::BrokenPipe));
    assert!(left.elapsed() < Duration::from_secs(5));
}

#[test]
fn draining_ends_what_is_idle_and_finishes_what_runs() {
    let mut fixture = Fixture::start(short(8000));
    let (mut idle, mut fresh, mut begun, mut running) =
        (fixture.connect(), fixture.connect(), fixture.connect(), fixture.connect());
    assert_eq!(idle.get("/any").status, 200);
    begun.send(b"GET /any HTTP/1.1\r\nHo");
    running.send(b"GET /stream-wait HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(fixture.next(), Seen::Waiting);
    until("accepting", || fixture.server.connections() == 4);
    let begin = Instant::now();
    // The server may drain before it has read the two bytes of a head; both ends are right for it.
    fixture.server.drain();
    assert!(idle.rest().is_empty() && fresh.rest().is_empty());
    let rest = String::from_utf8(begun.rest()).unwrap();
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 503 ") && rest.contains("\r\nretry-after: 1\r\n"), "{rest}");
    assert!(TcpStream::connect(fixture.server.local_addr()).is_err());
    assert!(begin.elapsed() < Duration::from_secs(4));
    drop(begun);
    assert!(fixture.server.ended().recv_timeout(Duration::from_millis(50)).unwrap_err().is_timeout());
    assert_eq!(fixture.server.connections(), 1);
    fixture.server.cancel_all(CancelCause::ShuttingDown);
    let answer = running.answer();
    assert_eq!(answer.body, b"data: 0\n\ndata: 1\n\n");
    // The head was sent before; a whole answer after the begin of draining says that it is the last.
    assert!(!answer.closes() && running.rest().is_empty());
    drop(running);
    assert!(fixture.server.ended().recv_timeout(PATIENCE).unwrap_err().is_disconnected());
    assert_eq!(fixture.server.close(), 0);
}

#[test]
fn answers_while_draining_are_the_last_of_their_connection() {
    let mut fixture = Fixture::start(usual());
    let mut client = fixture.connect();
    client.send(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\nGET /any HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(fixture.next(), Seen::Waiting);
    fixture.server.drain();
    fixture.server.cancel_all(CancelCause::ShuttingDown);
    let answer = client.answer();
    assert_eq!((answer.status, answer.closes()), (200, true));
    assert!(client.rest().is_empty());
}

#[test]
fn requests_after_the_begin_of_draining_are_refused() {
    let mut fixture = Fixture::start(usual());
    let mut client = fixture.connect();
    client.send(b"GET /stream-wait HTTP/1.1\r\nHost: h\r\n\r\nGET /any HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(fixture.next(), Seen::Waiting);
    fixture.server.drain();
    fixture.server.cancel_all(CancelCause::ShuttingDown);
    assert_eq!((client.answer().status, client.answer().error().as_str()), (200, "shutting_down"));
    assert!(client.rest().is_empty());
}

#[test]
fn closing_cuts_off_what_is_left() {
    let mut fixture = Fixture::start(usual());
    let mut client = fixture.connect();
    client.send(b"GET /stream-wait HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(fixture.next(), Seen::Waiting);
    assert_eq!(fixture.server.close(), 0);
    assert!(!client.rest().ends_with(b"0\r\n\r\n"));
}

#[test]
fn a_failing_service_is_a_500_or_a_cut_stream() {
    let fixture = Fixture::start(usual());
    for path in ["/panic", "/silent"] {
        let answer = fixture.ask(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
        assert_eq!((answer.status, answer.closes(), answer.error().as_str()), (500, true, "internal_error"), "{path}");
    }
    let mut client = fixture.connect();
    client.send(b"GET /panic-in-stream HTTP/1.1\r\nHost: h\r\n\r\n");
    let rest = client.rest();
    assert!(rest.ends_with(b"data: 0\n\n\r\n"), "{}", String::from_utf8_lossy(&rest));
    assert_eq!(fixture.connect().get("/any").status, 200);
    until("closing", || fixture.server.connections() == 0);
}

/// A path for a socket, in a directory that goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("http-engine-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        Self(directory.join("socket"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0.parent().unwrap());
    }
}

#[test]
fn a_unix_socket_serves_its_owner_only() {
    let scratch = Scratch::new("serve");
    let path = &scratch.0;
    let mut fixture = Fixture::with_unix(usual(), Some(path));
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut client = Client::unix(path);
    assert_eq!(client.get("/any").status, 200);
    assert_eq!(fixture.connect().get("/any").status, 200);
    let ask = || {
        let mut client = Client::unix(path);
        client.send(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
        client
    };
    drop(client);
    until("closing", || fixture.server.connections() == 0);
    assert!(time_to_notice(&fixture, ask, |_| None) < Duration::from_millis(100));
    fixture.server.drain();
    assert!(!path.exists());
}

#[test]
fn only_a_dead_socket_file_is_replaced() {
    let scratch = Scratch::new("replace");
    let path = &scratch.0;
    let bind = || Listener::bind(([127, 0, 0, 1], 0).into(), Some(path), usual()).map(drop);
    std::fs::write(path, "precious").unwrap();
    assert_eq!(bind().unwrap_err().kind(), ErrorKind::AddrInUse);
    assert_eq!(std::fs::read(path).unwrap(), b"precious");
    std::fs::remove_file(path).unwrap();
    let live = UnixListener::bind(path).unwrap();
    assert_eq!(bind().unwrap_err().kind(), ErrorKind::AddrInUse);
    assert!(UnixStream::connect(path).unwrap().write_all(b"x").is_ok());
    drop(live);
    assert!(path.exists());
    bind().unwrap();
    // What another has put there meanwhile stays.
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), Some(path), usual()).unwrap();
    std::fs::remove_file(path).unwrap();
    let _other = UnixListener::bind(path).unwrap();
    drop(listener);
    assert!(path.exists());
}
