//! `POST /v1/chat/completions`: its JSON, validated. Everything in it is honoured, known to change nothing, or a 400.

use super::cut::CutRules;
use super::error::ApiError;
use super::json::{Node, brief};
use super::prompt::{self, ONE_JSON_OBJECT};
use super::tools::{self, Shape};
use super::{ApiRequest, choices, fields, schema};
use crate::turn::TurnRequest;

/// Reads the body of a request. Without `show_reasoning` (`PROXY_REASONING`) no summary of it is asked for.
///
/// # Errors
/// 400 with the place in `param`.
pub fn parse(body: &[u8], show_reasoning: bool) -> Result<ApiRequest, ApiError> {
    let root = Node::body(body)?;
    fields::no_effect(&root)?;
    fields::refuse(&root, ["audio", "web_search_options", "moderation", "suffix"])?;

    let [model, messages, stream, stream_options, n, stop] =
        root.fields(["model", "messages", "stream", "stream_options", "n", "stop"])?;
    let [max_tokens, max_completion_tokens, effort, reasoning, verbosity, format, modalities, logprobs, top_logprobs] =
        root.fields([
            "max_tokens",
            "max_completion_tokens",
            "reasoning_effort",
            "reasoning",
            "verbosity",
            "response_format",
            "modalities",
            "logprobs",
            "top_logprobs",
        ])?;
    let [tools, choice, parallel, functions, function_call] =
        root.fields(["tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"])?;

    only_text(modalities, logprobs, top_logprobs)?;
    let model = model.map(|node| node.string()).transpose()?;
    let mut history = prompt::messages(&root.need("messages", messages)?)?;
    let (stream, include_usage) = fields::stream(stream, stream_options)?;
    let n = fields::choices(n)?;
    let stop = fields::stop(stop)?;
    let limits = [fields::max_tokens(max_tokens)?, fields::max_tokens(max_completion_tokens)?];
    let (effort, summary) = fields::reasoning(effort, reasoning, show_reasoning)?;
    let verbosity = verbosity.map(|node| node.one_of(&["low", "medium", "high"])).transpose()?;
    let parallel = parallel.map_or(Ok(true), |node| node.boolean())?;
    let is_older = functions.is_some();
    let misplaced = if is_older { tools.as_ref().or(choice.as_ref()) } else { function_call.as_ref() };
    if let Some(node) = misplaced {
        return Err(node.invalid(
            "belongs to the other of two forms: `tools` and `tool_choice`, or `functions` and `function_call`",
        ));
    }
    let offer = if is_older {
        tools::read_functions(functions, function_call)?
    } else {
        tools::read(tools, choice, Shape::Nested)?
    };
    let format = schema::read(format, Shape::Nested)?;

    history.extend(offer.line.map(prompt::line));
    history.extend(format.json_object.then(|| prompt::line(ONE_JSON_OBJECT)));
    Ok(ApiRequest {
        model,
        effort,
        stream,
        n,
        // The older form has room for one call.
        cut: CutRules {
            stop,
            max_tokens: limits.into_iter().flatten().min(),
            single_call: !offer.tools.is_empty() && (is_older || !parallel),
        },
        form: super::Form::Choices(choices::Form {
            include_usage,
            functions: is_older,
            echo: false,
            prompts: Vec::new(),
        }),
        turn: TurnRequest {
            model: None,
            effort: None,
            summary,
            verbosity: verbosity.map(str::to_owned),
            history,
            tools: offer.tools,
            output_schema: format.schema,
            sealed: false,
        },
    })
}

/// Refuses what asks for more than text: other modalities, probabilities.
fn only_text(
    modalities: Option<Node<'_>>,
    logprobs: Option<Node<'_>>,
    top_logprobs: Option<Node<'_>>,
) -> Result<(), ApiError> {
    if let Some(modalities) = modalities {
        for modality in modalities.elements()? {
            let got = modality.string()?;
            if got != "text" {
                return Err(modality.unsupported(format_args!("must be `text`, got `{}`", brief(&got))));
            }
        }
    }
    if let Some(logprobs) = logprobs
        && logprobs.boolean()?
    {
        return Err(logprobs.unsupported("cannot be true: the probabilities of tokens are not known here"));
    }
    match top_logprobs {
        Some(top) if top.integer(0..=20)? > 0 => {
            Err(top.unsupported("cannot be honoured: probabilities are not known"))
        }
        _ => Ok(()),
    }
}
