//! The protocols of codex's app-server behind one closed enum, with one match for each operation.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::connection::{CallError, Connection, Patience};
use crate::turn::{TurnError, TurnErrorKind, TurnRequest};
use capabilities::{Capabilities, Feature};
pub use decoder::Decoder;
use tool_names::CodexTools;
pub use tool_names::ToolNames;

pub mod capabilities;
pub mod catalog;
mod decoder;
pub mod errors;
pub mod limits;
pub mod profile;
mod prompt;
pub mod server_requests;
pub mod tool_names;
mod tool_schema;
mod v1;
mod v2;

/// The protocol that a generation speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `newConversation`, `codex/event/*`.
    V1,
    /// `thread/*`, `turn/*`.
    V2,
}

/// What is the same for all turns of a generation.
#[derive(Clone, Copy, Debug)]
pub struct Session<'a> {
    /// What this codex can do.
    pub capabilities: &'a Capabilities,
    /// The model when a request names none.
    pub model: Option<&'a str>,
    /// The empty working directory.
    pub cwd: &'a str,
    /// Codex's name of the sandbox mode.
    pub sandbox: &'a str,
    /// Replaces codex's own instructions.
    pub base_instructions: Option<&'a str>,
    /// What each thread has to be told of the configuration, where `--config` at start does not reach it.
    pub thread_config: Option<&'a Map<String, Value>>,
    /// Whether codex is to add nothing of its own.
    pub lean: bool,
    /// Whether the conversation goes in as one text.
    pub joined: bool,
    /// What codex offers the model of its own.
    pub codex_tools: CodexTools,
}

impl Session<'_> {
    /// The summary of reasoning to ask for. `None`: codex's choice.
    fn summary<'r>(&self, request: &'r TurnRequest) -> Option<&'r str> {
        request.summary.as_deref().or(self.capabilities.has(Feature::NoSummary).then_some("none"))
    }
}

/// Codex's side of one turn: made for it, and forgotten after it.
#[derive(Debug)]
pub struct Thread {
    /// What its lines are routed by.
    pub id: String,
    /// The listener of v1.
    subscription: Option<String>,
    /// The file that codex writes the conversation to, where it does.
    rollout: Option<String>,
}

impl Thread {
    fn new(id: String, rollout: Option<String>) -> Self {
        Self { id, subscription: None, rollout }
    }

    /// Takes it from the disk, where codex has written it there (before 0.92). It is not archived: that costs time, in 0.50
    /// ten seconds in which codex answers nobody where its listener has not ended yet, which nothing tells. What codex keeps
    /// in memory goes with the process, which is replaced when it has grown.
    fn forget_file(&self) {
        if let Some(rollout) = &self.rollout
            && let Err(error) = std::fs::remove_file(rollout)
        {
            log::debug!("a conversation's file is not there: {error}");
        }
    }
}

/// Why a turn did not start.
#[derive(Debug)]
pub enum StartError {
    /// A call failed before anything reached the model.
    Early(CallError),
    /// The call that starts the turn failed: the model may have been asked.
    Late(CallError),
    /// The request cannot be served.
    Turn(TurnError),
}

impl From<CallError> for StartError {
    fn from(error: CallError) -> Self {
        Self::Early(error)
    }
}

fn parse<'a, T: Deserialize<'a>>(method: &str, result: &'a str) -> Result<T, StartError> {
    serde_json::from_str(result).map_err(|e| {
        StartError::Turn(TurnError::new(
            TurnErrorKind::Upstream,
            format!("codex answered {method} in an unknown form: {e}"),
        ))
    })
}

impl Dialect {
    /// Its name, for the log and `/readyz`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }

    /// The cheapest call that is answered without the network; a refusal of a version that does not know it is an
    /// answer too.
    pub fn ping(self) -> &'static str {
        match self {
            Self::V1 => "getUserAgent",
            Self::V2 => "thread/loaded/list",
        }
    }

    /// Makes a thread for a request.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start_thread(
        self,
        connection: &Connection,
        session: &Session<'_>,
        request: &TurnRequest,
        names: &ToolNames,
        patience: Patience<'_>,
    ) -> Result<Thread, StartError> {
        for (wanted, what, feature) in [
            (!request.tools.is_empty(), "Tools", Feature::Tools),
            (request.output_schema.is_some(), "Answers by a JSON schema", Feature::OutputSchema),
        ] {
            if wanted && !session.capabilities.has(feature) {
                return Err(StartError::Turn(session.capabilities.lacking(what, feature)));
            }
        }
        match self {
            Self::V1 => v1::start_thread(connection, session, request, patience),
            Self::V2 => v2::start_thread(connection, session, request, names, patience),
        }
    }

    /// Gives a thread its history and starts the turn on it.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start_turn(
        self,
        connection: &Connection,
        session: &Session<'_>,
        thread: &Thread,
        request: &TurnRequest,
        names: ToolNames,
        patience: Patience<'_>,
    ) -> Result<Decoder, StartError> {
        let turn = match self {
            Self::V1 => v1::start_turn(connection, thread, request, patience).map(|()| String::new()),
            Self::V2 => v2::start_turn(connection, session, thread, request, &names, patience),
        }?;
        Ok(Decoder::new(self, *session.capabilities, turn, names))
    }

    /// Asks codex to stop a turn.
    pub fn interrupt(self, connection: &Connection, thread: &Thread, turn: &str) {
        match self {
            Self::V1 => v1::interrupt(connection, thread),
            Self::V2 => v2::interrupt(connection, thread, turn),
        }
    }

    /// Lets codex forget a thread, and the disk too.
    pub fn release(self, connection: &Connection, session: &Session<'_>, thread: &Thread) {
        match self {
            Self::V1 => v1::release(connection, thread),
            Self::V2 => v2::release(connection, session, thread),
        }
    }
}
