//! The program under test as a process, on a fake codex unless told otherwise.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::process::{Seen, descendants, wait_until_gone};
use super::{Connection, Model, PATIENCE, Process, Response, Stream, TempDir, client, eventually, model, until};

/// A version of each protocol, for what is to be the same with both.
pub const PROTOCOLS: [&str; 2] = ["0.169.0", "0.50.0"];

/// How the program is to be started.
pub struct Builder {
    command: Command,
    home: TempDir,
}

impl Builder {
    fn new(codex: &Path) -> Self {
        let home = TempDir::new();
        let mut command = Command::new(env!("CARGO_BIN_EXE_codex-completions"));
        command.env_clear();
        for name in ["PATH", "HOME", "RUST_BACKTRACE", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("PORT", "0").env("CODEX_HOME", home.path()).env("CODEX_BIN", codex).env("RUST_LOG", "debug");
        // The fake codex keeps its books in the home, too.
        command.env("FAKE_CODEX_DIR", home.path());
        Self { command, home }
    }

    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn unset(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    pub fn arg(mut self, argument: &str) -> Self {
        self.command.arg(argument);
        self
    }

    /// A file in CODEX_HOME.
    pub fn file(self, name: &str, text: &str) -> Self {
        self.home.write(name, text);
        self
    }

    /// Faults of the fake codex, from its next start on (see `tests/fake-codex`).
    pub fn faults(self, faults: &str) -> Self {
        self.file("faults", faults)
    }

    /// The process, listening or not.
    pub fn process(mut self) -> (Process, TempDir) {
        (Process::start(&mut self.command), self.home)
    }

    /// Started and listening, ready or not.
    pub fn listening(self) -> Proxy {
        let (mut process, home) = self.process();
        let address = model::address(&process.line());
        Proxy { process, address, home }
    }

    /// Started and ready.
    #[track_caller]
    pub fn start(self) -> Proxy {
        let proxy = self.listening();
        proxy.wait_until_ready(PATIENCE);
        proxy
    }
}

/// The running program.
pub struct Proxy {
    pub process: Process,
    pub address: SocketAddr,
    /// CODEX_HOME.
    pub home: TempDir,
}

impl Proxy {
    /// On the fake codex.
    pub fn fake() -> Builder {
        Builder::new(&model::example("fake-codex"))
    }

    /// On a fake codex of that version.
    pub fn version(version: &str) -> Builder {
        Self::fake().env("FAKE_CODEX_VERSION", version)
    }

    /// On a real codex that asks `model`.
    pub fn real(version: &str, model: &Model) -> Builder {
        Builder::new(&real_codex(version)).file("config.toml", &model.config()).env("MOCK_KEY", "key-of-the-model")
    }

    pub fn ready(&self) -> Response {
        client::get(self.address, "/readyz")
    }

    #[track_caller]
    pub fn wait_until_ready(&self, limit: Duration) {
        until("the proxy is ready", limit, || self.ready().status == 200);
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        client::get(self.address, path)
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Response {
        client::post(self.address, path, body)
    }

    /// A whole completion of one user message.
    #[track_caller]
    pub fn chat(&self, prompt: &str) -> Response {
        self.post("/v1/chat/completions", &ask(prompt, false))
    }

    /// A streamed one, read to its end.
    #[track_caller]
    pub fn stream(&self, prompt: &str) -> Response {
        self.post("/v1/chat/completions", &ask(prompt, true))
    }

    /// A streamed one whose head has come.
    #[track_caller]
    pub fn open(&self, prompt: &str) -> Stream {
        Stream::open(self.address, "/v1/chat/completions", &ask(prompt, true))
    }

    /// A completion that was asked for and nothing more.
    #[track_caller]
    pub fn begin(&self, prompt: &str, stream: bool) -> Connection {
        let mut connection = Connection::open(self.address);
        connection.post("/v1/chat/completions", &ask(prompt, stream));
        connection
    }

    /// A number of `/metrics`.
    #[track_caller]
    pub fn gauge(&self, name: &str) -> u64 {
        let (page, start) = (self.get("/metrics").text(), format!("codex_completions_{name} "));
        let value = page.lines().find_map(|line| line.strip_prefix(start.as_str()));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {page}"))
    }

    /// Waits until so many turns run.
    #[track_caller]
    pub fn wait_until_running(&self, turns: u64, limit: Duration) {
        until(&format!("{turns} turns run"), limit, || self.gauge("turns_running") == turns);
    }

    /// How often the fake codex was asked for `method` of v2, or for what older ones have in its place; it needs a file
    /// `seen`. A call without params only asks whether codex knows the method.
    pub fn calls(&self, method: &str) -> usize {
        let older: &[&str] = match method {
            "thread/start" => &["thread/resume", "newConversation"],
            "turn/start" => &["sendUserMessage", "sendUserTurn"],
            "turn/interrupt" => &["interruptConversation"],
            "thread/unsubscribe" => &["removeConversationListener"],
            _ => &[],
        };
        let names: Vec<String> =
            older.iter().chain([&method]).map(|name| format!("\"method\":\"{name}\",\"params\":{{\"")).collect();
        self.book("seen").iter().filter(|line| names.iter().any(|name| line.contains(name))).count()
    }

    /// Why it is not ready, in its own words.
    #[track_caller]
    pub fn reason(&self) -> String {
        self.ready().json()["reason"].as_str().unwrap_or_default().to_owned()
    }

    /// The running app-servers, oldest first. A child that codex is just forking looks like one and does not count.
    pub fn app_servers(&self) -> Vec<Seen> {
        let mut found = descendants(self.process.pid());
        found.retain(|process| process.arguments().iter().any(|argument| argument == "app-server"));
        let pids: Vec<u32> = found.iter().map(|process| process.pid).collect();
        found.retain(|process| !pids.contains(&process.parent));
        found.sort_by_key(|process| process.pid);
        found
    }

    /// The only app-server; waits for one.
    #[track_caller]
    pub fn app_server(&self) -> Seen {
        eventually("there is one app-server", PATIENCE, || {
            let mut found = self.app_servers();
            if found.len() == 1 { found.pop() } else { None }
        })
    }

    /// Asks it to stop and waits for it and for everything that it started.
    #[track_caller]
    pub fn stop(&mut self, limit: Duration) -> ExitStatus {
        let family = descendants(self.process.pid());
        self.process.signal(Signal::TERM);
        let status = self.process.wait(limit);
        wait_until_gone(&family, Duration::from_secs(1));
        status
    }

    /// What the fake codex wrote into one of its books (`starts`, `seen`), line by line.
    pub fn book(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.home.path().join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// The body of a chat completion of one user message.
pub fn ask(prompt: &str, stream: bool) -> Value {
    json!({ "model": "codex-5", "stream": stream, "messages": [{ "role": "user", "content": prompt }] })
}

/// The native binary of a codex version, installed where it is missing.
fn real_codex(version: &str) -> PathBuf {
    let output =
        Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/fetch-codex")).arg(version).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}
