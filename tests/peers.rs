//! The peers that the other tests rely on do what they say.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

mod support;

use support::{Connection, Model, PATIENCE, TempDir, client, model, until};

/// Runs lines through a fake app-server whose stdin ends after them; its replies, by line.
fn fake(faults: &str, lines: &[Value]) -> Vec<Value> {
    let mut child = Command::new(model::example("fake-codex"))
        .arg("app-server")
        .env("FAKE_CODEX_FAULTS", faults)
        .env_remove("FAKE_CODEX_DIR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for line in lines {
        writeln!(stdin, "{line}").unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn call(id: u64, method: &str, params: &Value) -> Value {
    json!({ "id": id, "method": method, "params": params })
}

fn reply(lines: &[Value], id: u64) -> &Value {
    lines.iter().find(|line| line["id"] == id && line["method"].is_null()).unwrap()
}

#[test]
fn fake_app_server_answers_the_calls_of_a_completion() {
    let thread = json!({ "threadId": "01a1fce7-0000-7000-8000-000000000001" });
    let lines = fake(
        "overloaded=model/list:1",
        &[
            call(1, "thread/start", &json!({})),
            call(2, "initialize", &json!({ "clientInfo": { "name": "probe" } })),
            call(3, "model/list", &json!({})),
            call(4, "model/list", &json!({})),
            call(5, "newConversation", &json!({})),
            call(6, "thread/start", &json!({})),
            call(7, "thread/loaded/list", &json!({})),
            call(8, "thread/unsubscribe", &thread),
            call(9, "turn/start", &thread),
        ],
    );
    assert_eq!(reply(&lines, 1)["error"]["message"], "Not initialized");
    assert!(reply(&lines, 2)["result"]["userAgent"].as_str().unwrap().starts_with("probe/0.169.0 ("));
    assert_eq!(reply(&lines, 3)["error"]["code"], -32001);
    assert_eq!(reply(&lines, 4)["result"]["data"][0]["isDefault"], true);
    assert!(reply(&lines, 5)["error"]["message"].as_str().unwrap().contains("unknown variant `newConversation`"));
    assert_eq!(reply(&lines, 7)["result"]["data"][0], reply(&lines, 6)["result"]["thread"]["id"]);
    assert_eq!(reply(&lines, 9)["error"]["code"], -32600);
}

/// The methods of the notifications about a turn, each once in a row.
fn told(lines: impl Iterator<Item = Value>) -> Vec<String> {
    let mut methods: Vec<String> = lines.filter_map(|line| Some(line["method"].as_str()?.to_owned())).collect();
    methods.retain(|method| !method.starts_with("account/") && !method.starts_with("remoteControl/"));
    methods.dedup();
    methods
}

#[test]
fn fake_app_server_tells_a_turn_in_the_words_and_the_order_of_the_real_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    for entry in std::fs::read_dir(root).unwrap() {
        let directory = entry.unwrap().path();
        let name = directory.file_name().unwrap().to_str().unwrap();
        let (version, protocol) = name.rsplit_once('-').unwrap();
        let text = std::fs::read_to_string(directory.join("02-text-and-reasoning.jsonl")).unwrap();
        let real = told(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["codex"].clone()));

        let mut command = Command::new(model::example("fake-codex"));
        command.arg("app-server").env_remove("FAKE_CODEX_DIR").env("FAKE_CODEX_VERSION", version);
        let home = TempDir::new();
        command.env("CODEX_HOME", home.path());
        let mut codex = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = codex.stdin.take().unwrap();
        let (prompt, id) = ("[[reason a b]] [[say w0 w1]]", "01a1fce7-0000-7000-8000-000000000001");
        let v1 = json!({ "conversationId": id, "items": [{ "type": "text", "data": { "text": prompt } }] });
        let v2 = json!({ "threadId": id, "input": [{ "type": "text", "text": prompt }] });
        let calls = match protocol {
            "v1" => [
                ("newConversation", json!({})),
                ("addConversationListener", json!({ "conversationId": id })),
                ("sendUserMessage", v1),
            ],
            _ => {
                [("thread/start", json!({ "ephemeral": true })), ("thread/loaded/list", json!({})), ("turn/start", v2)]
            }
        };
        writeln!(stdin, "{}", call(1, "initialize", &json!({}))).unwrap();
        for (id, (method, params)) in calls.iter().enumerate() {
            writeln!(stdin, "{}", call(id as u64 + 2, method, params)).unwrap();
        }
        let last =
            if version.starts_with("0.4") || version.starts_with("0.5") { "task_complete" } else { "turn/completed" };
        let mut lines = Vec::new();
        for line in BufReader::new(codex.stdout.take().unwrap()).lines() {
            lines.push(serde_json::from_str(&line.unwrap()).unwrap());
            if lines.last().is_some_and(|line: &Value| line["method"].as_str().is_some_and(|name| name.ends_with(last)))
            {
                break;
            }
        }
        let fake = told(lines.into_iter());
        drop(stdin);
        codex.wait().unwrap();
        let mut rest = real.iter();
        for method in &fake {
            assert!(rest.any(|found| found == method), "{name}: no {method} there:\n{fake:?}\n{real:?}");
        }
        assert!(fake.len() > 5, "{fake:?}");
    }
}

#[test]
fn scripted_model_records_what_it_is_asked_and_who_left() {
    let model = Model::start();
    let ask = |text: &str| json!({ "input": [{ "type": "message", "role": "user", "content": [{ "type": "input_text", "text": text }] }] });
    let whole = client::post(model.address, "/v1/responses", &ask("one two [[usage 5 4 3 2]]"));
    let events: Vec<Value> =
        whole.text().lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect();
    let text: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(text, "one two");
    let usage = &events.last().unwrap()["response"]["usage"];
    assert_eq!((&usage["input_tokens"], &usage["output_tokens"]), (&json!(5), &json!(3)));

    let mut connection = Connection::open(model.address);
    connection.post("/v1/responses", &ask("[[gap 5]] [[hang]]"));
    connection.read_until(b"w4 ", PATIENCE);
    assert_eq!(model.connections()["open"].as_array().unwrap().len(), 1);
    drop(connection);
    until("the model sees who left", Duration::from_secs(2), || {
        model.connections()["finished"][1]["early"] == json!(true)
    });
    assert_eq!(model.requests().len(), 2);
    assert_eq!(model.requests()[1]["body"]["input"][0]["content"][0]["text"], "[[gap 5]] [[hang]]");

    let failed =
        client::post(model.address, "/v1/responses", &ask("[[fail 429 usage_limit_reached]] [[header retry-after 7]]"));
    assert_eq!((failed.status, failed.header("retry-after")), (429, Some("7")));
    assert_eq!(failed.json()["error"]["code"], "usage_limit_reached");
}
