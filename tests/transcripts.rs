//! What real app-servers said, replayed through the dialect: each turn of a transcript gives the events of its golden.
//!
//! `tests/transcripts/VERSION-PROTOCOL/SCENARIO.jsonl` has a message a line; `SCENARIO.events` beside it is what the
//! client's side is to see. To write the goldens anew: `UPDATE_GOLDENS=1 cargo test --test transcripts`, and read the
//! difference.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use codex_completions::backend::dialect::capabilities::Capabilities;
use codex_completions::backend::dialect::tool_names::{CodexTools, ToolNames};
use codex_completions::backend::dialect::{Decoder, Dialect};
use codex_completions::config::{PromptMode, ProtocolChoice};
use codex_completions::turn::TurnEvent;
use serde_json::Value;

/// The turns of a transcript, each with the lines that follow its start.
fn replay(text: &str, dialect: Dialect, capabilities: Capabilities, lean: CodexTools) -> String {
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut result = String::new();
    for (at, line) in lines.iter().enumerate() {
        let start = line["client"]["method"].as_str().unwrap_or_default();
        if !matches!(start, "turn/start" | "sendUserTurn" | "sendUserMessage") {
            continue;
        }
        let id = &line["client"]["id"];
        let codex = || lines[at..].iter().map(|line| &line["codex"]).filter(|codex| codex.is_object());
        let reply = codex().find(|codex| codex["id"] == *id && codex["result"].is_object());
        let Some(reply) = reply else { continue };
        // v1 has no ids of turns.
        let turn = reply["result"]["turn"]["id"].as_str().unwrap_or_default();
        let (key, thread) = match dialect {
            Dialect::V1 => ("conversationId", &line["client"]["params"]["conversationId"]),
            Dialect::V2 => ("threadId", &line["client"]["params"]["threadId"]),
        };
        let names = ToolNames::of(&Default::default(), lean);
        let mut decoder = Decoder::new(dialect, capabilities, turn.to_owned(), names);
        let mut events = Vec::new();
        // As the router picks them.
        for codex in codex().filter(|codex| codex["params"][key] == *thread) {
            decoder.decode(codex.to_string().as_bytes(), &mut events);
        }
        // Where nothing marks an end, time does.
        if decoder.settle_time().is_some() {
            decoder.settle(&mut events);
        }
        writeln!(result, "turn").unwrap();
        for event in &events {
            match event {
                TurnEvent::End(end) => writeln!(result, "  end {:?} {:?}", end.result, end.usage).unwrap(),
                event => writeln!(result, "  {event:?}").unwrap(),
            }
        }
        let ends = events.iter().filter(|event| matches!(event, TurnEvent::End(_))).count();
        assert!(ends <= 1 && (ends == 0 || matches!(events.last(), Some(TurnEvent::End(_)))), "{result}");
        writeln!(result, "  running at codex: {}", decoder.running).unwrap();
    }
    result
}

fn transcripts() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let files = |dir: &Path| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let mut all: Vec<PathBuf> = files(&root).iter().flat_map(|dir| files(dir)).collect();
    all.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    all.sort();
    all
}

#[test]
fn every_transcript_gives_the_events_of_its_golden() {
    let mut different = Vec::new();
    let mut turns = 0;
    for path in transcripts() {
        let directory = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
        let (version, protocol) = directory.rsplit_once('-').unwrap();
        let protocol = if protocol == "v1" { ProtocolChoice::V1 } else { ProtocolChoice::V2 };
        let mut capabilities = Capabilities::of(&format!("x/{version}")).unwrap();
        let (dialect, _) = capabilities.choose(protocol, PromptMode::Auto).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let events = replay(&text, dialect, capabilities, capabilities.codex_tools(true));
        turns += events.matches("turn\n").count();
        let golden = path.with_extension("events");
        if std::env::var_os("UPDATE_GOLDENS").is_some() {
            fs::write(&golden, &events).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != events {
            different.push(format!("{}:\n{events}", golden.display()));
        }
    }
    assert!(turns > 70, "{turns} turns were found");
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn both_protocols_have_the_same_scenarios() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let scenarios = ["02-text-and-reasoning", "10-error-401", "12-context-length", "13-retry-repeats-the-text"];
    let scenarios = scenarios.iter().chain(&["14-incomplete-max-output-tokens", "16-interrupt"]);
    let mut protocols = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let directory = entry.unwrap().path();
        protocols.push(directory.to_string_lossy().rsplit_once('-').unwrap().1.to_owned());
        for scenario in scenarios.clone() {
            let golden = fs::read_to_string(directory.join(scenario).with_extension("events")).unwrap_or_default();
            assert!(golden.starts_with("turn\n"), "{}: {scenario}", directory.display());
        }
    }
    assert!(["v1", "v2"].iter().all(|protocol| protocols.iter().any(|found| found == protocol)), "{protocols:?}");
}
