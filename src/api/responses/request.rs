//! JSON of a request to `/v1/responses`, validated: everything in it is honoured, known to change nothing, or a 400.

use std::sync::Arc;

use super::store::weight;
use super::{Form, Record};
use crate::api::cut::CutRules;
use crate::api::error::ApiError;
use crate::api::json::{Node, each};
use crate::api::prompt::{self, History};
use crate::api::tools::{self, Shape};
use crate::api::write::brief;
use crate::api::{self, ApiRequest, fields, schema};
use crate::turn::{Item, Part, Role, TurnRequest};

/// Members that the response object repeats, with what it says where the request does not.
const ECHOED: &str = r#"{"background":false,"instructions":null,"max_output_tokens":null,"max_tool_calls":null,
    "parallel_tool_calls":true,"previous_response_id":null,"reasoning":{"effort":null,"summary":null},
    "safety_identifier":null,"service_tier":"default","temperature":1.0,"text":{"format":{"type":"text"}},
    "tool_choice":"auto","tools":[],"top_logprobs":0,"top_p":1.0,"truncation":"disabled","user":null,"metadata":{}}"#;

/// Earlier answers, and how much of them one request may repeat: it names them in a few bytes.
pub struct Stored<'a> {
    /// Finds one by its id.
    pub find: &'a dyn Fn(&str) -> Option<Arc<Record>>,
    /// Bytes that may be taken in all.
    pub max_bytes: usize,
    /// Bytes that were taken.
    pub taken: usize,
}

impl Stored<'_> {
    /// The conversation up to and with the answer of this id, or only the item of it at an index; `node` asks for it.
    fn take(&mut self, node: &Node<'_>, id: &str, index: Option<usize>) -> Result<Option<Vec<Item>>, ApiError> {
        let record = (self.find)(id);
        let Some(items) = record.as_ref().and_then(|record| record.items(index)) else { return Ok(None) };
        self.taken += items.iter().copied().map(weight).sum::<usize>();
        if self.taken > self.max_bytes {
            return Err(node.invalid(format_args!(
                "brings what this request takes out of stored answers above PROXY_MAX_BODY_BYTES ({} bytes): refer to \
                 less of them, or begin a shorter conversation",
                self.max_bytes
            )));
        }
        Ok(Some(items.into_iter().cloned().collect()))
    }
}

/// Reads the body of a request. Without `show_reasoning` (`PROXY_REASONING`) no summary of it is asked for. With
/// `can_store` the answer is to be kept unless the request asks not to.
///
/// # Errors
/// 400 with the place in `param`.
pub fn parse(
    body: &[u8],
    show_reasoning: bool,
    can_store: bool,
    stored: &mut Stored<'_>,
) -> Result<ApiRequest, ApiError> {
    let root = Node::body(body)?;
    fields::no_effect(&root)?;
    fields::refuse(&root, ["conversation", "prompt", "moderation", "context_management"])?;
    let [model, instructions, stream, options] = root.fields(["model", "instructions", "stream", "stream_options"])?;
    let [previous, input, store] = root.fields(["previous_response_id", "input", "store"])?;
    let [tools, choice, parallel] = root.fields(["tools", "tool_choice", "parallel_tool_calls"])?;
    let [text, reasoning, max_tokens] = root.fields(["text", "reasoning", "max_output_tokens"])?;
    let [background, top_logprobs, include] = root.fields(["background", "top_logprobs", "include"])?;

    fields::refuse_if(background, |node| node.boolean(), "cannot be true: nothing is done in the background here")?;
    fields::top_logprobs(top_logprobs)?;
    root.get("truncation")?.map(|node| node.one_of(&["disabled", "auto"])).transpose()?;
    let mut includes_sealed = false;
    for what in each(include)? {
        match what.string()?.as_str() {
            "reasoning.encrypted_content" => includes_sealed = true,
            // Of no effect: the answer does not repeat the images of the input.
            "message.input_image.image_url" => {}
            other => return Err(what.unsupported(format_args!("`{}` cannot be included", brief(other)))),
        }
    }

    let mut history = History::default();
    history.items.extend(fields::string(instructions)?.map(|text| prompt::message(Role::Developer, text)));
    let begin = history.items.len();
    if let Some(previous) = &previous {
        let id = previous.string()?;
        let items = stored
            .take(previous, &id, None)?
            .ok_or_else(|| ApiError { code: Some("previous_response_not_found"), ..not_found(previous, &id) })?;
        history.resume(items, "input");
    }
    match input {
        Some(input) => read_input(&input, &mut history, stored)?,
        None if previous.is_some() => {}
        None => return Err(root.missing("input")),
    }
    history.answered()?;
    let conversation = begin..history.items.len();

    let offer = tools::read(tools, choice, Shape::Flat)?;
    let [format, verbosity] = text.map_or(Ok([None, None]), |text| text.fields(["format", "verbosity"]))?;
    let format = schema::read(format, Shape::Flat)?;
    let (effort, summary) = fields::reasoning(None, reasoning, show_reasoning)?;
    let store = can_store && fields::boolean(store, true)?;
    let cut = CutRules {
        stop: Vec::new(),
        max_tokens: fields::max_tokens(max_tokens)?,
        single_call: !fields::boolean(parallel, true)? && !offer.tools.is_empty(),
    };
    let form = Form { echo: echo(&root, store)?, conversation: store.then_some(conversation), includes_sealed };
    Ok(ApiRequest {
        model: fields::string(model)?,
        effort,
        stream: fields::stream(stream, options)?.0,
        n: 1,
        cut,
        form: api::Form::Response(form),
        turn: TurnRequest { sealed: true, ..fields::turn(history.items, offer, format, verbosity, summary)? },
    })
}

fn not_found(node: &Node<'_>, id: &str) -> ApiError {
    node.invalid(format_args!("is `{}`, which was not stored here for this key, or is too old", brief(id)))
}

fn echo(root: &Node<'_>, store: bool) -> Result<String, ApiError> {
    let mut echo = format!("\"store\":{store}");
    let members = Node::body(ECHOED.as_bytes())?;
    let members = members.entries()?.collect::<Result<Vec<_>, _>>()?;
    let mut given = vec![None; members.len()];
    root.find(&members.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), &mut given)?;
    for ((name, default), given) in members.iter().zip(&given) {
        echo.push_str(&format!(",\"{name}\":{}", given.as_ref().unwrap_or(default).line()));
    }
    Ok(echo)
}

fn read_input(node: &Node<'_>, history: &mut History, stored: &mut Stored<'_>) -> Result<(), ApiError> {
    if node.kind() == "a string" {
        history.items.push(prompt::message(Role::User, node.string()?));
        return Ok(());
    }
    if node.kind() != "an array" {
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

fn read_item(node: &Node<'_>, history: &mut History, stored: &mut Stored<'_>) -> Result<(), ApiError> {
    let name = match node.get("type")? {
        None if node.has("role") => "message".to_owned(),
        kind => kind.ok_or_else(|| node.missing("type"))?.string()?,
    };
    match name.as_str() {
        "message" => {
            let role = prompt::role(node.need("role")?.one_of(&["user", "assistant", "system", "developer"])?);
            let mut content = prompt::read_content(&node.need("content")?, role)?;
            if content.is_empty() {
                content.push(Part::Text(String::new()));
            }
            history.items.push(Item::Message { role, content });
        }
        "function_call" => history.call(prompt::read_call(node.need("call_id")?.string()?, node)?, node),
        "function_call_output" => {
            let id = node.need("call_id")?;
            history.result(Some(id.string()?), prompt::text_of(&node.need("output")?)?, &id)?;
        }
        // Without its sealed content there is nothing in it that a model could read.
        "reasoning" => {
            if let Some(sealed) = node.get("encrypted_content")? {
                let mut summary = Vec::new();
                for part in each(node.get("summary")?)? {
                    summary.push(part.need("text")?.string()?);
                }
                history.items.push(Item::Reasoning { summary, sealed: sealed.string()? });
            }
        }
        "item_reference" => {
            let node = node.need("id")?;
            let id = node.string()?;
            // Such as `msg_8f3a…_0`, the first item of `resp_8f3a…`.
            let place = id.split_once('_').and_then(|(_, place)| place.rsplit_once('_'));
            let index = place.and_then(|(_, index)| index.parse().ok());
            let items = match place.zip(index) {
                Some(((stamp, _), index)) => stored.take(&node, &format!("resp_{stamp}"), Some(index))?,
                None => None,
            };
            history.resume(items.ok_or_else(|| not_found(&node, &id))?, &node.path);
        }
        other => {
            let known = "message, function_call, function_call_output, reasoning, item_reference";
            return Err(node.need("type")?.unsupported(format_args!("must be one of {known}, got `{}`", brief(other))));
        }
    }
    Ok(())
}
