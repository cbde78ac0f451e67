//! The protocols of codex's app-server behind one closed enum, with one match for each operation.

use super::connection::{CallError, Connection, Patience};
use crate::turn::{TurnError, TurnRequest};
use capabilities::Capabilities;
use tool_names::{CodexTools, ToolNames};

pub mod capabilities;
pub mod catalog;
pub mod errors;
pub mod limits;
pub mod profile;
pub mod server_requests;
pub mod tool_names;
mod tool_schema;
pub mod v2;

/// How a turn's lines become events.
pub use v2::Decoder;

/// The protocol that a generation speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `thread/*`, `turn/*`.
    V2,
}

/// What is the same for all turns of a generation.
#[derive(Clone, Copy, Debug)]
pub struct Session<'a> {
    /// The model when a request names none.
    pub model: Option<&'a str>,
    /// The empty working directory.
    pub cwd: &'a str,
    /// Codex's name of the sandbox mode.
    pub sandbox: &'a str,
    /// Replaces codex's own instructions.
    pub base_instructions: Option<&'a str>,
    /// Whether codex is to add nothing of its own.
    pub lean: bool,
    /// Whether the conversation goes in as one text.
    pub joined: bool,
    /// What codex offers the model of its own.
    pub codex_tools: CodexTools,
}

/// A turn that runs.
#[derive(Debug)]
pub struct Started {
    /// Codex's id of it.
    pub turn: String,
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

impl Dialect {
    /// Its name, for the log and `/readyz`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V2 => "v2",
        }
    }

    /// The cheapest call that is answered without the network.
    pub fn ping(self) -> &'static str {
        match self {
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
        patience: Patience<'_>,
    ) -> Result<String, StartError> {
        let names = ToolNames::of(request, session.codex_tools);
        match self {
            Self::V2 => v2::start_thread(connection, session, request, &names, patience),
        }
    }

    /// Gives a thread its history and starts the turn on it.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start_turn(
        self,
        connection: &Connection,
        capabilities: &Capabilities,
        session: &Session<'_>,
        thread: &str,
        request: &TurnRequest,
        patience: Patience<'_>,
    ) -> Result<Decoder, StartError> {
        let names = ToolNames::of(request, session.codex_tools);
        match self {
            Self::V2 => {
                let started = v2::start_turn(connection, session, thread, request, &names, patience)?;
                Ok(Decoder::new(started.turn, names, capabilities.ends_responses))
            }
        }
    }

    /// Asks codex to stop a turn.
    pub fn interrupt(self, connection: &Connection, thread: &str, turn: &str) {
        match self {
            Self::V2 => v2::interrupt(connection, thread, turn),
        }
    }

    /// Lets codex forget a thread.
    pub fn release(self, connection: &Connection, thread: &str) {
        match self {
            Self::V2 => v2::release(connection, thread),
        }
    }
}
