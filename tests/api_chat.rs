//! Chat completions byte by byte: what requests mean, which are refused and where, what answers look like.
//!
//! Answers are compared with `tests/goldens`; `UPDATE_GOLDENS=1` writes them anew, to be read in the diff.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod api_util;

use std::time::Duration;

use codex_completions::api::cut::CutRules;
use codex_completions::api::error::ApiError;
use codex_completions::api::{ApiRequest, EncodeOptions, chat};
use codex_completions::turn::{Finish, Item, Part, Role, Tool, ToolCall, TurnError, TurnErrorKind, Usage};
use serde_json::{Value, json};

use api_util::Step::{self, Event, Fail, Keepalive, Open};
use api_util::{SHOWN, call, end, end_with, golden, message, reasoning, stamp, text};

fn try_parse(body: &Value) -> Result<ApiRequest, ApiError> {
    chat::parse(body.to_string().as_bytes(), true)
}

fn parse(body: &Value) -> ApiRequest {
    try_parse(body).unwrap_or_else(|error| panic!("{error} for {body}"))
}

/// A body with one message and whatever else.
fn body(more: &Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

// ---------------------------------------------------------------------------------------------------------- answers

struct Scenario {
    name: &'static str,
    request: Value,
    steps: Vec<Step>,
    options: EncodeOptions,
}

fn scenarios() -> Vec<Scenario> {
    let scenario = |name, request: Value, steps| Scenario { name, request: body(&request), steps, options: SHOWN };
    let tools = json!([{"type": "function", "function": {"name": "get_weather"}}]);
    let usage = json!({"stream_options": {"include_usage": true}});
    let awkward = "\u{2028}\u{2029} 😀 \u{0} \u{1b}[0m \"q\" \\n \u{7f} </script> é\r\n\t";
    vec![
        scenario(
            "text",
            json!({}),
            vec![Open, Event(0, text("Hel")), Event(0, text("lo")), Event(0, end(Finish::Stop))],
        ),
        scenario(
            "usage",
            usage.clone(),
            vec![Event(0, text("Hello")), Keepalive, Open, Event(0, text("")), Event(0, end(Finish::Stop))],
        ),
        scenario(
            "reasoning",
            json!({}),
            vec![
                Event(0, reasoning("**Thinking**")),
                Event(0, reasoning("\n\nmore")),
                Event(0, text("Done")),
                Event(0, end(Finish::Stop)),
            ],
        ),
        Scenario {
            options: EncodeOptions { reasoning: false, keepalive_chunk: true },
            ..scenario(
                "reasoning_hidden",
                usage.clone(),
                vec![
                    Keepalive,
                    Event(0, reasoning("secret")),
                    Keepalive,
                    Event(0, text("Done")),
                    Event(0, end(Finish::Stop)),
                ],
            )
        },
        scenario(
            "tools",
            json!({"tools": tools}),
            vec![
                Event(0, text("Let me look.")),
                Event(0, call("call_1", "{\"city\": \"Zürich\"}")),
                Event(0, call("call_2", "not {json")),
                Event(0, end(Finish::ToolCalls)),
            ],
        ),
        scenario(
            "tools_only",
            json!({"tools": tools, "stream_options": {"include_usage": true}}),
            vec![Event(0, call("call_1", "{}")), Event(0, end(Finish::Stop))],
        ),
        scenario(
            "functions",
            json!({"functions": [{"name": "get_weather"}]}),
            vec![Event(0, call("call_1", "{\"city\":\"Bern\"}")), Event(0, end_with(Finish::ToolCalls, None))],
        ),
        scenario(
            "choices",
            json!({"n": 3, "stream_options": {"include_usage": true}}),
            vec![
                Open,
                Event(0, text("first")),
                Event(1, text("second")),
                Event(0, end(Finish::Stop)),
                Event(2, call("call_9", "{}")),
                Event(1, end_with(Finish::Length, None)),
                Event(2, end(Finish::ToolCalls)),
            ],
        ),
        scenario("unchanged", json!({}), vec![Event(0, text(awkward)), Event(0, end(Finish::Stop))]),
        scenario("length", json!({}), vec![Event(0, text("cut o")), Event(0, end(Finish::Length))]),
        scenario("filtered", json!({}), vec![Open, Event(0, end(Finish::ContentFilter))]),
        scenario("estimated", usage, vec![Event(0, text("12345")), Event(0, end_with(Finish::Stop, None))]),
        scenario("empty", json!({}), vec![Event(0, end(Finish::Stop))]),
        scenario(
            "failed",
            json!({"stream_options": {"include_usage": true}}),
            vec![
                Event(0, text("Half a")),
                Fail(TurnError::new(TurnErrorKind::Unavailable, "the app-server died: \"signal 9\"")),
            ],
        ),
    ]
}

fn encode(scenario: &Scenario, stream: bool) -> Option<Vec<u8>> {
    let mut request = scenario.request.clone();
    request["stream"] = json!(stream);
    if !stream {
        request.as_object_mut().unwrap().remove("stream_options");
    }
    api_util::encode(&parse(&request), &scenario.steps, scenario.options)
}

#[test]
fn streams_are_exact() {
    for scenario in scenarios() {
        let out = encode(&scenario, true).unwrap();
        golden(&format!("chat_{}.sse", scenario.name), &out);
        check_stream(&scenario, &out);
    }
}

/// What holds for every stream.
fn check_stream(scenario: &Scenario, out: &[u8]) {
    let name = scenario.name;
    let out = std::str::from_utf8(out).unwrap();
    let frames: Vec<_> = out.strip_suffix("\n\n").unwrap().split("\n\n").collect();
    assert_eq!(*frames.last().unwrap(), "data: [DONE]", "{name}");
    let wants_usage = scenario.request.get("stream_options").is_some();
    for frame in frames.iter().filter(|frame| !frame.starts_with(": ")) {
        let data = frame.strip_prefix("data: ").unwrap_or_else(|| panic!("{name}: {frame}"));
        assert!(!data.is_empty() && !data.contains('\n'), "{name}");
        if data == "[DONE]" || data.starts_with("{\"error\":") {
            continue;
        }
        let chunk: Value = serde_json::from_str(data).unwrap();
        assert_eq!(chunk["id"], "chatcmpl-0123abcd", "{name}");
        assert_eq!(chunk["object"], "chat.completion.chunk", "{name}");
        assert_eq!((&chunk["created"], &chunk["model"]), (&json!(1_700_000_000), &json!("gpt-\"6\"")), "{name}");
        assert_eq!(chunk.get("usage").is_some(), wants_usage, "{name}");
        assert_eq!(chunk["usage"].is_object(), chunk["choices"] == json!([]), "{name}");
    }
}

#[test]
fn whole_answers_are_exact() {
    for scenario in scenarios() {
        let Some(out) = encode(&scenario, false) else { continue };
        golden(&format!("chat_{}.json", scenario.name), &out);
        serde_json::from_slice::<Value>(&out).unwrap();
    }
}

#[test]
fn streamed_and_whole_text_are_what_the_model_said() {
    let long: String = "\u{2028}😀\u{0}x".chars().cycle().take(1 << 20).collect();
    for stream in [true, false] {
        let mut encoder = parse(&body(&json!({"stream": stream}))).encoder(&stamp(), SHOWN);
        let mut out = Vec::new();
        encoder.event(0, &text(&long), &mut out);
        encoder.event(0, &end(Finish::Stop), &mut out);
        encoder.finish(&mut out);
        let out = String::from_utf8(out).unwrap();
        let got: String = if stream {
            let chunks =
                out.split("\n\n").filter_map(|frame| serde_json::from_str::<Value>(frame.strip_prefix("data: ")?).ok());
            chunks.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
        } else {
            serde_json::from_str::<Value>(&out).unwrap()["choices"][0]["message"]["content"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        assert!(got == long);
    }
}

#[test]
fn what_was_spent_adds_up() {
    let mut encoder = parse(&body(&json!({"n": 2}))).encoder(&stamp(), SHOWN);
    let usage = |output| Usage { input: 100, cached: 64, output, reasoning: 7 };
    assert_eq!(encoder.spent().usage, Usage::default());
    encoder.event(0, &end_with(Finish::Stop, Some(usage(20))), &mut Vec::new());
    assert_eq!((encoder.spent().usage, encoder.spent().estimated), (usage(20), false));
    encoder.event(1, &text("12345678"), &mut Vec::new());
    encoder.event(1, &end_with(Finish::Stop, None), &mut Vec::new());
    assert_eq!((encoder.spent().usage, encoder.spent().estimated), (usage(22), true));
}

// ----------------------------------------------------------------------------------------------------------- errors

#[test]
fn every_way_to_fail_has_its_status_and_code() {
    use TurnErrorKind as Kind;
    // kind, status, type, code, Retry-After, x-should-retry
    type Row = (Kind, u16, &'static str, Option<&'static str>, Option<u64>, Option<bool>);
    let rows: [Row; 15] = [
        (Kind::BadRequest, 400, "invalid_request_error", None, None, None),
        (Kind::ContextLength, 400, "invalid_request_error", Some("context_length_exceeded"), None, None),
        (Kind::ModelNotFound, 404, "invalid_request_error", Some("model_not_found"), None, None),
        (Kind::Unsupported, 400, "invalid_request_error", Some("unsupported_parameter"), None, None),
        (Kind::Unauthorized, 401, "authentication_error", Some("upstream_unauthorized"), None, Some(false)),
        (Kind::RateLimited, 429, "rate_limit_error", Some("rate_limit_exceeded"), None, None),
        (Kind::QuotaExhausted, 429, "insufficient_quota", Some("insufficient_quota"), None, Some(false)),
        (Kind::Overloaded, 503, "server_error", Some("upstream_overloaded"), Some(1), None),
        (Kind::Upstream, 502, "server_error", Some("upstream_error"), None, None),
        (Kind::TooManyTurns, 429, "rate_limit_error", Some("too_many_turns"), Some(1), None),
        (Kind::Unavailable, 503, "server_error", Some("backend_unavailable"), Some(1), None),
        (Kind::Timeout, 504, "server_error", Some("timeout"), None, Some(false)),
        (Kind::ClientGone, 499, "server_error", Some("client_gone"), None, None),
        (Kind::SlowReader, 500, "server_error", Some("slow_reader"), None, None),
        (Kind::ShuttingDown, 503, "server_error", Some("backend_unavailable"), Some(1), None),
    ];
    for (kind, status, r#type, code, retry_after, should_retry) in rows {
        let error = ApiError::from(&TurnError::new(kind, "it failed"));
        assert_eq!(
            (error.status, error.retry_after_secs(), error.should_retry),
            (status, retry_after, should_retry),
            "{kind:?}"
        );
        let json: Value = serde_json::from_str(&error.to_json()).unwrap();
        assert_eq!(
            json,
            json!({"error": {"message": "it failed", "type": r#type, "param": null, "code": code}}),
            "{kind:?}"
        );
    }
    let known = TurnError { retry_after: Some(Duration::from_millis(2500)), ..TurnError::new(Kind::RateLimited, "m") };
    assert_eq!(ApiError::from(&known).retry_after_secs(), Some(3));
}

#[test]
fn every_400_names_its_place() {
    let m = |message: Value| json!({"messages": [{"role": "user", "content": "Hi"}, message]});
    let part = |part: Value| m(json!({"role": "user", "content": [{"type": "text", "text": "a"}, part]}));
    let with = |more: Value| body(&more);
    let tool = |function: Value| body(&json!({"tools": [{"type": "function", "function": function}]}));
    let choice = |choice: Value| {
        body(&json!({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": choice}))
    };
    let schema = |schema: Value| {
        body(&json!({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}}))
    };
    let property = |property: Value| {
        schema(
            json!({"type": "object", "properties": {"p": property}, "required": ["p"], "additionalProperties": false}),
        )
    };
    let at = "response_format.json_schema.schema";
    let p = "response_format.json_schema.schema.properties.p";
    let asks = json!({"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]});
    let https = json!({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}});
    let picture =
        |data: &str| part(json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{data}")}}));
    // body, param, code is unsupported_parameter, words of the message
    let rows: Vec<(Value, &str, bool, &str)> = vec![
        (json!({}), "messages", false, "`messages` is missing."),
        (json!({"messages": null}), "messages", false, "is missing"),
        (json!({"messages": "Hi"}), "messages", false, "must be an array, got a string"),
        (json!({"messages": []}), "messages", false, "got an empty array"),
        (json!({"messages": ["Hi"]}), "messages[0]", false, "must be an object, got a string"),
        (with(json!({"model": 6})), "model", false, "must be a string, got a number"),
        (m(json!({"content": "x"})), "messages[1].role", false, "is missing"),
        (
            m(json!({"role": "robot", "content": "x"})),
            "messages[1].role",
            false,
            "must be one of system, developer, user, assistant, tool, function, got `robot`",
        ),
        (m(json!({"role": 1, "content": "x"})), "messages[1].role", false, "must be a string, got a number"),
        (m(json!({"role": "user"})), "messages[1].content", false, "is missing"),
        (m(json!({"role": "assistant"})), "messages[1].content", false, "is missing"),
        (
            m(json!({"role": "user", "content": 5})),
            "messages[1].content",
            false,
            "must be a string or an array of parts, got a number",
        ),
        (m(json!({"role": "user", "content": []})), "messages[1].content", false, "got an empty array"),
        (m(json!({"role": "user", "content": "x", "name": 5})), "messages[1].name", false, "must be a string"),
        (m(json!({"role": "assistant", "audio": {"id": "a"}})), "messages[1].audio", true, "is audio"),
        (part(json!("b")), "messages[1].content[1]", false, "must be an object, got a string"),
        (part(json!({"text": "b"})), "messages[1].content[1].type", false, "is missing"),
        (
            part(json!({"type": "video", "text": "b"})),
            "messages[1].content[1].type",
            false,
            "must be one of text, input_text, image_url, input_image, got `video`",
        ),
        (part(json!({"type": "refusal", "refusal": "b"})), "messages[1].content[1].type", false, "got `refusal`"),
        (part(json!({"type": "text"})), "messages[1].content[1].text", false, "is missing"),
        (part(json!({"type": "text", "text": 5})), "messages[1].content[1].text", false, "must be a string"),
        (part(json!({"type": "input_audio"})), "messages[1].content[1].type", true, "`input_audio` is not supported"),
        (part(json!({"type": "file"})), "messages[1].content[1].type", true, "`file` is not supported"),
        (part(https), "messages[1].content[1].image_url.url", false, "send `data:image/png;base64,…` instead"),
        (
            part(json!({"type": "image_url", "image_url": {"url": "cat.png"}})),
            "messages[1].content[1].image_url.url",
            false,
            "data URL",
        ),
        (picture("PHN2Zz48L3N2Zz4="), "messages[1].content[1].image_url.url", false, "PNG, JPEG, GIF or WebP"),
        (picture("iVBORw0KGg\n="), "messages[1].content[1].image_url.url", false, "PNG"),
        (picture("iVBORw0KGgo\n"), "messages[1].content[1].image_url.url", false, "base64"),
        (picture("iVBORw0KGgo"), "messages[1].content[1].image_url.url", false, "base64"),
        (picture("iVBORw0KGgo====="), "messages[1].content[1].image_url.url", false, "base64"),
        (
            part(json!({"type": "image_url", "image_url": "data:"})),
            "messages[1].content[1].image_url",
            false,
            "must be an object",
        ),
        (
            part(json!({"type": "image_url", "image_url": {}})),
            "messages[1].content[1].image_url.url",
            false,
            "is missing",
        ),
        (
            part(
                json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "huge"}}),
            ),
            "messages[1].content[1].image_url.detail",
            false,
            "must be one of auto, low, high, original, got `huge`",
        ),
        (
            m(
                json!({"role": "system", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]}),
            ),
            "messages[1].content[0].type",
            false,
            "an image only in a message of the user",
        ),
        (m(json!({"role": "tool", "content": "x"})), "messages[1].tool_call_id", false, "is missing"),
        (
            m(json!({"role": "tool", "content": "x", "tool_call_id": "c0"})),
            "messages[1].tool_call_id",
            false,
            "must answer a call `c0`",
        ),
        (m(json!({"role": "function", "content": "x"})), "messages[1].name", false, "is missing"),
        (m(json!({"role": "function", "name": "f", "content": "x"})), "messages[1].role", false, "must answer a call"),
        (m(asks.clone()), "messages[1].tool_calls[0]", false, "the call `c1` must be followed by its result"),
        (
            json!({"messages": [asks, {"role": "user", "content": "x"}]}),
            "messages[0].tool_calls[0]",
            false,
            "must be followed by its result",
        ),
        (
            json!({"messages": [asks, {"role": "tool", "tool_call_id": "c1", "content": [{"type": "image_url"}]}]}),
            "messages[1].content[0].type",
            false,
            "an image only in a message of the user",
        ),
        (
            m(json!({"role": "assistant", "tool_calls": {}})),
            "messages[1].tool_calls",
            false,
            "must be an array, got an object",
        ),
        (
            m(json!({"role": "assistant", "tool_calls": [{"type": "function"}]})),
            "messages[1].tool_calls[0].id",
            false,
            "is missing",
        ),
        (
            m(json!({"role": "assistant", "tool_calls": [{"id": "c", "type": "custom"}]})),
            "messages[1].tool_calls[0].type",
            true,
            "`custom`",
        ),
        (
            m(json!({"role": "assistant", "tool_calls": [{"id": "c"}]})),
            "messages[1].tool_calls[0].function",
            false,
            "is missing",
        ),
        (
            m(
                json!({"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "é".repeat(65), "arguments": "{}"}}]}),
            ),
            "messages[1].tool_calls[0].function.name",
            false,
            "must be of at most 64 characters",
        ),
        (
            m(json!({"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {}}}]})),
            "messages[1].tool_calls[0].function.arguments",
            false,
            "must be a string, got an object",
        ),
        (
            m(json!({"role": "assistant", "function_call": {"arguments": ""}})),
            "messages[1].function_call.name",
            false,
            "is missing",
        ),
        (with(json!({"stream": "yes"})), "stream", false, "must be a boolean, got a string"),
        (
            with(json!({"stream_options": {"include_usage": true}})),
            "stream_options",
            false,
            "only allowed when `stream` is true",
        ),
        (
            with(json!({"stream": true, "stream_options": []})),
            "stream_options",
            false,
            "must be an object, got an array",
        ),
        (
            with(json!({"stream": true, "stream_options": {"include_usage": 1}})),
            "stream_options.include_usage",
            false,
            "a boolean",
        ),
        (with(json!({"n": 0})), "n", false, "must be an integer from 1 to 8"),
        (with(json!({"n": 9})), "n", false, "must be an integer from 1 to 8"),
        (with(json!({"n": 1.5})), "n", false, "must be an integer from 1 to 8"),
        (with(json!({"n": "2"})), "n", false, "must be a number, got a string"),
        (with(json!({"stop": ["a", "b", "c", "d", "e"]})), "stop", false, "must hold at most 4 strings"),
        (with(json!({"stop": ["a", 5]})), "stop[1]", false, "must be a string, got a number"),
        (with(json!({"stop": ["a", ""]})), "stop[1]", false, "must not be empty"),
        (with(json!({"stop": 5})), "stop", false, "must be a string or an array of strings, got a number"),
        (with(json!({"max_tokens": 0})), "max_tokens", false, "must be an integer of at least 1"),
        (with(json!({"max_tokens": -1})), "max_tokens", false, "must be an integer of at least 1"),
        (with(json!({"max_completion_tokens": "9"})), "max_completion_tokens", false, "must be a number, got a string"),
        (with(json!({"reasoning_effort": 3})), "reasoning_effort", false, "must be a string"),
        (with(json!({"reasoning": "high"})), "reasoning", false, "must be an object"),
        (with(json!({"reasoning": {"effort": 3}})), "reasoning.effort", false, "must be a string"),
        (
            with(json!({"reasoning": {"summary": "long"}})),
            "reasoning.summary",
            false,
            "must be one of auto, concise, detailed, none",
        ),
        (with(json!({"verbosity": "max"})), "verbosity", false, "must be one of low, medium, high, got `max`"),
        (with(json!({"temperature": "hot"})), "temperature", false, "must be a number, got a string"),
        (with(json!({"top_p": []})), "top_p", false, "must be a number"),
        (with(json!({"presence_penalty": {}})), "presence_penalty", false, "must be a number"),
        (with(json!({"frequency_penalty": true})), "frequency_penalty", false, "must be a number, got a boolean"),
        (with(json!({"seed": "1"})), "seed", false, "must be a number"),
        (with(json!({"logit_bias": {"50256": "no"}})), "logit_bias.50256", false, "must be a number"),
        (with(json!({"user": 1})), "user", false, "must be a string"),
        (with(json!({"metadata": {"a": 1}})), "metadata.a", false, "must be a string"),
        (with(json!({"store": "yes"})), "store", false, "must be a boolean"),
        (with(json!({"service_tier": 1})), "service_tier", false, "must be a string"),
        (with(json!({"logprobs": true})), "logprobs", true, "cannot be true"),
        (with(json!({"top_logprobs": 5})), "top_logprobs", true, "cannot be honoured"),
        (with(json!({"audio": {"voice": "alloy"}})), "audio", true, "is not supported"),
        (with(json!({"modalities": ["text", "audio"]})), "modalities[1]", true, "must be `text`, got `audio`"),
        (with(json!({"web_search_options": {}})), "web_search_options", true, "is not supported"),
        (with(json!({"suffix": "x"})), "suffix", true, "is not supported"),
        (with(json!({"tools": {}})), "tools", false, "must be an array, got an object"),
        (with(json!({"tools": [{"function": {"name": "f"}}]})), "tools[0].type", false, "is missing"),
        (
            with(json!({"tools": [{"type": "custom", "custom": {"name": "f"}}]})),
            "tools[0].type",
            true,
            "must be `function`, got `custom`",
        ),
        (with(json!({"tools": [{"type": "function"}]})), "tools[0].function", false, "is missing"),
        (tool(json!({})), "tools[0].function.name", false, "is missing"),
        (tool(json!({"name": ""})), "tools[0].function.name", false, "must be 1 to 64 of"),
        (tool(json!({"name": "a".repeat(65)})), "tools[0].function.name", false, "must be 1 to 64 of"),
        (tool(json!({"name": "a.b"})), "tools[0].function.name", false, "got `a.b`"),
        (tool(json!({"name": "f", "description": 5})), "tools[0].function.description", false, "must be a string"),
        (
            tool(json!({"name": "f", "parameters": "{}"})),
            "tools[0].function.parameters",
            false,
            "must be a JSON schema (an object), got a string",
        ),
        (
            with(
                json!({"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": "f"}}]}),
            ),
            "tools[1].function.name",
            false,
            "must be unique",
        ),
        (choice(json!("any")), "tool_choice", false, "must be one of none, auto, required, got `any`"),
        (choice(json!(5)), "tool_choice", false, "must be an object, got a number"),
        (choice(json!({})), "tool_choice.type", false, "is missing"),
        (choice(json!({"type": "web_search"})), "tool_choice.type", true, "must be `function` or `allowed_tools`"),
        (choice(json!({"type": "function"})), "tool_choice.function", false, "is missing"),
        (
            choice(json!({"type": "function", "function": {"name": "g"}})),
            "tool_choice.function.name",
            false,
            "must be one of the tools offered, got `g`",
        ),
        (choice(json!({"type": "allowed_tools"})), "tool_choice.allowed_tools", false, "is missing"),
        (
            choice(json!({"type": "allowed_tools", "allowed_tools": {"tools": []}})),
            "tool_choice.allowed_tools.mode",
            false,
            "is missing",
        ),
        (
            choice(json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto"}})),
            "tool_choice.allowed_tools.tools",
            false,
            "is missing",
        ),
        (
            choice(
                json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "g"}}]}}),
            ),
            "tool_choice.allowed_tools.tools[0].function.name",
            false,
            "got `g`",
        ),
        (
            choice(json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}})),
            "tool_choice",
            false,
            "demands a call",
        ),
        (with(json!({"tool_choice": "required"})), "tool_choice", false, "demands a call, but no tool is offered"),
        (with(json!({"parallel_tool_calls": "no"})), "parallel_tool_calls", false, "must be a boolean"),
        (with(json!({"functions": [{}]})), "functions[0].name", false, "is missing"),
        (with(json!({"functions": [{"name": "f"}], "tools": []})), "tools", false, "the other of two forms"),
        (
            with(json!({"functions": [{"name": "f"}], "tool_choice": "auto"})),
            "tool_choice",
            false,
            "the other of two forms",
        ),
        (with(json!({"tools": [], "function_call": "auto"})), "function_call", false, "the other of two forms"),
        (
            with(json!({"functions": [{"name": "f"}], "function_call": "must"})),
            "function_call",
            false,
            "must be one of none, auto",
        ),
        (
            with(json!({"functions": [{"name": "f"}], "function_call": {"name": "g"}})),
            "function_call.name",
            false,
            "got `g`",
        ),
        (with(json!({"response_format": "json"})), "response_format", false, "must be an object"),
        (with(json!({"response_format": {}})), "response_format.type", false, "is missing"),
        (
            with(json!({"response_format": {"type": "xml"}})),
            "response_format.type",
            false,
            "must be one of text, json_object, json_schema, got `xml`",
        ),
        (with(json!({"response_format": {"type": "json_schema"}})), "response_format.json_schema", false, "is missing"),
        (
            with(json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}})),
            "response_format.json_schema.name",
            false,
            "is missing",
        ),
        (
            with(json!({"response_format": {"type": "json_schema", "json_schema": {"name": "s"}}})),
            at,
            false,
            "is missing",
        ),
        (schema(json!({"type": "array", "items": {"type": "string"}})), at, false, "must be a schema of type `object`"),
        (schema(json!({"anyOf": [{"type": "object"}]})), at, false, "must be a schema of type `object`"),
        (schema(json!(true)), at, false, "must be an object, got a boolean"),
        (schema(json!({"type": "object"})), at, false, "must name its `properties`"),
        (
            schema(json!({"type": "object", "properties": {}, "additionalProperties": true})),
            "response_format.json_schema.schema.additionalProperties",
            false,
            "must be false",
        ),
        (
            schema(json!({"type": "object", "properties": {}, "additionalProperties": {"type": "string"}})),
            "response_format.json_schema.schema.additionalProperties",
            false,
            "must be false",
        ),
        (
            schema(json!({"type": "object", "properties": {"p": {"type": "string"}}})),
            p,
            false,
            "must be required, have a default or allow null",
        ),
        (property(json!({})), p, false, "must say a `type`"),
        (property(json!(true)), p, false, "must be an object, got a boolean"),
        (
            property(json!({"oneOf": [{"type": "string"}]})),
            "response_format.json_schema.schema.properties.p.oneOf",
            false,
            "cannot be in a strict schema",
        ),
        (
            property(json!({"allOf": [{"type": "string"}, {"type": "string"}]})),
            "response_format.json_schema.schema.properties.p.allOf",
            false,
            "cannot be in a strict schema",
        ),
        (
            property(json!({"type": "string", "not": {"const": "a"}})),
            "response_format.json_schema.schema.properties.p.not",
            false,
            "cannot be in a strict schema",
        ),
        (
            property(json!({"type": "array", "items": {"type": "object"}})),
            "response_format.json_schema.schema.properties.p.items",
            false,
            "must name its `properties`",
        ),
        (
            property(json!({"type": "array", "items": [{"type": "string"}]})),
            "response_format.json_schema.schema.properties.p.items",
            false,
            "must be an object, got an array",
        ),
        (
            property(json!({"anyOf": [{"type": "null"}, {"type": "object", "patternProperties": {}}]})),
            "response_format.json_schema.schema.properties.p.anyOf[1]",
            false,
            "must name its `properties`",
        ),
    ];
    for (body, param, is_unsupported, words) in rows {
        let error = try_parse(&body).map(drop).expect_err(&body.to_string());
        assert_eq!(
            (error.status, error.kind, error.param.as_deref()),
            (400, "invalid_request_error", Some(param)),
            "{body}: {error}"
        );
        assert_eq!(error.code, is_unsupported.then_some("unsupported_parameter"), "{body}");
        assert!(error.message.contains(words), "{body}: {error}");
    }
}

#[test]
fn what_asks_for_nothing_beyond_text_is_accepted() {
    let request = json!({
        "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none", "n": 1, "stop": null,
        "response_format": {"type": "text"}, "logprobs": false, "top_logprobs": 0, "modalities": ["text"],
    });
    assert_eq!(parse(&body(&request)), parse(&body(&json!({}))));
}

#[test]
fn bodies_that_are_no_json_are_refused_as_a_whole() {
    let deep = format!("{{\"messages\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    let half = r#"{"messages":[{"role":"user","content":"\ud83d"}]}"#;
    let rows: [(&[u8], Option<&str>, &str); 6] = [
        (b"", None, "could not be parsed as JSON"),
        (b"{\"messages\":[}", None, "could not be parsed as JSON"),
        (b"[]", None, "must be a JSON object, got an array"),
        (b"{\"messages\":\"\xff\xfe\"}", None, "is not UTF-8"),
        (deep.as_bytes(), None, "nested deeper than 100 levels"),
        (half.as_bytes(), Some("messages[0].content"), "half of a surrogate pair"),
    ];
    for (body, param, words) in rows {
        let error = chat::parse(body, true).unwrap_err();
        assert_eq!((error.status, error.code, error.param.as_deref()), (400, None, param), "{error}");
        assert!(error.message.contains(words), "{error}");
    }
}

// ---------------------------------------------------------------------------------------------------------- meaning

#[test]
fn messages_become_items_in_their_order() {
    let image = |detail: Value| json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": detail}});
    let request = parse(&json!({"messages": [
        {"role": "system", "content": "Be brief", "name": "boss"},
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b", "cache_control": {"type": "ephemeral"}}]},
        {"role": "user", "content": [{"type": "text", "text": "See"}, image(json!("low")), image(json!("high")), image(Value::Null)]},
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}},
            {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "oops"}}]},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]},
        {"role": "tool", "tool_call_id": "c1", "content": null},
        {"role": "assistant", "content": "Wait", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "42"},
        {"role": "assistant", "content": [{"type": "text", "text": "No"}, {"type": "refusal", "refusal": "!"}]},
        {"role": "assistant", "content": null, "refusal": "I can't", "tool_calls": [], "reasoning_content": "ignored"},
        {"role": "user", "content": null},
    ]}));
    let picture = |detail: Option<&str>| Part::Image {
        url: "data:image/png;base64,iVBORw0KGgo=".into(),
        detail: detail.map(str::to_owned),
    };
    let text = |text: &str| Part::Text(text.into());
    let call = |id: &str, name: &str, arguments: &str| {
        Item::ToolCall(ToolCall { id: id.into(), name: name.into(), arguments: arguments.into() })
    };
    let output = |id: &str, output: &str| Item::ToolOutput { id: id.into(), output: output.into() };
    assert_eq!(
        request.turn.history,
        [
            message(Role::System, "Be brief"),
            Item::Message { role: Role::Developer, content: vec![text("a"), text("b")] },
            Item::Message {
                role: Role::User,
                content: vec![text("See"), picture(Some("auto")), picture(Some("high")), picture(None)]
            },
            call("c1", "f", "{\"a\": 1}"),
            call("c2", "g", "oops"),
            output("c2", "xy"),
            output("c1", ""),
            message(Role::Assistant, "Wait"),
            call("call_6", "f", "{}"),
            output("call_6", "42"),
            Item::Message { role: Role::Assistant, content: vec![text("No"), text("!")] },
            message(Role::Assistant, "I can't"),
            message(Role::User, ""),
        ]
    );
}

#[test]
fn fields_become_what_the_model_is_asked() {
    let request = parse(&body(&json!({
        "model": "gpt-6", "reasoning_effort": "high", "reasoning": {"effort": "low", "summary": "detailed"},
        "verbosity": "low", "stream": true, "stream_options": {"include_usage": true}, "n": 3, "stop": "END",
        "max_tokens": 100, "max_completion_tokens": 50.0,
    })));
    assert_eq!(request.model.as_deref(), Some("gpt-6"));
    let effort = request.effort.unwrap();
    assert_eq!((effort.value.as_str(), effort.param), ("high", "reasoning_effort"));
    assert_eq!(request.turn.summary.as_deref(), Some("detailed"));
    assert_eq!(request.turn.verbosity.as_deref(), Some("low"));
    assert_eq!((request.stream, request.n), (true, 3));
    assert_eq!(request.cut, CutRules { stop: vec!["END".into()], max_tokens: Some(50), single_call: false });

    let plain = parse(&body(&json!({})));
    assert_eq!((plain.model, plain.effort, plain.stream, plain.n), (None, None, false, 1));
    assert_eq!(plain.turn.summary.as_deref(), Some("auto"));
    assert_eq!(plain.cut, CutRules::default());
    let hidden = chat::parse(body(&json!({})).to_string().as_bytes(), false).unwrap();
    assert_eq!(hidden.turn.summary, None);
    assert_eq!(parse(&body(&json!({"reasoning": {"summary": "none", "effort": "low"}}))).turn.summary, None);
}

#[test]
fn names_may_be_escaped_and_the_last_of_two_counts() {
    let body = br#"{"messages":[{"role":"user","content":"a"}],"n":3.0,"mod\u0065l":"x","model":"y","messages":[{"role":"user",
        "content":"b","content":"\u2028\ud83d\ude00"}]}"#;
    let request = chat::parse(body, true).unwrap();
    assert_eq!((request.model.as_deref(), request.n), (Some("y"), 3));
    assert_eq!(request.turn.history, [message(Role::User, "\u{2028}😀")]);
}

#[test]
fn fields_without_effect_change_nothing() {
    let plain = parse(&body(&json!({})));
    let rows = [
        json!({"temperature": 0.2, "top_p": 1, "presence_penalty": -2.0, "frequency_penalty": 0, "seed": -7}),
        json!({"logit_bias": {"50256": -100}, "user": "u", "metadata": {"k": "v"}, "store": true, "service_tier": "auto"}),
        json!({"prompt_cache_key": "k", "safety_identifier": "s", "prediction": {"type": "content", "content": "x"}}),
        json!({"temperature": null, "stop": null, "tools": null, "n": null, "stream": null, "stream_options": null}),
        json!({"tools": [], "tool_choice": "auto", "parallel_tool_calls": false, "response_format": {"type": "text"}}),
        json!({"an_unknown_field": {"deep": [1, 2, {"x": null}]}, "chat_template_kwargs": {}, "top_k": 40}),
    ];
    for row in rows {
        assert_eq!(parse(&body(&row)), plain, "{row}");
    }
}

#[test]
fn a_choice_decides_what_is_offered_and_adds_one_line() {
    let tools = json!([
        {"type": "function", "function": {"name": "f", "description": "d", "strict": true, "parameters": {"type": "object", "properties": {"b": {}, "a": {}}}}},
        {"type": "function", "function": {"name": "mcp__g"}},
    ]);
    let any = Some("Answer by calling at least one of the tools.");
    let g = Some("Answer by calling the tool mcp__g.");
    let named = |name: &str| json!({"type": "function", "function": {"name": name}});
    let allowed =
        |mode: &str| json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named("mcp__g")]}});
    let rows: [(Value, &[&str], Option<&str>); 7] = [
        (Value::Null, &["f", "mcp__g"], None),
        (json!("auto"), &["f", "mcp__g"], None),
        (json!("none"), &[], None),
        (json!("required"), &["f", "mcp__g"], any),
        (named("mcp__g"), &["mcp__g"], g),
        (allowed("auto"), &["mcp__g"], None),
        (allowed("required"), &["mcp__g"], any),
    ];
    for (choice, offered, line) in rows {
        let request = parse(&body(&json!({"tools": tools, "tool_choice": choice})));
        let names: Vec<_> = request.turn.tools.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(names, offered, "{choice}");
        let lines: Vec<Item> = line.map(|line| message(Role::Developer, line)).into_iter().collect();
        assert_eq!(request.turn.history[1..], lines, "{choice}");
        assert!(!request.cut.single_call);
    }
    let raw = br#"{"messages":[{"role":"user","content":"Hi"}],"parallel_tool_calls":false,"tools":[{"type":"function",
        "function":{"name":"f","description":"d","parameters":{ "z":1,
        "a":"\u00e9" }}},{"type":"function","function":{"name":"g"}}]}"#;
    let request = chat::parse(raw, true).unwrap();
    assert!(request.cut.single_call);
    let tool = |name: &str, description: &str, parameters: &str| Tool {
        name: name.into(),
        description: description.into(),
        parameters: parameters.into(),
    };
    let schema = r#"{ "z":1,        "a":"\u00e9" }"#;
    assert_eq!(request.turn.tools, [tool("f", "d", schema), tool("g", "", r#"{"type":"object","properties":{}}"#)]);
}

#[test]
fn the_older_functions_mean_the_same() {
    let functions = json!([{"name": "f", "parameters": {"type": "object"}}, {"name": "g"}]);
    let rows: [(Value, &[&str], Option<&str>); 4] = [
        (Value::Null, &["f", "g"], None),
        (json!("auto"), &["f", "g"], None),
        (json!("none"), &[], None),
        (json!({"name": "g"}), &["g"], Some("Answer by calling the tool g.")),
    ];
    for (choice, offered, line) in rows {
        let request = parse(&body(&json!({"functions": functions, "function_call": choice})));
        let names: Vec<_> = request.turn.tools.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(names, offered, "{choice}");
        let lines: Vec<Item> = line.map(|line| message(Role::Developer, line)).into_iter().collect();
        assert_eq!(request.turn.history[1..], lines, "{choice}");
        assert_eq!(request.cut.single_call, !offered.is_empty(), "{choice}");
    }
}

#[test]
fn formats_become_a_line_or_a_strict_schema() {
    let request = parse(&body(&json!({"response_format": {"type": "json_object"}})));
    assert_eq!(request.turn.history[1..], [message(Role::Developer, "Answer with one JSON object and nothing else.")]);
    assert_eq!(request.turn.output_schema, None);

    // The client's schema, and what codex gets: order kept, objects closed, every property required.
    let rows = [
        (
            r##"{"type":"object","properties":{"b":{"type":"string"},"a":{"$ref":"#/$defs/x"}},"required":["b","a"],"additionalProperties":false,"$defs":{"x":{"type":"integer","minimum":1}}}"##,
            r##"{"type":"object","properties":{"b":{"type":"string"},"a":{"$ref":"#/$defs/x"}},"$defs":{"x":{"type":"integer","minimum":1}},"required":["b","a"],"additionalProperties":false}"##,
        ),
        (
            r#"{"title":"T","type":"object","properties":{"z":{"type":["string","null"]},"y":{"anyOf":[{"type":"integer"},{"type":"null"}],"default":null},"x":{"enum":["a",null]},"w":{"type":"boolean","default":false}}}"#,
            r#"{"title":"T","type":"object","properties":{"z":{"type":["string","null"]},"y":{"anyOf":[{"type":"integer"},{"type":"null"}]},"x":{"enum":["a",null]},"w":{"type":"boolean"}},"required":["z","y","x","w"],"additionalProperties":false}"#,
        ),
        (
            r##"{"type":"object","required":["l","r","u"],"properties":{"l":{"type":"array","items":{"type":"object","properties":{}}},"r":{"$ref":"#/$defs/A","description":"d"},"u":{"oneOf":[{"$ref":"#/$defs/A"}],"discriminator":{"propertyName":"k"}}},"$defs":{"A":{"allOf":[{"type":"string"}],"title":"A"}}}"##,
            r##"{"type":"object","properties":{"l":{"type":"array","items":{"type":"object","properties":{},"required":[],"additionalProperties":false}},"r":{"anyOf":[{"$ref":"#/$defs/A"}],"description":"d"},"u":{"anyOf":[{"$ref":"#/$defs/A"}]}},"$defs":{"A":{"anyOf":[{"type":"string"}],"title":"A"}},"required":["l","r","u"],"additionalProperties":false}"##,
        ),
    ];
    for (schema, strict) in rows {
        for more in ["", r#","strict":true"#, r#","strict":false"#] {
            let body = format!(
                r#"{{"messages":[{{"role":"user","content":"Hi"}}],"response_format":{{"type":"json_schema","json_schema":{{"name":"s"{more},"schema":{schema}}}}}}}"#
            );
            let request = chat::parse(body.as_bytes(), true).unwrap();
            assert_eq!(request.turn.output_schema.as_deref(), Some(strict));
            assert_eq!(request.turn.history.len(), 1);
        }
    }
    let described = json!({"type": "json_schema", "json_schema": {"name": "s", "description": "for \"it\"", "schema": {"type": "object", "properties": {}}}});
    assert_eq!(
        parse(&body(&json!({"response_format": described}))).turn.output_schema.as_deref(),
        Some(
            r#"{"properties":{},"type":"object","required":[],"additionalProperties":false,"description":"for \"it\""}"#
        )
    );
}
