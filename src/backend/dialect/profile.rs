//! What codex is told at start, so that the model gets the client's words and nothing of codex's own (DESIGN rule 12).
//!
//! All of it goes in as `--config key=value` at start: codex reads no secret there, and a key that a version refuses
//! ends that process at once with the key's name, so that it can be left out and remembered. Before 0.80 that does not
//! reach threads, and each gets the same keys in its own configuration.

use std::path::Path;

use serde_json::{Map, Value};

use super::capabilities::{Capabilities, Feature};
use crate::backend::inherit::toml;

/// Keys that switch off what codex adds to a request, calls home or starts, measured on 0.142.5 – 0.169.0. Versions that
/// do not know a key ignore it.
const LEAN: &[(&str, &str)] = &[
    ("web_search", "\"disabled\""),
    ("project_doc_max_bytes", "0"),
    // A long conversation goes to the model as it is, or fails: codex would replace it by a summary of its own. 0.169
    // bounds these two by the model's window, which the derived catalog lifts.
    ("model_auto_compact_token_limit", "1000000000"),
    ("model_context_window", "1000000000"),
    // So does the result of a tool, of which codex would keep 10,000 tokens.
    ("tool_output_token_limit", "1000000000"),
    ("include_permissions_instructions", "false"),
    ("include_environment_context", "false"),
    ("include_apps_instructions", "false"),
    ("include_collaboration_mode_instructions", "false"),
    ("skills.bundled.enabled", "false"),
    ("skills.include_instructions", "false"),
    ("tools.experimental_request_user_input.enabled", "false"),
    ("tools.update_plan.enabled", "false"),
    ("orchestrator.skills.enabled", "false"),
    ("notify", "[]"),
    // A repository around the home has skills, too (0.104).
    ("project_root_markers", "[]"),
    ("features.skip_host_skill_discovery", "true"),
];

/// Features that lean switches off.
const LEAN_FEATURES: &str = "apps browser_use browser_use_external computer_use goals hooks image_generation \
    in_app_browser multi_agent plugin_sharing remote_plugin shell_tool unified_exec shell_snapshot skill_search sleep_tool \
    tool_suggest view_image workspace_dependencies memories tool_call_mcp_elicitation";

/// The key that changed its type, to be false.
const AGENTS: &str = "agents.enabled";

/// Keys that only versions before 0.142 know, all to be false.
const LEAN_OLD: &[&str] =
    &["features.collaboration_modes", "features.skills", "features.view_image_tool", "tools.view_image"];

/// Keys of both profiles: no calls home, no prompt on disk, threads unloaded at once (from 0.156 on).
const ALWAYS: &[(&str, &str)] = &[
    ("approval_policy", "\"never\""),
    ("history.persistence", "\"none\""),
    ("thread_unload_delay_secs", "0"),
    ("features.plugins", "false"),
    ("features.remote_control", "false"),
    ("features.remote_models", "false"),
    ("features.api_key_model_discovery", "false"),
    ("analytics.enabled", "false"),
    ("otel.exporter", "\"none\""),
    ("otel.trace_exporter", "\"none\""),
    ("otel.metrics_exporter", "\"none\""),
    ("suppress_unstable_features_warning", "true"),
];

/// What codex is told, key by key.
#[derive(Debug)]
pub struct Keys(Vec<(String, Value)>);

impl Keys {
    /// Those of both profiles, with one of codex's three sandbox modes and the place of its databases. Alone, they keep a
    /// codex quiet that is only to read the person's configuration, whatever is switched on there.
    pub fn new(sandbox: &str, sqlite: &Path) -> Self {
        let mut keys = Self(Vec::new());
        keys.add("sandbox_mode", sandbox);
        keys.add("sqlite_home", &*sqlite.to_string_lossy());
        keys.add_all(ALWAYS);
        keys
    }

    /// One more.
    pub fn add(&mut self, key: &str, value: impl Into<Value>) {
        self.0.push((key.to_owned(), value.into()));
    }

    fn add_all(&mut self, keys: &[(&str, &str)]) {
        keys.iter().for_each(|(key, value)| self.add(key, serde_json::from_str::<Value>(value).unwrap_or_default()));
    }

    /// Those that keep this codex from adding anything.
    pub fn add_lean(&mut self, capabilities: &Capabilities) {
        self.add_all(LEAN);
        LEAN_FEATURES.split(' ').for_each(|feature| self.add(&format!("features.{feature}"), false));
        if capabilities.has(Feature::AgentsSwitch) {
            self.add(AGENTS, false);
        }
        if !capabilities.has(Feature::Catalog) {
            // Else its models are asked to be brief (0.66 – 0.121); this is what their service does by itself.
            self.add("model_verbosity", "medium");
        }
        if !capabilities.has(Feature::SkillSettings) {
            LEAN_OLD.iter().for_each(|key| self.add(key, false));
        }
    }

    /// Leaves out what codex refused.
    pub fn leave_out(&mut self, refused: &str) {
        self.0.retain(|(key, _)| !covers(refused, key));
    }

    /// As arguments of `codex`.
    pub fn arguments(&self) -> Vec<String> {
        let value = |value| toml(value).unwrap_or_default();
        let keys = self.0.iter().flat_map(|(key, of)| ["--config".to_owned(), format!("{key}={}", value(of))]);
        std::iter::once("app-server".to_owned()).chain(keys).collect()
    }

    /// As the `config` of a thread, where the arguments do not reach it.
    pub fn thread_config(self, api_key: bool) -> Map<String, Value> {
        let mut config: Map<String, Value> = self.0.into_iter().collect();
        config.insert("preferred_auth_method".to_owned(), if api_key { "apikey" } else { "chatgpt" }.into());
        config
    }
}

/// Finds the key that codex ended over: `` in `KEY` `` on its stderr. Only keys that may be left out are returned.
pub fn refused_key(last_words: &[String]) -> Option<String> {
    let key = last_words.iter().find_map(|line| line.trim().strip_prefix("in `")?.strip_suffix('`'))?;
    let ours = ALWAYS.iter().chain(LEAN).any(|(name, _)| covers(key, name))
        || covers(key, AGENTS)
        || LEAN_FEATURES.split(' ').any(|feature| covers(key, &format!("features.{feature}")));
    // Without this one, programs that a person configured could start.
    (ours && key != "features").then(|| key.to_owned())
}

/// Whether a complaint about `refused` concerns `key`: the key itself or a table it lies in.
fn covers(refused: &str, key: &str) -> bool {
    key.strip_prefix(refused).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(refused: &[String]) -> Vec<String> {
        let mut keys = Keys::new("read-only", Path::new("/h/sqlite"));
        keys.add("model", "gpt-6-sol");
        keys.add_lean(&Capabilities::of("x/0.169.0").unwrap());
        refused.iter().for_each(|key| keys.leave_out(key));
        keys.arguments()
    }

    #[test]
    fn arguments_are_key_value_pairs_after_the_subcommand() {
        let arguments = arguments(&[]);
        assert_eq!(arguments[0], "app-server");
        assert!(arguments[1..].chunks(2).all(|pair| pair[0] == "--config" && pair[1].contains('=')));
        for expected in
            ["model=\"gpt-6-sol\"", "sandbox_mode=\"read-only\"", "agents.enabled=false", "features.apps=false"]
        {
            assert!(arguments.iter().any(|argument| argument == expected), "{expected}");
        }
    }

    #[test]
    fn a_refused_table_takes_its_keys_along() {
        // As 0.142.5 words such a thing.
        let words: Vec<String> =
            ["Error: error loading default config after config error: invalid type: boolean `false`, expected struct SkillsToml", "in `skills`"]
                .map(String::from)
                .into();
        let key = refused_key(&words).unwrap();
        assert_eq!(key, "skills");
        assert!(!arguments(&[key]).iter().any(|argument| argument.starts_with("skills")));
        assert_eq!(refused_key(&["in `model_providers.x`".into()]), None);
        assert_eq!(refused_key(&["something else".into()]), None);
    }
}
