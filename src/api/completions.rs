//! `POST /v1/completions`: the older text completions. Each prompt is a message of the user; several prompts are
//! answered with `n` choices each, in their order.

use std::sync::Arc;

use super::chunks::{self, Chunks, at};
use super::cut::CutRules;
use super::error::ApiError;
use super::json::{Node, member, quote};
use super::usage::{Spent, Tally};
use super::{ApiRequest, Encoder, Stamp, fields};
use crate::turn::{Finish, TurnEvent, TurnRequest};

/// Choices of one request at most; each is a turn.
const MAX_CHOICES: usize = 128;

/// What the answer has to know of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// At least one.
    pub(crate) prompts: Vec<Arc<str>>,
    include_usage: bool,
    /// Whether an answer begins with its prompt.
    echo: bool,
}

/// Reads the body of a request.
///
/// # Errors
/// 400 with the place in `param`.
pub fn parse(body: &[u8]) -> Result<ApiRequest, ApiError> {
    let root = Node::body(body)?;
    fields::no_effect(&root)?;
    fields::refuse(&root, ["suffix", "logprobs"])?;
    let [model, prompt, stream, stream_options, n, best_of, stop, max_tokens, echo] =
        root.fields(["model", "prompt", "stream", "stream_options", "n", "best_of", "stop", "max_tokens", "echo"])?;
    let prompts = read_prompts(&root.need("prompt", prompt)?)?;
    let n = fields::choices(n)?;
    if prompts.len() * n as usize > MAX_CHOICES {
        return Err(ApiError::invalid("prompt", format!("`prompt` and `n` ask for more than {MAX_CHOICES} answers.")));
    }
    if let Some(best_of) = best_of
        && best_of.integer(1..=20)? != u64::from(n)
    {
        return Err(best_of.unsupported("must be `n`: no answer is chosen among others here"));
    }
    let (stream, include_usage) = fields::stream(stream, stream_options)?;
    let echo = echo.map_or(Ok(false), |node| node.boolean())?;
    Ok(ApiRequest {
        model: model.map(|node| node.string()).transpose()?,
        effort: None,
        stream,
        n,
        cut: CutRules { stop: fields::stop(stop)?, max_tokens: fields::max_tokens(max_tokens)?, single_call: false },
        form: super::Form::Completion(Form { prompts, include_usage, echo }),
        turn: TurnRequest::default(),
    })
}

fn read_prompts(node: &Node<'_>) -> Result<Vec<Arc<str>>, ApiError> {
    if node.is_string() {
        return Ok(vec![node.string()?.into()]);
    }
    if !node.is_array() {
        return Err(node.not("a string or an array of strings"));
    }
    let mut prompts = Vec::new();
    for prompt in node.elements()?.take(MAX_CHOICES + 1) {
        if prompt.kind() == "a number" || prompt.is_array() {
            return Err(prompt.unsupported("must be a string; prompts of token numbers are not supported"));
        }
        prompts.push(prompt.string()?.into());
    }
    if prompts.is_empty() {
        return Err(node.invalid("must hold at least one prompt, got an empty array"));
    }
    Ok(prompts)
}

pub(crate) fn encoder(stream: bool, form: &Form, n: u32, stamp: &Stamp, tally: Tally) -> Box<dyn Encoder + Send> {
    let id = format!("cmpl-{}", stamp.id);
    let chunks = Chunks::new(&id, "text_completion", stamp, form.include_usage, tally);
    let echo = if form.echo { form.prompts.clone() } else { Vec::new() };
    Box::new(CompletionEncoder { stream, echo, n, id, stamp: stamp.clone(), chunks, choices: Vec::new() })
}

/// Writes the answer, streamed or whole.
struct CompletionEncoder {
    stream: bool,
    /// What answers begin with: the prompts, or nothing.
    echo: Vec<Arc<str>>,
    n: u32,
    id: String,
    stamp: Stamp,
    chunks: Chunks,
    choices: Vec<Choice>,
}

#[derive(Default)]
struct Choice {
    opened: bool,
    /// The text of a whole answer.
    text: String,
    bytes: u64,
    finish: &'static str,
}

impl CompletionEncoder {
    fn text(&mut self, index: u32, text: &str, finish: Option<&'static str>, out: &mut Vec<u8>) {
        let choice = at(&mut self.choices, index);
        choice.finish = finish.unwrap_or_default();
        if self.stream {
            self.chunks.chunk(index, finish, out, |out| {
                out.extend_from_slice(b"\"text\":");
                quote(out, text);
            });
        } else {
            choice.text.push_str(text);
        }
    }

    fn begin(&mut self, index: u32, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut at(&mut self.choices, index).opened, true)
            && let Some(prompt) = self.echo.get((index / self.n) as usize)
        {
            let prompt = Arc::clone(prompt);
            self.text(index, &prompt, None, out);
        }
    }
}

impl Encoder for CompletionEncoder {
    fn open(&mut self, out: &mut Vec<u8>) {
        self.begin(0, out);
    }

    fn event(&mut self, index: u32, event: &TurnEvent, out: &mut Vec<u8>) {
        match event {
            TurnEvent::Text(text) if !text.is_empty() => {
                self.begin(index, out);
                at(&mut self.choices, index).bytes += text.len() as u64;
                self.text(index, text, None, out);
            }
            // There is no place for anything but text in this form, and no tool was offered.
            TurnEvent::Text(_) | TurnEvent::Reasoning(_) | TurnEvent::Sealed(_) | TurnEvent::ToolCall(_) => {}
            TurnEvent::End(outcome) => {
                if let Ok(finish) = outcome.result {
                    self.begin(index, out);
                    self.chunks.tally.add(index, outcome.usage, at(&mut self.choices, index).bytes);
                    let finish = match finish {
                        Finish::Stop | Finish::ToolCalls => "stop",
                        Finish::Length => "length",
                        Finish::ContentFilter => "content_filter",
                    };
                    self.text(index, "", Some(finish), out);
                }
            }
        }
    }

    fn keepalive(&mut self, out: &mut Vec<u8>) {
        if self.stream {
            chunks::comment(out);
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        if self.stream {
            return self.chunks.finish(out);
        }
        let choices = self.choices.iter();
        chunks::whole(out, &self.id, "text_completion", &self.stamp, &self.chunks.tally, choices, |choice, out| {
            member(out, "text", &choice.text);
            member(out, "logprobs", &());
            member(out, "finish_reason", choice.finish);
        });
    }

    fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        chunks::fail(error, out);
    }

    fn spent(&self) -> Spent {
        self.chunks.tally.spent()
    }
}
