//! How many turns run at once. Strictly first come, first served: nobody gets a permit while another waits, and a
//! permit that comes back goes to the one who has waited longest and still waits.
//!
//! A permit on its way to a waiter travels in a channel of its own. If the waiter leaves at that very moment the
//! channel is dropped, the permit with it, and a dropped permit goes on to the next: none is ever lost. The lock is
//! never held while a permit is sent, dropped or waited for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Sender, at, bounded, select};

use crate::config::names;
use crate::deadline::{Cancel, Deadline};
use crate::turn::{TurnError, TurnErrorKind};

/// When it is worth trying again after a wait in vain.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The turns that may run at once. Clones share them.
#[derive(Clone, Debug)]
pub struct Permits {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// [`usize::MAX`] where there is none.
    limit: usize,
    state: Mutex<State>,
}

/// `waiters` is empty unless `in_use` is the limit. A permit on its way counts as in use.
#[derive(Debug, Default)]
struct State {
    in_use: usize,
    next_ticket: u64,
    waiters: VecDeque<(u64, Sender<Permit>)>,
}

/// The right to run one turn; dropping it gives it to the next.
#[derive(Debug)]
pub struct Permit {
    /// `None` once it was given back.
    shared: Option<Arc<Shared>>,
}

impl Permits {
    /// `limit` turns at once, 0 for no limit.
    pub fn new(limit: usize) -> Self {
        let limit = if limit == 0 { usize::MAX } else { limit };
        Self { shared: Arc::new(Shared { limit, state: Mutex::default() }) }
    }

    /// Waits for a permit until `deadline`.
    ///
    /// # Errors
    /// [`TurnErrorKind::TooManyTurns`] when the deadline passes first, and the cause of `cancel` when that comes first.
    pub fn acquire(&self, deadline: &Deadline, cancel: &Cancel) -> Result<Permit, TurnError> {
        let mut state = self.shared.lock();
        if state.take(self.shared.limit) {
            drop(state);
            return Ok(self.permit());
        }
        let (sender, served) = bounded(1);
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiters.push_back((ticket, sender));
        drop(state);

        let over = at(deadline.at);
        let result = loop {
            if let Some(cause) = cancel.cause() {
                break Err(cause.error());
            }
            select! {
                recv(served) -> permit => break permit.map_err(|_| self.too_many(deadline)),
                recv(cancel.wake()) -> _ => {}
                recv(over) -> _ => break served.try_recv().map_err(|_| self.too_many(deadline)),
            }
        };
        if result.is_err() {
            // Whoever has taken the entry out already sends into a channel that is dropped right after this.
            self.shared.lock().waiters.retain(|(waiting, _)| *waiting != ticket);
        }
        result
    }

    /// A permit if one is free and nobody waits.
    pub fn try_acquire(&self) -> Option<Permit> {
        let taken = self.shared.lock().take(self.shared.limit);
        taken.then(|| self.permit())
    }

    /// How many permits are out.
    pub fn in_use(&self) -> usize {
        self.shared.lock().in_use
    }

    /// How many wait for one.
    pub fn waiting(&self) -> usize {
        self.shared.lock().waiters.len()
    }

    fn permit(&self) -> Permit {
        Permit { shared: Some(Arc::clone(&self.shared)) }
    }

    fn too_many(&self, deadline: &Deadline) -> TurnError {
        let message = format!(
            "{} turns, as many as {} allows, run already, and none ended within {}; try again.",
            self.shared.limit,
            names::SSE_MAX_CONCURRENCY,
            deadline.describe(),
        );
        TurnError { retry_after: Some(RETRY_AFTER), ..TurnError::new(TurnErrorKind::TooManyTurns, message) }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, limit: usize) -> bool {
        let free = self.in_use < limit && self.waiters.is_empty();
        self.in_use += usize::from(free);
        free
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else { return };
        loop {
            let mut state = shared.lock();
            let Some((_, waiter)) = state.waiters.pop_front() else {
                state.in_use -= 1;
                return;
            };
            drop(state);
            match waiter.try_send(Permit { shared: Some(Arc::clone(&shared)) }) {
                Ok(()) => return,
                // It has left. The next one gets the permit from here and not from another drop.
                Err(error) => drop(error.into_inner().shared.take()),
            }
        }
    }
}
