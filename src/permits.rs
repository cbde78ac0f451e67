//! How many turns run at once. Strictly first come, first served: nobody gets a permit while another waits, and a
//! permit that comes back goes to the one who has waited longest and still waits.
//!
//! Who waits stands in the queue, and is taken out under the lock: by whoever gives a permit, who then also says so, or by
//! itself when it leaves. So each permit that is given was taken by somebody who is there to take it or to pass it on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, select};

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
    waiters: VecDeque<Sender<()>>,
}

/// The right to run one turn; dropping it gives it to the next.
#[derive(Debug)]
pub struct Permit(Arc<Shared>);

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
        let (sender, served) = bounded(1);
        let mut state = self.shared.lock();
        if state.take(self.shared.limit) {
            return Ok(self.permit());
        }
        state.waiters.push_back(sender.clone());
        drop(state);
        let error = loop {
            if let Some(cause) = cancel.cause() {
                break cause.error();
            }
            select! {
                recv(served) -> _ => return Ok(self.permit()),
                recv(cancel.wake()) -> _ => {}
                default(deadline.left()) => break self.too_many(deadline),
            }
        };
        let mut state = self.shared.lock();
        let queued = state.waiters.len();
        state.waiters.retain(|waiter| !waiter.same_channel(&sender));
        if state.waiters.len() == queued {
            // It was given at this very moment, and goes on to the next.
            drop(state);
            drop(self.permit());
        }
        Err(error)
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
        Permit(Arc::clone(&self.shared))
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
        let mut state = self.0.lock();
        match state.waiters.pop_front() {
            // There is one place in the channel, and this is its only message.
            Some(waiter) => drop(waiter.try_send(())),
            None => state.in_use -= 1,
        }
    }
}
