//! What is kept of responses, for whom and how long.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod api_util;

use std::sync::Arc;
use std::time::Duration;

use codex_completions::api::responses::Record;
use codex_completions::api::responses::store::{Owner, Store};
use codex_completions::turn::Role;

use api_util::message;

fn record(id: &str, bytes: usize) -> Record {
    Record {
        id: id.into(),
        json: "{}".into(),
        history: vec![message(Role::User, &"x".repeat(bytes))],
        output: Vec::new(),
    }
}

const ME: Owner = Owner(1);

fn at(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn a_record_is_its_owners_until_deleted() {
    let mut store = Store::new(1 << 20, at(60));
    store.put(ME, record("resp_1", 10), at(0));
    assert_eq!(store.get(ME, "resp_1", at(59)), Some(Arc::new(record("resp_1", 10))));
    assert_eq!(store.get(Owner(2), "resp_1", at(0)), None);
    let error = store.delete(Owner(2), "resp_1", at(0)).unwrap_err();
    assert_eq!((error.status, error.param.as_deref()), (404, Some("id")));
    let answer = store.delete(ME, "resp_1", at(0)).unwrap();
    assert_eq!(answer, r#"{"id":"resp_1","object":"response","deleted":true}"#);
    assert_eq!(store.get(ME, "resp_1", at(0)), None);
}

#[test]
fn records_age() {
    let mut store = Store::new(1 << 20, at(60));
    store.put(ME, record("old", 10), at(0));
    store.put(ME, record("young", 10), at(30));
    assert!(store.get(ME, "old", at(60)).is_none());
    assert!(store.get(ME, "young", at(60)).is_some());
    assert!(store.get(ME, "young", at(90)).is_none());
    assert_eq!(store.bytes(), 0);
}

#[test]
fn the_oldest_make_room() {
    let mut store = Store::new(10_000, at(60));
    for id in ["a", "b", "c", "d", "e"] {
        store.put(ME, record(id, 3000), at(0));
        assert!(store.bytes() <= 10_000);
    }
    let kept = ["a", "b", "c", "d", "e"].map(|id| store.get(ME, id, at(1)).is_some());
    assert_eq!(kept, [false, false, true, true, true]);
    store.put(ME, record("huge", 20_000), at(2));
    assert!(store.get(ME, "huge", at(2)).is_none());
}
