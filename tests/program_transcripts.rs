//! What real app-servers said, played by the fake through the whole program: clients see what the goldens say.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

mod support;

use support::{PATIENCE, Proxy, Response, Stream, until};

/// What a golden has clients see of its turn.
struct Golden {
    text: String,
    reasoning: String,
    calls: usize,
    /// How the answer ends, or the code of the error; `None`: not by itself.
    end: Option<Result<&'static str, &'static str>>,
    usage: bool,
}

impl Golden {
    fn read(events: &str) -> Self {
        let words = |kind: &str| {
            let texts = events.lines().filter_map(|line| line.trim().strip_prefix(kind)?.strip_suffix(')'));
            texts.map(|text| serde_json::from_str::<String>(text).unwrap()).collect::<String>()
        };
        let ends = [
            ("the turn without being asked to", None),
            ("end Ok(Stop)", Some(Ok("stop"))),
            ("end Ok(Length)", Some(Ok("length"))),
            ("end Ok(ToolCalls)", Some(Ok("tool_calls"))),
            ("kind: Unauthorized", Some(Err("upstream_unauthorized"))),
            ("kind: RateLimited", Some(Err("rate_limit_exceeded"))),
            ("kind: ContextLength", Some(Err("context_length_exceeded"))),
            ("kind: Upstream", Some(Err("upstream_error"))),
        ];
        Self {
            text: words("Text("),
            reasoning: words("Reasoning("),
            calls: events.matches("ToolCall(ToolCall").count(),
            end: ends.into_iter().find(|(words, _)| events.contains(words)).and_then(|(_, end)| end),
            usage: events.contains("Some(Usage { input: 1234, cached: 1000, output: 56, reasoning: 16 })"),
        }
    }
}

fn request(scenario: &str, golden: &Golden, stream: bool) -> Value {
    let tool = json!({ "type": "function", "function": { "name": "get_weather", "parameters": { "type": "object" } } });
    json!({
        "model": "codex-5", "stream": stream, "stream_options": stream.then(|| json!({ "include_usage": true })),
        "messages": [{ "role": "user", "content": format!("[[play {scenario}]]") }],
        "tools": if golden.calls > 0 { vec![tool] } else { Vec::new() },
    })
}

fn is_the_usage(usage: &Value) -> bool {
    usage["prompt_tokens"] == 1234
        && usage["prompt_tokens_details"]["cached_tokens"] == 1000
        && usage["completion_tokens"] == 56
        && usage["completion_tokens_details"]["reasoning_tokens"] == 16
}

#[track_caller]
fn check_whole(answer: &Response, golden: &Golden) {
    let body = answer.json();
    match golden.end.unwrap() {
        Ok(finish) => {
            let (choice, message) = (&body["choices"][0], &body["choices"][0]["message"]);
            assert_eq!((answer.status, &choice["finish_reason"]), (200, &json!(finish)), "{body}");
            assert_eq!(message["content"].as_str().unwrap_or_default(), golden.text, "{body}");
            assert_eq!(message["reasoning_content"].as_str().unwrap_or_default(), golden.reasoning, "{body}");
            assert_eq!(message["tool_calls"].as_array().map_or(0, Vec::len), golden.calls, "{body}");
            // 0.142 tells it only after the calls were answered, which here they are not.
            assert!(is_the_usage(&body["usage"]) == golden.usage || golden.calls > 0, "{body}");
        }
        Err(code) => assert_eq!(body["error"]["code"], code, "{body}"),
    }
}

#[track_caller]
fn check_stream(answer: &Response, golden: &Golden) {
    let shown = answer.text();
    let events = answer.events();
    assert_eq!(events.iter().filter(|event| *event == "[DONE]").count(), 1, "{shown}");
    assert_eq!(answer.streamed_text(), golden.text, "{shown}");
    let chunks: Vec<Value> = events.iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    let finishes: Vec<&str> = chunks.iter().filter_map(|chunk| chunk["choices"][0]["finish_reason"].as_str()).collect();
    let errors: Vec<&str> = chunks.iter().filter_map(|chunk| chunk["error"]["code"].as_str()).collect();
    match golden.end.unwrap() {
        Ok(finish) => assert_eq!((finishes, errors.len()), (vec![finish], 0), "{shown}"),
        Err(code) => assert_eq!((finishes.len(), errors), (0, vec![code]), "{shown}"),
    }
    assert!(chunks.iter().any(|chunk| is_the_usage(&chunk["usage"])) == golden.usage || golden.calls > 0, "{shown}");
}

#[test]
fn every_transcript_reaches_clients_as_its_golden_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let names = |path: &Path| {
        let mut names: Vec<String> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let (mut ended, mut left) = (0, 0);
    for directory in names(&root) {
        let (version, protocol) = directory.rsplit_once('-').unwrap();
        let proxy = Proxy::fake().env("FAKE_CODEX_VERSION", version).env("PROXY_APP_SERVER_PROTOCOL", protocol);
        // Failures of a stream are told in it, however soon they come.
        let proxy = proxy.env("PROXY_STREAM_OPEN_MS", "0").file("seen", "").start();
        assert_eq!(proxy.ready().json()["codex"]["dialect"], protocol);
        for name in names(&root.join(&directory)) {
            let Some(scenario) = name.strip_suffix(".events") else { continue };
            let golden = Golden::read(&fs::read_to_string(root.join(&directory).join(&name)).unwrap());
            let scenario = format!("{directory}/{scenario}.jsonl");
            println!("{scenario}");
            if golden.end.is_some() {
                let ask = |stream| proxy.post("/v1/chat/completions", &request(&scenario, &golden, stream));
                check_whole(&ask(false), &golden);
                check_stream(&ask(true), &golden);
                ended += 1;
            } else if !golden.text.is_empty() {
                // Codex waits for an interrupt, and so for a client that leaves.
                let interrupts = proxy.calls("turn/interrupt");
                let mut stream =
                    Stream::open(proxy.address, "/v1/chat/completions", &request(&scenario, &golden, true));
                stream.until("w4 ");
                drop(stream);
                until("it was interrupted", PATIENCE, || proxy.calls("turn/interrupt") == interrupts + 1);
                left += 1;
            }
            proxy.wait_until_running(0, PATIENCE);
        }
        assert_eq!(proxy.gauge("app_server_starts_total"), 1, "{}", proxy.process.stderr());
    }
    assert!(ended >= 60 && left == 8, "{ended} {left}");
}

#[test]
fn one_transcript_can_answer_every_turn() {
    let proxy = Proxy::version("0.50.0").env("FAKE_CODEX_TRANSCRIPT", "0.50.0-v1/02b-text.jsonl").start();
    for prompt in ["one", "another"] {
        let answer = proxy.chat(prompt).json();
        assert_eq!(answer["choices"][0]["message"]["content"], "w0 w1 w2 w3 w4 ");
        assert!(is_the_usage(&answer["usage"]));
    }
}
