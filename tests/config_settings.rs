//! Every setting: its default, values that are taken, values that are not.

#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use codex_completions::config::{
    Checked, Config, Env, KeepaliveForm, LogFormat, Notice, Profile, PromptMode, ProtocolChoice, SETTINGS, Sandbox,
    names, table,
};
use codex_completions::turn::Aliases;

fn env(pairs: &[(&str, &str)]) -> Env {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn read(pairs: &[(&str, &str)]) -> Checked {
    Config::from_env(&env(pairs))
}

fn config(pairs: &[(&str, &str)]) -> Config {
    read(pairs).config.unwrap_or_else(|problems| panic!("{pairs:?}: {problems:?}"))
}

fn problems(pairs: &[(&str, &str)]) -> Vec<Notice> {
    read(pairs).config.err().unwrap_or_else(|| panic!("{pairs:?} was taken"))
}

fn file(name: &str, text: &str, mode: u32) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// A setting, values that it takes with what must then hold, and values that it does not take.
type Row = (&'static str, Vec<(&'static str, fn(&Config) -> bool)>, Vec<&'static str>);

/// A setting, its field and whether it may be zero.
type Time = (&'static str, fn(&Config) -> Duration, bool);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A setting of one week at most.
fn time(name: &'static str, field: fn(&Config) -> Duration, zero: bool) -> Vec<String> {
    let mut wrong = vec!["-1", "1.5", "10s", "604800001", "99999999999999999999999", "ten"];
    assert_eq!(field(&config(&[(name, "604800000")])), ms(604_800_000), "{name}");
    assert_eq!(field(&config(&[(name, " 1\t")])), ms(1), "{name}");
    if zero {
        assert_eq!(field(&config(&[(name, "0")])), ms(0), "{name}");
    } else {
        wrong.push("0");
    }
    wrong.into_iter().map(str::to_owned).collect()
}

#[test]
fn every_setting_takes_what_it_should_and_names_what_it_does_not() {
    const FLAGS: [&str; 3] = ["maybe", "2", "onn"];
    let rows: Vec<Row> = vec![
        ("PORT", vec![("0", |c| c.port == 0), ("65535", |c| c.port == 65_535)], vec!["65536", "-1", "http", "80 81"]),
        (
            "PROXY_HOST",
            vec![
                ("localhost", |c| c.host.to_string() == "127.0.0.1"),
                ("::1", |c| c.host.to_string() == "::1"),
                ("127.0.0.2", |c| c.host.to_string() == "127.0.0.2"),
                ("::ffff:127.0.0.1", |c| c.host.is_ipv6()),
            ],
            vec!["example.com", "[::1]", "127.0.0.1:80", "0.0.0.0", "::", "192.168.1.1", "::ffff:10.0.0.1"],
        ),
        (
            "PROXY_UNIX_SOCKET",
            vec![("/run/x.sock", |c| c.unix_socket == Some(PathBuf::from("/run/x.sock")))],
            vec![
                "/0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789/1234567",
            ],
        ),
        (
            "PROXY_API_KEY",
            vec![
                ("one", |c| c.keys.iter().map(|key| key.reveal()).eq(["one"])),
                (" a , ,b,", |c| c.keys.iter().map(|key| key.reveal()).eq(["a", "b"])),
            ],
            vec![",", " , ", "a b", "schlüssel", "a,b\u{7f}"],
        ),
        ("PROXY_API_KEY_FILE", vec![], vec!["/nowhere/at/all", "/"]),
        ("CODEX_BIN", vec![("/opt/codex", |c| c.codex_bin == "/opt/codex")], vec![]),
        (
            "CODEX_HOME",
            vec![
                ("/home/x/.codex", |c| c.codex_home.path == Path::new("/home/x/.codex")),
                ("relative", |c| c.codex_home.path.is_absolute() && c.codex_home.path.ends_with("relative")),
            ],
            vec!["~", "~/.codex"],
        ),
        ("CODEX_MODEL", vec![("gpt", |c| c.codex_model.as_deref() == Some("gpt"))], vec![]),
        ("CODEX_FORCE_PROVIDER", vec![("mine", |c| c.force_provider.as_deref() == Some("mine"))], vec![]),
        (
            "OPENAI_API_KEY",
            vec![("sk-1", |c| c.openai_api_key.as_ref().map(|key| key.reveal()) == Some("sk-1"))],
            vec![],
        ),
        (
            "PROXY_AGENT_PROFILE",
            vec![("LEAN", |c| c.profile == Profile::Lean), ("codex", |c| c.profile == Profile::Codex)],
            vec!["fat"],
        ),
        ("PROXY_BASE_INSTRUCTIONS", vec![("Be brief.", |c| c.base_instructions == "Be brief.")], vec![]),
        (
            "PROXY_PROMPT_MODE",
            vec![
                ("auto", |c| c.prompt_mode == PromptMode::Auto),
                ("native", |c| c.prompt_mode == PromptMode::Native),
                ("joined", |c| c.prompt_mode == PromptMode::Joined),
            ],
            vec!["join"],
        ),
        (
            "PROXY_APP_SERVER_PROTOCOL",
            vec![
                ("auto", |c| c.protocol == ProtocolChoice::Auto),
                ("v1", |c| c.protocol == ProtocolChoice::V1),
                ("V2", |c| c.protocol == ProtocolChoice::V2),
            ],
            vec!["2", "v3"],
        ),
        (
            "PROXY_MODEL_ALIASES",
            vec![("a=b,*=c", |c| c.model_aliases == Aliases::parse("a=b,*=c").unwrap())],
            vec!["a", "a=b,a=c", "=b"],
        ),
        (
            "PROXY_REASONING",
            vec![
                ("1", |c| c.reasoning),
                ("TRUE", |c| c.reasoning),
                ("Yes", |c| c.reasoning),
                ("oN", |c| c.reasoning),
                ("0", |c| !c.reasoning),
                ("False", |c| !c.reasoning),
                ("NO", |c| !c.reasoning),
                ("off", |c| !c.reasoning),
            ],
            FLAGS.to_vec(),
        ),
        (
            "PROXY_SANDBOX_MODE",
            vec![
                ("read-only", |c| c.sandbox == Sandbox::ReadOnly && c.sandbox.as_str() == "read-only"),
                ("workspace-write", |c| c.sandbox.as_str() == "workspace-write"),
                ("danger-full-access", |c| c.sandbox.as_str() == "danger-full-access"),
            ],
            vec!["none", "read_only"],
        ),
        (
            "PROXY_SSE_MAX_CONCURRENCY",
            vec![("0", |c| c.max_turns == 0), ("64", |c| c.max_turns == 64)],
            vec!["-1", "65537", "many"],
        ),
        (
            "PROXY_SSE_KEEPALIVE",
            vec![
                ("comment", |c| c.sse_keepalive_form == KeepaliveForm::Comment),
                ("chunk", |c| c.sse_keepalive_form == KeepaliveForm::Chunk),
                ("0", |c| c.sse_keepalive_form == KeepaliveForm::Off),
                ("off", |c| c.sse_keepalive_form == KeepaliveForm::Off),
                ("No", |c| c.sse_keepalive_form == KeepaliveForm::Off),
            ],
            vec!["1", "on", "ping"],
        ),
        ("PROXY_MAX_CONNECTIONS", vec![("1", |c| c.max_connections == 1)], vec!["0", "65537"]),
        ("PROXY_MAX_BODY_BYTES", vec![("67108864", |c| c.max_body_bytes == 67_108_864)], vec!["0", "67108865", "16M"]),
        ("PROXY_APP_SERVER_GROWTH_MB", vec![("1", |c| c.app_server_growth_mb == 1)], vec!["0", "1048577"]),
        ("PROXY_ENABLE_CORS", vec![("true", |c| c.cors), ("0", |c| !c.cors)], FLAGS.to_vec()),
        (
            "PROXY_CORS_ALLOWED_ORIGINS",
            vec![
                ("*", |c| c.cors_origins == ["*"]),
                ("https://a.example, http://localhost:3000", |c| {
                    c.cors_origins == ["https://a.example", "http://localhost:3000"]
                }),
            ],
            vec!["a.example", "https://a.example/", "https://a.example/x", "https://", "://a", ",", "https://a\nb"],
        ),
        (
            "PROXY_RESPONSE_STORE_MB",
            vec![("0", |c| c.response_store_mb == 0), ("65536", |c| c.response_store_mb == 65_536)],
            vec!["65537", "32MB"],
        ),
        ("PROXY_RESPONSE_STORE_HOURS", vec![("8760", |c| c.response_store_hours == 8_760)], vec!["0", "8761"]),
        ("PROXY_DEBUG_APP_SERVER", vec![("yes", |c| c.debug_app_server)], FLAGS.to_vec()),
        (
            "PROXY_LOG_FORMAT",
            vec![("JSON", |c| c.log_format == LogFormat::Json), ("text", |c| c.log_format == LogFormat::Text)],
            vec!["xml"],
        ),
        ("RUST_LOG", vec![("debug,x=trace", |c| c.log_filter == "debug,x=trace")], vec![]),
    ];
    let mut wrong: Vec<(&str, String)> = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for (name, good, bad) in rows {
        for (value, holds) in good {
            assert!(holds(&config(&[(name, value)])), "{name}={value}");
        }
        wrong.extend(bad.into_iter().map(|value| (name, value.to_owned())));
        seen.push(name);
    }
    let times: [Time; 11] = [
        ("PROXY_QUEUE_MS", |c| c.queue, true),
        (names::TIMEOUT, |c| c.timeout, false),
        ("PROXY_IDLE_TIMEOUT_MS", |c| c.idle_timeout, false),
        ("PROXY_STREAM_OPEN_MS", |c| c.stream_open, true),
        ("PROXY_SSE_KEEPALIVE_MS", |c| c.sse_keepalive, true),
        ("PROXY_HEAD_TIMEOUT_MS", |c| c.head_timeout, false),
        ("PROXY_BODY_TIMEOUT_MS", |c| c.body_timeout, false),
        ("PROXY_WRITE_TIMEOUT_MS", |c| c.write_timeout, false),
        ("PROXY_KEEPALIVE_IDLE_MS", |c| c.keepalive_idle, false),
        ("PROXY_APP_SERVER_START_MS", |c| c.app_server_start, false),
        ("PROXY_SHUTDOWN_GRACE_MS", |c| c.shutdown_grace, true),
    ];
    for (name, field, zero) in times {
        wrong.extend(time(name, field, zero).into_iter().map(|value| (name, value)));
        seen.push(name);
    }
    for (name, value) in wrong {
        let found = problems(&[(name, &value)]);
        assert_eq!(found.len(), 1, "{name}={value}: {found:?}");
        assert_eq!(found[0].name, name, "{found:?}");
        let cure = [": give ", ": set ", ": put ", ": change "].iter().any(|cure| found[0].text.contains(cure));
        assert!(cure && !found[0].text.contains('\n'), "{name}={value}: {}", found[0]);
    }
    for setting in SETTINGS {
        assert!(seen.contains(&setting.name), "{} is not tested", setting.name);
        assert!(config(&[(setting.name, "")]).keys.is_empty());
        assert!(config(&[(setting.name, " \t")]).unix_socket.is_none());
        let bytes = OsString::from_vec(b"1\xff".to_vec());
        let found = Config::from_env(&Env::from([(setting.name.into(), bytes)])).config.unwrap_err();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].name, setting.name);
        assert!(found[0].text.contains("UTF-8"), "{found:?}");
    }
}

#[test]
fn an_empty_environment_gives_the_documented_defaults() {
    let Checked { config, warnings } = read(&[]);
    let config = config.unwrap();
    assert!(warnings.is_empty());
    assert_eq!((config.host.to_string().as_str(), config.port), ("127.0.0.1", 11_435));
    assert!(config.keys.is_empty() && config.unix_socket.is_none() && config.openai_api_key.is_none());
    assert!(
        config.codex_model.is_none() && config.force_provider.is_none() && config.model_aliases == Aliases::default()
    );
    assert_eq!(config.codex_bin, "codex");
    assert_eq!((config.profile, config.prompt_mode), (Profile::Lean, PromptMode::Auto));
    assert_eq!((config.protocol, config.sandbox), (ProtocolChoice::Auto, Sandbox::ReadOnly));
    assert!(config.reasoning && !config.cors && !config.debug_app_server);
    assert!(!config.base_instructions.is_empty());
    assert_eq!((config.max_turns, config.queue), (4, ms(10_000)));
    assert_eq!((config.timeout, config.idle_timeout), (ms(300_000), ms(120_000)));
    assert_eq!((config.stream_open, config.sse_keepalive), (ms(1_000), ms(15_000)));
    assert_eq!(config.sse_keepalive_form, KeepaliveForm::Comment);
    assert_eq!((config.max_connections, config.max_body_bytes), (512, 16_777_216));
    assert_eq!((config.head_timeout, config.body_timeout), (ms(10_000), ms(30_000)));
    assert_eq!((config.write_timeout, config.keepalive_idle), (ms(30_000), ms(75_000)));
    assert_eq!((config.app_server_start, config.app_server_growth_mb), (ms(10_000), 128));
    assert_eq!(config.shutdown_grace, ms(8_000));
    assert_eq!(config.cors_origins, ["*"]);
    assert_eq!((config.response_store_mb, config.response_store_hours), (32, 24));
    assert_eq!((config.log_format, config.log_filter.as_str()), (LogFormat::Text, "info"));
}

#[test]
fn the_home_directory_stands_for_a_tilde() {
    let home = config(&[("CODEX_HOME", "~/x"), ("HOME", "/h")]).codex_home;
    assert_eq!((home.path.as_path(), home.reason), (Path::new("/h/x"), "CODEX_HOME is set"));
    assert!(config(&[]).codex_home.path.is_absolute());
}

#[test]
fn no_time_between_keepalives_means_none() {
    assert_eq!(config(&[("PROXY_SSE_KEEPALIVE_MS", "0")]).sse_keepalive_form, KeepaliveForm::Off);
    let both = [("PROXY_SSE_KEEPALIVE_MS", "0"), ("PROXY_SSE_KEEPALIVE", "chunk")];
    assert_eq!(config(&both).sse_keepalive_form, KeepaliveForm::Off);
}

#[test]
fn all_problems_are_named_together_with_the_warnings() {
    let checked = read(&[
        ("PORT", "x"),
        ("PROXY_HOST", "0.0.0.0"),
        ("PROXY_TIMEOUT_MS", "soon"),
        ("PROXY_REASONING", "perhaps"),
        ("PROXY_API_KEYS", "s3cret"),
    ]);
    let found = checked.config.unwrap_err();
    let mut named: Vec<_> = found.iter().map(|problem| problem.name.as_str()).collect();
    named.sort_unstable();
    assert_eq!(named, ["PORT", "PROXY_HOST", "PROXY_REASONING", "PROXY_TIMEOUT_MS"]);
    assert_eq!(checked.warnings.len(), 1);
    assert!(checked.warnings[0].text.contains("PROXY_API_KEY"), "the cause of the missing key: {:?}", checked.warnings);
}

#[test]
fn any_address_but_loopback_needs_a_key() {
    let host = ("PROXY_HOST", "0.0.0.0");
    assert!(problems(&[host])[0].text.contains("PROXY_API_KEY"));
    assert!(problems(&[host, ("PROXY_API_KEY", "")])[0].text.contains("PROXY_API_KEY"));
    assert_eq!(config(&[host, ("PROXY_API_KEY", "k")]).keys.len(), 1);
    let path = file("bind", "k\n", 0o600);
    assert_eq!(config(&[host, ("PROXY_API_KEY_FILE", path.to_str().unwrap())]).keys.len(), 1);
    // A key that is wrong is one problem, not two.
    assert_eq!(problems(&[host, ("PROXY_API_KEY", "a b")]).len(), 1);
}

#[test]
fn keys_come_from_the_file_too() {
    let path = file("keys", "# of the team\r\n\n  one\t\r\n\t# two\n two \n", 0o600);
    let checked = read(&[("PROXY_API_KEY", "zero"), ("PROXY_API_KEY_FILE", path.to_str().unwrap())]);
    assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
    let keys = checked.config.unwrap().keys;
    assert!(keys.iter().map(|key| key.reveal()).eq(["zero", "one", "two"]), "{}", keys.len());

    let path = file("readable", "one\n", 0o644);
    let checked = read(&[("PROXY_API_KEY_FILE", path.to_str().unwrap())]);
    assert_eq!(checked.warnings.len(), 1);
    assert_eq!(checked.warnings[0].name, "PROXY_API_KEY_FILE");
    assert!(checked.warnings[0].text.contains("chmod"));

    for text in ["", "# nothing\n\n", "one two\n", "\u{feff}one\n", &"k".repeat(1024 * 1024 + 1)] {
        let path = file("bad", text, 0o600);
        assert_eq!(problems(&[("PROXY_API_KEY_FILE", path.to_str().unwrap())]).len(), 1, "{:.20}", text);
    }
}

#[test]
fn secrets_are_never_printed() {
    let path = file("secret", "s3cret-file\n", 0o644);
    let pairs = [
        ("PROXY_API_KEY", "s3cret-key,codex-local-secret"),
        ("PROXY_API_KEY_FILE", path.to_str().unwrap()),
        ("OPENAI_API_KEY", "s3cret-openai"),
        ("PROXY_UNKNOWN_KEY", "s3cret-unknown"),
    ];
    let printed = format!("{:?} {0:#?}", read(&pairs));
    assert!(!printed.contains("s3cret") && !printed.contains("codex-local-secret"), "{printed}");
    assert!(printed.contains("***"));
    let config = config(&pairs);
    // With `{}` it cannot be printed at all.
    assert_eq!(format!("{:?}", config.keys[0]), "***");
    let wrong = format!("{:?}", read(&[("PROXY_API_KEY", "s3cret with space"), ("OPENAI_API_KEY", "s3cret")]));
    assert!(!wrong.contains("s3cret"), "{wrong}");
}

#[test]
fn a_log_filter_that_is_not_ours_is_no_problem() {
    for (given, used, warnings) in [
        ("warn, a::b=debug,c", "warn, a::b=debug,c", 0),
        ("x=", "x=", 0),
        ("info,a[span]=debug,b=loud", "info,a[span]=debug", 1),
        ("a=loud,b=louder", "INFO", 2),
    ] {
        let checked = read(&[("RUST_LOG", given)]);
        assert_eq!(checked.config.unwrap().log_filter, used);
        assert_eq!(checked.warnings.len(), warnings, "{given}: {:?}", checked.warnings);
    }
}

#[test]
fn the_key_of_the_node_proxy_is_warned_of() {
    let warnings = read(&[("PROXY_API_KEY", "codex-local-secret")]).warnings;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].text.contains("Node proxy"));
}

#[test]
fn variables_of_the_node_proxy_say_what_became_of_them() {
    let gone = "PROXY_PROTO_IDLE_MS PROXY_STREAM_IDLE_TIMEOUT_MS PROXY_DEBUG_PROTO PROXY_LOG_PROTO PROXY_DEBUG_WIRE \
        WORKER_STARTUP_TIMEOUT_MS WORKER_HANDSHAKE_TIMEOUT_MS WORKER_SHUTDOWN_GRACE_MS WORKER_RESTART_MAX \
        PROXY_PROTECT_MODELS PROXY_METRICS_TOKEN PROXY_ENABLE_METRICS PROXY_ENABLE_RESPONSES PROXY_USE_APP_SERVER \
        PROXY_KILL_ON_DISCONNECT PROXY_NONSTREAM_TRUNCATE_AFTER_MS PROXY_IGNORE_CLIENT_SYSTEM_PROMPT \
        PROXY_TITLE_GEN_INTERCEPT PROXY_OUTPUT_MODE PROXY_STOP_AFTER_TOOLS PROXY_STOP_AFTER_TOOLS_MODE \
        PROXY_TOOL_BLOCK_MAX PROXY_SANITIZE_METADATA PROXY_MAX_CHAT_CHOICES TOKEN_LOG_PATH PROXY_RATE_LIMIT_ENABLED \
        PROXY_CAPTURE_DIR PROXY_ENABLE_OTEL OTEL_ENABLED PROXY_CODEX_WORKDIR PROXY_ENV NODE_ENV PROXY_DEFAULT_STREAM \
        PROXY_TEST_ENDPOINTS";
    for name in gone.split_whitespace() {
        let warnings = read(&[(name, "1")]).warnings;
        assert_eq!(warnings.len(), 1, "{name}: {warnings:?}");
        assert_eq!(warnings[0].name, name);
        assert!(warnings[0].text.contains("Node proxy"), "{name}: {warnings:?}");
        assert!(read(&[(name, "")]).warnings.is_empty(), "{name}");
    }
    for (name, heir) in [
        ("PROXY_PROTO_IDLE_MS", "PROXY_IDLE_TIMEOUT_MS"),
        ("PROXY_DEBUG_WIRE", "PROXY_DEBUG_APP_SERVER"),
        ("WORKER_HANDSHAKE_TIMEOUT_MS", "PROXY_APP_SERVER_START_MS"),
        ("WORKER_SHUTDOWN_GRACE_MS", "PROXY_SHUTDOWN_GRACE_MS"),
    ] {
        assert!(table::fate(name).unwrap().contains(heir), "{name}");
    }
    for setting in SETTINGS {
        assert_eq!(table::fate(setting.name), None, "{} exists", setting.name);
    }
    for (_, fate) in table::GONE {
        let heirs = fate.split(|c: char| c != '_' && !c.is_ascii_uppercase()).filter(|word| word.starts_with("PROXY_"));
        for heir in heirs {
            assert!(SETTINGS.iter().any(|setting| setting.name == heir), "{heir} does not exist");
        }
    }
}

#[test]
fn an_unknown_name_gets_the_nearest_known_one() {
    for (wrong, right) in [
        ("PROXY_API_KEYS", "PROXY_API_KEY"),
        ("PROXY_TIMEOUT", "PROXY_TIMEOUT_MS"),
        ("PROXY_MAX_CONCURRENCY", "PROXY_SSE_MAX_CONCURRENCY"),
        ("PROXY_PORMPT_MODE", "PROXY_PROMPT_MODE"),
        ("PROXY_RESPONSES_STORE_MB", "PROXY_RESPONSE_STORE_MB"),
        ("PROXY_QUEUE_SECONDS", "PROXY_QUEUE_MS"),
    ] {
        let warnings = read(&[(wrong, "1")]).warnings;
        assert_eq!(warnings.len(), 1, "{wrong}: {warnings:?}");
        assert_eq!(warnings[0].name, wrong);
        assert!(warnings[0].text.ends_with(&format!(" {right}")), "{wrong}: {}", warnings[0]);
    }
    assert!(read(&[("HTTP_PROXY", "x"), ("PATH", "x"), ("PROXY", "x"), ("HOST", "x")]).warnings.is_empty());
    let odd = OsString::from_vec(b"PROXY_\xff\n".to_vec());
    let warnings = Config::from_env(&Env::from([(odd, "1".into())])).warnings;
    assert!(warnings.len() == 1 && !warnings[0].to_string().contains('\n'), "{warnings:?}");
}
