//! The models of the fake, in the forms of `codex debug models` and of `model/list`.

use serde_json::{Value, json};

const MODELS: [(&str, &[&str]); 2] =
    [("fake-default", &["low", "medium", "high"]), ("fake-small", &["minimal", "low", "medium", "high", "xhigh"])];

/// What `codex debug models` prints.
pub(crate) fn catalog() -> Value {
    let model = |(slug, efforts): &(&str, &[&str])| {
        let levels: Vec<Value> =
            efforts.iter().map(|effort| json!({ "effort": effort, "description": effort })).collect();
        json!({
            "slug": slug, "display_name": slug, "description": "fake", "default_reasoning_level": "medium",
            "supported_reasoning_levels": levels, "shell_type": "unified_exec", "visibility": "list",
            "supported_in_api": true, "priority": 1, "model_messages": { "instructions_template": "You are Codex" },
            "default_verbosity": "low", "support_verbosity": true, "apply_patch_tool_type": "freeform",
            "supports_image_detail_original": true, "context_window": 272_000,
            "experimental_supported_tools": ["clock"], "supports_search_tool": true, "use_responses_lite": true,
            "supports_parallel_tool_calls": false, "tool_mode": "code_mode_only", "multi_agent_version": "v2",
            "base_instructions": "You are Codex, a coding agent.",
        })
    };
    json!({ "models": MODELS.iter().map(model).collect::<Vec<_>>() })
}

/// The result of `model/list`.
pub(crate) fn model_list() -> Value {
    let model = |(place, (id, efforts)): (usize, &(&str, &[&str]))| {
        let efforts: Vec<Value> =
            efforts.iter().map(|effort| json!({ "reasoningEffort": effort, "description": effort })).collect();
        json!({
            "id": id, "model": id, "displayName": id, "description": "fake", "hidden": false,
            "supportedReasoningEfforts": efforts, "defaultReasoningEffort": "medium", "isDefault": place == 0,
        })
    };
    json!({ "data": MODELS.iter().enumerate().map(model).collect::<Vec<_>>(), "nextCursor": null })
}
