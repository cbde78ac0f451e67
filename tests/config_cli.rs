//! What the command line prints and how it ends.

#![allow(clippy::unwrap_used)]

use codex_completions::cli;
use codex_completions::config::{Config, Env, Notice, SETTINGS};
use codex_completions::exit::Exit;

/// The settings of the contract with clients.
const NAMES: &str = "PORT PROXY_HOST PROXY_UNIX_SOCKET PROXY_API_KEY PROXY_API_KEY_FILE CODEX_BIN CODEX_HOME \
    CODEX_MODEL CODEX_FORCE_PROVIDER OPENAI_API_KEY PROXY_AGENT_PROFILE PROXY_BASE_INSTRUCTIONS PROXY_PROMPT_MODE \
    PROXY_APP_SERVER_PROTOCOL PROXY_MODEL_ALIASES PROXY_REASONING PROXY_SANDBOX_MODE PROXY_SSE_MAX_CONCURRENCY \
    PROXY_QUEUE_MS PROXY_TIMEOUT_MS PROXY_IDLE_TIMEOUT_MS PROXY_STREAM_OPEN_MS PROXY_SSE_KEEPALIVE_MS \
    PROXY_SSE_KEEPALIVE PROXY_MAX_CONNECTIONS PROXY_MAX_BODY_BYTES PROXY_HEAD_TIMEOUT_MS PROXY_BODY_TIMEOUT_MS \
    PROXY_WRITE_TIMEOUT_MS PROXY_KEEPALIVE_IDLE_MS PROXY_APP_SERVER_START_MS PROXY_APP_SERVER_GROWTH_MB \
    PROXY_SHUTDOWN_GRACE_MS PROXY_ENABLE_CORS PROXY_CORS_ALLOWED_ORIGINS PROXY_RESPONSE_STORE_MB \
    PROXY_RESPONSE_STORE_HOURS PROXY_DEBUG_APP_SERVER PROXY_LOG_FORMAT RUST_LOG";

struct Run {
    result: Result<(Config, Vec<Notice>), Exit>,
    out: String,
    err: String,
}

fn run(args: &[&str], pairs: &[(&str, &str)]) -> Run {
    let args: Vec<_> = args.iter().map(|arg| (*arg).into()).collect();
    let env: Env = pairs.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let result = cli::run(&args, &env, &mut out, &mut err);
    Run { result, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

#[test]
fn the_table_is_that_of_the_contract() {
    let known: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
    assert_eq!(known, NAMES.split_whitespace().collect::<Vec<_>>());
}

#[test]
fn serving_is_the_default_and_prints_nothing() {
    for args in [vec![], vec!["serve"]] {
        let run = run(&args, &[("PORT", "8080"), ("PROXY_X", "1")]);
        let (config, warnings) = run.result.unwrap();
        assert_eq!((config.port, warnings.len()), (8080, 1));
        assert_eq!((run.out.as_str(), run.err.as_str()), ("", ""));
    }
}

#[test]
fn help_names_every_setting_with_its_default() {
    for args in [vec!["--help"], vec!["-h"], vec!["serve", "--help"]] {
        // Help does not depend on settings being right.
        let run = run(&args, &[("PORT", "x")]);
        assert_eq!(run.result.unwrap_err(), Exit::Done);
        assert!(run.err.is_empty());
        for setting in SETTINGS {
            let line = run.out.lines().find(|line| line.trim().split(' ').next() == Some(setting.name));
            assert!(line.unwrap_or_else(|| panic!("{}", setting.name)).contains(setting.default));
            assert!(run.out.contains(setting.help));
        }
        for word in ["serve", "--check-config", "--help", "--version", "listening on http://HOST:PORT/v1"] {
            assert!(run.out.contains(word), "{word}");
        }
    }
}

#[test]
fn version_is_that_of_the_package() {
    for flag in ["--version", "-V"] {
        let run = run(&[flag], &[]);
        assert_eq!(run.result.unwrap_err(), Exit::Done);
        assert_eq!(run.out, format!("codex-completions {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn anything_else_is_refused_with_the_usage() {
    for args in [vec!["--bogus"], vec!["serve", "serve"], vec!["--help", "--version"], vec![""], vec!["a\n\u{1b}[2J"]] {
        let run = run(&args, &[]);
        assert_eq!(run.result.unwrap_err(), Exit::Config, "{args:?}");
        assert!(run.out.is_empty());
        assert!(run.err.contains("usage: codex-completions"), "{args:?}: {}", run.err);
        assert!(run.err.lines().count() == 2 && !run.err.contains('\u{1b}'), "{args:?}: {}", run.err);
    }
}

#[test]
fn wrong_settings_end_with_all_problems_and_the_warnings() {
    let run = run(&[], &[("PORT", "x"), ("PROXY_QUEUE_MS", "-1"), ("PROXY_API_KEYZ", "1")]);
    assert_eq!(run.result.unwrap_err(), Exit::Config);
    assert!(run.out.is_empty());
    assert_eq!(run.err.lines().filter(|line| line.starts_with("problem: ")).count(), 2, "{}", run.err);
    assert!(run.err.contains("problem: PORT: `x`") && run.err.contains("warning: PROXY_API_KEYZ: "), "{}", run.err);
}

#[test]
fn check_config_prints_effective_values_and_no_secret() {
    let pairs = [
        ("PORT", " 8080 "),
        ("PROXY_API_KEY", "s3cret"),
        ("OPENAI_API_KEY", "s3cret"),
        ("CODEX_HOME", "/somewhere"),
        ("PROXY_BASE_INSTRUCTIONS", "one\ntwo"),
        ("PROXY_NOVELTY", "s3cret"),
    ];
    let good = run(&["--check-config"], &pairs);
    assert_eq!(good.result.unwrap_err(), Exit::Done);
    assert!(!good.out.contains("s3cret"), "{}", good.out);
    for line in [
        "PORT=8080  (set)",
        "PROXY_HOST=127.0.0.1  (default)",
        "PROXY_API_KEY=***  (set)",
        "PROXY_UNIX_SOCKET=  (not set)",
        "OPENAI_API_KEY=***  (set)",
        "CODEX_HOME=/somewhere  (CODEX_HOME is set)",
        "PROXY_BASE_INSTRUCTIONS=one\\ntwo  (set)",
    ] {
        assert!(good.out.lines().any(|found| found == line), "{line}\n{}", good.out);
    }
    assert_eq!(good.out.lines().count(), SETTINGS.len() + 1, "{}", good.out);
    assert!(good.out.lines().last().unwrap().starts_with("warning: PROXY_NOVELTY: "));

    let bad = run(&["serve", "--check-config"], &[("PORT", "x"), ("PROXY_API_KEY", "s3cret key")]);
    assert_eq!(bad.result.unwrap_err(), Exit::Config);
    assert_eq!(bad.out.lines().filter(|line| line.starts_with("problem: ")).count(), 2, "{}", bad.out);
    assert!(!bad.out.contains("s3cret"), "{}", bad.out);
}

#[test]
fn exit_codes_are_those_of_the_contract() {
    assert_eq!([Exit::Done as u8, Exit::Bind as u8, Exit::Config as u8], [0, 1, 2]);
}
