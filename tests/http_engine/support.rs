//! A service to be asked and a client that sends exactly what it is told to.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use codex_completions::deadline::CancelCause;
use codex_completions::http::{Exchange, Limits, Listener, Method, Response, Server, Service};
use crossbeam_channel::{Receiver, Sender, never, unbounded};

/// Longer than anything here takes when it works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const BIG: usize = 32 << 20;

/// What the service has seen.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    /// A request that waits has begun to.
    Waiting,
    /// It was told to stop.
    Stopped(Instant, Option<CancelCause>),
    /// Writing has failed.
    WriteFailed(ErrorKind),
}

struct Probe {
    seen: Sender<Seen>,
}

impl Service for Probe {
    fn serve(&self, exchange: &mut Exchange<'_>) {
        let path = exchange.head().path.clone();
        let result = match path.as_str() {
            "/echo" => match exchange.read_body() {
                Ok(body) => exchange.respond(Response::new(200).header("content-type", "x/y").body(&*body)),
                Err(error) => exchange.error(&error),
            },
            "/stream" => exchange.start_stream().and_then(|()| {
                (0..3).try_for_each(|n| exchange.write(format!("data: {n}\n\n").as_bytes()))?;
                exchange.end_stream()
            }),
            "/wait" => {
                self.wait(exchange);
                exchange.respond(Response::json(200, "{}"))
            }
            "/stream-wait" => exchange.start_stream().and_then(|()| {
                exchange.write(b"data: 0\n\n")?;
                self.wait(exchange);
                exchange.write(b"data: 1\n\n")?;
                exchange.end_stream()
            }),
            "/hold" => match exchange.read_body() {
                Ok(_body) => {
                    self.wait(exchange);
                    exchange.respond(Response::json(200, "{}"))
                }
                Err(error) => exchange.error(&error),
            },
            "/big" => exchange.respond(Response::new(200).body(vec![b'x'; BIG])),
            "/big-watched" => {
                let _cancel = exchange.cancel();
                exchange.respond(Response::new(200).body(vec![b'x'; BIG]))
            }
            "/split" => exchange.respond(Response::new(200).header("x", "a\r\nb: c")),
            "/panic" => panic!("on purpose"),
            "/panic-in-stream" => {
                let _ = exchange.start_stream();
                let _ = exchange.write(b"data: 0\n\n");
                panic!("on purpose");
            }
            "/silent" => Ok(()),
            _ if exchange.head().method == Method::Options => exchange.respond(Response::new(204)),
            _ => exchange.respond(Response::json(200, "{\"unread\":true}")),
        };
        if let Err(error) = result {
            let _ = self.seen.send(Seen::WriteFailed(error.kind()));
        }
    }
}

impl Probe {
    fn wait(&self, exchange: &mut Exchange<'_>) {
        let cancel = exchange.cancel();
        let _ = self.seen.send(Seen::Waiting);
        if cancel.cause().is_none() {
            let _ = cancel.wake().recv_timeout(PATIENCE);
        }
        let _ = self.seen.send(Seen::Stopped(Instant::now(), cancel.cause()));
    }
}

/// A server with the probe behind it.
pub(crate) struct Fixture {
    pub(crate) server: Server,
    pub(crate) seen: Receiver<Seen>,
}

impl Fixture {
    pub(crate) fn start(limits: Limits) -> Self {
        Self::with_unix(limits, None)
    }

    pub(crate) fn with_unix(limits: Limits, unix: Option<&Path>) -> Self {
        let (sender, seen) = unbounded();
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), unix, limits).unwrap();
        Self { server: listener.start(Arc::new(Probe { seen: sender })).unwrap(), seen }
    }

    pub(crate) fn connect(&self) -> Client<TcpStream> {
        let stream = TcpStream::connect(self.server.local_addr()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, buf: Vec::new() }
    }

    /// Sends `request` on a connection of its own and expects the connection to close after one answer.
    pub(crate) fn ask(&self, request: &[u8]) -> Answer {
        let mut client = self.connect();
        client.send(request);
        let answer = client.answer();
        assert!(client.rest().is_empty(), "more than one answer to {:?}", String::from_utf8_lossy(request));
        answer
    }

    pub(crate) fn next(&self) -> Seen {
        self.seen.recv_timeout(PATIENCE).expect("the service sees nothing")
    }
}

/// Limits that only what never ends reaches.
pub(crate) fn usual() -> Limits {
    short(30_000)
}

/// Limits of `ms` for every phase.
pub(crate) fn short(ms: u64) -> Limits {
    let wait = Duration::from_millis(ms);
    Limits {
        max_connections: 512,
        max_body_bytes: 16 << 20,
        bodies_total_bytes: 64 << 20,
        head: wait,
        body: wait,
        write: wait,
        idle: wait,
    }
}

/// Polls `condition` until it holds.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what} did not happen");
        pause(Duration::from_millis(2));
    }
}

/// Lets time pass where time passing is what is tested.
pub(crate) fn pause(time: Duration) {
    let _ = never::<()>().recv_timeout(time);
}

pub(crate) struct Client<S> {
    pub(crate) stream: S,
    buf: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(crate) fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }

    /// Checks what every error has, and gives its code.
    pub(crate) fn error(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert!(self.header("x-request-id").is_some());
        let json: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert!(json["error"]["message"].is_string() && json["error"]["type"].is_string(), "{json}");
        json["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Client<UnixStream> {
    pub(crate) fn unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, buf: Vec::new() }
    }
}

impl Client<TcpStream> {
    /// Says that nothing more will be sent.
    pub(crate) fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}

impl<S: Read + Write> Client<S> {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
        self.answer()
    }

    /// Everything up to and with `end`.
    pub(crate) fn read_until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.buf.windows(end.len()).position(|window| window == end) {
                return self.buf.drain(..at + end.len()).collect();
            }
            self.more();
        }
    }

    fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        while self.buf.len() < count {
            self.more();
        }
        self.buf.drain(..count).collect()
    }

    fn more(&mut self) {
        let mut piece = [0; 65536];
        let count = self.stream.read(&mut piece).unwrap();
        assert!(count > 0, "the connection has ended after {:?}", String::from_utf8_lossy(&self.buf));
        self.buf.extend_from_slice(&piece[..count]);
    }

    /// What comes until the connection ends, well or not.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.buf);
        if let Err(error) = self.stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "the connection stays open");
        }
        rest
    }

    pub(crate) fn head(&mut self) -> Answer {
        let head = String::from_utf8(self.read_until(b"\r\n\r\n")).unwrap();
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).unwrap().parse().unwrap();
        Answer { status, head, body: Vec::new() }
    }

    pub(crate) fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        if let Some(length) = answer.header("content-length") {
            let length = length.parse().unwrap();
            answer.body = self.read_exactly(length);
        } else if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let line = String::from_utf8(self.read_until(b"\r\n")).unwrap();
                let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
                let chunk = self.read_exactly(size);
                assert_eq!(self.read_exactly(2), b"\r\n");
                if size == 0 {
                    break;
                }
                answer.body.extend(chunk);
            }
        } else if answer.closes() {
            answer.body = self.rest();
        }
        answer
    }
}
