//! `POST /v1/chat/completions`: its JSON, validated. Everything in it is honoured, known to change nothing, or a 400.

use super::cut::CutRules;
use super::error::ApiError;
use super::json::{Node, each};
use super::tools::{self, Shape};
use super::write::brief;
use super::{ApiRequest, choices, fields, prompt, schema};

/// Reads the body of a request. Without `show_reasoning` (`PROXY_REASONING`) no summary of it is asked for.
///
/// # Errors
/// 400 with the place in `param`.
pub fn parse(body: &[u8], show_reasoning: bool) -> Result<ApiRequest, ApiError> {
    let root = Node::body(body)?;
    fields::no_effect(&root)?;
    fields::refuse(&root, ["audio", "web_search_options", "moderation", "suffix"])?;
    let [model, stream, options, n, stop] = root.fields(["model", "stream", "stream_options", "n", "stop"])?;
    let [most, most_completion] = root.fields(["max_tokens", "max_completion_tokens"])?;
    let [effort, reasoning, verbosity] = root.fields(["reasoning_effort", "reasoning", "verbosity"])?;
    let [format, modalities, logprobs] = root.fields(["response_format", "modalities", "logprobs"])?;
    let [tools, choice, parallel] = root.fields(["tools", "tool_choice", "parallel_tool_calls"])?;
    let [functions, call, top_logprobs] = root.fields(["functions", "function_call", "top_logprobs"])?;

    for modality in each(modalities)? {
        let got = modality.string()?;
        if got != "text" {
            return Err(modality.unsupported(format_args!("must be `text`, got `{}`", brief(&got))));
        }
    }
    fields::refuse_if(
        logprobs,
        |node| node.boolean(),
        "cannot be true: the probabilities of tokens are not known here",
    )?;
    fields::top_logprobs(top_logprobs)?;
    let history = prompt::messages(&root.need("messages")?)?;
    let (stream, include_usage) = fields::stream(stream, options)?;
    let (effort, summary) = fields::reasoning(effort, reasoning, show_reasoning)?;
    let parallel = fields::boolean(parallel, true)?;
    let is_older = functions.is_some();
    let misplaced = if is_older { tools.as_ref().or(choice.as_ref()) } else { call.as_ref() };
    if let Some(node) = misplaced {
        return Err(node.invalid(
            "belongs to the other of two forms: `tools` and `tool_choice`, or `functions` and `function_call`",
        ));
    }
    let offer = match functions {
        Some(_) => tools::read(functions, call, Shape::Older)?,
        None => tools::read(tools, choice, Shape::Nested)?,
    };
    let limits = [fields::max_tokens(most)?, fields::max_tokens(most_completion)?];
    let cut = CutRules {
        stop: fields::stop(stop)?,
        max_tokens: limits.into_iter().flatten().min(),
        // The older form has room for one call.
        single_call: !offer.tools.is_empty() && (is_older || !parallel),
    };
    let form = choices::Form { include_usage, functions: is_older, echo: false, prompts: Vec::new() };
    Ok(ApiRequest {
        model: fields::string(model)?,
        effort,
        stream,
        n: fields::choices(n)?,
        cut,
        form: super::Form::Choices(form),
        turn: fields::turn(history, offer, schema::read(format, Shape::Nested)?, verbosity, summary)?,
    })
}
