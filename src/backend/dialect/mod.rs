//! The protocols of codex's app-server behind one closed enum, with one match for each operation.

use std::cell::OnceCell;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::connection::{CallError, Connection, Patience};
use super::mailbox::Inlet;
use crate::turn::{TurnError, TurnErrorKind, TurnRequest};
use capabilities::{Capabilities, Feature};
pub use decoder::Decoder;
use tool_names::ToolNames;

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
#[derive(Debug)]
pub struct Session {
    /// The wire.
    pub connection: Arc<Connection>,
    /// The protocol.
    pub dialect: Dialect,
    /// What this codex can do.
    pub capabilities: Capabilities,
    /// The model when a request names none.
    pub model: Option<String>,
    /// The empty working directory.
    pub cwd: String,
    /// Codex's name of the sandbox mode.
    pub sandbox: &'static str,
    /// Replaces codex's own instructions.
    pub base_instructions: Option<String>,
    /// What each thread has to be told of the configuration, where `--config` at start does not reach it.
    pub thread_config: Option<Map<String, Value>>,
    /// Whether codex is to add nothing of its own.
    pub lean: bool,
    /// Whether the conversation goes in as one text.
    pub joined: bool,
}

/// Codex's side of one turn: made for it, and forgotten after it.
#[derive(Debug)]
pub struct Thread {
    /// What its lines are routed by.
    pub id: String,
    /// The listener of v1.
    subscription: Option<String>,
    /// The file that codex writes the conversation to, where it does (before 0.92).
    rollout: Option<String>,
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

/// The string at a place of a call's result.
fn text_at(method: &str, result: &str, pointer: &str) -> Result<String, StartError> {
    let found = serde_json::from_str::<Value>(result)
        .ok()
        .and_then(|result| Some(result.pointer(pointer)?.as_str()?.to_owned()));
    let words = || format!("codex answered {method} in an unknown form: no {pointer}");
    found.ok_or_else(|| StartError::Turn(TurnError::new(TurnErrorKind::Upstream, words())))
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
}

impl Session {
    /// `native` or `joined`.
    pub fn prompt(&self) -> &'static str {
        if self.joined { "joined" } else { "native" }
    }

    /// The summary of reasoning to ask for. `None`: codex's choice.
    fn summary<'r>(&self, request: &'r TurnRequest) -> Option<&'r str> {
        request.summary.as_deref().or(self.capabilities.has(Feature::NoSummary).then_some("none"))
    }

    /// Makes a thread for a request, whose lines go into `inlet` from now on, gives it its history and starts the turn.
    ///
    /// # Errors
    /// See [`StartError`]; the thread is released, now or with the call that was given up.
    pub fn start(
        &self,
        request: &TurnRequest,
        inlet: Inlet,
        patience: Patience<'_>,
    ) -> Result<(Thread, Decoder), StartError> {
        for (wanted, what, feature) in [
            (!request.tools.is_empty(), "Tools", Feature::Tools),
            (request.output_schema.is_some(), "Answers by a JSON schema", Feature::OutputSchema),
        ] {
            if wanted && !self.capabilities.has(feature) {
                return Err(StartError::Turn(self.capabilities.lacking(what, feature)));
            }
        }
        let names = ToolNames::of(request, self.capabilities.codex_tools(self.lean));
        let thread = match self.dialect {
            Dialect::V1 => v1::start_thread(self, request, patience),
            Dialect::V2 => v2::start_thread(self, request, &names, patience),
        }?;
        let subscribed = self.connection.router.subscribe(&thread.id, inlet);
        let turn = subscribed.map_err(|cause| CallError::Closed(cause).into()).and_then(|()| match self.dialect {
            Dialect::V1 => v1::start_turn(self, &thread, request, patience),
            Dialect::V2 => v2::start_turn(self, &thread, request, &names, patience),
        });
        match turn {
            Ok(turn) => Ok((thread, Decoder::new(self.dialect, self.capabilities, turn, names))),
            Err(error) => {
                self.connection.router.unsubscribe(&thread.id);
                match patience.late.and_then(OnceCell::get).filter(|_| matches!(error, StartError::Late(_))) {
                    Some(late) => drop(late.thread.set(thread)),
                    None => self.release(&thread),
                }
                Err(error)
            }
        }
    }

    /// Undoes what a call that was given up did, by its answer: stops the turn on `thread` and releases it, or releases
    /// the thread that it made. Of a turn of v1 there is no id.
    pub fn undo(&self, thread: Option<&Thread>, result: &str) {
        let at = |pointer| text_at("a call", result, pointer).ok();
        if let Some(thread) = thread {
            self.interrupt(thread, &at("/turn/id").unwrap_or_default());
            return self.release(thread);
        }
        let (id, rollout) = match self.dialect {
            Dialect::V1 => (at("/conversationId"), at("/rolloutPath")),
            Dialect::V2 => (at("/thread/id"), at("/thread/path")),
        };
        let subscription = at("/subscriptionId");
        if id.is_some() || subscription.is_some() {
            self.release(&Thread { id: id.unwrap_or_default(), subscription, rollout });
        }
    }

    /// Asks codex to stop a turn. Nobody waits for the answer: v1 gives it once the turn has ended, and a second call for
    /// the same turn may never be answered.
    pub fn interrupt(&self, thread: &Thread, turn: &str) {
        match self.dialect {
            Dialect::V1 => self.connection.post("interruptConversation", json!({"conversationId": thread.id})),
            Dialect::V2 => self.connection.post("turn/interrupt", json!({"threadId": thread.id, "turnId": turn})),
        }
    }

    /// Forgets a thread: nothing of it is wanted any more, neither here nor at codex (at once from 0.156 on) nor on the disk.
    pub fn release(&self, thread: &Thread) {
        self.connection.router.unsubscribe(&thread.id);
        if let Some(subscription) = &thread.subscription {
            self.connection.post("removeConversationListener", json!({"subscriptionId": subscription}));
        } else if self.capabilities.has(Feature::Unsubscribe) {
            self.connection.post("thread/unsubscribe", json!({"threadId": thread.id}));
        }
        // It is not archived: that costs time, in 0.50 ten seconds in which codex answers nobody where its listener has
        // not ended yet, which nothing tells. What codex keeps in memory goes with the process, which is replaced when it
        // has grown.
        if let Some(rollout) = &thread.rollout
            && let Err(error) = std::fs::remove_file(rollout)
        {
            log::debug!("a conversation's file is not there: {error}");
        }
    }
}
