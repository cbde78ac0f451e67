//! A burst that hangs `tiny_http`: connections opened together, each with one request, some of which are answered only
//! once others close. Run by `scripts/why-not-tiny-http`; not part of the gate.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a demonstration")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

const CONNECTIONS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(3);

fn main() {
    let server = tiny_http::Server::http("127.0.0.1:0").unwrap();
    let address = server.server_addr().to_ip().unwrap();
    thread::spawn(move || {
        for request in server.incoming_requests() {
            let _ = request.respond(tiny_http::Response::from_string("hello"));
        }
    });
    // Clients that keep their connection open, as every SDK does.
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            thread::spawn(move || {
                let mut socket = TcpStream::connect(address).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                let answered = socket.read(&mut [0; 512]).is_ok_and(|bytes| bytes > 0);
                (answered, socket)
            })
        })
        .collect();
    let results: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    let answered = results.iter().filter(|(answered, _)| *answered).count();
    println!("tiny_http answered {answered} of {CONNECTIONS} connections within {} s", PATIENCE.as_secs());
}
