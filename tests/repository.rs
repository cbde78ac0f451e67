//! The rules that the repository keeps about itself: packages, layers, sizes, words, files at the root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of `src` that are neither blank, nor comments, nor tests. The aim is 8,000: this only goes down.
const BUDGET: usize = 9_187;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `directory`, sorted.
fn files(directory: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut next = vec![root().join(directory)];
    while let Some(path) = next.pop() {
        if path.is_dir() {
            next.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().into_owned()
}

fn sources() -> Vec<(String, String)> {
    files("src").iter().map(|path| (relative(path), fs::read_to_string(path).unwrap())).collect()
}

/// The lines of a source file without its tests.
fn program(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"))
}

/// The packages of the allowed list: name, and whether it is built into the program.
fn allowed() -> BTreeMap<String, bool> {
    let text = fs::read_to_string(root().join(".cargo/allowed-crates.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (mark, name, reason) = (words.next().unwrap(), words.next().unwrap(), words.next());
        assert!(matches!(mark, "+" | "-") && reason.is_some(), "{line}");
        (name.to_owned(), mark == "+")
    };
    lines.map(entry).collect()
}

#[test]
fn every_package_is_allowed_and_none_is_allowed_in_vain() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let names = lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    let locked: Vec<&str> = names.filter(|name| *name != "codex-completions").collect();
    let unique: BTreeSet<String> = locked.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(locked.len(), unique.len(), "two versions of one package");
    assert_eq!(unique, allowed().into_keys().collect());
}

#[test]
fn only_the_packages_marked_so_are_built() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--prefix", "none", "--edges", "normal,build", "--format", "{p}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let built: BTreeSet<String> = text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    let mut expected: BTreeSet<String> =
        allowed().into_iter().filter(|(_, built)| *built).map(|(name, _)| name).collect();
    expected.insert("codex-completions".to_owned());
    assert_eq!(built, expected);
}

#[test]
fn layers_import_downwards_only() {
    // http → api, backend, turn · api → turn · backend → turn · nothing imports http. What starts the program knows all.
    let starts = ["src/main.rs", "src/lib.rs", "src/server.rs"];
    for (name, text) in sources() {
        let forbidden: &[&str] = match name.split('/').nth(1) {
            Some("http") => &["server", "cli"],
            Some("api") => &["http", "backend", "config", "deadline", "threads", "permits", "keys", "server", "cli"],
            Some("backend") => &["http", "api", "permits", "keys", "server", "cli"],
            _ if starts.contains(&name.as_str()) => &[],
            _ => &["http", "api", "backend", "server"],
        };
        for line in program(&text).filter(|line| !line.trim_start().starts_with("//")) {
            for layer in forbidden {
                assert!(!line.contains(&format!("crate::{layer}")), "{name} may not use {layer}: {line}");
            }
            let hidden = !forbidden.is_empty() && line.contains("use crate::{");
            assert!(!hidden, "{name}: one layer for each `use`, so that this test sees it");
        }
    }
}

#[test]
fn api_is_pure() {
    for (name, text) in sources().into_iter().filter(|(name, _)| name.starts_with("src/api/")) {
        for line in program(&text) {
            // Writing into a buffer is no I/O.
            let line = line.replace("std::io::Write", "");
            for impure in ["std::net", "std::fs", "std::io", "std::env", "Instant", "SystemTime", "std::process"] {
                assert!(!line.contains(impure), "{name}: {line}");
            }
        }
    }
}

#[test]
fn words_of_codex_and_openai_stay_on_their_sides() {
    for (name, text) in sources() {
        let foreign: &[&str] = if name.starts_with("src/api/") {
            &["thread/start", "turn/start", "threadId"]
        } else if name.starts_with("src/backend/") {
            &["chat.completion", "finish_reason", "chatcmpl"]
        } else {
            continue;
        };
        for line in program(&text) {
            assert!(!foreign.iter().any(|word| line.contains(word)), "{name}: {line}");
        }
    }
}

#[test]
fn sources_are_of_a_readable_size() {
    let mut total = 0;
    for (name, text) in sources() {
        let lines =
            program(&text).filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with("//")).count();
        assert!(lines <= 550, "{name} has {lines} lines");
        assert!(text.starts_with("//!"), "{name} does not say what it is for");
        total += lines;
    }
    assert!(total <= BUDGET, "{total} lines");
}

#[test]
fn nothing_is_left_to_do_and_no_host_is_named() {
    // Put together here, or this file would find itself.
    let words: Vec<String> =
        [("TO", "DO"), ("FIX", "ME"), ("dbg", "!("), ("todo", "!("), ("unimplemented", "!("), ("#[ign", "ore")]
            .iter()
            .chain(&[
                ("registry.", "npmjs"),
                ("index.", "crates.io"),
                ("static.", "crates.io"),
                ("files.", "pythonhosted"),
                ("pypi.", "org"),
                // What is not in the repository.
                ("../sha", "red"),
                ("/work/", "shared"),
            ])
            .map(|(left, right)| format!("{left}{right}"))
            .collect();
    let single = ["README.md", "Cargo.toml", "Dockerfile", ".ci/run", ".cargo/deny.toml"].map(|name| root().join(name));
    let everything = ["src", "tests", "scripts"].into_iter().flat_map(files).chain(single);
    for path in everything {
        let bytes = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        for word in &words {
            assert!(!text.contains(word), "{} holds {word}", relative(&path));
        }
    }
}

#[test]
fn the_root_holds_only_what_belongs_there() {
    let known = [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "README.md",
        "Dockerfile",
        "src",
        "tests",
        "scripts",
        // What tools ask for.
        ".cargo",
        ".ci",
        ".clippy.toml",
        ".dockerignore",
        ".git",
        ".gitignore",
        ".rustfmt.toml",
        // What is not committed.
        "target",
        ".codex-api",
    ];
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(known.contains(&name.as_str()), "{name} does not belong at the root");
    }
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("unsafe_code = \"forbid\""));
}
