//! Where requests and answers begin and end.

use std::time::{Duration, Instant};

use crate::support::{Fixture, Seen, short, usual};

#[test]
fn any_doubt_about_a_request_is_answered_and_closes() {
    let fixture = Fixture::start(short(2000));
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    for fields in [
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 5 \r\n",
        "Content-Length:  5\r\n",
        "Content-Length:\t5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5_0\r\n",
        "Content-Length: 5.0\r\n",
        "Content-Length: five\r\n",
        "Content-Length:\r\n",
        "Content-Length : 5\r\n",
        "Content-Length\r\n",
        "Content-Length: \u{665}\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Transfer-Encoding: \tchunked\r\n",
        "Transfer-Encoding:  chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding:\r\n",
        "X-A: b\r\n folded: c\r\n",
        "X-A: b\r\n\tfolded: c\r\n",
        "X-A: b\nX-C: d\r\n",
        "X-A: b\rX-C: d\r\n",
        "X-A: b\r\r\n",
        "X-A: b\u{0}\r\n",
        "X-A: b\u{b}\r\n",
        "X-A: b\u{7f}\r\n",
        "X A: b\r\n",
        "X-A\u{0}: b\r\n",
        ": b\r\n",
        "Host: other\r\n",
    ] {
        let answer = fixture.ask(format!("POST /echo HTTP/1.1\r\nHost: h\r\n{fields}\r\n{smuggled}").as_bytes());
        assert_eq!((answer.status, answer.closes()), (400, true), "{fields:?}");
        answer.error();
    }
    for (head, status) in [
        ("POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("GET /echo HTTP/1.1\r\n\r\n", 400),
        ("GET /echo HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET /echo HTTP/1.1\r\nHost: user@h\r\n\r\n", 400),
        ("GET /echo HTTP/1.1\nHost: h\n\n", 400),
        ("GET /echo HTTP/1.1\r\nHost: h\r\n\n", 400),
        ("\nGET /echo HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /echo\r\n", 400),
        ("GET /echo http/1.1\r\n", 400),
        ("GET  /echo HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /echo HTTP/1.1 \r\n", 400),
        ("GET echo HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /echo HTTP/1.2\r\n", 505),
        ("GET /echo HTTP/2.0\r\n", 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("\u{16}\u{3}\u{1}\u{2}", 400),
        ("POST /echo HTTP/1.1\r\nHost: h\r\nExpect: more\r\n\r\n", 417),
    ] {
        let answer = fixture.ask(head.as_bytes());
        assert_eq!((answer.status, answer.closes()), (status, true), "{head:?}");
        answer.error();
    }
    for body in ["5\nhello\r\n0\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n", "5\r\nhelloX", "+5\r\nhello", "0\r\nX: y\n\r\n"] {
        let head = "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = fixture.ask(format!("{head}{body}{smuggled}").as_bytes());
        assert_eq!((answer.status, answer.closes()), (400, true), "{body:?}");
        answer.error();
    }
    assert!(fixture.seen.is_empty(), "{:?}", fixture.seen.try_recv());
}

#[test]
fn a_request_that_ends_too_early_is_refused() {
    let fixture = Fixture::start(short(5000));
    for request in ["GET /echo HT", "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhel"] {
        let mut client = fixture.connect();
        client.send(request.as_bytes());
        client.finish_sending();
        let answer = client.answer();
        assert_eq!((answer.status, answer.closes()), (400, true), "{request:?}");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let fixture = Fixture::start(usual());
    let mut client = fixture.connect();
    client.send(
        b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\none\
          \r\nPOST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n\
          GET /stream HTTP/1.1\r\nHost: h\r\n\r\n\
          POST http://h/echo?x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfour\
          GET /never HTTP/1.1\r\nHost: h\r\n\r\n",
    );
    let bodies: Vec<_> = (0..4).map(|_| String::from_utf8(client.answer().body).unwrap()).collect();
    assert_eq!(bodies, ["one", "two", "data: 0\n\ndata: 1\n\ndata: 2\n\n", "four"]);
    assert!(client.rest().is_empty());
}

#[test]
fn a_connection_serves_many_requests() {
    let fixture = Fixture::start(usual());
    let mut client = fixture.connect();
    for n in 0..50 {
        client.send(format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{n:02}").as_bytes());
        let answer = client.answer();
        assert_eq!((answer.status, answer.closes()), (200, false));
        assert_eq!(answer.body, format!("{n:02}").as_bytes());
    }
    assert_eq!(fixture.server.connections(), 1);
}

#[test]
fn each_piece_of_a_stream_is_a_chunk() {
    let fixture = Fixture::start(usual());
    let mut client = fixture.connect();
    client.send(b"GET /stream HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!(client.head().header("transfer-encoding"), Some("chunked"));
    let chunks = "9\r\ndata: 0\n\n\r\n9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n";
    assert_eq!(String::from_utf8(client.rest()).unwrap(), chunks);
}

#[test]
fn pieces_of_a_stream_do_not_wait_for_each_other() {
    let fixture = Fixture::start(usual());
    let mut client = fixture.connect();
    let mut times: Vec<_> = (0..21)
        .map(|_| {
            let begin = Instant::now();
            assert_eq!(client.get("/stream").body.len(), 27);
            begin.elapsed()
        })
        .collect();
    times.sort();
    // Without TCP_NODELAY the second piece waits 40 ms for the acknowledgement of the first.
    assert!(times[10] < Duration::from_millis(30), "{times:?}");
}

#[test]
fn a_chunked_body_may_come_in_any_pieces() {
    let fixture = Fixture::start(usual());
    let mut client = fixture.connect();
    let request = b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\nA\r\n, you all.\r\n0\r\nX: y\r\n\r\n";
    for split in 1..request.len() {
        client.send(&request[..split]);
        client.send(&request[split..]);
        assert_eq!(client.answer().body, b"hello, you all.", "{split}");
    }
    request.chunks(1).for_each(|byte| client.send(byte));
    assert_eq!(client.answer().body, b"hello, you all.");
}

#[test]
fn continue_is_sent_when_the_body_is_wanted() {
    let fixture = Fixture::start(usual());
    let mut client = fixture.connect();
    let head = |path: &str, length: u64| {
        format!("POST {path} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n")
            .into_bytes()
    };
    client.send(&head("/echo", 5));
    assert_eq!(client.read_until(b"\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send(b"hello");
    assert_eq!(client.answer().body, b"hello");
    // Nobody is invited to send what will not be read.
    client.send(&head("/unread", 5));
    let answer = client.answer();
    assert_eq!((answer.status, answer.closes()), (200, true));
    let answer = fixture.ask(&head("/echo", 1_000_000_000_000));
    assert_eq!((answer.status, answer.error().as_str()), (413, "body_too_large"));
}

#[test]
fn http_1_0() {
    let fixture = Fixture::start(usual());
    let answer = fixture.ask(b"POST /echo HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!((answer.status, answer.closes(), answer.body.as_slice()), (200, true, &b"hi"[..]));
    let answer = fixture.ask(b"GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!((answer.header("transfer-encoding"), answer.closes()), (None, true));
    assert_eq!(answer.body, b"data: 0\n\ndata: 1\n\ndata: 2\n\n");
    let mut client = fixture.connect();
    for _ in 0..2 {
        client.send(b"POST /echo HTTP/1.0\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nhi");
        let answer = client.answer();
        assert_eq!((answer.header("connection"), answer.body.as_slice()), (Some("keep-alive"), &b"hi"[..]));
    }
}

#[test]
fn head_has_no_body() {
    let fixture = Fixture::start(usual());
    let mut client = fixture.connect();
    for path in ["/any", "/stream", "/any"] {
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
        let answer = client.head();
        assert_eq!((answer.status, answer.closes()), (200, false), "{path}");
        let length = if path == "/any" { Some("15") } else { None };
        assert_eq!(answer.header("content-length"), length);
    }
    assert_eq!(client.get("/any").body.len(), 15);
    client.send(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("content-length")), (204, None));
    assert_eq!(client.get("/any").status, 200);
}

#[test]
fn request_ids_are_taken_over_when_sane() {
    let fixture = Fixture::start(usual());
    let mut client = fixture.connect();
    let mut id = |given: &str| {
        client.send(format!("GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: {given}\r\n\r\n").as_bytes());
        client.answer().header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(id("abc.D-1_2"), "abc.D-1_2");
    for odd in ["", "a b", "<script>", &"x".repeat(129)] {
        assert_eq!(id(odd).len(), 16, "{odd}");
    }
    assert_ne!(id("?"), id("?"));
}

#[test]
fn a_header_cannot_be_split() {
    let fixture = Fixture::start(usual());
    let answer = fixture.ask(b"GET /split HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((answer.status, answer.error().as_str()), (500, "internal_error"));
    assert_eq!(fixture.next(), Seen::WriteFailed(std::io::ErrorKind::InvalidInput));
}
