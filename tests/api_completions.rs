//! Text completions byte by byte.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod api_util;

use codex_completions::api::completions::parse;
use codex_completions::api::cut::CutRules;
use codex_completions::turn::{Finish, Role, TurnError, TurnErrorKind, TurnRequest};
use serde_json::{Value, json};

use api_util::Step::{Event, Fail, Keepalive, Open};
use api_util::{SHOWN, encode, end, end_with, golden, message, reasoning, text};

#[test]
fn answers_are_exact() {
    let usage = json!({"include_usage": true});
    let two = json!(["One", "Two"]);
    let rows = [
        (
            "text",
            json!({"prompt": "Hi"}),
            vec![Event(0, text("Hel")), Keepalive, Event(0, text("lo")), Event(0, end(Finish::Stop))],
        ),
        (
            "echo",
            json!({"prompt": two, "echo": true, "n": 2, "stream_options": usage}),
            vec![
                Open,
                Event(0, reasoning("no place for it")),
                Event(0, text("a")),
                Event(3, text("d")),
                Event(0, end(Finish::Stop)),
                Event(1, end(Finish::Length)),
                Event(2, end_with(Finish::ContentFilter, None)),
                Event(3, end(Finish::Stop)),
            ],
        ),
        (
            "failed",
            json!({"prompt": "Hi"}),
            vec![Event(0, text("Hel")), Fail(TurnError::new(TurnErrorKind::Timeout, "PROXY_TIMEOUT_MS (5 ms) passed"))],
        ),
    ];
    for (name, mut body, steps) in rows {
        body["stream"] = json!(true);
        let stream = encode(&parse(body.to_string().as_bytes()).unwrap(), &steps, SHOWN).unwrap();
        golden(&format!("completion_{name}.sse"), &stream);
        body["stream"] = json!(false);
        body.as_object_mut().unwrap().remove("stream_options");
        if let Some(whole) = encode(&parse(body.to_string().as_bytes()).unwrap(), &steps, SHOWN) {
            golden(&format!("completion_{name}.json"), &whole);
        }
    }
}

#[test]
fn every_400_names_its_place() {
    let rows = [
        (json!({}), "prompt", false, "is missing"),
        (json!({"prompt": 5}), "prompt", false, "must be a string or an array of strings, got a number"),
        (json!({"prompt": []}), "prompt", false, "got an empty array"),
        (json!({"prompt": ["a", {}]}), "prompt[1]", false, "must be a string, got an object"),
        (json!({"prompt": [1, 2]}), "prompt[0]", true, "token numbers are not supported"),
        (json!({"prompt": [[1, 2]]}), "prompt[0]", true, "token numbers are not supported"),
        (json!({"prompt": vec!["a"; 17], "n": 8}), "prompt", false, "more than 128 answers"),
        (json!({"prompt": "a", "suffix": "b"}), "suffix", true, "is not supported"),
        (json!({"prompt": "a", "logprobs": 1}), "logprobs", true, "is not supported"),
        (json!({"prompt": "a", "best_of": 3}), "best_of", true, "must be `n`"),
        (json!({"prompt": "a", "echo": 1}), "echo", false, "must be a boolean"),
        (json!({"prompt": "a", "n": 9}), "n", false, "from 1 to 8"),
        (json!({"prompt": "a", "stop": ""}), "stop", false, "must not be empty"),
        (json!({"prompt": "a", "max_tokens": 0}), "max_tokens", false, "at least 1"),
        (json!({"prompt": "a", "model": 1}), "model", false, "must be a string"),
        (json!({"prompt": "a", "user": 1}), "user", false, "must be a string"),
        (json!({"prompt": "a", "stream_options": {}}), "stream_options", false, "only allowed when `stream` is true"),
    ];
    for (body, param, is_unsupported, words) in rows {
        let error = parse(body.to_string().as_bytes()).map(drop).expect_err(&body.to_string());
        assert_eq!((error.status, error.param.as_deref()), (400, Some(param)), "{body}: {error}");
        assert_eq!(error.code, is_unsupported.then_some("unsupported_parameter"), "{body}");
        assert!(error.message.contains(words), "{body}: {error}");
    }
}

#[test]
fn each_prompt_is_a_message_and_has_n_answers() {
    let body = json!({"prompt": ["One", ""], "n": 2, "stop": ["x"], "max_tokens": 7, "model": "m", "best_of": 2,
        "suffix": null, "temperature": 0.5, "seed": 3, "unknown": {}});
    let mut request = parse(body.to_string().as_bytes()).unwrap();
    assert_eq!((request.model.as_deref(), request.choices(), request.stream), (Some("m"), 4, false));
    assert_eq!(request.cut, CutRules { stop: vec!["x".into()], max_tokens: Some(7), single_call: false });
    let asked = |text: &str| TurnRequest { history: vec![message(Role::User, text)], ..TurnRequest::default() };
    let turns: Vec<_> = (0..4).map(|index| request.turn(index)).collect();
    assert_eq!(turns, [asked("One"), asked("One"), asked(""), asked("")]);
    assert_eq!(parse(Value::from_iter([("prompt", "Hi")]).to_string().as_bytes()).unwrap().choices(), 1);
}
