//! `bench PROXY CODEX`: what the proxy costs, against a bare client of the same fake app-server in the same run.
//!
//! Prints one line for each measure. Times and CPU depend on the machine: compare the ratios.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    dead_code,
    unreachable_pub,
    reason = "a measurement that cannot go on panics"
)]

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use codex_completions::threads;
use serde_json::{Value, json};

mod bare;
#[path = "../support/client.rs"]
mod client;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/wait.rs"]
mod wait;

use bare::Bare;
use client::Connection;
use process::{Process, Seen};
use wait::{PATIENCE, until};

/// Long enough for the ticks of 10 ms in which CPU time is told.
const BURST: (usize, usize) = (40, 25_000);
const PACED: (usize, usize) = (16, 1_000);
const FIRST: usize = 400;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [proxy, codex] = arguments.as_slice() else { panic!("usage: bench PROXY CODEX") };
    let home = std::env::temp_dir().join(format!("codex-completions-bench-{}", std::process::id()));
    std::fs::create_dir_all(&home).unwrap();
    let mut command = Command::new(proxy);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("PORT", "0").env("CODEX_BIN", codex).env("CODEX_HOME", &home).env("PROXY_SSE_MAX_CONCURRENCY", "0");
    let mut process = Process::start(&mut command);
    let line = process.line();
    let address: SocketAddr =
        line.trim_start_matches("listening on http://").trim_end_matches("/v1").parse().expect("an address");
    until("the proxy is ready", PATIENCE, || client::get(address, "/readyz").status == 200);
    let seen = Seen::read(process.pid()).unwrap();
    let mut bare = Bare::start(codex);

    let size = std::fs::metadata(proxy).unwrap().len();
    println!("binary                     {:>9.2} MB", megabytes(size));
    println!("memory, idle               {:>9.2} MB", megabytes(seen.rss() * 1024));
    first_token(address, &mut bare);
    burst(address, &seen, &mut bare);
    paced(address, &seen, &mut bare);
    println!("memory, after all that     {:>9.2} MB", megabytes(seen.rss() * 1024));
    let before = seen.cpu();
    let quiet = Instant::now();
    until("three quiet seconds", PATIENCE, || quiet.elapsed() > Duration::from_secs(3));
    println!("CPU at rest                {:>9.2} ms/s", (seen.cpu() - before).as_secs_f64() * 1000.0 / 3.0);
    drop(process);
    let _ = std::fs::remove_dir_all(home);
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn micros(time: Duration, count: usize) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

fn ask(prompt: &str) -> Value {
    json!({ "model": "codex-5", "stream": true, "messages": [{ "role": "user", "content": prompt }] })
}

/// One streamed completion on a kept connection: the time to its first words, and its length in bytes.
fn complete(connection: &mut Connection, prompt: &str) -> (Duration, usize) {
    let began = Instant::now();
    assert!(connection.post("/v1/chat/completions", &ask(prompt)));
    let head = connection.head(PATIENCE);
    assert_eq!(head.status, 200);
    // The role comes with an empty text, so this is the first that says something.
    let mut read = connection.read_until(b"\"content\":\"\"", PATIENCE).len();
    read += connection.read_until(b"\"content\":\"", PATIENCE).len();
    let first = began.elapsed();
    let rest = connection.read_until(b"data: [DONE]", PATIENCE);
    let end = String::from_utf8_lossy(&rest[rest.len().saturating_sub(300)..]);
    assert!(end.contains("\"finish_reason\":\"stop\""), "{end}");
    connection.read_until(b"0\r\n\r\n", PATIENCE);
    (first, read + rest.len())
}

fn first_token(address: SocketAddr, bare: &mut Bare) {
    let mut connection = Connection::open(address);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..FIRST {
        theirs.push(bare.complete("hello", 1).0);
        ours.push(complete(&mut connection, "hello").0);
    }
    ours.sort();
    theirs.sort();
    let at = |times: &[Duration], percent: usize| micros(times[FIRST * percent / 100], 1);
    println!("first token, bare          {:>9.0} us median, {:.0} us p99", at(&theirs, 50), at(&theirs, 99));
    println!("first token, proxy         {:>9.0} us median, {:.0} us p99", at(&ours, 50), at(&ours, 99));
    println!("first token, added         {:>9.0} us median", at(&ours, 50) - at(&theirs, 50));
}

fn burst(address: SocketAddr, seen: &Seen, bare: &mut Bare) {
    let (rounds, deltas) = BURST;
    let prompt = format!("[[deltas {deltas}]]");
    let this = Seen::read(std::process::id()).unwrap();
    let (before, began) = (this.cpu(), Instant::now());
    for _ in 0..rounds {
        assert_eq!(bare.complete(&prompt, 1).1, deltas);
    }
    let theirs = micros(this.cpu() - before, rounds * deltas);
    println!("burst, bare                {theirs:>9.2} us CPU/delta, {:.0} deltas/s", rate(rounds * deltas, began));
    let mut connection = Connection::open(address);
    let (before, began) = (seen.cpu(), Instant::now());
    for _ in 0..rounds {
        complete(&mut connection, &prompt);
    }
    let ours = micros(seen.cpu() - before, rounds * deltas);
    println!("burst, proxy               {ours:>9.2} us CPU/delta, {:.0} deltas/s", rate(rounds * deltas, began));
    println!("burst, proxy / bare        {:>9.2}", ours / theirs);
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn rate(count: usize, began: Instant) -> f64 {
    count as f64 / began.elapsed().as_secs_f64()
}

fn paced(address: SocketAddr, seen: &Seen, bare: &mut Bare) {
    let (streams, deltas) = PACED;
    let prompt = format!("[[deltas {deltas}]] [[gap 3]]");
    let this = Seen::read(std::process::id()).unwrap();
    let before = this.cpu();
    assert_eq!(bare.complete(&prompt, streams).1, streams * deltas);
    let theirs = micros(this.cpu() - before, streams * deltas);
    println!("paced, bare, {streams} streams    {theirs:>9.2} us CPU/delta");
    let before = seen.cpu();
    let running: Vec<_> = (0..streams)
        .map(|_| {
            let prompt = prompt.clone();
            threads::spawn("stream", move || complete(&mut Connection::open(address), &prompt)).unwrap()
        })
        .collect();
    for stream in running {
        stream.join().unwrap();
    }
    let ours = micros(seen.cpu() - before, streams * deltas);
    println!("paced, proxy, {streams} streams   {ours:>9.2} us CPU/delta");
    println!("paced, proxy / bare        {:>9.2}", ours / theirs);
}
