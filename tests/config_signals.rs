//! Signals become messages, two of them.

use std::time::Duration;

use codex_completions::shutdown;
use rustix::process::{Signal, getpid, kill_process};

#[test]
fn each_of_two_signals_is_a_message() {
    let signals = shutdown::install().unwrap();
    assert!(signals.try_recv().is_err());
    for signal in [Signal::TERM, Signal::INT] {
        kill_process(getpid(), signal).unwrap();
        signals.recv_timeout(Duration::from_secs(10)).unwrap();
    }
    assert!(shutdown::install().is_err(), "there is one receiver");
}
