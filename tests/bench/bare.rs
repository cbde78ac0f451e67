//! The least that a client of an app-server can be: the measure for what the proxy adds.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// An app-server and the ways to it.
pub struct Bare {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    calls: u64,
}

impl Bare {
    pub fn start(codex: &str) -> Self {
        let mut child =
            Command::new(codex).arg("app-server").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take(), BufReader::with_capacity(65_536, child.stdout.take().unwrap()));
        let mut bare = Self { child, stdin, stdout, calls: 0 };
        bare.call(
            "initialize",
            &json!({ "clientInfo": { "name": "bench", "version": "1" }, "capabilities": { "experimentalApi": true } }),
        );
        bare.write(&json!({ "method": "initialized" }));
        bare
    }

    fn write(&mut self, message: &Value) {
        writeln!(self.stdin.as_mut().unwrap(), "{message}").unwrap();
    }

    fn read(&mut self) -> Value {
        let mut line = Vec::new();
        self.stdout.read_until(b'\n', &mut line).unwrap();
        serde_json::from_slice(&line).unwrap()
    }

    fn send(&mut self, method: &str, params: &Value) -> u64 {
        self.calls += 1;
        self.write(&json!({ "id": self.calls, "method": method, "params": params }));
        self.calls
    }

    fn call(&mut self, method: &str, params: &Value) -> Value {
        let id = self.send(method, params);
        loop {
            let message = self.read();
            if message["id"] == id && message["method"].is_null() {
                return message["result"].clone();
            }
        }
    }

    /// Completions of one prompt, `count` of them at once: the time to the first delta, and the number of deltas.
    pub fn complete(&mut self, prompt: &str, count: usize) -> (Duration, usize) {
        let began = Instant::now();
        let mut threads = Vec::new();
        for _ in 0..count {
            let start = json!({ "ephemeral": true, "cwd": "/", "approvalPolicy": "never", "sandbox": "read-only", "environments": [] });
            threads.push(self.call("thread/start", &start)["thread"]["id"].clone());
        }
        for thread in &threads {
            let items =
                json!([{ "type": "message", "role": "user", "content": [{ "type": "input_text", "text": prompt }] }]);
            self.send("thread/inject_items", &json!({ "threadId": thread, "items": items }));
            self.send("turn/start", &json!({ "threadId": thread, "input": [] }));
        }
        let (mut first, mut deltas, mut completed) = (Duration::ZERO, 0, 0);
        while completed < count {
            let message = self.read();
            match message["method"].as_str() {
                Some("item/agentMessage/delta") => {
                    if deltas == 0 {
                        first = began.elapsed();
                    }
                    deltas += 1;
                }
                Some("turn/completed") => completed += 1,
                _ => {}
            }
        }
        for thread in threads {
            self.call("thread/unsubscribe", &json!({ "threadId": thread }));
        }
        (first, deltas)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
