//! What the tests of the API's front ends share.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::path::Path;

use codex_completions::api::error::ApiError;
use codex_completions::api::{ApiRequest, EncodeOptions, Stamp};
use codex_completions::turn::{Finish, Item, Part, Role, ToolCall, TurnError, TurnEvent, TurnOutcome, Usage};

pub(crate) fn golden(name: &str, got: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(&path, got).unwrap();
    }
    let expected = std::fs::read(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(String::from_utf8_lossy(got), String::from_utf8_lossy(&expected), "{name}");
}

pub(crate) fn stamp() -> Stamp {
    Stamp { id: "0123abcd".into(), created: 1_700_000_000, model: "gpt-\"6\"".into() }
}

pub(crate) fn text(text: &str) -> TurnEvent {
    TurnEvent::Text(text.into())
}

pub(crate) fn reasoning(text: &str) -> TurnEvent {
    TurnEvent::Reasoning(text.into())
}

pub(crate) fn sealed(sealed: &str) -> TurnEvent {
    TurnEvent::Sealed(sealed.into())
}

pub(crate) fn call(id: &str, arguments: &str) -> TurnEvent {
    TurnEvent::ToolCall(ToolCall { id: id.into(), name: "get_weather".into(), arguments: arguments.into() })
}

pub(crate) fn end_with(finish: Finish, usage: Option<Usage>) -> TurnEvent {
    TurnEvent::End(TurnOutcome { result: Ok(finish), usage })
}

pub(crate) fn end(finish: Finish) -> TurnEvent {
    end_with(finish, Some(Usage { input: 100, cached: 64, output: 20, reasoning: 7 }))
}

/// What happens to an encoder.
pub(crate) enum Step {
    Open,
    Keepalive,
    Event(u32, TurnEvent),
    Fail(TurnError),
}

pub(crate) const SHOWN: EncodeOptions = EncodeOptions { reasoning: true, keepalive_chunk: false };

/// The whole answer to a request; `None` if a whole answer would be a plain error.
pub(crate) fn encode(request: &ApiRequest, steps: &[Step], options: EncodeOptions) -> Option<Vec<u8>> {
    let mut encoder = request.encoder(&stamp(), options);
    let mut out = Vec::new();
    for step in steps {
        match step {
            Step::Open => encoder.open(&mut out),
            Step::Keepalive if !request.stream => {}
            Step::Keepalive => encoder.keepalive(&mut out),
            Step::Event(index, event) => encoder.event(*index, event, &mut out),
            Step::Fail(_) if !request.stream => return None,
            Step::Fail(error) => {
                encoder.fail(&ApiError::from(error), &mut out);
                return Some(out);
            }
        }
    }
    if !request.stream {
        assert!(out.is_empty(), "a whole answer is written at its end");
    }
    encoder.finish(&mut out);
    Some(out)
}

pub(crate) fn message(role: Role, text: &str) -> Item {
    Item::Message { role, content: vec![Part::Text(text.into())] }
}
