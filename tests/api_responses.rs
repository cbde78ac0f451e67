//! Responses byte by byte: what requests mean, which are refused and where, what answers look like, what is kept.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod api_util;

use std::sync::Arc;

use codex_completions::api::cut::CutRules;
use codex_completions::api::error::ApiError;
use codex_completions::api::responses::Record;
use codex_completions::api::responses::request::{Stored, parse as parse_raw};
use codex_completions::api::{ApiRequest, EncodeOptions};
use codex_completions::turn::{Finish, Item, Part, Role, Tool, ToolCall, TurnError, TurnErrorKind};
use serde_json::{Value, json};

use api_util::Step::{self, Event, Fail, Keepalive, Open};
use api_util::{SHOWN, call, encode, end, end_with, golden, message, reasoning, sealed, stamp, text};

/// Bytes that a request may take out of the store.
const MAX_STORED: usize = 10_000;

fn find(id: &str) -> Option<Arc<Record>> {
    let call = Item::ToolCall(ToolCall { id: "c7".into(), name: "f".into(), arguments: "{}".into() });
    let output = match id {
        "resp_talk" => vec![None, Some(message(Role::Assistant, "Yes"))],
        "resp_call" => vec![Some(call)],
        "resp_long" => vec![Some(message(Role::Assistant, &"x".repeat(MAX_STORED / 3)))],
        _ => return None,
    };
    let history = vec![message(Role::User, "Before")];
    Some(Arc::new(Record { id: id.into(), json: String::new(), history, output }))
}

fn stored() -> Stored<'static> {
    Stored { find: &find, max_bytes: MAX_STORED, taken: 0 }
}

fn try_parse(body: &Value) -> Result<ApiRequest, ApiError> {
    parse_raw(body.to_string().as_bytes(), true, true, &mut stored())
}

fn parse(body: &Value) -> ApiRequest {
    try_parse(body).unwrap_or_else(|error| panic!("{error} for {body}"))
}

#[test]
fn answers_are_exact() {
    let tools = json!([{"type": "function", "name": "get_weather", "parameters": {"type": "object"}, "strict": true}]);
    let hidden = EncodeOptions { reasoning: false, ..SHOWN };
    let rows: Vec<(&str, Value, EncodeOptions, Vec<Step>)> = vec![
        (
            "text",
            json!({"input": "Hi"}),
            SHOWN,
            vec![
                Open,
                Event(0, text("Hel")),
                Keepalive,
                Event(0, text("")),
                Event(0, text("lo\u{2028}😀")),
                Event(0, end(Finish::Stop)),
            ],
        ),
        (
            "echo",
            json!({"input": "Hi", "instructions": "Be \"brief\"", "store": false, "metadata": {"k": "v"}, "temperature": 0.5,
                "max_output_tokens": 9, "previous_response_id": "resp_talk", "reasoning": {"effort": "low"},
                "text": {"verbosity": "low"}, "user": "u"}),
            SHOWN,
            vec![Event(0, text("cut o")), Event(0, end_with(Finish::Length, None))],
        ),
        (
            "tools",
            json!({"input": "Hi", "tools": tools, "parallel_tool_calls": true}),
            SHOWN,
            vec![
                Event(0, reasoning("**Hm**")),
                Event(0, reasoning("\n\nso")),
                Event(0, text("Let me look.")),
                Event(0, call("call_1", "{\"city\": \"Zürich\"}")),
                Event(0, call("call_2", "")),
                Event(0, end(Finish::ToolCalls)),
            ],
        ),
        (
            "hidden",
            json!({"input": "Hi"}),
            hidden,
            vec![Event(0, reasoning("secret")), Event(0, text("Done")), Event(0, end(Finish::ContentFilter))],
        ),
        (
            "sealed",
            json!({"input": "Hi", "include": ["reasoning.encrypted_content"], "tools": tools}),
            SHOWN,
            vec![
                Event(0, reasoning("One")),
                Event(0, sealed("S\"1")),
                Event(0, reasoning("\n\n")),
                Event(0, reasoning("two")),
                Event(0, reasoning("\n\nthree")),
                Event(0, sealed("S2")),
                Event(0, sealed("S3")),
                Event(0, text("So")),
                Event(0, sealed("S4")),
                Event(0, call("call_1", "{}")),
                Event(0, end(Finish::ToolCalls)),
            ],
        ),
        (
            "sealed_not_shown",
            json!({"input": "Hi"}),
            hidden,
            vec![
                Event(0, reasoning("secret")),
                Event(0, sealed("S1")),
                Event(0, text("So")),
                Event(0, end(Finish::Stop)),
            ],
        ),
        ("empty", json!({"input": "Hi"}), SHOWN, vec![Event(0, end(Finish::Stop))]),
        (
            "failed",
            json!({"input": "Hi"}),
            SHOWN,
            vec![Event(0, text("Half a")), Fail(TurnError::new(TurnErrorKind::RateLimited, "slow \"down\""))],
        ),
    ];
    for (name, mut body, options, steps) in rows {
        body["stream"] = json!(true);
        let stream = encode(&parse(&body), &steps, options).unwrap();
        golden(&format!("response_{name}.sse"), &stream);
        let events = check_stream(name, &stream);
        body["stream"] = json!(false);
        if let Some(whole) = encode(&parse(&body), &steps, options) {
            golden(&format!("response_{name}.json"), &whole);
            assert_eq!(serde_json::from_slice::<Value>(&whole).unwrap(), events.last().unwrap()["response"], "{name}");
        }
    }
}

/// What holds for every stream. Returns its events.
fn check_stream(name: &str, out: &[u8]) -> Vec<Value> {
    let mut events: Vec<Value> = Vec::new();
    for frame in std::str::from_utf8(out).unwrap().strip_suffix("\n\n").unwrap().split("\n\n") {
        if frame.starts_with(": ") || frame == "data: [DONE]" {
            continue;
        }
        let (kind, data) = frame.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        let event: Value = serde_json::from_str(data).unwrap();
        assert_eq!((&event["type"], &event["sequence_number"]), (&json!(kind), &json!(events.len())), "{name}");
        events.push(event);
    }
    // The deltas of each item make up its text, and the items of the events those of the end.
    let mut done: Vec<Value> = Vec::new();
    for event in &events {
        let kind = event["type"].as_str().unwrap();
        let index = || event["output_index"].as_u64().unwrap() as usize;
        if kind.ends_with(".delta") {
            assert_eq!(index(), done.len(), "{name}: only the last item grows");
        }
        if kind == "response.output_item.done" {
            let deltas = events.iter().filter(|e| e["output_index"] == event["output_index"] && e["delta"].is_string());
            let text: String = deltas.map(|e| e["delta"].as_str().unwrap()).collect();
            let item = &event["item"];
            let whole = [&item["content"][0]["text"], &item["summary"][0]["text"], &item["arguments"]];
            assert_eq!(whole.into_iter().find_map(Value::as_str).unwrap_or_default(), text, "{name}");
            done.push(item.clone());
        }
    }
    let end = events.iter().rev().find(|event| event["response"].is_object()).unwrap();
    assert_eq!(end["response"]["output"], json!(done), "{name}");
    assert!(end["response"]["usage"].is_object(), "{name}: usage on every end");
    events
}

#[test]
fn a_request_in_lines_does_not_break_the_events() {
    let body = serde_json::to_string_pretty(&json!({"input": "Hi", "stream": true, "metadata": {"a": "b\nc"},
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}]}));
    let request = parse_raw(body.unwrap().replace('\n', "\r\n").as_bytes(), true, true, &mut stored()).unwrap();
    let out = encode(&request, &[Event(0, text("a")), Event(0, end(Finish::Stop))], SHOWN).unwrap();
    let events = check_stream("lines", &out);
    assert_eq!(events[0]["response"]["metadata"]["a"], "b\nc");
}

#[test]
fn every_400_names_its_place() {
    let with = |more: Value| {
        let mut body = json!({"input": "Hi"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let item = |item: Value| json!({"input": [{"role": "user", "content": "Hi"}, item]});
    let part = |part: Value| item(json!({"role": "user", "content": [part]}));
    let format = |format: Value| with(json!({"text": {"format": format}}));
    let tool = json!([{"type": "function", "name": "f"}]);
    let rows = vec![
        (json!({}), "input", false, "is missing"),
        (json!({"input": 5}), "input", false, "must be a string or an array of items, got a number"),
        (json!({"input": [], "instructions": "x"}), "input", false, "got an empty array"),
        (item(json!("x")), "input[1]", false, "must be an object"),
        (item(json!({})), "input[1].type", false, "is missing"),
        (item(json!({"type": "web_search_call"})), "input[1].type", true, "got `web_search_call`"),
        (item(json!({"type": "item_reference"})), "input[1].id", false, "is missing"),
        (item(json!({"type": "item_reference", "id": "x"})), "input[1].id", false, "`x`, which was not stored here"),
        (item(json!({"type": "item_reference", "id": "msg_talk_2"})), "input[1].id", false, "was not stored here"),
        (
            item(json!({"type": "item_reference", "id": "fc_call_0"})),
            "input[1].id",
            false,
            "`c7` must be followed by its result",
        ),
        (item(json!({"type": "message"})), "input[1].role", false, "is missing"),
        (
            item(json!({"role": "tool", "content": "x"})),
            "input[1].role",
            false,
            "must be one of user, assistant, system, developer",
        ),
        (item(json!({"role": "user"})), "input[1].content", false, "is missing"),
        (part(json!({"type": "input_file"})), "input[1].content[0].type", true, "`input_file` is not supported"),
        (part(json!({"type": "input_image"})), "input[1].content[0].image_url", false, "is missing"),
        (
            part(json!({"type": "input_image", "image_url": "https://x/y.png"})),
            "input[1].content[0].image_url",
            false,
            "not fetched",
        ),
        (item(json!({"type": "function_call", "name": "f"})), "input[1].call_id", false, "is missing"),
        (
            item(json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": {}})),
            "input[1].arguments",
            false,
            "must be a string",
        ),
        (
            item(json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": ""})),
            "input[1]",
            false,
            "must be followed by its result",
        ),
        (item(json!({"type": "function_call_output", "output": "x"})), "input[1].call_id", false, "is missing"),
        (item(json!({"type": "function_call_output", "call_id": "c"})), "input[1].output", false, "is missing"),
        (
            item(json!({"type": "function_call_output", "call_id": "c", "output": "x"})),
            "input[1].call_id",
            false,
            "must answer a call `c`",
        ),
        (
            item(json!({"type": "reasoning", "summary": [{}], "encrypted_content": "x"})),
            "input[1].summary[0].text",
            false,
            "is missing",
        ),
        (with(json!({"model": 1})), "model", false, "must be a string"),
        (with(json!({"instructions": []})), "instructions", false, "must be a string, got an array"),
        (with(json!({"stream": 1})), "stream", false, "must be a boolean"),
        (with(json!({"store": 1})), "store", false, "must be a boolean"),
        (with(json!({"previous_response_id": 5})), "previous_response_id", false, "must be a string"),
        (with(json!({"previous_response_id": "resp_call"})), "input", false, "`c7` must be followed by its result"),
        (with(json!({"background": true})), "background", true, "cannot be true"),
        (with(json!({"conversation": "c"})), "conversation", true, "is not supported"),
        (with(json!({"prompt": {"id": "p"}})), "prompt", true, "is not supported"),
        (with(json!({"include": ["message.output_text.logprobs"]})), "include[0]", true, "cannot be included"),
        (with(json!({"top_logprobs": 2})), "top_logprobs", true, "probabilities are not known"),
        (with(json!({"truncation": "some"})), "truncation", false, "must be one of disabled, auto"),
        (with(json!({"max_output_tokens": 0})), "max_output_tokens", false, "at least 1"),
        (with(json!({"reasoning": {"effort": 1}})), "reasoning.effort", false, "must be a string"),
        (with(json!({"text": "x"})), "text", false, "must be an object"),
        (with(json!({"text": {"verbosity": "x"}})), "text.verbosity", false, "must be one of low, medium, high"),
        (format(json!({"type": "xml"})), "text.format.type", false, "got `xml`"),
        (format(json!({"type": "json_schema", "name": "s"})), "text.format.schema", false, "is missing"),
        (
            format(json!({"type": "json_schema", "name": "s", "schema": {"type": "object"}})),
            "text.format.schema",
            false,
            "name its `properties`",
        ),
        (
            with(json!({"tools": [{"type": "web_search"}]})),
            "tools[0].type",
            true,
            "must be `function`, got `web_search`",
        ),
        (with(json!({"tools": [{"type": "function"}]})), "tools[0].name", false, "is missing"),
        (
            with(json!({"tools": tool, "tool_choice": {"type": "function", "name": "g"}})),
            "tool_choice.name",
            false,
            "got `g`",
        ),
        (
            with(json!({"tools": tool, "tool_choice": {"type": "allowed_tools", "tools": []}})),
            "tool_choice.mode",
            false,
            "is missing",
        ),
        (
            with(json!({"tools": tool, "tool_choice": {"type": "file_search"}})),
            "tool_choice.type",
            true,
            "`function` or `allowed_tools`",
        ),
        (with(json!({"parallel_tool_calls": 1})), "parallel_tool_calls", false, "must be a boolean"),
        (with(json!({"temperature": "x"})), "temperature", false, "must be a number"),
    ];
    for (body, param, is_unsupported, words) in rows {
        let error = try_parse(&body).map(drop).expect_err(&body.to_string());
        assert_eq!((error.status, error.param.as_deref()), (400, Some(param)), "{body}: {error}");
        assert_eq!(error.code, is_unsupported.then_some("unsupported_parameter"), "{body}");
        assert!(error.message.contains(words), "{body}: {error}");
    }
    let error = try_parse(&with(json!({"previous_response_id": "resp_none"}))).unwrap_err();
    assert_eq!((error.status, error.code), (400, Some("previous_response_not_found")));
    assert_eq!(error.param.as_deref(), Some("previous_response_id"));
}

#[test]
fn input_becomes_items_in_its_order() {
    let request = parse(&json!({
        "model": "m", "instructions": "Be brief", "previous_response_id": "resp_call", "stream": true,
        "stream_options": {"include_obfuscation": false}, "max_output_tokens": 50, "parallel_tool_calls": false,
        "reasoning": {"effort": "low", "summary": "concise"}, "include": ["reasoning.encrypted_content"],
        "tools": [{"type": "function", "name": "f", "description": "d", "parameters": {"a": 1}}, {"type": "function", "name": "g"}],
        "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
        "text": {"verbosity": "high", "format": {"type": "json_object"}},
        "input": [
            {"type": "function_call_output", "call_id": "c7", "output": [{"type": "input_text", "text": "4"}, {"type": "input_text", "text": "2"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": "abc"},
            {"type": "reasoning", "id": "rs_2", "summary": []},
            {"type": "item_reference", "id": "rs_talk_0"},
            {"type": "item_reference", "id": "msg_talk_1"},
            {"type": "function_call", "id": "fc_1", "call_id": "c8", "name": "g", "arguments": "oops", "status": "completed"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "So", "annotations": []}, {"type": "refusal", "refusal": "!"}]},
            {"type": "function_call_output", "call_id": "c8", "output": "x"},
            {"role": "system", "content": "S"},
            {"role": "assistant", "content": []},
            {"role": "user", "content": [{"type": "input_text", "text": "See"}, {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}]},
        ],
    }));
    let text = |text: &str| Part::Text(text.into());
    let call = |id: &str, name: &str, arguments: &str| {
        Item::ToolCall(ToolCall { id: id.into(), name: name.into(), arguments: arguments.into() })
    };
    let output = |id: &str, output: &str| Item::ToolOutput { id: id.into(), output: output.into() };
    let picture = Part::Image { url: "data:image/png;base64,iVBORw0KGgo=".into(), detail: Some("auto".into()) };
    assert_eq!(
        request.turn.history,
        [
            message(Role::Developer, "Be brief"),
            message(Role::User, "Before"),
            call("c7", "f", "{}"),
            output("c7", "42"),
            Item::Reasoning { summary: vec!["s".into()], sealed: "abc".into() },
            message(Role::Assistant, "Yes"),
            call("c8", "g", "oops"),
            Item::Message { role: Role::Assistant, content: vec![text("So"), text("!")] },
            output("c8", "x"),
            message(Role::System, "S"),
            message(Role::Assistant, ""),
            Item::Message { role: Role::User, content: vec![text("See"), picture] },
            message(Role::Developer, "Answer by calling at least one of the tools."),
            message(Role::Developer, "Answer with one JSON object and nothing else."),
        ]
    );
    assert_eq!(
        request.turn.tools,
        [Tool { name: "f".into(), description: "d".into(), parameters: "{\"a\":1}".into() }]
    );
    let effort = request.effort.unwrap();
    assert_eq!((effort.value.as_str(), effort.param), ("low", "reasoning.effort"));
    assert_eq!((request.turn.summary.as_deref(), request.turn.verbosity.as_deref()), (Some("concise"), Some("high")));
    assert_eq!(request.cut, CutRules { stop: vec![], max_tokens: Some(50), single_call: true });
    assert!(request.stream);
    let schema = json!({"type": "json_schema", "name": "s", "strict": true, "schema": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": false}});
    let request = parse(&json!({"input": "x", "text": {"format": schema}}));
    assert_eq!(
        request.turn.output_schema.as_deref(),
        Some(r#"{"properties":{"a":{"type":"string"}},"type":"object","required":["a"],"additionalProperties":false}"#)
    );
}

#[test]
fn what_a_request_takes_out_of_the_store_is_bounded() {
    let long = || json!({"type": "item_reference", "id": "msg_long_0"});
    assert!(try_parse(&json!({"input": [long(), long()]})).is_ok());
    assert!(try_parse(&json!({"previous_response_id": "resp_long", "input": [long()]})).is_ok());
    for (body, param) in [
        (json!({"input": [long(), long(), long()]}), "input[2].id"),
        (json!({"previous_response_id": "resp_long", "input": [long(), long()]}), "input[1].id"),
    ] {
        let error = try_parse(&body).unwrap_err();
        assert_eq!((error.status, error.param.as_deref()), (400, Some(param)), "{error}");
        assert!(error.message.contains("PROXY_MAX_BODY_BYTES (10000 bytes): refer to less"), "{error}");
    }
}

#[test]
fn what_is_kept_is_the_conversation_without_instructions_and_lines() {
    let body = json!({
        "input": "Hi", "instructions": "Be brief", "previous_response_id": "resp_talk", "tool_choice": "required",
        "tools": [{"type": "function", "name": "get_weather"}],
    });
    for stream in [true, false] {
        let mut body = body.clone();
        body["stream"] = json!(stream);
        let mut encoder = parse(&body).encoder(&stamp(), SHOWN);
        let mut out = Vec::new();
        let thoughts = [reasoning("r"), sealed("S1"), sealed("S2"), reasoning("of no use")];
        for event in thoughts.into_iter().chain([text("Look"), call("c1", "{}"), end(Finish::ToolCalls)]) {
            encoder.event(0, &event, &mut out);
        }
        assert_eq!(encoder.record(), None, "nothing is kept before the end");
        encoder.finish(&mut out);
        let record = encoder.record().unwrap();
        assert_eq!(record.id, "resp_0123abcd");
        let made = Item::ToolCall(ToolCall { id: "c1".into(), name: "get_weather".into(), arguments: "{}".into() });
        let said = [
            message(Role::User, "Before"),
            message(Role::Assistant, "Yes"),
            message(Role::User, "Hi"),
            Item::Reasoning { summary: vec!["r".into()], sealed: "S1".into() },
            Item::Reasoning { summary: Vec::new(), sealed: "S2".into() },
            message(Role::Assistant, "Look"),
            made,
        ];
        assert_eq!(record.items(None).unwrap(), said.iter().collect::<Vec<_>>());
        // By their places in the answer.
        let at = |index| record.items(Some(index));
        assert_eq!((at(0), at(2), at(3)), (Some(vec![&said[3]]), Some(vec![]), Some(vec![&said[5]])));
        assert_eq!((at(4).unwrap(), at(5)), (vec![&said[6]], None));
        let kept: Value = serde_json::from_str(&record.json).unwrap();
        assert_eq!((&kept["status"], &kept["store"]), (&json!("completed"), &json!(true)));
        if !stream {
            assert_eq!(record.json.as_bytes(), out);
        }
        assert_eq!(encoder.record(), None);
    }
    let not_kept = |body: &Value, can_store| {
        let request = parse_raw(body.to_string().as_bytes(), true, can_store, &mut stored()).unwrap();
        let mut encoder = request.encoder(&stamp(), SHOWN);
        let mut out = Vec::new();
        encoder.event(0, &end(Finish::Stop), &mut out);
        encoder.finish(&mut out);
        assert_eq!(encoder.record(), None);
        assert!(String::from_utf8(out).unwrap().contains("\"store\":false"));
    };
    not_kept(&json!({"input": "Hi", "store": false}), true);
    not_kept(&json!({"input": "Hi", "store": true}), false);
}
