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
pub struct Permits(Arc<Mutex<State>>);

/// `waiters` is empty unless `in_use` is the limit. A permit on its way counts as in use.
#[derive(Debug)]
struct State {
    /// [`usize::MAX`] where there is none.
    limit: usize,
    in_use: usize,
    waiters: VecDeque<Sender<()>>,
}

/// The right to run one turn; dropping it gives it to the next.
#[derive(Debug)]
pub struct Permit(Permits);

impl Permits {
    /// `limit` turns at once, 0 for no limit.
    pub fn new(limit: usize) -> Self {
        let limit = if limit == 0 { usize::MAX } else { limit };
        Self(Arc::new(Mutex::new(State { limit, in_use: 0, waiters: VecDeque::new() })))
    }

    /// Waits for a permit until `deadline`.
    ///
    /// # Errors
    /// [`TurnErrorKind::TooManyTurns`] when the deadline passes first, and the cause of `cancel` when that comes first.
    pub fn acquire(&self, deadline: &Deadline, cancel: &Cancel) -> Result<Permit, TurnError> {
        let (sender, served) = bounded(1);
        let mut state = self.state();
        if state.take() {
            return Ok(Permit(self.clone()));
        }
        state.waiters.push_back(sender.clone());
        let limit = state.limit;
        drop(state);
        let error = loop {
            if let Some(cause) = cancel.cause() {
                break cause.error();
            }
            select! {
                recv(served) -> _ => return Ok(Permit(self.clone())),
                recv(cancel.wake()) -> _ => {}
                default(deadline.left()) => break too_many(limit, deadline),
            }
        };
        let mut state = self.state();
        let queued = state.waiters.len();
        state.waiters.retain(|waiter| !waiter.same_channel(&sender));
        if state.waiters.len() == queued {
            // It was given at this very moment, and goes on to the next.
            drop(state);
            drop(Permit(self.clone()));
        }
        Err(error)
    }

    /// A permit if one is free and nobody waits.
    pub fn try_acquire(&self) -> Option<Permit> {
        let taken = self.state().take();
        taken.then(|| Permit(self.clone()))
    }

    /// How many permits are out.
    pub fn in_use(&self) -> usize {
        self.state().in_use
    }

    /// How many wait for one.
    pub fn waiting(&self) -> usize {
        self.state().waiters.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self) -> bool {
        let free = self.in_use < self.limit && self.waiters.is_empty();
        self.in_use += usize::from(free);
        free
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.0.state();
        match state.waiters.pop_front() {
            // There is one place in the channel, and this is its only message.
            Some(waiter) => {
                let _ = waiter.try_send(());
            }
            None => state.in_use -= 1,
        }
    }
}

fn too_many(limit: usize, deadline: &Deadline) -> TurnError {
    let message = format!(
        "{limit} turns, as many as {} allows, run already, and none ended within {}; try again.",
        names::SSE_MAX_CONCURRENCY,
        deadline.describe(),
    );
    TurnError { retry_after: Some(RETRY_AFTER), ..TurnError::new(TurnErrorKind::TooManyTurns, message) }
}
