//! The scripted model as a process, and its control side.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::{Process, client};

/// A scripted Responses API; see `tests/scripted-model/answer.rs` for what directs it.
pub struct Model {
    pub process: Process,
    pub address: SocketAddr,
}

impl Model {
    pub fn start() -> Self {
        let mut process = Process::start(Command::new(example("scripted-model")).arg("--exit-on-eof"));
        let address = address(&process.line());
        Self { process, address }
    }

    /// What a provider's `base_url` is to be.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// A config.toml that makes it the provider of codex; its key is expected in `MOCK_KEY`.
    pub fn config(&self) -> String {
        format!(
            "model_provider = \"mock\"\n[model_providers.mock]\nname = \"mock\"\nbase_url = \"{}\"\n\
             wire_api = \"responses\"\nenv_key = \"MOCK_KEY\"\nrequest_max_retries = 1\nstream_max_retries = 1\n",
            self.url()
        )
    }

    /// Every request that it got, whole, oldest first.
    pub fn requests(&self) -> Vec<Value> {
        let requests = client::get(self.address, "/requests").json();
        requests.as_array().cloned().unwrap_or_default()
    }

    /// Its open and finished answers.
    pub fn connections(&self) -> Value {
        client::get(self.address, "/connections").json()
    }

    /// Lets the answers that wait at this gate go on.
    pub fn open(&self, gate: &str) {
        client::post(self.address, &format!("/open/{gate}"), &json!({}));
    }

    /// Forgets everything.
    pub fn reset(&self) {
        client::post(self.address, "/reset", &json!({}));
    }
}

/// The address in `listening on http://ADDRESS/v1`.
#[track_caller]
pub fn address(line: &str) -> SocketAddr {
    let address = line.strip_prefix("listening on http://").and_then(|rest| rest.strip_suffix("/v1"));
    address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address in {line:?}"))
}

/// The program of an example, built beside the program under test.
pub fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_codex-completions")).with_file_name("examples").join(name)
}
