//! Tools on offer and the choice among them. An app-server cannot be told a choice, so a choice takes away the tools
//! that it rules out, and one that demands a call adds a line to the prompt.

use crate::turn::Tool;

use super::error::ApiError;
use super::json::{Node, each};
use super::prompt::{self, CALL_ANY_TOOL};
use super::write::brief;

/// Tools on offer at most. OpenAI takes 128.
const MAX_TOOLS: usize = 512;

/// How a front end writes a function: in a member `function`, with its members at the top, or so without a type
/// (`functions` and `function_call`, the older names).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Nested,
    Flat,
    Older,
}

impl Shape {
    fn function<'a>(self, node: &Node<'a>) -> Result<Node<'a>, ApiError> {
        if self != Self::Older {
            prompt::only_functions(&node.need("type")?)?;
        }
        if self == Self::Nested { node.need("function") } else { Ok(node.clone()) }
    }
}

/// What a request offers to the model.
#[derive(Debug, Default)]
pub(crate) struct Offer {
    pub(crate) tools: Vec<Tool>,
    /// The line that demands a call.
    pub(crate) line: Option<String>,
}

/// Reads `tools` and `tool_choice`, or what they were called before.
pub(crate) fn read(tools: Option<Node<'_>>, choice: Option<Node<'_>>, shape: Shape) -> Result<Offer, ApiError> {
    let mut all = Vec::new();
    for tool in each(tools)? {
        add(&mut all, &shape.function(&tool)?)?;
    }
    let line = choice.map_or(Ok(None), |choice| choose(&mut all, &choice, shape))?;
    Ok(Offer { tools: all, line })
}

fn add(tools: &mut Vec<Tool>, node: &Node<'_>) -> Result<(), ApiError> {
    let name_node = node.need("name")?;
    let name = name_node.string()?;
    let is_sound = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !(1..=64).contains(&name.len()) || !name.chars().all(is_sound) {
        let got = brief(&name);
        return Err(name_node.invalid(format_args!("must be 1 to 64 of a-z, A-Z, 0-9, _ and -, got `{got}`")));
    }
    if tools.iter().any(|tool| tool.name == name) {
        return Err(name_node.invalid(format_args!("must be unique, but there are two tools called `{name}`")));
    }
    if tools.len() == MAX_TOOLS {
        return Err(node.invalid(format_args!("is one too many: at most {MAX_TOOLS} tools can be offered")));
    }
    let parameters = match node.get("parameters")? {
        Some(schema) if schema.kind() == "an object" => schema.line(),
        Some(schema) => return Err(schema.not("a JSON schema (an object)")),
        None => r#"{"type":"object","properties":{}}"#.to_owned(),
    };
    let description = node.get("description")?.map_or(Ok(String::new()), |node| node.string())?;
    tools.push(Tool { name, description, parameters });
    Ok(())
}

/// Takes away what the choice rules out. Returns the line that it adds.
fn choose(tools: &mut Vec<Tool>, choice: &Node<'_>, shape: Shape) -> Result<Option<String>, ApiError> {
    if choice.kind() == "a string" {
        let words: &[_] = if shape == Shape::Older { &["none", "auto"] } else { &["none", "auto", "required"] };
        let mode = choice.one_of(words)?;
        if mode == "none" {
            tools.clear();
        }
        return demand(mode, tools, choice);
    }
    if shape == Shape::Older {
        return named(tools, choice);
    }
    let kind = choice.need("type")?;
    match kind.string()?.as_str() {
        "function" => named(tools, &shape.function(choice)?),
        "allowed_tools" => {
            let allowed = if shape == Shape::Nested { choice.need("allowed_tools")? } else { choice.clone() };
            let mode = allowed.need("mode")?.one_of(&["auto", "required"])?;
            let mut names = Vec::new();
            for tool in allowed.need("tools")?.elements()? {
                names.push(offered(tools, &shape.function(&tool)?)?);
            }
            tools.retain(|tool| names.contains(&tool.name));
            demand(mode, tools, choice)
        }
        other => Err(kind.unsupported(format_args!("must be `function` or `allowed_tools`, got `{}`", brief(other)))),
    }
}

fn demand(mode: &str, tools: &[Tool], node: &Node<'_>) -> Result<Option<String>, ApiError> {
    match mode {
        "required" if tools.is_empty() => Err(node.invalid("demands a call, but no tool is offered")),
        "required" => Ok(Some(CALL_ANY_TOOL.to_owned())),
        _ => Ok(None),
    }
}

/// Leaves the one tool that `node` names.
fn named(tools: &mut Vec<Tool>, node: &Node<'_>) -> Result<Option<String>, ApiError> {
    let name = offered(tools, node)?;
    tools.retain(|tool| tool.name == name);
    Ok(Some(prompt::call_tool(&name)))
}

/// The `name` in `node`, which has to be that of a tool.
fn offered(tools: &[Tool], node: &Node<'_>) -> Result<String, ApiError> {
    let name_node = node.need("name")?;
    let name = name_node.string()?;
    if tools.iter().any(|tool| tool.name == name) {
        return Ok(name);
    }
    Err(name_node.invalid(format_args!("must be one of the tools offered, got `{}`", brief(&name))))
}
