//! Keys, command line, settings and the log of the running program.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::{Value, json};

mod support;

use support::proxy::ask;
use support::{Connection, PATIENCE, Process, Proxy, Response, TempDir, until};

/// What a client says beside the request line.
#[track_caller]
fn request(proxy: &Proxy, line: &str, headers: &str, body: &str) -> Response {
    let mut connection = Connection::open(proxy.address);
    connection
        .send(format!("{line} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()));
    connection.response(PATIENCE)
}

#[track_caller]
fn ended(mut process: Process) -> (Option<i32>, String, String) {
    let code = process.wait(PATIENCE).code();
    let out = process.rest_of_stdout();
    // The reader of stderr may be a moment behind.
    until("it said why, or something else", PATIENCE, || !process.stderr().is_empty() || !out.is_empty());
    (code, out, process.stderr())
}

#[test]
fn every_key_opens_every_route_and_no_other_does() {
    let file = TempDir::new();
    file.write("keys", "# of the team\nkey-three\n\n  key-four\n");
    std::fs::set_permissions(file.path().join("keys"), PermissionsExt::from_mode(0o600)).unwrap();
    let proxy =
        Proxy::fake().env("PROXY_API_KEY", "key-one, key-two").env("PROXY_API_KEY_FILE", file.path().join("keys"));
    let proxy = proxy.start();
    let chat = ask("hi", false).to_string();
    for key in ["key-one", "key-two", "key-three", "key-four"] {
        for header in [format!("authorization: bearer {key}\r\n"), format!("X-API-Key: {key}\r\n")] {
            assert_eq!(request(&proxy, "POST /v1/chat/completions", &header, &chat).status, 200, "{header}");
            assert_eq!(request(&proxy, "GET /v1/models", &header, "").status, 200);
            assert_eq!(request(&proxy, "GET /metrics", &header, "").status, 200);
        }
    }
    let wrong = [
        "",
        "authorization: Bearer key\r\n",
        "authorization: Basic key-one\r\n",
        "x-api-key: key-one,key-two\r\n",
        "x-api-key: # of the team\r\n",
    ];
    for header in wrong {
        for line in [
            "POST /v1/chat/completions",
            "POST /chat/completions",
            "GET /v1/models",
            "GET /v1/models/x",
            "GET /metrics",
            "POST /v1/responses",
            "POST /v1/completions",
            "GET /v1/responses/x",
        ] {
            let answer = request(&proxy, line, header, "");
            assert_eq!(
                (answer.status, &answer.json()["error"]["code"]),
                (401, &json!("invalid_api_key")),
                "{line} {header}"
            );
            assert!(answer.header("x-request-id").is_some());
        }
        for line in ["GET /healthz", "GET /livez", "GET /readyz"] {
            assert_eq!(request(&proxy, line, header, "").status, 200, "{line}");
        }
    }
}

#[test]
fn without_a_key_pages_of_the_web_are_kept_out_and_programs_are_not() {
    let body = ask("hi", false).to_string();
    let ask = |proxy: &Proxy, line: &str, head: &str| {
        let mut connection = Connection::open(proxy.address);
        connection.send(format!("{line} HTTP/1.1\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
        let answer = connection.response(PATIENCE);
        (answer.status, answer.text())
    };
    let refused = |(status, text): (u16, String), code: &str, cure: &str| {
        assert!(status == 403 && text.contains(&format!("\"code\":\"{code}\"")), "{status} {text}");
        assert!(text.contains("PROXY_API_KEY") && text.contains(cure), "{text}");
    };
    let chat = "POST /v1/chat/completions";
    let proxy = Proxy::fake().start();
    for host in [
        "127.0.0.1",
        "127.0.0.1:1",
        "192.168.1.5:80",
        "[::1]",
        "[::1]:1",
        "localhost",
        "LocalHost:1",
        "desk",
        "codex.local:80",
    ] {
        assert_eq!(ask(&proxy, chat, &format!("host: {host}")).0, 200, "{host}");
    }
    for host in ["evil.example", "evil.example:1", "localhost.evil.example", "127.0.0.1.evil.example:80", ""] {
        for line in [chat, "GET /v1/models", "GET /metrics"] {
            refused(ask(&proxy, line, &format!("host: {host}")), "host_not_allowed", "localhost");
        }
        for line in ["GET /healthz", "GET /livez", "GET /readyz"] {
            assert_eq!(ask(&proxy, line, &format!("host: {host}\r\norigin: null")).0, 200, "{line} {host:?}");
        }
    }
    let local = |origin: &str| format!("host: localhost\r\norigin: {origin}");
    for origin in ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:8080", "app://obsidian.md"] {
        assert_eq!(ask(&proxy, chat, &local(origin)).0, 200, "{origin}");
    }
    for origin in ["https://evil.example", "http://localhost.evil.example", "http://192.0.2.1", "null", ""] {
        refused(ask(&proxy, chat, &local(origin)), "origin_not_allowed", "PROXY_CORS_ALLOWED_ORIGINS");
    }
    // A client of HTTP/1.0 may name no host.
    let mut old = Connection::open(proxy.address);
    old.send("GET /v1/models HTTP/1.0\r\n\r\n");
    assert_eq!(old.response(PATIENCE).status, 200);

    let proxy = Proxy::fake().env("PROXY_ENABLE_CORS", "on").env("PROXY_CORS_ALLOWED_ORIGINS", "https://app.example");
    let proxy = proxy.start();
    assert_eq!(ask(&proxy, chat, &local("https://app.example")).0, 200);
    refused(ask(&proxy, chat, &local("https://evil.example")), "origin_not_allowed", "PROXY_ENABLE_CORS");
    refused(ask(&proxy, chat, "host: evil.example\r\norigin: https://app.example"), "host_not_allowed", "localhost");
    let proxy = Proxy::fake().env("PROXY_ENABLE_CORS", "on").start();
    assert_eq!(ask(&proxy, chat, &local("null")).0, 200);
    let proxy = Proxy::fake().env("PROXY_API_KEY", "k").start();
    assert_eq!(ask(&proxy, chat, "host: evil.example\r\norigin: null\r\nx-api-key: k").0, 200);
}

#[test]
fn failures_are_no_first_output() {
    let proxy = Proxy::fake().env("PROXY_IDLE_TIMEOUT_MS", "200").start();
    for (prompt, status, count) in [
        ("[[fail usageLimitExceeded]]", 429, 0),
        ("[[hang]]", 504, 0),
        ("[[reason so]] [[fail usageLimitExceeded]]", 429, 1),
        ("hi", 200, 2),
    ] {
        assert_eq!(proxy.chat(prompt).status, status, "{prompt}");
        // It is counted when the answer is out.
        until(prompt, PATIENCE, || proxy.gauge("first_output_seconds_count") == count);
    }
}

#[test]
fn no_body_is_read_before_the_key_was_seen() {
    let proxy = Proxy::fake().env("PROXY_API_KEY", "key-one").start();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n";
    for extra in ["", "expect: 100-continue\r\n"] {
        let mut connection = Connection::open(proxy.address);
        connection.send(format!("{head}{extra}x-api-key: wrong\r\n\r\n"));
        let answer = connection.response(Duration::from_secs(2));
        assert_eq!((answer.status, answer.header("connection")), (401, Some("close")));
        assert!(connection.closed(PATIENCE));
    }
    let mut connection = Connection::open(proxy.address);
    connection.send(format!("{head}expect: 100-continue\r\nx-api-key: key-one\r\n\r\n"));
    assert_eq!(connection.head(PATIENCE).status, 100);
}

#[test]
fn what_cannot_be_served_ends_with_its_code_and_reasons() {
    let (process, _home) = Proxy::fake().env("PROXY_HOST", "0.0.0.0").process();
    let (code, out, err) = ended(process);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(err.contains("PROXY_HOST") && err.contains("PROXY_API_KEY"), "{err}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (process, _home) = Proxy::fake().env("PORT", &port).process();
    let (code, out, err) = ended(process);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains(&port), "{err}");

    let directory = TempDir::new();
    directory.write("precious", "");
    let path = directory.path().join("precious");
    let (process, _home) = Proxy::fake().env("PROXY_UNIX_SOCKET", &path).process();
    let (code, out, err) = ended(process);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains(&format!("cannot listen: {}: ", path.display())), "{err}");

    let (process, _home) = Proxy::fake().env("PROXY_TIMEOUT_MS", "soon").env("PROXY_LOG_FORMAT", "xml").process();
    let (code, out, err) = ended(process);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(err.contains("PROXY_TIMEOUT_MS") && err.contains("PROXY_LOG_FORMAT"), "{err}");

    let (process, _home) = Proxy::fake().arg("--verbose").process();
    assert_eq!(ended(process).0, Some(2));
}

#[test]
fn the_command_line_prints_what_it_is_asked_for() {
    let run = |argument: &str| {
        ended(Proxy::fake().env("PROXY_API_KEY", "secret-key").env("PROXY_QEUE_MS", "1").arg(argument).process().0)
    };
    let (code, out, err) = run("--version");
    assert_eq!((code, out, err.as_str()), (Some(0), format!("codex-completions {}\n", env!("CARGO_PKG_VERSION")), ""));
    let (code, out, _) = run("--help");
    assert!(code == Some(0) && out.contains("PROXY_QUEUE_MS"));
    let (code, out, _) = run("--check-config");
    assert_eq!(code, Some(0));
    assert!(out.contains("PROXY_API_KEY=***") && !out.contains("secret-key") && out.contains("PROXY_QEUE_MS"), "{out}");
    let mut served = Proxy::fake().arg("serve").start();
    assert!(served.stop(PATIENCE).success());
    assert_eq!(served.process.rest_of_stdout(), "", "one line and nothing after it");
}

#[test]
fn no_secret_and_no_word_of_a_prompt_is_ever_logged() {
    let provider = json!({ "name": "gw", "base_url": "http://gw/v1", "experimental_bearer_token": "secret-token",
        "http_headers": { "x-api-key": "secret-header" } });
    let config = json!({ "config": { "model_provider": "gw", "model_providers": { "gw": provider } }, "origins": {} });
    for level in ["debug", "trace"] {
        let file = TempDir::new();
        file.write("keys", "secret-of-the-file");
        let proxy = Proxy::fake()
            .env("PROXY_API_KEY", "secret-key")
            .env("PROXY_API_KEY_FILE", file.path().join("keys"))
            .env("OPENAI_API_KEY", "secret-of-openai")
            .env("PROXY_DEBUG_APP_SERVER", "1")
            .env("PROXY_IDLE_TIMEOUT_MS", "300")
            .env("RUST_LOG", level)
            .file("config.toml", "")
            .file("config.json", &config.to_string())
            .faults("garbage");
        let mut proxy = proxy.listening();
        until("it is ready", PATIENCE, || proxy.ready().status == 200);
        let key = "authorization: Bearer secret-key\r\n";
        for prompt in [
            "prompt-word",
            "[[say answer-word]]",
            "[[fail other]] [[message upstream-word]]",
            "[[request some/novelty]] prompt-word",
            "prompt-word [[hang]]",
            "[[say answer-word]] [[retry other-word]]",
        ] {
            for stream in [true, false] {
                request(&proxy, "POST /v1/chat/completions", key, &ask(prompt, stream).to_string());
            }
        }
        request(&proxy, "POST /v1/chat/completions", "x-api-key: secret-of-a-guesser\r\n", "prompt-word");
        request(&proxy, "POST /v1/chat/completions", key, "{\"messages\": prompt-word}");
        request(&proxy, "POST /v1/chat/completions", key, "{\"messages\": [{\"role\": \"prompt-word\"}]}");
        request(&proxy, "GET /v1/models?key=secret-in-the-query", "cookie: secret-cookie\r\n", "");
        let codex = proxy.app_server();
        assert!(!codex.arguments().concat().contains("secret"), "everybody can read the arguments");
        assert!(proxy.stop(PATIENCE).success());
        let log = proxy.process.stderr();
        assert!(log.contains("spawning (app-server): ") && log.contains("turn/start"), "{log}");
        assert!(!log.contains("secret"), "{:?}", log.lines().find(|line| line.contains("secret")));
        if level == "debug" {
            for word in ["prompt-word", "answer-word", "other-word"] {
                assert!(!log.contains(word), "{:?}", log.lines().find(|line| line.contains(word)));
            }
        }
        // Codex inherits nothing of the proxy's own.
        let start: Value = serde_json::from_str(&proxy.book("starts")[0]).unwrap();
        let own = |name: &Value| name.as_str().is_some_and(|name| name.starts_with("PROXY_") || name == "RUST_LOG");
        assert!(!start["env"].as_array().unwrap().iter().any(own), "{start}");
    }
}

#[test]
fn an_address_with_a_secret_is_neither_an_argument_nor_logged() {
    let address = json!({ "config": { "openai_base_url": "http://me:secret@gw/v1?key=secret" }, "origins": { "openai_base_url": {} } });
    let proxy = Proxy::fake().file("config.toml", "").file("config.json", &address.to_string());
    let mut proxy = proxy.env("PROXY_AGENT_PROFILE", "codex").start();
    assert!(!proxy.app_server().arguments().concat().contains("secret"));
    let degraded = proxy.ready().json()["codex"]["degraded"].to_string();
    assert!(degraded.contains("make it a provider of its own"), "{degraded}");
    assert!(proxy.stop(PATIENCE).success());
    let log = proxy.process.stderr();
    assert!(log.contains("openai_base_url has") && !log.contains("secret"), "{log}");
}

#[test]
fn a_configuration_that_codex_refuses_is_told_without_its_values_and_places() {
    let long = "secret".repeat(2000);
    let excerpt =
        format!("TOML parse error at line 1, column 8\n  |\n1 | wire = secret {long}\n  |        ^\nmust be quoted");
    let value = "layers: $CODEX_HOME/config.toml:5:16: invalid type: string \"Bearer secret\", expected a map\nin `model_providers.gw.http_headers`\n";
    // Some versions refuse to start, others to answer.
    for (version, faults, complaint, expected) in [
        (
            "0.169.0",
            "error=config/read:-32603",
            value,
            "layers: config.toml:5:16: invalid type: string \"…\", expected a map in `model_providers.gw.http_headers`",
        ),
        (
            "0.77.0",
            "exit-at-start",
            value,
            "layers: config.toml:5:16: invalid type: string \"…\", expected a map in `model_providers.gw.http_headers`",
        ),
        ("0.77.0", "exit-at-start", &excerpt, "TOML parse error at line 1, column 8 must be quoted"),
    ] {
        let proxy = Proxy::version(version).faults(faults).file("complaint", complaint).file("config.toml", "x");
        let mut proxy = proxy.env("PROXY_QUEUE_MS", "0").env("RUST_LOG", "debug").listening();
        until("the reason is told", PATIENCE, || proxy.reason().contains(expected));
        let told = proxy.ready().text() + &proxy.chat("hi").text();
        assert!(proxy.stop(PATIENCE).success());
        let log = proxy.process.stderr();
        assert!(
            log.contains(expected) && !log.contains("secret"),
            "{:?}",
            log.lines().find(|line| line.contains("secret"))
        );
        assert!(!told.contains("secret"), "{told}");
    }
}

#[test]
fn each_request_is_one_line_of_the_log_with_all_that_was_promised() {
    let proxy =
        Proxy::fake().env("PROXY_LOG_FORMAT", "json").env("RUST_LOG", "info").env("PROXY_IDLE_TIMEOUT_MS", "300");
    let mut proxy = proxy.env("PROXY_MODEL_ALIASES", "*=fake-small").file("seen", "").start();
    let id = |id: &str| format!("x-request-id: {id}\r\n");
    let chat = "POST /v1/chat/completions";
    let answer = request(&proxy, chat, &id("whole"), &ask("[[usage 11 7 5 3]] hi", false).to_string());
    assert_eq!(answer.header("x-request-id"), Some("whole"));
    request(&proxy, chat, &id("stream"), &ask("[[usage 11 7 5 3]] hi", true).to_string());
    request(&proxy, chat, &id("idle"), &ask("[[hang]]", false).to_string());
    request(&proxy, chat, &id("failed"), &ask("[[fail serverOverloaded]]", true).to_string());
    request(&proxy, chat, &id("wrong"), "{");
    let evil = json!({ "model": "x\nevil \u{1b}[31m", "messages": [{ "role": "user", "content": "hi" }] });
    request(&proxy, chat, &id("evil"), &evil.to_string());
    let long = json!({ "model": "m".repeat(1_000_000), "messages": [{ "role": "user", "content": "hi" }] });
    request(&proxy, chat, &id("long"), &long.to_string());
    request(&proxy, "GET /v1/models", &id("models"), "");
    request(&proxy, "GET /nothing", &id("nothing"), "");
    request(&proxy, "PUT /v1/models", &id("verb"), "");
    request(&proxy, &format!("{} /v1/models", "V".repeat(8000)), &id("long-verb"), "");
    let mut left = Connection::open(proxy.address);
    let body = ask("[[say a]] [[hang]]", false).to_string();
    left.send(format!(
        "{chat} HTTP/1.1\r\nhost: localhost\r\nx-request-id: left\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ));
    until("its turn runs", PATIENCE, || proxy.calls("turn/start") == 7);
    drop(left);
    proxy.wait_until_running(0, PATIENCE);
    assert!(proxy.stop(PATIENCE).success());
    let log = proxy.process.stderr();
    let messages: Vec<String> = log
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(line["ts"].is_string() && line["level"].is_string() && line["target"].is_string(), "{line}");
            line["msg"].as_str().unwrap().to_owned()
        })
        .collect();
    let fields = |id: &str| {
        let start = format!("request={id} ");
        let found: Vec<&String> = messages.iter().filter(|message| message.starts_with(&start)).collect();
        assert_eq!(found.len(), 1, "{id}: {found:?}");
        assert!(found[0].len() < 1000, "{id}: {} bytes", found[0].len());
        found[0].clone()
    };
    let has = |id: &str, words: &[&str]| {
        let line = fields(id);
        words.iter().for_each(|word| assert!(line.contains(word), "{id}: no {word} in {line}"));
        line
    };
    for id in ["whole", "stream"] {
        let line = has(
            id,
            &[
                "POST /v1/chat/completions",
                " status=200 ",
                " model=codex-5 ",
                " thread=01a1fce7-",
                " tokens=11/7/5/3 ",
                " end=stop",
            ],
        );
        let ms = |name: &str| {
            line.split_once(&format!(" {name}=")).unwrap().1.split(' ').next().unwrap().parse::<u64>().unwrap()
        };
        assert!(ms("first_ms") <= ms("ms"), "{line}");
    }
    has("idle", &[" status=504 ", "Timeout", "PROXY_IDLE_TIMEOUT_MS"]);
    has("failed", &[" status=503 ", "Overloaded"]);
    has("wrong", &[" status=400 ", " model=- "]);
    has("evil", &[" status=200 "]);
    has("long", &[" status=200 "]);
    has("models", &["GET /v1/models", " status=200 "]);
    has("nothing", &[" status=404 "]);
    has("verb", &[" status=405 "]);
    has("long-verb", &[" status=405 "]);
    has("left", &["client gone"]);
}

#[test]
fn routes_and_verbs_are_those_of_the_contract() {
    let proxy = Proxy::fake().start();
    for path in ["/v1/models", "/healthz", "/readyz", "/metrics"] {
        let mut connection = Connection::open(proxy.address);
        connection.send(format!("HEAD {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"));
        let answer = connection.head(PATIENCE);
        assert_eq!(answer.status, 200, "{path}");
        assert!(connection.closed(PATIENCE), "{path} has no body");
    }
    let answer = request(&proxy, "DELETE /v1/chat/completions", "", "");
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    for path in ["/v2/models", "/", "/v1", "/v1/chat", "/v1/embeddings"] {
        let answer = request(&proxy, &format!("GET {path}"), "", "");
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!("unknown_url")), "{path}");
    }
    let ready = proxy.ready().json();
    assert_eq!((&ready["status"], &ready["codex"]["version"]), (&json!("ready"), &json!("0.169.0")));
    assert_eq!((&ready["codex"]["dialect"], &ready["codex"]["prompt"]), (&json!("v2"), &json!("native")));
    assert!(ready["codex"]["degraded"].is_array() && ready["reason"].is_string());
}

#[test]
fn a_home_that_cannot_be_written_is_replaced_by_a_temporary_one() {
    let (home, temporary) = (TempDir::new(), TempDir::new());
    home.write("file", "");
    let mut proxy =
        Proxy::fake().env("CODEX_HOME", home.path().join("file/home")).env("TMPDIR", temporary.path()).start();
    assert_eq!(proxy.chat("hi").status, 200);
    assert!(proxy.process.stderr().contains("CODEX_HOME cannot be written"));
    assert!(proxy.stop(PATIENCE).success());
    let left: Vec<_> = std::fs::read_dir(temporary.path()).unwrap().flatten().collect();
    let names = left.iter().flat_map(|own| std::fs::read_dir(own.path()).unwrap().flatten());
    assert!(!names.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("home-")));
}
