//! A scripted Responses API on loopback, so that a real codex works without an account or a network.
//!
//! `scripted-model [PORT] [--demo] [--exit-on-eof]` prints `listening on http://127.0.0.1:PORT/v1`. What it answers is
//! directed by the last user message (see [`answer`]); `--demo` takes no directions, announces itself and echoes;
//! `--exit-on-eof` ends it with its stdin. The control side is on the same port: `GET /requests[?since=N]`,
//! `GET /connections`, `POST /open/GATE`, `POST /reset`.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use codex_completions::threads;
use serde_json::json;

mod answer;
mod http;
#[path = "../support/markers.rs"]
mod markers;
mod records;

use http::Request;
use records::Records;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let demo = arguments.iter().any(|argument| argument == "--demo");
    let port = arguments.iter().find_map(|argument| argument.parse::<u16>().ok()).unwrap_or(0);
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("listening on http://{}/v1", listener.local_addr()?);
    io::stdout().flush()?;
    if arguments.iter().any(|argument| argument == "--exit-on-eof") {
        threads::spawn("until-eof", || {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            std::process::exit(0);
        })?;
    }
    let records = Arc::new(Records::default());
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let records = Arc::clone(&records);
        threads::spawn("connection", move || {
            if let Err(error) = connection(&stream, &records, demo) {
                eprintln!("scripted-model: {error}");
            }
            // What the peer still sends is read, else the close would reach it as a reset that eats the answer.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.set_read_timeout(Some(std::time::Duration::from_secs(1)));
            let _ = (&stream).take(1 << 20).read_to_end(&mut Vec::new());
        })?;
    }
    Ok(())
}

fn connection(stream: &TcpStream, records: &Records, demo: bool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Some(request) = Request::read(stream)? else { return Ok(()) };
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    match (request.method.as_str(), path) {
        ("GET", "/requests") => {
            let since = query.strip_prefix("since=").and_then(|since| since.parse().ok()).unwrap_or(0);
            http::respond(stream, 200, &[], records.requests(since).to_string().as_bytes())
        }
        ("GET", "/connections") => http::respond(stream, 200, &[], records.connections().to_string().as_bytes()),
        ("POST", "/reset") => {
            records.reset();
            http::respond(stream, 200, &[], b"{}")
        }
        ("POST", path) if path.starts_with("/open/") => {
            records.open_gate(path.trim_start_matches("/open/"));
            http::respond(stream, 200, &[], b"{}")
        }
        _ => {
            let number = records.request(&request);
            match (request.method.as_str(), path) {
                ("POST", path) if path.ends_with("/responses") => {
                    answer::serve(stream, &request, number, records, demo)
                }
                ("GET", path) if path.ends_with("/models") => {
                    let list = json!({ "object": "list", "data": [{ "id": "scripted", "object": "model" }] });
                    http::respond(stream, 200, &[], list.to_string().as_bytes())
                }
                _ => http::respond(stream, 404, &[], br#"{"error":{"message":"no such route","code":"unknown_url"}}"#),
            }
        }
    }
}
