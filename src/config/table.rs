//! The one table of settings, from which the typed [`Config`], `--help`, the defaults and the recognition of names are
//! made, and the table of the Node proxy's variables that are gone.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::turn::Aliases;

use super::home::CodexHome;
use super::values::{KeepaliveForm, LogFormat, Profile, PromptMode, ProtocolChoice, Reader, Sandbox, Secret, Setting};

/// Bodies being read hold this many bytes together at most, so that no single one may be larger.
pub const BODIES_BYTES: usize = 64 << 20;

macro_rules! settings {
    ($($constant:ident $name:literal $default:literal $help:literal $(=> $field:ident: $type:ty = $read:expr)?;)*) => {
        /// The names, so that an error, a deadline and the table cannot disagree.
        pub mod names {
            $(#[doc = $help] pub const $constant: &str = $name;)*
        }

        /// Every setting, in the order of `--help`.
        pub const SETTINGS: &[Setting] = &[$(Setting { name: $name, default: $default, help: $help }),*];

        /// All settings, checked.
        #[derive(Clone, Debug)]
        pub struct Config {
            $($(#[doc = concat!("`", $name, "`: ", $help, ".")] pub $field: $type,)?)*
        }

        impl Config {
            pub(super) fn read<'e>(reader: &mut Reader<'e>) -> Self {
                Self {
                    $($($field: {
                        let read: fn(&mut Reader<'e>, &'static str) -> $type = $read;
                        read(reader, $name)
                    },)?)*
                }
            }
        }
    };
}

// Each row: constant, name, default, help => field: type = how it is read.
settings! {
    PORT "PORT" "11435" "TCP port to listen on; 0 takes a free one"
        => port: u16 = |r, name| r.number(name, 0..=65_535);
    HOST "PROXY_HOST" "127.0.0.1" "IP address to listen on, or localhost; any but loopback needs a key"
        => host: IpAddr = super::host;
    UNIX_SOCKET "PROXY_UNIX_SOCKET" "" "also listen on a Unix socket at this path (mode 0600)"
        => unix_socket: Option<PathBuf> = super::unix_socket;
    API_KEY "PROXY_API_KEY" "" "keys that clients must present, comma separated; none here and in the file: none is needed"
        => keys: Vec<Secret> = super::keys;
    API_KEY_FILE "PROXY_API_KEY_FILE" "" "file with one such key per line; empty lines and # comments are skipped";
    CODEX_BIN "CODEX_BIN" "codex" "the codex to run: a path, or a name to look for on PATH"
        => codex_bin: OsString = |r, name| r.text(name).into();
    CODEX_HOME "CODEX_HOME" "" "whose login, model and providers are used; unset: ./.codex-api if it has auth.json or config.toml, else ~/.codex if that has auth.json, else ./.codex-api"
        => codex_home: CodexHome = super::codex_home;
    CODEX_MODEL "CODEX_MODEL" "" "model for requests that name none; unset: codex's default"
        => codex_model: Option<String> = |r, name| r.given(name).map(str::to_owned);
    FORCE_PROVIDER "CODEX_FORCE_PROVIDER" "" "codex's model_provider; unset: codex's own choice"
        => force_provider: Option<String> = |r, name| r.given(name).map(str::to_owned);
    OPENAI_API_KEY "OPENAI_API_KEY" "" "used when CODEX_HOME holds neither credentials nor a provider; never written to disk"
        => openai_api_key: Option<Secret> = |r, name| r.given(name).map(Secret::new);
    AGENT_PROFILE "PROXY_AGENT_PROFILE" "lean" "lean: the model gets the client's words only; codex: codex as it comes, instructions and all"
        => profile: Profile = |r, name| r.choice(name, Profile::ALL);
    BASE_INSTRUCTIONS "PROXY_BASE_INSTRUCTIONS" "You are a helpful assistant." "the base instructions of the lean profile"
        => base_instructions: String = |r, name| r.text(name).to_owned();
    PROMPT_MODE "PROXY_PROMPT_MODE" "auto" "native: every message an item of its own; joined: one text; auto: native where this codex can"
        => prompt_mode: PromptMode = |r, name| r.choice(name, PromptMode::ALL);
    PROTOCOL "PROXY_APP_SERVER_PROTOCOL" "auto" "the app-server's protocol: auto, v1 or v2"
        => protocol: ProtocolChoice = |r, name| r.choice(name, ProtocolChoice::ALL);
    MODEL_ALIASES "PROXY_MODEL_ALIASES" "" "further names of models: name=id,name=id; *=id catches every other name"
        => model_aliases: Aliases = super::aliases;
    REASONING "PROXY_REASONING" "on" "off hides summaries of reasoning"
        => reasoning: bool = Reader::flag;
    SANDBOX_MODE "PROXY_SANDBOX_MODE" "read-only" "codex's sandbox: read-only, workspace-write or danger-full-access"
        => sandbox: Sandbox = |r, name| r.choice(name, Sandbox::ALL);
    SSE_MAX_CONCURRENCY "PROXY_SSE_MAX_CONCURRENCY" "4" "turns at once, streaming and not; 0: no limit"
        => max_turns: usize = |r, name| r.number(name, 0..=65_536);
    QUEUE "PROXY_QUEUE_MS" "10000" "longest wait for a turn to become free and for an app-server that is coming back, together"
        => queue: Duration = |r, name| r.millis(name, 0);
    TIMEOUT "PROXY_TIMEOUT_MS" "300000" "longest time of a whole turn"
        => timeout: Duration = |r, name| r.millis(name, 1);
    IDLE_TIMEOUT "PROXY_IDLE_TIMEOUT_MS" "120000" "longest silence of codex within a turn"
        => idle_timeout: Duration = |r, name| r.millis(name, 1);
    STREAM_OPEN "PROXY_STREAM_OPEN_MS" "1000" "how long a stream's head waits for the first output, so that a failure has a status; 0: not at all"
        => stream_open: Duration = |r, name| r.millis(name, 0);
    SSE_KEEPALIVE_MS "PROXY_SSE_KEEPALIVE_MS" "15000" "time between signs of life to a waiting stream; 0: none"
        => sse_keepalive: Duration = |r, name| r.millis(name, 0);
    SSE_KEEPALIVE "PROXY_SSE_KEEPALIVE" "comment" "their form: comment, chunk (an empty delta) or off"
        => sse_keepalive_form: KeepaliveForm = super::keepalive_form;
    MAX_CONNECTIONS "PROXY_MAX_CONNECTIONS" "512" "connections at once; more are answered 503"
        => max_connections: usize = |r, name| r.number(name, 1..=65_536);
    MAX_BODY_BYTES "PROXY_MAX_BODY_BYTES" "16777216" "largest request body; larger ones are answered 413"
        => max_body_bytes: usize = |r, name| r.number(name, 1..=BODIES_BYTES as u64);
    HEAD_TIMEOUT "PROXY_HEAD_TIMEOUT_MS" "10000" "longest time for the head of a request"
        => head_timeout: Duration = |r, name| r.millis(name, 1);
    BODY_TIMEOUT "PROXY_BODY_TIMEOUT_MS" "30000" "longest time for the body of a request"
        => body_timeout: Duration = |r, name| r.millis(name, 1);
    WRITE_TIMEOUT "PROXY_WRITE_TIMEOUT_MS" "30000" "longest time for each write to a client"
        => write_timeout: Duration = |r, name| r.millis(name, 1);
    KEEPALIVE_IDLE "PROXY_KEEPALIVE_IDLE_MS" "75000" "how long a connection may wait for its next request"
        => keepalive_idle: Duration = |r, name| r.millis(name, 1);
    APP_SERVER_START "PROXY_APP_SERVER_START_MS" "10000" "longest time from the app-server's start to initialised"
        => app_server_start: Duration = |r, name| r.millis(name, 1);
    APP_SERVER_GROWTH "PROXY_APP_SERVER_GROWTH_MB" "128" "memory above what it had after its first answer at which the next app-server takes over"
        => app_server_growth_mb: u64 = |r, name| r.number(name, 1..=1_048_576);
    SHUTDOWN_GRACE "PROXY_SHUTDOWN_GRACE_MS" "8000" "time that running requests get after the first signal"
        => shutdown_grace: Duration = |r, name| r.millis(name, 0);
    ENABLE_CORS "PROXY_ENABLE_CORS" "off" "answer browsers of other origins"
        => cors: bool = Reader::flag;
    CORS_ALLOWED_ORIGINS "PROXY_CORS_ALLOWED_ORIGINS" "*" "these origins, comma separated, or *"
        => cors_origins: Vec<String> = super::cors_origins;
    RESPONSE_STORE_MB "PROXY_RESPONSE_STORE_MB" "32" "memory for answers of /v1/responses kept by id; 0: none kept"
        => response_store_mb: u64 = |r, name| r.number(name, 0..=65_536);
    RESPONSE_STORE_HOURS "PROXY_RESPONSE_STORE_HOURS" "24" "how long they are kept"
        => response_store_hours: u64 = |r, name| r.number(name, 1..=8_760);
    DEBUG_APP_SERVER "PROXY_DEBUG_APP_SERVER" "off" "log names, ids and sizes of the app-server's messages; whole messages only with RUST_LOG=trace"
        => debug_app_server: bool = Reader::flag;
    LOG_FORMAT "PROXY_LOG_FORMAT" "text" "text, or json: one object per line"
        => log_format: LogFormat = |r, name| r.choice(name, LogFormat::ALL);
    RUST_LOG "RUST_LOG" "info" "what is logged: error, warn, info, debug, trace, off, or target=level,target=level"
        => log_filter: String = super::log_filter;
}

/// The Node proxy's variables that are gone (`*` stands for any ending; the first that fits counts) and what became of
/// them.
pub const GONE: &[(&str, &str)] = &[
    ("PROXY_PROTO_IDLE_MS PROXY_STREAM_IDLE_TIMEOUT_MS", "use PROXY_IDLE_TIMEOUT_MS; an idle end is an error now"),
    ("PROXY_DEBUG_PROTO PROXY_LOG_PROTO PROXY_DEBUG_WIRE", "use PROXY_DEBUG_APP_SERVER"),
    ("WORKER_STARTUP_TIMEOUT_MS WORKER_HANDSHAKE_TIMEOUT_MS", "use PROXY_APP_SERVER_START_MS"),
    ("WORKER_SHUTDOWN_GRACE_MS", "use PROXY_SHUTDOWN_GRACE_MS"),
    ("WORKER_*", "not needed: restarts of the app-server never give up"),
    ("PROXY_PROTECT_MODELS", "gone: /v1/models needs the key once there is one"),
    ("PROXY_METRICS_TOKEN PROXY_ENABLE_METRICS", "gone: /metrics is always on and needs the key once there is one"),
    ("PROXY_ENABLE_RESPONSES", "gone: /v1/responses is always on and needs the key once there is one"),
    ("PROXY_USE_APP_SERVER", "gone: there is always an app-server"),
    ("PROXY_KILL_ON_DISCONNECT", "gone: a client that leaves always frees its turn"),
    ("PROXY_NONSTREAM_TRUNCATE_AFTER_MS PROXY_DEV_TRUNCATE_AFTER_MS", "gone: see PROXY_TIMEOUT_MS"),
    ("PROXY_IGNORE_CLIENT_SYSTEM_PROMPT", "gone: system messages always count"),
    ("PROXY_TITLE_*", "gone: every request goes to the model"),
    ("PROXY_OUTPUT_MODE PROXY_RESPONSES_OUTPUT_MODE PROXY_TOOL_*", "gone: tool calls are OpenAI's"),
    ("PROXY_STOP_AFTER_TOOLS* PROXY_SUPPRESS_TAIL_AFTER_TOOLS", "gone: tool calls are OpenAI's"),
    ("PROXY_SANITIZE_METADATA", "not needed: codex's metadata never enters the text"),
    ("PROXY_MAX_CHAT_CHOICES", "gone: n goes up to 8, with real answers"),
    ("PROXY_MAX_PROMPT_TOKENS", "gone: a prompt that exceeds the model's window is a 400"),
    ("PROXY_RATE_LIMIT_*", "gone: see PROXY_SSE_MAX_CONCURRENCY and PROXY_QUEUE_MS"),
    (
        "PROXY_CAPTURE_* PROXY_USAGE_* TOKEN_LOG_PATH",
        "gone: see the log, which has a line for each request, and /metrics",
    ),
    ("PROXY_ENABLE_OTEL PROXY_OTEL_* OTEL_*", "without effect here: see the log, which has a line for each request"),
    ("PROXY_CODEX_WORKDIR", "gone: codex works in an empty directory of its own"),
    ("PROXY_DEFAULT_STREAM", "gone: clients ask for streams, as at OpenAI"),
    ("PROXY_ENV NODE_ENV PROXY_TEST_*", "gone: there is one mode, and no routes for tests"),
];

/// What became of the Node proxy's variable `name`, if it is one that is gone.
pub fn fate(name: &str) -> Option<&'static str> {
    let fits = |pattern: &str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    };
    GONE.iter().find(|(patterns, _)| patterns.split(' ').any(fits)).map(|(_, fate)| *fate)
}

/// The known name that shares the most pairs of neighbouring letters with `name`, for the length of both.
pub fn nearest(name: &str) -> &'static str {
    let likeness = |known: &&str| {
        let pairs = known.as_bytes().windows(2);
        let shared = pairs.filter(|pair| name.as_bytes().windows(2).any(|own| own == *pair)).count();
        1000 * shared / (known.len() + name.len())
    };
    SETTINGS.iter().map(|setting| setting.name).max_by_key(likeness).unwrap_or_default()
}
