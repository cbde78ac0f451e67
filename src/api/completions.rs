//! `POST /v1/completions`: the older text completions. Each prompt is a message of the user; several prompts are
//! answered with `n` choices each, in their order.

use std::sync::Arc;

use super::cut::CutRules;
use super::error::ApiError;
use super::json::Node;
use super::{ApiRequest, choices, fields};
use crate::turn::TurnRequest;

/// Choices of one request at most; each is a turn.
const MAX_CHOICES: usize = 128;

/// Reads the body of a request.
///
/// # Errors
/// 400 with the place in `param`.
pub fn parse(body: &[u8]) -> Result<ApiRequest, ApiError> {
    let root = Node::body(body)?;
    fields::no_effect(&root)?;
    fields::refuse(&root, ["suffix", "logprobs"])?;
    let [model, stream, stream_options, n, best_of, stop, max_tokens, echo] =
        root.fields(["model", "stream", "stream_options", "n", "best_of", "stop", "max_tokens", "echo"])?;
    let prompts = read_prompts(&root.need("prompt")?)?;
    let n = fields::choices(n)?;
    if prompts.len() * n as usize > MAX_CHOICES {
        return Err(ApiError::invalid("prompt", format!("`prompt` and `n` ask for more than {MAX_CHOICES} answers.")));
    }
    let chooses = |best_of: &Node<'_>| Ok(best_of.integer(1..=20)? != u64::from(n));
    fields::refuse_if(best_of, chooses, "must be `n`: no answer is chosen among others here")?;
    let (stream, include_usage) = fields::stream(stream, stream_options)?;
    let echo = fields::boolean(echo, false)?;
    Ok(ApiRequest {
        model: fields::string(model)?,
        effort: None,
        stream,
        n,
        cut: CutRules { stop: fields::stop(stop)?, max_tokens: fields::max_tokens(max_tokens)?, single_call: false },
        form: super::Form::Choices(choices::Form { include_usage, functions: false, echo, prompts }),
        turn: TurnRequest::default(),
    })
}

fn read_prompts(node: &Node<'_>) -> Result<Vec<Arc<str>>, ApiError> {
    let mut prompts = Vec::new();
    for prompt in fields::strings(node, MAX_CHOICES)? {
        if prompt.kind() == "a number" || prompt.kind() == "an array" {
            return Err(prompt.unsupported("must be a string; prompts of token numbers are not supported"));
        }
        prompts.push(prompt.string()?.into());
    }
    if prompts.is_empty() {
        return Err(node.invalid("must hold at least one prompt, got an empty array"));
    }
    Ok(prompts)
}
