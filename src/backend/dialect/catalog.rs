//! The derived model catalog: codex's own list without what turns a chat into an agent's session.
//!
//! From 0.146 on most models are listed with a code-running tool, agent tools and a reduced request form that no feature
//! key removes; a copy of the catalog without them, given at start, does (0.142.5 – 0.169.0).

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::backend::process::{Launch, Starting, run_once};

/// Longest run of `codex debug models`.
const LIMIT: Duration = Duration::from_secs(5);
/// Most bytes that it may print (0.169.0 prints 745 KB).
const MAX_BYTES: u64 = 32 * 1024 * 1024;

/// Asks codex for its catalog and derives ours from it.
///
/// # Errors
/// Words for the log.
pub fn make(launch: &Launch<'_>, starting: &Starting, keep_instructions: bool) -> Result<Vec<u8>, String> {
    derive(&run_once(launch, starting, LIMIT, MAX_BYTES)?, keep_instructions)
}

/// The arguments that print the catalog. `bundled` does so without the network, which only a ChatGPT login is asked over.
pub fn arguments(bundled: bool, sqlite: &Path) -> Vec<String> {
    let sqlite = format!("sqlite_home={}", json!(sqlite.to_string_lossy()));
    // From 0.169 on an API key is shown to ChatGPT's service to ask for models: seconds where that cannot be reached.
    let off = ["features.plugins=false", "features.api_key_model_discovery=false", &sqlite];
    let mut arguments: Vec<String> = off.iter().flat_map(|off| ["--config".to_owned(), (*off).to_owned()]).collect();
    arguments.extend(["debug", "models"].map(String::from));
    arguments.extend(bundled.then(|| "--bundled".to_owned()));
    arguments
}

/// Takes from each model what adds tools, texts or forms of its own. Keys that a version does not have stay away.
fn derive(catalog: &[u8], keep_instructions: bool) -> Result<Vec<u8>, String> {
    let mut catalog: Value = serde_json::from_slice(catalog).map_err(|e| format!("prints no JSON ({e})"))?;
    let models = catalog.get_mut("models").and_then(Value::as_array_mut).filter(|models| !models.is_empty());
    for model in models.ok_or("lists no models")? {
        let model = model.as_object_mut().ok_or("lists something that is no model")?;
        for (key, value) in [
            ("tool_mode", Value::Null),
            ("apply_patch_tool_type", Value::Null),
            ("multi_agent_version", Value::Null),
            ("experimental_supported_tools", json!([])),
            ("use_responses_lite", json!(false)),
            ("supports_search_tool", json!(false)),
            ("supports_parallel_tool_calls", json!(true)),
            ("default_verbosity", Value::Null),
            // Codex would replace a conversation near the window by a summary; the service says what is too long.
            ("context_window", json!(1_000_000_000)),
            ("max_context_window", json!(1_000_000_000)),
            ("supports_image_detail_original", json!(false)),
        ] {
            replace(model, key, value);
        }
        if !keep_instructions {
            replace(model, "model_messages", Value::Null);
            replace(model, "base_instructions", json!("-"));
        }
    }
    serde_json::to_vec(&catalog).map_err(|e| e.to_string())
}

fn replace(model: &mut Map<String, Value>, key: &str, value: Value) {
    if let Some(place) = model.get_mut(key) {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_adds_is_taken_and_the_rest_stays() {
        let own = json!({"models": [{"slug": "gpt-6-sol", "tool_mode": "code_mode_only", "use_responses_lite": true,
            "base_instructions": "You are Codex", "model_messages": {"a": "b"}, "context_window": 272000, "priority": 2,
            "experimental_supported_tools": ["clock"], "supports_parallel_tool_calls": false}]});
        let derived =
            |keep| -> Value { serde_json::from_slice(&derive(own.to_string().as_bytes(), keep).unwrap()).unwrap() };
        assert_eq!(
            derived(false)["models"][0],
            json!({"slug": "gpt-6-sol", "tool_mode": null, "use_responses_lite": false, "base_instructions": "-",
                "model_messages": null, "context_window": 1_000_000_000, "priority": 2, "experimental_supported_tools": [],
                "supports_parallel_tool_calls": true})
        );
        assert_eq!(derived(true)["models"][0]["base_instructions"], "You are Codex");
    }

    #[test]
    fn what_is_no_catalog_is_refused() {
        for odd in ["", "[]", "{}", r#"{"models":[]}"#, r#"{"models":[1]}"#] {
            assert!(derive(odd.as_bytes(), false).is_err(), "{odd}");
        }
    }
}
