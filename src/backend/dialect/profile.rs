//! What codex is told at start, so that the model gets the client's words and nothing of codex's own (DESIGN rule 12).
//!
//! All of it goes in as `--config key=value` at start: codex reads no secret there, and a key that a version refuses
//! ends that process at once with the key's name, so that it can be left out and remembered.

use std::path::Path;

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
    ("agents.enabled", "false"),
    ("notify", "[]"),
    ("features.skip_host_skill_discovery", "true"),
];

/// Features that lean switches off.
const LEAN_FEATURES: &[&str] = &[
    "apps",
    "browser_use",
    "browser_use_external",
    "computer_use",
    "goals",
    "hooks",
    "image_generation",
    "in_app_browser",
    "multi_agent",
    "plugin_sharing",
    "remote_plugin",
    "shell_tool",
    "unified_exec",
    "shell_snapshot",
    "skill_search",
    "sleep_tool",
    "tool_suggest",
    "view_image",
    "workspace_dependencies",
    "memories",
    "tool_call_mcp_elicitation",
];

/// Keys of both profiles: no calls home, no prompt on disk, threads unloaded at once (from 0.156 on).
const ALWAYS: &[(&str, &str)] = &[
    ("approval_policy", "\"never\""),
    ("history.persistence", "\"none\""),
    ("thread_unload_delay_secs", "0"),
    ("features.plugins", "false"),
    ("analytics.enabled", "false"),
    ("otel.exporter", "\"none\""),
    ("otel.trace_exporter", "\"none\""),
    ("otel.metrics_exporter", "\"none\""),
    ("suppress_unstable_features_warning", "true"),
];

/// What differs from start to start.
#[derive(Debug)]
pub struct Overrides<'a> {
    /// Whether codex is to add nothing of its own.
    pub lean: bool,
    /// One of codex's three sandbox modes.
    pub sandbox: &'a str,
    /// Overrides the model of the configuration.
    pub model: Option<&'a str>,
    /// Overrides the provider of the configuration, with its definition where codex does not find one.
    pub provider: Option<(&'a str, Option<&'a str>)>,
    /// Where the databases go.
    pub sqlite: &'a Path,
    /// The derived catalog.
    pub catalog: Option<&'a Path>,
    /// Keys that this codex refused before.
    pub refused: &'a [String],
}

/// The arguments of `codex`.
pub fn arguments(overrides: &Overrides<'_>) -> Vec<String> {
    let mut keys: Vec<(String, String)> = Vec::new();
    let mut add = |key: &str, value: String| keys.push((key.to_owned(), value));
    if let Some(model) = overrides.model {
        add("model", quoted(model));
    }
    if let Some((provider, definition)) = overrides.provider {
        add("model_provider", quoted(provider));
        definition
            .into_iter()
            .for_each(|definition| add(&format!("model_providers.{provider}"), definition.to_owned()));
    }
    add("sandbox_mode", quoted(overrides.sandbox));
    add("sqlite_home", quoted(&overrides.sqlite.to_string_lossy()));
    if let Some(catalog) = overrides.catalog {
        add("model_catalog_json", quoted(&catalog.to_string_lossy()));
    }
    ALWAYS.iter().for_each(|(key, value)| add(key, (*value).to_owned()));
    if overrides.lean {
        LEAN.iter().for_each(|(key, value)| add(key, (*value).to_owned()));
        LEAN_FEATURES.iter().for_each(|feature| add(&format!("features.{feature}"), "false".to_owned()));
    }
    keys.retain(|(key, _)| !overrides.refused.iter().any(|refused| covers(refused, key)));
    let mut arguments = vec!["app-server".to_owned()];
    for (key, value) in keys {
        arguments.extend(["--config".to_owned(), format!("{key}={value}")]);
    }
    arguments
}

/// The arguments of a codex that is to read the person's configuration and do nothing else, whatever is switched on there.
pub fn quiet_arguments(sqlite: &Path) -> Vec<String> {
    let sandbox = "read-only";
    arguments(&Overrides { lean: false, sandbox, model: None, provider: None, sqlite, catalog: None, refused: &[] })
}

/// Finds the key that codex ended over: `` in `KEY` `` on its stderr. Only keys that may be left out are returned.
pub fn refused_key(last_words: &[String]) -> Option<String> {
    let key = last_words.iter().find_map(|line| line.trim().strip_prefix("in `")?.strip_suffix('`'))?;
    let ours = ALWAYS.iter().chain(LEAN).any(|(name, _)| covers(key, name))
        || LEAN_FEATURES.iter().any(|feature| covers(key, &format!("features.{feature}")));
    // Without this one, programs that a person configured could start.
    (ours && key != "features").then(|| key.to_owned())
}

/// Whether a complaint about `refused` concerns `key`: the key itself or a table it lies in.
fn covers(refused: &str, key: &str) -> bool {
    key.strip_prefix(refused).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn quoted(text: &str) -> String {
    super::super::inherit::toml(&serde_json::Value::from(text)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overrides(refused: &[String]) -> Vec<String> {
        let sqlite = Path::new("/h/sqlite");
        arguments(&Overrides {
            lean: true,
            sandbox: "read-only",
            model: Some("gpt-6-sol"),
            provider: None,
            sqlite,
            catalog: None,
            refused,
        })
    }

    #[test]
    fn arguments_are_key_value_pairs_after_the_subcommand() {
        let arguments = overrides(&[]);
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
        // As 0.142.5 words it.
        let words: Vec<String> =
            ["Error: error loading default config after config error: invalid type: boolean `false`, expected struct AgentRoleToml", "in `agents`"]
                .map(String::from)
                .into();
        let key = refused_key(&words).unwrap();
        assert_eq!(key, "agents");
        assert!(!overrides(&[key]).iter().any(|argument| argument.starts_with("agents")));
        assert_eq!(refused_key(&["in `model_providers.x`".into()]), None);
        assert_eq!(refused_key(&["something else".into()]), None);
    }
}
