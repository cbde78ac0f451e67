//! A conversation in codex's words: item by item, or as one text with the images beside it (API.md, prompt modes).

use serde_json::{Value, json};

use super::tool_names::ToolNames;
use crate::turn::{Item, Part, Role};

/// One entry of the conversation as an item of the Responses API. Codex drops items of role `system`.
pub(super) fn item(entry: &Item, names: &ToolNames) -> Value {
    match entry {
        Item::Message { role, content } => {
            let (role, text_type) = match role {
                Role::System | Role::Developer => ("developer", "input_text"),
                Role::User => ("user", "input_text"),
                Role::Assistant => ("assistant", "output_text"),
            };
            let content: Vec<Value> = content
                .iter()
                .map(|part| match part {
                    Part::Text(text) => json!({"type": text_type, "text": text}),
                    Part::Image { url, detail } => match detail.as_deref() {
                        // Codex replaces an image of detail `low` by a text (0.146, 0.169) or loses it (0.142.5).
                        Some("low") => json!({"type": "input_image", "image_url": url, "detail": "auto"}),
                        Some(detail) => json!({"type": "input_image", "image_url": url, "detail": detail}),
                        None => json!({"type": "input_image", "image_url": url}),
                    },
                })
                .collect();
            json!({"type": "message", "role": role, "content": content})
        }
        Item::ToolCall(call) => {
            let name = names.outward(&call.name);
            json!({"type": "function_call", "call_id": call.id, "name": name, "arguments": call.arguments})
        }
        Item::ToolOutput { id, output } => json!({"type": "function_call_output", "call_id": id, "output": output}),
        Item::Reasoning { summary, sealed } => {
            let summary: Vec<Value> =
                summary.iter().map(|text| json!({"type": "summary_text", "text": text})).collect();
            json!({"type": "reasoning", "summary": summary, "encrypted_content": sealed})
        }
    }
}

/// The whole conversation as one text, and the URLs of its images.
pub(super) fn joined(history: &[Item]) -> (String, Vec<&str>) {
    let mut lines = Vec::new();
    let mut images = Vec::new();
    for entry in history {
        lines.push(match entry {
            Item::Message { role, content } => {
                let role = match role {
                    Role::System => "system",
                    Role::Developer => "developer",
                    Role::User => "user",
                    Role::Assistant => "assistant",
                };
                let mut text = String::new();
                for part in content {
                    match part {
                        Part::Text(part) => text.push_str(part),
                        Part::Image { url, .. } => images.push(url.as_str()),
                    }
                }
                format!("[{role}] {text}")
            }
            Item::ToolCall(call) => format!("[tool_call {}] {} {}", call.id, call.name, call.arguments),
            Item::ToolOutput { id, output } => format!("[tool {id}] {output}"),
            // Nothing but the service can read it.
            Item::Reasoning { .. } => continue,
        });
    }
    (lines.join("\n"), images)
}
