//! A raw HTTP/1.1 client: sends what it is given and shows the bytes that SDKs hide.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::wait::PATIENCE;

/// An answer, whole.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// As they came; names in lower case.
    pub headers: Vec<(String, String)>,
    /// Decoded from its chunks.
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    /// The `data:` of every event of a stream.
    pub fn events(&self) -> Vec<String> {
        events(&self.text())
    }

    /// The text of a streamed chat completion.
    pub fn streamed_text(&self) -> String {
        let chunks = self.events().into_iter().filter_map(|event| serde_json::from_str::<Value>(&event).ok());
        chunks.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
    }
}

/// The `data:` of every complete event in `text`.
pub fn events(text: &str) -> Vec<String> {
    let complete = text.rsplit_once("\n\n").map_or("", |(complete, _)| complete);
    complete.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).map(str::to_owned).collect()
}

/// A connection with what was read of it and not used yet.
pub struct Connection {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Sends bytes as they are. The server may have closed already; what it said before can still be read.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Sends a request with a JSON body.
    pub fn post(&mut self, path: &str, body: &Value) -> bool {
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.send(head + &body)
    }

    /// Sends a request without a body.
    pub fn get(&mut self, path: &str) -> bool {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"))
    }

    /// Reads once more; `false` at the end of the connection. Panics when `end` has passed.
    #[track_caller]
    fn fill(&mut self, end: Instant) -> bool {
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "nothing in time; so far: {:?}", String::from_utf8_lossy(&self.buffer));
        self.stream.set_read_timeout(Some(left)).unwrap();
        let mut chunk = [0; 16_384];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                true
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => true,
            Err(_) => false,
        }
    }

    /// Everything up to the end of the connection.
    #[track_caller]
    pub fn read_to_end(&mut self, limit: Duration) -> Vec<u8> {
        let end = Instant::now() + limit;
        while self.fill(end) {}
        std::mem::take(&mut self.buffer)
    }

    /// Everything up to and with the first `mark`; what follows stays for the next read. Without it, up to the end.
    #[track_caller]
    pub fn read_until(&mut self, mark: &[u8], limit: Duration) -> Vec<u8> {
        let end = Instant::now() + limit;
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].windows(mark.len()).position(|window| window == mark) {
                let rest = self.buffer.split_off(searched + at + mark.len());
                return std::mem::replace(&mut self.buffer, rest);
            }
            searched = self.buffer.len().saturating_sub(mark.len() - 1);
            if !self.fill(end) {
                return std::mem::take(&mut self.buffer);
            }
        }
    }

    /// The head of the next answer, its body empty. Panics on a connection that ends before.
    #[track_caller]
    pub fn head(&mut self, limit: Duration) -> Response {
        let head = String::from_utf8(self.read_until(b"\r\n\r\n", limit)).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap_or_default();
        let status = status.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status in {head:?}"));
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Response { status, headers, body: Vec::new() }
    }

    /// The next answer with its body.
    #[track_caller]
    pub fn response(&mut self, limit: Duration) -> Response {
        let end = Instant::now() + limit;
        let mut response = self.head(limit);
        response.body = if response.header("transfer-encoding").is_some() {
            self.chunks(end)
        } else if let Some(length) = response.header("content-length") {
            let length: usize = length.parse().unwrap();
            while self.buffer.len() < length && self.fill(end) {}
            let rest = self.buffer.split_off(length.min(self.buffer.len()));
            std::mem::replace(&mut self.buffer, rest)
        } else {
            while self.fill(end) {}
            std::mem::take(&mut self.buffer)
        };
        response
    }

    #[track_caller]
    fn chunks(&mut self, end: Instant) -> Vec<u8> {
        let mut body = Vec::new();
        // Where the connection ends in the middle, the test sees a body without its end.
        while let Some(mut chunk) = self.chunk(end).filter(|chunk| !chunk.is_empty()) {
            body.append(&mut chunk);
        }
        body
    }

    /// The next chunk; empty at the end of the body, `None` where the connection ended before.
    #[track_caller]
    fn chunk(&mut self, end: Instant) -> Option<Vec<u8>> {
        let left = end.saturating_duration_since(Instant::now());
        let line = String::from_utf8(self.read_until(b"\r\n", left)).unwrap();
        let size = usize::from_str_radix(line.trim_end(), 16).ok()?;
        while self.buffer.len() < size + 2 {
            if !self.fill(end) {
                return None;
            }
        }
        let rest = self.buffer.split_off(size + 2);
        let mut chunk = std::mem::replace(&mut self.buffer, rest);
        chunk.truncate(size);
        Some(chunk)
    }

    /// Whether the server has closed: nothing but the end is left to read.
    #[track_caller]
    pub fn closed(&mut self, limit: Duration) -> bool {
        self.read_to_end(limit).is_empty()
    }

    /// Tells the server that nothing more comes.
    pub fn finish_sending(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

/// A streamed answer that is read as it comes.
pub struct Stream {
    pub connection: Connection,
    /// The head, and what came of the body so far.
    pub answer: Response,
    /// Whether the body came to its end, and not only the connection.
    pub complete: bool,
}

impl Stream {
    /// Asks for a stream and waits for its head.
    #[track_caller]
    pub fn open(address: SocketAddr, path: &str, body: &Value) -> Self {
        let mut connection = Connection::open(address);
        connection.post(path, body);
        let answer = connection.head(PATIENCE);
        assert!(
            answer.header("transfer-encoding").is_some(),
            "{answer:?} {:?}",
            String::from_utf8_lossy(&connection.buffer)
        );
        Self { connection, answer, complete: false }
    }

    /// Reads until `mark` has come.
    #[track_caller]
    pub fn until(&mut self, mark: &str) -> &mut Self {
        let end = Instant::now() + PATIENCE;
        while !self.answer.text().contains(mark) {
            assert!(self.more(end), "the stream ended without {mark:?}: {:?}", self.answer.text());
        }
        self
    }

    /// Reads to the end.
    #[track_caller]
    pub fn rest(&mut self) -> &Response {
        let end = Instant::now() + PATIENCE;
        while self.more(end) {}
        &self.answer
    }

    #[track_caller]
    fn more(&mut self, end: Instant) -> bool {
        let chunk = self.connection.chunk(end);
        self.complete = chunk.as_ref().is_some_and(Vec::is_empty);
        chunk.is_some_and(|chunk| {
            self.answer.body.extend_from_slice(&chunk);
            !chunk.is_empty()
        })
    }
}

/// One request on a connection of its own.
#[track_caller]
pub fn get(address: SocketAddr, path: &str) -> Response {
    let mut connection = Connection::open(address);
    connection.get(path);
    connection.response(PATIENCE)
}

/// One request on a connection of its own.
#[track_caller]
pub fn post(address: SocketAddr, path: &str, body: &Value) -> Response {
    let mut connection = Connection::open(address);
    connection.post(path, body);
    connection.response(PATIENCE)
}
