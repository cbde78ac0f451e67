//! What integration tests share: the program under test and its peers as processes that end with their test, a raw HTTP
//! client that hides nothing, and waits that have a deadline and never sleep blindly.

// Each test file uses its own part of this.
#![allow(dead_code, unreachable_pub, unused_imports)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

pub mod client;
pub mod model;
pub mod process;
pub mod proxy;
pub mod wait;

pub use client::{Connection, Response, Stream};
pub use model::Model;
pub use process::Process;
pub use proxy::{Builder, PROTOCOLS, Proxy};
pub use wait::{PATIENCE, eventually, until};

/// A directory that goes with its test.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("codex-completions-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether a file below `directory` holds `word`.
pub fn holds(directory: &Path, word: &str) -> bool {
    std::fs::read_dir(directory).into_iter().flatten().flatten().any(|entry| match entry.path().is_dir() {
        true => holds(&entry.path(), word),
        false => String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap_or_default()).contains(word),
    })
}
