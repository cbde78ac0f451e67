//! The way out: whole lines only, several of them in one write.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

pub(crate) struct Out(Mutex<File>);

impl Out {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self(Mutex::new(File::from(std::io::stdout().as_fd().try_clone_to_owned()?))))
    }

    /// Writes bytes as they are. Whoever reads no more gets no more.
    pub(crate) fn write(&self, bytes: &[u8]) {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes).is_err() {
            std::process::exit(0);
        }
    }

    pub(crate) fn line(&self, line: &str) {
        self.write(format!("{line}\n").as_bytes());
    }

    pub(crate) fn result(&self, id: &Value, result: &str) {
        self.line(&format!(r#"{{"id":{id},"result":{result}}}"#));
    }

    pub(crate) fn error(&self, id: &Value, code: i64, message: &str) {
        self.line(&format!(r#"{{"error":{{"code":{code},"message":{}}},"id":{id}}}"#, text(message)));
    }

    /// What is no message, in every form that was thought of.
    pub(crate) fn garbage(&self) {
        self.write(b"not json\n\n{\n[]\n42\nnull\n\"text\"\n{}\n{\"id\":null}\n{\"method\":7}\n{\"params\":{\"threadId\":{}}}\n");
        self.write(b"{\"id\":987654321,\"result\":{}}\n{\"id\":\"who\",\"error\":{}}\n\xff\xfe\x00bytes\n{\"method\":\"item/agentMessage/delta\"}\n");
    }
}

/// A JSON string.
pub(crate) fn text(text: &str) -> String {
    Value::from(text).to_string()
}

pub(crate) fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis())
}

/// A notification in the order of members that codex has.
pub(crate) fn notification(method: &str, params: &str) -> String {
    format!(r#"{{"method":"{method}","params":{{{params}}},"emittedAtMs":{}}}"#, now()) + "\n"
}
