//! A conversation in codex's words: item by item, or as one text with the images beside it (API.md, prompt modes).

use serde::{Serialize, Serializer};

use super::tool_names::ToolNames;
use crate::turn::{Item, Part, Role};

/// A conversation as items of the Responses API. They are written straight from what they are made of: a tree of values
/// takes twenty times the memory of its text.
pub(super) struct Items<'a> {
    pub(super) history: &'a [Item],
    pub(super) names: &'a ToolNames,
}

impl Serialize for Items<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.history.iter().map(|item| Entry::of(item, self.names)))
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Entry<'a> {
    Message { role: &'static str, content: Content<'a> },
    FunctionCall { call_id: &'a str, name: &'a str, arguments: &'a str },
    FunctionCallOutput { call_id: &'a str, output: &'a str },
    Reasoning { summary: Vec<Piece<'a>>, encrypted_content: &'a str },
}

struct Content<'a> {
    parts: &'a [Part],
    text_type: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Piece<'a> {
    Text {
        r#type: &'static str,
        text: &'a str,
    },
    Image {
        r#type: &'static str,
        image_url: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<&'a str>,
    },
}

impl<'a> Entry<'a> {
    /// Codex drops items of role `system`.
    fn of(item: &'a Item, names: &'a ToolNames) -> Self {
        match item {
            Item::Message { role, content } => {
                let (role, text_type) = match role {
                    Role::System | Role::Developer => ("developer", "input_text"),
                    Role::User => ("user", "input_text"),
                    Role::Assistant => ("assistant", "output_text"),
                };
                Self::Message { role, content: Content { parts: content, text_type } }
            }
            Item::ToolCall(call) => {
                let name = names.outward(&call.name);
                Self::FunctionCall { call_id: &call.id, name, arguments: &call.arguments }
            }
            Item::ToolOutput { id, output } => Self::FunctionCallOutput { call_id: id, output },
            Item::Reasoning { summary, sealed } => {
                let summary = summary.iter().map(|text| Piece::Text { r#type: "summary_text", text });
                Self::Reasoning { summary: summary.collect(), encrypted_content: sealed }
            }
        }
    }
}

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.parts.iter().map(|part| match part {
            Part::Text(text) => Piece::Text { r#type: self.text_type, text },
            Part::Image { url, detail } => {
                // Codex replaces an image of detail `low` by a text (0.146, 0.169) or loses it (0.142.5).
                let detail = detail.as_deref().map(|detail| if detail == "low" { "auto" } else { detail });
                Piece::Image { r#type: "input_image", image_url: url, detail }
            }
        }))
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
