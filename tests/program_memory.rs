//! What requests cost in memory, and that nobody is refused who costs little.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use serde_json::json;

mod support;

use support::process::memory;
use support::{PATIENCE, Proxy, until};

#[test]
fn a_conversation_of_many_small_pieces_costs_little_more_than_its_bytes() {
    let proxy = Proxy::fake().start();
    assert_eq!(proxy.chat("warm").status, 200);
    let before = memory(proxy.process.pid(), "VmHWM:");
    let messages = vec![json!({ "role": "user", "content": "a" }); 30_000];
    let parts = vec![json!({ "type": "text", "text": "a" }); 30_000];
    for body in [json!({ "messages": messages }), json!({ "messages": [{ "role": "user", "content": parts }] })] {
        assert_eq!(proxy.post("/v1/chat/completions", &body).status, 200);
    }
    // Nine hundred kilobytes each; as a tree of values they were sixty times that.
    let peak = memory(proxy.process.pid(), "VmHWM:");
    assert!(peak < before + 25_000, "{before} {peak}");
}

#[test]
fn large_requests_that_wait_are_counted_and_those_that_run_are_not() {
    let proxy = Proxy::fake().env("PROXY_SSE_MAX_CONCURRENCY", "1").env("PROXY_QUEUE_MS", "60000").start();
    let prompt = |bytes: usize| format!("[[say a b]] [[gate go]] {}", "x".repeat(bytes));
    let begin = |bytes: usize| proxy.begin(&prompt(bytes), false);
    let waits = |n: u64| until("it waits", PATIENCE, || proxy.gauge("turns_waiting") == n);
    let large = 15 << 20;
    let mut first = proxy.open(&prompt(large));
    first.until("a ");
    let mut clients = Vec::new();
    for n in 1..=4 {
        clients.push(begin(large));
        waits(n);
    }
    // Four megabytes are left of 64: many small ones are welcome, one large one is not.
    clients.extend((0..200).map(|_| begin(1000)));
    waits(204);
    let refused = begin(4_300_000).response(PATIENCE);
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &json!("bodies_too_large")));
    assert_eq!(refused.header("retry-after"), Some("1"));
    // One that has left counts no more.
    drop(clients.remove(3));
    waits(203);
    clients.insert(3, begin(large));
    waits(204);
    proxy.home.write("go", "");
    assert_eq!(first.rest().streamed_text(), "a b");
    clients.iter_mut().for_each(|client| assert_eq!(client.response(PATIENCE).status, 200));
    let peak = memory(proxy.process.pid(), "VmHWM:");
    println!("{} MB at most", peak >> 10);
    assert!(peak < 250_000, "{peak}");
}

#[test]
fn references_to_one_answer_cost_no_more_than_a_body() {
    let proxy = Proxy::fake().env("PROXY_MAX_BODY_BYTES", "4000000").start();
    let answer = proxy.post("/v1/responses", &json!({ "input": "[[deltas 1000]] [[size 1000]]" })).json();
    let item = json!({ "type": "item_reference", "id": answer["output"][0]["id"] });
    let mut input = vec![item; 300];
    let before = memory(proxy.process.pid(), "VmHWM:");
    let refused = proxy.post("/v1/responses", &json!({ "input": input }));
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("input[3].id")), "{}", refused.text());
    assert!(refused.text().contains("PROXY_MAX_BODY_BYTES (4000000 bytes)"));
    let peak = memory(proxy.process.pid(), "VmHWM:");
    assert!(peak < before + 10_000, "{before} {peak}");
    input.truncate(3);
    assert_eq!(proxy.post("/v1/responses", &json!({ "input": input })).status, 200);
}
