//! A fake `codex` for integration tests, measurements and development: `--version`, `debug models` and an `app-server`
//! that speaks as much of both protocols as a completion needs, misbehaves on demand (see `faults.rs` for the process,
//! `turn.rs` for directions in a prompt) and is faster than what it stands for.
//!
//! `FAKE_CODEX_VERSION` is the version that it claims, and whose protocol it speaks (`ages.rs`) unless
//! `FAKE_CODEX_SPEAKS` names another. In `FAKE_CODEX_DIR` every
//! start of an app-server appends a line to `starts` (`{"pid","args","env"}`), every line from the client goes to `seen` if
//! there is such a file, and `account.json` and `config.json` are what `account/read` and `config/read` answer.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use faults::Faults;
use serde_json::json;

mod ages;
mod catalog;
mod faults;
#[path = "../support/markers.rs"]
mod markers;
mod out;
mod play;
mod server;
mod turn;
mod voice;

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let command = arguments.iter().find(|argument| ["app-server", "debug", "--version"].contains(&argument.as_str()));
    match command.map(String::as_str) {
        Some("--version") => {
            let version = std::env::var("FAKE_CODEX_VERSION").unwrap_or_else(|_| "0.169.0".to_owned());
            println!("codex-cli {version}");
            Ok(())
        }
        Some("debug") => {
            let faults = Faults::read();
            if faults.has("debug-hangs") {
                server::wait_for_ever();
            }
            if faults.has("debug-heir") {
                faults::leave_an_heir()?;
            }
            if faults.has("debug-fails") {
                std::process::exit(6);
            }
            println!("{}", catalog::catalog());
            Ok(())
        }
        Some("app-server") => {
            if let Some(directory) = faults::directory() {
                let names: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
                let start = json!({ "pid": std::process::id(), "args": arguments, "env": names, "home": std::env::var("CODEX_HOME").ok(), "cwd": std::env::current_dir().ok() });
                let mut starts = OpenOptions::new().create(true).append(true).open(directory.join("starts"))?;
                starts.write_all(format!("{start}\n").as_bytes())?;
            }
            server::run()
        }
        _ => {
            eprintln!("fake-codex: knows --version, debug models and app-server");
            std::process::exit(2);
        }
    }
}

/// So many bytes on stderr, in lines.
fn flood_stderr(bytes: u64) {
    let line = format!("fake-codex: {}\n", "e".repeat(1000));
    let mut stderr = std::io::stderr();
    for _ in 0..bytes.div_ceil(line.len() as u64) {
        if stderr.write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}

/// Where the databases of a codex are: `-c sqlite_home="DIR"`, else CODEX_HOME.
fn sqlite_home() -> Option<PathBuf> {
    let argument = std::env::args().find_map(|argument| {
        argument.strip_prefix("sqlite_home=").map(|value| value.trim_matches(['"', '\'']).to_owned())
    });
    argument.map(PathBuf::from).or_else(|| std::env::var_os("CODEX_HOME").map(PathBuf::from))
}
