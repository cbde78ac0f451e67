//! The one vocabulary between the layers: what a client asks of a model, and what happens then.
//!
//! `api` turns OpenAI's words into a [`TurnRequest`] and [`TurnEvent`]s into OpenAI's words; `backend` does the same
//! with codex's. Neither knows the other. No type here is (de)serialised.

use std::fmt;
use std::time::Duration;

/// One question to the model: a whole conversation, the tools on offer and how to answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TurnRequest {
    /// The model, by codex's own id. `None`: codex's default.
    pub model: Option<String>,
    /// Reasoning effort, checked against the model's list.
    pub effort: Option<String>,
    /// Which reasoning summary is wanted (`auto`, `concise`, `detailed`). `None`: none.
    pub summary: Option<String>,
    /// How wordy the answer is to be (`low`, `medium`, `high`).
    pub verbosity: Option<String>,
    /// The conversation, oldest first.
    pub history: Vec<Item>,
    /// Tools that the model may call.
    pub tools: Vec<Tool>,
    /// JSON text of the schema that the answer has to follow.
    pub output_schema: Option<String>,
    /// Whether [`TurnEvent::Sealed`] is wanted.
    pub sealed: bool,
}

/// One entry of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// Words and pictures of one party.
    Message {
        /// Who said it.
        role: Role,
        /// What was said.
        content: Vec<Part>,
    },
    /// The model called a tool.
    ToolCall(ToolCall),
    /// What the tool answered.
    ToolOutput {
        /// The id of the call.
        id: String,
        /// The answer, as the client gave it.
        output: String,
    },
    /// What the model thought in an earlier turn, as its service sealed it. Left out where it cannot be passed on.
    Reasoning {
        /// The summary, part by part.
        summary: Vec<String>,
        /// The content, readable for the service alone.
        sealed: String,
    },
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions by the older name; joined prompts keep it, codex knows only `developer`.
    System,
    /// Instructions.
    Developer,
    /// The person or program that asks.
    User,
    /// The model.
    Assistant,
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Text.
    Text(String),
    /// A picture.
    Image {
        /// A `data:` URL.
        url: String,
        /// `auto`, `low` or `high`.
        detail: Option<String>,
    },
}

/// A tool on offer.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name, as the client wrote it.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// JSON text of the schema of its arguments.
    pub parameters: String,
}

/// A call of a tool by the model.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// Unique within a conversation.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// The exact text of the arguments, JSON or not.
    pub arguments: String,
}

/// Something that happened in a turn. [`TurnEvent::End`] comes exactly once and last.
#[derive(Clone, Debug, PartialEq)]
pub enum TurnEvent {
    /// More text of the answer.
    Text(String),
    /// More text of the summary of the model's reasoning. Parts are already set apart by an empty line.
    Reasoning(String),
    /// The end of a piece of reasoning, summary or not: its content, readable for the model's service alone.
    Sealed(String),
    /// A complete call of a tool.
    ToolCall(ToolCall),
    /// The end.
    End(TurnOutcome),
}

/// How a turn ended and what it cost.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnOutcome {
    /// How it ended.
    pub result: Result<Finish, TurnError>,
    /// What it cost, where codex said so.
    pub usage: Option<Usage>,
}

/// The good ends of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model had said everything.
    Stop,
    /// The model was cut off by an output limit.
    Length,
    /// A filter of the service cut the answer.
    ContentFilter,
    /// The model waits for the results of the calls that it made.
    ToolCalls,
}

/// Tokens of one turn, as the model's service counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub input: u64,
    /// Of these, tokens read from the cache.
    pub cached: u64,
    /// Tokens of the answer, reasoning included.
    pub output: u64,
    /// Of these, tokens of reasoning.
    pub reasoning: u64,
}

/// Why a turn could not start or did not end well.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnError {
    /// What went wrong, for programs.
    pub kind: TurnErrorKind,
    /// What went wrong and what to do, for people. Holds no URL, path or prompt.
    pub message: String,
    /// When it is worth trying again, where somebody said so.
    pub retry_after: Option<Duration>,
}

/// What can go wrong with a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnErrorKind {
    /// The service sees something in the request that it does not take.
    BadRequest,
    /// The conversation is longer than the model's window.
    ContextLength,
    /// The service does not know the model.
    ModelNotFound,
    /// A capability that this codex does not have.
    Unsupported,
    /// The service accepts no credentials of ours.
    Unauthorized,
    /// Too many requests in too short a time, at the service.
    RateLimited,
    /// The plan or quota is used up.
    QuotaExhausted,
    /// The service has too much to do.
    Overloaded,
    /// Any other failure of the service.
    Upstream,
    /// Too many turns at once in this program.
    TooManyTurns,
    /// No app-server, or it died while it worked on this turn.
    Unavailable,
    /// A deadline passed; the message names it.
    Timeout,
    /// The client went away. Nobody will read this.
    ClientGone,
    /// The client reads more slowly than the model writes, by megabytes.
    SlowReader,
    /// This program is being stopped.
    ShuttingDown,
}

impl TurnError {
    /// An error without a time to try again.
    pub fn new(kind: TurnErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }
}

impl fmt::Display for TurnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TurnError {}

/// The models that can be asked for now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Models {
    /// What an absent name and `codex-5` mean. `None`: codex decides and does not tell.
    pub default: Option<String>,
    /// The listed ones, in codex's order.
    pub listed: Vec<Model>,
    /// Whether other names may be real too, because the provider is not codex's own or the list is missing.
    pub open: bool,
}

/// One listed model.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The name to ask for.
    pub id: String,
    /// The efforts it takes, least first as codex lists them. Empty: not known.
    pub efforts: Vec<String>,
}

/// Names that stand for models (`PROXY_MODEL_ALIASES`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aliases {
    /// Pairs of a name and what it stands for.
    pub names: Vec<(String, String)>,
    /// What every other name stands for.
    pub any: Option<String>,
}

impl Aliases {
    /// Reads `name=id,name=id`, where `*` is every other name.
    ///
    /// # Errors
    /// All that is wrong with it, as text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut aliases, mut problems) = (Self::default(), Vec::new());
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').map(|(name, id)| (name.trim(), id.trim())) {
                Some((name, id)) if name.is_empty() || id.is_empty() => problems.push(format!("`{pair}` lacks a side")),
                Some((name, _)) if aliases.is_taken(name) => problems.push(format!("`{name}` is there twice")),
                Some(("*", id)) => aliases.any = Some(id.to_owned()),
                Some((name, id)) => aliases.names.push((name.to_owned(), id.to_owned())),
                None => problems.push(format!("`{pair}` is not of the form name=id")),
            }
        }
        if problems.is_empty() { Ok(aliases) } else { Err(problems.join(", ")) }
    }

    fn is_taken(&self, name: &str) -> bool {
        self.names.iter().any(|(taken, _)| taken == name) || (name == "*" && self.any.is_some())
    }
}
