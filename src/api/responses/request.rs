//! JSON of a request to `/v1/responses`, validated: everything in it is honoured, known to change nothing, or a 400.

use super::Form;
use crate::api::cut::CutRules;
use crate::api::error::ApiError;
use crate::api::json::{Node, brief};
use crate::api::prompt::{self, History, ONE_JSON_OBJECT};
use crate::api::tools::{self, Shape};
use crate::api::{self, ApiRequest, fields, schema};
use crate::turn::{Item, Part, Role, ToolCall, TurnRequest};

/// Members that the response object repeats, with what it says where the request does not.
const ECHOED: [(&str, &str); 18] = [
    ("background", "false"),
    ("instructions", "null"),
    ("max_output_tokens", "null"),
    ("max_tool_calls", "null"),
    ("parallel_tool_calls", "true"),
    ("previous_response_id", "null"),
    ("reasoning", r#"{"effort":null,"summary":null}"#),
    ("safety_identifier", "null"),
    ("service_tier", r#""default""#),
    ("temperature", "1.0"),
    ("text", r#"{"format":{"type":"text"}}"#),
    ("tool_choice", r#""auto""#),
    ("tools", "[]"),
    ("top_logprobs", "0"),
    ("top_p", "1.0"),
    ("truncation", r#""disabled""#),
    ("user", "null"),
    ("metadata", "{}"),
];

/// The conversation up to and with the answer of this id, or only the item of it at an index.
pub type Stored<'a> = &'a dyn Fn(&str, Option<usize>) -> Option<Vec<Item>>;

/// Reads the body of a request. Without `show_reasoning` (`PROXY_REASONING`) no summary of it is asked for. `stored`
/// finds earlier answers; with `can_store` this one is to be kept unless it asks not to be.
///
/// # Errors
/// 400 with the place in `param`.
pub fn parse(body: &[u8], show_reasoning: bool, can_store: bool, stored: Stored<'_>) -> Result<ApiRequest, ApiError> {
    let root = Node::body(body)?;
    fields::no_effect(&root)?;
    fields::refuse(&root, ["conversation", "prompt", "moderation", "context_management"])?;
    let [model, input, instructions, previous, stream, stream_options, store, background, include] = root.fields([
        "model",
        "input",
        "instructions",
        "previous_response_id",
        "stream",
        "stream_options",
        "store",
        "background",
        "include",
    ])?;
    let [tools, choice, parallel, text, reasoning, max_output_tokens, top_logprobs, truncation] = root.fields([
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "text",
        "reasoning",
        "max_output_tokens",
        "top_logprobs",
        "truncation",
    ])?;
    check(background, top_logprobs, truncation)?;
    let includes_sealed = read_include(include)?;

    let mut history = History::default();
    if let Some(instructions) = instructions {
        history.items.push(prompt::message(Role::Developer, instructions.string()?));
    }
    let begin = history.items.len();
    let has_previous = previous.is_some();
    if let Some(previous) = previous {
        let id = previous.string()?;
        let items = stored(&id, None)
            .ok_or_else(|| ApiError { code: Some("previous_response_not_found"), ..not_found(&previous, &id) })?;
        history.resume(items, "input");
    }
    match input {
        Some(input) => read_input(&input, &mut history, stored)?,
        None if has_previous => {}
        None => return Err(root.missing("input")),
    }
    history.answered()?;
    let mut items = history.items;
    let conversation = begin..items.len();

    let offer = tools::read(tools, choice, Shape::Flat)?;
    let [format, verbosity] = text.map_or(Ok([None, None]), |text| text.fields(["format", "verbosity"]))?;
    let format = schema::read(format, Shape::Flat)?;
    let verbosity = verbosity.map(|node| node.one_of(&["low", "medium", "high"])).transpose()?;
    let (effort, summary) = fields::reasoning(None, reasoning, show_reasoning)?;
    let parallel = parallel.map_or(Ok(true), |node| node.boolean())?;
    let store = can_store && store.map_or(Ok(true), |node| node.boolean())?;

    items.extend(offer.line.map(prompt::line));
    items.extend(format.json_object.then(|| prompt::line(ONE_JSON_OBJECT)));
    Ok(ApiRequest {
        model: model.map(|node| node.string()).transpose()?,
        effort,
        stream: fields::stream(stream, stream_options)?.0,
        n: 1,
        cut: CutRules {
            stop: Vec::new(),
            max_tokens: fields::max_tokens(max_output_tokens)?,
            single_call: !parallel && !offer.tools.is_empty(),
        },
        form: api::Form::Response(Form {
            echo: echo(&root, store)?,
            conversation: store.then_some(conversation),
            includes_sealed,
        }),
        turn: TurnRequest {
            model: None,
            effort: None,
            summary,
            verbosity: verbosity.map(str::to_owned),
            history: items,
            tools: offer.tools,
            output_schema: format.schema,
            sealed: true,
        },
    })
}

/// Whether the sealed content of reasoning is to be shown.
fn read_include(include: Option<Node<'_>>) -> Result<bool, ApiError> {
    let mut sealed = false;
    let Some(include) = include else { return Ok(sealed) };
    for what in include.elements()? {
        match what.string()?.as_str() {
            "reasoning.encrypted_content" => sealed = true,
            // Of no effect: the answer does not repeat the images of the input.
            "message.input_image.image_url" => {}
            other => return Err(what.unsupported(format_args!("`{}` cannot be included", brief(other)))),
        }
    }
    Ok(sealed)
}

/// Refuses what cannot be served.
fn check(
    background: Option<Node<'_>>,
    top_logprobs: Option<Node<'_>>,
    truncation: Option<Node<'_>>,
) -> Result<(), ApiError> {
    if let Some(background) = background
        && background.boolean()?
    {
        return Err(background.unsupported("cannot be true: there are no responses in the background here"));
    }
    if let Some(top) = top_logprobs
        && top.integer(0..=20)? > 0
    {
        return Err(top.unsupported("cannot be honoured: probabilities are not known"));
    }
    truncation.map_or(Ok(()), |node| node.one_of(&["disabled", "auto"]).map(drop))
}

fn not_found(node: &Node<'_>, id: &str) -> ApiError {
    node.invalid(format_args!("is `{}`, which was not stored here for this key, or is too old", brief(id)))
}

fn echo(root: &Node<'_>, store: bool) -> Result<String, ApiError> {
    let mut echo = format!("\"store\":{store}");
    let given = root.fields(ECHOED.map(|(name, _)| name))?;
    for (given, (name, default)) in given.iter().zip(ECHOED) {
        echo.push_str(",\"");
        echo.push_str(name);
        echo.push_str("\":");
        echo.push_str(&given.as_ref().map_or_else(|| default.to_owned(), Node::line));
    }
    Ok(echo)
}

fn read_input(node: &Node<'_>, history: &mut History, stored: Stored<'_>) -> Result<(), ApiError> {
    if node.is_string() {
        history.items.push(prompt::message(Role::User, node.string()?));
        return Ok(());
    }
    if !node.is_array() {
        return Err(node.not("a string or an array of items"));
    }
    let mut is_empty = true;
    for item in node.elements()? {
        is_empty = false;
        read_item(&item, history, stored)?;
    }
    if is_empty {
        return Err(node.invalid("must hold at least one item, got an empty array"));
    }
    Ok(())
}

fn read_item(node: &Node<'_>, history: &mut History, stored: Stored<'_>) -> Result<(), ApiError> {
    let [kind, role] = node.fields(["type", "role"])?;
    let name = match &kind {
        Some(kind) => kind.string()?,
        None if role.is_some() => "message".to_owned(),
        None => return Err(node.missing("type")),
    };
    let kind = kind.as_ref().unwrap_or(node);
    match name.as_str() {
        "message" => {
            let role = node.need("role", role)?;
            let role = match role.one_of(&["user", "assistant", "system", "developer"])? {
                "user" => Role::User,
                "assistant" => Role::Assistant,
                "system" => Role::System,
                _ => Role::Developer,
            };
            let [content] = node.fields(["content"])?;
            let mut content = prompt::read_content(&node.need("content", content)?, role)?;
            if content.is_empty() {
                content.push(Part::Text(String::new()));
            }
            history.items.push(Item::Message { role, content });
            Ok(())
        }
        "function_call" => {
            let [id, name, arguments] = node.fields(["call_id", "name", "arguments"])?;
            let read = |value: Option<Node<'_>>, name| node.need(name, value)?.string();
            let call = ToolCall {
                id: read(id, "call_id")?,
                name: read(name, "name")?,
                arguments: read(arguments, "arguments")?,
            };
            history.call(call, node);
            Ok(())
        }
        "function_call_output" => {
            let [id, output] = node.fields(["call_id", "output"])?;
            let id_node = node.need("call_id", id)?;
            let output = prompt::text_of(&node.need("output", output)?)?;
            history.result(Some(id_node.string()?), output, &id_node)
        }
        "reasoning" => {
            let [summary, sealed] = node.fields(["summary", "encrypted_content"])?;
            // Without its sealed content there is nothing in it that a model could read.
            let Some(sealed) = sealed else { return Ok(()) };
            let mut texts = Vec::new();
            if let Some(summary) = summary {
                for part in summary.elements()? {
                    let [text] = part.fields(["text"])?;
                    texts.push(part.need("text", text)?.string()?);
                }
            }
            history.items.push(Item::Reasoning { summary: texts, sealed: sealed.string()? });
            Ok(())
        }
        "item_reference" => {
            let [id] = node.fields(["id"])?;
            let node = node.need("id", id)?;
            let id = node.string()?;
            // Such as `msg_8f3a…_0`, the first item of `resp_8f3a…`.
            let place = id.split_once('_').and_then(|(_, place)| place.rsplit_once('_'));
            let index = place.and_then(|(_, index)| index.parse().ok());
            let items = place.zip(index).and_then(|((stamp, _), index)| stored(&format!("resp_{stamp}"), Some(index)));
            history.resume(items.ok_or_else(|| not_found(&node, &id))?, &node.path);
            Ok(())
        }
        other => Err(kind.unsupported(format_args!(
            "must be one of message, function_call, function_call_output, reasoning, item_reference, got `{}`",
            brief(other)
        ))),
    }
}
