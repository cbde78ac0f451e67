//! What codex may send, and what of it may reach a client: its words, unchanged, once.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};

mod support;

use support::process::memory;
use support::{PATIENCE, PROTOCOLS, Proxy, Response, until};

#[track_caller]
fn text(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

#[test]
fn the_text_of_a_retry_is_sent_once_and_a_different_one_is_an_error() {
    for version in PROTOCOLS {
        let proxy = Proxy::version(version).start();
        for gap in ["", "[[gap 20]]"] {
            let prompt = format!("[[say a b c d]] [[retry]] {gap}");
            assert_eq!(proxy.stream(&prompt).streamed_text(), "a b c d");
            assert_eq!(text(&proxy.chat(&prompt)), "a b c d");
            // One that only goes on differently was never contradicted.
            assert_eq!(
                proxy.stream(&format!("[[say a b c d]] [[retry a b x y z]] {gap}")).streamed_text(),
                "a b x y z"
            );
            let differs = format!("[[say a b c d]] [[retry other words]] {gap}");
            assert_eq!(proxy.chat(&differs).status, 502);
        }
        let answer = proxy.stream("[[say a b c d]] [[retry other words]] [[gap 20]]");
        assert_eq!(answer.streamed_text(), "a b ");
        let events = answer.events();
        assert!(
            events[events.len() - 2].contains("upstream_error") && events[events.len() - 1] == "[DONE]",
            "{events:?}"
        );
    }
}

#[test]
fn every_request_of_codex_is_answered() {
    for version in PROTOCOLS {
        let proxy = Proxy::version(version).env("PROXY_IDLE_TIMEOUT_MS", "3000").start();
        for method in [
            "item/commandExecution/requestApproval",
            "item/fileChange/requestApproval",
            "item/permissions/requestApproval",
            "item/tool/requestUserInput",
            "item/tool/call",
            "mcpServer/elicitation/request",
            "applyPatchApproval",
            "execCommandApproval",
            "currentTime/read",
        ] {
            let answer = text(&proxy.chat(&format!("[[request {method}]]")));
            let answer: Value = serde_json::from_str(&answer).unwrap();
            assert!(answer["result"].is_object(), "{method}: {answer}");
            assert!(
                !answer.to_string().contains("accept") && !answer.to_string().contains("approved"),
                "{method}: {answer}"
            );
        }
        for method in ["account/chatgptAuthTokens/refresh", "attestation/generate", "future/novelty"] {
            let answer = text(&proxy.chat(&format!("[[request {method}]]")));
            let answer: Value = serde_json::from_str(&answer).unwrap();
            assert_eq!(answer["error"]["code"], -32601, "{method}");
        }
    }
}

#[test]
fn a_full_queue_of_codex_is_tried_again_within_the_deadline() {
    let [new, old] = PROTOCOLS;
    for (version, method) in [
        (new, "thread/start"),
        (new, "thread/inject_items"),
        (new, "turn/start"),
        (new, "initialize"),
        (old, "newConversation"),
        (old, "addConversationListener"),
        (old, "sendUserMessage"),
    ] {
        let proxy = Proxy::version(version).faults(&format!("overloaded={method}:4")).start();
        assert_eq!(text(&proxy.chat("hi")), "hi", "{method}");
        assert_eq!(proxy.gauge("app_server_starts_total"), 1);
    }
    let proxy = Proxy::fake().env("PROXY_IDLE_TIMEOUT_MS", "500").faults("error=turn/start:-32001").start();
    let answer = proxy.chat("hi");
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("upstream_overloaded")));
    assert!(answer.header("retry-after").is_some());
    proxy.wait_until_running(0, PATIENCE);
}

#[test]
fn a_client_that_leaves_while_codex_is_overloaded_holds_no_permit() {
    let proxy = Proxy::fake().faults("error=thread/start:-32001").start();
    let client = proxy.begin("hi", false);
    proxy.wait_until_running(1, PATIENCE);
    // By now there are longer pauses between the tries.
    let begun = Instant::now();
    until("it was tried often", PATIENCE, || begun.elapsed() > Duration::from_millis(700));
    drop(client);
    proxy.wait_until_running(0, Duration::from_millis(200));
}

#[test]
fn what_is_no_message_or_nobodys_is_counted_and_disturbs_nobody() {
    let twice = "twice=thread/start twice=turn/start twice=newConversation twice=sendUserMessage";
    for version in PROTOCOLS {
        let mut proxy = Proxy::version(version).faults(&format!("garbage stderr=5000000 {twice}")).start();
        let mut other = proxy.open("[[say w1 w2 w3 w4 w5 w6 w7 w8]] [[gap 50]]");
        for prompt in ["[[garbage]] fine", "[[noise 200]] fine", "[[stderr 5000000]] fine", "[[usage-late]] fine"] {
            assert_eq!(text(&proxy.chat(prompt)), "fine", "{prompt}");
        }
        assert_eq!(other.rest().streamed_text(), "w1 w2 w3 w4 w5 w6 w7 w8");
        assert_eq!(proxy.gauge("app_server_starts_total"), 1);
        assert!(proxy.stop(PATIENCE).success());
        let log = proxy.process.stderr();
        let counts = log.lines().find(|line| line.contains("concerned no turn")).unwrap();
        let numbers: Vec<u64> = counts.split([' ', ';']).filter_map(|word| word.parse().ok()).collect();
        assert!(matches!(numbers[..], [.., ignored, broken] if ignored >= 400 && broken >= 20), "{counts}");
    }
}

#[test]
fn a_line_without_end_costs_only_itself() {
    for version in PROTOCOLS {
        let proxy = Proxy::version(version).start();
        assert_eq!(text(&proxy.chat("warm")), "warm");
        let before = memory(proxy.process.pid(), "VmRSS:");
        let mut other = proxy.open("[[say a b c]] [[gate go]]");
        other.until("a ");
        assert_eq!(text(&proxy.chat(&format!("[[line {}]] fine", 65 << 20))), "fine");
        assert_eq!(text(&proxy.chat(&format!("[[line {}]] fine", 8 << 20))), "fine");
        proxy.home.write("go", "");
        assert_eq!(other.rest().streamed_text(), "a b c");
        until("the memory is given back", PATIENCE, || memory(proxy.process.pid(), "VmRSS:") < before + 40_000);
    }
}

#[test]
fn an_answer_that_comes_too_late_is_nobodys() {
    for (version, [start, history, turn]) in [
        (PROTOCOLS[0], ["thread/start", "thread/inject_items", "turn/start"]),
        (PROTOCOLS[1], ["newConversation", "addConversationListener", "sendUserMessage"]),
    ] {
        let proxy =
            Proxy::version(version).env("PROXY_IDLE_TIMEOUT_MS", "200").faults(&format!("late={start}:400")).start();
        assert_eq!(proxy.chat("early").status, 504);
        let late = format!("late={start}:150 late={history}:150 late={turn}:150");
        assert_eq!(text(&Proxy::version(version).faults(&late).start().chat("late")), "late");
        until("the late answer has come", PATIENCE, || proxy.chat("x").status == 504);
        assert_eq!(proxy.gauge("app_server_starts_total"), 1);
    }
}

#[test]
fn eight_at_once_get_each_their_own_answer() {
    for version in ["0.44.0", "0.50.0", "0.66.0", "0.104.0", "0.121.0", "0.169.0"] {
        let proxy = Proxy::version(version).env("PROXY_SSE_MAX_CONCURRENCY", "8").start();
        for round in 0..3 {
            let said = |n: usize| format!("round-{round} of {n} for {version} alone");
            let begin = |n: usize| {
                proxy.begin(
                    &format!("[[say {}]] [[reason {n} it is]] [[usage {} 0 7 3]] [[gap 5]]", said(n), n + 1),
                    n.is_multiple_of(2),
                )
            };
            let mut running: Vec<_> = (0..8).map(begin).collect();
            for (n, connection) in running.iter_mut().enumerate() {
                let answer = connection.response(PATIENCE);
                if n.is_multiple_of(2) {
                    assert_eq!(answer.streamed_text(), said(n), "{version}");
                    continue;
                }
                assert_eq!(text(&answer), said(n), "{version}");
                let body = answer.json();
                assert_eq!(body["choices"][0]["message"]["reasoning_content"], format!("{n} it is"), "{version}");
                assert_eq!(body["usage"]["prompt_tokens"], n + 1, "{version}");
            }
        }
        assert_eq!(proxy.gauge("app_server_starts_total"), 1);
    }
}

#[test]
fn text_arrives_unchanged_whatever_stands_in_it() {
    for version in PROTOCOLS {
        let proxy = Proxy::version(version).start();
        let odd = "a\u{2028}b\u{2029}c 😀👩‍👩‍👧 \u{0}\u{1}\u{1f}\u{7f} \"quoted\" \\back\\ \u{feff}é ﷽ \r\n\n data: [DONE]\n\nevent: x\t.";
        let large: String = ('a'..='z').chain(['é', '😀']).cycle().take(950_000).collect();
        let many: String = (0..20_000).map(|n| format!("{n:é>110} ")).collect();
        assert!(large.len() > 1_000_000 && many.len() > 4_000_000);
        assert_eq!(text(&proxy.chat(odd)), odd);
        assert_eq!(proxy.stream(odd).streamed_text(), odd);
        // One delta of a megabyte, and 20,000 that make four.
        assert!(proxy.stream(&large).streamed_text() == large);
        assert!(text(&proxy.chat(many.trim())) == many.trim());
    }
}
