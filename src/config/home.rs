//! Which CODEX_HOME is used.

use std::path::{Path, PathBuf};

/// The directory whose login, model and providers are used, and why that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodexHome {
    /// The directory, which may not exist yet.
    pub path: PathBuf,
    /// Why, for the log.
    pub reason: &'static str,
}

/// Chooses from CODEX_HOME as `given`, the person's `home` directory and which files exist.
///
/// # Errors
/// `~` was given and there is no home directory.
pub fn choose(
    given: Option<&str>,
    home: Option<&Path>,
    exists: impl Fn(&Path) -> bool,
) -> Result<CodexHome, &'static str> {
    let chosen = |path: PathBuf, reason| Ok(CodexHome { path, reason });
    if let Some(given) = given {
        return match (given.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/')), home) {
            (None, _) => chosen(PathBuf::from(given), "CODEX_HOME is set"),
            (Some(rest), Some(home)) => chosen(home.join(rest.trim_start_matches('/')), "CODEX_HOME is set"),
            (Some(_), None) => Err("begins with ~ but HOME is not set: give the whole path"),
        };
    }
    let own = PathBuf::from(".codex-api");
    let person = home.map(|home| home.join(".codex")).filter(|path| exists(&path.join("auth.json")));
    match person {
        _ if exists(&own.join("auth.json")) => chosen(own, "./.codex-api has auth.json"),
        _ if exists(&own.join("config.toml")) => chosen(own, "./.codex-api has config.toml"),
        Some(person) => chosen(person, "~/.codex has auth.json and ./.codex-api has nothing"),
        None => chosen(own, "there is no login in ./.codex-api or ~/.codex"),
    }
}
