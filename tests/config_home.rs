//! Which CODEX_HOME is used, and what the log says about it.

use std::path::{Path, PathBuf};

use codex_completions::config::home::choose;

fn chosen(given: Option<&str>, home: Option<&str>, files: &[&str]) -> Result<(PathBuf, &'static str), &'static str> {
    choose(given, home.map(Path::new), |path| files.iter().any(|file| Path::new(file) == path))
        .map(|home| (home.path, home.reason))
}

#[test]
fn the_choice_follows_the_files() {
    let own_auth = ".codex-api/auth.json";
    let own_config = ".codex-api/config.toml";
    let person = "/home/p/.codex/auth.json";
    let home = Some("/home/p");
    for (given, home, files, path, reason) in [
        (None, home, vec![], ".codex-api", "no login"),
        (None, home, vec![own_auth], ".codex-api", "./.codex-api has auth.json"),
        (None, home, vec![own_auth, person], ".codex-api", "./.codex-api has auth.json"),
        (None, home, vec![own_config, person], ".codex-api", "./.codex-api has config.toml"),
        (None, home, vec![person], "/home/p/.codex", "~/.codex has auth.json"),
        (None, home, vec!["/home/p/.codex/config.toml"], ".codex-api", "no login"),
        (None, None, vec![person], ".codex-api", "no login"),
        (Some("/x"), home, vec![own_auth, person], "/x", "is set"),
        (Some("~"), home, vec![], "/home/p", "is set"),
        (Some("~/.codex"), home, vec![], "/home/p/.codex", "is set"),
        (Some("~other/.codex"), home, vec![], "~other/.codex", "is set"),
        (Some("a/~"), None, vec![], "a/~", "is set"),
    ] {
        let (found, why) = chosen(given, home, &files).unwrap();
        assert_eq!(found, Path::new(path), "{given:?} {files:?}");
        assert!(why.contains(reason), "{given:?} {files:?}: {why}");
    }
    assert!(chosen(Some("~/.codex"), None, &[]).unwrap_err().contains("HOME"));
}
