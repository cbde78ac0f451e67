//! What requests and the supervisor's thread share: who serves, places on a generation, and what the thread is told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crossbeam_channel::Sender;

use super::dialect::errors::Refusal;
use super::generation::Generation;
use super::late::Late;
use super::process::Starting;
use super::router::Cause;
use super::sources::Sources;
use super::start::Knowledge;
use crate::config::Config;
use crate::turn::Models;

/// What the supervisor is told.
#[derive(Debug)]
pub enum Event {
    /// A process is gone.
    Ended(u64, Cause),
    /// A start is over.
    Started(Box<(Result<Generation, String>, Sources)>),
    /// A generation does not do what it is told.
    Suspect(u64, &'static str),
    /// A generation does not have a method that its version should have: start the next one without it.
    Missing(u64, &'static str),
    /// A turn gave its place back.
    TurnEnded,
    /// A request gave up a call on a generation.
    Left(Late, Lease),
    /// A request came: look at the files.
    Look,
    /// The service does not take a part of the lean profile.
    Refused(Refusal),
    /// End everything.
    Stop,
}

/// Who serves, and who waits for that.
#[derive(Debug, Default)]
pub(super) struct State {
    /// In service.
    pub(super) current: Option<Arc<Generation>>,
    /// Those of the last one that was ready.
    pub(super) models: Option<Arc<Models>>,
    /// Why there is none.
    pub(super) reason: String,
    /// Requests that wait for one.
    pub(super) waiting: Vec<Sender<()>>,
    /// No turn is started any more.
    pub(super) stopping: bool,
}

/// What requests and the supervisor's thread share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Held for a moment only.
    pub(super) state: Mutex<State>,
    /// The settings.
    pub(super) config: Arc<Config>,
    /// What starts taught; held for a moment only.
    pub(super) knowledge: Mutex<Knowledge>,
    /// What the thread is told.
    pub(super) events: Sender<Event>,
    /// What is being started.
    pub(super) starting: Starting,
    /// The start of the clock of `moved`.
    pub(super) began: Instant,
    /// When the thread moved last, in milliseconds.
    pub(super) moved: AtomicU64,
    /// How many were started.
    pub(super) started: AtomicU64,
}

impl Shared {
    /// The state, locked.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What starts taught, locked.
    pub(super) fn knowledge(&self) -> MutexGuard<'_, Knowledge> {
        self.knowledge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has everybody who waits look again.
    pub(super) fn wake_waiting(state: &mut State) {
        // A place is kept for the word; a waiter that has left does not matter.
        for waiter in state.waiting.drain(..) {
            let _ = waiter.try_send(());
        }
    }
}

/// A place on a generation: while it is held, the generation is not ended for being old.
#[derive(Debug)]
pub struct Lease {
    /// The generation.
    pub generation: Arc<Generation>,
    events: Sender<Event>,
}

impl Lease {
    /// Takes a place. To be called where nobody can retire the generation at the same moment.
    pub fn take(generation: &Arc<Generation>, events: &Sender<Event>) -> Self {
        generation.turns.fetch_add(1, Ordering::AcqRel);
        Self { generation: Arc::clone(generation), events: events.clone() }
    }

    /// Leaves a call that was given up to the supervisor.
    pub fn leave(self, late: Late) {
        let events = self.events.clone();
        let _ = events.send(Event::Left(late, self));
    }

    /// Has the generation ended. Nobody else is to try it before the supervisor has seen to that.
    pub fn suspect(&self, why: &'static str) {
        self.generation.connection().router.close(Cause::new(format!("the app-server was ended: {why}")));
        self.tell(Event::Suspect(self.generation.number, why));
    }

    /// Tells the supervisor about the generation.
    pub fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.generation.turns.fetch_sub(1, Ordering::AcqRel);
        let _ = self.events.send(Event::TurnEnded);
    }
}
