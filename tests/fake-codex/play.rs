//! Plays what a real codex said in a turn: the first one of a transcript, with the live ids in the place of its own.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::turn::{Interrupted, Tell, Turn};

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    client: Value,
    codex: Option<Box<RawValue>>,
}

impl Turn {
    /// Says what codex said in `file` (a path, or a name below `tests/transcripts`), waiting where it waited; `live_call`
    /// is the call that started this turn.
    pub(crate) fn play_transcript(&self, file: &str, live_call: &Value) -> Result<(), Interrupted> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts").join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let lines: Vec<Line> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let starts = ["turn/start", "sendUserTurn", "sendUserMessage"];
        let method = |line: &Line| line.client["method"].as_str().unwrap_or_default().to_owned();
        let Some(at) = lines.iter().position(|line| starts.contains(&method(line).as_str())) else { return Ok(()) };
        let said = |line: &Line| serde_json::from_str::<Value>(line.codex.as_ref()?.get()).ok();
        let (call, params) = (&lines[at].client["id"], &lines[at].client["params"]);
        let mut following = lines[at..].iter().filter_map(said);
        let reply = following.find(|reply| reply["id"] == *call && reply["method"].is_null()).unwrap_or_default();
        let thread = params["threadId"].as_str().or(params["conversationId"].as_str()).unwrap_or_default();
        let turn = reply["result"]["turn"]["id"].as_str();
        let live = |text: &str| {
            let text = text.replace(thread, &self.voice.thread);
            turn.map_or(text.clone(), |turn| text.replace(&format!("\"{turn}\""), &format!("\"{}\"", self.voice.turn)))
        };
        for line in &lines[at + 1..] {
            match (said(line), method(line).as_str()) {
                (Some(mut request), _) if !request["id"].is_null() && !request["method"].is_null() => {
                    request["id"] = self.server.ask(&self.voice.thread).into();
                    self.server.out.line(&live(&request.to_string()));
                }
                (Some(answer), _) if answer["id"] == *call => {
                    self.server.out.result(live_call, &live(&answer["result"].to_string()))
                }
                (Some(answer), _) if !answer["id"].is_null() => {}
                (Some(_), _) => self.server.out.line(&live(line.codex.as_ref().map_or("", |line| line.get()))),
                (None, "turn/interrupt" | "interruptConversation") => return Err(self.interrupted()),
                (None, "") => match self.tell.recv() {
                    Ok(Tell::Answer(_)) => {}
                    Ok(Tell::Interrupt(id)) => return Err(Interrupted(id)),
                    Err(_) => return Err(Interrupted(None)),
                },
                (None, _) => break,
            }
        }
        Ok(())
    }
}
