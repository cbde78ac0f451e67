//! The app-server as requests see it: turns are started on whichever generation serves, and wait a bounded time where
//! none does. Who serves is decided in [`succession`](super::succession).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded, select, unbounded};
use serde::Serialize;

use super::generation::Generation;
use super::process::Starting;
use super::shared::{Event, Lease, Shared, State};
use super::sources::Sources;
use super::succession::Task;
use super::turns::{Turns, Unstarted};
use crate::config::Config;
use crate::deadline::{Cancel, Deadline};
use crate::threads;
use crate::turn::{Models, TurnError, TurnErrorKind, TurnRequest};

/// What `/readyz` says.
#[derive(Clone, Debug)]
pub struct Status {
    /// Whether turns can be served.
    pub ready: bool,
    /// Why not, or that it is.
    pub reason: String,
    /// Version, dialect, prompt mode and what is degraded, once a codex is there.
    pub codex: Option<CodexStatus>,
}

/// The codex in service.
#[derive(Clone, Debug, Serialize)]
pub struct CodexStatus {
    /// `0.169.0`.
    pub version: String,
    /// `v2`.
    pub dialect: &'static str,
    /// `native` or `joined`.
    pub prompt: &'static str,
    /// What this version or home cannot do, and what it costs.
    pub degraded: Vec<String>,
}

/// The handle of requests. Clones share it.
#[derive(Clone, Debug)]
pub struct Supervisor(Arc<Shared>);

/// The supervisor's thread.
#[derive(Debug)]
pub struct Running {
    thread: JoinHandle<()>,
    done: Receiver<()>,
    shared: Arc<Shared>,
}

impl Supervisor {
    /// Starts the supervisor, and with it the first codex.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(config: Arc<Config>) -> std::io::Result<(Self, Running)> {
        let (events, inbox) = unbounded();
        let state = State { reason: "codex is being started".to_owned(), ..State::default() };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            config,
            events,
            knowledge: Mutex::default(),
            starting: Starting::default(),
            began: Instant::now(),
            moved: AtomicU64::new(0),
            started: AtomicU64::new(0),
        });
        let (sender, done) = bounded::<()>(0);
        let task = Task::new(Arc::clone(&shared));
        let thread = threads::spawn("supervisor", move || {
            task.run(&inbox);
            drop(sender);
        })?;
        Ok((Self(Arc::clone(&shared)), Running { thread, done, shared }))
    }

    /// Starts a turn on the current generation, after waiting for one until `wait` if need be, and returns codex's id of
    /// the conversation. A generation that is lost before anything reached the model is replaced by the next.
    ///
    /// # Errors
    /// Why there is no turn.
    pub fn start_turn(
        &self,
        turns: &mut Turns,
        index: u32,
        request: &TurnRequest,
        wait: &Deadline,
    ) -> Result<String, TurnError> {
        loop {
            let lease = self.lease(index > 0, wait, turns.cancel())?;
            match turns.start(index, lease, &self.0.config, request) {
                Ok(id) => return Ok(id),
                Err(Unstarted::Failed(error)) => return Err(error),
                Err(Unstarted::Lost(error)) if wait.passed() => return Err(error),
                Err(Unstarted::Lost(error)) => log::info!("a turn moves on to the next app-server: {error}"),
            }
        }
    }

    /// The models that can be asked for: at once if they were ever known, else as soon as they are.
    ///
    /// # Errors
    /// No codex by the deadline.
    pub fn models(&self, wait: &Deadline, cancel: &Cancel) -> Result<Arc<Models>, TurnError> {
        let known = self.0.state().models.clone();
        match known {
            Some(models) => Ok(models),
            None => self.wait_for(false, wait, cancel, |state| state.models.clone().map(Ok)),
        }
    }

    fn lease(&self, runs: bool, wait: &Deadline, cancel: &Cancel) -> Result<Lease, TurnError> {
        let _ = self.0.events.send(Event::Look);
        // Somebody may have logged in just now; then the next generation is on its way.
        let unusable = self.0.state().current.clone().filter(|current| current.unusable.is_some());
        let changed = |current: &Arc<Generation>| Sources::look(&self.0.config) != current.sources;
        let outdated = unusable.filter(changed).map(|current| current.number);
        self.wait_for(runs, wait, cancel, |state| {
            let current = state.current.as_ref().filter(|current| current.is_alive())?;
            match &current.unusable {
                None => Some(Ok(Lease::take(current, &self.0.events))),
                Some(_) if outdated == Some(current.number) => None,
                Some(words) => Some(Err(TurnError::new(TurnErrorKind::Unauthorized, format!("{words}.")))),
            }
        })
    }

    /// Waits until `look` finds something. Once the program is being stopped, only a request that `runs`, of which some
    /// choices have begun, may go on; `cancel` ends that with the grace.
    fn wait_for<T>(
        &self,
        runs: bool,
        wait: &Deadline,
        cancel: &Cancel,
        look: impl Fn(&State) -> Option<Result<T, TurnError>>,
    ) -> Result<T, TurnError> {
        loop {
            if let Some(cause) = cancel.cause() {
                return Err(cause.error());
            }
            let (sender, woken) = bounded(1);
            {
                let mut state = self.0.state();
                if state.stopping && !runs {
                    let words = "The server is being stopped.";
                    return Err(TurnError::new(TurnErrorKind::ShuttingDown, words));
                }
                if let Some(found) = look(&state) {
                    return found;
                }
                state.waiting.push(sender.clone());
            }
            let passed = select! {
                recv(woken) -> _ => false,
                recv(cancel.wake()) -> _ => false,
                default(wait.left()) => true,
            };
            let mut state = self.0.state();
            // Codex may be away for days.
            state.waiting.retain(|waiting| !waiting.same_channel(&sender));
            if passed {
                let words = format!("No app-server within {}: {}.", wait.describe(), state.reason);
                return Err(TurnError::new(TurnErrorKind::Unavailable, words));
            }
        }
    }

    /// Whether turns can be served, and by what.
    pub fn status(&self) -> Status {
        let state = self.0.state();
        let Some(current) = state.current.as_ref().filter(|current| current.is_alive()) else {
            return Status { ready: false, reason: state.reason.clone(), codex: None };
        };
        let session = &current.session;
        let codex = CodexStatus {
            version: session.capabilities.version.map_or("unknown".to_owned(), |version| version.to_string()),
            dialect: session.dialect.name(),
            prompt: session.prompt(),
            degraded: current.degraded(),
        };
        let reason = match (&current.unusable, state.stopping) {
            (_, true) => Some("the server is being stopped".to_owned()),
            (Some(words), _) => Some(words.clone()),
            (None, false) => None,
        };
        Status { ready: reason.is_none(), reason: reason.unwrap_or_else(|| "ok".to_owned()), codex: Some(codex) }
    }

    /// How long the supervisor's thread has not moved.
    pub fn still_for(&self) -> Duration {
        self.0.began.elapsed().saturating_sub(Duration::from_millis(self.0.moved.load(Ordering::Relaxed)))
    }

    /// How many starts of codex there were.
    pub fn starts(&self) -> u64 {
        self.0.started.load(Ordering::Relaxed)
    }

    /// From now on no request starts its first turn.
    pub fn stop_accepting(&self) {
        let mut state = self.0.state();
        state.stopping = true;
        Shared::wake_waiting(&mut state);
    }
}

impl Running {
    /// Ends every codex, and with them the thread.
    pub fn stop(self, limit: Duration) {
        let _ = self.shared.events.send(Event::Stop);
        if self.done.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            log::error!("the app-server could not be ended within {} ms", limit.as_millis());
        } else {
            let _ = self.thread.join();
        }
    }
}
