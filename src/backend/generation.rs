//! One codex process with all that belongs to it: connection, dialect, capabilities, home, models. It goes with all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Map, Value};

use super::connection::Connection;
use super::dialect::capabilities::Capabilities;
use super::dialect::{Dialect, Session};
use super::home::Home;
use super::sources::Sources;
use crate::turn::Models;

/// A codex in service, or one that finishes its turns.
#[derive(Debug)]
pub struct Generation {
    /// Counts from one.
    pub number: u64,
    /// The wire.
    pub connection: Arc<Connection>,
    /// The protocol.
    pub dialect: Dialect,
    /// What this version can do.
    pub capabilities: Capabilities,
    /// What can be asked for.
    pub models: Arc<Models>,
    /// Why turns would fail for want of credentials.
    pub unusable: Option<String>,
    /// What it was made from.
    pub sources: Sources,
    /// Turns that run on it.
    pub turns: AtomicUsize,
    pub(super) model: Option<String>,
    pub(super) base_instructions: Option<String>,
    pub(super) sandbox: &'static str,
    pub(super) cwd: String,
    pub(super) lean: bool,
    pub(super) joined: bool,
    pub(super) thread_config: Option<Map<String, Value>>,
    /// What this home costs.
    pub(super) costs: Vec<String>,
    // Last: removed when nothing uses it any more.
    pub(super) home: Home,
}

impl Generation {
    /// What is the same for all its turns.
    pub fn session(&self) -> Session<'_> {
        Session {
            capabilities: &self.capabilities,
            model: self.model.as_deref(),
            cwd: &self.cwd,
            sandbox: self.sandbox,
            base_instructions: self.base_instructions.as_deref(),
            thread_config: self.thread_config.as_ref(),
            lean: self.lean,
            joined: self.joined,
            codex_tools: self.capabilities.codex_tools(self.lean),
        }
    }

    /// `native` or `joined`.
    pub fn prompt(&self) -> &'static str {
        if self.joined { "joined" } else { "native" }
    }

    /// What this version or home cannot do, and what it costs.
    pub fn degraded(&self) -> Vec<String> {
        let mut degraded = self.capabilities.degraded(self.lean);
        degraded.extend_from_slice(&self.costs);
        if self.lean && self.base_instructions.is_none() {
            degraded.push(
                "the model's service takes codex's own base instructions only: they are in each request".to_owned(),
            );
        }
        degraded
    }

    /// Memory in bytes; `None` once it is gone.
    pub fn resident(&self) -> Option<u64> {
        self.connection.group.resident()
    }

    /// Whether the files that it needs are still there.
    pub fn is_whole(&self) -> bool {
        self.home.is_whole()
    }

    /// Bytes of its databases.
    pub fn disk(&self) -> u64 {
        self.home.disk()
    }

    /// How many turns run on it.
    pub fn running(&self) -> usize {
        self.turns.load(Ordering::Acquire)
    }

    /// Whether its process is still there, as far as is known.
    pub fn is_alive(&self) -> bool {
        self.connection.router.closed().is_none()
    }
}
