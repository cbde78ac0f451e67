//! From the messages of a request to the items of a conversation, and the only place with words of our own for a model.
//!
//! Every call of a tool in the history has its one result before the conversation goes on, and every result its call:
//! codex drops a lone result and makes up a missing one, both without a word.

use std::collections::BTreeMap;

use crate::turn::{Item, Part, Role, ToolCall};

use super::error::ApiError;
use super::json::{Node, each};
use super::write::brief;

/// The line for a `tool_choice` that asks for some tool.
pub const CALL_ANY_TOOL: &str = "Answer by calling at least one of the tools.";
/// The line for `response_format: json_object`.
pub const ONE_JSON_OBJECT: &str = "Answer with one JSON object and nothing else.";

/// The line for a `tool_choice` that names a tool.
pub fn call_tool(name: &str) -> String {
    format!("Answer by calling the tool {name}.")
}

/// A message of one piece of text.
pub(crate) fn message(role: Role, text: impl Into<String>) -> Item {
    Item::Message { role, content: vec![Part::Text(text.into())] }
}

const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// Who is called so, of those that say something.
pub(crate) fn role(name: &str) -> Role {
    match name {
        "system" => Role::System,
        "developer" => Role::Developer,
        "user" => Role::User,
        _ => Role::Assistant,
    }
}

/// The items of `messages`.
pub(crate) fn messages(node: &Node<'_>) -> Result<Vec<Item>, ApiError> {
    let mut history = History::default();
    for (at, message) in node.elements()?.enumerate() {
        read_message(at, &message, &mut history)?;
    }
    history.answered()?;
    if history.items.is_empty() {
        return Err(node.invalid("must hold at least one message, got an empty array"));
    }
    Ok(history.items)
}

/// Items under the rule that calls have results.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) items: Vec<Item>,
    /// Ids of calls without a result so far, each with its place.
    open: BTreeMap<String, String>,
}

impl History {
    /// Goes on from an earlier conversation, whose last calls may wait for their results. `path` is where they are asked
    /// for.
    pub(crate) fn resume(&mut self, items: Vec<Item>, path: &str) {
        for item in &items {
            match item {
                Item::ToolCall(call) => drop(self.open.insert(call.id.clone(), path.to_owned())),
                Item::ToolOutput { id, .. } => drop(self.open.remove(id)),
                Item::Message { .. } | Item::Reasoning { .. } => {}
            }
        }
        self.items.extend(items);
    }

    pub(crate) fn call(&mut self, call: ToolCall, node: &Node<'_>) {
        self.open.insert(call.id.clone(), node.path.clone());
        self.items.push(Item::ToolCall(call));
    }

    /// Takes the result of the call `id`, or of the only one.
    pub(crate) fn result(&mut self, id: Option<String>, output: String, node: &Node<'_>) -> Result<(), ApiError> {
        let open = match &id {
            Some(id) => self.open.remove_entry(id),
            None => self.open.pop_first(),
        };
        let Some((id, _)) = open else {
            let id = id.map(|id| format!(" `{}`", brief(&id))).unwrap_or_default();
            return Err(node.invalid(format_args!("must answer a call{id} before it that has no result yet")));
        };
        self.items.push(Item::ToolOutput { id, output });
        Ok(())
    }

    /// Makes sure that no call waits for its result.
    pub(crate) fn answered(&self) -> Result<(), ApiError> {
        let Some((id, path)) = self.open.first_key_value() else { return Ok(()) };
        let message = format!("`{path}`: the call `{}` must be followed by its result.", brief(id));
        Err(ApiError::invalid(&**path, message))
    }
}

fn read_message(at: usize, node: &Node<'_>, history: &mut History) -> Result<(), ApiError> {
    let names = ["content", "name", "tool_calls", "function_call", "refusal", "audio"];
    let [content, name, calls, function_call, refusal, audio] = node.fields(names)?;
    let role_node = node.need("role")?;
    let role_name = role_node.one_of(&ROLES)?;
    // A name has no place in what codex takes, and no line of ours may carry it.
    let name = name.map(|name| name.string()).transpose()?;
    if let Some(audio) = audio {
        return Err(audio.unsupported("is audio, which is not supported"));
    }
    let is_assistant = role_name == "assistant";
    let calls = calls.filter(|_| is_assistant);
    let function_call = function_call.filter(|_| is_assistant);
    if matches!(role_name, "tool" | "function") {
        let output = content.map_or(Ok(String::new()), |content| text_of(&content))?;
        if role_name == "function" {
            name.ok_or_else(|| node.missing("name"))?;
            return history.result(None, output, &role_node);
        }
        let id_node = node.need("tool_call_id")?;
        return history.result(Some(id_node.string()?), output, &id_node);
    }
    let role = role(role_name);
    history.answered()?;
    let calls = read_calls(at, calls, function_call)?;
    let mut parts = match content {
        Some(content) => read_content(&content, role)?,
        None if !calls.is_empty() || refusal.is_some() || node.has("content") => Vec::new(),
        None => return Err(node.missing("content")),
    };
    if let Some(refusal) = refusal.filter(|_| is_assistant) {
        parts.push(Part::Text(refusal.string()?));
    }
    if !calls.is_empty() {
        parts.retain(|part| *part != Part::Text(String::new()));
    } else if parts.is_empty() {
        parts.push(Part::Text(String::new()));
    }
    if !parts.is_empty() {
        history.items.push(Item::Message { role, content: parts });
    }
    for (call, node) in calls {
        history.call(call, &node);
    }
    Ok(())
}

/// The calls of an assistant's message, each with its place.
fn read_calls<'a>(
    at: usize,
    calls: Option<Node<'a>>,
    function_call: Option<Node<'a>>,
) -> Result<Vec<(ToolCall, Node<'a>)>, ApiError> {
    let mut found = Vec::new();
    for call in each(calls)? {
        let id = call.need("id")?.string()?;
        call.get("type")?.as_ref().map_or(Ok(()), only_functions)?;
        found.push((read_call(id, &call.need("function")?)?, call));
    }
    if let Some(call) = function_call {
        // The older form has no ids.
        found.push((read_call(format!("call_{at}"), &call)?, call));
    }
    Ok(found)
}

/// A call whose name and arguments are members of `node`.
pub(crate) fn read_call(id: String, node: &Node<'_>) -> Result<ToolCall, ApiError> {
    let name_node = node.need("name")?;
    let name = name_node.string()?;
    if name.chars().count() > 64 {
        return Err(name_node.invalid(format_args!("must be of at most 64 characters, got `{}`", brief(&name))));
    }
    Ok(ToolCall { id, name, arguments: node.need("arguments")?.string()? })
}

/// Refuses every type of tool but `function`.
pub(crate) fn only_functions(kind: &Node<'_>) -> Result<(), ApiError> {
    match kind.string()?.as_str() {
        "function" => Ok(()),
        other => Err(kind.unsupported(format_args!("must be `function`, got `{}`", brief(other)))),
    }
}

/// Text given as a string or as parts that are all text.
pub(crate) fn text_of(node: &Node<'_>) -> Result<String, ApiError> {
    if node.kind() == "a string" {
        return node.string();
    }
    let mut text = String::new();
    for part in read_content(node, Role::Developer)? {
        if let Part::Text(more) = part {
            text.push_str(&more);
        }
    }
    Ok(text)
}

pub(crate) fn read_content(node: &Node<'_>, role: Role) -> Result<Vec<Part>, ApiError> {
    if node.kind() == "a string" {
        return Ok(vec![Part::Text(node.string()?)]);
    }
    if node.kind() != "an array" {
        return Err(node.not("a string or an array of parts"));
    }
    let mut parts = Vec::new();
    for part in node.elements()? {
        parts.push(read_part(&part, role)?);
    }
    if parts.is_empty() && role != Role::Assistant {
        return Err(node.invalid("must hold at least one part, got an empty array"));
    }
    Ok(parts)
}

fn read_part(node: &Node<'_>, role: Role) -> Result<Part, ApiError> {
    let kind = node.need("type")?;
    match kind.string()?.as_str() {
        "text" | "input_text" | "output_text" => Ok(Part::Text(node.need("text")?.string()?)),
        "refusal" if role == Role::Assistant => Ok(Part::Text(node.need("refusal")?.string()?)),
        "image_url" if role == Role::User => {
            let image = node.need("image_url")?;
            read_image(&image.need("url")?, image.get("detail")?)
        }
        "input_image" if role == Role::User => read_image(&node.need("image_url")?, node.get("detail")?),
        "image_url" | "input_image" => Err(kind.invalid("can be an image only in a message of the user")),
        known @ ("input_audio" | "file" | "input_file") => {
            Err(kind.unsupported(format_args!("`{known}` is not supported; send text or images")))
        }
        other => {
            let image = if role == Role::User { ", image_url, input_image" } else { "" };
            let refusal = if role == Role::Assistant { ", output_text, refusal" } else { "" };
            let got = brief(other);
            Err(kind.invalid(format_args!("must be one of text, input_text{image}{refusal}, got `{got}`")))
        }
    }
}

/// How pictures begin in base64: PNG, JPEG, GIF, WebP.
const PICTURES: [&str; 4] = ["iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR"];

/// An image that the request itself carries. Codex would put a sentence in the place of one that it cannot read.
fn read_image(url: &Node<'_>, detail: Option<Node<'_>>) -> Result<Part, ApiError> {
    let detail = detail.map(|detail| detail.one_of(&["auto", "low", "high", "original"])).transpose()?;
    let detail = detail.map(|detail| match detail {
        // Of low detail codex would make such a sentence, too.
        "low" => "auto".to_owned(),
        "original" => "high".to_owned(),
        other => other.to_owned(),
    });
    let text = url.string()?;
    if let Some((_, data)) = text.split_once(";base64,").filter(|(head, _)| head.starts_with("data:image/")) {
        let digits = data.trim_end_matches('=');
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
        if !PICTURES.iter().any(|begin| data.starts_with(begin)) {
            return Err(url.invalid("must hold a PNG, JPEG, GIF or WebP image"));
        }
        if data.len() % 4 != 0 || data.len() - digits.len() > 2 || !digits.bytes().all(is_base64) {
            return Err(url.invalid("must be valid base64, with its padding and without line breaks"));
        }
        return Ok(Part::Image { url: text, detail });
    }
    Err(match text.split_once(':') {
        Some(("http" | "https", _)) => url.invalid(
            "must be a data URL: images are not fetched from the network; send `data:image/png;base64,…` instead",
        ),
        _ => url.invalid("must be a data URL of an image: `data:image/png;base64,…`"),
    })
}

/// Bytes of what an item says, with those that a picture counts for by its URL.
pub(crate) fn bytes(item: &Item, picture: fn(&str) -> usize) -> usize {
    let part = |part: &Part| match part {
        Part::Text(text) => text.len(),
        Part::Image { url, .. } => picture(url),
    };
    match item {
        Item::Message { content, .. } => content.iter().map(part).sum(),
        Item::ToolCall(call) => call.id.len() + call.name.len() + call.arguments.len(),
        Item::ToolOutput { id, output } => id.len() + output.len(),
        Item::Reasoning { summary, sealed } => summary.iter().map(String::len).sum::<usize>() + sealed.len(),
    }
}
