//! How much memory a request costs. Alone in its process, so that the peak is its own.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use codex_completions::api::chat;
use codex_completions::turn::{Item, Part, Role};

/// The most memory that this process ever had, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn large_bodies_cost_little_more_than_their_bytes() {
    // Small values in great number make a tree of values twenty times as large as its text.
    let junk = "[{\"a\":0},{\"b\":[]}],".repeat(200_000);
    let text = "y".repeat(4 << 20);
    let body = format!(r#"{{"x":[{junk}0],"messages":[{{"role":"user","content":"{text}"}}]}}"#);
    let before = peak();
    let request = chat::parse(body.as_bytes(), true).unwrap();
    let grown = peak() - before;
    assert!(grown < 3 * text.len(), "{grown} bytes for {} of text in {}", text.len(), body.len());
    assert!(request.turn.history == [Item::Message { role: Role::User, content: vec![Part::Text(text)] }]);
}
