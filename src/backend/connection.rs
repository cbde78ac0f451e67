//! JSON-RPC with one codex process: a reader that blocks on nothing but `read`, a writer that alone touches stdin, and
//! calls that never wait without a deadline.

use std::cell::OnceCell;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::process::ChildStdout;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, bounded, never, select, select_biased, unbounded};
use serde::Serialize;

use super::dialect::server_requests;
use super::late::Late;
use super::process::{Group, Leader, Started};
use super::router::{Cause, Reply, Routed, Router};
use super::wire::{self, RpcError};
use crate::deadline::{Cancel, CancelCause, Deadline, jittered};
use crate::threads;

/// Longest line from codex that is read, in bytes; a longer one is counted and skipped.
pub const MAX_LINE: usize = 64 * 1024 * 1024;
/// Requests that wait for the writer before callers wait too.
const WRITE_QUEUE: usize = 32;
/// First and longest wait before a call that codex's full queue refused is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq)]
pub enum CallError {
    /// The connection has ended.
    Closed(Cause),
    /// The deadline passed.
    Deadline(String),
    /// Codex refused.
    Refused(RpcError),
    /// Nobody wants the answer any more.
    Cancelled(CancelCause),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(cause) => cause.fmt(f),
            Self::Deadline(words) => f.write_str(words),
            Self::Refused(error) => f.write_str(&error.message),
            Self::Cancelled(cause) => cause.error().fmt(f),
        }
    }
}

/// How long a call may take, and who may give it up.
#[derive(Clone, Copy, Debug)]
pub struct Patience<'a> {
    /// Its end.
    pub deadline: &'a Deadline,
    /// The request that it is made for.
    pub cancel: Option<&'a Cancel>,
    /// Where a call that was sent and given up leaves its answer.
    pub late: Option<&'a OnceCell<Late>>,
}

impl<'a> From<&'a Deadline> for Patience<'a> {
    fn from(deadline: &'a Deadline) -> Self {
        Self { deadline, cancel: None, late: None }
    }
}

/// A connection. Its threads end with the process.
#[derive(Debug)]
pub struct Connection {
    /// The tables of who waits for what.
    pub router: Router,
    /// The process behind it.
    pub group: Group,
    requests: Sender<Vec<u8>>,
    // Small lines that must not wait behind large requests or for anybody: answers, interrupts, pings; `None` is the end.
    control: Sender<Option<Vec<u8>>>,
    debug: bool,
}

impl Connection {
    /// Takes over a process. `on_end` runs on the reader's thread once the process is gone and everybody who waited has
    /// been told.
    ///
    /// # Errors
    /// No thread can be started; the process has been killed.
    pub fn open(
        started: Started,
        debug: bool,
        on_end: impl FnOnce(Cause) + Send + 'static,
    ) -> std::io::Result<Arc<Self>> {
        let Started { leader, stdin, stdout, group } = started;
        let (requests, request_queue) = bounded(WRITE_QUEUE);
        let (control, control_queue) = unbounded();
        let connection = Arc::new(Self { router: Router::default(), group, requests, control, debug });
        let reader = Arc::clone(&connection);
        threads::spawn("codex-stdin", move || write_loop(stdin, &request_queue, &control_queue))?;
        threads::spawn("codex-stdout", move || reader.read_to_end(leader, stdout, on_end))?;
        Ok(connection)
    }

    /// Sends a request and waits for its result, as JSON text. A full queue on codex's side is tried again with jitter.
    ///
    /// # Errors
    /// See [`CallError`]; the deadline's name is in the text.
    pub fn call<'a>(
        &self,
        method: &str,
        params: impl Serialize,
        patience: impl Into<Patience<'a>>,
    ) -> Result<String, CallError> {
        let patience = patience.into();
        let Patience { deadline, cancel, .. } = patience;
        let mut pause = RETRY.0;
        loop {
            if let Some(cause) = cancel.and_then(Cancel::cause) {
                return Err(CallError::Cancelled(cause));
            }
            let outcome = self.call_once(method, &params, patience);
            match outcome {
                Err(CallError::Refused(error)) if error.is_overload() => {
                    let wait = jittered(pause);
                    if deadline.left() <= wait {
                        return Err(CallError::Refused(error));
                    }
                    log::debug!("{method}: codex's queue is full, trying again in {} ms", wait.as_millis());
                    cancel.map_or(&never(), Cancel::wake).recv_timeout(wait).ok();
                    pause = (pause * 2).min(RETRY.1);
                }
                outcome => return outcome,
            }
        }
    }

    fn call_once(&self, method: &str, params: &impl Serialize, patience: Patience<'_>) -> Result<String, CallError> {
        let Patience { deadline, cancel, late } = patience;
        let (id, reply) = self.router.expect().map_err(CallError::Closed)?;
        let line = wire::request(id, method, params);
        self.trace("->", &line);
        let cancelled = cancel.map_or_else(never, |cancel| cancel.wake().clone());
        // The waiter learns of the end of the connection, also while the queue is full.
        let sent = select! {
            send(self.requests, line) -> _ => true,
            recv(reply) -> reply => return finish(reply.ok()),
            recv(cancelled) -> _ => false,
            default(deadline.left()) => false,
        };
        if sent {
            select! {
                recv(reply) -> reply => return finish(reply.ok()),
                recv(cancelled) -> _ => {}
                default(deadline.left()) => {}
            }
        }
        match late.filter(|_| sent) {
            // It is the last call of a start.
            Some(late) => {
                let until = Instant::now() + deadline.limit;
                let _ = late.set(Late { id, reply, until, thread: OnceCell::new() });
            }
            None => self.router.forget(id),
        }
        Err(match cancel.and_then(Cancel::cause) {
            Some(cause) => CallError::Cancelled(cause),
            None => CallError::Deadline(format!("codex did not answer {method} within {}", deadline.describe())),
        })
    }

    /// Sends a request whose answer nobody waits for.
    pub fn post(&self, method: &str, params: impl Serialize) {
        self.send(wire::request(self.router.fresh_id(), method, params));
    }

    /// Sends a request without waiting; the answer comes to the receiver.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn ask(&self, method: &str, params: impl Serialize) -> Result<Receiver<Reply>, Cause> {
        let (id, reply) = self.router.expect()?;
        self.send(wire::request(id, method, params));
        Ok(reply)
    }

    /// Sends a notification.
    pub fn notify(&self, method: &str) {
        self.send(wire::notification(method));
    }

    /// Closes codex's stdin once what must not wait has been written; codex ends by that.
    pub fn close_stdin(&self) {
        let _ = self.control.send(None);
    }

    /// Ends a process that nobody needs, within half a second; returns its last words.
    pub fn end(&self) -> Vec<String> {
        self.close_stdin();
        self.group.end()
    }

    fn send(&self, line: Vec<u8>) {
        self.trace("->", &line);
        // A writer that is gone means a process that is gone; its end is told by the reader.
        let _ = self.control.send(Some(line));
    }

    fn read_to_end(&self, leader: Leader, stdout: ChildStdout, on_end: impl FnOnce(Cause)) {
        let mut reader = BufReader::with_capacity(64 * 1024, stdout);
        let mut long = Vec::new();
        while let Ok(true) = self.read_line(&mut reader, &mut long) {}
        // Without its stdout it is of no use, whatever it still does.
        self.group.kill();
        let cause = match leader.wait() {
            Ok(status) => Cause::new(format!("the app-server ended ({status})")),
            Err(_) => Cause::new("the app-server ended"),
        };
        self.router.close(cause.clone());
        let _ = self.control.send(None);
        on_end(cause);
    }

    /// Routes the next line; `false` at the end. A line that lies whole in the buffer is not copied.
    fn read_line(&self, reader: &mut BufReader<ChildStdout>, long: &mut Vec<u8>) -> std::io::Result<bool> {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(false);
        }
        let (taken, complete) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (buffer.len(), false),
        };
        let part = &buffer[..taken - usize::from(complete)];
        if complete && long.is_empty() {
            self.handle(part);
        } else {
            // Past the cap only its being too long is kept.
            if long.len() <= MAX_LINE {
                long.extend_from_slice(part);
            }
            if complete {
                if long.len() > MAX_LINE {
                    self.router.skip();
                } else {
                    self.handle(long);
                }
                *long = Vec::new();
            }
        }
        reader.consume(taken);
        Ok(true)
    }

    fn handle(&self, line: &[u8]) {
        self.trace("<-", line);
        if let Routed::Refuse { id, method } = self.router.route(line) {
            log::warn!("codex asks for {method}: refused");
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let _ = self.control.send(Some(server_requests::refusal(&id, &method, now)));
        }
    }

    fn trace(&self, arrow: &str, line: &[u8]) {
        if !self.debug {
            return;
        }
        if log::log_enabled!(target: "codex_wire", log::Level::Trace) {
            log::trace!(target: "codex_wire", "{arrow} {}", String::from_utf8_lossy(line).trim_end());
        } else if let Ok(probe) = serde_json::from_slice::<wire::Probe<'_>>(line) {
            let id = probe.id.map_or("-", |id| id.get());
            let method = if probe.method.is_empty() { "(response)" } else { &*probe.method };
            log::info!(target: "codex_wire", "{arrow} {method} id={id} thread={} {} bytes", probe.params.thread_id, line.len());
        }
    }
}

fn finish(reply: Option<Reply>) -> Result<String, CallError> {
    match reply {
        Some(Ok(line)) => wire::response(&line).map(str::to_owned).map_err(CallError::Refused),
        Some(Err(cause)) => Err(CallError::Closed(cause)),
        None => Err(CallError::Closed(Cause::new("the connection to the app-server ended"))),
    }
}

/// Writes whole lines until it is told to close or the pipe breaks: what must not wait first and by itself, requests
/// several at a time where several wait.
fn write_loop(mut stdin: impl Write, requests: &Receiver<Vec<u8>>, control: &Receiver<Option<Vec<u8>>>) {
    loop {
        let (batch, more) = select_biased! {
            recv(control) -> line => (line.ok().flatten(), false),
            recv(requests) -> line => (line.ok(), true),
        };
        let Some(mut batch) = batch else { return };
        while more && batch.len() < 64 * 1024 {
            let Ok(line) = requests.try_recv() else { break };
            batch.extend_from_slice(&line);
        }
        if stdin.write_all(&batch).is_err() {
            // The reader sees the end of the process and tells everybody.
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps what is written with each write.
    struct Writes<'a>(&'a mut Vec<String>);

    impl Write for Writes<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.push(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_must_not_wait_overtakes_requests_and_takes_none_along() {
        let (requests, request_queue) = unbounded();
        let (control, control_queue) = unbounded();
        ["r1 ", "r2 ", "r3 "].iter().for_each(|line| requests.send(line.as_bytes().to_vec()).unwrap());
        ["c1 ", "c2 "].iter().for_each(|line| control.send(Some(line.as_bytes().to_vec())).unwrap());
        // The loop ends when there is nobody left to send.
        drop(requests);
        let mut writes = Vec::new();
        write_loop(Writes(&mut writes), &request_queue, &control_queue);
        assert_eq!(writes, ["c1 ", "c2 ", "r1 r2 r3 "]);
    }
}
