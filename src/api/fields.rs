//! Fields that several front ends have in common.

use super::Effort;
use super::error::ApiError;
use super::json::Node;
use super::prompt;
use super::schema::Format;
use super::tools::Offer;
use crate::turn::{Item, Role, TurnRequest};

/// What OpenAI takes and an app-server cannot be told, or what changes nothing for the model: accepted without effect,
/// with the type that OpenAI asks for.
type Check = fn(&Node<'_>) -> Result<(), ApiError>;
const NO_EFFECT: [(&str, Check); 11] = [
    ("temperature", |node| node.number().map(drop)),
    ("top_p", |node| node.number().map(drop)),
    ("presence_penalty", |node| node.number().map(drop)),
    ("frequency_penalty", |node| node.number().map(drop)),
    ("seed", |node| node.number().map(drop)),
    ("logit_bias", |node| node.entries()?.try_for_each(|bias| bias?.1.number().map(drop))),
    ("user", |node| node.string().map(drop)),
    ("metadata", |node| node.entries()?.try_for_each(|value| value?.1.string().map(drop))),
    ("store", |node| node.boolean().map(drop)),
    ("service_tier", |node| node.string().map(drop)),
    ("prompt_cache_key", |node| node.string().map(drop)),
];

/// Checks the fields that have no effect.
pub(crate) fn no_effect(root: &Node<'_>) -> Result<(), ApiError> {
    let nodes = root.fields(NO_EFFECT.map(|(name, _)| name))?;
    nodes.iter().zip(NO_EFFECT).try_for_each(|(node, (_, check))| node.as_ref().map_or(Ok(()), check))
}

/// Refuses fields that would change the meaning of the answer and cannot be honoured.
pub(crate) fn refuse<const N: usize>(root: &Node<'_>, names: [&str; N]) -> Result<(), ApiError> {
    match root.fields(names)?.into_iter().flatten().next() {
        Some(node) => Err(node.unsupported("is not supported here")),
        None => Ok(()),
    }
}

/// Refuses a value that asks for what cannot be served.
pub(crate) fn refuse_if(
    node: Option<Node<'_>>,
    asks: impl FnOnce(&Node<'_>) -> Result<bool, ApiError>,
    why: &str,
) -> Result<(), ApiError> {
    match node {
        Some(node) if asks(&node)? => Err(node.unsupported(why)),
        _ => Ok(()),
    }
}

/// `top_logprobs`, of which only none can be served.
pub(crate) fn top_logprobs(node: Option<Node<'_>>) -> Result<(), ApiError> {
    refuse_if(node, |node| Ok(node.integer(0..=20)? > 0), "cannot be honoured: probabilities are not known")
}

/// A boolean with a value where it is absent.
pub(crate) fn boolean(node: Option<Node<'_>>, absent: bool) -> Result<bool, ApiError> {
    node.map_or(Ok(absent), |node| node.boolean())
}

/// Text that may be absent.
pub(crate) fn string(node: Option<Node<'_>>) -> Result<Option<String>, ApiError> {
    node.map(|node| node.string()).transpose()
}

/// What is asked of the model, with the lines that tools and format add.
pub(crate) fn turn(
    mut history: Vec<Item>,
    offer: Offer,
    format: Format,
    verbosity: Option<Node<'_>>,
    summary: Option<String>,
) -> Result<TurnRequest, ApiError> {
    let lines = [offer.line, format.line.map(str::to_owned)];
    history.extend(lines.into_iter().flatten().map(|line| prompt::message(Role::Developer, line)));
    let verbosity = verbosity.map(|node| node.one_of(&["low", "medium", "high"])).transpose()?.map(str::to_owned);
    let (tools, output_schema) = (offer.tools, format.schema);
    Ok(TurnRequest { summary, verbosity, history, tools, output_schema, ..TurnRequest::default() })
}

/// `stream`, and whether `stream_options` asks for usage.
pub(crate) fn stream(stream: Option<Node<'_>>, options: Option<Node<'_>>) -> Result<(bool, bool), ApiError> {
    let stream = boolean(stream, false)?;
    let Some(options) = options else { return Ok((stream, false)) };
    let include_usage = boolean(options.get("include_usage")?, false)?;
    if stream { Ok((stream, include_usage)) } else { Err(options.invalid("is only allowed when `stream` is true")) }
}

/// `n`.
pub(crate) fn choices(node: Option<Node<'_>>) -> Result<u32, ApiError> {
    node.map_or(Ok(1), |node| Ok(node.integer(1..=8)? as u32))
}

/// One string or several: of these, one more than `most` at most. They may be other values.
pub(crate) fn strings<'a>(node: &Node<'a>, most: usize) -> Result<Vec<Node<'a>>, ApiError> {
    match node.kind() {
        "a string" => Ok(vec![node.clone()]),
        "an array" => Ok(node.elements()?.take(most + 1).collect()),
        _ => Err(node.not("a string or an array of strings")),
    }
}

/// Stop strings of a request at most.
const MAX_STOPS: usize = 4;

/// `stop`: one string or up to four; none is as good as absent.
pub(crate) fn stop(node: Option<Node<'_>>) -> Result<Vec<String>, ApiError> {
    let Some(node) = node else { return Ok(Vec::new()) };
    let given = strings(&node, MAX_STOPS)?;
    if given.len() > MAX_STOPS {
        return Err(node.invalid(format_args!("must hold at most {MAX_STOPS} strings")));
    }
    let read = |node: &Node<'_>| match node.string()? {
        empty if empty.is_empty() => Err(node.invalid("must not be empty")),
        stop => Ok(stop),
    };
    given.iter().map(read).collect()
}

/// A limit of tokens, under whatever name.
pub(crate) fn max_tokens(node: Option<Node<'_>>) -> Result<Option<u64>, ApiError> {
    node.map(|node| node.integer(1..=u64::MAX)).transpose()
}

/// What is said about reasoning: the effort, and the summary to ask for, if summaries are shown at all.
pub(crate) fn reasoning(
    effort: Option<Node<'_>>,
    object: Option<Node<'_>>,
    show_reasoning: bool,
) -> Result<(Option<Effort>, Option<String>), ApiError> {
    let read = |node: Node<'_>, param| Ok::<_, ApiError>(Effort { value: node.string()?, param });
    let mut effort = effort.map(|node| read(node, "reasoning_effort")).transpose()?;
    let mut summary = Some("auto");
    if let Some(object) = object {
        let [own_effort, own_summary, older_summary] = object.fields(["effort", "summary", "generate_summary"])?;
        if let Some(node) = own_effort {
            effort = effort.or(Some(read(node, "reasoning.effort")?));
        }
        if let Some(node) = own_summary.or(older_summary) {
            summary = Some(node.one_of(&["auto", "concise", "detailed", "none"])?).filter(|summary| *summary != "none");
        }
    }
    Ok((effort, summary.filter(|_| show_reasoning).map(str::to_owned)))
}
