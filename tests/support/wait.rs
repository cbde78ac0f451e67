//! Waits that have a deadline and never sleep blindly.

use std::time::{Duration, Instant};

/// How long anything may take that has no deadline of its own.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks every few milliseconds until there is an answer; panics with `what` after `limit`.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(3));
    }
}

/// The same for a condition.
#[track_caller]
pub fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    eventually(what, limit, || condition().then_some(()));
}
