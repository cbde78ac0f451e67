//! One codex process with all that belongs to it: connection, dialect, capabilities, home, models. It goes with all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::connection::Connection;
use super::dialect::Session;
use super::home::Home;
use super::sources::Sources;
use crate::turn::Models;

/// A codex in service, or one that finishes its turns.
#[derive(Debug)]
pub struct Generation {
    /// Counts from one.
    pub number: u64,
    /// The wire, the protocol and what is the same for all turns.
    pub session: Session,
    /// What can be asked for.
    pub models: Arc<Models>,
    /// Why turns would fail for want of credentials.
    pub unusable: Option<String>,
    /// What it was made from.
    pub sources: Sources,
    /// Turns that run on it.
    pub turns: AtomicUsize,
    /// What this home costs.
    pub(super) costs: Vec<String>,
    // Last: removed when nothing uses it any more.
    pub(super) home: Home,
}

impl Generation {
    /// The wire.
    pub fn connection(&self) -> &Connection {
        &self.session.connection
    }

    /// What this version or home cannot do, and what it costs.
    pub fn degraded(&self) -> Vec<String> {
        let Session { capabilities, lean, base_instructions, .. } = &self.session;
        let mut degraded = capabilities.degraded(*lean);
        degraded.extend_from_slice(&self.costs);
        if *lean && base_instructions.is_none() {
            degraded.push(
                "the model's service takes codex's own base instructions only: they are in each request".to_owned(),
            );
        }
        degraded
    }

    /// How many turns run on it.
    pub fn running(&self) -> usize {
        self.turns.load(Ordering::Acquire)
    }

    /// Whether its process is still there, as far as is known.
    pub fn is_alive(&self) -> bool {
        self.connection().router.closed().is_none()
    }
}
