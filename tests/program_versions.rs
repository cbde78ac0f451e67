//! Which protocol is spoken with which codex, what is said of it, and what each is asked. The fake is as old as told.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use serde_json::{Value, json};

mod support;

use support::proxy::ask;
use support::{PATIENCE, Proxy, Response, holds, until};

/// The protocol and the mode of prompts that `/readyz` tells, with what is degraded.
#[track_caller]
fn spoken(proxy: &Proxy) -> (String, Vec<String>) {
    let codex = &proxy.ready().json()["codex"];
    let degraded = codex["degraded"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned());
    let words = |name: &str| codex[name].as_str().unwrap().to_owned();
    (format!("{} {} {}", words("version"), words("dialect"), words("prompt")), degraded.collect())
}

#[track_caller]
fn text(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

/// The lines of the log that are warnings or worse.
fn warnings(proxy: &Proxy) -> Vec<String> {
    let log = proxy.process.stderr();
    let warnings = log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    warnings.map(str::to_owned).collect()
}

#[test]
fn the_version_decides_and_what_it_lacks_is_told_once_with_its_cost() {
    let old = ["takes no tools: a request whose tools", "takes no history: the model sees", "takes no JSON schema"];
    for (version, protocol, lacks) in [
        ("0.44.0", "v1 joined", &old[..]),
        ("0.50.0", "v1 joined", &old),
        ("0.65.0", "v1 joined", &old),
        ("0.66.0", "v2 joined", &old),
        ("0.77.0", "v2 joined", &old),
        ("0.104.0", "v2 joined", &["takes no history", "may leave a turn without an end"]),
        ("0.121.0", "v2 native", &["wants a message of the user last", "does not unload threads"]),
        ("0.146.0", "v2 native", &["keeps the connection of an interrupted turn"]),
        ("0.169.0", "v2 native", &[]),
    ] {
        let proxy = Proxy::version(version).start();
        let (spoken, degraded) = spoken(&proxy);
        assert_eq!(spoken, format!("{version} {protocol}"));
        assert_eq!(text(&proxy.chat("hello there")), "hello there", "{version}");
        for words in lacks {
            assert!(degraded.iter().any(|line| line.contains(words)), "{version}: no {words} in {degraded:?}");
        }
        assert_eq!(lacks.is_empty(), degraded.is_empty(), "{degraded:?}");
        let old = proxy.app_server();
        old.kill();
        until("another serves", PATIENCE, || proxy.app_servers().iter().any(|found| *found != old));
        proxy.wait_until_ready(PATIENCE);
        for line in &degraded {
            assert!(line.starts_with(&format!("codex {version} ")), "{line}");
            assert_eq!(proxy.process.stderr().matches(line.as_str()).count(), 1, "{version}: {line}");
        }
    }
}

#[test]
fn a_version_that_nobody_has_seen_works_as_the_newest_and_is_told_in_one_line() {
    let proxy = Proxy::version("9.9.9").start();
    assert_eq!(spoken(&proxy), ("9.9.9 v2 native".to_owned(), Vec::new()));
    assert_eq!(text(&proxy.chat("as ever")), "as ever");
    let told = warnings(&proxy);
    assert!(told.len() == 1 && told[0].contains("codex 9.9.9 is newer than 0.169.0"), "{told:?}");
    let old = proxy.app_server();
    old.kill();
    until("another serves", PATIENCE, || proxy.app_servers().iter().any(|found| *found != old));
    assert_eq!(text(&proxy.chat("once more")), "once more");
    assert_eq!(proxy.process.stderr().matches("is newer than").count(), 1);
}

#[test]
fn what_is_wrong_in_the_table_is_corrected_by_the_answers() {
    for (claimed, speaks, protocol) in [
        ("0.169.0", "0.107.0", "v2 joined"),
        ("0.121.0", "0.104.0", "v2 joined"),
        ("9.9.9", "0.107.0", "v2 joined"),
        ("0.66.0", "0.50.0", "v1 joined"),
        ("0.169.0", "0.50.0", "v1 joined"),
        ("9.9.9", "0.50.0", "v1 joined"),
    ] {
        let proxy = Proxy::version(claimed).env("FAKE_CODEX_SPEAKS", speaks).start();
        let said = "[[say as asked]]";
        // All that find out at once are served.
        let mut first: Vec<_> = (0..8).map(|n| proxy.begin(said, n % 2 == 0)).collect();
        for (n, connection) in first.iter_mut().enumerate() {
            let answer = connection.response(PATIENCE);
            assert_eq!(answer.status, 200, "{claimed} {speaks}: {}", answer.text());
            let said = if n.is_multiple_of(2) { answer.streamed_text() } else { text(&answer) };
            assert_eq!(said, "as asked");
        }
        let messages = [json!({ "role": "system", "content": "x" }), json!({ "role": "user", "content": said })];
        assert_eq!(text(&proxy.post("/v1/chat/completions", &json!({ "messages": messages }))), "as asked");
        assert_eq!(spoken(&proxy).0, format!("{claimed} {protocol}"));
        assert_eq!(proxy.gauge("app_server_starts_total"), 2, "{}", proxy.process.stderr());
    }
}

#[test]
fn what_is_pinned_and_not_there_means_not_ready_and_nothing_else_in_its_place() {
    for (version, speaks, setting, value) in [
        ("0.169.0", "0.169.0", "PROXY_APP_SERVER_PROTOCOL", "v1"),
        ("0.50.0", "0.50.0", "PROXY_APP_SERVER_PROTOCOL", "v2"),
        ("0.104.0", "0.104.0", "PROXY_PROMPT_MODE", "native"),
        ("0.50.0", "0.50.0", "PROXY_PROMPT_MODE", "native"),
        // These say so only when they are asked.
        ("0.169.0", "0.50.0", "PROXY_APP_SERVER_PROTOCOL", "v2"),
        ("0.169.0", "0.107.0", "PROXY_PROMPT_MODE", "native"),
    ] {
        let proxy = Proxy::version(version).env("FAKE_CODEX_SPEAKS", speaks).env(setting, value);
        let proxy = proxy.env("PROXY_QUEUE_MS", "300").file("seen", "").listening();
        let words = format!("{setting}={value}: codex {version} cannot do that");
        if version == speaks {
            until("the reason is told", PATIENCE, || proxy.reason().contains(&words));
        }
        until("it is told to clients", PATIENCE, || {
            let answer = proxy.chat("never asked");
            assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("backend_unavailable")));
            answer.text().contains(&words)
        });
        assert_eq!(proxy.ready().status, 503);
        assert_eq!((proxy.calls("turn/start"), proxy.process.stderr().matches(&words).count()), (0, 1));
    }
    for (version, value) in [("0.104.0", "v1"), ("0.104.0", "v2"), ("0.169.0", "v2"), ("0.50.0", "v1")] {
        let proxy = Proxy::version(version).env("PROXY_APP_SERVER_PROTOCOL", value).start();
        assert!(spoken(&proxy).0.contains(&format!("{version} {value} ")));
        assert_eq!(text(&proxy.chat("x")), "x");
    }
}

#[test]
fn what_a_version_cannot_do_is_refused_with_the_version_that_can() {
    let tools = json!([{ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } }]);
    let schema = json!({ "type": "json_schema", "json_schema": { "name": "x", "strict": true, "schema": {
        "type": "object", "properties": {}, "required": [], "additionalProperties": false } } });
    for (version, field, value, words) in [
        ("0.50.0", "tools", &tools, "codex 0.92.0 or newer; this is codex 0.50.0"),
        ("0.77.0", "tools", &tools, "codex 0.92.0 or newer; this is codex 0.77.0"),
        ("0.50.0", "response_format", &schema, "codex 0.80.0 or newer; this is codex 0.50.0"),
        ("0.66.0", "response_format", &schema, "codex 0.80.0 or newer; this is codex 0.66.0"),
    ] {
        let proxy = Proxy::version(version).start();
        for stream in [false, true] {
            let mut body = ask("hi", stream);
            body[field] = value.clone();
            let answer = proxy.post("/v1/chat/completions", &body);
            assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!("unsupported_parameter")));
            assert!(answer.text().contains(words), "{}", answer.text());
        }
        assert_eq!(text(&proxy.chat("hi")), "hi");
    }
}

#[test]
fn no_word_of_a_conversation_stays_on_the_disk() {
    for (version, profile) in [("0.44.0", "lean"), ("0.50.0", "codex"), ("0.66.0", "lean"), ("0.77.0", "codex")] {
        let proxy = Proxy::version(version).env("PROXY_AGENT_PROFILE", profile).start();
        assert_eq!(text(&proxy.chat("[[say secret-word]]")), "secret-word");
        let (mut left, mut killed) =
            (proxy.open("[[say secret-word]] [[hang]]"), proxy.open("[[say secret-word]] [[hang]]"));
        left.until("secret-word");
        killed.until("secret-word");
        assert!(holds(proxy.home.path(), "secret-word"), "{version}: this one does not write any");
        drop(left);
        proxy.wait_until_running(1, PATIENCE);
        proxy.app_server().kill();
        assert!(killed.rest().text().contains("backend_unavailable"));
        until("nothing is left", PATIENCE, || !holds(proxy.home.path(), "secret-word"));
    }
}

#[test]
fn ends_and_counts_that_come_late_or_never_are_made_up_for() {
    for (version, protocol) in [("0.50.0", "v1"), ("0.104.0", "v1"), ("0.66.0", "v2"), ("0.104.0", "v2")] {
        let proxy = Proxy::version(version).env("PROXY_APP_SERVER_PROTOCOL", protocol).start();
        for prompt in ["[[say a b]] [[no-end]] [[usage 11 7 5 3]]", "[[say a b]] [[usage-late]] [[usage 11 7 5 3]]"] {
            let answer = proxy.chat(prompt);
            assert_eq!(text(&answer), "a b", "{version} {protocol} {prompt}");
            assert_eq!(answer.json()["usage"]["prompt_tokens"], 11, "{version} {protocol} {prompt}");
        }
        assert_eq!(proxy.gauge("app_server_starts_total"), 1);
    }
}

#[test]
fn conversations_reach_each_age_in_the_form_that_it_takes() {
    let message = |role: &str, text: &str| json!({ "role": role, "content": text });
    let conversation = [message("system", "be brief"), message("user", "one"), message("assistant", "two")];
    let joined = "[system] be brief\\n[user] one\\n[assistant] two";
    for version in ["0.50.0", "0.66.0", "0.104.0", "0.121.0", "0.142.5", "0.169.0"] {
        let proxy = Proxy::version(version).file("seen", "").start();
        let mut messages = conversation.to_vec();
        let answer = proxy.post("/v1/chat/completions", &json!({ "messages": messages }));
        assert_eq!(answer.status, 200, "{version}: {}", answer.text());
        messages.push(message("user", "three"));
        assert_eq!(text(&proxy.post("/v1/chat/completions", &json!({ "messages": messages }))), "three", "{version}");
        let seen = proxy.book("seen");
        let calls: Vec<&String> = seen.iter().filter(|line| line.contains("be brief")).collect();
        let start = if version == "0.50.0" { "sendUserMessage" } else { "turn/start" };
        let is = |line: &str, method: &str| line.contains(&format!("\"method\":\"{method}\""));
        match version {
            "0.121.0" => {
                // One that does not end with the user goes as one text; else the last message goes as input.
                assert!(calls.len() == 2 && is(calls[0], start) && calls[0].contains(joined), "{calls:?}");
                assert!(is(calls[1], "thread/inject_items") && !calls[1].contains("three"), "{calls:?}");
            }
            "0.142.5" | "0.169.0" => {
                assert!(calls.len() == 2 && calls.iter().all(|line| is(line, "thread/inject_items")), "{calls:?}");
                let starts: Vec<Value> = seen
                    .iter()
                    .filter(|line| is(line, start) && line.contains("input"))
                    .map(|line| serde_json::from_str(line).unwrap())
                    .collect();
                assert!(starts.iter().all(|start| start["params"]["input"] == json!([])), "{starts:?}");
            }
            _ => {
                let whole = format!("{joined}\\n[user] three");
                assert!(calls.len() == 2 && calls.iter().all(|line| is(line, start)), "{version}: {calls:?}");
                assert!(calls[0].contains(joined) && calls[1].contains(&whole), "{version}: {calls:?}");
            }
        }
    }
}

#[test]
fn a_conversation_of_v1_says_which_login_is_meant() {
    for (key, method) in [(None, "chatgpt"), (Some("sk-of-the-environment"), "apikey")] {
        let proxy = Proxy::version("0.50.0").file("seen", "").env("OPENAI_API_KEY", key.unwrap_or_default()).start();
        assert_eq!(proxy.chat("hi").status, 200);
        let seen = proxy.book("seen");
        let made: Vec<Value> = seen
            .iter()
            .filter(|line| line.contains("\"method\":\"newConversation\""))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let [made] = made.as_slice() else { panic!("{seen:?}") };
        assert_eq!(made["params"]["config"]["preferred_auth_method"], method);
        assert!(!seen.iter().any(|line| line.contains("sk-of-the-environment")), "{seen:?}");
    }
}
